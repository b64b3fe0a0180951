//! What opens doors: tokens, private keys, keys of clouds.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};
use regex_automata::meta::Regex;

use super::{Found, is_word};

fn pattern(pattern: &str) -> Regex {
    let syntax = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
    Regex::builder().syntax(syntax).build(pattern).expect("a constant pattern is right or wrong forever")
}

/// Calls `found` with the matches of a pattern that stand alone.
fn words(pattern: &Regex, text: &[u8], found: &mut Found<'_>) {
    pattern.find_iter(text).map(|it| it.range()).filter(|range| is_word(text, range)).for_each(found);
}

/// IDs of AWS's access keys.
static AWS_ACCESS_KEY: LazyLock<Regex> = LazyLock::new(|| pattern("(?:AKIA|ASIA)[A-Z2-7]{16}"));

pub(super) fn may_contain_aws_access_key(bytes: &[u8]) -> bool {
    AWS_ACCESS_KEY.is_match(bytes)
}

pub(super) fn find_aws_access_keys(text: &[u8], found: &mut Found<'_>) {
    words(&AWS_ACCESS_KEY, text, found);
}

/// API keys and OAuth client secrets of Google.
static GOOGLE_KEY: LazyLock<Regex> = LazyLock::new(|| pattern("AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{28}"));

pub(super) fn may_contain_google_key(bytes: &[u8]) -> bool {
    GOOGLE_KEY.is_match(bytes)
}

pub(super) fn find_google_keys(text: &[u8], found: &mut Found<'_>) {
    let alone = |range: &Range<usize>| is_word(text, range) && text.get(range.end) != Some(&b'-');
    GOOGLE_KEY.find_iter(text).map(|it| it.range()).filter(alone).for_each(found);
}

/// Client secrets of Entra ID.
static ENTRA_SECRET: LazyLock<Regex> = LazyLock::new(|| pattern("[0-9A-Za-z_~.-]{3}[0-9]Q~[0-9A-Za-z_~.-]{31,34}"));

pub(super) fn may_contain_azure_key(bytes: &[u8]) -> bool {
    runs(bytes, AZURE_KEYS[0].0).next().is_some() || ENTRA_SECRET.is_match(bytes)
}

/// Letters of a base64 key before its `=`, and how many of these: 32 bytes (Service Bus, Event Hubs) and 64 (storage, Cosmos
/// DB).
const AZURE_KEYS: [(usize, &[u8]); 2] = [(43, b"="), (86, b"==")];

/// Words before such keys; else they are any bytes in base64.
const AZURE_WORDS: [&[u8]; 6] =
    [b"accountkey", b"account_key", b"sharedaccesskey", b"shared_access_key", b"storage_key", b"azure"];

pub(super) fn find_azure_keys(text: &[u8], found: &mut Found<'_>) {
    for run in runs(text, AZURE_KEYS[0].0) {
        let padding = AZURE_KEYS.iter().find(|(length, _)| *length == run.len()).map(|(_, padding)| *padding);
        let Some(padding) = padding.filter(|it| text[run.end..].starts_with(it)) else { continue };
        if follows_any(text, run.start, &AZURE_WORDS) {
            found(run.start..run.end + padding.len());
        }
    }
    words(&ENTRA_SECRET, text, found);
}

/// Letters of AWS's secret access keys.
const AWS_SECRET: usize = 40;

pub(super) fn may_contain_aws_secret_key(bytes: &[u8]) -> bool {
    runs(bytes, AWS_SECRET).next().is_some()
}

/// Any 30 bytes in base64 look like one, so it must follow on what says that it is one.
pub(super) fn find_aws_secret_keys(text: &[u8], found: &mut Found<'_>) {
    for run in runs(text, AWS_SECRET).filter(|run| run.len() == AWS_SECRET && text.get(run.end) != Some(&b'=')) {
        let has = |class: fn(&u8) -> bool| text[run.clone()].iter().any(class);
        // Hexadecimal digests are no keys.
        let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
        if is_mixed && follows_any(text, run.start, &[b"secret", b"akia", b"asia"]) {
            found(run);
        }
    }
}

/// Whether one of the words (in lower case) stands a little before.
fn follows_any(text: &[u8], at: usize, words: &[&[u8]]) -> bool {
    const WINDOW: usize = 64;
    let before = text[at.saturating_sub(WINDOW)..at].to_ascii_lowercase();
    words.iter().any(|word| memmem::find(&before, word).is_some())
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

/// The runs of base64's letters that have `least` of them or more.
fn runs(bytes: &[u8], least: usize) -> impl Iterator<Item = Range<usize>> {
    let (mut at, mut done) = (0, 0);
    std::iter::from_fn(move || {
        // One letter of every such run is at a multiple of its length.
        while at < bytes.len() {
            if !is_base64(bytes[at]) {
                at += least;
                continue;
            }
            let start = at - bytes[done..at].iter().rev().take_while(|byte| is_base64(**byte)).count();
            let end = at + bytes[at..].iter().take_while(|byte| is_base64(**byte)).count();
            done = end;
            at = end.next_multiple_of(least).max(at + least);
            if end - start >= least {
                return Some(start..end);
            }
        }
        None
    })
}

/// `{"`, `{ ` and `{` with a newline, which is what headers of tokens begin with, in base64url.
static JWT_START: LazyLock<Regex> = LazyLock::new(|| pattern("ey[JA]|ewo"));

/// Letters of a token's header and of its payload: `{"alg":""}` and `{}` have as many.
const MIN_HEADER: usize = 14;
const MIN_PAYLOAD: usize = 3;

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

pub(super) fn may_contain_jwt(bytes: &[u8]) -> bool {
    let mut any = false;
    find_jwts(bytes, &mut |_| any = true);
    any
}

/// Wherever they stand, also within a longer word: what has this form is nothing else.
pub(super) fn find_jwts(text: &[u8], found: &mut Found<'_>) {
    let mut done = 0;
    for start in JWT_START.find_iter(text).map(|it| it.start()) {
        if start < done {
            continue;
        }
        let header = base64url(text, start);
        done = match jwt_behind(text, start, header) {
            Some(end) => {
                found(start..end);
                end
            }
            // What begins later in the same run would only have a shorter header.
            None => header,
        };
    }
}

/// Where a run of base64url's letters ends.
fn base64url(text: &[u8], start: usize) -> usize {
    start + text[start..].iter().take_while(|byte| is_base64url(**byte)).count()
}

/// The end of a token (RFC 7519) with this header: a payload and a signature follow, which may be empty; three more parts where it
/// is encrypted (RFC 7516).
fn jwt_behind(text: &[u8], start: usize, header: usize) -> Option<usize> {
    if header - start < MIN_HEADER || text.get(header) != Some(&b'.') {
        return None;
    }
    let payload = base64url(text, header + 1);
    if payload - (header + 1) < MIN_PAYLOAD || text.get(payload) != Some(&b'.') {
        return None;
    }
    let mut end = base64url(text, payload + 1);
    for _ in 0..2 {
        // A full stop behind a token is none of it.
        if text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(|byte| is_base64url(*byte)) {
            end = base64url(text, end + 1);
        }
    }
    Some(end)
}

static BEGIN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("-----BEGIN "));
const DASHES: &[u8] = b"-----";
/// What keys are called between `BEGIN` and the dashes: `ENCRYPTED PRIVATE KEY`, `PGP PRIVATE KEY BLOCK`.
const MAX_LABEL: usize = 64;

pub(super) fn may_contain_private_key(bytes: &[u8]) -> bool {
    BEGIN.find_iter(bytes).any(|at| private_key_label(bytes, at).is_some())
}

/// From `-----BEGIN` to the dashes of `-----END` (RFC 7468, RFC 9580), or to the end of the text, since a part of a key is a key.
pub(super) fn find_private_keys(text: &[u8], found: &mut Found<'_>) {
    let mut at = 0;
    while let Some(skip) = BEGIN.find(&text[at..]) {
        let start = at + skip;
        let Some(body) = private_key_label(text, start) else {
            at = start + DASHES.len();
            continue;
        };
        let end = memmem::find(&text[body..], b"-----END ").map(|skip| body + skip + b"-----END ".len());
        let end = end.and_then(|label| Some(label + memmem::find(&text[label..], DASHES)? + DASHES.len()));
        let end = end.unwrap_or(text.len());
        found(start..end);
        at = end;
    }
}

/// Where the body of a private key begins.
fn private_key_label(text: &[u8], begin: usize) -> Option<usize> {
    let label = begin + BEGIN.needle().len();
    let rest = &text[label..text.len().min(label + MAX_LABEL)];
    let length = memmem::find(rest, DASHES)?;
    let is_key = memmem::find(&rest[..length], b"PRIVATE KEY").is_some();
    is_key.then_some(label + length + DASHES.len())
}
