//! Masks as values: what takes a value's place must be a value of the same type in the same format, or NULL.

use std::borrow::Cow;
use std::fmt::Write;

use super::{Applied, Column, MaskKind, hash};

/// What stands for a text that nothing may be seen of.
const REDACTED: &str = "***";

/// How the values of a column are written. Text is the type's usual text; binary is PostgreSQL's send format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellFormat {
    Text(CellType),
    Binary(CellType),
}

/// Types as far as masks tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// text, varchar, char, name: any characters are a value.
    Text,
    Uuid,
    Date,
    Timestamp,
    Json,
    Jsonb,
    Bytea,
    Array,
    /// Anything else: only NULL is surely a value.
    Other,
}

impl CellType {
    /// Whether anything that a detector looks for is a value of the type, or part of one.
    pub(super) fn can_hold_a_finding(self) -> bool {
        !matches!(self, Self::Bool | Self::Int2 | Self::Int4 | Self::Uuid | Self::Date | Self::Timestamp)
    }
}

impl CellFormat {
    pub(super) fn cell_type(self) -> CellType {
        match self {
            Self::Text(cell_type) | Self::Binary(cell_type) => cell_type,
        }
    }

    /// Whether a value can be a long decimal number whose digits are not in its bytes.
    pub(super) fn hides_digits_from_a_scan(self) -> bool {
        matches!(self, Self::Binary(CellType::Int8 | CellType::Numeric))
    }
}

/// The value that takes `value`'s place; None is NULL on both sides.
pub(super) fn render<'a>(mask: &Applied, column: &Column, value: Option<&[u8]>) -> Option<Cow<'a, [u8]>> {
    let format = column.format;
    match &mask.kind {
        MaskKind::Null => None,
        MaskKind::Redact => redacted(format),
        MaskKind::Partial { keep_last } => match (format.cell_type(), value) {
            (CellType::Text, Some(value)) => Some(Cow::Owned(partial(value, *keep_last).into_bytes())),
            _ => redacted(format),
        },
        MaskKind::Fixed(text) => fixed(text, format).map(Cow::Owned),
        MaskKind::Hash { .. } => match (&mask.key, value) {
            (Some(key), Some(value)) => hash::hashed(key, format, column.width, value).map(Cow::Owned),
            _ => redacted(format),
        },
    }
}

fn redacted(format: CellFormat) -> Option<Cow<'static, [u8]>> {
    let text: &'static str = match format {
        CellFormat::Text(CellType::Text) | CellFormat::Binary(CellType::Text) => REDACTED,
        CellFormat::Text(CellType::Json | CellType::Jsonb) | CellFormat::Binary(CellType::Json) => "\"***\"",
        CellFormat::Binary(CellType::Jsonb) => "\u{1}\"***\"",
        _ => return None,
    };
    Some(Cow::Borrowed(text.as_bytes()))
}

/// Stars but for the last characters. What is not longer than those, or no text, shows nothing.
pub(super) fn partial(value: &[u8], keep_last: usize) -> String {
    let Ok(text) = std::str::from_utf8(value) else { return REDACTED.to_owned() };
    let length = text.chars().count();
    let hidden = if length > keep_last { length - keep_last } else { length };
    text.chars().enumerate().map(|(i, c)| if i < hidden { '*' } else { c }).collect()
}

fn fixed(text: &str, format: CellFormat) -> Option<Vec<u8>> {
    /// A number in the format that is asked for.
    macro_rules! number {
        ($type:ty) => {{
            let number: $type = text.trim().parse().ok()?;
            Some(match format {
                CellFormat::Text(_) => number.to_string().into_bytes(),
                CellFormat::Binary(_) => number.to_be_bytes().to_vec(),
            })
        }};
    }
    match format.cell_type() {
        CellType::Text => Some(text.as_bytes().to_vec()),
        CellType::Int2 => number!(i16),
        CellType::Int4 => number!(i32),
        CellType::Int8 => number!(i64),
        CellType::Float4 => number!(f32),
        CellType::Float8 => number!(f64),
        CellType::Bool => {
            let value = text.trim().parse::<bool>().ok()?;
            Some(match format {
                CellFormat::Text(_) => vec![if value { b't' } else { b'f' }],
                CellFormat::Binary(_) => vec![u8::from(value)],
            })
        }
        CellType::Json | CellType::Jsonb => Some(fixed_json(text, format)),
        CellType::Uuid => fixed_uuid(text, format),
        CellType::Numeric => {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (plain && matches!(format, CellFormat::Text(_))).then(|| text.as_bytes().to_vec())
        }
        CellType::Bytea => Some(match format {
            CellFormat::Text(_) => format!("\\x{}", hexadecimal(text.as_bytes())).into_bytes(),
            CellFormat::Binary(_) => text.as_bytes().to_vec(),
        }),
        CellType::Date | CellType::Timestamp | CellType::Array | CellType::Other => None,
    }
}

/// The text itself if it is JSON, else as a JSON string.
fn fixed_json(text: &str, format: CellFormat) -> Vec<u8> {
    let json =
        if is_json(text.as_bytes()) { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() };
    let version = (format == CellFormat::Binary(CellType::Jsonb)).then_some(1);
    version.into_iter().chain(json.into_bytes()).collect()
}

fn fixed_uuid(text: &str, format: CellFormat) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(uuid(u128::from_str_radix(&digits, 16).ok()?, format))
}

/// A uuid of this number.
pub(super) fn uuid(number: u128, format: CellFormat) -> Vec<u8> {
    match format {
        CellFormat::Binary(_) => number.to_be_bytes().to_vec(),
        CellFormat::Text(_) => {
            let digits = format!("{number:032x}");
            let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
            parts.join("-").into_bytes()
        }
    }
}

/// Whether the bytes are one JSON text; nesting beyond `serde_json`'s limit is not.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
