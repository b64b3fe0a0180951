//! Values that are put together of others: rows, arrays, and JSON that was made of values. What is masked in them is masked where
//! it stands, and everything else passes as it is.
//!
//! They are taken apart as PostgreSQL writes them (`rowtypes.c` and `arrayfuncs.c`, text and binary; RFC 8259). A value that does not
//! have the parts that it should have is none of these: it is covered as a whole.

use std::borrow::Cow;

use super::Column;
use super::cell::{CellType, is_json};

/// Values that are masked in one that is put together, whatever is in them; one with more is covered as a whole. By how many fit into
/// what is held it would be seen how long they are.
const MAX_MASKED: usize = 10_000;

/// How a value with parts is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// As PostgreSQL writes rows and arrays.
    Native,
    Json,
    /// The same, but for a byte that its send format has before it.
    Jsonb,
}

/// What a value, or a part of one, is put together of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<M> {
    /// Nothing that is masked.
    Clear,
    /// One value that is masked. Within JSON its format is text.
    Value(M),
    /// A row, or an object of JSON with these names, in this order.
    Fields(Syntax, Vec<(String, Part<M>)>),
    /// An array of any number of these.
    Items(Syntax, Box<Part<M>>),
}

impl<M> Part<M> {
    pub(super) fn map<N>(self, with: &impl Fn(M) -> N) -> Part<N> {
        match self {
            Self::Clear => Part::Clear,
            Self::Value(value) => Part::Value(with(value)),
            Self::Fields(syntax, fields) => {
                Part::Fields(syntax, fields.into_iter().map(|(name, it)| (name, it.map(with))).collect())
            }
            Self::Items(syntax, item) => Part::Items(syntax, Box::new(item.map(with))),
        }
    }
}

impl Part<Column> {
    /// The value with what is masked in it masked. None: it does not have these parts, or too many of them.
    pub(super) fn mask(&self, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
        self.mask_up_to(&mut { MAX_MASKED }, binary, value)
    }

    /// `left`: how many may be masked.
    fn mask_up_to(&self, left: &mut usize, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
        let mut masked = Vec::with_capacity(value.len());
        match self {
            Self::Clear | Self::Value(_) => return None,
            Self::Fields(Syntax::Native, fields) if binary => self::binary::row(left, fields, value, &mut masked)?,
            Self::Fields(Syntax::Native, fields) => text::row(left, fields, value, &mut masked)?,
            Self::Items(Syntax::Native, item) if binary => self::binary::array(left, item, value, &mut masked)?,
            Self::Items(Syntax::Native, item) => text::array(left, item, value, &mut masked)?,
            Self::Fields(Syntax::Jsonb, _) | Self::Items(Syntax::Jsonb, _) if binary => {
                let (version, text) = value.split_first().filter(|(version, _)| **version == JSONB_VERSION)?;
                masked.push(*version);
                json::document(left, self, text, &mut masked)?;
            }
            Self::Fields(..) | Self::Items(..) => json::document(left, self, value, &mut masked)?,
        }
        Some(masked)
    }

    /// A part of a row or an array of PostgreSQL's that is not clear. `Some(None)` is NULL.
    #[expect(clippy::option_option, reason = "the outer one: whether it has the parts that it should have")]
    fn within<'v>(&self, left: &mut usize, binary: bool, value: Option<&'v [u8]>) -> Option<Option<Cow<'v, [u8]>>> {
        match (self, value) {
            (Self::Clear, value) => Some(value.map(Cow::Borrowed)),
            (Self::Value(column), value) => {
                *left = left.checked_sub(1)?;
                Some(column.show(value))
            }
            // Whether there is one is not up to what is in it.
            (Self::Fields(..) | Self::Items(..), None) => Some(None),
            (Self::Fields(..) | Self::Items(..), Some(value)) => {
                Some(Some(Cow::Owned(self.mask_up_to(left, binary, value)?)))
            }
        }
    }
}

/// The first byte of a jsonb as it is sent.
const JSONB_VERSION: u8 = 1;

/// Rows and arrays in text.
mod text {
    use super::{Column, Cow, Part};

    pub(super) fn row(
        left: &mut usize,
        fields: &[(String, Part<Column>)],
        value: &[u8],
        masked: &mut Vec<u8>,
    ) -> Option<()> {
        let mut rest = value.strip_prefix(b"(")?;
        masked.push(b'(');
        for (index, (_, part)) in fields.iter().enumerate() {
            if index > 0 {
                rest = rest.strip_prefix(b",")?;
                masked.push(b',');
            }
            let (written, behind) = rest.split_at(end_of_field(rest)?);
            rest = behind;
            match part {
                Part::Clear => masked.extend_from_slice(written),
                part => {
                    // A field without a letter is NULL; an empty text has quotation marks.
                    let field = (!written.is_empty()).then(|| unquoted(written));
                    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',') || is_space(*byte);
                    if let Some(field) = part.within(left, false, field.as_deref())? {
                        let plain = !field.is_empty() && !field.iter().any(special);
                        quote(&field, plain, |byte| byte, masked);
                    }
                }
            }
        }
        masked.push(b')');
        (rest == b")").then_some(())
    }

    /// Of one dimension, counted from 1, which is what aggregates make.
    pub(super) fn array(left: &mut usize, item: &Part<Column>, value: &[u8], masked: &mut Vec<u8>) -> Option<()> {
        let mut rest = value.strip_prefix(b"{")?;
        masked.push(b'{');
        let mut is_first = true;
        while rest != b"}" {
            if !std::mem::take(&mut is_first) {
                rest = rest.strip_prefix(b",")?;
                masked.push(b',');
            }
            let (written, behind) = rest.split_at(end_of_item(rest)?);
            rest = behind;
            let value = (written != b"NULL").then(|| unquoted(written));
            let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(*byte);
            match item.within(left, false, value.as_deref())? {
                None => masked.extend_from_slice(b"NULL"),
                Some(value) => {
                    let plain = !value.is_empty() && !value.eq_ignore_ascii_case(b"NULL") && !value.iter().any(special);
                    quote(&value, plain, |_| b'\\', masked);
                }
            }
        }
        masked.push(b'}');
        Some(())
    }

    /// Where a row's field ends: at a comma or the last bracket outside of quotation marks.
    fn end_of_field(text: &[u8]) -> Option<usize> {
        end(text, |byte| matches!(byte, b',' | b')'), |byte| byte == b'(')
    }

    fn end_of_item(text: &[u8]) -> Option<usize> {
        end(text, |byte| matches!(byte, b',' | b'}'), |byte| byte == b'{').filter(|end| *end > 0)
    }

    fn end(text: &[u8], is_end: fn(u8) -> bool, is_forbidden: fn(u8) -> bool) -> Option<usize> {
        let (mut quoted, mut at) = (false, 0);
        loop {
            match *text.get(at)? {
                b'\\' => at += 1,
                b'"' => quoted = !quoted,
                byte if !quoted && is_end(byte) => return Some(at),
                byte if !quoted && is_forbidden(byte) => return None,
                _ => {}
            }
            at += 1;
        }
    }

    /// What a field or an item stands for: without quotation marks, doubled ones and backslashes for what they protect.
    fn unquoted(written: &[u8]) -> Cow<'_, [u8]> {
        if !written.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            return Cow::Borrowed(written);
        }
        let mut value = Vec::with_capacity(written.len());
        let (mut bytes, mut quoted) = (written.iter().copied().peekable(), false);
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => value.extend(bytes.next()),
                b'"' if quoted && bytes.next_if_eq(&b'"').is_some() => value.push(b'"'),
                b'"' => quoted = !quoted,
                byte => value.push(byte),
            }
        }
        Cow::Owned(value)
    }

    /// `protects`: what stands before a quotation mark or a backslash within the text.
    fn quote(value: &[u8], plain: bool, protects: fn(u8) -> u8, masked: &mut Vec<u8>) {
        if plain {
            return masked.extend_from_slice(value);
        }
        masked.push(b'"');
        for byte in value {
            if matches!(byte, b'"' | b'\\') {
                masked.push(protects(*byte));
            }
            masked.push(*byte);
        }
        masked.push(b'"');
    }

    /// What C takes for white space.
    fn is_space(byte: u8) -> bool {
        matches!(byte, b' ' | b'\t'..=b'\r')
    }
}

/// Rows and arrays in the send format: numbers are of four bytes.
mod binary {
    use super::{Column, Part};

    /// In the place of a length.
    const NULL: i32 = -1;

    pub(super) fn row(
        left: &mut usize,
        fields: &[(String, Part<Column>)],
        value: &[u8],
        masked: &mut Vec<u8>,
    ) -> Option<()> {
        let mut rest = value;
        let count = number(&mut rest, masked)?;
        if usize::try_from(count).ok()? != fields.len() {
            return None;
        }
        for (_, part) in fields {
            let _type_oid = number(&mut rest, masked)?;
            one(left, part, &mut rest, masked)?;
        }
        rest.is_empty().then_some(())
    }

    pub(super) fn array(left: &mut usize, item: &Part<Column>, value: &[u8], masked: &mut Vec<u8>) -> Option<()> {
        let mut rest = value;
        let dimensions = number(&mut rest, masked)?;
        // Whether there are NULLs among the items would tell of values.
        take(&mut rest, 4)?;
        masked.extend_from_slice(&1_i32.to_be_bytes());
        let _type_oid = number(&mut rest, masked)?;
        let count = match dimensions {
            0 => 0,
            1 => {
                let count = number(&mut rest, masked)?;
                let _lower_bound = number(&mut rest, masked)?;
                count
            }
            _ => return None,
        };
        for _ in 0..count {
            one(left, item, &mut rest, masked)?;
        }
        rest.is_empty().then_some(())
    }

    fn one(left: &mut usize, part: &Part<Column>, rest: &mut &[u8], masked: &mut Vec<u8>) -> Option<()> {
        let value = match i32::from_be_bytes(*take(rest, 4)?.first_chunk()?) {
            NULL => None,
            length => Some(take(rest, usize::try_from(length).ok()?)?),
        };
        match part.within(left, true, value)? {
            None => masked.extend_from_slice(&NULL.to_be_bytes()),
            Some(value) => {
                masked.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
                masked.extend_from_slice(&value);
            }
        }
        Some(())
    }

    fn number(rest: &mut &[u8], masked: &mut Vec<u8>) -> Option<i32> {
        let bytes = take(rest, 4)?;
        masked.extend_from_slice(bytes);
        Some(i32::from_be_bytes(*bytes.first_chunk()?))
    }

    fn take<'v>(rest: &mut &'v [u8], length: usize) -> Option<&'v [u8]> {
        let (taken, behind) = rest.split_at_checked(length)?;
        *rest = behind;
        Some(taken)
    }
}

/// JSON, of which the server has made sure that it is.
mod json {
    use super::{CellType, Column, Cow, Part, is_json};

    pub(super) fn document(left: &mut usize, part: &Part<Column>, text: &[u8], masked: &mut Vec<u8>) -> Option<()> {
        let mut reader = Reader { text, at: 0 };
        element(left, part, &mut reader, masked)?;
        (reader.at == text.len()).then_some(())
    }

    /// A value with the white space around it.
    fn element(left: &mut usize, part: &Part<Column>, reader: &mut Reader<'_>, masked: &mut Vec<u8>) -> Option<()> {
        // Its white space may be its own, of a value that is JSON.
        if let Part::Value(column) = part {
            *left = left.checked_sub(1)?;
            reader.skip_space();
            masked.extend_from_slice(&shown(column, reader.any()?));
            reader.skip_space();
        } else {
            reader.space(masked);
            value(left, part, reader, masked)?;
            reader.space(masked);
        }
        Some(())
    }

    /// As deep as the parts are.
    fn value(left: &mut usize, part: &Part<Column>, reader: &mut Reader<'_>, masked: &mut Vec<u8>) -> Option<()> {
        match part {
            Part::Clear => masked.extend_from_slice(reader.any()?),
            Part::Value(_) => return None,
            // Whether there is one is not up to what is in it.
            Part::Fields(..) | Part::Items(..) if reader.peek() == Some(b'n') => {
                masked.extend_from_slice(reader.any().filter(|it| *it == b"null")?);
            }
            Part::Fields(_, fields) => {
                reader.sign(b'{', masked)?;
                reader.space(masked);
                for (index, (name, part)) in fields.iter().enumerate() {
                    if index > 0 {
                        reader.sign(b',', masked)?;
                        reader.space(masked);
                    }
                    let written = reader.any()?;
                    masked.extend_from_slice(written);
                    serde_json::from_slice::<String>(written).ok().filter(|it| it == name)?;
                    reader.space(masked);
                    reader.sign(b':', masked)?;
                    element(left, part, reader, masked)?;
                }
                reader.sign(b'}', masked)?;
            }
            Part::Items(_, item) => {
                reader.sign(b'[', masked)?;
                reader.space(masked);
                let mut is_first = true;
                while reader.peek()? != b']' {
                    if !std::mem::take(&mut is_first) {
                        reader.sign(b',', masked)?;
                    }
                    element(left, item, reader, masked)?;
                }
                reader.sign(b']', masked)?;
            }
        }
        Some(())
    }

    /// A masked value in the place of this one. There is one whatever that is, or it would be seen what it is not.
    fn shown(column: &Column, written: &[u8]) -> Vec<u8> {
        let cell_type = column.format.cell_type();
        let is_itself = matches!(cell_type, CellType::Json | CellType::Jsonb);
        let text: Option<Cow<'_, [u8]>> = match written.first() {
            Some(b'n') => None,
            // JSON may have half a character, which is no text.
            Some(b'"') if !is_itself => match serde_json::from_slice::<String>(written) {
                Ok(text) => Some(Cow::Owned(text.into_bytes())),
                Err(_) => Some(Cow::Borrowed(written)),
            },
            _ => Some(Cow::Borrowed(written)),
        };
        let Some(shown) = column.show(text.as_deref()) else { return b"null".to_vec() };
        let is_json_itself = match cell_type {
            CellType::Int2
            | CellType::Int4
            | CellType::Int8
            | CellType::Float4
            | CellType::Float8
            | CellType::Numeric
            | CellType::Json
            | CellType::Jsonb => is_json(&shown),
            _ => false,
        };
        match cell_type {
            CellType::Bool if *shown == *b"t" => b"true".to_vec(),
            CellType::Bool => b"false".to_vec(),
            _ if is_json_itself => shown.into_owned(),
            _ => serde_json::Value::from(String::from_utf8_lossy(&shown)).to_string().into_bytes(),
        }
    }

    struct Reader<'t> {
        text: &'t [u8],
        at: usize,
    }

    impl<'t> Reader<'t> {
        fn peek(&self) -> Option<u8> {
            self.text.get(self.at).copied()
        }

        fn space(&mut self, masked: &mut Vec<u8>) {
            while let Some(byte) = self.peek().filter(|it| matches!(it, b' ' | b'\t' | b'\r' | b'\n')) {
                masked.push(byte);
                self.at += 1;
            }
        }

        fn skip_space(&mut self) {
            while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
                self.at += 1;
            }
        }

        fn sign(&mut self, sign: u8, masked: &mut Vec<u8>) -> Option<()> {
            self.peek().filter(|it| *it == sign)?;
            masked.push(sign);
            self.at += 1;
            Some(())
        }

        /// One value, whatever it is, without the white space around it.
        fn any(&mut self) -> Option<&'t [u8]> {
            let from = self.at;
            let mut depth = 0_usize;
            loop {
                match self.peek()? {
                    b'"' => self.string()?,
                    b'{' | b'[' => {
                        depth += 1;
                        self.at += 1;
                    }
                    b'}' | b']' => {
                        depth = depth.checked_sub(1)?;
                        self.at += 1;
                    }
                    b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth > 0 => self.at += 1,
                    b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => return None,
                    _ => self.word(),
                }
                if depth == 0 {
                    return self.text.get(from..self.at);
                }
            }
        }

        fn string(&mut self) -> Option<()> {
            self.at += 1;
            loop {
                match self.peek()? {
                    b'\\' => self.at += 2,
                    b'"' => {
                        self.at += 1;
                        return Some(());
                    }
                    _ => self.at += 1,
                }
            }
        }

        /// A number, true, false or null.
        fn word(&mut self) {
            self.at += 1;
            let ends =
                |byte: u8| matches!(byte, b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"') || byte.is_ascii_whitespace();
            while self.peek().is_some_and(|byte| !ends(byte)) {
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
