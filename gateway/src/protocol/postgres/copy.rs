//! What COPY sends to a client: its forms, and rows in them taken apart and put together again (PostgreSQL's documentation, "COPY",
//! "File Formats"). The server sends one row with each message (chapter "Message Flow", "COPY Operations"). No I/O.

use std::borrow::Cow;

use serde::Serialize;

/// A COPY's format with its options, as far as they shape what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyForm {
    /// NULL is `\N`: another word could be a value too.
    Text {
        delimiter: u8,
        header: bool,
    },
    Csv {
        delimiter: u8,
        quote: u8,
        escape: u8,
        null: String,
        header: bool,
    },
    Binary,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// None is NULL.
    pub value: Option<Cow<'a, [u8]>>,
    /// It stood in quotation marks, whether it needs them or not.
    pub quoted: bool,
}

/// What was sent is not what the form says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInForm;

const NULL: &[u8] = br"\N";
/// What ended the data before protocol 3.0, and does in files.
const END_OF_DATA: &[u8] = br"\.";
/// What binary data begins with: the signature, flags, and the length of what else the header has.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
pub const BINARY_HEADER: usize = SIGNATURE.len() + 8;

impl CopyForm {
    pub fn is_binary(&self) -> bool {
        matches!(self, Self::Binary)
    }

    /// Whether the first row has the columns' names.
    pub fn has_header(&self) -> bool {
        match self {
            Self::Text { header, .. } | Self::Csv { header, .. } => *header,
            Self::Binary => false,
        }
    }

    /// Takes a row in text apart that has so many columns.
    pub fn cells<'a>(&self, row: &'a [u8], columns: usize) -> Result<Vec<Cell<'a>>, NotInForm> {
        let row = row.strip_suffix(b"\n").ok_or(NotInForm)?;
        // A row without columns is an empty line.
        if columns == 0 {
            return if row.is_empty() { Ok(Vec::new()) } else { Err(NotInForm) };
        }
        let mut cells = Vec::with_capacity(columns.min(row.len() + 1));
        let mut rest = Some(row);
        while let Some(from) = rest {
            if cells.len() == columns {
                return Err(NotInForm);
            }
            let (cell, behind) = match self {
                Self::Text { delimiter, .. } => text_cell(from, *delimiter)?,
                Self::Csv { delimiter, quote, escape, null, .. } => {
                    let (cell, behind) = csv_cell(from, *delimiter, *quote, *escape, null.as_bytes())?;
                    // Alone in its row it would end the data for some readers: the server quotes it.
                    if columns == 1 && !cell.quoted && cell.value.as_deref() == Some(END_OF_DATA) {
                        return Err(NotInForm);
                    }
                    (cell, behind)
                }
                Self::Binary => return Err(NotInForm),
            };
            cells.push(cell);
            rest = behind;
        }
        if cells.len() == columns { Ok(cells) } else { Err(NotInForm) }
    }

    /// Writes a value in text, as the server would. `alone`: it is the only one of its row.
    pub fn write(&self, value: Option<&[u8]>, quoted: bool, alone: bool, out: &mut Vec<u8>) {
        match (self, value) {
            (Self::Text { .. }, None) => out.extend_from_slice(NULL),
            (Self::Text { delimiter, .. }, Some(value)) => write_text(value, *delimiter, out),
            (Self::Csv { null, .. }, None) => out.extend_from_slice(null.as_bytes()),
            (Self::Csv { delimiter, quote, escape, null, .. }, Some(value)) => {
                let special = |byte: &u8| [*delimiter, *quote, b'\n', b'\r'].contains(byte);
                let needed = value == null.as_bytes() || alone && value == END_OF_DATA || value.iter().any(special);
                if quoted || needed {
                    out.push(*quote);
                    for byte in value {
                        if byte == quote || byte == escape {
                            out.push(*escape);
                        }
                        out.push(*byte);
                    }
                    out.push(*quote);
                } else {
                    out.extend_from_slice(value);
                }
            }
            (Self::Binary, _) => {}
        }
    }

    /// The byte between values, in text.
    pub fn delimiter(&self) -> u8 {
        match self {
            Self::Text { delimiter, .. } | Self::Csv { delimiter, .. } => *delimiter,
            Self::Binary => 0,
        }
    }
}

/// The header that binary data begins with, and what is behind it.
pub fn binary_header(data: &[u8]) -> Result<(&[u8], &[u8]), NotInForm> {
    let (header, rest) = data.split_at_checked(BINARY_HEADER).ok_or(NotInForm)?;
    // Neither flags nor an extension are in use.
    let is_plain = header.starts_with(SIGNATURE) && header[SIGNATURE.len()..].iter().all(|byte| *byte == 0);
    if is_plain { Ok((header, rest)) } else { Err(NotInForm) }
}

type CellAndRest<'a> = (Cell<'a>, Option<&'a [u8]>);

/// A value up to the delimiter, and what is behind that; None: it was the last.
fn text_cell(row: &[u8], delimiter: u8) -> Result<CellAndRest<'_>, NotInForm> {
    let (mut end, mut escaped) = (0, false);
    while let Some(&byte) = row.get(end) {
        match byte {
            b'\\' => {
                escaped = true;
                end += 2;
            }
            b'\n' | b'\r' => return Err(NotInForm),
            _ if byte == delimiter => break,
            _ => end += 1,
        }
    }
    // A backslash at the end stands before nothing.
    let raw = row.get(..end).ok_or(NotInForm)?;
    let value = if raw == NULL {
        None
    } else if escaped {
        let mut value = Vec::with_capacity(raw.len());
        let mut bytes = raw.iter();
        while let Some(&byte) = bytes.next() {
            value.push(match byte {
                b'\\' => match bytes.next().ok_or(NotInForm)? {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 0x0b,
                    other => *other,
                },
                other => other,
            });
        }
        Some(Cow::Owned(value))
    } else {
        Some(Cow::Borrowed(raw))
    };
    Ok((Cell { value, quoted: false }, row.get(end + 1..).filter(|_| end < row.len())))
}

fn write_text(value: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    for &byte in value {
        let letter = match byte {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            other => other,
        };
        if letter != byte || byte == b'\\' || byte == delimiter {
            out.extend_from_slice(&[b'\\', letter]);
        } else {
            out.push(byte);
        }
    }
}

fn csv_cell<'a>(
    row: &'a [u8],
    delimiter: u8,
    quote: u8,
    escape: u8,
    null: &[u8],
) -> Result<CellAndRest<'a>, NotInForm> {
    let Some(inside) = row.strip_prefix(&[quote]) else {
        let end = row.iter().position(|byte| *byte == delimiter).unwrap_or(row.len());
        let raw = &row[..end];
        if raw.iter().any(|byte| [quote, b'\n', b'\r'].contains(byte)) {
            return Err(NotInForm);
        }
        let value = (raw != null).then_some(Cow::Borrowed(raw));
        return Ok((Cell { value, quoted: false }, row.get(end + 1..)));
    };
    let (mut value, mut at) = (Vec::new(), 0);
    let behind = loop {
        let byte = *inside.get(at).ok_or(NotInForm)?;
        match inside.get(at + 1) {
            Some(next) if byte == escape && (*next == quote || *next == escape) => {
                value.push(*next);
                at += 2;
            }
            _ if byte == quote => break inside.get(at + 1..).unwrap_or_default(),
            _ => {
                value.push(byte);
                at += 1;
            }
        }
    };
    let rest = match behind.split_first() {
        None => None,
        Some((byte, rest)) if *byte == delimiter => Some(rest),
        Some(_) => return Err(NotInForm),
    };
    Ok((Cell { value: Some(Cow::Owned(value)), quoted: true }, rest))
}

#[cfg(test)]
mod tests;
