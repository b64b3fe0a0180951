use super::*;

/// All card numbers in a text, as it shows them.
fn cards_in(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    cards(text.as_bytes(), |range| found.push(&text[range]));
    found
}

fn detectors() -> Detectors {
    let mask = |bits| Some(Applied { kind: MaskKind::Redact, key: None, hits: Hits(bits) });
    Detectors { card: mask(1), aws_key: mask(2) }
}

#[test]
fn numbers_that_are_no_cards_are_left_alone() {
    for text in [
        "",
        "4111111111111112",        // check digit
        "0000000000000000",        // no issuer
        "1234567812345670",        // no issuer, check digit right
        "411111111111",            // too short
        "41111111111111111111111", // too long
        "94111111111111111",       // part of a longer number
        "41111111111111119",
        "x4111111111111111", // part of a word
        "4111111111111111x",
        "_4111111111111111",
        "0.4111111111111111", // decimals
        "4111111111111111.25",
        "4111  1111  1111  1111",  // two separators
        "4111-1111 1111-1111",     // two kinds
        "41-11-11-11-11-11-11-11", // groups as no card has them
        "4111_1111_1111_1111",
        "2026-11-21 08:10:02.123456",
        "1700000000000",
        "550e8400-e29b-41d4-a716-446655440000",
        "+49 30 1234 5678",
    ] {
        assert_eq!(cards_in(text), [] as [&str; 0], "{text}");
    }
}

#[test]
fn cards_are_found_wherever_they_stand() {
    for card in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4222222222222",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "30569309025904",
        "3056 930902 5904",
        "6011111111111117",
        "3530111333300000",
        "6200000000000005",
        "6304000000000000",
    ] {
        for (before, after) in
            [("", ""), ("card: ", "."), ("(", ")"), ("1 ", " 2"), ("12345 ", ""), ("\"", "\","), ("€", "€")]
        {
            let text = format!("{before}{card}{after}");
            assert_eq!(cards_in(&text), [card], "{text}");
            assert!(may_contain_card(text.as_bytes()), "{text}");
        }
    }
    assert_eq!(cards_in("4111111111111111,5555555555554444"), ["4111111111111111", "5555555555554444"]);
    assert_eq!(cards_in("4111 1111 1111 1111 5555 5555 5555 4444"), ["4111 1111 1111 1111", "5555 5555 5555 4444"]);
}

#[test]
fn keys_are_found_alone_only() {
    let keys = |text: &str| detectors().find(text.as_bytes()).len();
    for text in [
        "AKIA",
        "AKIAIOSFODNN7EXAMPL",
        "akiaiosfodnn7example",
        "AKIAIOSFODNN7EXAMPL1",
        "XAKIAIOSFODNN7EXAMPLE",
        "AKIAIOSFODNN7EXAMPLEE",
    ] {
        assert_eq!(keys(text), 0, "{text}");
    }
    for text in ["AKIAIOSFODNN7EXAMPLE", "key=ASIAIOSFODNN7EXAMPLE;", "\u{e9}AKIAIOSFODNN7EXAMPLE\n"] {
        assert_eq!(keys(text), 1, "{text}");
    }
}

/// The quick scan must never say no where the exact one finds something, wherever values begin and end in the bytes.
#[test]
fn the_quick_scan_never_says_no_wrongly() {
    let cards = ["4111111111111111", "4222222222222", "3782 822463 10005", "4111-1111-1111-1111"];
    for card in cards {
        for before in 0..40 {
            for (fill, next) in [(b'x', b'D'), (0, 0), (b'9', b'9'), (b' ', b' '), (b'-', b'7'), (b',', b'5')] {
                let mut bytes = vec![fill; before];
                bytes.extend_from_slice(card.as_bytes());
                bytes.extend([next; 3]);
                assert!(may_contain_card(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }
    // Random texts over the letters that matter: a cheap generator, the same texts every time.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap() % below
    };
    let alphabet = b"4411155 -0123456789.x\0";
    let mut findings = 0;
    for _ in 0..20_000 {
        let text: Vec<u8> = (0..next(80)).map(|_| alphabet[next(alphabet.len())]).collect();
        let found = !detectors().find(&text).is_empty();
        findings += usize::from(found);
        assert!(!found || detectors().may_contain(&text), "{:?}", String::from_utf8_lossy(&text));
    }
    assert!(findings > 20, "{findings} findings are too few to tell");
}

#[test]
fn the_quick_scan_lets_common_data_pass() {
    for text in [
        "1700000000000",
        "2026-11-21 08:10:02.123456+00",
        "The quick brown fox 12 34 56",
        "550e8400-e29b-41d4-a716-446655440000",
        "\0\0\0\x04\0\0\0\x01\0\0\0\x0a1234567890\0\0\0\x0c123456789012",
        "99999999999999999999999999",
    ] {
        assert!(!detectors().may_contain(text.as_bytes()), "{text}");
    }
}

#[test]
fn long_runs_take_linear_time() {
    let digits = vec![b'9'; 256 << 10];
    let dashes: Vec<u8> = b"9-".repeat(128 << 10);
    for bytes in [digits, dashes] {
        assert!(!may_contain_card(&bytes));
        let mut found = 0;
        cards(&bytes, |_| found += 1);
        assert_eq!(found, 0);
    }
}

#[test]
fn numbers_in_binary_are_read() {
    let numeric = |words: &[u16]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
    let format = CellFormat::Binary(CellType::Numeric);
    for (words, expected) in [
        (&[1u16, 3, 0, 0, 4111] as &[u16], Some("4111000000000000")),
        (&[2, 0, 0, 4, 1, 5000], None), // 1.5
        (&[1, 0, 0x4000, 0, 7], None),  // negative
        (&[1, 0xffff, 0, 4, 7], None),  // below 1
        (&[1, 9, 0, 0, 1], None),       // beyond any card
        (&[0, 0, 0xc000, 0], None),     // NaN
        (&[0, 0, 0, 0], Some("0")),
        (&[1, 0], None),
    ] {
        assert_eq!(decimal(&numeric(words), format).as_deref(), expected, "{words:?}");
    }
}
