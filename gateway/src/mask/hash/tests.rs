use std::collections::HashSet;

use super::*;

fn key(byte: u8) -> HashKey {
    HashKey::new(&Secret::new(vec![byte; MIN_KEY])).unwrap()
}

fn seen(format: CellFormat, width: Option<usize>, value: &[u8]) -> Vec<u8> {
    hashed(&key(1), format, width, value).unwrap()
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// One value of each type that has room for a hash, in text and in binary.
fn pairs() -> Vec<(CellType, Vec<u8>, Vec<u8>)> {
    let uuid = 0x550e_8400_e29b_41d4_a716_4466_5544_0000_u128;
    vec![
        (CellType::Text, b"900-11-1002".to_vec(), b"900-11-1002".to_vec()),
        (CellType::Int2, b"-12".to_vec(), (-12i16).to_be_bytes().to_vec()),
        (CellType::Int4, b"123456".to_vec(), 123_456i32.to_be_bytes().to_vec()),
        (CellType::Int8, b"9007199254740993".to_vec(), 9_007_199_254_740_993i64.to_be_bytes().to_vec()),
        (CellType::Numeric, b"-12345.670".to_vec(), words(&[3, 1, 0x4000, 3, 1, 2345, 6700])),
        (CellType::Uuid, b"550e8400-e29b-41d4-a716-446655440000".to_vec(), uuid.to_be_bytes().to_vec()),
        (CellType::Json, b"{\"a\": 1}".to_vec(), b"{\"a\": 1}".to_vec()),
        (CellType::Jsonb, b"{\"a\": 1}".to_vec(), b"\x01{\"a\": 1}".to_vec()),
        (CellType::Bytea, b"\\x00ff10".to_vec(), vec![0, 0xff, 0x10]),
    ]
}

/// The vectors of RFC 4231 (test case 6 has a long key, and so no `MIN_KEY` in its way).
#[test]
fn it_is_hmac_sha_256() {
    let key = HashKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[0xaa; 131])));
    let digest = key.digest(b"Test Using Larger Than Block-Size Key - Hash Key First");
    assert_eq!(hexadecimal(digest.as_ref()), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    assert_eq!(base32(b"foobar", 10), "mzxw6ytboi");
}

#[test]
fn a_hash_is_a_value_of_its_type_and_the_same_in_both_formats() {
    for (cell_type, text, binary) in pairs() {
        let (in_text, in_binary) = (CellFormat::Text(cell_type), CellFormat::Binary(cell_type));
        let (shown, sent) = (seen(in_text, None, &text), seen(in_binary, None, &binary));
        let shown = String::from_utf8(shown).unwrap();
        match cell_type {
            CellType::Text => assert_eq!((shown.as_bytes(), shown.len()), (&sent[..], TEXT_LENGTH)),
            CellType::Int2 => assert_eq!(shown, i16::from_be_bytes(sent.try_into().unwrap()).to_string()),
            CellType::Int4 => assert_eq!(shown, i32::from_be_bytes(sent.try_into().unwrap()).to_string()),
            CellType::Int8 => assert_eq!(shown, i64::from_be_bytes(sent.try_into().unwrap()).to_string()),
            CellType::Numeric => assert_eq!(Some(shown), numeric_text(&sent)),
            CellType::Uuid => {
                assert_eq!((&shown[14..15], shown.len()), ("8", 36), "{shown}");
                assert!("89ab".contains(&shown[19..20]), "{shown}");
                assert_eq!(shown.replace('-', ""), hexadecimal(&sent));
            }
            CellType::Json => assert_eq!(shown.as_bytes(), sent),
            CellType::Jsonb => assert_eq!((1, shown.as_bytes()), (sent[0], &sent[1..])),
            CellType::Bytea => assert_eq!(shown, format!("\\x{}", hexadecimal(&sent))),
            _ => unreachable!("{cell_type:?}"),
        }
    }
}

#[test]
fn the_same_value_looks_the_same_and_others_do_not() {
    for (cell_type, text, _) in pairs() {
        let format = CellFormat::Text(cell_type);
        let of = |key: &HashKey, value: &[u8]| hashed(key, format, None, value).unwrap();
        let one = of(&key(1), &text);
        assert_eq!(one, of(&key(1), &text), "{cell_type:?}");
        assert_ne!(one, of(&key(2), &text), "{cell_type:?} under another key");
        assert_ne!(one, of(&key(1), b"7"), "{cell_type:?}");
    }
    let many: HashSet<Vec<u8>> = (0..2_000)
        .map(|number: u32| seen(CellFormat::Text(CellType::Int8), None, number.to_string().as_bytes()))
        .collect();
    assert_eq!(many.len(), 2_000);
}

#[test]
fn a_type_s_bounds_are_kept() {
    for width in [1, 2, 11, 26, 100] {
        let text = seen(CellFormat::Text(CellType::Text), Some(width), b"secret");
        assert_eq!(text.len(), width.min(TEXT_LENGTH));
    }
    for width in [1, 4, 9, 18, 38] {
        let text = seen(CellFormat::Text(CellType::Numeric), Some(width), b"1.50");
        assert!(text.len() <= width.min(NUMERIC_DIGITS), "{text:?}");
        assert_eq!(
            numeric_text(&seen(CellFormat::Binary(CellType::Numeric), Some(width), &words(&[2, 0, 0, 1, 1, 5000]))),
            Some(String::from_utf8(text).unwrap())
        );
    }
    // numeric(2, 2) has no digits before its point.
    assert_eq!(hashed(&key(1), CellFormat::Text(CellType::Numeric), Some(0), b"0.15"), None);
}

#[test]
fn types_without_room_are_null() {
    for cell_type in [
        CellType::Bool,
        CellType::Float4,
        CellType::Float8,
        CellType::Date,
        CellType::Timestamp,
        CellType::Array,
        CellType::Other,
    ] {
        for format in [CellFormat::Text(cell_type), CellFormat::Binary(cell_type)] {
            assert_eq!(hashed(&key(1), format, None, b"t"), None, "{format:?}");
        }
    }
}

#[test]
fn numerics_are_read_as_the_server_writes_them() {
    for (binary, expected) in [
        (&[0u16, 0, 0, 0] as &[u16], Some("0")),
        (&[0, 0, 0, 2], Some("0")),
        (&[1, 0, 0, 0, 7], Some("7")),
        (&[1, 2, 0, 0, 7], Some("700000000")),
        (&[2, 1, 0, 2, 1, 2345], Some("12345")),
        (&[2, 0, 0x4000, 1, 1, 5000], Some("-1.5")),
        (&[1, 0xffff, 0, 4, 5], Some("0.0005")),
        (&[1, 0xfffe, 0, 8, 5], Some("0.00000005")),
        (&[0, 0, 0xc000, 0], Some("NaN")),
        (&[0, 0, 0xd000, 0], Some("Infinity")),
        (&[0, 0, 0xf000, 0], Some("-Infinity")),
        (&[0, 0, 0x1234, 0], None),
        (&[2, 0, 0, 0, 7], None),
        (&[0, 0], None),
    ] {
        assert_eq!(numeric_text(&words(binary)).as_deref(), expected, "{binary:?}");
    }
    for (text, expected) in [("1.50", "1.5"), ("100", "100"), ("1.00", "1"), ("0.0", "0"), ("NaN", "NaN"), ("", "")] {
        assert_eq!(without_trailing_zeros(text.as_bytes()), expected.as_bytes());
    }
}

#[test]
fn what_is_no_value_of_its_type_is_hashed_all_the_same() {
    let types = [CellType::Int4, CellType::Numeric, CellType::Uuid, CellType::Jsonb, CellType::Bytea, CellType::Text];
    for cell_type in types {
        for value in [&b""[..], b"\xff", b"\\x0", b"\\xzz", b"\0\0\0", b"12.", b"."] {
            for format in [CellFormat::Text(cell_type), CellFormat::Binary(cell_type)] {
                assert!(hashed(&key(1), format, None, value).is_some(), "{format:?} {value:?}");
            }
        }
    }
}

#[test]
fn short_keys_are_refused_and_no_key_is_printed() {
    assert_eq!(HashKey::new(&Secret::new(b"hunter2".to_vec())).unwrap_err(), WeakKey(7));
    let key = HashKey::new(&Secret::new(b"0123456789abcdef0123456789abcdef".to_vec())).unwrap();
    assert_eq!(format!("{key:?}"), "HashKey(..)");
}
