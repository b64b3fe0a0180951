//! What rules can ask of a statement beside its kind and its tables: columns, functions, sizes.

use system_tests::postgres::ROLE;
use system_tests::shop::{POLICY, Shop};

const RULES: &str = r#"
[[rule]]
name      = "no amounts"
kinds     = ["select"]
columns   = ["orders.amount"]
then      = "deny"

[[rule]]
name            = "items stay"
kinds           = ["delete"]
columns_written = ["public.orders.item"]
then            = "deny"

[[rule]]
name            = "items stay when updated"
kinds           = ["update"]
columns_written = ["public.orders.item"]
then            = "deny"

[[rule]]
name      = "no naps"
functions = ["pg_sleep*"]
then      = "deny"

[[rule]]
name           = "large tables are read by parts"
more_rows_than = 1000
then           = "deny"

[[rule]]
name                 = "one at a time"
more_statements_than = 2
then                 = "deny"

[[rule]]
name    = "privileges"
kinds   = ["privileges"]
then    = "deny"
"#;

/// Statements, and the rule that denies each.
const CASES: &[(&str, Option<&str>)] = &[
    ("SELECT item FROM orders WHERE id = 1", None),
    ("SELECT amount FROM orders WHERE id = 1", Some("no amounts")),
    ("SELECT * FROM orders WHERE id = 1", Some("no amounts")),
    ("SELECT sum(o.amount) FROM public.orders o WHERE id = 1", Some("no amounts")),
    ("SELECT d FROM orders AS o(a, b, c, d) WHERE a = 1", Some("no amounts")),
    ("SELECT j.d FROM (orders CROSS JOIN small) AS j(a, b, c, d) WHERE j.a = 1", Some("no amounts")),
    ("SELECT 1 FROM orders NATURAL JOIN orders o WHERE o.id = 1", Some("no amounts")),
    ("UPDATE orders SET amount = amount WHERE id = 1", None),
    ("UPDATE orders SET item = item WHERE id = 1", Some("items stay when updated")),
    ("DELETE FROM orders WHERE id = -1", Some("items stay")),
    (
        "INSERT INTO orders (id, customer_id, amount) VALUES (1, 1, 1) ON CONFLICT (id) DO UPDATE SET item = 'x'",
        Some("items stay when updated"),
    ),
    ("SELECT pg_sleep(0)", Some("no naps")),
    ("SELECT pg_catalog.pg_sleep_for('0 s')", Some("no naps")),
    ("SELECT count(*) FROM small", None),
    ("SELECT count(*) FROM large", Some("large tables are read by parts")),
    ("SELECT count(*) FROM public.large WHERE true", Some("large tables are read by parts")),
    ("SELECT count(*) FROM large WHERE id < 10", None),
    ("SELECT id FROM large LIMIT 1", None),
    ("SELECT count(*) FROM parted", Some("large tables are read by parts")),
    ("SELECT count(*) FROM parted_small", None),
    ("SELECT count(*) FROM view_of_large", Some("large tables are read by parts")),
    ("SELECT count(*) FROM view_of_small", None),
    ("SELECT count(*) FROM never_analyzed", Some("large tables are read by parts")),
    ("SELECT 1; SELECT 2", None),
    ("SELECT 1; SELECT 2; SELECT 3", Some("one at a time")),
    ("GRANT SELECT ON small TO PUBLIC", Some("privileges")),
];

#[test]
fn rules_ask_for_columns_functions_and_sizes() {
    let shop = Shop::new().unwrap();
    let setup = format!(
        "SET ROLE {ROLE};
         CREATE TABLE small AS SELECT i AS id FROM generate_series(1, 900) i;
         CREATE TABLE large AS SELECT i AS id FROM generate_series(1, 2000) i;
         CREATE TABLE parted (id int) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (1000) TO (2000);
         CREATE TABLE parted_small (LIKE parted) PARTITION BY RANGE (id);
         CREATE TABLE parted_small_1 PARTITION OF parted_small FOR VALUES FROM (0) TO (1000);
         INSERT INTO parted SELECT generate_series(1, 1999);
         INSERT INTO parted_small SELECT generate_series(1, 900);
         CREATE VIEW view_of_large AS SELECT s.id FROM small s JOIN large l ON s.id = l.id;
         CREATE VIEW view_of_small AS SELECT id FROM small"
    );
    shop.postgres.sql(&setup).unwrap();
    shop.postgres.sql("ANALYZE").unwrap();
    shop.postgres.sql(&format!("SET ROLE {ROLE}; CREATE TABLE never_analyzed (id int)")).unwrap();
    let unmasked = POLICY.split("[[mask]]").next().unwrap();
    for policy in [POLICY, unmasked] {
        // What was read of the catalog before the rules asked for more is no answer to them.
        shop.configure(policy).unwrap();
        let gateway = shop.serve().unwrap();
        shop.psql("SELECT count(*) FROM small").run().unwrap().expect_success().unwrap();
        shop.configure(&format!("{policy}{RULES}")).unwrap();
        shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
        for (sql, expected) in CASES {
            let said = shop.psql(sql).run().unwrap();
            let fits = match expected {
                None => said.success(),
                Some(rule) => said.stderr.contains(&format!("rule \"{rule}\"")),
            };
            assert!(fits, "{sql}: {expected:?}: {} {}", said.stdout, said.stderr);
        }
        drop(gateway);
    }
}

const BY_NAME: &str = r#"
[[rule]]
name      = "orders"
kinds     = ["select", "update"]
tables    = ["public.orders", "public.triggers"]
functions = ["count", "generate_series"]
then      = "allow"

[[rule]]
name  = "settings"
kinds = ["set"]
then  = "allow"
"#;

/// The search path is the agent's own, and `value.name` calls a function.
#[test]
fn a_rule_that_allows_by_name_allows_nothing_else_by_that_name() {
    let shop = Shop::new().unwrap();
    let setup = format!(
        "CREATE SCHEMA hr; CREATE TABLE public.triggers (id int); CREATE TABLE hr.orders AS TABLE public.orders; CREATE TABLE hr.wages AS TABLE public.orders;
         CREATE FUNCTION public.wipe(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM hr.orders RETURNING 1';
         GRANT ALL ON SCHEMA hr TO {ROLE}; GRANT ALL ON ALL TABLES IN SCHEMA hr TO {ROLE}"
    );
    shop.postgres.sql(&setup).unwrap();
    shop.configure(BY_NAME).unwrap();
    let _gateway = shop.serve().unwrap();
    for (sql, why) in [
        ("UPDATE orders SET item = 'x' WHERE id = 1", "orders (of hr or public: write which)"),
        ("SET search_path = hr; SELECT count(*) FROM orders", "write which"),
        ("SELECT count(*) FROM wages", "no rule allows \"select wages\""),
        ("SELECT count(*) FROM pg_stat_activity", "no rule allows"),
        ("SELECT (o.id + 5).wipe FROM public.orders o", "no rule allows"),
        ("SELECT x.wipe FROM public.orders, generate_series(1, 2) x", "no rule allows"),
        ("SELECT o.wipe FROM public.orders o", ""),
        ("SELECT count(x.wipe) FROM public.orders, generate_series(1, 2) AS x(wipe)", ""),
        ("UPDATE public.orders SET item = 'x' WHERE id = 1", ""),
        // A view of that name is in information_schema.
        ("SELECT count(*) FROM triggers", ""),
    ] {
        let said = shop.psql(sql).env("PGOPTIONS", "-c search_path=hr").run().unwrap();
        let fits = if why.is_empty() { !said.stderr.contains("denied by policy") } else { said.stderr.contains(why) };
        assert!(fits, "{sql}: {said:?}");
    }
    let of_hr = "\n[[rule]]\nname = \"nothing of hr\"\ntables = [\"hr.*\"]\nthen = \"deny\"\n\n\
                 [[rule]]\nname = \"the rest\"\nkinds = [\"ddl\", \"privileges\", \"vacuum\"]\nthen = \"allow\"\n";
    shop.configure(&format!("{BY_NAME}{of_hr}")).unwrap();
    shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    // Of these the text does not say which tables they are about.
    for sql in [
        "DROP SCHEMA hr CASCADE",
        "DROP OWNED BY current_user",
        "DROP INDEX hr.no_index",
        "ALTER SCHEMA hr RENAME TO her",
        "GRANT SELECT ON ALL TABLES IN SCHEMA hr TO public",
        "COMMENT ON TABLE hr.wages IS 'mine'",
        "REINDEX SCHEMA hr",
        "VACUUM",
    ] {
        let said = shop.psql(sql).run().unwrap();
        assert!(said.stderr.contains("rule \"nothing of hr\""), "{sql}: {said:?}");
    }
    let others = "SELECT count(*) FILTER (WHERE item = 'x') = 0 AND count(*) > 0 FROM hr.orders";
    assert_eq!(shop.postgres.sql(others).unwrap().trim(), "t");
}

const WHAT_CODE_DOES: &str = r#"
[[rule]]
name = "all"
then = "allow"

[[rule]]
name  = "rows and tables stay"
kinds = ["delete", "drop"]
then  = "deny"

[[rule]]
name      = "no naps"
kinds     = ["select"]
functions = ["pg_sleep"]
then      = "deny"
"#;

/// Code, and the words of its denial.
const CODE: &[(&str, Option<&str>)] = &[
    (
        "DO $$ DECLARE n int := 1; BEGIN SELECT count(*) INTO n FROM orders; UPDATE orders SET item = item WHERE id = n; END $$",
        None,
    ),
    (
        "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM orders LOOP IF r.id > 1 THEN RAISE NOTICE '%', r.item; END IF; END LOOP; END $$",
        None,
    ),
    ("DO $$ BEGIN DELETE FROM orders; END $$", Some("rows and tables stay")),
    (
        "DO $$ DECLARE n int; BEGIN IF false THEN NULL; ELSE DELETE FROM orders WHERE id = 1 RETURNING id INTO n; END IF; END $$",
        Some("rows and tables stay"),
    ),
    ("DO 'BEGIN PERFORM 1; EXCEPTION WHEN OTHERS THEN DROP TABLE orders; END'", Some("rows and tables stay")),
    ("DO $$ BEGIN DO $x$ BEGIN DELETE FROM orders; END $x$; END $$", Some("rows and tables stay")),
    (
        "DO $$ DECLARE c CURSOR FOR WITH d AS (DELETE FROM orders RETURNING id) SELECT id FROM d; BEGIN NULL; END $$",
        Some("rows and tables stay"),
    ),
    ("DO $$ DECLARE r pg_class := pg_sleep(0); BEGIN NULL; END $$", Some("no naps")),
    ("DO $$ BEGIN RAISE NOTICE '%', pg_sleep(0); END $$", Some("no naps")),
    ("DO $$\nBEGIN\n  EXECUTE 'DROP TABLE ' || 'orders';\nEND $$", Some("line 3: EXECUTE runs a text")),
    (
        "DO $$ DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'DELETE FROM orders RETURNING id'; END $$",
        Some("line 1: EXECUTE runs a text"),
    ),
    ("DO $$ BEGIN\nRAISE NOTICE '900' || 1; END $$", Some("line 2: a RAISE of another form")),
];

/// What the code of a DO does is judged as if it stood there by itself; what is put together as it runs is `unparsed`.
#[test]
fn rules_see_what_the_code_of_a_do_does() {
    let world = super::World::with(WHAT_CODE_DOES);
    let orders = || world.rows("SELECT count(*) FROM orders");
    let before = orders();
    for (sql, expected) in CODE {
        let said = world.psql(sql);
        match expected {
            None => assert!(said.success(), "{sql}: {}", said.stderr),
            Some(words) => assert!(
                said.stderr.contains("denied by policy") && said.stderr.contains(words),
                "{sql}: {}",
                said.stderr
            ),
        }
    }
    assert_eq!(orders(), before);
    // The record knows it too, without the values.
    let denied = world.psql(CODE[CODE.len() - 1].0).stderr;
    let id = denied.split("(ID ").nth(1).and_then(|it| it.split(')').next()).unwrap();
    let why = world.shop.env.weir(["why", id]).unwrap().expect_success().unwrap();
    assert_eq!(why.matches("line 2: a RAISE of another form").count(), 3, "{why}");
    assert!(!denied.contains("900"), "{denied}");
}
