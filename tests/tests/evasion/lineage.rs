//! What a statement shows of masked columns, by the server's own tree.

use system_tests::lineage;
use system_tests::shop::{POLICY, Shop};

use super::{PATIENCE, SSN, World};

/// What was said without the IDs of denials, in which any digits may stand.
fn without_ids(said: &str) -> String {
    let mut parts = said.split("(ID ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// The policy with masks that let rows be looked up.
fn four_lookups() -> String {
    let columns = "columns = [\"public.customers.ssn\", \"*.*.email\"]";
    POLICY.replace(columns, &format!("{columns}\nlookups_per_minute = 4"))
}

#[test]
fn what_comes_back_is_the_same_whatever_is_masked() {
    lineage::hold(&Shop::new().unwrap()).unwrap();
}

#[test]
fn a_known_value_is_looked_up_so_often_and_no_more() {
    let world = World::with(&four_lookups());
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

/// Or one look-up would find any number of values.
#[test]
fn a_look_up_is_by_a_value_that_is_the_very_same() {
    let policy =
        four_lookups().replace("\"create\", \"drop\"", "\"drop\"").replace("\"show\"]", "\"show\", \"create\"]");
    let world = World::with(&policy);
    world
        .shop
        .postgres
        .sql(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
             CREATE DOMAIN loose_text AS text COLLATE loose",
        )
        .unwrap();
    let oid = world.shop.postgres.sql("SELECT 'loose_text'::regtype::oid").unwrap();
    let script = r#"
s, stream = session()
value = b"ADA@SHOP.example"
for oid in (25, OID):
    s.sendall(msg(b"P", b"\0SELECT id FROM customers WHERE email = $1\0" + struct.pack(">HI", 1, oid)) +
        msg(b"B", b"\0\0\0\0\0\1" + struct.pack(">I", len(value)) + value + b"\0\0") + execute(b"") + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
show(s, stream, b"SELECT id FROM customers WHERE email::bpchar = 'ada@shop.example'")
# What is kept would be counted by nobody.
show(s, stream, b"CREATE TEMP TABLE found AS SELECT id FROM customers WHERE email = 'ada@shop.example'")
"#;
    let said = world.shop.raw(&script.replace("OID", oid.trim())).unwrap();
    assert_eq!((said.matches("SELECT 0").count(), said.matches("SELECT 1").count()), (1, 0), "{said}");
    assert_eq!(said.matches("42501").count(), 3, "{said}");
    assert!(said.contains("a new table is not filled"), "{said}");
}

#[test]
fn a_row_with_a_masked_key_is_looked_up_by_it() {
    let world = World::with(&four_lookups());
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
new = b"INSERT INTO customers (name, email, since, ssn) "
for sql in (new + b"VALUES ('n', 'n@new.example', now(), 'n-1'), ('m', 'm@new.example', now(), 'n-2')",
            new + b"VALUES ('x', 'x@new.example', now(), '900-11-1002') ON CONFLICT (ssn) DO NOTHING",
            new + b"SELECT name, 'x', now(), id::text FROM customers",
            new + b"VALUES ('x', 'x@new.example', now(), unnest(ARRAY['n-5', '900-11-1002'])) ON CONFLICT DO NOTHING",
            new + b"VALUES ('n', 'n@new.example', now(), 'n-3'), ('m', 'm@new.example', now(), 'n-4')"):
    show(s, stream, sql)
"#,
        )
        .unwrap();
    assert!(said.contains("INSERT 0 2") && said.contains("INSERT 0 0"), "{said}");
    assert_eq!(said.matches("42501").count(), 3, "{said}");
    assert!(said.contains("rows of a query to customers.ssn") && said.contains("4 times a minute"), "{said}");
}

#[test]
fn rows_of_which_one_is_traced_are_all_looked_up() {
    let world = World::with(
        &four_lookups().replace("\"show\"]", "\"show\", \"copy_in\", \"prepare\", \"execute\", \"deallocate\"]"),
    );
    let rows = "(SELECT count(*) FROM customers)";
    let before = world.shop.postgres.sql(rows).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
new = b"INSERT INTO customers (name, email, since, ssn) "
s.sendall(query(b"COPY customers (name, email, since, ssn) FROM STDIN") + msg(b"d", b"n\tn\t2020-01-01\tn-1\n") + msg(b"c"))
errors(until(stream, b"Z"))
made = b"PREPARE p AS " + new + b"VALUES ('n', 'n', now(), $1) ON CONFLICT (ssn) DO NOTHING"
# The text itself counts once, and what it executes nobody would count.
show(s, stream, b"PREPARE p AS SELECT 1")
show(s, stream, b"DEALLOCATE p; " + made + b"".join(b"; EXECUTE p('n-%d')" % n for n in range(9)))
show(s, stream, b"DEALLOCATE p")
show(s, stream, made)
for value in (b"900-11-1002", b"900-22-2003", b"900-33-3004"):
    show(s, stream, b"EXECUTE p('" + value + b"')")
show(s, stream, new + b"VALUES " + b", ".join(b"('n', 'n', '2020-01-01', 'n-%d')" % n for n in range(200)) + b" ON CONFLICT DO NOTHING")
"#,
        )
        .unwrap();
    assert_eq!((said.matches("4 times a minute").count(), said.matches("INSERT 0 0").count()), (2, 2), "{said}");
    assert!(said.contains("any number of rows to customers.ssn") && said.contains("one at a time"), "{said}");
    assert_eq!(world.shop.postgres.sql(rows).unwrap(), before, "{said}");
}

#[test]
fn all_rows_of_an_insert_are_looked_up() {
    let world = World::with(&four_lookups().replace("minute = 4", "minute = 200"));
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def insert(first, rows):
    values = b", ".join(b"('n', 'n', '2020-01-01', 'n-%d')" % n for n in range(first, first + rows))
    show(s, stream, b"INSERT INTO customers (name, email, since, ssn) VALUES " + values)
insert(0, 150)
insert(150, 51)
"#,
        )
        .unwrap();
    assert!(said.contains("INSERT 0 150") && said.contains("200 times a minute"), "{said}");
    assert_eq!(said.matches("42501").count(), 1, "{said}");
}

#[test]
fn parameters_of_many_rows_keep_their_types() {
    let world = World::with(POLICY);
    let made = "SET ROLE orders_rw; CREATE TABLE loose (n bigint, label text, email text)";
    world.shop.postgres.sql(made).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
ROWS = 300
rows = b", ".join(b"($%d, $%d)" % (2 * n + 1, 2 * n + 2) for n in range(ROWS))
values = b"".join(struct.pack(">I", len(it)) + it for n in range(ROWS) for it in (b"%d" % n, b"x%d@loose.example" % n))
def run(columns, types, rows=rows, more=b""):
    types = [types(n) for n in range(2 * ROWS)] if types else []
    sql = b"INSERT INTO loose (" + columns + b") VALUES " + rows + b" RETURNING email, label" + more
    s.sendall(msg(b"P", b"\0" + sql + b"\0" + struct.pack(">H", len(types)) + b"".join(struct.pack(">I", it) for it in types)) +
        msg(b"B", b"\0\0\0\0" + struct.pack(">H", 2 * ROWS) + values + b"\0\0") + msg(b"D", b"P\0") + execute(b"") + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print(len([1 for tag, body in seen if tag == b"D" and b"***" in body]), [body for tag, body in seen if tag == b"C"])
run(b"n, email", None)
run(b"n, email", lambda it: 0)
run(b"n, email", lambda it: (20, 25)[it % 2])
run(b"n, email", lambda it: (23 if it < 100 else 20, 25)[it % 2])
run(b"label, email", lambda it: (25, 0)[it % 2])
# What stands elsewhere too, and a last row that is another.
run(b"label, email", None, more=b", $599 || 'z'")
run(b"label, email", None, rows[:-len(b"($599, $600)")] + b"($599, $600::text)")
run(b"label, email", None, rows[:-len(b"($599, $600)")] + b"($599, (SELECT ssn FROM customers WHERE name = $600))")
"#,
        )
        .unwrap();
    assert_eq!((said.matches("INSERT 0 300").count(), said.matches("300 [").count()), (7, 7), "{said}");
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");
    assert!(said.contains("ERROR 42501") && !said.contains(SSN), "{said}");
}

#[test]
fn what_a_copy_from_the_client_fails_by_is_withheld() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_in\"]"));
    let made = "SET ROLE orders_rw; CREATE TABLE loose (n int CHECK (n < 9), born date, email text)";
    world.shop.postgres.sql(made).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def copy(sql, data, end=msg(b"c")):
    s.sendall(query(sql) + msg(b"d", data) + end)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag == b"C"])
    s.sendall(parse(b"", sql) + bind(b"", b"") + execute(b"") + msg(b"d", data) + end + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag == b"C"])
copy(b"COPY loose FROM STDIN", b"1\t2020-01-01\tsecret@x\n")
copy(b"COPY loose (n, email) FROM STDIN (FORMAT binary)",
    b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack(">HIII", 2, 4, 3, 6) + b"secret" + b"\xff\xff")
copy(b"COPY loose FROM STDIN", b"1\t2020-01-01\n")
copy(b"COPY loose FROM STDIN", b"1\tsecret\tx@x\n")
copy(b"COPY loose FROM STDIN", b"10\t2020-01-01\tsecret@x\n")
copy(b"COPY loose FROM STDIN", b"1\t2020-01-01\tsecret@x\n", msg(b"f", b"secret\0"))
copy(b"COPY loose (n, emial) FROM STDIN", b"1\tx\n")
show(s, stream, b"SELECT n, email FROM loose ORDER BY n")
"#,
        )
        .unwrap();
    assert_eq!((said.matches("COPY 1").count(), said.matches("withheld").count()), (4, 8), "{said}");
    assert!(said.contains("ERROR 42703") && said.contains("emial") && said.contains("(42703)"), "{said}");
    assert!(!said.contains("secret@x") && said.contains("****et@x") && said.contains("SELECT 4"), "{said}");
}

/// For half a minute the catalog that is known is older than the column.
#[test]
fn a_column_that_somebody_adds_to_a_parent_is_its_childrens() {
    let world = World::with(POLICY);
    let sql = |text: &str| world.shop.postgres.sql(&format!("SET ROLE orders_rw; {text}")).unwrap();
    sql(
        "CREATE TABLE parent (id int); CREATE TABLE child (email text) INHERITS (parent); INSERT INTO child VALUES (1, 'zoe@child.example')",
    );
    let script = r#"
s, stream = session()
show(s, stream, b"SELECT id FROM parent")
print("ready", flush=True)
sys.stdin.readline()
for sql in (b"SELECT * FROM parent", b"SELECT upper(email) FROM parent", b"SELECT parent FROM parent"):
    show(s, stream, sql)
"#;
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for("ready", PATIENCE).unwrap();
    sql("ALTER TABLE parent ADD COLUMN email text");
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert!(!said.to_lowercase().contains("zoe@") && said.matches("ERROR 42501").count() == 1, "{said}");
    // Who names it has the target asked whether there is one by now.
    assert!(said.contains("\\x03***") && said.matches("SELECT 1").count() == 3, "{said}");
}

#[test]
fn cursors_and_prepared_statements_show_what_their_queries_do() {
    let world = World::allowing(r#""declare", "fetch", "prepare", "execute", "deallocate""#);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
run(b"BEGIN; DECLARE c CURSOR FOR SELECT name, ssn, upper(email) FROM customers ORDER BY id")
run(b"FETCH 2 FROM c")
run(b"MOVE 1 FROM c")
run(b"DECLARE hidden CURSOR FOR SELECT id FROM customers WHERE ssn LIKE '9%'")
run(b"DECLARE raw BINARY CURSOR FOR SELECT ssn FROM customers")
s.sendall(parse(b"", b"DECLARE d NO SCROLL CURSOR WITHOUT HOLD FOR SELECT ssn || $1 FROM customers WHERE id = $2") +
    msg(b"B", b"\0\0\0\0\0\2\0\0\0\1x\0\0\0\x011\0\0") + execute(b"") + sync)
errors(until(stream, b"Z"))
s.sendall(parse(b"", b"FETCH ALL FROM d") + bind(b"", b"") + msg(b"D", b"P\0") + execute(b"") + sync)
print([body for tag, body in until(stream, b"Z") if tag in b"DC"])
run(b"COMMIT")
run(b"DECLARE held CURSOR WITH HOLD FOR SELECT ssn FROM customers ORDER BY id")
run(b"FETCH 1 FROM held")
run(b"PREPARE p AS SELECT ssn, left(ssn, 3) FROM customers WHERE id = $1")
run(b"EXECUTE p(1)")
run(b"PREPARE q AS SELECT id FROM customers ORDER BY ssn")
run(b"PREPARE r (int) AS SELECT ssn FROM customers WHERE id = $1")
s.sendall(parse(b"own", b"SELECT reverse(ssn) FROM customers WHERE id = 1") + sync)
errors(until(stream, b"Z"))
run(b"EXECUTE own")
s.sendall(parse(b"e", b"EXECUTE own") + bind(b"", b"e") + execute(b"") + sync)
seen = until(stream, b"Z")
errors(seen)
print([body for tag, body in seen if tag in b"DC"])
"#,
        )
        .unwrap();
    assert!(
        !said.contains(SSN) && !said.to_lowercase().contains("ada@") && !without_ids(&said).contains("900"),
        "{said}"
    );
    assert!(said.contains("FETCH 2") && said.contains("MOVE 1") && said.matches("*1002").count() == 3, "{said}");
    assert_eq!((said.matches("x03***").count(), said.matches("42501").count()), (6, 4), "{said}");
}

#[test]
fn names_mean_when_a_statement_runs_what_they_meant_when_it_was_traced() {
    let world = World::allowing(r#""create", "drop""#);
    let setup = "CREATE SCHEMA a AUTHORIZATION orders_rw; SET ROLE orders_rw;
        CREATE VIEW a.customers AS SELECT 1 AS id, 'harmless'::text AS ssn, 'harmless'::text AS name";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
hidden = b"SELECT upper(ssn) FROM customers"
run(b"BEGIN")
run(b"SET LOCAL search_path = a, public")
run(b"ROLLBACK; " + hidden)
run(b"ROLLBACK")
run(b"SET search_path = a, public")
run(hidden)
run(b"SET search_path = public; " + hidden)
s.sendall(parse(b"early", hidden) + sync)
errors(until(stream, b"Z"))
run(b"DROP VIEW a.customers")
s.sendall(bind(b"", b"early") + execute(b"") + sync)
seen = until(stream, b"Z")
errors(seen)
print([body for tag, body in seen if tag in b"DC"])
run(b"BEGIN; SELECT upper(ssn) FROM public.customers WHERE id = 1; COMMIT")
"#,
        )
        .unwrap();
    assert!(!without_ids(&said).contains("900") && said.matches("x03***").count() >= 1, "{said}");
    assert!(said.matches("42501").count() >= 4, "{said}");
}

#[test]
fn a_target_that_does_not_show_its_tree_is_denied_on_record() {
    let world = World::with(POLICY);
    let script = r#"
s, stream = session()
show(s, stream, b"SELECT 'catalog read'")
print("ready", flush=True)
sys.stdin.readline()
hidden = b"SELECT upper(ssn) FROM customers WHERE id = 1"
first = parse(b"", b"SELECT 'ran before'") + bind(b"", b"") + execute(b"")
def batch(what):
    s.sendall(what)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DCZ"])
show(s, stream, hidden)
batch(first + parse(b"", hidden) + bind(b"", b"") + execute(b"") + sync)
s.sendall(query(b"BEGIN"))
until(stream, b"Z")
batch(first + parse(b"", hidden) + bind(b"", b"") + execute(b"") + sync)
show(s, stream, b"ROLLBACK")
show(s, stream, b"SELECT 'served'")
"#;
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for("ready", PATIENCE).unwrap();
    world
        .shop
        .postgres
        .sql("REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM PUBLIC")
        .unwrap();
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert_eq!(
        (said.matches("ERROR 42501 denied by policy").count(), said.matches("ran before").count()),
        (3, 2),
        "{said}"
    );
    assert!(said.contains("b'E'") && said.contains("served") && !said.contains(SSN), "{said}");
    assert_eq!(world.sessions()[0]["denied"], 3, "{:?}", world.sessions());
}

#[test]
fn a_query_that_was_traced_runs_again_without_another_look() {
    let world = World::with(POLICY);
    let looks = || world.shop.postgres.log().matches("LOG:  execute weir_probe/weir_probe: ROLLBACK").count();
    let before = looks();
    let script = r#"
s, stream = session()
def by_id(which):
    for id in which:
        show(s, stream, b"SELECT id, lower(ssn), email FROM customers WHERE id = %d;" % id)
by_id([1])
# What drivers begin with changes no name; what changes one has each statement looked at.
show(s, stream, b"SET application_name = 'x'")
show(s, stream, b"SET TIME ZONE 'UTC'")
by_id([2, 3])
s.sendall(parse(b"p", b"SELECT reverse(ssn), name FROM customers WHERE id = $1") + sync)
until(stream, b"Z")
def run():
    s.sendall(bind(b"", b"p", 1) + execute(b"") + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"], flush=True)
run(), run()
print("ready", flush=True)
sys.stdin.readline()
by_id([1])
"#;
    let script = script.replace("bind(b\"\", b\"p\", 1)", "msg(b\"B\", b\"\\0p\\0\\0\\0\\0\\1\\0\\0\\0\\0011\\0\\0\")");
    let mut client = world.shop.raw_client(&script).start().unwrap();
    client.wait_for("ready", PATIENCE).unwrap();
    assert_eq!(looks() - before, 2, "one look for each text: {}", world.shop.postgres.log());
    let script = r#"
s, stream = session()
for sql in (b"SET search_path = public", b"SELECT ssn FROM customers WHERE id = 1", b"SELECT ssn FROM customers WHERE id = 2"):
    show(s, stream, sql)
"#;
    let forgetful = looks();
    world.shop.raw(script).unwrap();
    assert_eq!(looks() - forgetful, 2, "a look at each");
    // What is described is not what was looked at any more.
    let swap = "ALTER TABLE customers RENAME email TO old; ALTER TABLE customers RENAME phone TO email";
    world.shop.postgres.sql(swap).unwrap();
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap();
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(!said.contains(SSN) && said.matches("***").count() >= 5 && said.contains("mple"), "{said}");
    assert!(
        !said.contains("555-0101") && (said.contains("not those that were checked") || said.contains("42501")),
        "{said}"
    );
}

/// People whose names and addresses are in columns of each other's names, and a table of which a role sees rows by a masked column.
const SCHEMAS: &str = "CREATE SCHEMA a; CREATE SCHEMA b; GRANT USAGE ON SCHEMA a, b TO PUBLIC;
    CREATE TABLE a.people (note text, email text); CREATE TABLE b.people (email text, note text);
    INSERT INTO a.people VALUES ('an', 'secret-a'); INSERT INTO b.people VALUES ('secret-b', 'bn');
    CREATE ROLE r2 NOLOGIN; GRANT r2 TO orders_rw; ALTER ROLE orders_rw NOINHERIT;
    CREATE TABLE a.guarded (note text, email text); INSERT INTO a.guarded VALUES ('g1', 'x@y'), ('g2', 'z@y');
    ALTER TABLE a.guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p1 ON a.guarded FOR SELECT TO orders_rw USING (true);
    CREATE POLICY p2 ON a.guarded FOR SELECT TO r2 USING (email LIKE current_setting('app.pat', true));
    GRANT SELECT ON a.people, b.people, a.guarded TO PUBLIC";
const MORE_KINDS: &str = r#""execute", "prepare", "declare", "fetch", "deallocate", "copy_out", "discard", "set_role""#;

#[test]
fn a_command_is_not_run_by_a_name() {
    let world = World::allowing(MORE_KINDS);
    world.shop.postgres.sql(SCHEMAS).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
def prepare(name, sql):
    s.sendall(parse(name, sql) + sync)
    errors(until(stream, b"Z"))
hidden = b"SELECT ssn || '' FROM customers ORDER BY id"
prepare(b"s2", b"SELECT 1")
prepare(b"s3", b"DEALLOCATE s2")
prepare(b"s4", b"PREPARE s2 AS " + hidden)
run(b"EXECUTE s3"), run(b"EXECUTE s4"), run(b"EXECUTE s2")
prepare(b"s5", b"DECLARE cu CURSOR FOR " + hidden)
prepare(b"s6", b"CLOSE cu")
run(b"BEGIN"), run(b"DECLARE cu CURSOR FOR SELECT 1")
run(b"EXECUTE s6"), run(b"ROLLBACK")
prepare(b"s8", b"SET search_path = b")
run(b"SET search_path = a")
run(b"EXECUTE s8; COPY people TO STDOUT")
# And by the name of a portal.
run(b"BEGIN")
s.sendall(parse(b"", b"SET search_path = b") + bind(b"po", b"") + sync)
errors(until(stream, b"Z"))
run(b"FETCH ALL FROM po")
run(b"ROLLBACK")
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && !said.contains("900-") && !said.contains("secret"), "{said}");
    assert_eq!(said.matches("ERROR 42501").count(), 5, "{said}");
}

#[test]
fn what_a_portal_copies_or_opens_is_not_looked_up_elsewhere_when_it_runs() {
    let world = World::allowing(MORE_KINDS);
    world.shop.postgres.sql(SCHEMAS).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
def go(*messages):
    s.sendall(b"".join(messages) + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DCd"])
run(b"SET search_path = a")
go(parse(b"c1", b"COPY people TO STDOUT"), bind(b"c", b"c1"), parse(b"", b"SET search_path = b"), bind(b"", b""), execute(b""), execute(b"c"))
run(b"SET search_path = a")
run(b"BEGIN")
go(parse(b"c2", b"COPY people TO STDOUT"), bind(b"c", b"c2"))
run(b"SET search_path = b")
go(execute(b"c"))
run(b"ROLLBACK")
run(b"SET app.pat = 'x%'")
run(b"BEGIN")
go(parse(b"c3", b"DECLARE cu CURSOR FOR SELECT note FROM a.guarded"), bind(b"c", b"c3"))
run(b"SET ROLE r2")
go(execute(b"c"))
run(b"ROLLBACK")
run(b"RESET ROLE")
go(parse(b"c4", b"COPY a.people TO STDOUT"), bind(b"c", b"c4"), execute(b"c"))
"#,
        )
        .unwrap();
    assert!(!said.contains("secret") && !said.contains("'g1") && said.contains(r"an\t****et-a"), "{said}");
    assert_eq!(said.matches("bind it again").count(), 3, "{said}");
}

#[test]
fn rows_that_a_portal_is_fetched_by_are_counted() {
    let world = World::with(
        &POLICY
            .replace(
                "columns = [\"public.customers.ssn\", \"*.*.email\"]",
                "columns = [\"public.customers.ssn\", \"*.*.email\"]\nlookups_per_minute = 2",
            )
            .replace("\"show\"]", "\"show\", \"fetch\"]"),
    );
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
show(s, stream, b"BEGIN")
for number, value in enumerate((b"900-22-2001", b"900-22-2002", b"900-22-2003", b"900-33-3004")):
    name = b"p%d" % number
    s.sendall(parse(b"", b"SELECT name FROM customers WHERE ssn = $1") +
        msg(b"B", name + b"\0\0\0\0\0\1" + struct.pack(">I", len(value)) + value + b"\0\0") + sync)
    errors(until(stream, b"Z"))
    show(s, stream, b"FETCH ALL FROM " + name)
"#,
        )
        .unwrap();
    assert!(said.matches("2 times a minute").count() == 2 && !said.contains("Chiyo"), "{said}");
}

#[test]
fn nothing_of_a_clients_has_the_name_of_the_gateways_own() {
    let world = World::allowing(MORE_KINDS);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"PREPARE weir_probe AS SELECT 1", b"EXECUTE weir_probe", b"DECLARE \"weir_probe\" CURSOR FOR SELECT 1", b"FETCH 1 FROM WEIR_PROBE",
            b"BEGIN; SAVEPOINT weir_probe", b"ROLLBACK TO weir_probe", b"PREPARE weir_probe2 AS SELECT 1"):
    show(s, stream, sql)
for message in (parse(b"weir_probe", b"SELECT 1"), bind(b"weir_probe", b""), msg(b"D", b"Sweir_probe\0"), execute(b"weir_probe")):
    s, stream = session()
    s.sendall(message + sync)
    errors(until(stream, b"Z"))
"#,
        )
        .unwrap();
    assert_eq!(said.matches("ERROR 42501").count(), 6, "{said}");
    assert_eq!(said.matches("FATAL 08P01").count(), 4, "{said}");
}

#[test]
fn a_view_that_somebody_replaces_is_looked_at_again() {
    let world = World::with(POLICY);
    world.shop.postgres.sql(SCHEMAS).unwrap();
    world
        .shop
        .postgres
        .sql("CREATE VIEW a.v AS SELECT note AS x FROM a.people; GRANT SELECT ON a.v TO PUBLIC")
        .unwrap();
    let script = r#"
s, stream = session()
s.sendall(parse(b"p", b"SELECT x || '' FROM a.v") + sync)
until(stream, b"Z")
def seen():
    show(s, stream, b"SELECT x FROM a.v")
    s.sendall(bind(b"", b"p") + execute(b"") + sync)
    print([body for tag, body in until(stream, b"Z") if tag in b"DC"], flush=True)
seen()
print("ready", flush=True)
sys.stdin.readline()
seen()
"#;
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for("ready", PATIENCE).unwrap();
    world.shop.postgres.sql("CREATE OR REPLACE VIEW a.v AS SELECT email AS x FROM a.people").unwrap();
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert!(!said.contains("secret") && said.matches("an'").count() == 2, "{said}");
    assert!(said.contains("****et-a") && said.contains("***'"), "{said}");
}
