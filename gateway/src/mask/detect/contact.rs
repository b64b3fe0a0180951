//! How people are reached: e-mail addresses (RFC 5321, RFC 6531) and telephone numbers (ITU-T E.123, E.164).

use memchr::memchr;

use super::{Found, joins_before, starts_escape};

/// What the last label of these "addresses" is: files of images for two and three times the resolution (`icon@2x.png`). None is a
/// domain.
const NO_DOMAINS: [&[u8]; 6] = [b"gif", b"jpeg", b"jpg", b"png", b"svg", b"webp"];

/// Of RFC 5321's letters for local parts those that addresses have. The others separate them from what stands around, in
/// URLs and logs. Beyond ASCII everything is a letter.
const fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'=' | b'%' | b'\'' | b'~')
        || byte >= 0x80
}

const fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') || byte >= 0x80
}

/// Whether it is known what stands behind the value, or that may be a protocol's framing, and so any digits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Border {
    Known,
    Unknown,
}

pub(super) fn may_contain_email(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(skip) = memchr(b'@', &bytes[at..]) {
        at += skip;
        if at > 0 && is_local(bytes[at - 1]) && domain(bytes, at + 1, Border::Unknown).is_some() {
            return true;
        }
        at += 1;
    }
    false
}

pub(super) fn find_emails(text: &[u8], found: &mut Found<'_>) {
    let (mut from, mut at) = (0, 0);
    while let Some(skip) = memchr(b'@', &text[at..]) {
        at += skip;
        let local = text[from..at].iter().rev().take_while(|byte| is_local(**byte)).count();
        let mut start = at - local;
        // The letter of an escape such as `\n` is none of the address's.
        if start < at && starts_escape(text, start) {
            start += 1;
        }
        let is_first = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        start += text[start..at].iter().position(is_first).unwrap_or(at - start);
        match domain(text, at + 1, Border::Known) {
            Some(end) if start < at => {
                found(start..end);
                (from, at) = (end, end);
            }
            _ => {
                at += 1;
                from = at;
            }
        }
    }
}

/// Where the domain that begins here ends: behind its last label that is one of a top-level domain.
fn domain(bytes: &[u8], start: usize, border: Border) -> Option<usize> {
    /// Octets of a domain's name; what is longer is none.
    const LONGEST: usize = 253;
    let length = bytes[start..].iter().take(LONGEST).take_while(|byte| is_domain(**byte)).count();
    let mut name = &bytes[start..start + length];
    if name.first().is_none_or(|byte| matches!(byte, b'.' | b'-')) {
        return None;
    }
    while let Some(dot) = name.iter().rposition(|byte| *byte == b'.') {
        if let Some(end) = top_level(&name[dot + 1..], border).filter(|_| dot > 0) {
            return Some(start + dot + 1 + end);
        }
        name = &name[..dot];
    }
    None
}

/// How much of a label is the name of a top-level domain: letters, two at least, or letters beyond ASCII, or their encoding.
fn top_level(label: &[u8], border: Border) -> Option<usize> {
    if label.starts_with(b"xn--") {
        return Some(label.len());
    }
    let is_ascii = label.first()?.is_ascii();
    let same = |byte: &&u8| if is_ascii { byte.is_ascii_alphabetic() } else { !byte.is_ascii() };
    let length = label.iter().take_while(same).count();
    // What stands behind "gi" may not be of the label.
    let is_image = border == Border::Known && NO_DOMAINS.iter().any(|it| label[..length].eq_ignore_ascii_case(it));
    (length >= 2 && !is_image).then_some(length)
}

/// Digits of an international number, after what stands for `+`, with a `(0)` in it; and of a national one.
const MIN_INTERNATIONAL: usize = 8;
const MAX_INTERNATIONAL: usize = 16;
const NATIONAL: std::ops::RangeInclusive<usize> = 9..=11;

/// Separators in a row: ` (`, `) `, ` - `.
const MAX_SEPARATORS: usize = 3;

/// A telephone number has at least nine bytes of these, eight of which are digits.
static IN_NUMBER: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"0123456789 ()+-./";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

pub(super) fn may_contain_phone(bytes: &[u8]) -> bool {
    /// One byte of every number is at a multiple of this, with four more to one side.
    const STRIDE: usize = 8;
    let in_number = |at: usize| bytes.get(at).is_some_and(|byte| IN_NUMBER[usize::from(*byte)]);
    let mut at = 0;
    // All before it has been looked at.
    let mut done = 0;
    while at < bytes.len() {
        let candidate = in_number(at)
            && (in_number(at + 2) && in_number(at + 4) || at >= 4 && in_number(at - 2) && in_number(at - 4));
        if !candidate {
            at += STRIDE;
            continue;
        }
        let start = at - bytes[done..at].iter().rev().take_while(|byte| IN_NUMBER[usize::from(**byte)]).count();
        let end = at + bytes[at..].iter().take_while(|byte| IN_NUMBER[usize::from(**byte)]).count();
        if end - start > MIN_INTERNATIONAL && (start..end).any(|at| number_at(bytes, at, Border::Unknown).is_some()) {
            return true;
        }
        done = end;
        at = end.next_multiple_of(STRIDE).max(at + STRIDE);
    }
    false
}

pub(super) fn find_phones(text: &[u8], found: &mut Found<'_>) {
    let mut at = 0;
    while at < text.len() {
        let is_start = matches!(text[at], b'0'..=b'9' | b'+' | b'(') && stands_free(text, at);
        match is_start.then(|| number_at(text, at, Border::Known)).flatten() {
            Some(end) => {
                let end = with_extension(text, end);
                found(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
}

/// Whether a number may begin here: not within a word, or a longer number.
fn stands_free(text: &[u8], at: usize) -> bool {
    let digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit);
    let goes_on = match at.checked_sub(1).map(|before| text[before]) {
        Some(b'+') => true,
        Some(b'-' | b'.' | b'/') => digit(at.checked_sub(2)),
        _ => joins_before(text, at),
    };
    !goes_on
}

/// Whether a number may end here.
fn ends_free(text: &[u8], end: usize) -> bool {
    let joins = text.get(end).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let goes_on = text.get(end).is_some_and(|byte| matches!(byte, b'-' | b'.' | b'/'))
        && text.get(end + 1).is_some_and(u8::is_ascii_digit);
    !goes_on && (!joins || with_extension(text, end) > end)
}

/// The end of an extension behind a number: `x123`, ` ext. 123`.
fn with_extension(text: &[u8], end: usize) -> usize {
    const MAX_DIGITS: usize = 6;
    let rest = &text[end..];
    let spaces = |from: usize| rest[from.min(rest.len())..].iter().take_while(|byte| **byte == b' ').take(1).count();
    let mut at = spaces(0);
    let word = ["ext.", "ext", "x"]
        .into_iter()
        .find(|word| rest.get(at..at + word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word.as_bytes())));
    let Some(word) = word else { return end };
    at += word.len();
    at += spaces(at);
    let digits = rest[at.min(rest.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if (1..=MAX_DIGITS).contains(&digits) { end + at + digits } else { end }
}

/// The end of a telephone number that begins exactly here.
fn number_at(text: &[u8], at: usize, border: Border) -> Option<usize> {
    match text.get(at)? {
        b'+' => international(text, at + 1, border),
        b'0' => abroad(text, at, border).or_else(|| national(text, at, border)),
        b'(' if text.get(at + 1) == Some(&b'0') => national(text, at, border),
        b'(' | b'1'..=b'9' => north_american(text, at, border),
        _ => None,
    }
}

/// Digits in groups from `at` on: calls `group` with the number of digits and the end after each group, as long as it says so.
fn groups(text: &[u8], mut at: usize, mut group: impl FnMut(usize, usize) -> bool) {
    let mut digits = 0;
    loop {
        let length =
            text[at.min(text.len())..].iter().take_while(|byte| byte.is_ascii_digit()).take(MAX_INTERNATIONAL + 1);
        let length = length.count();
        digits += length;
        at += length;
        if length == 0 || !group(digits, at) || digits > MAX_INTERNATIONAL {
            return;
        }
        let is_separator = |byte: &&u8| matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')');
        let separators = text[at.min(text.len())..].iter().take(MAX_SEPARATORS + 1).take_while(is_separator).count();
        if !(1..=MAX_SEPARATORS).contains(&separators) {
            return;
        }
        at += separators;
    }
}

/// The end of the longest groups of so many digits.
fn longest(text: &[u8], at: usize, digits: std::ops::RangeInclusive<usize>, border: Border) -> Option<usize> {
    let mut end = None;
    groups(text, at, |count, at| {
        let fits = match border {
            Border::Known => digits.contains(&count) && ends_free(text, at),
            Border::Unknown => count >= *digits.start(),
        };
        if fits {
            end = Some(at);
        }
        count < *digits.end()
    });
    end
}

/// After the `+`: a country's code, and the number there.
fn international(text: &[u8], at: usize, border: Border) -> Option<usize> {
    let at = at + usize::from(matches!(text.get(at), Some(b' ' | b'(')));
    if !matches!(text.get(at)?, b'1'..=b'9') {
        return None;
    }
    longest(text, at, MIN_INTERNATIONAL..=MAX_INTERNATIONAL, border)
}

/// `00` or `011` in place of the `+`. Without separators it would be any number with zeros before it.
fn abroad(text: &[u8], at: usize, border: Border) -> Option<usize> {
    let rest = &text[at..];
    let prefix = if rest.starts_with(b"00") {
        2
    } else if rest.starts_with(b"011") {
        3
    } else {
        return None;
    };
    let code = at + prefix + usize::from(matches!(rest.get(prefix), Some(b' ' | b'-')));
    let end = international(text, code, border)?;
    let is_grouped = !text[at..end].iter().all(u8::is_ascii_digit);
    (is_grouped || border == Border::Unknown).then_some(end)
}

/// A number with the prefix for calls within a country: `030 123456`, `(020) 7946 0958`, `06-12345678`, `01.23.45.67.89`.
fn national(text: &[u8], at: usize, border: Border) -> Option<usize> {
    let rest = &text[at..];
    let in_brackets = usize::from(rest.first() == Some(&b'('));
    let area = rest[in_brackets..].iter().take(7).take_while(|byte| byte.is_ascii_digit()).count();
    if !(2..=6).contains(&area) || !matches!(rest.get(in_brackets + 1)?, b'1'..=b'9') || is_date(rest) {
        return None;
    }
    let behind = *rest.get(in_brackets + area)?;
    match behind {
        b')' if in_brackets == 1 => {}
        b' ' | b'-' | b'/' if in_brackets == 0 => {}
        // With several points only: other numbers have one, too.
        b'.' if in_brackets == 0 && has_points(rest) => {}
        _ => return None,
    }
    longest(text, at + in_brackets, NATIONAL, border)
}

/// 01/02/2026, and from within a year: 026-11-21.
fn is_date(text: &[u8]) -> bool {
    looks_like(text, b"00/00/0000") || looks_like(text, b"00-00-0000") || looks_like(text, b"000-00-00")
}

fn has_points(text: &[u8]) -> bool {
    looks_like(text, b"00.00.00.00.00") || looks_like(text, b"0000.000.000")
}

/// Whether the text begins as the pattern, in which 0 is any digit.
fn looks_like(text: &[u8], pattern: &[u8]) -> bool {
    let same = |(byte, like): (&u8, &u8)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like };
    text.len() >= pattern.len() && text.iter().zip(pattern).all(same)
}

/// `555-123-4567`, `(555) 123-4567`, `1-555-123-4567`: ten digits, the area code and the exchange as the numbering plan of
/// North America has them.
fn north_american(text: &[u8], at: usize, border: Border) -> Option<usize> {
    let rest = &text[at..];
    let mut place = 0;
    if rest.first() == Some(&b'1') && matches!(rest.get(1)?, b' ' | b'-' | b'.') {
        place = 2;
    }
    let in_brackets = rest.get(place) == Some(&b'(');
    place += usize::from(in_brackets);
    // Codes begin with 2 to 9; those for services (911) are no areas.
    let code = |at: usize| {
        let digits: &[u8; 3] = rest.get(at..)?.first_chunk()?;
        (matches!(digits[0], b'2'..=b'9') && digits.iter().all(u8::is_ascii_digit)).then_some(*digits)
    };
    let area = code(place)?;
    if area[1] == b'1' && area[2] == b'1' {
        return None;
    }
    place += 3;
    let separators = rest[place..].iter().take(2).take_while(|byte| matches!(byte, b')' | b' ' | b'-' | b'.' | b'/'));
    let separators = separators.count();
    let fits = if in_brackets { rest.get(place) == Some(&b')') } else { separators == 1 && rest[place] != b')' };
    if !fits {
        return None;
    }
    place += separators;
    code(place)?;
    place += 3;
    let separated = matches!(rest.get(place)?, b' ' | b'-' | b'.');
    if !separated && !in_brackets {
        return None;
    }
    place += usize::from(separated);
    if !rest.get(place..place + 4)?.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let end = at + place + 4;
    (border == Border::Unknown || ends_free(text, end)).then_some(end)
}
