//! Card numbers (ISO/IEC 7812).

use std::ops::Range;

use super::{Found, is_word};
use crate::mask::cell::{CellFormat, CellType};

/// Digits of a card number.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
const MIN_CARD_DIGITS: usize = 13;
const MAX_CARD_DIGITS: usize = 19;

/// Groups of a binary numeric that are looked at: no card number has more digits.
const MAX_NUMERIC_GROUPS: usize = 8;

fn is_separator(byte: u8) -> bool {
    byte == b' ' || byte == b'-'
}

/// What a run of digits and separators consists of.
static IN_RUN: [bool; 256] = {
    let mut table = [false; 256];
    table[0x20] = true; // space
    table[0x2d] = true; // dash
    let mut digit = 0x30;
    while digit <= 0x39 {
        table[digit] = true;
        digit += 1;
    }
    table
};

/// Whether a run of digits with single separators holds a card number, wherever it begins and ends: what stands next to it
/// in raw bytes may be framing.
pub(super) fn may_contain(bytes: &[u8]) -> bool {
    const STRIDE: usize = MIN_CARD_DIGITS - 1;
    let in_run = |at: usize| bytes.get(at).is_some_and(|byte| IN_RUN[usize::from(*byte)]);
    let mut at = 0;
    while at + 1 < bytes.len() {
        // A run has at least 13 bytes. One of them is at a multiple of 12 and has its right neighbour and six more to one
        // side among them; one of any two neighbours is a digit. So this is true somewhere in every run.
        let candidate = in_run(at)
            && in_run(at + 1)
            && (in_run(at + 3) && in_run(at + 6) || at >= 6 && in_run(at - 3) && in_run(at - 6));
        if !candidate {
            at += STRIDE;
            continue;
        }
        let digit = if bytes[at].is_ascii_digit() { at } else { at + 1 };
        if !bytes[digit].is_ascii_digit() {
            at += STRIDE;
            continue;
        }
        let run = run_around(bytes, digit);
        let digits = bytes[run.clone()].iter().filter(|byte| byte.is_ascii_digit()).count();
        if digits >= MIN_CARD_DIGITS && card_within(&bytes[run.clone()]) {
            return true;
        }
        // What begins behind this run has a multiple of 12 behind it too.
        at = (at + STRIDE).max(run.end.next_multiple_of(STRIDE));
    }
    false
}

/// The longest run of digits with single separators between them that includes the digit at `digit`.
fn run_around(bytes: &[u8], digit: usize) -> Range<usize> {
    let mut start = digit;
    loop {
        if start >= 1 && bytes[start - 1].is_ascii_digit() {
            start -= 1;
        } else if start >= 2 && is_separator(bytes[start - 1]) && bytes[start - 2].is_ascii_digit() {
            start -= 2;
        } else {
            break;
        }
    }
    let mut end = digit + 1;
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    loop {
        if is_digit(end) {
            end += 1;
        } else if bytes.get(end).copied().is_some_and(is_separator) && is_digit(end + 1) {
            end += 2;
        } else {
            break;
        }
    }
    start..end
}

/// Whether any 13 to 19 digits in a row of this run are a card number.
fn card_within(run: &[u8]) -> bool {
    run.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()).any(|(start, _)| {
        let mut luhn = luhn3::Mixer::default();
        let mut digits = Digits::default();
        for byte in run[start..].iter().filter(|byte| byte.is_ascii_digit()).take(MAX_CARD_DIGITS) {
            luhn.push(byte - b'0');
            digits.push(*byte);
            if CARD_DIGITS.contains(&digits.length) && luhn.valid() && digits.has_issuer() {
                return true;
            }
            // No issuer begins like this, so longer ones need not be looked at.
            if digits.length == 6 && !digits.may_have_issuer() {
                return false;
            }
        }
        false
    })
}

/// Calls `found` with every card number of a value: alone, not a part of a longer number or word; its digits together, or in
/// groups of three to six with one kind of separator, as cards are printed.
pub(super) fn find(text: &[u8], found: &mut Found<'_>) {
    let mut at = 0;
    while let Some(skip) = text.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
        let start = at + skip;
        let groups = groups_from(text, start);
        // The longest first: 19 digits before the 16 that they begin with.
        let card = groups.iter().rev().find(|end| is_at(text, start..**end));
        if let Some(end) = card {
            found(start..*end);
        }
        at = card.or(groups.first()).copied().unwrap_or(start + 1);
    }
}

/// The ends of the groups of digits from `start` on, as far as they can be one card number.
fn groups_from(text: &[u8], start: usize) -> Vec<usize> {
    let end_of_digits = |from: usize| {
        text[from..].iter().position(|byte| !byte.is_ascii_digit()).map_or(text.len(), |length| from + length)
    };
    let first = end_of_digits(start);
    let mut ends = vec![first];
    if !(3..=6).contains(&(first - start)) {
        return ends;
    }
    let mut end = first;
    let separator = text.get(end).copied().filter(|byte| is_separator(*byte));
    while let Some(separator) = separator
        && text.get(end) == Some(&separator)
        && end - start < 2 * MAX_CARD_DIGITS
    {
        let next = end_of_digits(end + 1);
        if next - (end + 1) == 0 || next - (end + 1) > 6 {
            break;
        }
        end = next;
        ends.push(end);
    }
    ends
}

/// Whether exactly this range is a card number.
pub(super) fn is_at(text: &[u8], range: Range<usize>) -> bool {
    let mut luhn = luhn3::Mixer::default();
    let mut digits = Digits::default();
    for byte in text[range.clone()].iter().filter(|byte| byte.is_ascii_digit()) {
        luhn.push(byte - b'0');
        digits.push(*byte);
    }
    CARD_DIGITS.contains(&digits.length)
        && digits.has_issuer()
        && luhn.valid()
        && is_word(text, &range)
        && !is_fraction(text, &range)
}

/// Whether the digits stand before or behind a decimal point.
fn is_fraction(text: &[u8], range: &Range<usize>) -> bool {
    let digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit);
    let before = range.start >= 1 && text[range.start - 1] == b'.' && digit(range.start.checked_sub(2));
    let after = text.get(range.end) == Some(&b'.') && digit(Some(range.end + 1));
    before || after
}

/// How many digits, and the first six of them.
#[derive(Default)]
struct Digits {
    length: usize,
    prefix: u32,
}

impl Digits {
    fn push(&mut self, byte: u8) {
        if self.length < 6 {
            self.prefix = self.prefix * 10 + u32::from(byte - b'0');
        }
        self.length += 1;
    }

    fn may_have_issuer(&self) -> bool {
        CARD_DIGITS.into_iter().any(|length| issued(self.prefix, length))
    }

    fn has_issuer(&self) -> bool {
        issued(self.prefix, self.length)
    }
}

/// Whether an issuer is known to have numbers of this length with these first six digits.
fn issued(prefix: u32, length: usize) -> bool {
    match prefix {
        // Visa
        400_000..=499_999 => matches!(length, 13 | 16 | 19),
        // Mastercard
        510_000..=559_999 | 222_100..=272_099 => length == 16,
        // American Express, and JCB in former times
        340_000..=349_999 | 370_000..=379_999 | 180_000..=180_099 | 213_100..=213_199 => length == 15,
        // Diners Club
        300_000..=305_999 | 360_000..=369_999 | 380_000..=399_999 => matches!(length, 14..=19),
        // Mir, JCB, Discover, UnionPay
        220_000..=220_499 | 350_000..=359_999 | 601_100..=601_199 | 620_000..=629_999 | 644_000..=659_999 => {
            matches!(length, 16..=19)
        }
        // Maestro
        500_000..=509_999 | 560_000..=589_999 | 630_000..=639_999 | 670_000..=679_999 => matches!(length, 13..=19),
        _ => false,
    }
}

/// A binary number's decimal digits, if it is whole and positive.
pub(super) fn decimal(value: &[u8], format: CellFormat) -> Option<String> {
    if format == CellFormat::Binary(CellType::Int8) {
        return Some(i64::from_be_bytes(value.try_into().ok()?).to_string());
    }
    // numeric: count of groups, weight of the first, sign, scale, then groups of four digits; all 16 bits.
    let mut words = value.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let groups = usize::from(weight) + 1;
    if sign != 0 || groups > MAX_NUMERIC_GROUPS || usize::from(count) > groups {
        return None;
    }
    let number = (0..groups).try_fold(0u128, |number, _| {
        let group = words.next().unwrap_or(0);
        Some(number.checked_mul(10_000)? + u128::from(group))
    })?;
    Some(number.to_string())
}
