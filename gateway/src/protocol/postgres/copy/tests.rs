use proptest::prelude::*;

use super::*;

const TEXT: CopyForm = CopyForm::Text { delimiter: b'\t', header: false };

fn csv() -> CopyForm {
    CopyForm::Csv { delimiter: b',', quote: b'"', escape: b'"', null: String::new(), header: false }
}

fn values(form: &CopyForm, row: &[u8], columns: usize) -> Result<Vec<Option<Vec<u8>>>, NotInForm> {
    let cells = form.cells(row, columns)?;
    Ok(cells.into_iter().map(|cell| cell.value.map(Cow::into_owned)).collect())
}

fn some(values: &[&str]) -> Vec<Option<Vec<u8>>> {
    values.iter().map(|it| Some(it.as_bytes().to_vec())).collect()
}

fn written(form: &CopyForm, values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(form.delimiter());
        }
        form.write(value.as_deref(), false, values.len() == 1, &mut out);
    }
    out.push(b'\n');
    out
}

#[test]
fn text_as_the_server_writes_it() {
    assert_eq!(values(&TEXT, b"1\tada\t\\N\n", 3), Ok([some(&["1", "ada"]), vec![None]].concat()));
    assert_eq!(values(&TEXT, b"a\\tb\\\\c\\nd\t\n", 2), Ok(some(&["a\tb\\c\nd", ""])));
    // NULL and a value that looks like it.
    assert_eq!(values(&TEXT, b"\\\\N\t\\N\n", 2), Ok([some(&["\\N"]), vec![None]].concat()));
    assert_eq!(values(&TEXT, b"\n", 0), Ok(Vec::new()));
    assert_eq!(values(&TEXT, b"\n", 1), Ok(some(&[""])));
    for (row, columns) in
        [(&b"1\t2"[..], 2), (b"1\t2\n", 1), (b"1\t2\n", 3), (b"1\n2\n", 1), (b"1\\\n", 1), (b"x\n", 0)]
    {
        assert_eq!(values(&TEXT, row, columns), Err(NotInForm), "{row:?}");
    }
}

#[test]
fn csv_as_the_server_writes_it() {
    assert_eq!(values(&csv(), b"1,ada,,\"\"\n", 4), Ok([some(&["1", "ada"]), vec![None], some(&[""])].concat()));
    assert_eq!(values(&csv(), b"\"a,b\",\"c\"\"d\",\"e\nf\"\n", 3), Ok(some(&["a,b", "c\"d", "e\nf"])));
    assert!(csv().cells(b"\"a\",b\n", 2).unwrap()[0].quoted);
    assert_eq!(values(&csv(), b"\"\\.\"\n", 1), Ok(some(&["\\."])));
    assert_eq!(values(&csv(), b"\\.,\\.\n", 2), Ok(some(&["\\.", "\\."])));
    let other = CopyForm::Csv { delimiter: b';', quote: b'\'', escape: b'\\', null: "-".to_owned(), header: false };
    assert_eq!(values(&other, b"-;'-';'it\\'s \\\\'\n", 3), Ok([vec![None], some(&["-", "it's \\"])].concat()));
    for (row, columns) in [
        (&b"\"a\n"[..], 1),
        (b"\"a\"b\n", 1),
        (b"a\"b\n", 1),
        (b"a\nb\n", 1),
        (b"a,b\n", 1),
        (b"a\n", 2),
        (b"\\.\n", 1),
    ] {
        assert_eq!(values(&csv(), row, columns), Err(NotInForm), "{row:?}");
    }
}

#[test]
fn binary_begins_with_its_signature() {
    let data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01rest";
    assert_eq!(binary_header(data).map(|(_, rest)| rest), Ok(&b"\0\x01rest"[..]));
    assert_eq!(binary_header(&data[..18]), Err(NotInForm));
    assert_eq!(binary_header(b"PGCOPY\n\xff\r\n\0\0\x01\0\0\0\0\0\0"), Err(NotInForm));
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        rows in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..8)), 1..5),
        form in prop_oneof![
            Just(TEXT),
            Just(CopyForm::Text { delimiter: b'|', header: false }),
            Just(csv()),
            Just(CopyForm::Csv { delimiter: b'|', quote: b'\'', escape: b'\\', null: "N".to_owned(), header: false }),
        ],
    ) {
        prop_assert_eq!(values(&form, &written(&form, &rows), rows.len()), Ok(rows));
    }

    #[test]
    fn no_row_does_harm(row in prop::collection::vec(prop::sample::select(b"a\\N\t\n,\"'".to_vec()), 0..20), columns in 0..4_usize) {
        for form in [TEXT, csv()] {
            if let Ok(cells) = form.cells(&row, columns) {
                prop_assert_eq!(cells.len(), columns);
            }
        }
    }
}
