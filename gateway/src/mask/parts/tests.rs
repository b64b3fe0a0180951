use std::sync::Arc;

use super::super::{CellFormat, ColumnMasks, MaskKind, MaskRule, Masker, RowPlan};
use super::*;

type Given<'r> = Part<ColumnMasks<'r>>;

fn rule(with: MaskKind) -> Arc<MaskRule> {
    let (name, targets, columns, detectors) = (format!("{with:?}"), Vec::new(), Vec::new(), Vec::new());
    Arc::new(MaskRule { name, targets, columns, detectors, with, lookups_per_minute: None })
}

struct Masks {
    masker: Masker,
    rules: [Arc<MaskRule>; 2],
}

impl Masks {
    fn new() -> Self {
        let rules = [rule(MaskKind::Redact), rule(MaskKind::Partial { keep_last: 2 })];
        Self { masker: Masker::for_target(&rules, "any"), rules }
    }

    fn value(&self, rule: usize, format: CellFormat) -> Given<'_> {
        let masks = Cow::Borrowed(&self.rules[rule..=rule]);
        Part::Value(ColumnMasks { masks, computed: false, format, width: None, parts: None })
    }

    fn text(&self, rule: usize) -> Given<'_> {
        self.value(rule, CellFormat::Text(CellType::Text))
    }

    fn plan(&self, format: CellFormat, parts: Given<'_>) -> RowPlan {
        let masks = Cow::Borrowed(&self.rules[..]);
        self.masker.plan([ColumnMasks { masks, computed: true, format, width: None, parts: Some(Box::new(parts)) }])
    }

    fn shown(&self, format: CellFormat, parts: Given<'_>, value: &[u8]) -> Option<Vec<u8>> {
        let plan = self.plan(format, parts);
        let cell = self.masker.mask_cell(&plan, 0, Some(value));
        cell.value().map(|it| it.into_inner().to_vec())
    }

    fn line(&self, format: CellFormat, parts: Given<'_>, value: &str) -> String {
        let shown = self.shown(format, parts, value.as_bytes());
        shown.map_or("NULL".to_owned(), |it| String::from_utf8(it).unwrap())
    }
}

fn fields<'r>(syntax: Syntax, parts: impl IntoIterator<Item = (&'static str, Given<'r>)>) -> Given<'r> {
    Part::Fields(syntax, parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect())
}

const ROW: CellFormat = CellFormat::Text(CellType::Other);
const ARRAY: CellFormat = CellFormat::Text(CellType::Array);
const JSON: CellFormat = CellFormat::Text(CellType::Json);

/// What `record_out` writes.
#[test]
fn rows_in_text() {
    let masks = Masks::new();
    let of = |value: &str| {
        let parts = fields(Syntax::Native, [("a", Part::Clear), ("b", masks.text(1)), ("c", Part::Clear)]);
        masks.line(ROW, parts, value)
    };
    for (value, expected) in [
        ("(1,secret,)", "(1,****et,)"),
        ("(,,)", "(,,)"),
        (r#"("a ""b"" \\ (,",x"y""z"\\q,"")"#, r#"("a ""b"" \\ (,","****\\q","")"#),
        (r#"(1,"",2)"#, r#"(1,"",2)"#),
        (r#"(1,"se, c",2)"#, r#"(1,"*** c",2)"#),
    ] {
        assert_eq!(of(value), expected, "{value}");
    }
    // None of these has the three fields.
    for value in [
        "(1,secret)",
        "(1,secret,2,3)",
        "1,secret,2",
        "(1,secret,2",
        "(1,secret,2))",
        "(1,se(cret,2)",
        "(1,\"secret,2)",
        "",
        "(1,\\",
    ] {
        assert_eq!(of(value), "NULL", "{value}");
    }
}

/// What `array_out` writes.
#[test]
fn arrays_in_text() {
    let masks = Masks::new();
    let of = |value: &str| masks.line(ARRAY, Part::Items(Syntax::Native, Box::new(masks.text(1))), value);
    for (value, expected) in [
        ("{}", "{}"),
        ("{secret,NULL,\"NULL\"}", "{****et,NULL,**LL}"),
        (r#"{"a \"b\" {","\\\\x"}"#, r#"{"***** {","*\\x"}"#),
    ] {
        assert_eq!(of(value), expected, "{value}");
    }
    for value in ["", "{", "{,}", "{a,}", "{{a}}", "[0:0]={a}", "{a}b", "{\"a}", "{a\\"] {
        assert_eq!(of(value), "NULL", "{value}");
    }
    let rows =
        Part::Items(Syntax::Native, Box::new(fields(Syntax::Native, [("a", Part::Clear), ("b", masks.text(0))])));
    assert_eq!(masks.line(ARRAY, rows, r#"{"(1,x)","(2,\"y z\")",NULL}"#), r#"{"(1,***)","(2,***)",NULL}"#);
}

#[test]
fn json() {
    let masks = Masks::new();
    let of = |value: &str| {
        let number = masks.value(0, CellFormat::Text(CellType::Int4));
        let rows = Part::Items(Syntax::Json, Box::new(fields(Syntax::Json, [("t", masks.text(1))])));
        let parts = [("id", Part::Clear), ("n", number), ("t", masks.text(1)), ("rows", rows)];
        masks.line(JSON, fields(Syntax::Json, parts), value)
    };
    for (value, expected) in [
        (r#"{"id":1,"n":2,"t":"secret","rows":[]}"#, r#"{"id":1,"n":null,"t":"****et","rows":[]}"#),
        ("null", "null"),
        // A value that is JSON has white space of its own.
        (
            r#" {"id" : {"t": ["x", {"n": 1.5e-3}], "y": "}"}, "n" :  [ 1, "]" ] , "t": "a\"\u00e9\\é" , "rows" : null} "#,
            r#" {"id" : {"t": ["x", {"n": 1.5e-3}], "y": "}"}, "n" :null, "t":"***\\é", "rows" : null} "#,
        ),
        (
            r#"{"id":"","\u006e":7,"t":null,"rows": [ {"t":"secret"}, null ,{"t":null}]}"#,
            r#"{"id":"","\u006e":null,"t":null,"rows": [ {"t":"****et"}, null ,{"t":null}]}"#,
        ),
        // Half a character is no text, and a value all the same.
        (r#"{"id":1,"n":2,"t":"\ud800","rows":[]}"#, r#"{"id":1,"n":null,"t":"******0\"","rows":[]}"#),
    ] {
        assert_eq!(of(value), expected, "{value}");
    }
    let else_than = [
        r#"{"id":1,"n":2,"t":"secret"}"#,
        r#"{"id":1,"n":2,"t":"secret","rows":[],"more":1}"#,
        r#"{"n":2,"id":1,"t":"secret","rows":[]}"#,
        r#"{"id":1,"n":2,"t":"secret","rows":{"t":1}}"#,
        r#"{"id":1,"n":2,"t":"secret","rows":[]} 1"#,
        r#"{"id":1,"n":2,"t":"secret","rows":[]"#,
        r#"{"id":1,"n":2,"t":"secret,"rows":[]}"#,
        r#"{"id":1,"n":}"#,
        r#"{"id"}"#,
        "[]",
        "nil",
        "",
        "{\u{c}}",
        "{\"id\":\u{c}}",
    ];
    for value in else_than {
        assert_eq!(of(value), "\"***\"", "{value}");
    }
    // What a type's mask gives is JSON in JSON's place.
    for (cell_type, with, written, expected) in [
        (CellType::Bool, "true", "false", "true"),
        (CellType::Int8, "12", "7", "12"),
        (CellType::Numeric, "12", "7.5", "12"),
        (CellType::Jsonb, "{\"a\": 1}", "[2]", "{\"a\": 1}"),
        (CellType::Text, "a \"b\"", "\"x\"", "\"a \\\"b\\\"\""),
        (CellType::Date, "2020-01-01", "\"2021-01-01\"", "null"),
    ] {
        let rules = [rule(MaskKind::Fixed(with.to_owned()))];
        let masker = Masker::for_target(&rules, "any");
        let column =
            |format, parts| ColumnMasks { masks: Cow::Borrowed(&rules), computed: false, format, width: None, parts };
        let value = Part::Value(column(CellFormat::Text(cell_type), None));
        let plan = masker.plan([column(JSON, Some(Box::new(fields(Syntax::Json, [("v", value)]))))]);
        let written = format!("{{\"v\":{written}}}");
        let cell = masker.mask_cell(&plan, 0, Some(written.as_bytes()));
        assert_eq!(cell.value().unwrap().into_inner(), format!("{{\"v\":{expected}}}").as_bytes(), "{cell_type:?}");
    }
}

/// What `record_send` and `array_send` write.
#[test]
fn rows_and_arrays_in_binary() {
    let masks = Masks::new();
    let text = || masks.value(1, CellFormat::Binary(CellType::Text));
    let number = |number: i32| number.to_be_bytes().to_vec();
    let cell = |value: Option<&[u8]>| match value {
        None => number(-1),
        Some(value) => [number(i32::try_from(value.len()).unwrap()), value.to_vec()].concat(),
    };
    let row = |b: Option<&[u8]>| [number(2), number(23), cell(Some(&[0, 0, 0, 1])), number(25), cell(b)].concat();
    let parts = || fields(Syntax::Native, [("a", Part::Clear), ("b", text())]);
    let of_row = |value: &[u8]| masks.shown(CellFormat::Binary(CellType::Other), parts(), value);
    assert_eq!(of_row(&row(Some(b"secret"))), Some(row(Some(b"****et"))));
    assert_eq!(of_row(&row(None)), Some(row(None)));
    let whole = row(Some(b"secret"));
    for cut in 0..whole.len() {
        assert_eq!(of_row(&whole[..cut]), None, "{cut}");
    }
    assert_eq!(of_row(&[whole, vec![0]].concat()), None);
    assert_eq!(of_row(&number(3)), None);
    // No length, and not what stands for NULL either.
    assert_eq!(of_row(&[number(2), number(23), cell(None), number(25), number(-2)].concat()), None);

    let array = |flags: i32, items: &[Option<&[u8]>]| {
        let count = number(i32::try_from(items.len()).unwrap());
        let items: Vec<u8> = items.iter().flat_map(|it| cell(*it)).collect();
        [number(1), number(flags), number(25), count, number(1), items].concat()
    };
    let of_array = |value: &[u8]| {
        masks.shown(CellFormat::Binary(CellType::Array), Part::Items(Syntax::Native, Box::new(text())), value)
    };
    // Whether one is NULL is not told ahead.
    assert_eq!(of_array(&array(0, &[Some(b"secret")])), Some(array(1, &[Some(b"****et")])));
    assert_eq!(of_array(&array(1, &[Some(b"secret"), None])), Some(array(1, &[Some(b"****et"), None])));
    assert_eq!(
        of_array(&[number(0), number(0), number(25)].concat()),
        Some([number(0), number(1), number(25)].concat())
    );
    assert_eq!(of_array(&[number(2), number(0), number(25)].concat()), None);
    let endless = [number(1), number(0), number(25), number(i32::MAX), number(1)].concat();
    assert_eq!(of_array(&endless), None);
}

#[test]
fn jsonb_in_binary_has_its_version_before_it() {
    let masks = Masks::new();
    let of = |value: &[u8]| {
        let parts = fields(Syntax::Jsonb, [("t", masks.text(0))]);
        masks.shown(CellFormat::Binary(CellType::Jsonb), parts, value)
    };
    assert_eq!(of(b"\x01{\"t\": \"x\"}"), Some(b"\x01{\"t\":\"***\"}".to_vec()));
    assert_eq!(of(b"\x02{\"t\": \"x\"}"), Some(b"\x01\"***\"".to_vec()));
}

/// A NULL in the place of all of it is nobody's secret, and within it is one.
#[test]
fn nulls() {
    let masks = Masks::new();
    let plan = masks.plan(ROW, fields(Syntax::Native, [("a", masks.text(0)), ("b", masks.text(1))]));
    assert!(masks.masker.mask_cell(&plan, 0, None).is_null());
    let cell = masks.masker.mask_cell(&plan, 0, Some(b"(,)"));
    assert_eq!(cell.value().unwrap().into_inner(), b"(***,)");
}
