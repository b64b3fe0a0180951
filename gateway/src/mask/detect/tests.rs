use super::*;

/// All card numbers in a text, as it shows them.
fn cards_in(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    card::find(text.as_bytes(), &mut |range| found.push(&text[range]));
    found
}

fn detectors() -> Detectors {
    let mask = |hits| Applied { kind: MaskKind::Redact, key: None, hits };
    Detectors { used: DetectorKind::ALL.into_iter().enumerate().map(|(i, kind)| (kind, mask(Hits(1 << i)))).collect() }
}

/// What one detector finds in a text, as the text shows it. The quick scan must agree, whatever stands around.
fn all_in(kind: DetectorKind, text: &str) -> Vec<&str> {
    let Detector { may_contain, find } = detector(kind);
    let mut found = Vec::new();
    find(text.as_bytes(), &mut |range| found.push(&text[range]));
    for (before, after) in
        [("", ""), ("D\0\0\0\x35", "9"), ("7", "5"), ("x", "-0"), (" ", " "), ("\0\0\x31\x31", "D\0\0")]
    {
        let around = format!("{before}{text}{after}");
        for shift in 0..if found.is_empty() { 0 } else { 48 } {
            let shifted = format!("{}{around}", "\0".repeat(shift));
            assert!(may_contain(shifted.as_bytes()), "{kind:?} {shifted:?}");
        }
    }
    found
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
            assert!(card::may_contain(text.as_bytes()), "{text}");
        }
    }
    assert_eq!(cards_in("4111111111111111,5555555555554444"), ["4111111111111111", "5555555555554444"]);
    assert_eq!(cards_in("4111 1111 1111 1111 5555 5555 5555 4444"), ["4111 1111 1111 1111", "5555 5555 5555 4444"]);
}

#[test]
fn keys_are_found_alone_only() {
    let keys = |text: &str| all_in(DetectorKind::AwsAccessKey, text).len();
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
                assert!(card::may_contain(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

/// The same for all detectors, over random texts of what matters to each: a cheap generator, the same texts every time.
#[test]
fn no_quick_scan_says_no_where_the_exact_one_finds_something() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap() % below
    };
    let pieces: [(DetectorKind, &[&str]); 11] = [
        (DetectorKind::CreditCard, &["4", "1", "1111", "5", " ", "-", "4111", "411111111111", "9", ".", "x", "\0"]),
        (DetectorKind::Email, &["a", ".", "@", "b", "com", "gi", "f", "-", "_", " ", "\\n", "ü", "\0"]),
        (DetectorKind::Phone, &["+", "0", "(", ")", "5", "30", "555", "-", " ", ".", "1234", "/", "x", "2026", "\0"]),
        (DetectorKind::UsSsn, &["1", "123", "-45-", " 45 ", "-", " ", "00", "6789", "\0", "x"]),
        (DetectorKind::Iban, &["NO93 8601 1117 947", "NO", "93", "8601", "1117947", " ", "-", "x", "\0", "DE"]),
        (DetectorKind::Jwt, &["eyJ", "hbGciOiJIUzI1NiJ9", ".", "e30", "-", " ", "ewo", "\0"]),
        (DetectorKind::PrivateKey, &["-----", "BEGIN ", "END ", "RSA ", "PRIVATE KEY", "\n", "AAAA", "\0"]),
        (DetectorKind::AwsAccessKey, &["AKIA", "ASIA", "IOSFODNN7EXAMPLE", "A", "7", " ", "\0"]),
        (
            DetectorKind::AwsSecretKey,
            &["secret", "=", "wJalrXUtnFEMI/K7MDENG/", "bPxRfiCYEXAMPLEKEY", " ", "AKIA", "\0"],
        ),
        (
            DetectorKind::AzureKey,
            &["AccountKey=", "9rY4", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ", "=", "==", "x", "8Q~", "\0"],
        ),
        (DetectorKind::GoogleKey, &["AIza", "SyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe", "GOCSPX-", "x", "-", " ", "\0"]),
    ];
    for (kind, pieces) in pieces {
        let Detector { may_contain, find } = detector(kind);
        let mut findings = 0;
        for _ in 0..20_000 {
            let text: String = (0..next(30)).map(|_| pieces[next(pieces.len())]).collect();
            let mut found = Vec::new();
            find(text.as_bytes(), &mut |range| found.push(range));
            let mut at = 0;
            for range in &found {
                assert!(
                    range.start >= at && range.start < range.end && text.get(range.clone()).is_some(),
                    "{kind:?} {text:?}"
                );
                at = range.end;
            }
            // Within other bytes, as values are within messages.
            let around = format!("{}{text}{}", pieces[next(pieces.len())], pieces[next(pieces.len())]);
            findings += usize::from(!found.is_empty());
            assert!(found.is_empty() || may_contain(text.as_bytes()), "{kind:?} {text:?}");
            assert!(found.is_empty() || may_contain(around.as_bytes()), "{kind:?} {around:?}");
        }
        assert!(findings > 20, "{kind:?}: {findings} findings are too few to tell");
    }
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

/// What would take minutes if it grew with the square, over and over: much of what each detector begins to look at.
#[test]
fn whatever_is_repeated_takes_linear_time() {
    for piece in [
        "9",
        "9-",
        "1 ",
        "a@",
        "@",
        "a.a",
        "a@b.",
        "+1 ",
        "+",
        "(0",
        "0 1",
        "555-123-",
        "123-45-",
        "DE89 ",
        "AA00",
        "A",
        "a",
        "eyJ",
        "eyJhbGciOiJIUzI1NiJ9.",
        "ey.",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "-",
        "AKIA",
        "AIza",
        "secret",
        "8Q~",
        "AccountKey=",
        "\\n",
        "\u{fc}@",
        "\0",
    ] {
        let text = piece.repeat((1 << 17) / piece.len());
        for kind in DetectorKind::ALL {
            let Detector { may_contain, find } = detector(kind);
            let mut found = 0;
            may_contain(text.as_bytes());
            find(text.as_bytes(), &mut |_| found += 1);
            assert!(found <= text.len());
        }
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
        assert_eq!(card::decimal(&numeric(words), format).as_deref(), expected, "{words:?}");
    }
}

/// Texts in which the detector finds just what is in brackets.
fn finds(kind: DetectorKind, texts: &[&str]) {
    for text in texts {
        let expected: Vec<&str> = text.split('⟦').skip(1).map(|rest| rest.split('⟧').next().unwrap()).collect();
        let plain = text.replace(['⟦', '⟧'], "");
        assert_eq!(all_in(kind, &plain), expected, "{kind:?} in {plain:?}");
    }
}

#[test]
fn addresses_of_mail() {
    finds(
        DetectorKind::Email,
        &[
            "⟦bob@shop.example⟧",
            "write to ⟦bob.o'neil+tag@mail.shop.example⟧, or ⟦al_ice@x-y.example⟧.",
            "<⟦bob@shop.example⟧>",
            "{\"mail\": \"⟦bob@shop.example⟧\"}",
            "first\\n⟦bob@shop.example⟧\\nlast",
            "C:\\temp\\⟦x@shop.example⟧",
            "mailto:⟦bob@shop.example⟧?subject=x",
            "a=1&⟦mail=bob@shop.example⟧&b=2",
            "postgres://bob:⟦secret@db.internal⟧:5432/orders",
            "⟦jürgen@müller.example⟧",
            "⟦иван@почта.рф⟧",
            "⟦bob@xn--mller-kva.example⟧",
            "⟦bounce+bob=shop.example@list.example⟧",
            "⟦bob@shop.example⟧123",
            "⟦BOB@SHOP.EXAMPLE⟧",
            "⟦a@b.example⟧@c.example",
            "...⟦bob@shop.example⟧...",
            "(⟦_x@shop.example⟧)",
        ],
    );
    for text in [
        "",
        "@",
        "bob@",
        "@shop.example",
        "bob@localhost",
        "bob@shop.",
        "bob@.example",
        "bob @shop.example",
        "bob at shop.example",
        "lodash@4.17.21",
        "icon@2x.png",
        "photo@3x.JPEG",
        "bob@-shop.example",
        "a@b.c",
        "user@192.168.0.1",
        "@@@..",
        "'@x.example",
    ] {
        finds(DetectorKind::Email, &[text]);
    }
}

#[test]
fn numbers_of_telephones() {
    finds(
        DetectorKind::Phone,
        &[
            "⟦+49 30 1234567⟧",
            "⟦+1-555-234-5678⟧",
            "⟦+442079460958⟧",
            "call ⟦+44 (0)20 7946 0958⟧.",
            "⟦+41 (0) 44 668 18 00⟧",
            "⟦0049 30 1234567⟧",
            "⟦011 49 30 1234567⟧",
            "⟦001-555-234-5678x890⟧",
            "⟦555-234-5678⟧",
            "⟦(555) 234-5678⟧",
            "⟦(555)234-5678⟧",
            "⟦555.234.5678⟧",
            "⟦1-800-234-5678⟧ toll free",
            "⟦555 234 5678 ext. 12⟧",
            "⟦555-234-5678x1234⟧",
            "⟦030/1234567⟧",
            "⟦(020) 7946 0958⟧",
            "⟦06-12345678⟧",
            "⟦01 23 45 67 89⟧",
            "⟦01.23.45.67.89⟧",
            "⟦0438.088.678⟧",
            "⟦044 668 18 00⟧ and ⟦030 12345678⟧",
            "tel:⟦+4930123456⟧",
            "\\n⟦030 1234567⟧\\n",
            "€⟦+49 30 1234567⟧€",
        ],
    );
    for text in [
        "",
        "+",
        "+1",
        "+49 30",
        "2026-11-21 08:10:02.123456+00",
        "2026-11-21 08:10",
        "01/02/2026 10:30",
        "01-02-2026 10:30",
        "01.02.2026 10:30",
        "21.11.2026",
        "08:10:02",
        "1700000000",
        "5552345678",
        "15552345678",
        "4930123456",
        "0123456789",
        "0012345678901",
        "192.168.100.200",
        "010.011.012.013",
        "550e8400-e29b-41d4-a716-446655440000",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "123-45-6789",
        "911-234-5678",
        "555-034-5678",
        "411-234-5678",
        "1050.1234567",
        "0.0512345678",
        "x555-234-5678",
        "555-234-5678-9",
        "9-555-234-5678",
        "1+12345678901",
        "v1.2.3-4.5.6",
        "12 34 56",
        "+000 000 000 000",
    ] {
        finds(DetectorKind::Phone, &[text]);
    }
}

#[test]
fn numbers_of_social_security() {
    finds(
        DetectorKind::UsSsn,
        &[
            "⟦123-45-6789⟧",
            "SSN: ⟦078-05-1120⟧.",
            "⟦123 45 6789⟧",
            "⟦899-99-9999⟧,⟦001-01-0001⟧",
            "\\t⟦123-45-6789⟧",
            "\"⟦123-45-6789⟧\"",
        ],
    );
    for text in [
        "",
        "123456789",
        "000-45-6789",
        "666-45-6789",
        "900-45-6789",
        "987-65-4321",
        "123-00-6789",
        "123-45-0000",
        "123-45 6789",
        "123.45.6789",
        "1123-45-6789",
        "123-45-67890",
        "x123-45-6789",
        "123-45-6789x",
        "9-123-45-6789",
        "123-45-6789-1",
        "123-456-789",
        "12-345-6789",
        "_123-45-6789",
        "123-45-678",
    ] {
        finds(DetectorKind::UsSsn, &[text]);
    }
}

/// The examples of the registry, of countries with short ones, long ones, and letters in them.
#[test]
fn numbers_of_accounts() {
    finds(
        DetectorKind::Iban,
        &[
            "⟦DE89370400440532013000⟧",
            "⟦DE89 3704 0044 0532 0130 00⟧",
            "⟦DE89-3704-0044-0532-0130-00⟧",
            "⟦NO93 8601 1117 947⟧",
            "to ⟦GB29 NWBK 6016 1331 9268 19⟧ and on",
            "⟦MT84MALT011000012345MTLCAST001S⟧",
            "⟦BR1800360305000010009795493C1⟧.",
            "IBAN:⟦FR14 2004 1010 0505 0001 3M02 606⟧ BIC",
            "⟦DE89 3704 0044 0532 0130 00⟧ AND 12",
            "⟦BE68539007547034⟧,⟦NL91ABNA0417164300⟧",
        ],
    );
    for text in [
        "",
        "DE",
        "DE89",
        "DE88370400440532013000",
        "DE8937040044053201300",
        "DE893704004405320130000",
        "XDE89370400440532013000",
        "de89370400440532013000",
        "ZZ89370400440532013000",
        "DE89  3704  0044  0532  0130  00",
        "GB29 1234 6016 1331 9268 19",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "DE89 3704 0044 0532 0130 00x",
        "550E8400-E29B-41D4-A716-446655440000",
    ] {
        finds(DetectorKind::Iban, &[text]);
    }
}

#[test]
fn tokens() {
    const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
    const PAYLOAD: &str = "eyJzdWIiOiIxMjM0NTY3ODkwIn0";
    const SIGNATURE: &str = "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    let token = format!("{HEADER}.{PAYLOAD}.{SIGNATURE}");
    for text in [
        format!("⟦{token}⟧"),
        format!("Authorization: Bearer ⟦{token}⟧"),
        format!("{{\"t\":\"⟦{token}⟧\"}}"),
        format!("It was ⟦{token}⟧."),
        format!("⟦{HEADER}.{PAYLOAD}.⟧"),
        format!("⟦{HEADER}.e30.{SIGNATURE}⟧"),
        format!("⟦{HEADER}.{PAYLOAD}.{SIGNATURE}.{PAYLOAD}.{SIGNATURE}⟧"),
        format!("session-⟦{token}⟧"),
        format!("⟦eyAiYWxnIjogIm5vbmUiIH0.{PAYLOAD}.⟧"),
        format!("⟦ewogImFsZyI6Im5vbmUifQ.{PAYLOAD}.{SIGNATURE}⟧"),
        format!("\\n⟦{token}⟧"),
    ] {
        finds(DetectorKind::Jwt, &[&text]);
    }
    for text in [
        HEADER,
        "eyJ",
        "eyJ.eyJ.x",
        "hello.world.again",
        &format!("{HEADER}.{PAYLOAD}"),
        &format!("{HEADER}..{SIGNATURE}"),
        "they.eyJab.c",
    ] {
        finds(DetectorKind::Jwt, &[text]);
    }
}

#[test]
fn private_keys() {
    for name in [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ] {
        let key = format!("-----BEGIN {name}-----\nMIIEvQIBADANBg\n+/kq=\n-----END {name}-----");
        finds(
            DetectorKind::PrivateKey,
            &[&format!("⟦{key}⟧"), &format!("key:\n⟦{key}⟧\nbye ⟦{key}⟧"), &format!("⟦{}⟧", key.replace('\n', "\\n"))],
        );
        // The rest of it is elsewhere: all that is here goes.
        finds(
            DetectorKind::PrivateKey,
            &[&format!("x ⟦-----BEGIN {name}-----\nMIIE\n⟧"), &format!("⟦-----BEGIN {name}-----\nMIIE -----END PR⟧")],
        );
    }
    for text in [
        "PRIVATE KEY",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        "-----END PRIVATE KEY-----",
        "--BEGIN PRIVATE KEY--",
        "-----BEGIN PRIVATE KEY",
    ] {
        finds(DetectorKind::PrivateKey, &[text]);
    }
}

#[test]
fn keys_of_clouds() {
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const STORAGE: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    const BUS: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ=";
    const GOOGLE: &str = "AIzaSyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe";
    const OAUTH: &str = "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";
    const ENTRA: &str = "aB18Q~abcdefghijklmnopqrstuvwxyz01234567";
    for text in [
        format!("aws_secret_access_key = ⟦{SECRET}⟧"),
        format!("{{\"SecretAccessKey\":\"⟦{SECRET}⟧\"}}"),
        format!("AKIAIOSFODNN7EXAMPLE:⟦{SECRET}⟧"),
    ] {
        finds(DetectorKind::AwsSecretKey, &[&text]);
    }
    for text in [
        SECRET,
        &format!("secret={SECRET}A"),
        &format!("secret={}", &SECRET[1..]),
        "secret da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ] {
        finds(DetectorKind::AwsSecretKey, &[text]);
    }
    for text in [
        format!("AccountName=shop;AccountKey=⟦{STORAGE}⟧;EndpointSuffix=x"),
        format!("SharedAccessKey=⟦{BUS}⟧"),
        format!("AZURE_STORAGE_KEY: ⟦{STORAGE}⟧"),
        format!("client secret ⟦{ENTRA}⟧"),
    ] {
        finds(DetectorKind::AzureKey, &[&text]);
    }
    for text in [
        STORAGE,
        BUS,
        &format!("AccountKey={}", &STORAGE[..86]),
        &format!("AccountKey=A{STORAGE}"),
        "8Q~",
        &ENTRA[..20],
    ] {
        finds(DetectorKind::AzureKey, &[text]);
    }
    for key in [GOOGLE, OAUTH] {
        finds(DetectorKind::GoogleKey, &[&format!("⟦{key}⟧"), &format!("?key=⟦{key}⟧&x=1"), &format!("\\n⟦{key}⟧")]);
        for text in [
            format!("{key}x"),
            format!("x{key}"),
            format!("{key}-"),
            key[1..].to_owned(),
            key[..key.len() - 1].to_owned(),
        ] {
            finds(DetectorKind::GoogleKey, &[&text]);
        }
    }
}

#[test]
fn findings_over_each_other_are_masked_as_one_by_the_strictest() {
    let used = |kinds: [(DetectorKind, MaskKind); 2]| {
        let mask = |(i, (kind, with)): (usize, (DetectorKind, MaskKind))| {
            (kind, Applied { kind: with, key: None, hits: Hits(1 << i) })
        };
        Detectors { used: kinds.into_iter().enumerate().map(mask).collect() }
    };
    let partial = MaskKind::Partial { keep_last: 4 };
    let text = CellFormat::Text(CellType::Text);
    // An account that has a telephone number in it.
    let value = b"pay DE89 0049 3012 3456 7890 12 GB29 NWBK 6016 1331 9268 19";
    for (iban, phone) in [(MaskKind::Redact, partial.clone()), (partial.clone(), MaskKind::Redact)] {
        let detectors = used([(DetectorKind::Iban, iban), (DetectorKind::Email, phone)]);
        let value = b"x GB29 NWBK 6016 1331 9268 19@shop.example y";
        let (masked, hits) = detectors.mask(value, text).unwrap();
        let masked = String::from_utf8(masked.unwrap()).unwrap();
        assert_eq!(hits, Hits(0b11));
        assert!(!masked.contains("NWBK") && !masked.contains("shop"), "{masked}");
        assert!(masked.contains("[redacted:"), "{masked}");
    }
    let detectors = used([(DetectorKind::Iban, MaskKind::Redact), (DetectorKind::Phone, partial)]);
    let masked = detectors.mask(value, text).unwrap().0.unwrap();
    assert!(masked.ends_with(b"[redacted:iban]"), "{:?}", String::from_utf8_lossy(&masked));
}

#[test]
fn what_is_left_of_a_finding_has_no_letter_more() {
    let mut masked = Vec::new();
    stars("jürgen@müller.example".as_bytes(), 4, &mut masked);
    assert_eq!(String::from_utf8(masked).unwrap(), "******@******.***mple");
    let mut masked = Vec::new();
    stars(b"caf\xe9@shop.example", 4, &mut masked);
    assert_eq!(masked, b"***");
}

#[test]
fn json_stays_json_around_a_finding() {
    let json = CellFormat::Text(CellType::Json);
    for (value, expected) in [
        ("{\"a\": \"x\\nbob@shop.example\\n\"}", Some("{\"a\": \"x\\n[redacted:email]\\n\"}")),
        (
            "{\"a\": \"-----BEGIN PRIVATE KEY-----\\nx\\n-----END PRIVATE KEY-----\"}",
            Some("{\"a\": \"[redacted:private_key]\"}"),
        ),
        ("{\"a\": \"-----BEGIN PRIVATE KEY-----\\nx\"}", None),
        ("{\"a\": 4111111111111111}", None),
    ] {
        let (masked, _) = detectors().mask(value.as_bytes(), json).unwrap();
        assert_eq!(masked.map(|it| String::from_utf8(it).unwrap()).as_deref(), expected);
    }
    // A date, a uuid and a small number have no room for anything.
    for cell_type in [CellType::Timestamp, CellType::Uuid, CellType::Int4, CellType::Bool] {
        assert!(detectors().mask(b"bob@shop.example", CellFormat::Text(cell_type)).is_none());
    }
}
