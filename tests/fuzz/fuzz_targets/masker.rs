//! Whatever a value is, what takes its place is a value of its type in its format, or NULL, and has nothing of it but what a
//! mask leaves.
#![no_main]

use std::borrow::Cow;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir::mask::{CellFormat, CellType, ColumnMasks, DetectorKind, HashKey, MaskKind, MaskRule, Masker, Part, Syntax};
use weir::secret::Secret;
use weir::target::CredentialSource;

const TYPES: [CellType; 16] = [
    CellType::Bool,
    CellType::Int2,
    CellType::Int4,
    CellType::Int8,
    CellType::Float4,
    CellType::Float8,
    CellType::Numeric,
    CellType::Text,
    CellType::Uuid,
    CellType::Date,
    CellType::Timestamp,
    CellType::Json,
    CellType::Jsonb,
    CellType::Bytea,
    CellType::Array,
    CellType::Other,
];
/// What a mask with `keep_last` leaves.
const KEPT: usize = 4;

fuzz_target!(|input: (u8, u8, bool, bool, &[u8])| {
    let (kind, cell, is_binary, computed, value) = input;
    let key = CredentialSource::Credential("key".to_owned());
    let with = match kind % 5 {
        0 => MaskKind::Redact,
        1 => MaskKind::Null,
        2 => MaskKind::Partial { keep_last: KEPT },
        3 => MaskKind::Hash { key: key.clone() },
        _ => MaskKind::Fixed(String::from_utf8_lossy(value).into_owned()),
    };
    let cell = TYPES[usize::from(cell) % TYPES.len()];
    let format = if is_binary { CellFormat::Binary(cell) } else { CellFormat::Text(cell) };
    let rule = Arc::new(MaskRule {
        name: "fuzz".to_owned(),
        targets: Vec::new(),
        columns: vec!["*.*.x".parse().expect("a column")],
        detectors: vec![DetectorKind::CreditCard, DetectorKind::AwsAccessKey],
        with: with.clone(),
        lookups_per_minute: None,
    });
    let masks = [rule];
    let hash_key = HashKey::new(&Secret::new(vec![7; 32])).expect("a key");
    let masker = Masker::for_target(&masks, "orders").with_keys(&[(key, hash_key)]);
    let width = if matches!(cell, CellType::Text | CellType::Numeric) { Some(usize::from(kind / 5)) } else { None };
    let plan = masker.plan([ColumnMasks { masks: Cow::Borrowed(&masks), computed, format, width, parts: None }]);
    let masked = masker.mask_cell(&plan, 0, Some(value));
    assert!(!masked.hits.is_empty(), "a masked column says so");
    detectors_agree(value);
    parts_agree(&masks, &masker, value, is_binary);
    let Some(seen) = masked.value().map(|it| it.get().to_vec()) else { return };
    let length = match (is_binary, cell) {
        (true, CellType::Bool) => Some(1),
        (true, CellType::Int2) => Some(2),
        (true, CellType::Int4 | CellType::Float4) => Some(4),
        (true, CellType::Int8 | CellType::Float8) => Some(8),
        (true, CellType::Uuid) => Some(16),
        _ => None,
    };
    assert!(length.is_none_or(|it| it == seen.len()), "{format:?} of {} bytes", seen.len());
    match (is_binary, cell) {
        (false, CellType::Json | CellType::Jsonb) | (true, CellType::Json) => {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&seen).is_ok(), "{seen:?}");
        }
        (true, CellType::Jsonb) => assert_eq!(seen.first(), Some(&1)),
        _ => {}
    }
    if let (MaskKind::Partial { .. }, CellType::Text, Ok(text)) = (&with, cell, std::str::from_utf8(&seen)) {
        let shown = text.chars().filter(|c| *c != '*').count();
        assert!(shown <= KEPT && (!computed || shown == 0), "{text:?}");
    }
});

/// A value that has the parts that it should have is as good a value when something in it is masked, and the same if nothing is; any
/// other is covered whole.
fn parts_agree<'m>(masks: &'m [Arc<MaskRule>], masker: &Masker, value: &[u8], is_binary: bool) {
    let format = |cell| if is_binary { CellFormat::Binary(cell) } else { CellFormat::Text(cell) };
    let column =
        |format, parts| ColumnMasks { masks: Cow::Borrowed(masks), computed: false, format, width: None, parts };
    let shown = |cell, part: Part<ColumnMasks<'m>>| {
        let plan = masker.plan([ColumnMasks { computed: true, ..column(format(cell), Some(Box::new(part))) }]);
        masker.mask_cell(&plan, 0, Some(value)).value().map(|it| it.get().to_vec())
    };
    for (syntax, cell) in
        [(Syntax::Native, CellType::Other), (Syntax::Json, CellType::Json), (Syntax::Jsonb, CellType::Jsonb)]
    {
        let is_text = syntax != Syntax::Native;
        let fields = |part: Part<_>| Part::Fields(syntax, vec![("a".to_owned(), Part::Clear), ("b".to_owned(), part)]);
        let items = |part: Part<_>| Part::Items(syntax, Box::new(part));
        let whole = masker.mask_cell(
            &masker.plan([ColumnMasks { computed: true, ..column(format(cell), None) }]),
            0,
            Some(value),
        );
        let whole = whole.value().map(|it| it.get().to_vec());
        let same = shown(cell, fields(Part::Clear));
        let found = DetectorKind::ALL.iter().any(|it| !it.find(value).is_empty());
        assert!(found || same == whole || same.as_deref() == Some(value), "{syntax:?} {same:?}");
        let masked = || {
            Part::Value(column(if is_text { CellFormat::Text(CellType::Text) } else { format(CellType::Text) }, None))
        };
        for part in [fields(masked()), items(masked()), items(fields(masked())), fields(items(masked()))] {
            let Some(seen) = shown(cell, part) else { continue };
            let json = if syntax == Syntax::Jsonb && is_binary { seen.get(1..).unwrap_or_default() } else { &seen[..] };
            let good = |json: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
            let was = if syntax == Syntax::Jsonb && is_binary { value.get(1..).unwrap_or_default() } else { value };
            assert!(!is_text || !good(was) || good(json), "{seen:?}");
        }
    }
}

/// What a detector finds in a value, the scan of raw bytes does not miss, whatever stands around it; and it is in order, and no
/// character is cut.
fn detectors_agree(value: &[u8]) {
    let mut around = value[..value.len().min(3)].to_vec();
    around.extend_from_slice(value);
    around.extend_from_slice(&value[value.len().saturating_sub(3)..]);
    for detector in DetectorKind::ALL {
        let found = detector.find(value);
        let mut from = 0;
        for range in &found {
            assert!(
                from <= range.start && range.start < range.end && range.end <= value.len(),
                "{detector:?} {range:?}"
            );
            let text = std::str::from_utf8(value);
            assert!(
                text.is_ok_and(|text| text.get(range.clone()).is_some()) || text.is_err(),
                "{detector:?} {range:?}"
            );
            from = range.end;
        }
        let rule = MaskRule {
            name: "fuzz".to_owned(),
            targets: Vec::new(),
            columns: Vec::new(),
            detectors: vec![detector],
            with: MaskKind::Null,
            lookups_per_minute: None,
        };
        let masker = Masker::for_target(&[Arc::new(rule)], "orders");
        assert!(found.is_empty() || masker.may_contain(&around), "{detector:?}");
    }
}
