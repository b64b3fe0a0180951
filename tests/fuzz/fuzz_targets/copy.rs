//! Rows of a COPY, taken apart and put together: what was taken apart is written as it was read, in parts as in one, and what the header
//! of binary data is stands at its beginning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::copy::{BINARY_HEADER, Cell, CopyForm, binary_header};

const MOST_COLUMNS: usize = 8;

fuzz_target!(|input: (u8, u8, [u8; 3], &str, &[u8])| {
    let (kind, columns, [delimiter, quote, escape], null, data) = input;
    if let Ok((header, rest)) = binary_header(data) {
        assert!(header.len() == BINARY_HEADER && [header, rest].concat() == data);
    }
    // As the server has them: no letters, digits, dots or line ends, and no quotation mark in what stands for NULL.
    let is_fit = |byte: u8| {
        byte.is_ascii_graphic() && !byte.is_ascii_alphanumeric() && byte != b'.' && byte != b'\\' || byte == b'\t'
    };
    if !is_fit(delimiter) {
        return;
    }
    let form = if kind % 2 == 0 {
        CopyForm::Text { delimiter, header: false }
    } else {
        let plain = |it: char| it.is_ascii_graphic() && ![delimiter, quote].contains(&(it as u8));
        let escape = if kind % 4 == 1 { quote } else { escape };
        if !quote.is_ascii_graphic() || quote == delimiter || !escape.is_ascii_graphic() || !null.chars().all(plain) {
            return;
        }
        CopyForm::Csv { delimiter, quote, escape, null: null.to_owned(), header: false }
    };
    let columns = usize::from(columns) % MOST_COLUMNS;
    let row = [data, b"\n"].concat();
    let Ok(cells) = form.cells(&row, columns) else { return };
    assert_eq!(cells.len(), columns);
    let written = put(&form, &cells);
    assert_eq!(form.cells(&written, columns).as_ref(), Ok(&cells), "{written:?} of {row:?}");
    // What the server would have written itself comes out as it went in.
    let again = form.cells(&written, columns).map(|it| put(&form, &it));
    assert_eq!(again, Ok(written));
    for at in 1..columns {
        let (one, other) = (put(&form, &cells[..at]), put(&form, &cells[at..]));
        let parts = [form.cells(&one, at), form.cells(&other, columns - at)].map(|it| it.expect("it was written"));
        let values: Vec<_> = parts.iter().flatten().map(|it| &it.value).collect();
        assert_eq!(values, cells.iter().map(|it| &it.value).collect::<Vec<_>>(), "{at} of {row:?}");
    }
});

fn put(form: &CopyForm, cells: &[Cell<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(form.delimiter());
        }
        form.write(cell.value.as_deref(), cell.quoted, cells.len() == 1, &mut out);
    }
    out.push(b'\n');
    out
}
