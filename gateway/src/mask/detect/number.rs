//! Numbers that states and banks give: social security numbers of the United States, and IBANs (ISO 13616).

use std::ops::Range;

use super::{Found, is_word, joins_before};

/// `123-45-6789`.
const SSN_LENGTH: usize = 11;

pub(super) fn may_contain_ssn(bytes: &[u8]) -> bool {
    // One of the four last digits is at a multiple of four.
    const STRIDE: usize = 4;
    (0..bytes.len()).step_by(STRIDE).filter(|at| bytes[*at].is_ascii_digit()).any(|at| {
        let starts = (0..STRIDE).filter_map(|offset| at.checked_sub(7 + offset));
        starts.into_iter().any(|start| is_ssn(&bytes[start..]))
    })
}

pub(super) fn find_ssns(text: &[u8], found: &mut Found<'_>) {
    let mut at = 0;
    while at + SSN_LENGTH <= text.len() {
        let range = at..at + SSN_LENGTH;
        if is_ssn(&text[at..]) && is_word(text, &range) && !is_part(text, &range) {
            found(range);
            at += SSN_LENGTH;
        } else {
            at += 1;
        }
    }
}

/// Whether the text begins with a number that the Social Security Administration gives: no 000, 666 and 9xx before, and no
/// part is 0. Nine digits without separators can be anything.
fn is_ssn(text: &[u8]) -> bool {
    let Some(number) = text.first_chunk::<SSN_LENGTH>() else { return false };
    let separator = number[3];
    if !matches!(separator, b'-' | b' ') || number[6] != separator {
        return false;
    }
    let (area, group, serial) = (&number[..3], &number[4..6], &number[7..]);
    let is_number = |part: &[u8]| part.iter().all(u8::is_ascii_digit) && part.iter().any(|digit| *digit != b'0');
    is_number(area) && is_number(group) && is_number(serial) && area != b"666" && area[0] != b'9'
}

/// Whether it is a part of a longer number with separators.
fn is_part(text: &[u8], range: &Range<usize>) -> bool {
    let digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit);
    let separator = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(|byte| matches!(byte, b'-' | b'.'));
    let before = separator(range.start.checked_sub(1)) && digit(range.start.checked_sub(2));
    before || separator(Some(range.end)) && digit(Some(range.end + 1))
}

/// Letters and digits of an IBAN: Norway has the shortest, and the standard's longest.
const IBAN_LETTERS: std::ops::RangeInclusive<usize> = 15..=34;

pub(super) fn may_contain_iban(bytes: &[u8]) -> bool {
    // The first of the two check digits, or the second, is at an even place.
    (0..bytes.len()).step_by(2).filter(|at| bytes[*at].is_ascii_digit()).any(|at| {
        let starts = [at.checked_sub(2), at.checked_sub(3)];
        starts.into_iter().flatten().any(|start| begins_iban(&bytes[start..]) && letters(bytes, start).count() >= 15)
    })
}

pub(super) fn find_ibans(text: &[u8], found: &mut Found<'_>) {
    let mut at = 0;
    while at < text.len() {
        let end = (begins_iban(&text[at..]) && !joins_before(text, at)).then(|| iban_at(text, at)).flatten();
        if let Some(end) = end {
            found(at..end);
        }
        at = end.unwrap_or(at + 1);
    }
}

fn begins_iban(text: &[u8]) -> bool {
    let Some([a, b, c, d]) = text.first_chunk() else { return false };
    a.is_ascii_uppercase() && b.is_ascii_uppercase() && c.is_ascii_digit() && d.is_ascii_digit()
}

/// The places of upper-case letters and digits from `start` on, as many as an IBAN can have, with one space or dash between them
/// at most.
fn letters(text: &[u8], start: usize) -> impl Iterator<Item = usize> {
    let mut at = start;
    let next = move || {
        if at > start && matches!(text.get(at), Some(b' ' | b'-')) {
            at += 1;
        }
        let byte = text.get(at)?;
        at += 1;
        (byte.is_ascii_uppercase() || byte.is_ascii_digit()).then_some(at - 1)
    };
    std::iter::from_fn(next).fuse().take(*IBAN_LETTERS.end())
}

/// The end of the longest IBAN that begins here: length and form are the country's, the check digits right, and it is not
/// part of a longer word.
fn iban_at(text: &[u8], start: usize) -> Option<usize> {
    let mut compact = String::new();
    let mut longest = None;
    for at in letters(text, start) {
        compact.push(char::from(text[at]));
        let is_end = !text.get(at + 1).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if is_end && compact.len() >= *IBAN_LETTERS.start() && compact.parse::<iban::Iban>().is_ok() {
            longest = Some(at + 1);
        }
    }
    longest
}
