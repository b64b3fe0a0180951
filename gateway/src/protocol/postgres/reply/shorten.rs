//! Rows that are larger than what is held, with masked columns in them. Whether such a row is too large must not be up to values that
//! are masked: what is covered whatever it is, is dropped as it comes, and what is left is the row that is masked and measured.

use super::Fault;
use crate::protocol::postgres::copy::{BINARY_HEADER, CopyForm};
use crate::protocol::postgres::wire::{HEADER, MAX_HELD};

/// Bytes of a row that are kept: values that are masked in part, hashed, or put together of others take room beside those that are
/// clear, and nobody may be able to fill that with clear ones.
const MAX_KEPT: usize = 2 * MAX_HELD;
/// In the place of a length.
const NULL: i32 = -1;
/// In the place of a count of columns.
const END_OF_ROWS: i16 = -1;

/// A message with one row that comes in parts.
#[derive(Debug)]
pub(super) struct Shortening {
    tag: u8,
    form: Form,
    /// Which columns nothing is shown of.
    covered: Vec<bool>,
    /// The message without their values.
    kept: Vec<u8>,
    /// What is left is too large as well.
    is_lost: bool,
    column: usize,
    at: At,
    /// The beginning of a number.
    number: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Values behind their lengths.
    Lengths,
    Text {
        delimiter: u8,
    },
    Csv {
        delimiter: u8,
        quote: u8,
        escape: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So many bytes that are no row yet.
    Head(usize),
    Count,
    Length,
    /// So many bytes of a value.
    Value(usize),
    /// Text outside of quotation marks. CSV: at the beginning of a value.
    Start,
    Plain,
    /// Behind a backslash, or what stands for one in CSV.
    Escaped,
    Quoted,
}

impl Shortening {
    /// Of rows as queries send them.
    pub(super) fn of_row(covered: Vec<bool>) -> Self {
        Self::new(b'D', Form::Lengths, At::Head(HEADER), covered)
    }

    /// Of what a COPY sends. `is_first`: in binary the file's header comes with it.
    pub(super) fn of_copy(form: &CopyForm, is_first: bool, covered: Vec<bool>) -> Self {
        let (form, head) = match *form {
            CopyForm::Binary => (Form::Lengths, HEADER + if is_first { BINARY_HEADER } else { 0 }),
            CopyForm::Text { delimiter, .. } => (Form::Text { delimiter }, HEADER),
            CopyForm::Csv { delimiter, quote, escape, .. } => (Form::Csv { delimiter, quote, escape }, HEADER),
        };
        Self::new(b'd', form, At::Head(head), covered)
    }

    fn new(tag: u8, form: Form, at: At, covered: Vec<bool>) -> Self {
        Self { tag, form, covered, kept: Vec::new(), is_lost: false, column: 0, at, number: Vec::new() }
    }

    pub(super) fn tag(&self) -> u8 {
        self.tag
    }

    /// The next bytes of the message.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self.at {
                At::Head(left) => {
                    let head = split(&mut bytes, left);
                    self.keep(head);
                    self.at = match (left - head.len(), self.form) {
                        (0, Form::Lengths) => At::Count,
                        (0, Form::Text { .. } | Form::Csv { .. }) => At::Start,
                        (left, _) => At::Head(left),
                    };
                }
                At::Count => self.count(&mut bytes)?,
                At::Length => self.length(&mut bytes)?,
                At::Value(left) => {
                    let value = split(&mut bytes, left);
                    self.keep_of_value(value);
                    self.value(left - value.len());
                }
                At::Start | At::Plain | At::Escaped | At::Quoted => {
                    let byte = split(&mut bytes, 1);
                    self.letter(byte)?;
                }
            }
        }
        Ok(())
    }

    /// The message as if nothing were in the columns that are covered; none if even that is too large.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.kept.len().checked_sub(1)?).ok()?;
        self.kept.get_mut(1..HEADER)?.copy_from_slice(&length.to_be_bytes());
        (!self.is_lost).then_some(self.kept)
    }

    fn count(&mut self, bytes: &mut &[u8]) -> Result<(), Fault> {
        let Some(count) = self.number::<2>(bytes) else { return Ok(()) };
        self.keep(&count);
        self.column = 0;
        match i16::from_be_bytes(count) {
            END_OF_ROWS => self.at = At::Count,
            count if usize::try_from(count) == Ok(self.covered.len()) => {
                self.at = if count == 0 { At::Count } else { At::Length };
            }
            _ => return Err(Fault::Row),
        }
        Ok(())
    }

    fn length(&mut self, bytes: &mut &[u8]) -> Result<(), Fault> {
        let Some(number) = self.number::<4>(bytes) else { return Ok(()) };
        let length = match i32::from_be_bytes(number) {
            NULL => 0,
            length => usize::try_from(length).map_err(|_| Fault::Row)?,
        };
        self.keep(&if self.is_covered() { NULL.to_be_bytes() } else { number });
        self.value(length);
        Ok(())
    }

    /// So many bytes of a value are still to come.
    fn value(&mut self, left: usize) {
        self.at = At::Value(left);
        if left == 0 {
            self.column += 1;
            self.at = if self.column == self.covered.len() { At::Count } else { At::Length };
        }
    }

    /// A number, once all of it is there.
    fn number<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        self.number.extend_from_slice(split(bytes, N - self.number.len()));
        let number = *self.number.first_chunk::<N>()?;
        self.number.clear();
        Some(number)
    }

    /// One byte of text, as [`CopyForm::cells`] reads it.
    fn letter(&mut self, byte: &[u8]) -> Result<(), Fault> {
        let &[letter] = byte else { return Ok(()) };
        let plain = |delimiter| (At::Plain, letter != delimiter && letter != b'\n');
        let (at, is_of_value) = match (self.at, self.form) {
            (At::Escaped, Form::Text { .. }) => (At::Plain, true),
            (_, Form::Text { .. }) if letter == b'\\' => (At::Escaped, true),
            (At::Start, Form::Csv { quote, .. }) if letter == quote => (At::Quoted, true),
            (At::Escaped, Form::Csv { quote, escape, .. }) if letter == quote || letter == escape => (At::Quoted, true),
            // The quotation mark was not doubled, and so it was the last one.
            (At::Escaped, Form::Csv { delimiter, quote, escape }) if quote == escape => plain(delimiter),
            (At::Escaped | At::Quoted, Form::Csv { escape, .. }) if letter == escape => (At::Escaped, true),
            (At::Escaped | At::Quoted, Form::Csv { quote, .. }) if letter == quote => (At::Plain, true),
            (At::Escaped | At::Quoted, Form::Csv { .. }) => (At::Quoted, true),
            (_, Form::Text { delimiter } | Form::Csv { delimiter, .. }) => plain(delimiter),
            (_, Form::Lengths) => return Err(Fault::Row),
        };
        self.at = at;
        if is_of_value {
            self.keep_of_value(byte);
            return Ok(());
        }
        self.keep(byte);
        if letter != b'\n' {
            self.column += 1;
            self.at = At::Start;
        }
        if self.column < self.covered.len() { Ok(()) } else { Err(Fault::Row) }
    }

    fn is_covered(&self) -> bool {
        self.covered.get(self.column).is_some_and(|it| *it)
    }

    fn keep_of_value(&mut self, bytes: &[u8]) {
        if !self.is_covered() {
            self.keep(bytes);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_lost || self.kept.len() + bytes.len() > MAX_KEPT {
            // Its header aside, which tells nobody anything.
            self.kept.truncate(HEADER);
            self.kept.shrink_to_fit();
            self.is_lost = true;
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }
}

/// Takes as many bytes off, or all that there are.
fn split<'b>(bytes: &mut &'b [u8], most: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a message, in whatever pieces it comes.
    fn left(shortening: impl Fn() -> Shortening, message: &[u8]) -> Vec<u8> {
        let in_pieces = |size: usize| {
            let mut shortening = shortening();
            message.chunks(size).try_for_each(|it| shortening.push(it)).unwrap();
            shortening.finish().unwrap()
        };
        let whole = in_pieces(message.len());
        (1..message.len()).for_each(|size| assert_eq!(in_pieces(size), whole, "in pieces of {size}"));
        whole
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn values_behind_their_lengths_are_dropped() {
        let row = |values: &[Option<&[u8]>]| {
            let mut row = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
            for value in values {
                row.extend(value.map_or(NULL, |it| i32::try_from(it.len()).unwrap()).to_be_bytes());
                row.extend(value.unwrap_or_default());
            }
            row
        };
        let (given, kept) = (row(&[Some(b"clear"), Some(b"secret"), None]), row(&[Some(b"clear"), None, None]));
        let covered = || vec![false, true, false];
        assert_eq!(left(|| Shortening::of_row(covered()), &message(b'D', &given)), message(b'D', &kept));
        let header = [b"PGCOPY\n\xff\r\n\0".as_slice(), &[0; 8]].concat();
        let file = |row: &[u8]| message(b'd', &[&header, row, &END_OF_ROWS.to_be_bytes()].concat());
        let copied = left(|| Shortening::of_copy(&CopyForm::Binary, true, covered()), &file(&given));
        assert_eq!(copied, file(&kept));
    }

    #[test]
    fn values_in_text_are_dropped() {
        let text = CopyForm::Text { delimiter: b'\t', header: false };
        let csv = |quote, escape| CopyForm::Csv { delimiter: b',', quote, escape, null: String::new(), header: false };
        for (form, given, kept) in [
            (text, "a\\tb\\\tc\tse\\\tc\\nret\\\\\tend\n", "a\\tb\\\tc\t\tend\n"),
            (csv(b'"', b'"'), "\"a,\"\"\n\",\"se,\"\"\"\"c\nret\",\n", "\"a,\"\"\n\",,\n"),
            (csv(b'\'', b'\\'), "'a\\',',sec\\ret,'\\\\'\n", "'a\\',',,'\\\\'\n"),
            (csv(b'\'', b'\\'), "a,'s\\'e,\\x\\\\',z\n", "a,,z\n"),
        ] {
            let shortening = || Shortening::of_copy(&form, false, vec![false, true, false]);
            assert_eq!(left(shortening, &message(b'd', given.as_bytes())), message(b'd', kept.as_bytes()), "{given}");
            // It is read as the form says.
            assert_eq!(form.cells(given.as_bytes(), 3).unwrap()[0], form.cells(kept.as_bytes(), 3).unwrap()[0]);
        }
    }

    #[test]
    fn what_is_too_large_even_so_is_told_by_what_is_kept_alone() {
        let row = |clear: usize, secret: usize| {
            let mut shortening = Shortening::of_row(vec![false, true]);
            shortening.push(&message(b'D', &2_u16.to_be_bytes())).unwrap();
            for length in [clear, secret] {
                shortening.push(&i32::try_from(length).unwrap().to_be_bytes()).unwrap();
                shortening.push(&vec![b'x'; length]).unwrap();
            }
            shortening.finish().map(|it| it.len())
        };
        assert_eq!(row(MAX_HELD, 10), row(MAX_HELD, 3 * MAX_HELD));
        assert_eq!((row(MAX_KEPT, 0), row(MAX_KEPT, 5)), (None, None));
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        let push = |mut shortening: Shortening, body: &[u8]| shortening.push(&message(b'd', body));
        assert!(push(Shortening::of_row(vec![true]), &[0, 2]).is_err());
        assert!(push(Shortening::of_row(vec![true]), &[0, 1, 0xff, 0, 0, 0]).is_err());
        let text = CopyForm::Text { delimiter: b'\t', header: false };
        assert!(push(Shortening::of_copy(&text, false, vec![true]), b"a\tb\n").is_err());
    }
}
