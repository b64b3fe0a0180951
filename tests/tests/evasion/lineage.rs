//! Expressions, views, subqueries and the like over masked columns: what comes back is the same whatever is in them.

use system_tests::shop::POLICY;

use super::World;

/// What becomes of a query on the shop, whose masked columns are `customers.ssn` and `customers.email`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It has rows, and nothing in them is covered.
    Clear,
    /// It has rows with something covered.
    Masked,
    Denied,
}

use Outcome::{Clear, Denied, Masked};

/// What the target has beside the shop: views of every kind.
const VIEWS: &str = "
    CREATE VIEW loud AS SELECT id, upper(name) AS name, upper(email) AS email, ssn AS number FROM customers;
    CREATE VIEW louder AS SELECT number || '!' AS n, l.id, o.item FROM loud l JOIN orders o ON o.customer_id = l.id;
    CREATE VIEW picky AS SELECT id, name FROM customers WHERE ssn LIKE '900-1%';
    CREATE VIEW counted AS SELECT count(*) AS n, min(since) AS first FROM customers;
    CREATE VIEW odd AS SELECT id, ssn::date AS d FROM customers;
    CREATE MATERIALIZED VIEW kept AS SELECT id, ssn AS s FROM customers;
    CREATE FUNCTION reader(i int) RETURNS text LANGUAGE sql AS 'SELECT ssn FROM customers WHERE id = i';
    CREATE VIEW through AS SELECT id, reader(id) AS r FROM customers;
    CREATE TABLE people (id int, email text, born date, score int, tags text[]) PARTITION BY RANGE (id);
    CREATE TABLE people_1 PARTITION OF people FOR VALUES FROM (0) TO (10);
    INSERT INTO people VALUES (1, 'p@x.example', '1980-02-03', 7, '{a,b}');
";

const CASES: &[(&str, Outcome)] = &[
    // Nothing of what is masked.
    ("SELECT count(*) FROM customers", Clear),
    ("SELECT upper(name), length(phone) FROM customers ORDER BY id", Clear),
    ("SELECT c.name, sum(o.amount) FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.name ORDER BY 2", Clear),
    ("SELECT name, (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) FROM customers c ORDER BY id", Clear),
    ("WITH w AS (SELECT id, name, ssn FROM customers) SELECT name || '?' FROM w ORDER BY id", Clear),
    ("SELECT row_number() OVER (ORDER BY since), name FROM customers", Clear),
    ("SELECT name FROM customers UNION SELECT item FROM orders ORDER BY 1", Clear),
    ("SELECT * FROM counted", Clear),
    ("SELECT name, id FROM loud ORDER BY id", Clear),
    ("SELECT date_trunc('year', since), count(*) FROM customers GROUP BY 1 ORDER BY 1", Clear),
    ("SELECT name FROM customers WHERE EXISTS (SELECT FROM orders o WHERE o.customer_id = customers.id) ORDER BY id", Clear),
    ("SELECT count(email) FROM people", Masked),
    ("SELECT id, tags[1], born, score + 1 FROM people ORDER BY id", Clear),
    // Masked as they are, or covered as what was computed.
    ("SELECT ssn FROM customers ORDER BY id", Masked),
    ("SELECT * FROM customers ORDER BY id", Masked),
    ("SELECT s FROM (SELECT ssn AS s FROM customers ORDER BY id) q", Masked),
    ("SELECT ssn || '' FROM customers ORDER BY id", Masked),
    ("SELECT upper(email), left(ssn, 3), reverse(ssn) FROM customers ORDER BY id", Masked),
    ("SELECT substr(ssn, 1, 5), split_part(email, '@', 2) FROM customers ORDER BY id", Masked),
    ("SELECT coalesce(phone, ssn) FROM customers ORDER BY id", Masked),
    ("SELECT CASE WHEN ssn = '900-11-1002' THEN 'yes' ELSE 'no' END FROM customers ORDER BY id", Masked),
    ("SELECT nullif(ssn, '900-11-1002') FROM customers ORDER BY id", Masked),
    ("SELECT ssn > '900-2', name FROM customers ORDER BY id", Masked),
    ("SELECT length(ssn), md5(email), ascii(name) FROM customers ORDER BY id", Masked),
    ("SELECT max(ssn), min(email), count(DISTINCT ssn) FROM customers", Masked),
    ("SELECT string_agg(ssn, ',' ORDER BY id), array_agg(email) FROM customers", Masked),
    ("SELECT array_agg(name ORDER BY ssn) FROM customers", Masked),
    ("SELECT count(*) FILTER (WHERE ssn LIKE '900-1%') FROM customers", Denied),
    ("SELECT count(*) FILTER (WHERE ssn > '900-2') FROM customers", Masked),
    ("SELECT customers FROM customers ORDER BY id", Masked),
    ("SELECT c.*::text FROM customers c ORDER BY id", Masked),
    ("SELECT row_to_json(c), to_jsonb(c) FROM customers c ORDER BY id", Masked),
    ("SELECT (c).ssn FROM customers c ORDER BY id", Masked),
    ("SELECT ARRAY(SELECT ssn FROM customers ORDER BY id), (SELECT ssn FROM customers WHERE id = 1)", Masked),
    ("SELECT ssn FROM customers UNION ALL SELECT item FROM orders", Masked),
    ("SELECT lag(ssn) OVER (ORDER BY id), first_value(email) OVER (ORDER BY id) FROM customers", Masked),
    ("SELECT name, email, number FROM loud ORDER BY id", Masked),
    ("SELECT n FROM louder ORDER BY id, item", Masked),
    ("SELECT v.x FROM customers c, LATERAL (SELECT c.ssn AS x) v ORDER BY c.id", Masked),
    ("SELECT x FROM customers c, LATERAL (VALUES (c.ssn), (c.name)) v(x) ORDER BY c.id", Masked),
    ("WITH RECURSIVE w(i, s) AS (SELECT 1, 'x' UNION ALL SELECT i + 1, c.ssn FROM w JOIN customers c ON c.id = w.i WHERE i < 3)
      SELECT s FROM w ORDER BY i", Masked),
    ("SELECT email FROM people_1", Masked),
    ("SELECT c.ssn FROM customers c FULL JOIN orders o ON o.customer_id = c.id ORDER BY c.id, o.id", Masked),
    ("SELECT ssn::varchar(4), ssn COLLATE \"C\", quote_literal(ssn) FROM customers ORDER BY id", Masked),
    ("SELECT ssn IS NULL, (ssn, email) FROM customers ORDER BY id", Masked),
    // What chooses rows.
    ("SELECT id FROM customers WHERE ssn LIKE '900-1%'", Denied),
    ("SELECT id FROM customers WHERE ssn = '900-11-1002'", Denied),
    ("SELECT count(*) FROM customers WHERE email < 'b'", Denied),
    ("SELECT id FROM customers ORDER BY ssn", Denied),
    ("SELECT id, ssn FROM customers ORDER BY 2", Denied),
    ("SELECT count(*) FROM customers GROUP BY email", Denied),
    ("SELECT DISTINCT ssn FROM customers", Denied),
    ("SELECT ssn FROM customers UNION SELECT 'x'", Denied),
    ("SELECT ssn FROM customers EXCEPT ALL SELECT 'x'", Denied),
    ("SELECT name FROM customers GROUP BY name HAVING max(ssn) > '900-2'", Denied),
    ("SELECT o.id FROM orders o JOIN customers c ON c.ssn = o.item", Denied),
    ("SELECT id FROM orders WHERE item IN (SELECT ssn FROM customers)", Denied),
    ("SELECT id FROM orders WHERE EXISTS (SELECT FROM customers WHERE ssn LIKE '900-1%')", Denied),
    ("SELECT name FROM customers LIMIT (SELECT length(min(ssn)) FROM customers)", Denied),
    ("SELECT generate_series(1, ascii(ssn)) FROM customers", Denied),
    ("SELECT g FROM customers, generate_series(1, length(ssn)) g", Denied),
    ("SELECT unnest(string_to_array(ssn, '-')) FROM customers", Denied),
    ("SELECT row_number() OVER (ORDER BY ssn), id FROM customers ORDER BY id", Denied),
    ("SELECT row_number() OVER (PARTITION BY email), id FROM customers ORDER BY id", Denied),
    ("SELECT * FROM picky", Denied),
    ("SELECT count(*) FROM picky", Denied),
    ("WITH w AS (SELECT id FROM customers WHERE email LIKE 'a%') SELECT count(*) FROM w", Denied),
    ("SELECT id FROM (SELECT id, ssn AS s FROM customers) q WHERE s > '900-2'", Denied),
    ("SELECT DISTINCT ON (ssn) id FROM customers", Denied),
    // What fails, or does something, by a value.
    ("SELECT ssn::int FROM customers", Denied),
    ("SELECT ssn::date FROM customers", Denied),
    ("SELECT x FROM (SELECT CASE WHEN ssn > '900-2' THEN y END AS x FROM (SELECT ssn, 1/(id - 1) AS y FROM customers) a) b", Denied),
    ("SELECT coalesce(nullif(ssn, '900-11-1002'), (1/(id - 1))::text) FROM customers", Denied),
    ("SELECT ssn > '900-2' AND 1/(id - 1) > 0 FROM customers", Denied),
    ("SELECT sum(1/(id - 1)) FILTER (WHERE ssn > '900-2') FROM customers", Denied),
    ("SELECT CASE WHEN ssn > '900-2' THEN random() END FROM customers", Denied),
    ("SELECT CASE WHEN ssn > '900-2' THEN (SELECT id FROM orders) END FROM customers", Denied),
    ("SELECT CASE WHEN ssn > '900-2' THEN 1/(id - 1) END FROM customers", Denied),
    ("SELECT to_date(ssn, 'YYYY') FROM customers", Denied),
    ("SELECT ssn ~ '^9' FROM customers", Denied),
    ("SELECT repeat('x', ascii(ssn)) FROM customers", Denied),
    ("SELECT pg_sleep(ascii(ssn)) FROM customers", Denied),
    ("SELECT set_config('application_name', ssn, false) FROM customers", Denied),
    ("SELECT d FROM odd", Denied),
    ("SELECT id FROM odd ORDER BY id", Denied),
    // Changes.
    ("UPDATE customers SET phone = upper(phone) WHERE id = 2", Clear),
    ("UPDATE customers SET phone = phone WHERE id = 1 RETURNING upper(ssn), name", Masked),
    ("DELETE FROM customers WHERE id = 77 RETURNING id", Clear),
    ("UPDATE customers SET phone = phone WHERE ssn LIKE '900-1%'", Denied),
    ("UPDATE orders o SET item = item FROM customers c WHERE c.id = o.customer_id AND c.ssn > '900-2'", Denied),
    ("UPDATE customers SET phone = (SELECT max(ssn) FROM customers) WHERE id = 1", Denied),
    ("DELETE FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE email < 'b')", Denied),
    ("DELETE FROM payments p USING customers c WHERE c.ssn = p.note", Denied),
    ("WITH x AS (UPDATE customers SET phone = phone WHERE ssn LIKE '9%' RETURNING id) SELECT count(*) FROM x", Denied),
    // Others' code, and copies.
    ("SELECT r FROM through", Denied),
    ("SELECT reader(1)", Denied),
    ("SELECT s FROM kept", Denied),
    ("SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'", Denied),
];

/// Runs each case by both protocols, and prints what came back, message by message, but for the IDs of denials.
const SCRIPT: &str = r#"
import re
s, stream = session()
def seen():
    return [(t, b) for t, b in until(stream, b"Z")]
for line in os.environ["CASES"].split("\x1f"):
    sql = line.encode()
    s.sendall(query(sql))
    simple = seen()
    s.sendall(parse(b"", sql) + bind(b"", b"") + msg(b"D", b"P\0") + execute(b"") + sync)
    extended = seen()
    print(re.sub(r"[0-9a-z]{13}-\d+", "ID", repr(simple) + "\x1f" + repr(extended)))
"#;

/// One line for each case.
fn run(world: &World) -> Vec<String> {
    let cases = CASES.iter().map(|(sql, _)| *sql).collect::<Vec<_>>().join("\x1f");
    let said = world.shop.raw_client(SCRIPT).env("CASES", cases).run().unwrap().expect_success().unwrap();
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), CASES.len(), "{said}");
    lines
}

#[test]
fn what_comes_back_is_the_same_whatever_is_masked() {
    let world = World::with(&POLICY.replace("with    = { partial = { keep_last = 4 } }", "with    = \"redact\""));
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {VIEWS}")).unwrap();
    let first = run(&world);
    let mut wrong = Vec::new();
    for ((sql, expected), line) in CASES.iter().zip(&first) {
        for (protocol, said) in ["simple", "extended"].iter().zip(line.split('\x1f')) {
            let outcome = if said.contains("C42501") {
                Denied
            } else if said.contains("(b'E'") {
                wrong.push(format!("{protocol} {sql}\n    failed: {said}"));
                continue;
            } else if said.contains("***") || said.contains("\\xff\\xff\\xff\\xff") && *expected == Masked {
                Masked
            } else {
                Clear
            };
            if outcome != *expected {
                wrong.push(format!("{protocol} {sql}\n    {outcome:?} instead of {expected:?}: {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Other values in all masked columns, in another order.
    let others = "UPDATE customers SET ssn = '111-' || (90 - id) || '-7777', email = (9 - id) || '@else.example';
                  UPDATE people SET email = NULL; REFRESH MATERIALIZED VIEW kept";
    world.shop.postgres.sql(others).unwrap();
    let second = run(&world);
    for ((sql, _), (first, second)) in CASES.iter().zip(first.iter().zip(&second)) {
        assert_eq!(first, second, "{sql}");
    }
}

#[test]
fn a_known_value_is_looked_up_so_often_and_no_more() {
    let world = World::with(&POLICY.replace(
        "columns = [\"public.customers.ssn\", \"*.*.email\"]",
        "columns = [\"public.customers.ssn\", \"*.*.email\"]\nlookups_per_minute = 4",
    ));
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"SELECT id FROM customers WHERE email = 'ada@shop.example' AND id < 9", b"SELECT id FROM customers WHERE 'none' = ssn",
            b"SELECT id FROM customers WHERE email > 'a'", b"SELECT id FROM customers WHERE email = name",
            b"SELECT id FROM customers WHERE email = 'a' OR id = 1", b"SELECT id FROM customers WHERE email IN ('a', 'b')"):
    show(s, stream, sql)
value = b"bruno@shop.example"
looked = parse(b"", b"SELECT id FROM customers WHERE email = $1") + \
    msg(b"B", b"\0\0\0\0\0\1" + struct.pack(">I", len(value)) + value + b"\0\0") + execute(b"") + sync
for _ in range(3):
    s.sendall(looked)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
"#,
        )
        .unwrap();
    assert_eq!(said.matches(r"\x00\x00\x00\x011', b'SELECT 1").count(), 1, "{said}");
    assert_eq!(said.matches(r"\x00\x00\x00\x012', b'SELECT 1").count(), 2, "{said}");
    assert_eq!((said.matches("SELECT 0").count(), said.matches("42501").count()), (1, 5), "{said}");
    assert!(said.contains("4 times a minute"), "{said}");
}
