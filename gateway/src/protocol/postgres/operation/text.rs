//! A statement's text before it is parsed: its tokens, how deep its tree can be, and what of it people may see.

use std::collections::HashSet;
use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};
use sha2::{Digest, Sha256};

/// Set operations nest to the left across the commas of their queries, everything else within them.
const SET_OPERATION_WEIGHT: usize = 4;

/// An upper bound, in tokens, on how deep the tree of a text can be.
///
/// Every level of the tree needs a token of its own between two commas or semicolons of the same pair of brackets, because
/// lists are flat. Set operations are the exception, so they are counted across commas.
pub(super) fn nesting(tokens: &[ScanToken]) -> usize {
    #[derive(Default)]
    struct Level {
        /// Tokens since the last comma, and the deepest bracket among them.
        here: usize,
        inner: usize,
        /// Of all that is before the last comma.
        deepest: usize,
        set_operations: usize,
    }
    impl Level {
        fn depth(&self) -> usize {
            self.deepest.max(self.here + self.inner) + self.set_operations * SET_OPERATION_WEIGHT
        }
    }
    let mut open = vec![Level::default()];
    let mut finished = 0;
    for token in tokens {
        let bottom = open.len() == 1;
        let Some(level) = open.last_mut() else { break };
        level.here += 1;
        match token.token() {
            Token::Ascii40 | Token::Ascii91 => open.push(Level::default()),
            Token::Ascii41 | Token::Ascii93 if !bottom => {
                let closed = open.pop().map_or(0, |it| it.depth());
                if let Some(level) = open.last_mut() {
                    level.inner = level.inner.max(closed);
                }
            }
            Token::Ascii44 => {
                level.deepest = level.deepest.max(level.here + level.inner);
                (level.here, level.inner) = (0, 0);
            }
            Token::Ascii59 if bottom => {
                finished = finished.max(level.depth());
                *level = Level::default();
            }
            Token::Union | Token::Intersect | Token::Except => level.set_operations += 1,
            _ => {}
        }
    }
    let unclosed: usize = open.iter().map(Level::depth).sum();
    finished.max(unclosed)
}

/// An upper bound on how often the parser repeats a part of the text in its tree: `SET (a, b) = (...)` holds its right side
/// once for each column.
pub(super) fn repetition(tokens: &[ScanToken]) -> usize {
    let mut most = 1;
    // Commas so far in each open bracket.
    let mut open: Vec<usize> = Vec::new();
    let mut tokens = tokens.iter().peekable();
    while let Some(token) = tokens.next() {
        match token.token() {
            Token::Ascii40 => open.push(0),
            Token::Ascii44 => open.iter_mut().last().into_iter().for_each(|commas| *commas += 1),
            Token::Ascii41 => {
                let commas = open.pop().unwrap_or(0);
                if tokens.peek().is_some_and(|next| next.token() == Token::Ascii61) {
                    most = most.max(commas + 1);
                }
            }
            _ => {}
        }
    }
    most
}

/// What of a text is hidden from people.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hide<'a> {
    /// String literals that look like they hold a password; of code those within.
    Passwords,
    /// All string literals; of code those within.
    Strings,
    /// All literals and comments, but for the literals at these offsets.
    Literals { shown: &'a HashSet<i32> },
    /// All literals and comments of what nobody has understood, and a name where a password stands: its quotes may be the wrong ones.
    Unread,
}

const HIDDEN: &str = "'***'";
const HIDDEN_COMMENT: &str = "/* *** */";

/// A part of a text as people may see it. Its control characters are as they were: whoever shows it escapes them.
pub(super) fn redact(sql: &str, part: Range<usize>, tokens: &[ScanToken], hide: Hide<'_>) -> String {
    redact_at(Depth::Statement, sql, part, tokens, hide)
}

/// Where a text stands. What is a string within code is none to it: so this goes one level deep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Statement,
    Code,
}

fn redact_at(depth: Depth, sql: &str, part: Range<usize>, tokens: &[ScanToken], hide: Hide<'_>) -> String {
    let mut out = String::with_capacity(part.len());
    let mut done = part.start;
    // A text may have as many parts as tokens: each looks at its own.
    let starts_in = |limit: usize| tokens.partition_point(|it| usize::try_from(it.start).is_ok_and(|it| it < limit));
    let (first, behind) = (starts_in(part.start), starts_in(part.end));
    let is_do = tokens[first..].iter().find(|it| !is_comment(it)).is_some_and(|it| it.token() == Token::Do);
    let mut before = tokens[..first].iter().rev().find(|it| !is_comment(it));
    let secret = if depth == Depth::Code { secret_parts(sql, tokens) } else { Vec::new() };
    for token in tokens.get(first..behind).unwrap_or_default() {
        let (Ok(start), Ok(end)) = (usize::try_from(token.start), usize::try_from(token.end)) else { continue };
        let earlier = before;
        if !is_comment(token) {
            before = Some(token);
        }
        if start < done || end > part.end {
            continue;
        }
        let Some(text) = sql.get(start..end) else { return fingerprint(sql) };
        let is_within = || {
            let behind = secret.partition_point(|it| it.end <= start);
            secret.get(behind).is_some_and(|it| it.contains(&start))
        };
        let among_secrets = is_string(token) && is_within();
        let instead = replacement(depth, token, text, earlier, hide).or(among_secrets.then_some(HIDDEN));
        if let Some(instead) = instead {
            out.push_str(sql.get(done..start).unwrap_or_default());
            let is_code = depth == Depth::Statement && (is_do || earlier.is_some_and(|it| it.token() == Token::As));
            let body = if is_code { readable_body(text, hide) } else { None };
            out.push_str(body.as_deref().unwrap_or(instead));
            done = end;
        }
    }
    out.push_str(sql.get(done..part.end).unwrap_or_default());
    out
}

fn is_comment(token: &ScanToken) -> bool {
    matches!(token.token(), Token::SqlComment | Token::CComment)
}

fn replacement(
    depth: Depth,
    token: &ScanToken,
    text: &str,
    before: Option<&ScanToken>,
    hide: Hide<'_>,
) -> Option<&'static str> {
    let is_string = is_string(token);
    let is_literal =
        is_string || matches!(token.token(), Token::Bconst | Token::Xconst | Token::Iconst | Token::Fconst);
    let comment = is_comment(token).then_some(HIDDEN_COMMENT);
    match hide {
        Hide::Passwords if !looks_secret(text) => None,
        // In code comments are the string's, which was all hidden once.
        Hide::Passwords => is_string.then_some(HIDDEN).or(comment.filter(|_| depth == Depth::Code)),
        Hide::Strings => {
            // A setting's value needs no quotes.
            let is_value = before.is_some_and(|it| matches!(it.token(), Token::Ascii61 | Token::To));
            let is_word = matches!(token.token(), Token::Ident | Token::Iconst | Token::Fconst);
            (is_string || is_value && is_word).then_some(HIDDEN).or(comment)
        }
        Hide::Literals { shown } => {
            // The parser places a negative number at its sign.
            let sign = before.filter(|it| it.token() == Token::Ascii45);
            let is_shown = shown.contains(&token.start) || sign.is_some_and(|it| shown.contains(&it.start));
            (is_literal && !is_shown).then_some(HIDDEN).or(comment)
        }
        Hide::Unread => {
            let is_password = token.token() == Token::Ident && before.is_some_and(|it| it.token() == Token::Password);
            (is_literal || is_password).then_some(HIDDEN).or(comment)
        }
    }
}

fn is_string(token: &ScanToken) -> bool {
    matches!(token.token(), Token::Sconst | Token::Usconst)
}

/// Statements of code that say something of a secret: which of their strings that is, the word beside it does not tell.
fn secret_parts(code: &str, tokens: &[ScanToken]) -> Vec<Range<usize>> {
    let offset = |at: i32| usize::try_from(at).unwrap_or(0);
    let statements = tokens.split_inclusive(|token| token.token() == Token::Ascii59);
    let says = |token: &ScanToken| {
        !is_comment(token) && code.get(offset(token.start)..offset(token.end)).is_some_and(looks_secret)
    };
    let secret = statements.filter(|statement| statement.iter().any(says));
    secret.filter_map(|it| Some(offset(it.first()?.start)..offset(it.last()?.end))).collect()
}

/// The code of a DO, or of a function, without the strings in it that are to be hidden: one word that looks secret must not hide what
/// runs. None: it cannot be read, or is to be hidden as all literals are.
fn readable_body(text: &str, hide: Hide<'_>) -> Option<String> {
    if let Hide::Literals { .. } | Hide::Unread = hide {
        return None;
    }
    let (body, quote) = if let Some(behind) = text.strip_prefix('$') {
        let tag = text.get(..behind.find('$')? + 2)?;
        (text.strip_prefix(tag)?.strip_suffix(tag)?.to_owned(), tag)
    } else {
        (text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"), "'")
    };
    let tokens = pg_query::scan(&body).ok()?.tokens;
    let shown = redact_at(Depth::Code, &body, 0..body.len(), &tokens, hide);
    let shown = if quote == "'" { shown.replace('\'', "''") } else { shown };
    Some(format!("{quote}{shown}{quote}"))
}

/// A connection string, a function body or an option that holds a password.
pub(in crate::protocol::postgres) fn looks_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let words = [
        "password",
        "passwd",
        "passphrase",
        "pwd=",
        "secret",
        "token=",
        "_token",
        "api_key",
        "apikey",
        "private key",
        "private_key",
        "authorization:",
        "bearer ",
    ];
    words.iter().any(|it| text.contains(it)) || (text.contains("://") && text.contains('@'))
}

/// What stands for a text that nobody could read.
pub(super) fn fingerprint(sql: &str) -> String {
    use std::fmt::Write;
    let digest = Sha256::digest(sql.as_bytes());
    let mut shown = format!("<{} bytes that do not read as SQL, sha256 ", sql.len());
    for byte in digest.iter().take(8) {
        // Writing to a string cannot fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown.push('>');
    shown
}
