use super::*;

use CellType::{Array, Bool, Bytea, Date, Float8, Int2, Int4, Int8, Json, Jsonb, Numeric, Other, Timestamp, Uuid};

const CARD: &str = "4111111111111111";
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

fn rule(name: &str, detectors: &[DetectorKind], with: MaskKind) -> Arc<MaskRule> {
    let columns = vec!["*.*.ssn".parse().unwrap()];
    Arc::new(MaskRule {
        name: name.to_owned(),
        targets: vec![],
        columns,
        detectors: detectors.to_vec(),
        with,
        lookups_per_minute: None,
    })
}

fn finders(with: MaskKind) -> Masker {
    let both = [DetectorKind::CreditCard, DetectorKind::AwsAccessKey];
    Masker::for_target(&[rule("secrets", &both, with)], "orders")
}

fn as_they_are(masks: &[Arc<MaskRule>], format: CellFormat) -> ColumnMasks<'_> {
    ColumnMasks { masks: Cow::Borrowed(masks), computed: false, format, width: None, parts: None }
}

/// One cell under these column masks; `-` is NULL.
fn masked(masks: &[Arc<MaskRule>], format: CellFormat, value: &[u8]) -> Vec<u8> {
    let masker = Masker::for_target(masks, "orders");
    let plan = masker.plan([as_they_are(masks, format)]);
    assert!(plan.by_cell());
    assert_eq!(masker.pass_rows(&plan, b"x"), Err(NeedsMasking::Columns));
    let cell = masker.mask_cell(&plan, 0, Some(value));
    assert!(!cell.hits.is_empty());
    cell.value().map_or(b"-".to_vec(), |value| value.get().to_vec())
}

fn found(format: CellFormat, value: &[u8], with: MaskKind) -> Vec<u8> {
    let masker = finders(with);
    let plan = masker.plan([as_they_are(&[], format)]);
    let cell = masker.mask_cell(&plan, 0, Some(value));
    let visible = cell.value().map_or(b"-".to_vec(), |value| value.get().to_vec());
    assert_eq!(cell.hits.is_empty(), visible == value, "{cell:?}");
    visible
}

#[test]
fn a_masked_value_is_a_value_of_its_type_or_null() {
    use CellFormat::{Binary, Text};
    let text = CellType::Text;
    let fixed = |text: &str| MaskKind::Fixed(text.to_owned());
    let partial = MaskKind::Partial { keep_last: 4 };
    let (minus_seven, one_and_a_half) = ((-7i64).to_be_bytes(), 1.5f64.to_be_bytes());
    let uuid = "00000000-0000-4000-8000-00000000000a";
    let uuid_bytes = 0x0000_0000_0000_4000_8000_0000_0000_000a_u128.to_be_bytes();
    let cases: Vec<(MaskKind, CellFormat, &[u8], &[u8])> = vec![
        (MaskKind::Null, Text(text), b"secret", b"-"),
        (MaskKind::Redact, Text(text), b"secret", b"***"),
        (MaskKind::Redact, Binary(text), b"secret", b"***"),
        (MaskKind::Redact, Text(Int4), b"12345", b"-"),
        (MaskKind::Redact, Binary(Int4), &[0, 0, 0, 1], b"-"),
        (MaskKind::Redact, Binary(Int2), &[0, 1], b"-"),
        (MaskKind::Redact, Text(Bool), b"t", b"-"),
        (MaskKind::Redact, Text(Date), b"1970-01-01", b"-"),
        (MaskKind::Redact, Text(Timestamp), b"1970-01-01 00:00:00", b"-"),
        (MaskKind::Redact, Binary(Numeric), &[0; 10], b"-"),
        (MaskKind::Redact, Text(Uuid), uuid.as_bytes(), b"-"),
        (MaskKind::Redact, Text(Array), b"{a,b}", b"-"),
        (MaskKind::Redact, Text(Bytea), b"\\x00", b"-"),
        (MaskKind::Redact, Text(Other), b"(1,2)", b"-"),
        (MaskKind::Redact, Text(Json), b"{\"a\":1}", b"\"***\""),
        (MaskKind::Redact, Text(Jsonb), b"{\"a\":1}", b"\"***\""),
        (MaskKind::Redact, Binary(Json), b"{}", b"\"***\""),
        (MaskKind::Redact, Binary(Jsonb), b"\x01{}", b"\x01\"***\""),
        (partial.clone(), Text(text), b"900-11-1002", b"*******1002"),
        (partial.clone(), Text(text), b"1002", b"****"),
        (partial.clone(), Text(text), b"2", b"*"),
        (partial.clone(), Text(text), "äöüß€é".as_bytes(), "**üß€é".as_bytes()),
        (partial.clone(), Text(text), b"\xff\xfe", b"***"),
        (partial.clone(), Text(Json), b"\"900-11-1002\"", b"\"***\""),
        (partial.clone(), Text(Int8), b"9001110021", b"-"),
        (fixed("n/a"), Text(text), b"secret", b"n/a"),
        (fixed("n/a"), Text(Int4), b"1", b"-"),
        (fixed("7"), Text(Int4), b"1", b"7"),
        (fixed("7"), Binary(Int2), &[0, 1], &[0, 7]),
        (fixed("7"), Binary(Int4), &[0, 0, 0, 1], &[0, 0, 0, 7]),
        (fixed("99999"), Binary(Int2), &[0, 1], b"-"),
        (fixed("-7"), Binary(Int8), &[0; 8], &minus_seven),
        (fixed("1.5"), Binary(Float8), &[0; 8], &one_and_a_half),
        (fixed("0"), Text(Numeric), b"1.5", b"0"),
        (fixed("0"), Binary(Numeric), &[0; 8], b"-"),
        (fixed("true"), Text(Bool), b"f", b"t"),
        (fixed("true"), Binary(Bool), &[0], &[1]),
        (fixed("maybe"), Text(Bool), b"f", b"-"),
        (fixed(uuid), Text(Uuid), b"x", uuid.as_bytes()),
        (fixed(uuid), Binary(Uuid), &[1; 16], &uuid_bytes),
        (fixed("no"), Text(Uuid), b"x", b"-"),
        (fixed("{\"a\": 1}"), Text(Json), b"1", b"{\"a\": 1}"),
        (fixed("say \"x\""), Text(Json), b"1", b"\"say \\\"x\\\"\""),
        (fixed("x"), Binary(Jsonb), b"\x01{}", b"\x01\"x\""),
        (fixed("hi"), Text(Bytea), b"\\x00", b"\\x6869"),
        (fixed("1970-01-01"), Text(Date), b"2000-01-01", b"-"),
        (fixed("x"), Text(Array), b"{a}", b"-"),
    ];
    for (with, format, value, expected) in cases {
        let seen = masked(&[rule("m", &[], with.clone())], format, value);
        assert_eq!(seen, expected, "{with:?} {format:?} {:?}", String::from_utf8_lossy(&seen));
    }
}

#[test]
fn the_strictest_of_several_masks_wins() {
    let partial = |keep_last| rule("partial", &[], MaskKind::Partial { keep_last });
    let fixed = || rule("fixed", &[], MaskKind::Fixed("x".to_owned()));
    let redact = || rule("redact", &[], MaskKind::Redact);
    // Without its key: it shows nothing.
    let hash = || rule("hash", &[], MaskKind::Hash { key: key_at("a") });
    let null = || rule("null", &[], MaskKind::Null);
    for (masks, expected) in [
        (vec![partial(4), null(), redact(), fixed()], "-"),
        (vec![partial(4), redact(), fixed()], "***"),
        (vec![partial(4), hash(), fixed()], "x"),
        (vec![partial(4), hash()], "***"),
        (vec![partial(4), partial(2), partial(3)], "****56"),
    ] {
        for masks in [masks.clone(), masks.into_iter().rev().collect()] {
            let seen = masked(&masks, CellFormat::Text(CellType::Text), b"123456");
            assert_eq!(String::from_utf8(seen).unwrap(), expected);
        }
    }
}

#[test]
fn what_a_column_s_mask_leaves_is_looked_at_too() {
    let keep = rule("keep", &[DetectorKind::CreditCard], MaskKind::Partial { keep_last: 16 });
    let seen = masked(&[keep], CellFormat::Text(CellType::Text), format!("card {CARD}").as_bytes());
    assert!(!String::from_utf8(seen.clone()).unwrap().contains(CARD), "{seen:?}");
}

#[test]
fn nulls_and_unknown_columns_are_null() {
    let masker = finders(MaskKind::Redact);
    let plan = masker.plan([as_they_are(&[], CellFormat::Text(CellType::Text))]);
    assert!(masker.mask_cell(&plan, 0, None).is_null());
    let beyond = masker.mask_cell(&plan, 1, Some(b"value"));
    assert!(beyond.is_null());
}

#[test]
fn findings_are_masked_in_place_and_stay_valid() {
    use CellFormat::{Binary, Text};
    let text = CellType::Text;
    let seven = 7i64.to_be_bytes();
    let int = 4_111_111_111_111_111i64.to_be_bytes();
    // 4111 1111 1111 1111 as numeric: 4 groups, weight 3, positive, no scale.
    let numeric: Vec<u8> = [4u16, 3, 0, 0, 4111, 1111, 1111, 1111].iter().flat_map(|word| word.to_be_bytes()).collect();
    let redact = || MaskKind::Redact;
    let cases: Vec<(MaskKind, CellFormat, &[u8], &[u8])> = vec![
        (redact(), Text(text), b"pay 4111-1111-1111-1111 now", b"pay [redacted:credit_card] now"),
        (redact(), Binary(text), b"key AKIAIOSFODNN7EXAMPLE.", b"key [redacted:aws_access_key]."),
        (
            redact(),
            Text(text),
            b"AKIAIOSFODNN7EXAMPLE 4111111111111111",
            b"[redacted:aws_access_key] [redacted:credit_card]",
        ),
        (redact(), Text(Json), b"{\"pan\": \"4111111111111111\"}", b"{\"pan\": \"[redacted:credit_card]\"}"),
        (redact(), Binary(Jsonb), b"\x01{\"pan\": \"4111111111111111\"}", b"\x01{\"pan\": \"[redacted:credit_card]\"}"),
        (redact(), Text(Json), b"{\"pan\": 4111111111111111}", b"-"),
        (redact(), Text(Array), b"{4111111111111111}", b"-"),
        (redact(), Text(Other), b"(4111111111111111,x)", b"-"),
        (redact(), Text(Int8), b"4111111111111111", b"-"),
        (redact(), Text(Numeric), b"4111111111111111", b"-"),
        (redact(), Binary(Int8), &int, b"-"),
        (redact(), Binary(Numeric), &numeric, b"-"),
        (redact(), Text(text), b"caf\xe9 4111111111111111", b"caf\xe9 [redacted:credit_card]"),
        (MaskKind::Null, Text(text), b"x 4111111111111111", b"-"),
        (MaskKind::Fixed("#".to_owned()), Text(text), b"x 4111111111111111 y", b"x # y"),
        (MaskKind::Partial { keep_last: 4 }, Text(text), b"4111 1111 1111 1111", b"**** **** **** 1111"),
        (MaskKind::Partial { keep_last: 4 }, Text(text), KEY.as_bytes(), b"****************MPLE"),
        (MaskKind::Partial { keep_last: 32 }, Text(text), CARD.as_bytes(), b"****************"),
        // And what is none stays.
        (redact(), Text(text), b"4111111111111112", b"4111111111111112"),
        (redact(), Binary(Int8), &seven, &seven),
        (redact(), Binary(Int8), b"short", b"short"),
        (redact(), Binary(Numeric), &numeric[..7], &numeric[..7]),
        (redact(), Binary(Int4), &[0, 0, 0, 1], &[0, 0, 0, 1]),
    ];
    for (with, format, value, expected) in cases {
        let seen = found(format, value, with);
        assert_eq!(seen, expected, "{format:?} {:?}", String::from_utf8_lossy(&seen));
    }
}

#[test]
fn rows_pass_whole_only_where_nothing_can_be_in_them() {
    let masker = finders(MaskKind::Redact);
    let text = || as_they_are(&[], CellFormat::Text(CellType::Text));
    let plan = masker.plan([text(), text()]);
    assert!(!plan.by_cell());
    assert_eq!(masker.pass_rows(&plan, b"\0\0\0\x05plain").map(Masked::into_inner), Ok(&b"\0\0\0\x05plain"[..]));
    // Framing next to the value: a length of 49 reads as '1', the next message's type as 'D'.
    for row in [format!("\0\0\0\x10{CARD}"), format!("\0\0\0\x31{CARD}D"), format!("D\0\0\0\x20{KEY}C")] {
        assert_eq!(masker.pass_rows(&plan, row.as_bytes()), Err(NeedsMasking::Finding), "{row:?}");
        assert_eq!(masker.pass_text(false, row.as_bytes()), Err(NeedsMasking::Finding));
    }
    // Numbers whose digits are not in the bytes are looked at one by one.
    let number = || as_they_are(&[], CellFormat::Binary(Int8));
    assert!(masker.plan([text(), number()]).by_cell());
    let nobody = Masker::for_target(&[], "orders");
    assert!(!nobody.plan([text(), number()]).by_cell());
    assert!(nobody.pass_rows(&nobody.plan([text()]), CARD.as_bytes()).is_ok());
}

#[test]
fn text_of_the_target_passes_only_where_no_masked_column_can_speak_in_it() {
    let masker = finders(MaskKind::Redact);
    assert_eq!(masker.pass_text(true, b"relation does not exist"), Err(NeedsMasking::Columns));
    assert!(masker.pass_text(false, b"relation does not exist").is_ok());
    let masked = masker.mask_text(format!("invalid input \"{CARD}\"").as_bytes()).value().unwrap().get().to_vec();
    assert_eq!(masked, b"invalid input \"[redacted:credit_card]\"");
}

#[test]
fn masks_of_other_targets_do_not_count() {
    let mut elsewhere = MaskRule::clone(&rule("elsewhere", &[DetectorKind::CreditCard], MaskKind::Redact));
    elsewhere.targets = vec!["billing".to_owned()];
    let masks = [Arc::new(elsewhere), rule("all", &[DetectorKind::CreditCard], MaskKind::Null)];
    let masker = Masker::for_target(&masks, "orders");
    assert_eq!(masker.rules().len(), 1);
    let cell = masker.mask_text(CARD.as_bytes());
    assert_eq!(masker.names(cell.hits).collect::<Vec<_>>(), ["all"]);
    assert_eq!(cell.value().unwrap().get(), b"***");
}

#[test]
fn observing_reports_and_changes_nothing() {
    let masks = [rule("m", &[DetectorKind::CreditCard], MaskKind::Redact)];
    let masker = Masker::for_target(&masks, "orders").observing();
    let plan = masker.plan([as_they_are(&masks, CellFormat::Text(CellType::Text))]);
    let cell = masker.mask_cell(&plan, 0, Some(b"secret"));
    assert_eq!(cell.value().unwrap().get(), b"secret");
    assert_eq!(masker.names(cell.hits).collect::<Vec<_>>(), ["m"]);
    let text = masker.mask_text(CARD.as_bytes());
    assert_eq!((text.value().unwrap().get(), text.hits.is_empty()), (&CARD.as_bytes(), false));
}

#[test]
fn messages_are_put_together_from_masked_values() {
    let masker = finders(MaskKind::Redact);
    let mut buffer = MaskedBuffer::new();
    buffer.framing([b'D', 0, 0, 0, 0]);
    buffer.cell(&masker.mask_text(CARD.as_bytes()));
    buffer.append(&Masked::from_gateway(b"!"));
    let length = u32::try_from(buffer.len() - 1).unwrap();
    assert_eq!(buffer.set_u32(1, length), Ok(()));
    assert!(buffer.set_u32(buffer.len() - 3, 0).is_err());
    assert_eq!(buffer.as_masked().get()[..5], [b'D', 0, 0, 0, 27]);
    assert!(buffer.into_masked().get().ends_with(b"[redacted:credit_card]!"));
}

#[test]
fn what_is_no_column_is_refused() {
    for text in ["", "a", "a.b", "a.b.c.d", "a..c", ".b.c", "a.b.", "a.b. c", "a.b*.c"] {
        assert!(text.parse::<ColumnPattern>().is_err(), "{text:?}");
    }
    let pattern: ColumnPattern = "*.customers.*".parse().unwrap();
    assert_eq!((pattern.schema.clone(), pattern.table.as_deref()), (None, Some("customers")));
    assert_eq!(pattern.to_string(), "*.customers.*");
}

#[test]
fn of_a_computed_value_nothing_is_left_and_null_looks_the_same() {
    let format = CellFormat::Text(CellType::Text);
    for (with, expected) in [
        (MaskKind::Partial { keep_last: 4 }, Some("***")),
        (MaskKind::Redact, Some("***")),
        (MaskKind::Fixed("x".to_owned()), Some("x")),
        (MaskKind::Null, None),
    ] {
        let masks = [rule("PII", &[], with)];
        let masker = Masker::for_target(&masks, "orders");
        let plan = masker.plan([ColumnMasks { computed: true, ..as_they_are(&masks, format) }]);
        for value in [Some(&b"900-11-1002"[..]), Some(b""), None] {
            let cell = masker.mask_cell(&plan, 0, value);
            assert_eq!(cell.value().map(Masked::into_inner), expected.map(str::as_bytes));
        }
        let masker = masker.observing();
        assert!(masker.mask_cell(&plan, 0, None).is_null());
    }
}

fn key_at(name: &str) -> crate::target::CredentialSource {
    crate::target::CredentialSource::Credential(name.to_owned())
}

fn hash_key(byte: u8) -> HashKey {
    HashKey::new(&crate::secret::Secret::new(vec![byte; 32])).unwrap()
}

#[test]
fn a_hash_shows_that_values_are_equal_and_nothing_else() {
    let masks = [rule("ids", &[DetectorKind::CreditCard], MaskKind::Hash { key: key_at("a") })];
    let masker = Masker::for_target(&masks, "orders");
    assert_eq!(masker.key_sources().collect::<Vec<_>>(), [&key_at("a")]);
    let masker = masker.with_keys(&[(key_at("b"), hash_key(2)), (key_at("a"), hash_key(1))]);
    let plan = masker.plan([
        as_they_are(&masks, CellFormat::Text(CellType::Text)),
        as_they_are(&[], CellFormat::Text(CellType::Text)),
    ]);
    let see = |index, value: Option<&[u8]>| {
        let cell = masker.mask_cell(&plan, index, value);
        cell.value().map(|it| String::from_utf8(it.get().to_vec()).unwrap())
    };
    let (one, other, none) = (see(0, Some(b"a@shop.example")), see(0, Some(b"b@shop.example")), see(0, None));
    assert_eq!(see(0, Some(b"a@shop.example")), one);
    assert_eq!(one, Some(hash_key(1).text(b"a@shop.example")));
    assert!(one != other && none.is_none(), "{one:?} {other:?} {none:?}");
    // A finding is not: it may be the agent's own word.
    let found = see(1, Some(format!("pay {CARD} now").as_bytes())).unwrap();
    assert_eq!(found, "pay [redacted:credit_card] now");
    // In a number there is no place for it.
    let plan = masker.plan([as_they_are(&[], CellFormat::Text(Int8))]);
    assert!(masker.mask_cell(&plan, 0, Some(CARD.as_bytes())).is_null());
}

#[test]
fn a_hash_of_a_computed_value_and_one_without_its_key_show_nothing() {
    let masks = [rule("ids", &[DetectorKind::CreditCard], MaskKind::Hash { key: key_at("a") })];
    let format = CellFormat::Text(CellType::Text);
    let keyless = Masker::for_target(&masks, "orders").with_keys(&[(key_at("b"), hash_key(2))]);
    let plan = keyless.plan([as_they_are(&masks, format), as_they_are(&[], format)]);
    for value in [Some(&b"secret"[..]), None] {
        assert_eq!(keyless.mask_cell(&plan, 0, value).value().map(Masked::into_inner), Some(&b"***"[..]));
    }
    let found = keyless.mask_cell(&plan, 1, Some(CARD.as_bytes()));
    assert_eq!(found.value().map(Masked::into_inner), Some(&b"[redacted:credit_card]"[..]));
    let masker = Masker::for_target(&masks, "orders").with_keys(&[(key_at("a"), hash_key(1))]);
    let plan = masker.plan([ColumnMasks { computed: true, ..as_they_are(&masks, format) }]);
    for value in [Some(&b"secret"[..]), Some(b""), None] {
        assert_eq!(masker.mask_cell(&plan, 0, value).value().map(Masked::into_inner), Some(&b"***"[..]));
    }
}

/// One hash in some twenty of a bigint is a number of nineteen digits, and a few of those are a card's.
#[test]
fn a_hash_is_no_finding() {
    let masks = [rule("ids", &[DetectorKind::CreditCard], MaskKind::Hash { key: key_at("a") })];
    let masker = Masker::for_target(&masks, "orders").with_keys(&[(key_at("a"), hash_key(1))]);
    let finders = finders(MaskKind::Redact);
    let numbers = CellFormat::Text(Int8);
    let (plan, looked_at) = (masker.plan([as_they_are(&masks, numbers)]), finders.plan([as_they_are(&[], numbers)]));
    let mut look_like_cards = 0;
    for number in 0..20_000u32 {
        let number = number.to_string();
        let cell = masker.mask_cell(&plan, 0, Some(number.as_bytes()));
        let hash = cell.value().expect("a number").get().to_vec();
        look_like_cards += usize::from(!finders.mask_cell(&looked_at, 0, Some(&hash)).hits.is_empty());
    }
    assert!(look_like_cards > 0, "no hash looks like a card: this shows nothing");
}
