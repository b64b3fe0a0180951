//! Rows, arrays and JSON that are put together of values: each value in them is what it would be alone.

use std::time::Duration;

use system_tests::shop::{POLICY, Shop};

const TABLES: &str = r#"
CREATE DOMAIN mail AS text;
CREATE TABLE odd (id int, "a b" text, email mail, note text, at timestamptz, amount numeric, gone text, ok boolean);
ALTER TABLE odd DROP COLUMN gone;
INSERT INTO odd VALUES (1, 'x, "y" \ (z)', E'q"u\\o te@x.example', '', '2024-01-02 03:04:05+00', 1.50, true),
                       (2, NULL, NULL, 'NULL', NULL, NULL, false);
CREATE TABLE all_kinds (id int, email text, i int, n numeric, b boolean, d date, u uuid, j jsonb, f text, h text);
INSERT INTO all_kinds VALUES (1, 'a@x.example', 7, 1.5, true, '2020-01-01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1}', 'f', 'h'),
                             (2, 'b@x.example', 8, 2.5, false, '2021-01-01', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[]', 'g', 'h');
CREATE VIEW people AS SELECT id, email AS mail, name FROM customers;
CREATE VIEW as_json AS SELECT row_to_json(o) AS j FROM odd o WHERE id = 1;
CREATE TABLE older (id int, free text); INSERT INTO older VALUES (1, 'f');
CREATE VIEW of_older AS SELECT row_to_json(o) AS j FROM older o; ALTER TABLE older ADD email text DEFAULT 'older@x.example';
CREATE TABLE changes (id int, note text, email text); INSERT INTO changes VALUES (1, 'n', 'changes@x.example');
GRANT ALL ON as_json, older, of_older, changes, odd, all_kinds, people TO PUBLIC;
"#;
const MASKS: &str = r#"
[[rule]]
name    = "copies"
agents  = ["coder"]
targets = ["orders"]
kinds   = ["copy_out"]
then    = "allow"

[[mask]]
name    = "kinds"
targets = ["orders"]
columns = ["public.all_kinds.i", "public.all_kinds.n", "public.all_kinds.b", "public.all_kinds.d", "public.all_kinds.u", "public.all_kinds.j"]
with    = "redact"

[[mask]]
name    = "fixed"
targets = ["orders"]
columns = ["public.all_kinds.f"]
with    = { fixed = "somebody \"else\"" }

[[mask]]
name    = "hash"
targets = ["orders"]
columns = ["public.all_kinds.h"]
with    = { hash = { key = { credential = "mask-key" } } }
"#;

/// What a query shows, as text. A dot at the beginning of a line stands for a row that goes on.
const TEXT: &[(&str, &str)] = &[
    ("SELECT c FROM customers c WHERE id = 1", "(1,\"Ada Okafor\",************mple,*******1002,555-0101,2021-03-04)"),
    (
        "SELECT o FROM odd o WHERE id = 1",
        r#"(1,"x, ""y"" \\ (z)",**************mple,"","2024-01-02 03:04:05+00",1.50,t)"#,
    ),
    ("SELECT o FROM odd o WHERE id = 2", "(2,,,NULL,,,f)"),
    (
        "SELECT s FROM (SELECT id, email AS mail, upper(email) AS loud FROM customers WHERE id = 1) s",
        "(1,************mple,)",
    ),
    (
        "SELECT ROW(id, ssn, ROW(name, email)) FROM customers WHERE id = 1",
        r#"(1,*******1002,"(""Ada Okafor"",************mple)")"#,
    ),
    ("SELECT p FROM people p WHERE id = 1", "(1,************mple,\"Ada Okafor\")"),
    ("SELECT c FROM orders o LEFT JOIN customers c ON c.id = -1 LIMIT 1", ""),
    (
        "SELECT row_to_json(c) FROM customers c WHERE id = 1",
        r#"{"id":1,"name":"Ada Okafor","email":"************mple","ssn":"*******1002","phone":"555-0101","since":"2021-03-04"}"#,
    ),
    ("SELECT to_jsonb(p) FROM people p WHERE id = 1", r#"{"id": 1, "mail":"************mple", "name": "Ada Okafor"}"#),
    (
        "SELECT to_json(o) FROM odd o WHERE id = 1",
        r#"{"id":1,"a b":"x, \"y\" \\ (z)","email":"**************mple","note":"","at":"2024-01-02T03:04:05+00:00","amount":1.50,"ok":true}"#,
    ),
    (
        "SELECT json_build_object('who', name, 'mail', email, 'in', json_build_object('ssn', ssn, 'one', 1)) FROM customers WHERE id = 1",
        r#"{"who" : "Ada Okafor", "mail" :"************mple", "in" : {"ssn" :"*******1002", "one" : 1}}"#,
    ),
    (
        "SELECT jsonb_build_object('m', email, 'id', id) FROM customers WHERE id = 1",
        r#"{"m":"************mple", "id": 1}"#,
    ),
    ("SELECT array_agg(email ORDER BY id) FROM customers WHERE id < 3", "{************mple,**************mple}"),
    (
        "SELECT array_agg(p ORDER BY id) FROM people p WHERE id < 3",
        r#"{"(1,************mple,\"Ada Okafor\")","(2,**************mple,\"Bruno Lehner\")"}"#,
    ),
    ("SELECT ARRAY(SELECT ssn FROM customers ORDER BY id LIMIT 2)", "{*******1002,*******2003}"),
    (
        "SELECT json_agg(row_to_json(s)) FROM (SELECT id, ssn FROM customers ORDER BY id LIMIT 2) s",
        "[{\"id\":1,\"ssn\":\"*******1002\"}, {\"id\":2,\"ssn\":\"*******2003\"}]",
    ),
    (
        "SELECT name, (SELECT coalesce(json_agg(json_build_object('id', o.id, 'by', c.email) ORDER BY o.id), '[]')
                    FROM orders o WHERE o.customer_id = c.id AND o.id < 2) FROM customers c WHERE id < 3 ORDER BY id",
        "Ada Okafor|[{\"id\" : 1, \"by\" :\"************mple\"}]\nBruno Lehner|[]",
    ),
    ("SELECT to_jsonb(k) - '{}'::text[] IS NULL FROM all_kinds k WHERE id = 1", "DENIED"),
    (
        "SELECT json_build_object('i', i, 'n', n, 'b', b, 'd', d, 'u', u, 'j', j, 'f', f, 'e', email, 'x', lower(email)) FROM all_kinds WHERE id = 1",
        r#"{"i" :null, "n" :null, "b" :null, "d" :null, "u" :null, "j" :"***", "f" :"somebody \"else\"", "e" :"*******mple", "x" :null}"#,
    ),
    ("SELECT k FROM all_kinds k WHERE id = 1", r#"(1,*******mple,,,,,,"""***""","somebody ""else""",HASH)"#),
    ("SELECT json_build_array(email) FROM customers WHERE id = 1", "DENIED"),
    ("SELECT json_agg(email) FILTER (WHERE ssn > '900-2') FROM customers", "\"***\""),
    ("SELECT json_build_object('a', email, 'a', id) FROM customers WHERE id = 1", "DENIED"),
    ("SELECT CASE WHEN ssn > '9' THEN row_to_json(c) END FROM customers c WHERE id = 1", "\"***\""),
    ("SELECT row_to_json(c)::text FROM customers c WHERE id = 1", "***"),
    // Two fields of one name are not told apart, however deep.
    ("SELECT json_agg(t) FROM (SELECT name AS a, email AS a FROM customers) t", "\"***\""),
    ("SELECT row_to_json(ROW(t)) FROM (SELECT name AS a, email AS a FROM customers WHERE id = 1) t", "\"***\""),
    ("SELECT to_json(array_agg(t)) FROM (SELECT name AS a, email AS a FROM customers) t", "\"***\""),
    (
        "SELECT ROW(t) FROM (SELECT name AS a, email AS a FROM customers WHERE id = 1) t",
        r#"("(""Ada Okafor"",************mple)")"#,
    ),
    // JSON has white space of its own, and what is no text.
    (
        "SELECT json_build_object('x', CASE WHEN ssn > '900-2' THEN '   1 '::json ELSE '\"\\ud800\"'::json END, 'y', id) FROM customers WHERE id < 3 ORDER BY id",
        "{\"x\" :null, \"y\" : 1}\n{\"x\" :null, \"y\" : 2}",
    ),
    // Making jsonb of what is not masked may fail, which is not to be up to what is.
    ("SELECT CASE WHEN ssn > '900-2' THEN to_jsonb(ROW(email, '\"\\u0000\"'::json)) END FROM customers", "DENIED"),
    (
        "SELECT json_agg(to_jsonb(ROW(email, '\"\\u0000\"'::json))) FILTER (WHERE ssn > '900-2') FROM customers",
        "DENIED",
    ),
    // Nothing of this type can be sent in binary, but NULL can.
    (
        "COPY (SELECT ROW(CASE WHEN ssn > '5' THEN 'postgres=r/postgres'::aclitem END) FROM customers) TO STDOUT (FORMAT binary)",
        "DENIED",
    ),
    // A view has a row's columns of when it was made.
    ("SELECT * FROM as_json", "\"***\""),
    ("SELECT j FROM of_older", "\"***\""),
    // What both sides compute in the same way is not what the column has.
    (
        "SELECT reverse(ssn) FROM customers WHERE id = 1 UNION ALL SELECT reverse(ssn) FROM customers WHERE id = 1",
        "***\n***",
    ),
    ("SELECT x FROM customers c, LATERAL (VALUES (reverse(c.ssn)), (reverse(c.ssn))) v (x) WHERE id = 1", "***\n***"),
    (
        "COPY (SELECT row_to_json(p), p FROM people p WHERE id = 1) TO STDOUT",
        "{\"id\":1,\"mail\":\"************mple\",\"name\":\"Ada Okafor\"}\t(1,************mple,\"Ada Okafor\")",
    ),
];

/// The same in binary, by a client that puts values together itself.
const BINARY: &str = r#"
import psycopg
with psycopg.connect("") as c:
    for sql in ["SELECT ROW(id, ssn, ROW(name, email), 1.5::numeric) FROM customers WHERE id = 1",
                "SELECT row_to_json(p) FROM people p WHERE id = 1",
                "SELECT to_jsonb(p) FROM people p WHERE id = 1",
                "SELECT array_agg(email ORDER BY id) FROM customers WHERE id < 3",
                "SELECT json_agg(p ORDER BY id) FROM people p WHERE id < 3"]:
        print(c.cursor(binary=True).execute(sql).fetchone()[0])
"#;
const SHOWN_IN_BINARY: &str = "\
(1, '*******1002', ('Ada Okafor', '************mple'), Decimal('1.5'))
{'id': 1, 'mail': '************mple', 'name': 'Ada Okafor'}
{'id': 1, 'mail': '************mple', 'name': 'Ada Okafor'}
['************mple', '**************mple']
[{'id': 1, 'mail': '************mple', 'name': 'Ada Okafor'}, {'id': 2, 'mail': '**************mple', 'name': 'Bruno Lehner'}]
";

#[test]
fn what_is_put_together_of_values_shows_each_as_if_it_were_alone() {
    let shop = Shop::new().unwrap();
    shop.postgres.sql(TABLES).unwrap();
    shop.env.set_credential("mask-key", super::KEY).unwrap();
    shop.configure(&(POLICY.to_owned() + MASKS)).unwrap();
    let _gateway = shop.serve().unwrap();
    let hash = shop.psql("SELECT h FROM all_kinds LIMIT 1").args(["--tuples-only", "--no-align"]).run().unwrap();
    let hash = hash.expect_success().unwrap();
    let mut wrong = Vec::new();
    for (sql, expected) in TEXT {
        let finished = shop
            .psql(&format!("SET timezone = 'UTC'; {sql}"))
            .args(["--tuples-only", "--no-align", "--quiet"])
            .run()
            .unwrap();
        let shown = match finished.expect_success() {
            Ok(shown) => shown.replace(" \n ", " "),
            Err(error) if error.to_string().contains("denied by policy") => "DENIED".to_owned(),
            Err(error) => error.to_string(),
        };
        let expected = expected.replace("HASH", hash.trim());
        if shown.trim_end_matches('\n') != expected {
            wrong.push(format!("{sql}\n  shows    {shown}\n  and not  {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let client = shop.client("/usr/bin/python3").args(["-c", BINARY]);
    assert_eq!(client.run().unwrap().expect_success().unwrap(), SHOWN_IN_BINARY);
}

/// A row by its places, before and after somebody else has moved them.
const MOVED: &str = r#"
import psycopg
with psycopg.connect("", autocommit=True, prepare_threshold=0) as c:
    print(c.execute("SELECT c FROM changes c").fetchone()[0])
    input()
    try:
        print(c.execute("SELECT c FROM changes c").fetchone()[0])
    except psycopg.Error as error:
        print(error)
"#;

/// The description of a row as a whole says nothing of its columns.
#[test]
fn a_row_whose_columns_others_have_moved_is_not_shown_by_their_old_places() {
    let shop = Shop::new().unwrap();
    shop.postgres.sql(TABLES).unwrap();
    let _gateway = shop.serve().unwrap();
    let mut client = shop.client("/usr/bin/python3").args(["-uc", MOVED]).start().unwrap();
    client.wait_for("(1,n,*************mple)\n", Duration::from_secs(20)).unwrap();
    shop.postgres.sql("ALTER TABLE changes DROP COLUMN note, ADD COLUMN extra text DEFAULT 'e'").unwrap();
    client.write("\n").unwrap();
    let shown = client.finish(Duration::from_secs(20)).unwrap().expect_success().unwrap();
    let second = shown.lines().nth(1).unwrap();
    let is_stopped = ["not known yet", "once more"].iter().any(|it| second.contains(it));
    assert!(!second.contains("changes@x") && (is_stopped || second.contains("*************mple")), "{shown}");
}
