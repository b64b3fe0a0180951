mod statements;

use std::fmt::Write;
use std::time::{Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::policy::Access;

fn nothing_tagged() -> TaggedSet {
    TaggedSet::empty(SystemTime::UNIX_EPOCH)
}

/// Ways to make a tree deep: what opens a level, the innermost part, what closes it.
const DEEP: &[(&str, &str, &str)] = &[
    ("SELECT |(", "1", ")"),
    ("SELECT 1|+1", "", ""),
    ("SELECT |- ", "1", ""),
    ("SELECT |NOT ", "true", ""),
    ("SELECT |f(", "1", ")"),
    ("SELECT |(SELECT ", "1", ")"),
    ("SELECT 1| UNION SELECT 1", "", ""),
    ("SELECT 1, 2| UNION ALL SELECT 1, 2", "", ""),
    ("SELECT 1 FROM t| CROSS JOIN t", "", ""),
    ("SELECT 1 FROM |(t JOIN ", "t", " ON true)"),
    ("SELECT |CASE WHEN ", "true", " THEN 1 END"),
    ("SELECT |ARRAY[", "1", "]"),
    ("SELECT |ROW(", "1", ")"),
    ("|WITH a AS (", "SELECT 1", ") SELECT 1"),
    ("SELECT 1|::int", "", ""),
    ("SELECT 1| IS NULL", "", ""),
    ("SELECT 'x'| COLLATE \"C\"", "", ""),
    ("SELECT true| AND true", "", ""),
    ("SELECT |(true AND ", "true", ")"),
    ("SELECT 1| OPERATOR(pg_catalog.+) 1", "", ""),
    ("SELECT |JSON_ARRAY(", "1", ")"),
    ("SELECT |XMLELEMENT(NAME a, ", "'x'", ")"),
    ("SELECT |COALESCE(1, ", "1", ")"),
    ("SELECT * FROM |(SELECT * FROM ", "t", ") AS q"),
];

fn deep((open, inner, close): (&str, &str, &str), levels: usize) -> String {
    let (first, level) = open.split_once('|').unwrap_or((open, ""));
    format!("{first}{}{inner}{}", level.repeat(levels), close.repeat(levels))
}

/// The deepest text of that shape that is within a limit of nesting.
fn deepest(shape: (&str, &str, &str), limit: usize) -> String {
    let fits = |levels: usize| Lexed::new(&deep(shape, levels)).is_ok_and(|it| it.nesting <= limit);
    let (mut low, mut high) = (1, limit * 2);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle) { low = middle } else { high = middle }
    }
    deep(shape, low)
}

/// A database with tagged columns `customers.ssn`, `customers.email` and `people.email`, and with ways around them.
fn shop() -> TaggedSet {
    use crate::mask::{ColumnPattern, MaskKind, MaskRule};
    use crate::protocol::postgres::catalog::{ColumnRow, RelationRow, Snapshot, UserFunction};

    let relation = |oid, schema: &str, name: &str, kind| RelationRow {
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        rows: None,
        columns: 100,
    };
    let column = |relation, number, name: &str| ColumnRow { relation, number, name: name.to_owned() };
    let function =
        |name: &str, shadows, takes_row| (name.to_owned(), UserFunction { shadows, takes_row, planned: false });
    let pattern = |table: Option<&str>, column: &str| ColumnPattern {
        schema: table.map(|_| "public".to_owned()),
        table: table.map(str::to_owned),
        column: column.to_owned(),
    };
    let snapshot = Snapshot {
        relations: vec![
            relation(20_001, "public", "customers", 'r'),
            relation(20_002, "public", "orders", 'r'),
            relation(20_003, "public", "log", 'r'),
            relation(20_004, "public", "people", 'p'),
            relation(20_005, "public", "people_1", 'r'),
            relation(20_006, "public", "customer_view", 'v'),
            relation(20_007, "public", "view_of_view", 'v'),
            relation(20_008, "public", "customer_matview", 'm'),
            relation(20_009, "public", "mv_orders", 'm'),
            relation(1_259, "pg_catalog", "pg_class", 'r'),
            relation(11_000, "pg_catalog", "pg_stats", 'v'),
            relation(11_001, "pg_catalog", "pg_settings", 'v'),
            relation(11_002, "pg_catalog", "pg_stat_activity", 'v'),
        ],
        columns: vec![
            column(20_001, 3, "ssn"),
            column(20_001, 4, "email"),
            column(20_004, 2, "email"),
            column(20_005, 5, "email"),
        ],
        rewrites: vec![(20_006, 20_001), (20_007, 20_006), (20_008, 20_001), (20_009, 20_002)],
        opaque: Vec::new(),
        inherits: vec![(20_005, 20_004)],
        policies: Vec::new(),
        made_of: vec![(column(20_001, 6, "ssn_upper"), (20_001, 3))],
        functions: vec![function("leak", true, true), function("initcap", true, false)],
        take_one: Some(["leak", "initcap", "lower", "ts_stat", "lo_get", "dressed"].map(str::to_owned).into()),
        operators: vec!["~~~".to_owned()],
        cast_types: vec!["dressed".to_owned()],
        ..Snapshot::default()
    };
    let mask = Arc::new(MaskRule {
        name: "PII".to_owned(),
        targets: Vec::new(),
        columns: vec![pattern(Some("customers"), "ssn"), pattern(None, "email")],
        detectors: Vec::new(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    });
    TaggedSet::resolve(&snapshot, &[mask], SystemTime::UNIX_EPOCH).expect("every pattern resolves")
}

/// `update w:orders r:log where` and so on, one for each action.
fn shown(actions: &[Action]) -> String {
    let one = |action: &Action| {
        let mut words = vec![action.kind.to_string()];
        for table in &action.tables {
            let access = if table.access == Access::Write { "w" } else { "r" };
            let schema = table.schema.as_ref().map(|it| format!("{it}.")).unwrap_or_default();
            words.push(format!("{access}:{schema}{}", table.name));
        }
        words.extend(action.functions.iter().map(|it| format!("{it}()")));
        // Of queries: see `queries_have_a_where_or_take_whole_tables`.
        match action.has_where.filter(|_| action.kind != Kind::Select) {
            Some(true) => words.push("where".to_owned()),
            Some(false) => words.push("all".to_owned()),
            None => {}
        }
        words.extend(action.has_limit.filter(|it| *it).map(|_| "limit".to_owned()));
        words.join(" ")
    };
    actions.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// How a statement relates to tagged data, without the details of [`Class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Untouched,
    Plain,
    Traced,
    Refused,
}

impl From<&Class> for Relation {
    fn from(class: &Class) -> Self {
        match class {
            Class::Untouched => Self::Untouched,
            Class::Plain { .. } => Self::Plain,
            Class::Traced { .. } => Self::Traced,
            Class::Refused { .. } => Self::Refused,
        }
    }
}

fn only(parsed: Parsed) -> Statement {
    match parsed {
        Parsed::Statements(mut statements) if statements.len() == 1 => statements.remove(0),
        other => panic!("not one statement: {other:?}"),
    }
}

#[test]
fn every_statement_has_its_actions_and_its_relation_to_tagged_data() {
    let set = shop();
    let mut wrong = String::new();
    for (relation, sql, actions) in statements::STATEMENTS {
        let statement = only(analyse_blocking(sql, &set));
        let seen = (Relation::from(&statement.class), shown(&statement.actions));
        if seen != (*relation, (*actions).to_owned()) {
            let _ = writeln!(wrong, "{sql}\n  {seen:?}\n  {:?}", statement.class);
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn without_tagged_data_only_pinned_settings_are_refused() {
    let set = nothing_tagged();
    for (_, sql, _) in statements::STATEMENTS {
        let statement = only(analyse_blocking(sql, &set));
        let pinned = ["latin1", "off", "set_config(name, setting", "CREATE VIEW v AS SELECT * FROM pg_settings"]
            .iter()
            .any(|it| sql.contains(it));
        let expected = if pinned { Relation::Refused } else { Relation::Untouched };
        assert_eq!(Relation::from(&statement.class), expected, "{sql}");
    }
}

/// Bodies as hostile as they come: none takes long, and what is too much is not understood.
#[test]
fn the_code_of_a_do_costs_its_length_or_is_not_understood() {
    let set = nothing_tagged();
    let body = |text: &str| format!("DO $x${text}$x$");
    let many = |open: &str, times: usize, close: &str| [open.repeat(times), close.repeat(times)].concat();
    let understood = |sql: &str| {
        let began = Instant::now();
        let parsed = analyse_blocking(sql, &set);
        let is_unparsed = parsed.actions().iter().any(|it| it.kind == Kind::Unparsed);
        let limit = Duration::from_secs(20);
        assert!(began.elapsed() < limit, "{:?} for {} bytes", began.elapsed(), sql.len());
        !is_unparsed
    };
    assert!(understood(&body(&format!("BEGIN {} END", "x := 1; ".repeat(1_000)))));
    assert!(!understood(&body(&format!("BEGIN {} END", "x := 1; ".repeat(100_000)))));
    assert!(understood(&body(&many("BEGIN ", 60_000, "END; "))));
    assert!(!understood(&body(&many("BEGIN ", 130_000, "END; "))));
    assert!(understood(&body(&format!("BEGIN x := {}; END", many("(", 1_000, ")").replacen("()", "(1)", 1)))));
    assert!(!understood(&body(&format!("BEGIN x := {}; END", many("(", 100_000, ")").replacen("()", "(1)", 1)))));
    assert!(!understood(&body(&format!("BEGIN x := {} END", "(".repeat(200_000)))));
    assert!(!understood(&body(&format!("BEGIN RAISE USING {}; END", "a = f(), ".repeat(50_000)))));
    // One that is small, and deep within, does not run on the stack of whoever asks.
    assert!(at_once(&body(&format!("BEGIN x := {}; END", many("(", 1_000, ")"))), &set).is_none());
    assert!(at_once("DO LANGUAGE plpgsql 'BEGIN END'", &set).is_none());
    assert!(at_once("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", &set).is_some());
    assert!(has_names_beyond_ascii("DO 'BEGIN DELETE FROM \u{e9}; END'"));
}

/// Which part it is, and no value of it.
#[test]
fn the_code_of_a_do_says_what_of_it_is_not_understood() {
    let set = nothing_tagged();
    for (sql, expected) in [
        (
            "DO $$\nBEGIN\n DELETE FROM t;\n EXECUTE 'DROP TABLE s3cret';\n EXECUTE 'x'; END $$",
            "line 4: EXECUTE runs a text",
        ),
        (
            "DO $$ DECLARE c refcursor := 's3cret';\n r record; BEGIN\n\n FETCH c INTO r; END $$",
            "line 4: a cursor is named",
        ),
        ("DO 'BEGIN\nPERFORM ''s3cret'' s3cret s3cret; END'", "line 2: an expression: Invalid statement: syntax error"),
        (
            "DO 'BEGIN\nDELETE FROM t AS AS ''s3cret''; END'",
            "line 2: a statement of SQL: Invalid statement: syntax error",
        ),
        ("DO 'BEGIN\nPREPARE s3cret AS SELECT 1; END'", "line 2: a statement of SQL: it makes, or uses, a prepared"),
        ("DO 'BEGIN\nRAISE NOTICE ''s3cret'' || s3cret; END'", "line 2: a RAISE of another form"),
        ("DO 'BEGIN NULL; x := ''s3cret; END'", "the body of the DO: Error scanning: unterminated quoted string"),
        ("DO 'plpy.execute(''s3cret'')' LANGUAGE plpython3u", "it is no text in PL/pgSQL"),
        (
            "DO $a$ BEGIN\nDO $b$ BEGIN\n\nEXECUTE 's3cret'; END $b$; END $a$",
            "line 2: the body of the DO: line 3: EXECUTE",
        ),
        (
            "DO $a$ BEGIN DO $b$ BEGIN DO $c$ BEGIN DO $d$ BEGIN NULL; END $d$; END $c$; END $b$; END $a$",
            "line 1: the body of the DO: more than 3 bodies",
        ),
        ("DELETE FROM 's3cret'", "unparsed (Invalid statement: syntax error"),
    ] {
        let actions = analyse_blocking(sql, &set).actions();
        let said: Vec<String> =
            actions.iter().filter(|it| it.kind == Kind::Unparsed).map(ToString::to_string).collect();
        let [only] = said.as_slice() else { panic!("{sql}: {said:?}") };
        assert!(only.contains(expected) && !only.contains("s3cret"), "{sql}: {only}");
    }
}

/// Columns that come to be called `ssn` or `email` after the catalog was read.
#[test]
fn relations_are_asked_about_where_a_column_could_be_reached_that_is_new() {
    let set = shop();
    for (sql, expected) in [
        ("SELECT id, note FROM orders", ""),
        ("SELECT count(*) FROM orders", ""),
        ("SELECT note AS email FROM orders", ""),
        ("SELECT upper(email) FROM orders", "orders"),
        ("SELECT id FROM other.orders WHERE ssn = '1'", "orders"),
        ("SELECT id FROM orders ORDER BY email", "orders"),
        // As it is, it is shown with its name.
        ("SELECT * FROM orders", ""),
        ("SELECT o.*, 1 AS one FROM orders o WHERE id = 1", ""),
        ("TABLE orders", ""),
        ("SELECT *, note AS email FROM orders", "orders"),
        ("SELECT *, o FROM orders o", "orders"),
        ("SELECT o.*, ROW(o.*) FROM orders o", "orders"),
        ("SELECT * FROM orders a(b)", "orders"),
        ("SELECT * FROM orders NATURAL JOIN log", "log orders"),
        ("SELECT * FROM (orders JOIN log USING (id)) j", "log orders"),
        ("SELECT * FROM (SELECT * FROM orders) o", "orders"),
        ("SELECT * FROM orders WHERE EXISTS (SELECT * FROM log)", "log"),
        ("SELECT (SELECT count(*) FROM (SELECT * FROM log) l), * FROM orders", "log"),
        ("SELECT * FROM orders UNION SELECT * FROM log", "log orders"),
        ("WITH w AS (SELECT * FROM orders) SELECT * FROM w", "orders"),
        ("SELECT o FROM orders o", "orders"),
        ("SELECT (o).note FROM orders o", "orders"),
        ("DECLARE c CURSOR FOR SELECT * FROM orders", "orders"),
        ("PREPARE p AS SELECT * FROM orders", "orders"),
        ("COPY orders TO STDOUT", "orders"),
        ("COPY orders (id) TO STDOUT", ""),
        ("COPY orders FROM STDIN", ""),
        ("INSERT INTO orders VALUES (1)", ""),
        ("INSERT INTO orders SELECT * FROM log", "log"),
        ("UPDATE orders SET note = 'x' WHERE id = 1", ""),
        ("UPDATE orders SET note = email", "orders"),
        ("UPDATE orders SET note = 'x' RETURNING *", "orders"),
        ("DELETE FROM orders WHERE id = 1", ""),
        // Whose column it is can be told, and is known to be masked.
        ("SELECT c.email FROM customers c JOIN orders o USING (id)", ""),
        ("SELECT email FROM customers JOIN orders USING (id)", "orders"),
        ("SELECT ssn FROM people", "people"),
        ("SELECT * FROM customers", ""),
        ("SELECT c FROM customers c", "customers"),
        ("SELECT count(*) FROM (SELECT * FROM pg_catalog.pg_class) c", "pg_class"),
    ] {
        let Parsed::Statements(statements) = analyse_blocking(sql, &set) else { panic!("{sql}") };
        assert_eq!(set.reached(&statements).join(" "), expected, "{sql}");
    }
    let Parsed::Statements(statements) = analyse_blocking("SELECT upper(email) FROM orders", &nothing_tagged()) else {
        panic!()
    };
    assert!(nothing_tagged().reached(&statements).is_empty());
}

/// `role` is one of the settings that it could be.
#[test]
fn a_settings_name_is_known_in_pg_dumps_own_query_only() {
    let set = nothing_tagged();
    let refused = |sql: &str| Relation::from(&only(analyse_blocking(sql, &set)).class) == Relation::Refused;
    let from = "FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'";
    let call = "set_config(name, 'view, foreign-table', false)";
    assert!(!refused(&format!("SELECT {call} {from}")));
    for sql in [
        format!("SELECT {call} FROM pg_settings WHERE name IS DISTINCT FROM 'restrict_nonsystem_relation_kind'"),
        format!("SELECT {call} FROM pg_settings WHERE name <> 'restrict_nonsystem_relation_kind'"),
        format!("SELECT {call} FROM s.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"),
        format!("SELECT {call} FROM pg_settings, t WHERE name = 'restrict_nonsystem_relation_kind'"),
        format!("WITH x AS (UPDATE t SET a = 1 RETURNING {call}) SELECT 1 {from}"),
        format!("SELECT (SELECT 1 FROM t WHERE {call} IS NULL) {from}"),
        format!("SELECT (WITH x AS (DELETE FROM t RETURNING {call}) SELECT 1) {from}"),
        format!("SELECT (SELECT {call} FROM t) {from}"),
        format!("SELECT 1 {from} UNION SELECT {call} FROM t"),
    ] {
        assert!(refused(&sql), "{sql}");
    }
}

#[test]
fn a_batch_is_judged_by_every_statement() {
    let parsed = analyse_blocking("select 1; drop table t", &nothing_tagged());
    let kinds: Vec<Kind> = parsed.actions().iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::Select, Kind::Drop]);
    let parsed = analyse_blocking("select 1; copy customer_view to '/tmp/x'; select 2", &shop());
    assert!(parsed.refusal().is_some_and(|it| it.contains("COPY")), "{parsed:?}");
}

#[test]
fn statements_know_their_place_in_the_text() {
    let sql = "select 'é' ;\n -- c\n  select \"ü\" from t /* end */ ; ;";
    let Parsed::Statements(statements) = analyse_blocking(sql, &nothing_tagged()) else { panic!("not parsed") };
    let texts: Vec<&str> = statements.iter().map(|it| &sql[it.text_range.clone()]).collect();
    assert_eq!(texts, ["select 'é'", "select \"ü\" from t /* end */"]);
}

#[test]
fn a_text_without_a_statement_is_empty() {
    for sql in ["", "  ", ";;", "-- nothing", "/* nothing */ ;"] {
        assert_eq!(analyse_blocking(sql, &shop()), Parsed::Empty, "{sql:?}");
    }
}

#[test]
fn columns_belong_to_the_tables_that_they_may_belong_to() {
    let sql = "SELECT o.note, line FROM orders o JOIN log USING (id) WHERE o.total > 1";
    let statement = only(analyse_blocking(sql, &nothing_tagged()));
    let columns = |table: &str| -> Vec<String> {
        let used = statement.actions[0].tables.iter().find(|it| it.name == table);
        used.map(|it| it.columns.iter().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(columns("orders"), ["id", "line", "note", "total"]);
    assert_eq!(columns("log"), ["id", "line"]);

    let statement = only(analyse_blocking("UPDATE t SET a = b, c = 1 WHERE d = 2", &nothing_tagged()));
    let uses: Vec<(Access, String)> = statement.actions[0]
        .tables
        .iter()
        .map(|it| (it.access, it.columns.iter().cloned().collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(uses, [(Access::Write, "a c".to_owned()), (Access::Read, "b d".to_owned())]);
}

#[test]
fn names_are_cut_where_the_server_cuts_them() {
    let table = |sql: &str| only(analyse_blocking(sql, &shop())).actions[0].tables[0].name.clone();
    assert_eq!(table(&format!("SELECT * FROM {}", "a".repeat(70))), "a".repeat(63));
    assert_eq!(table(&format!("SELECT * FROM \"{}\"", "A".repeat(70))), "A".repeat(63));
    assert_eq!(table("SELECT * FROM CUSTOMERS"), "customers");
}

#[test]
fn a_copy_from_the_client_is_judged_as_an_insert() {
    for (sql, expected, expects_all) in [
        (
            "COPY public.customers (id, \"a\"\"b\") FROM STDIN (FORMAT csv)",
            "(\"id\", \"a\"\"b\") OVERRIDING SYSTEM VALUE VALUES ($1, $2)",
            false,
        ),
        ("COPY public.customers FROM STDIN", "DEFAULT VALUES", true),
        (
            "COPY public.customers (id) FROM STDIN (FORCE_NULL (id)) WHERE (id > 1 AND name = 'where') -- x",
            "(\"id\") OVERRIDING SYSTEM VALUE VALUES ($1) RETURNING ( (id > 1 AND name = 'where') -- x\n) IS TRUE",
            false,
        ),
    ] {
        match only(analyse_blocking(sql, &shop())).class {
            Class::Traced { query: Query::Taken { insert, all }, .. } => {
                let expected = format!("INSERT INTO \"public\".\"customers\" {expected}");
                assert_eq!((insert, all), (expected, expects_all), "{sql}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn queries_have_a_where_or_take_whole_tables() {
    for (sql, expected) in [
        ("SELECT 1", None),
        ("SELECT * FROM t", Some(false)),
        ("SELECT * FROM t WHERE true", Some(false)),
        ("SELECT * FROM t WHERE id = 1", Some(true)),
        ("SELECT * FROM t JOIN u ON t.id = u.id", Some(false)),
        ("SELECT * FROM t WHERE id = 1 UNION SELECT * FROM u", Some(false)),
        ("SELECT * FROM t WHERE id = 1 UNION SELECT 1 UNION SELECT * FROM u WHERE id = 2", Some(true)),
        ("VALUES (1), (2)", None),
        ("DECLARE c CURSOR FOR SELECT * FROM t", Some(false)),
        ("COPY (SELECT * FROM t WHERE id > 1) TO STDOUT", Some(true)),
    ] {
        let actions = only(analyse_blocking(sql, &nothing_tagged())).actions;
        let query = actions.iter().find(|it| it.kind == Kind::Select).unwrap();
        assert_eq!(query.has_where, expected, "{sql}");
    }
}

#[test]
fn what_the_catalog_does_not_know_is_told() {
    let statement = only(analyse_blocking("SELECT * FROM s.fresh, orders", &shop()));
    assert_eq!(statement.unknown_relations, [(Some("s".to_owned()), "fresh".to_owned())]);
    assert!(!statement.changes_catalog());
    assert!(only(analyse_blocking("CREATE TABLE fresh (id int)", &shop())).changes_catalog());
}

#[test]
fn names_of_prepared_statements_and_cursors_are_told() {
    let name = |sql: &str| only(analyse_blocking(sql, &shop())).name;
    assert_eq!(name("PREPARE p AS SELECT 1"), Some(Name::Prepares("p".to_owned())));
    assert_eq!(name("EXECUTE \"P\""), Some(Name::Executes("P".to_owned())));
    assert_eq!(name("DECLARE c CURSOR FOR SELECT 1"), Some(Name::Declares("c".to_owned())));
    assert_eq!(name("FETCH c"), Some(Name::Fetches("c".to_owned())));
    assert_eq!(name("SELECT 1"), None);
    // It makes none.
    assert_eq!(name("EXPLAIN DECLARE c CURSOR FOR SELECT 1"), None);
    assert_eq!(name("EXPLAIN EXECUTE p"), Some(Name::Executes("p".to_owned())));
    // The server may cut or fold it otherwise, in another encoding.
    let beyond = analyse_blocking("EXECUTE \"é\"", &nothing_tagged());
    assert!(matches!(beyond, Parsed::Unparsed { .. }), "{beyond:?}");
}

#[test]
fn the_whole_grammar_is_understood() {
    for line in include_str!("tests/grammar.sql").lines() {
        let parsed = analyse_blocking(line, &shop());
        assert!(matches!(parsed, Parsed::Statements(_)), "{line}\n  {parsed:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_beside_tagged_data() {
    for sql in ["selec 1", "select 'abc", "select 1 from", "\0", "select \"\"", "\\d"] {
        let parsed = analyse_blocking(sql, &shop());
        assert!(matches!(parsed, Parsed::Unparsed { refused: true, .. }), "{sql:?}: {parsed:?}");
        assert!(parsed.refusal().is_some());
        let parsed = analyse_blocking(sql, &nothing_tagged());
        assert!(matches!(parsed, Parsed::Unparsed { refused: false, .. }), "{sql:?}: {parsed:?}");
        assert_eq!(parsed.actions().iter().map(|it| it.kind).collect::<Vec<_>>(), [Kind::Unparsed]);
    }
}

/// Statements and what people see of them.
const REDACTED: &[(&str, &str)] = &[
    ("SELECT 'a', 1 FROM orders -- why", "SELECT 'a', 1 FROM orders -- why"),
    ("SELECT id FROM customers WHERE ssn = '900-11-1002'", "SELECT id FROM customers WHERE ssn = '***'"),
    (
        "SELECT id FROM customers WHERE id = 42 AND ssn LIKE '9%'",
        "SELECT id FROM customers WHERE id = 42 AND ssn LIKE '***'",
    ),
    ("SELECT id FROM customers WHERE id IN (-1, 2) LIMIT 5", "SELECT id FROM customers WHERE id IN (-1, 2) LIMIT 5"),
    ("SELECT id FROM customers ORDER BY 1, ssn || 'x'", "SELECT id FROM customers ORDER BY 1, ssn || '***'"),
    ("SELECT id FROM customers WHERE lower(name) = 'x'", "SELECT id FROM customers WHERE lower(name) = '***'"),
    ("SELECT id /* 900 */ FROM customers -- 900", "SELECT id /* *** */ FROM customers /* *** */"),
    (
        "SELECT s FROM (SELECT ssn AS s FROM customers) q WHERE s = '900'",
        "SELECT s FROM (SELECT ssn AS s FROM customers) q WHERE s = '***'",
    ),
    (
        "SELECT a FROM customers AS c (a, b, s) WHERE s = '900'",
        "SELECT a FROM customers AS c (a, b, s) WHERE s = '***'",
    ),
    (
        "SELECT s FROM customer_view WHERE s = '900' AND id = 1",
        "SELECT s FROM customer_view WHERE s = '***' AND id = '***'",
    ),
    (
        "INSERT INTO customers (name, ssn) VALUES ('Ann', '900'), ('Bob', E'9\\'0')",
        "INSERT INTO customers (name, ssn) VALUES ('Ann', '***'), ('Bob', '***')",
    ),
    ("INSERT INTO customers VALUES (1, 'Ann')", "INSERT INTO customers VALUES ('***', '***')"),
    (
        "UPDATE customers SET name = 'Ann', ssn = $$900$$ WHERE id = 7 AND email = U&'\\0041' UESCAPE '!'",
        "UPDATE customers SET name = 'Ann', ssn = '***' WHERE id = 7 AND email = '***' UESCAPE '***'",
    ),
    (
        "SELECT id FROM customers WHERE ssn = 'a'\n'b' AND x = 1.5",
        "SELECT id FROM customers WHERE ssn = '***' AND x = 1.5",
    ),
    ("EXECUTE p('900', 1)", "EXECUTE p('***', '***')"),
    ("ALTER ROLE x PASSWORD 'hunter2' VALID UNTIL 'infinity'", "ALTER ROLE x PASSWORD '***' VALID UNTIL '***'"),
    (
        "CREATE USER MAPPING FOR x SERVER s OPTIONS (user 'u', password 'p')",
        "CREATE USER MAPPING FOR x SERVER s OPTIONS (user '***', password '***')",
    ),
    ("SELECT dblink_connect('host=h')", "SELECT dblink_connect('***')"),
    ("SELECT 'postgres://u:p@h/d', 'password=x', 'a'", "SELECT '***', '***', 'a'"),
    ("SELECT pgp_sym_decrypt(note, 'key') FROM orders", "SELECT pgp_sym_decrypt(note, '***') FROM orders"),
    ("DO $$ SELECT '900' $$", "DO '***'"),
    ("SELEC '900', 900, B'1', X'F' -- 900", "SELEC '***', '***', '***', '***' /* *** */"),
    (
        "SELECT x.a FROM (SELECT 1 AS a WHERE ssn = '900-11-1002') x, customers",
        "SELECT x.a FROM (SELECT '***' AS a WHERE ssn = '***') x, customers",
    ),
    (
        "SELECT id FROM customers, (SELECT id FROM orders WHERE ssn = '900-11-1002') x",
        "SELECT id FROM customers, (SELECT id FROM orders WHERE ssn = '***') x",
    ),
];

#[test]
fn people_do_not_see_secrets_or_tagged_values() {
    let set = shop();
    for (sql, shown) in REDACTED {
        assert_eq!(analyse_blocking(sql, &set).redacted(), *shown, "{sql}");
    }
}

#[test]
fn passwords_are_hidden_on_any_target() {
    let parsed = analyse_blocking("CREATE ROLE x PASSWORD 'hunter2'; SELECT 'a'", &nothing_tagged());
    assert_eq!(parsed.redacted(), "CREATE ROLE x PASSWORD '***'; SELECT 'a'");
    for (sql, shown) in [
        // The wrong quotes, which nobody understands.
        ("ALTER ROLE x PASSWORD \"hunter2\"", "ALTER ROLE x PASSWORD '***'"),
        ("ALTER ROLE x PASSWORD hunter2", "ALTER ROLE x PASSWORD '***'"),
        ("ALTER DATABASE d SET \"app.jwt_secret\" TO 'x'", "ALTER DATABASE d SET \"app.jwt_secret\" TO '***'"),
        ("ALTER ROLE r SET \"app.jwt_secret\" TO 'x'", "ALTER ROLE r SET \"app.jwt_secret\" TO '***'"),
        ("SET app.jwt_secret = 'x'", "SET app.jwt_secret = '***'"),
        ("SET app.jwt_secret = hunter2", "SET app.jwt_secret = '***'"),
        ("SET app.jwt_secret TO 1234", "SET app.jwt_secret TO '***'"),
        ("SELECT set_config('app.jwt_secret', 'x', false)", "SELECT set_config('***', '***', false)"),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE app PASSWORD 'x'; PERFORM g('y'); END $$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE app PASSWORD '***'; PERFORM g('y'); END $$",
        ),
    ] {
        assert_eq!(analyse_blocking(sql, &nothing_tagged()).redacted(), shown, "{sql}");
    }
}

#[test]
fn parameters_are_hidden_unless_they_belong_to_an_untagged_column() {
    let hidden = |sql: &str| only(analyse_blocking(sql, &shop())).redact_parameters;
    assert!(hidden("SELECT id FROM customers WHERE ssn = $1"));
    assert!(hidden("SELECT id FROM customers WHERE id = $1 AND email = $2"));
    assert!(!hidden("SELECT id FROM customers WHERE id = $1 LIMIT $2"));
    assert!(!hidden("SELECT id FROM orders WHERE note = $1"));
}

#[test]
fn a_text_that_does_not_lex_is_shown_as_its_fingerprint() {
    let shown = analyse_blocking("select '900-11-1002", &nothing_tagged()).redacted();
    assert_eq!(shown, "<19 bytes that do not read as SQL, sha256 60d99d78fb4f8de2>");
}

#[test]
fn reasons_quote_nothing_of_the_text() {
    for sql in ["SELECT 1 '900'", "SELECT '900", "SELECT a.b.c.d.e.\"900\".f FROM t", "SET x TO '900' '900' y"] {
        if let Parsed::Unparsed { reason, .. } = analyse_blocking(sql, &shop()) {
            assert!(!reason.contains("900"), "{sql}: {reason}");
        }
    }
}

#[test]
fn deep_texts_do_not_end_the_process() {
    let set = shop();
    for &shape in DEEP {
        for limit in [500, 1_500, MAX_NESTING] {
            // Understood or not: both are fine, and this is still running.
            analyse_blocking(&deepest(shape, limit), &set);
        }
        let parsed = analyse_blocking(&deep(shape, MAX_NESTING + 1), &set);
        assert!(matches!(parsed, Parsed::Unparsed { .. }), "{shape:?}");
    }
}

#[test]
fn small_texts_fit_an_ordinary_stack() {
    for &shape in DEEP {
        let sql = deepest(shape, INLINE_NESTING);
        let thread = thread::Builder::new().stack_size(1 << 20);
        let parsed = thread.spawn(move || at_once(&sql, &shop())).expect("a thread").join().expect("no panic");
        assert!(matches!(parsed, Some(Parsed::Statements(_))), "{shape:?}: {parsed:?}");
    }
}

#[test]
fn hostile_sizes_are_answered() {
    let set = nothing_tagged();
    let reason = |sql: &str| match analyse_blocking(sql, &set) {
        Parsed::Unparsed { reason, .. } => reason,
        other => panic!("understood: {other:?}"),
    };
    let parentheses = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(reason(&parentheses).contains("nested too deeply"));
    assert!(reason(&"(".repeat(1_000_000)).contains("nested too deeply"));
    assert!(reason(&"x".repeat(MAX_STATEMENT_BYTES + 1)).contains("the limit is"));
    let columns = vec!["a"; 50_000].join(", ");
    assert!(reason(&format!("UPDATE t SET ({columns}) = (SELECT 1)")).contains("too many columns"));
    assert!(matches!(analyse_blocking(&format!("SELECT 1{}", "+1".repeat(200)), &set), Parsed::Statements(_)));
    // Long, but flat.
    let rows = vec!["(1, 'some text')"; 30_000].join(", ");
    assert!(matches!(analyse_blocking(&format!("INSERT INTO t VALUES {rows}"), &set), Parsed::Statements(_)));
    let numbers = |count: usize| format!("SELECT 1 IN ({})", vec!["1"; count].join(","));
    assert!(matches!(analyse_blocking(&numbers(100_000), &set), Parsed::Statements(_)));
    assert!(reason(&numbers(300_000)).contains("tokens"));
}

#[tokio::test]
async fn the_analyser_gives_the_same_answer_inline_and_from_its_threads() {
    let analyser = Analyser::new(2).expect("threads");
    let set = Arc::new(shop());
    let large = format!("SELECT ssn FROM customers WHERE {}", vec!["id = 1"; 400].join(" OR "));
    for sql in ["SELECT ssn FROM customers", "", "selec", &large, &"(".repeat(200_000)] {
        let sql: Arc<str> = sql.into();
        assert_eq!(analyser.analyse(&sql, &set).await.as_deref(), Ok(&analyse_blocking(&sql, &set)));
    }
}

#[tokio::test]
async fn many_callers_share_the_analyser() {
    let analyser = Arc::new(Analyser::new(2).expect("threads"));
    let set = Arc::new(nothing_tagged());
    let large: Arc<str> = format!("SELECT 1{}", "+1".repeat(INLINE_NESTING)).into();
    let callers: Vec<_> = (0..3 * QUEUE)
        .map(|_| {
            let (analyser, set, large) = (Arc::clone(&analyser), Arc::clone(&set), Arc::clone(&large));
            tokio::spawn(async move { analyser.analyse(&large, &set).await })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.expect("no panic").as_deref(), Ok(Parsed::Statements(_))));
    }
}

/// Numbered names, so that all are different.
fn numbered(name: &str, count: usize) -> String {
    (0..count).map(|number| format!("{name}{number}")).collect::<Vec<_>>().join(",")
}

#[test]
fn columns_and_tables_cost_their_sum() {
    let steps = |sql: &str, set: &TaggedSet| {
        let mut left = MAX_STEPS;
        let parsed = Lexed::new(sql).expect("a text within bounds").analyse(set, &mut left);
        assert!(matches!(parsed, Parsed::Statements(_)), "{parsed:?}");
        MAX_STEPS - left
    };
    for set in [nothing_tagged(), shop()] {
        let many = |what: &str, count: usize| vec![what; count].join(",");
        let same = format!("SELECT {} FROM {}", many("a", 4_000), many("customers", 4_000));
        assert!(steps(&same, &set) < 10_000, "{}", steps(&same, &set));
        let own: Vec<String> = (0..2_000).map(|it| format!("t{it}.a")).collect();
        let own = format!("SELECT {} FROM {}", own.join(","), numbered("t", 2_000));
        assert!(steps(&own, &set) < 10_000, "{}", steps(&own, &set));
        // A report of many parts, as people write them.
        let part = format!("SELECT {} FROM a, b, c WHERE a.id = b.id", numbered("x", 30));
        assert!(steps(&vec![part; 100].join(" UNION ALL "), &set) < INLINE_STEPS);
    }
}

#[test]
fn no_text_takes_more_than_its_share_of_work() {
    let chain = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let many_ones = vec!["1"; 50_000].join(",");
    let texts = [
        format!("SELECT {} FROM {}", numbered("a", 25_000), numbered("t", 25_000)),
        format!("UPDATE t SET a = 1 FROM {} WHERE ({}) IS NULL", numbered("t", 25_000), numbered("a", 25_000)),
        format!("SELECT {} FROM {}", vec!["(SELECT a FROM b)"; 20_000].join(","), numbered("t", 20_000)),
        format!("SELECT {} FROM {}", vec!["a = 1"; 20_000].join(","), numbered("t", 20_000)),
        format!("SELECT {}", chain(40_000, &|it| format!("f{it}(),")) + "1"),
        format!("WITH {} SELECT 1", chain(25_000, &|it| format!("w{it} AS (SELECT 1 FROM w),")) + "w AS (SELECT 1)"),
        format!("SELECT 1 FROM {}", chain(50_000, &|it| format!("pg_toast_{it},")) + "t"),
        "SELECT 1;".repeat(80_000),
        deep(("|UPDATE t SET a = 1 WHERE 1 IN (WITH w AS (", &format!("SELECT {many_ones}"), ") SELECT 1)"), 40),
    ];
    let set = shop();
    for sql in &texts {
        let begun = Instant::now();
        let parsed = analyse_blocking(sql, &set);
        let took = begun.elapsed();
        let shown = sql.chars().take(40).collect::<String>();
        let understood = matches!(parsed, Parsed::Statements(_));
        let reason = if let Parsed::Unparsed { reason, .. } = &parsed { reason.as_str() } else { "" };
        let bounds = ["too many names", "more at once than one record can hold"];
        assert!(understood || bounds.iter().any(|it| reason.contains(it)), "{shown}: {reason}");
        // Each took minutes.
        assert!(took.as_secs() < 20, "{shown}: {took:?}");
    }
}

#[tokio::test]
async fn what_is_much_work_is_not_done_on_the_callers_thread() {
    let set = Arc::new(nothing_tagged());
    let much = format!("SELECT {} FROM {}", numbered("a", 300), numbered("t", 300));
    assert!(much.len() < INLINE_BYTES && at_once(&much, &set).is_none());
    assert!(at_once(&format!("SELECT {} FROM t", numbered("a", 300)), &set).is_some());
    let analyser = Analyser::new(1).expect("threads");
    assert!(matches!(analyser.analyse(&much.into(), &set).await.as_deref(), Ok(Parsed::Statements(_))));
}

#[tokio::test]
async fn who_waits_too_long_goes_on_without() {
    // Nobody takes anything from this queue.
    let (queue, mut jobs) = mpsc::channel(1);
    let analyser = Analyser { queue, patience: Duration::from_millis(50) };
    let set = Arc::new(nothing_tagged());
    let large: Arc<str> = format!("SELECT 1{}", "+1".repeat(INLINE_NESTING)).into();
    for _ in 0..2 {
        let given_up = analyser.analyse(&large, &set).await.expect_err("nobody takes it");
        assert!(matches!(&*given_up, Parsed::Unparsed { reason, .. } if reason.contains("busy")));
    }
    let Ok(Job::Understand { reply, .. }) = jobs.try_recv() else { panic!("the first one") };
    assert!(reply.is_closed(), "nobody works for it any more");
    assert!(jobs.try_recv().is_err(), "the second one did not get into the queue");
}

/// Words that make random texts more like SQL than random letters are.
const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "customers",
    "orders",
    "ssn",
    "*",
    "(",
    ")",
    ",",
    ";",
    "UPDATE",
    "SET",
    "=",
    "INSERT",
    "INTO",
    "VALUES",
    "DELETE",
    "WITH",
    "AS",
    "RETURNING",
    "JOIN",
    "ON",
    "USING",
    "UNION",
    "$1",
    "'900'",
    "1",
    ".",
    "::",
    "COPY",
    "TO",
    "STDOUT",
    "CREATE",
    "TABLE",
    "VIEW",
    "DROP",
    "ALTER",
    "FUNCTION",
    "f",
    "DO",
    "$$",
    "EXPLAIN",
    "PREPARE",
    "EXECUTE",
    "MERGE",
    "WHEN",
    "MATCHED",
    "THEN",
    "NOT",
    "NULL",
    "ORDER",
    "BY",
    "LIMIT",
    "-",
    "é",
    "\"",
    "'",
    "--",
    "/*",
    "*/",
    "\n",
    "GRANT",
    "ROLE",
    "PASSWORD",
    "CASE",
    "END",
    "ARRAY",
    "[",
    "]",
    "LATERAL",
    "IS",
];

proptest! {
    #[test]
    fn any_text_has_an_answer(sql in ".*") {
        analyse_blocking(&sql, &shop());
    }

    #[test]
    fn any_words_have_an_answer(words in prop::collection::vec(prop::sample::select(WORDS), 0..40)) {
        let sql = words.join(" ");
        let parsed = analyse_blocking(&sql, &shop());
        if let Parsed::Statements(statements) = parsed {
            for statement in statements {
                prop_assert!(sql.get(statement.text_range.clone()).is_some());
                prop_assert!(!statement.actions.is_empty());
                // Whoever names the tagged table is not taken for harmless.
                if statement.actions.iter().flat_map(|it| &it.tables).any(|it| it.name == "customers" && it.schema.is_none()) {
                    prop_assert_ne!(statement.class, Class::Untouched);
                }
            }
        }
    }

    #[test]
    fn hidden_literals_leave_the_rest_of_the_text(number in 0..1_000_000u32, text in "[a-z]{6,12}") {
        let sql = format!("SELECT id FROM customers WHERE ssn = '{text}{number}x' AND email = '{number}y'");
        let shown = analyse_blocking(&sql, &shop()).redacted();
        prop_assert_eq!(shown, "SELECT id FROM customers WHERE ssn = '***' AND email = '***'");
    }
}

/// Prints what understanding costs; for people, who run it with `--release` and `--nocapture`.
#[test]
fn cost_of_understanding() {
    const ROUNDS: u32 = 200;
    let set = shop();
    let join = "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id \
                LEFT JOIN log l ON l.order_id = o.id WHERE o.total > 10 AND c.name LIKE 'A%' ORDER BY o.total DESC LIMIT 10";
    let texts = [
        ("point select", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711"),
        ("update", "UPDATE pgbench_accounts SET abalance = abalance + 17 WHERE aid = 4711"),
        ("join of three", join),
    ];
    for (name, sql) in texts {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            assert!(matches!(at_once(sql, &set), Some(Parsed::Statements(_))) || cfg!(debug_assertions));
        }
        println!("{name}: {:?}", begun.elapsed() / ROUNDS);
    }
}

#[test]
fn names_are_told_from_texts_in_them() {
    for text in ["SELECT é", "SELECT 1 AS \"é\"", "SELECT U&\"a\"", "SELECT u&\"\\00e9\" FROM t", "SELECT 'open é"] {
        assert!(has_names_beyond_ascii(text), "{text}");
    }
    for text in ["SELECT a", "SELECT 'é' -- é", "SELECT U&'\\00e9' /* é */", "SELECT $é$"] {
        assert_eq!(has_names_beyond_ascii(text), text.contains('$'), "{text}");
    }
}

/// What rules by columns see: `r:orders(a b) w:...`, of each action.
#[test]
fn columns_are_all_that_a_statement_may_read_or_write() {
    for (sql, expected) in [
        ("SELECT o.amount FROM orders o ORDER BY id", "select r:orders(amount id)"),
        ("SELECT o FROM orders o", "select r:orders(* o)"),
        ("SELECT amount(o) FROM orders o", "select r:orders(* o)"),
        ("SELECT d FROM orders AS o(a, b, c, d)", "select r:orders(* d)"),
        ("SELECT j.d FROM (orders JOIN t USING (id)) AS j(a, b, c, d)", "select r:orders(* id) r:t(* id)"),
        ("SELECT 1 FROM orders NATURAL JOIN t", "select r:orders(*) r:t(*)"),
        ("WITH w(x) AS (SELECT amount FROM orders) SELECT x FROM w", "select r:orders(amount)"),
        ("SELECT x.amount FROM (TABLE orders) x", "select r:orders(*)"),
        ("INSERT INTO orders SELECT 1", "insert w:orders(*)"),
        (
            "INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET item = 'x'",
            "insert w:orders(id item); update w:orders(item)",
        ),
        (
            "MERGE INTO orders o USING t ON o.id = t.id WHEN MATCHED AND t.x = 1 THEN DELETE \
             WHEN MATCHED THEN UPDATE SET item = 'x' WHEN NOT MATCHED AND t.x = 2 THEN INSERT (id, note) VALUES (1, 'x') \
             WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "merge w:orders(id item note) r:t(id x) r:orders(id); delete w:orders(); update w:orders(item); \
             insert w:orders(id note); insert w:orders()",
        ),
        ("UPDATE orders AS o SET (item, note) = ('x', 'y') WHERE id = 1", "update w:orders(item note) r:orders(id)"),
        ("COPY orders TO STDOUT", "copy_out r:orders(*)"),
    ] {
        let shown = |table: &crate::policy::TableUse| {
            let access = if table.access == Access::Write { "w" } else { "r" };
            let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
            format!(" {access}:{}({})", table.name, columns.join(" "))
        };
        let one = |it: &Action| format!("{}{}", it.kind, it.tables.iter().map(shown).collect::<String>());
        let actions = only(analyse_blocking(sql, &nothing_tagged())).actions;
        assert_eq!(actions.iter().map(one).collect::<Vec<_>>().join("; "), expected, "{sql}");
    }
}

#[test]
fn what_is_disguised_is_written_out_and_what_is_plain_is_not() {
    for (text, written) in [
        ("select 1", None),
        ("SELECT  a\nFROM t;", None),
        ("", None),
        ("  -- nothing", None),
        ("SELECT 1 FROM", None),
        ("/* SELECT 1 */ delete from U&\"\\0074\"", Some("DELETE FROM t")),
        ("select 1;/**/ drop table \"T\"", Some("SELECT 1; DROP TABLE \"T\"")),
    ] {
        assert_eq!(written_out(text).as_deref(), written, "{text}");
    }
    assert_eq!(written_out(&format!("select /**/ {}1{}", "(".repeat(501), ")".repeat(501))), None);
}
