//! Keyed hashes as masks: the same value under the same key looks the same, and nothing else of it is seen.
//!
//! HMAC-SHA-256 (RFC 2104) over what a value means, so that text and binary formats agree, cut to what the type has room
//! for. How many values look alike by chance is up to the type: none in practice for text, uuid, bytea and bigint; two of
//! some 55,000 integers, of 200 smallints. Texts are hashed as they come, in the session's encoding.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::hmac;

use super::cell::{CellFormat, CellType, hexadecimal, uuid};
use crate::secret::Secret;

/// Bytes of a key: what `openssl rand -hex 16` prints, and so 128 bits at least where it is random.
const MIN_KEY: usize = 32;

/// Characters of a hash in text: base32 (RFC 4648, in lower case), five bits each.
const TEXT_LENGTH: usize = 26;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Digits of a hash in a numeric: as many as a bigint surely has, since clients read numerics into those.
const NUMERIC_DIGITS: usize = 18;

/// Bytes of a hash in a bytea.
const BYTEA_LENGTH: usize = 16;

/// The key of hashes, ready to use. Cannot be printed; the memory is wiped with the last copy.
#[derive(Clone)]
pub struct HashKey(Arc<hmac::Key>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {0} bytes, and so few can be guessed; a key has {MIN_KEY} at least: `openssl rand -hex 32` makes one")]
pub struct WeakKey(usize);

impl HashKey {
    pub fn new(secret: &Secret) -> Result<Self, WeakKey> {
        let bytes = secret.expose();
        if bytes.len() < MIN_KEY {
            return Err(WeakKey(bytes.len()));
        }
        Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))))
    }

    fn digest(&self, value: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, value)
    }

    /// The hash of a piece of text, as text.
    #[cfg(test)]
    pub(super) fn text(&self, value: &[u8]) -> String {
        base32(self.digest(value).as_ref(), TEXT_LENGTH)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// The hash of a value, as a value of its type in its format. None is NULL: where a type has no room (bool), or a text that depends on
/// settings of the session (dates and times), equal values cannot look alike and others not.
pub(super) fn hashed(key: &HashKey, format: CellFormat, width: Option<usize>, value: &[u8]) -> Option<Vec<u8>> {
    let cell_type = format.cell_type();
    let tag = key.digest(&meaning(value, format));
    let digest = tag.as_ref();
    let number = u128::from_be_bytes(*digest.first_chunk()?);
    /// The number in all values of the type that are not negative.
    macro_rules! integer {
        ($type:ty) => {{
            let integer = <$type>::try_from(number & u128::from(<$type>::MAX.unsigned_abs())).ok()?;
            Some(match format {
                CellFormat::Text(_) => integer.to_string().into_bytes(),
                CellFormat::Binary(_) => integer.to_be_bytes().to_vec(),
            })
        }};
    }
    match cell_type {
        CellType::Text => Some(base32(digest, width.unwrap_or(TEXT_LENGTH).min(TEXT_LENGTH)).into_bytes()),
        CellType::Int2 => integer!(i16),
        CellType::Int4 => integer!(i32),
        CellType::Int8 => integer!(i64),
        CellType::Numeric => numeric(number, format, width),
        CellType::Uuid => Some(uuid(custom_uuid(number), format)),
        CellType::Json | CellType::Jsonb => {
            let version = (format == CellFormat::Binary(CellType::Jsonb)).then_some(1);
            let json = format!("\"{}\"", base32(digest, TEXT_LENGTH));
            Some(version.into_iter().chain(json.into_bytes()).collect())
        }
        CellType::Bytea => {
            let bytes = digest.get(..BYTEA_LENGTH)?;
            Some(match format {
                CellFormat::Text(_) => format!("\\x{}", hexadecimal(bytes)).into_bytes(),
                CellFormat::Binary(_) => bytes.to_vec(),
            })
        }
        CellType::Bool
        | CellType::Float4
        | CellType::Float8
        | CellType::Date
        | CellType::Timestamp
        | CellType::Array
        | CellType::Other => None,
    }
}

/// What is the same for equal values of a type, in whatever format they come. Bytes that are no value stand for themselves.
fn meaning(value: &[u8], format: CellFormat) -> Cow<'_, [u8]> {
    let own = |text: Option<String>| text.map_or(Cow::Borrowed(value), |text| Cow::Owned(text.into_bytes()));
    match format {
        CellFormat::Binary(CellType::Int2) => own(value.try_into().ok().map(|it| i16::from_be_bytes(it).to_string())),
        CellFormat::Binary(CellType::Int4) => own(value.try_into().ok().map(|it| i32::from_be_bytes(it).to_string())),
        CellFormat::Binary(CellType::Int8) => own(value.try_into().ok().map(|it| i64::from_be_bytes(it).to_string())),
        CellFormat::Binary(CellType::Numeric) => own(numeric_text(value)),
        CellFormat::Text(CellType::Numeric) => Cow::Borrowed(without_trailing_zeros(value)),
        CellFormat::Binary(CellType::Uuid) => match value.try_into().ok().map(u128::from_be_bytes) {
            Some(number) => Cow::Owned(uuid(number, CellFormat::Text(CellType::Uuid))),
            None => Cow::Borrowed(value),
        },
        // The send format has a version byte before the text.
        CellFormat::Binary(CellType::Jsonb) => Cow::Borrowed(value.get(1..).unwrap_or_default()),
        CellFormat::Text(CellType::Bytea) => bytes_of(value).map_or(Cow::Borrowed(value), Cow::Owned),
        _ => Cow::Borrowed(value),
    }
}

/// The bytes behind a bytea's usual text, `\x` and digits.
fn bytes_of(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(b"\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let pair = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    digits.chunks(2).map(pair).collect()
}

/// 1.50 and 1.5 are equal.
fn without_trailing_zeros(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let end = text.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    let kept = &text[..end];
    kept.strip_suffix(b".").unwrap_or(kept)
}

/// A binary numeric as the server writes it in text, but for zeros at its end: groups of four decimal digits, the first of
/// which stands for 10000 to the power of `weight`.
fn numeric_text(value: &[u8]) -> Option<String> {
    let mut words = value.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?.cast_signed(), words.next()?, words.next()?);
    let groups: Vec<u16> = words.collect();
    if groups.len() != usize::from(count) {
        return None;
    }
    let mut text = match sign {
        0 => String::new(),
        0x4000 => "-".to_owned(),
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let weight = i32::from(weight);
    let group = |power: i32| usize::try_from(weight - power).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let _ = write!(text, "{}", if weight < 0 { 0 } else { group(weight) });
    for power in (0..weight).rev() {
        let _ = write!(text, "{:04}", group(power));
    }
    let last = weight + 1 - i32::from(count);
    if last < 0 {
        text.push('.');
        for power in (last..0).rev() {
            let _ = write!(text, "{:04}", group(power));
        }
    }
    let kept = without_trailing_zeros(text.as_bytes()).len();
    text.truncate(kept);
    Some(text)
}

/// A whole number of so many digits before its point.
fn numeric(number: u128, format: CellFormat, width: Option<usize>) -> Option<Vec<u8>> {
    let digits = width.unwrap_or(NUMERIC_DIGITS).min(NUMERIC_DIGITS);
    if digits == 0 {
        return None;
    }
    let number = u64::try_from(number % 10u128.pow(u32::try_from(digits).ok()?)).ok()?;
    if matches!(format, CellFormat::Text(_)) {
        return Some(number.to_string().into_bytes());
    }
    let mut groups = Vec::new();
    let mut rest = number;
    while rest > 0 {
        groups.push(u16::try_from(rest % 10_000).ok()?);
        rest /= 10_000;
    }
    groups.reverse();
    let weight = u16::try_from(groups.len().saturating_sub(1)).ok()?;
    let significant = groups.iter().rposition(|group| *group != 0).map_or(0, |last| last + 1);
    groups.truncate(significant);
    let header = [u16::try_from(groups.len()).ok()?, weight, 0, 0];
    Some(header.into_iter().chain(groups).flat_map(u16::to_be_bytes).collect())
}

/// A uuid of the version for whatever makers like (RFC 9562, section 5.8).
fn custom_uuid(number: u128) -> u128 {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    number & !VERSION & !VARIANT | 8 << 76 | 0b10 << 62
}

fn base32(bytes: &[u8], length: usize) -> String {
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let letter = |at: usize| (0..5).fold(0, |letter, offset| letter << 1 | usize::from(bit(5 * at + offset)));
    (0..length).map(|at| char::from(BASE32[letter(at)])).collect()
}

#[cfg(test)]
mod tests;
