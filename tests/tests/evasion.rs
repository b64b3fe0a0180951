//! Agents that try to have one statement judged and another one run, or to be told what a mask hides by another way than
//! rows. Each test is a break that once worked.

#[path = "evasion/disguises.rs"]
mod disguises;
#[path = "evasion/fresh.rs"]
mod fresh;
#[path = "evasion/lineage.rs"]
mod lineage;
#[path = "evasion/others.rs"]
mod others;
#[path = "evasion/roles.rs"]
mod roles;

use std::time::Duration;

use serde_json::Value;
use system_tests::env::Gateway;
use system_tests::process::{PATIENCE, wait_until};
use system_tests::shop::{POLICY, Shop};

/// A value of a masked column.
const SSN: &str = "900-11-1002";

/// The shop behind a gateway. Dropped in this order.
struct World {
    gateway: Gateway,
    shop: Shop,
}

impl World {
    /// The shop's policy with more kinds of statements allowed, such as `"execute", "fetch"`.
    fn allowing(kinds: &str) -> Self {
        let policy = POLICY.replace("\"show\"]", &format!("\"show\", {kinds}]"));
        assert_ne!(policy, POLICY);
        Self::with(&policy)
    }

    fn with(policy: &str) -> Self {
        let shop = Shop::new().unwrap();
        shop.configure(policy).unwrap();
        Self { gateway: shop.serve().unwrap(), shop }
    }

    fn payments(&self) -> String {
        self.shop.postgres.sql("SELECT count(*) FROM payments").unwrap().trim().to_owned()
    }

    fn weir(&self, line: &str) -> String {
        self.shop.env.weir(line.split_whitespace()).unwrap().expect_success().unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        serde_json::from_str(&self.weir("sessions list --json")).unwrap()
    }
}

#[test]
fn a_close_that_the_target_never_reached_frees_no_name() {
    let world = World::with(POLICY);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for hidden in (b"DELETE FROM payments", b"SELECT ssn || '' FROM customers ORDER BY id"):
    s.sendall(parse(b"x", hidden) + sync)
    until(stream, b"Z")
    s.sendall(parse(b"", b"SELECT no_such_column FROM orders") + close(b"x") + sync)
    until(stream, b"Z")
    s.sendall(parse(b"x", b"SELECT 1") + sync + bind(b"", b"x") + execute(b"") + sync)
    errors(until(stream, b"Z"))
    print([body for tag, body in until(stream, b"Z") if tag in b"DC"])
    s.sendall(close(b"x") + sync)
    until(stream, b"Z")
"#,
        )
        .unwrap();
    assert_eq!(world.payments(), "3", "{said}");
    assert!(!said.contains("DELETE 3") && !said.contains(SSN), "{said}");
    assert!(said.contains("42P05"), "the name is taken: {said}");
}

#[test]
fn sql_that_fails_to_make_a_name_changes_nothing_that_it_stands_for() {
    let world = World::allowing(r#""execute", "prepare", "declare", "fetch""#);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
s.sendall(parse(b"x", b"SELECT id, card_number FROM payments WHERE note IN (SELECT ssn FROM customers)") + sync)
until(stream, b"Z")
s.sendall(parse(b"y", b"DELETE FROM payments WHERE id = 1 OR true") + sync)
until(stream, b"Z")
for name in (b"x", b"y"):
    run(b"PREPARE " + name + b" AS SELECT 1")
    run(b"EXECUTE " + name)
    run(b"EXECUTE " + name + b"; PREPARE " + name + b" AS SELECT 1")
# A cursor that is gone, and a portal in its place.
run(b"BEGIN")
run(b"DECLARE c CURSOR FOR SELECT 1")
run(b"ROLLBACK")
run(b"BEGIN")
s.sendall(parse(b"", b"DELETE FROM payments WHERE id = 1 OR true RETURNING id") + bind(b"c", b"") + sync)
until(stream, b"Z")
s.sendall(query(b"FETCH ALL FROM c"))
until(stream, b"N")
"#,
        )
        .unwrap();
    wait_until("the request to be withdrawn", PATIENCE, || world.weir("approvals --json").trim() == "[]").unwrap();
    assert_eq!(world.payments(), "3", "{said}");
    assert!(!said.contains("DELETE 3"), "{said}");
}

#[test]
fn what_is_held_is_held_under_every_name() {
    let world = World::allowing(r#""execute", "prepare", "fetch", "merge""#);
    for (what, script) in [
        (
            "EXECUTE",
            r#"s.sendall(parse(b"x", b"DELETE FROM payments WHERE id = 1 OR true") + sync); until(stream, b"Z")
s.sendall(query(b"EXECUTE x"))"#,
        ),
        (
            "FETCH",
            r#"s.sendall(parse(b"", b"DELETE FROM payments RETURNING id") + bind(b"p", b"") + sync); until(stream, b"Z")
s.sendall(query(b"FETCH ALL FROM p"))"#,
        ),
        (
            "MOVE",
            r#"s.sendall(parse(b"", b"DELETE FROM payments RETURNING id") + bind(b"p", b"") + sync); until(stream, b"Z")
s.sendall(query(b"MOVE ALL FROM p"))"#,
        ),
        ("MERGE", r#"s.sendall(query(b"MERGE INTO payments USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE"))"#),
        (
            "Execute of EXECUTE",
            r#"s.sendall(parse(b"x", b"DELETE FROM payments WHERE id = 1 OR true") + sync); until(stream, b"Z")
s.sendall(parse(b"", b"EXECUTE x") + bind(b"", b"") + execute(b"") + sync)"#,
        ),
    ] {
        let begin = "s, stream = session()\ns.sendall(query(b\"BEGIN\")); until(stream, b\"Z\")\n";
        let waits = "\nprint(until(stream, b\"N\"), flush=True)\nsys.stdin.readline()";
        let mut client = world.shop.raw_client(&format!("{begin}{script}{waits}")).start().unwrap();
        client.wait_for("approval", PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}: {}", client.stderr()));
        let listed: Value = serde_json::from_str(&world.weir("approvals --json")).unwrap();
        let text = listed[0]["text"].as_str().unwrap().to_owned();
        assert!(text.to_uppercase().contains("DELETE"), "{what}: the approver sees what runs: {text}");
        client.kill();
        wait_until("the request to be withdrawn", PATIENCE, || world.weir("approvals --json").trim() == "[]").unwrap();
    }
    assert_eq!(world.payments(), "3");
}

#[test]
fn prepared_statements_of_sql_are_executed_as_what_they_are() {
    let world = World::allowing(r#""execute", "prepare", "declare", "fetch", "deallocate""#);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
run(b"PREPARE ok AS SELECT count(*) FROM orders")
run(b"EXECUTE ok")
run(b"PREPARE two AS SELECT 2; EXECUTE two")
run(b"BEGIN; DECLARE c CURSOR FOR SELECT item FROM orders ORDER BY id")
run(b"FETCH 1 FROM c")
run(b"COMMIT")
s.sendall(parse(b"plain", b"SELECT id, ssn FROM customers ORDER BY id") + sync)
until(stream, b"Z")
run(b"EXECUTE plain")
run(b"EXECUTE nobody_knows_it")
"#,
        )
        .unwrap();
    assert!(said.contains("*1002") && !said.contains(SSN), "{said}");
    assert!(said.contains("SELECT 1") && said.contains("FETCH 1"), "{said}");
    assert_eq!(said.matches("42501").count(), 1, "a name of nothing: {said}");
}

#[test]
fn notifications_bring_no_rows_out() {
    let world = World::allowing(r#""listen""#);
    let listens = "s, stream = session()\ns.sendall(query(b\"LISTEN c\")); until(stream, b\"Z\")\nprint(\"listening\")\nprint(until(stream, b\"A\"))";
    let client = world.shop.raw_client(listens).start().unwrap();
    client.wait_for("listening", PATIENCE).unwrap();
    world.shop.postgres.sql("SELECT pg_notify('c', row_to_json(c)::text) FROM customers c WHERE id = 1").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert!(said.contains("c\\x00") && !said.contains(SSN), "told, but not what: {said}");
}

#[test]
fn what_cannot_be_understood_for_want_of_a_catalog_is_denied_with_a_record() {
    let world = World::with(&POLICY.replace("public.customers.ssn", "public.customers.snn"));
    let denied = world.shop.psql("SELECT 'canary'").run().unwrap();
    assert!(!denied.success() && denied.stderr.contains("snn") && denied.stderr.contains("(ID "), "{denied:?}");
    let id = denied.stderr.split_once("(ID ").unwrap().1.split(')').next().unwrap();
    let why = world.weir(&format!("why {id}"));
    assert!(why.contains("snn") && !why.contains("canary"), "{why}");
    assert_eq!(world.sessions()[0]["denied"], 1, "{:?}", world.sessions());
}

#[test]
fn ends_of_copy_data_that_nobody_asked_for_leave_no_session_behind() {
    let world = World::with(POLICY);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
s.sendall(msg(b"c") * 20000)
s.sendall(query(b"SELECT 'still ' || 'served'"))
print(until(stream, b"Z"))
s.sendall(query(b"SELECT pg_sleep(3)") + msg(b"c") * 20000)
s.close()
"#,
        )
        .unwrap();
    assert!(said.contains("still served"), "{said}");
    wait_until("the end of the session", PATIENCE, || world.sessions()[0]["closed_ns"].is_number()).unwrap();
    // The backend has a statement to end.
    wait_until("the end of the backend", Duration::from_secs(10), || {
        let count =
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'orders_rw' AND application_name <> 'weir catalog'";
        world.shop.postgres.sql(count).unwrap().trim() == "0"
    })
    .unwrap();
    drop(world.gateway);
}

/// The shop's policy for agents that may make and change tables.
fn with_definitions() -> String {
    let policy = POLICY.replace("\"show\"]", "\"show\", \"create\", \"alter\"]");
    let policy = policy.replace("[\"create\", \"drop\", \"truncate\", \"alter\"]", "[\"drop\", \"truncate\"]");
    assert_eq!(policy.matches("\"create\"").count(), 1);
    policy
}

#[test]
fn what_a_statement_sets_off_tells_no_masked_values() {
    let world = World::with(POLICY);
    // A foreign key's action whose error shows the row, and triggers that read masked columns where no statement names them.
    let setup = "SET ROLE orders_rw;
        CREATE TABLE regions (id int PRIMARY KEY);
        INSERT INTO regions VALUES (1), (2);
        ALTER TABLE customers ADD COLUMN region int NOT NULL DEFAULT 1 REFERENCES regions ON DELETE SET NULL ON UPDATE CASCADE
            CHECK (region < 100);
        CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE NOTICE 'noticed %', (SELECT ssn FROM customers WHERE id = 1);
                     PERFORM ssn::int FROM customers WHERE id = 1; RETURN NEW; END $$;
        CREATE TABLE looked_at (id int);
        CREATE TRIGGER looks BEFORE INSERT ON looked_at FOR EACH ROW EXECUTE FUNCTION looks();
        CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF (SELECT ssn LIKE '900%' FROM customers WHERE id = 1) THEN RAISE NOTICE 'it does'; END IF; RETURN NULL; END $$;
        CREATE TABLE told (id int);
        CREATE TRIGGER tells AFTER INSERT ON told FOR EACH ROW EXECUTE FUNCTION tells();
        CREATE TABLE late (id int);
        CREATE CONSTRAINT TRIGGER looks AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION looks()";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def all_of(messages, end):
    s.sendall(messages)
    print([(tag, body) for tag, body in until(stream, end) if tag in b"EN"])
for sql in (b"DELETE FROM regions WHERE id = 1", b"UPDATE regions SET id = 100 WHERE id = 1", b"INSERT INTO looked_at VALUES (1)",
            b"INSERT INTO told VALUES (1)", b"INSERT INTO late VALUES (1)", b"BEGIN; INSERT INTO late VALUES (1); COMMIT"):
    all_of(query(sql), b"Z")
    all_of(parse(b"", sql) + bind(b"", b"") + execute(b"") + sync, b"Z")
# The client's own data is its own.
all_of(query(b"INSERT INTO orders (customer_id, item, amount) VALUES (1, 'own', -1)"), b"Z")
all_of(query(b"SELECT '{own'::json"), b"Z")
all_of(parse(b"", b"SELECT $1::int") + msg(b"B", b"\0\0\0\0\0\x01\0\0\0\x03own\0\0") + sync, b"Z")
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN), "{said}");
    // In both protocols; the deferred one is met at its COMMIT too, which the extended protocol does not take in one text.
    assert!(said.matches("withheld").count() >= 7, "{said}");
    // Whether there is a notice is a bit as well.
    assert!(!said.contains("(b'N'"), "{said}");
    assert!(said.contains("23502") && said.contains("23514"), "the code is told: {said}");
    assert!(said.matches("own").count() >= 3 && said.contains("JSON data, line 1: {own"), "{said}");
}

#[test]
fn a_table_that_others_make_is_masked_for_who_has_asked_for_it_before() {
    let world = World::with(POLICY);
    let script = r#"
s, stream = session()
def run(sql): show(s, stream, sql)
run(b"SELECT id, email FROM people")
s.sendall(parse(b"early", b"SELECT id, email AS mail FROM people") + sync)
errors(until(stream, b"Z"))
print("asked", flush=True)
sys.stdin.readline()
run(b"SELECT id, email FROM people")
run(b"SELECT id, email FROM people WHERE id = 1")
run(b"SELECT email || '' FROM people")
"#;
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for("asked", PATIENCE).unwrap();
    let made = "CREATE TABLE people (id int, email text); INSERT INTO people VALUES (1, 'eve@people.example')";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {made}")).unwrap();
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert!(!said.contains("eve@") && said.matches("***mple").count() == 2 && said.contains("\\x03***"), "{said}");
}

#[test]
fn settings_are_not_changed_through_a_view_of_them() {
    let world = World::with(&with_definitions());
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"CREATE TEMP VIEW v AS SELECT * FROM pg_settings", b"CREATE SCHEMA x CREATE VIEW v AS TABLE pg_catalog.pg_settings"):
    show(s, stream, sql)
for name in (b"v", b"x.v"):
    # Sent together: were the first to change how strings are read, the second would be another text to the server.
    s.sendall(query(b"UPDATE " + name + b" SET setting = 'off' WHERE name = 'standard_conforming_strings'"))
    s.sendall(query(b"SELECT 'a\\', '; DELETE FROM payments; --'"))
    errors(until(stream, b"Z") + until(stream, b"Z"))
show(s, stream, b"SELECT count(*) FROM pg_settings WHERE name = 'standard_conforming_strings'")
"#,
        )
        .unwrap();
    assert_eq!(world.payments(), "3", "{said}");
    assert_eq!(said.matches("42501").count(), 2, "{said}");
    assert!(said.contains("SELECT 1"), "it may be read: {said}");
}

#[test]
fn a_check_on_a_domain_tells_no_masked_values() {
    let world = World::with(&with_definitions());
    let setup = "CREATE DOMAIN number AS text; ALTER TABLE customers ALTER COLUMN ssn TYPE number";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {setup}")).unwrap();
    let said = world
        .shop
        .raw("s, stream = session()\nshow(s, stream, b\"ALTER DOMAIN number ADD CHECK (VALUE::int > 0)\")")
        .unwrap();
    assert!(!said.contains(SSN) && said.contains("42501"), "{said}");
}

#[test]
fn what_is_stored_is_not_chosen_by_a_masked_value() {
    let world = World::with(POLICY);
    let setup = "ALTER TABLE customers ALTER email DROP NOT NULL, ALTER ssn DROP NOT NULL";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {setup}")).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
among = b"(SELECT x::text AS v FROM generate_series(900111000, 900111100) x)"
for sql in (
    b"UPDATE customers SET phone = (SELECT v FROM " + among + b" a WHERE v = replace(ssn, '-', '')) WHERE id = 1",
    b"UPDATE customers SET phone = (SELECT v FROM " + among + b" a JOIN orders o ON v = replace(ssn, '-', '') LIMIT 1) WHERE id = 1",
    b"INSERT INTO customers (id, name, since, phone) SELECT 1, 'x', now(), v FROM " + among + b" a"
    b" ON CONFLICT (id) DO UPDATE SET phone = excluded.phone WHERE excluded.phone = replace(customers.ssn, '-', '')",
    # The same as to_jsonb(customers).
    b"UPDATE customers SET phone = customers.to_jsonb->>'ssn' WHERE id = 1",
    b"UPDATE customers c SET phone = c.concat WHERE id = 1",
):
    show(s, stream, sql)
show(s, stream, b"SELECT phone FROM customers WHERE id = 1")
# What does not look at a masked column may be stored.
show(s, stream, b"UPDATE customers SET phone = (SELECT max(item) FROM orders WHERE customer_id = customers.id) WHERE id = 1")
"#,
        )
        .unwrap();
    assert!(!said.contains("900111002") && !said.contains(SSN) && said.contains("555-0101"), "{said}");
    assert!(said.matches("42501").count() == 5 && said.contains("UPDATE 1"), "{said}");
}

#[test]
fn what_was_bound_and_replaced_takes_no_memory() {
    const VALUES: usize = 25;
    let world = World::with(POLICY);
    let script = format!(
        r#"
s, stream = session()
value = b"v" * (15 << 20)
s.sendall(parse(b"", b"SELECT $1::text"))
for _ in range({VALUES}):
    s.sendall(msg(b"B", b"\0\0\0\0\0\x01" + struct.pack(">I", len(value)) + value + b"\0\0"))
s.sendall(msg(b"D", b"P\0") + msg(b"H"))
until(stream, b"T")
print("bound", flush=True)
sys.stdin.readline()
s.sendall(sync)
print(until(stream, b"Z"))
"#
    );
    let (grown, said) = grown_until(&world, &script, "bound");
    assert!(grown < 150, "{grown} MiB more for {VALUES} values of 15 MiB, one of which has a name");
    assert!(said.contains("(b'Z', b'I')"), "{said}");
}

#[test]
fn answers_that_nobody_reads_take_no_memory() {
    let world = World::with(POLICY);
    // The gateway answers these itself: nothing of them reaches the target.
    let script = r#"
s, stream = session()
s.settimeout(2)
try:
    for _ in range(60):
        s.sendall(query(b"\xff") * 100000)
except TimeoutError:
    print("not taken", flush=True)
sys.stdin.readline()
s.settimeout(60)
seen = until(stream, b"Z")
errors(seen)
"#;
    let (grown, said) = grown_until(&world, script, "not taken");
    assert!(grown < 50, "{grown} MiB more for answers that nobody reads");
    assert!(said.contains("22021"), "{said}");
}

#[test]
fn columns_that_a_session_makes_itself_are_masked_from_its_commit() {
    let world = World::with(&with_definitions());
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def alter(table): return b"ALTER TABLE " + table + b" ADD COLUMN email text DEFAULT 'seen@own.example'"
def read(table, number): return query(b"SELECT email FROM " + table + b" LIMIT 1 -- %d" % number)
def rows(count):
    for _ in range(count):
        seen = until(stream, b"Z")
        errors(seen)
        print([body for tag, body in seen if tag == b"D"])
s.sendall(query(b"SELECT 1 FROM orders"))
until(stream, b"Z")
# In a transaction, whose change nobody else sees until it ends.
for sql in (b"BEGIN", alter(b"orders"), b"SELECT 1 FROM orders", b"COMMIT"):
    s.sendall(query(sql))
    until(stream, b"Z")
s.sendall(read(b"orders", 1))
rows(1)
# Ahead, while the change waits for its turn.
s.sendall(query(b"SELECT pg_sleep(1); " + alter(b"payments")) + read(b"payments", 2))
until(stream, b"Z")
rows(1)
# In a batch, which is a transaction too; and one that fails meanwhile.
s.sendall(parse(b"", b"CREATE TABLE own (id int)") + bind(b"", b"") + execute(b""))
s.sendall(parse(b"", alter(b"own")) + bind(b"", b"") + execute(b""))
s.sendall(parse(b"", b"INSERT INTO own VALUES (1)") + bind(b"", b"") + execute(b"") + sync + read(b"own", 3))
errors(until(stream, b"Z"))
rows(1)
show(s, stream, b"CREATE TABLE plain (id int)")
s.sendall(parse(b"", b"CREATE TABLE plain (id int)") + bind(b"", b"") + execute(b"") + parse(b"", b"SELECT 1") + parse(b"", b"") + bind(b"", b"") + execute(b"") + sync)
errors(until(stream, b"Z"))
s.sendall(query(b"SELECT 'served'"))
rows(1)
"#,
        )
        .unwrap();
    assert_eq!(said.matches("***mple").count(), 3, "{said}");
    assert!(!said.contains("seen@") && said.contains("served") && said.contains("42P07"), "{said}");
}

/// What the gateway takes more, in MiB, until the script says `word` and waits for a line; and all that it said.
fn grown_until(world: &World, script: &str, word: &str) -> (u64, String) {
    let before = resident_mib(world);
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for(word, PATIENCE).unwrap();
    let grown = resident_mib(world).saturating_sub(before);
    client.write("\n").unwrap();
    (grown, client.finish(PATIENCE).unwrap().expect_success().unwrap())
}

fn resident_mib(world: &World) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{}/statm", world.gateway.pid())).unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1024
}

#[test]
fn a_declare_that_is_only_explained_makes_no_cursor() {
    let world = World::allowing(r#""declare", "fetch", "explain""#);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
for hidden in (b"SELECT ssn || '' FROM customers ORDER BY id", b"DELETE FROM payments WHERE id = 1 OR true RETURNING id"):
    for texts in ((b"EXPLAIN DECLARE c CURSOR FOR SELECT 1; FETCH ALL FROM c",), (b"EXPLAIN DECLARE c CURSOR FOR SELECT 1", b"FETCH ALL FROM c")):
        s, stream = session()
        run(b"BEGIN")
        s.sendall(parse(b"", hidden) + bind(b"c", b"") + sync)
        errors(until(stream, b"Z"))
        for text in texts[:-1]:
            run(text)
        s.sendall(query(texts[-1]))
        # The last two wait for a human.
        seen = until(stream, b"N" if b"DELETE" in hidden else b"Z")
        errors(seen)
        print([body for tag, body in seen if tag in b"DCN"])
        s.close()
"#,
        )
        .unwrap();
    wait_until("the requests to be withdrawn", PATIENCE, || world.weir("approvals --json").trim() == "[]").unwrap();
    // The portal is read, with what its query shows covered; beside an EXPLAIN nobody looks that far.
    assert!(!said.contains(SSN) && said.matches("x03***").count() == 3, "{said}");
    assert_eq!(said.matches("42501").count(), 1, "{said}");
    assert_eq!(said.matches("waiting for approval").count(), 2, "{said}");
    assert_eq!(world.payments(), "3", "{said}");
}

#[test]
fn texts_that_use_names_cost_what_they_are_long() {
    let world = World::with(POLICY);
    let script = r#"
import time
s, stream = session()
s.sendall(parse(b"x", b"SELECT 1 /*" + b"y" * 1000000 + b"*/") + parse(b"z", b"SELECT 1") + sync)
until(stream, b"Z")
begun = time.monotonic()
for text in (b"EXECUTE x;" * 3000, b"EXECUTE z;" * 80000):
    s.sendall(query(text))
    errors(until(stream, b"Z"))
print("took", time.monotonic() - begun < 20, flush=True)
sys.stdin.readline()
"#;
    let (grown, said) = grown_until(&world, script, "took");
    assert!(said.contains("took True") && said.matches("42501").count() == 2, "{said}");
    assert!(grown < 200, "{grown} MiB more");
}

#[test]
fn settings_are_not_changed_by_a_name_that_is_computed() {
    let policy = POLICY.replace("\"show\"]", "\"show\", \"set_role\"]");
    let columns = "columns = [\"public.customers.ssn\", \"*.*.email\"]\nwith    = { partial = { keep_last = 4 } }";
    let policy = policy.replace(columns, "detect = [\"credit_card\"]\nwith = \"redact\"");
    assert!(!policy.contains("columns"));
    let world = World::with(&policy);
    let said = world
        .shop
        .raw(
            r#"
for call in (b"set_config('standard_' || 'conforming_strings', 'off', false)",
             b"orders.pg_catalog.set_config('standard_conforming_strings', 'off', false)"):
    s, stream = session()
    # Sent together: were the first to change how strings are read, the second would be another text to the server.
    s.sendall(query(b"SELECT " + call))
    s.sendall(query(b"SELECT 'a\\', '; DELETE FROM payments; --'"))
    errors(until(stream, b"Z") + until(stream, b"Z"))
"#,
        )
        .unwrap();
    assert_eq!(world.payments(), "3", "{said}");
    assert_eq!(said.matches("42501").count(), 2, "{said}");
}

#[test]
fn code_that_a_statement_does_not_name_shows_no_masked_values() {
    let policy = with_definitions().replace("\"*.*.email\"]", "\"*.*.email\", \"*.*.pid\"]");
    let shop = Shop::new().unwrap();
    let reads = "LANGUAGE sql AS 'SELECT ssn FROM public.customers WHERE id = 1'";
    for setup in [
        // Words that the gateway's grammar knows, and this server does not.
        &format!("CREATE FUNCTION json_value(text, text) RETURNS text {reads}"),
        &format!("CREATE FUNCTION json_exists(text, text) RETURNS text {reads}"),
        &format!("CREATE FUNCTION json_scalar(int) RETURNS text {reads}"),
        &format!("CREATE FUNCTION json_object(int) RETURNS text {reads}"),
        // A view that says what it reads in a text, and one that says it in an operator.
        "CREATE VIEW by_text AS SELECT query_to_xml('SELECT ssn FROM public.customers', true, true, '') AS x",
        &format!("CREATE FUNCTION looks(int, int) RETURNS text {reads}"),
        "CREATE OPERATOR ## (LEFTARG = int, RIGHTARG = int, FUNCTION = looks)",
        "CREATE VIEW by_operator AS SELECT 1 ## 2 AS x",
        "CREATE VIEW harmless AS SELECT lower(item)::varchar(5) AS item, amount::int, count(*) OVER () FROM orders",
        // What a parent shows is computed in its child (before PostgreSQL 16).
        "CREATE TABLE parent (low text)",
        "CREATE TABLE child (email text, low text GENERATED ALWAYS AS (lower(email)) STORED)",
        "INSERT INTO child (email) VALUES ('zoe@child.example')",
        "ALTER TABLE child INHERIT parent",
        "CREATE TYPE person AS (id int, pid text)",
        "CREATE TABLE persons OF person",
        "INSERT INTO persons VALUES (1, '900-11-1002')",
        "CREATE TYPE dressed AS (x text)",
        "CREATE FUNCTION dress(int) RETURNS dressed LANGUAGE sql AS 'SELECT ROW(ssn)::dressed FROM public.customers WHERE id = 1'",
        "RESET ROLE; CREATE CAST (int AS dressed) WITH FUNCTION dress(int)",
    ] {
        shop.postgres.sql(&format!("SET ROLE orders_rw; {setup}")).unwrap();
    }
    shop.configure(&policy).unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    for sql in [
        "SELECT json_value('{}', '$')",
        "SELECT * FROM json_exists('{}', '$')",
        "SELECT json_scalar(1)",
        "SELECT json_object(1)",
        "SELECT * FROM by_text",
        "SELECT * FROM by_operator",
        "ALTER TYPE person ALTER ATTRIBUTE pid TYPE regclass CASCADE",
        "SELECT 1::dressed",
    ] {
        let denied = world.shop.psql(sql).run().unwrap();
        assert!(denied.stderr.contains("denied by policy") && denied.stdout.is_empty(), "{sql}: {denied:?}");
        assert!(!denied.stderr.contains(SSN), "{denied:?}");
    }
    let masked = world.shop.psql("SELECT low, low || '' FROM parent").run().unwrap().expect_success().unwrap();
    assert!(masked.contains("*mple") && masked.contains(" ***") && !masked.contains("zoe"), "{masked}");
    let shown = world.shop.psql("SELECT * FROM harmless").run().unwrap().expect_success().unwrap();
    assert!(shown.contains("kettl"), "{shown}");
}

#[test]
fn a_temporary_view_shows_no_column_that_is_masked_by_now() {
    let world = World::with(&with_definitions());
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
def run(sql): show(s, stream, sql)
run(b"CREATE TEMP VIEW v AS SELECT id, note FROM payments")
run(b"SELECT note FROM pg_temp.v WHERE id = 1")
run(b"ALTER TABLE payments RENAME COLUMN note TO email")
for name in (b"v", b"pg_temp.v"):
    run(b"SELECT note FROM " + name + b" WHERE id = 1")
run(b"CREATE TEMP TABLE own (x text)")
run(b"SELECT count(*) FROM pg_temp.own")
"#,
        )
        .unwrap();
    assert_eq!((said.matches("paid").count(), said.matches("****").count()), (1, 2), "{said}");
    assert_eq!(said.matches("SELECT 1").count(), 4, "its own table: {said}");
}

#[test]
fn approvers_see_all_parameters_or_are_not_asked() {
    let world = World::with(&POLICY.replace("has_where = false\n", ""));
    let script = r#"
s, stream = session()
def deletes(*values):
    body = b"\0\0" + struct.pack(">HHHH", 3, 0, 1, 0) + struct.pack(">H", 3)
    for value in values:
        body += struct.pack(">I", len(value)) + value
    s.sendall(parse(b"", b"DELETE FROM payments WHERE note = $1 OR id = $2 OR note = $3") + msg(b"B", body + b"\0\0") + execute(b"") + sync)
deletes(b"x" * 70000, struct.pack(">i", 2), b"paid")
errors(until(stream, b"Z"))
deletes(b"x', $2 = '1" + b"y" * 2000, struct.pack(">i", 2), b"paid")
print([body for tag, body in until(stream, b"N") if tag in b"NE"], flush=True)
sys.stdin.readline()
"#;
    let mut client = world.shop.raw_client(script).start().unwrap();
    client.wait_for("waiting for approval", PATIENCE).unwrap();
    assert!(client.stdout().contains("more than an approver can be shown"), "{}", client.stdout());
    let listed: Value = serde_json::from_str(&world.weir("approvals --json")).unwrap();
    let parameters = listed[0]["parameters"].as_str().unwrap();
    assert!(parameters.starts_with("$1 = 'x'', $2 = ''1yyyy"), "{parameters}");
    assert!(parameters.ends_with("yyy', $2 = binary 00000002, $3 = 'paid'"), "{parameters}");
    client.kill();
    assert_eq!(world.payments(), "3");
}

#[test]
fn names_that_another_encoding_cuts_otherwise_are_not_understood() {
    let shop = Shop::new().unwrap();
    let latin = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    shop.postgres.sql(&format!("CREATE DATABASE latin OWNER orders_rw TEMPLATE template0 {latin}")).unwrap();
    let columns = "columns = [\"public.customers.ssn\", \"*.*.email\"]\nwith    = { partial = { keep_last = 4 } }";
    let policy = with_definitions().replace(columns, "detect = [\"credit_card\"]\nwith = \"redact\"");
    shop.configure(&policy.replace("\"show\"", "\"show\", \"prepare\", \"execute\"")).unwrap();
    let config = std::fs::read_to_string(shop.env.config_path()).unwrap();
    let both = config.replace("databases = [\"orders\"]", "databases = [\"orders\", \"latin\"]");
    assert_ne!(both, config);
    std::fs::write(shop.env.config_path(), both).unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    let said = world
        .shop
        .raw(
            r#"
s = connect()
body = struct.pack(">I", 196608) + b"user\0coder\0database\0latin\0\0"
s.sendall(struct.pack(">I", len(body) + 4) + body)
stream = messages(s)
until(stream, b"Z")
def run(sql): show(s, stream, sql)
run(b"CREATE TABLE payments (id int)")
run(b"INSERT INTO payments VALUES (1)")
# 31 letters are 62 bytes here and 31 there; 40 are cut to the same 31 here and are 40 there.
s.sendall(parse("é".encode() * 31, b"DELETE FROM payments WHERE id = 1 OR true") + sync)
until(stream, b"Z")
run('PREPARE "{}" AS SELECT 1'.format("é" * 40).encode())
run('EXECUTE "{}"'.format("é" * 31).encode())
run(b"SELECT id FROM payments")
"#,
        )
        .unwrap();
    assert!(!said.contains("DELETE 1") && said.contains("INSERT 0 1") && said.contains("SELECT 1"), "{said}");
    assert_eq!(said.matches("42501").count(), 2, "{said}");
}

#[test]
fn what_is_remembered_of_texts_is_counted_as_what_it_takes() {
    let world = World::with(POLICY);
    // Half a megabyte of text each, and a hundred times that when it is understood.
    let script = r#"
s, stream = session()
for number in range(12):
    s.sendall(parse(b"n%d" % number, b"SELECT %d;" % number + b"SELECT;" * 82000) + sync)
    until(stream, b"Z")
print("parsed", flush=True)
sys.stdin.readline()
show(s, stream, b"SELECT 'served'")
"#;
    let (grown, said) = grown_until(&world, script, "parsed");
    assert!(grown < 350, "{grown} MiB more");
    assert!(said.contains("served"), "{said}");
}

#[test]
fn settings_for_later_sessions_are_settings() {
    let world = World::with(&with_definitions());
    for sql in [
        "ALTER ROLE orders_rw SET standard_conforming_strings = off",
        "ALTER DATABASE orders SET standard_conforming_strings TO 'off'",
        "ALTER ROLE orders_rw IN DATABASE orders SET debug_print_plan = on",
    ] {
        let denied = world.shop.psql(sql).run().unwrap();
        assert!(denied.stderr.contains("denied by policy"), "{sql}: {denied:?}");
    }
    world.shop.psql("ALTER ROLE orders_rw SET statement_timeout = '1min'").run().unwrap().expect_success().unwrap();
    world.shop.psql("SELECT 1").run().unwrap().expect_success().unwrap();
}

#[test]
fn what_no_record_can_hold_is_denied_with_one() {
    let world = World::with(POLICY);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"DROP TABLE orders;" + b"SELECT;" * 82000, b"SELECT FROM " + b",".join(b"t%d" % i for i in range(120000))):
    s.sendall(query(sql))
    errors(until(stream, b"Z"))
show(s, stream, b"SELECT 'served'")
"#,
        )
        .unwrap();
    assert_eq!(said.matches("ERROR 42501 denied by policy").count(), 2, "{said}");
    assert!(said.contains("served"), "{said}");
    assert_eq!(world.sessions()[0]["denied"], 2, "{:?}", world.sessions());
}

#[test]
fn where_a_value_is_stored_is_not_chosen_by_a_masked_one() {
    let world = World::with(POLICY);
    let setup = "ALTER TABLE customers ADD prefs jsonb DEFAULT '{}'; ALTER TABLE orders ADD extra jsonb";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {setup}")).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
begin = b"INSERT INTO orders (customer_id, item, amount, extra['x'][(SELECT ssn FROM customers WHERE id = 1)]) VALUES (1, 'probe', 1, '1')"
for sql in (
    begin,
    begin.replace(b"['x']", b"[lo_get(1)::text]").replace(b"(SELECT ssn FROM customers WHERE id = 1)", b"'y'"),
    b"UPDATE customers SET prefs[ssn] = '1' WHERE id = 1",
    b"UPDATE customers SET (prefs[ssn], phone) = ROW('1', 'x') WHERE id = 1",
    b"INSERT INTO orders (id, customer_id, item, amount) VALUES (1, 1, 'x', 1) ON CONFLICT (id) DO UPDATE SET extra[(SELECT ssn FROM customers WHERE id = 1)] = '1'",
):
    show(s, stream, sql)
show(s, stream, b"SELECT extra FROM orders")
show(s, stream, b"SELECT prefs FROM customers")
show(s, stream, b"UPDATE customers SET prefs['plain'] = '1' WHERE id = 1")
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && said.matches("42501").count() == 5 && said.contains("UPDATE 1"), "{said}");
}

#[test]
fn a_word_that_is_a_name_to_an_older_server_is_not_understood() {
    let world = World::with(POLICY);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
show(s, stream, b"UPDATE customers \"system_user\" SET phone = system_user::text WHERE id = 1")
show(s, stream, b"SELECT phone FROM customers WHERE id = 1")
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && said.contains("42501") && said.contains("555-0101"), "{said}");
}

#[test]
fn catalogs_show_no_values_of_masked_columns() {
    let world = World::allowing(r#""copy_out""#);
    for setup in [
        "SET ROLE orders_rw; CREATE TABLE late (id int); INSERT INTO late VALUES (1); ALTER TABLE late ADD email text DEFAULT 'one@late.example'",
        "CREATE VIEW missing AS SELECT attmissingval::text AS v FROM pg_attribute WHERE atthasmissing; GRANT SELECT ON missing TO orders_rw",
        "CREATE VIEW rows AS SELECT a::text AS v FROM pg_attribute a WHERE atthasmissing; GRANT SELECT ON rows TO orders_rw",
        "CREATE VIEW names AS SELECT attname FROM pg_attribute; GRANT SELECT ON names TO orders_rw",
        "ANALYZE customers; CREATE VIEW most AS SELECT stavalues1::text AS v FROM pg_statistic; GRANT SELECT ON most TO orders_rw",
    ] {
        world.shop.postgres.sql(setup).unwrap();
    }
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
names = b", ".join(b"c%d" % n for n in range(40))
some = b", ".join(b"c%d" % n for n in range(26))
for sql in (
    b"SELECT attmissingval FROM pg_attribute WHERE atthasmissing",
    b"SELECT attmissingval::text FROM pg_catalog.pg_attribute WHERE atthasmissing",
    b"SELECT x.c25::text FROM pg_attribute AS x(" + some + b") WHERE c25 IS NOT NULL",
    b"SELECT c25::text FROM (pg_attribute JOIN pg_class ON attrelid = pg_class.oid) AS x(" + names + b") WHERE c25 IS NOT NULL",
    b"SELECT x.c25::text FROM (SELECT * FROM pg_attribute WHERE atthasmissing) AS x(" + some + b")",
    b"SELECT a::text FROM pg_attribute a WHERE atthasmissing",
    b"SELECT to_json(a) FROM pg_attribute a WHERE atthasmissing",
    b"TABLE pg_attribute",
    b"COPY pg_attribute (attmissingval) TO STDOUT",
    b"SELECT v FROM missing",
    b"SELECT v FROM rows",
    b"SELECT v FROM most",
):
    show(s, stream, sql)
show(s, stream, b"SELECT count(*) FROM pg_attribute a JOIN names USING (attname)")
"#,
        )
        .unwrap();
    assert!(!said.contains("one@late") && !said.contains(SSN) && said.matches("42501").count() == 6, "{said}");
    // As a text, from a subquery and from a view it is covered; as itself, and in a COPY, it is NULL.
    assert_eq!(said.matches("***").count(), 3, "{said}");
    assert!(said.contains("SELECT 1"), "names may be read: {said}");
    let described = world.shop.psql("\\d customers").run().unwrap().expect_success().unwrap();
    assert!(described.contains("ssn"), "{described}");
}

#[test]
fn code_of_the_database_that_puts_masked_values_elsewhere_makes_a_table_derived() {
    let world = World::with(POLICY);
    for setup in [
        "CREATE FUNCTION first_ssn() RETURNS text LANGUAGE sql AS 'SELECT min(ssn) FROM customers';
         CREATE FUNCTION note() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN first_ssn(); END'",
        "SET ROLE orders_rw; CREATE TABLE by_default (id int, note text DEFAULT note())",
        "SET ROLE orders_rw; CREATE DOMAIN noted AS text DEFAULT note(); CREATE TABLE by_domain (id int, note noted)",
        "SET ROLE orders_rw; CREATE TABLE by_trigger (id int, note text);
         CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := note(); RETURN NEW; END';
         CREATE TRIGGER t BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION put()",
        "SET ROLE orders_rw; CREATE TABLE harmless (id int, made timestamptz DEFAULT now(), note text);
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM phone FROM customers WHERE id = NEW.id; NEW.note := 1; RETURN NEW; END';
         CREATE TRIGGER t BEFORE INSERT ON harmless FOR EACH ROW EXECUTE FUNCTION stamp()",
    ] {
        world.shop.postgres.sql(setup).unwrap();
    }
    for table in ["by_default", "by_domain", "by_trigger"] {
        for sql in [format!("INSERT INTO {table} (id) VALUES (1) RETURNING note"), format!("SELECT note FROM {table}")]
        {
            let said = world.shop.psql(&sql).run().unwrap();
            let denied = said.stderr.contains("denied by policy") && !said.stdout.contains(SSN);
            assert!(denied, "{sql}: {}{}", said.stdout, said.stderr);
        }
    }
    for sql in ["INSERT INTO harmless (id) VALUES (1) RETURNING note, made", "SELECT * FROM harmless"] {
        world.shop.psql(sql).run().unwrap().expect_success().unwrap();
    }
}

#[test]
fn the_errors_of_a_row_security_policy_tell_no_masked_values() {
    let world = World::allowing(r#""prepare", "execute", "declare", "fetch", "explain""#);
    let setup = "SET ROLE orders_rw; CREATE TABLE guarded (id int, x text); INSERT INTO guarded VALUES (1, 'a');
        CREATE VIEW of_guarded AS SELECT x FROM guarded;
        ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON guarded USING ((SELECT ssn::int FROM customers c WHERE c.id = guarded.id) > 0)";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"SELECT count(*) FROM guarded", b"SELECT x FROM of_guarded", b"UPDATE guarded SET x = 'b' WHERE id = 1",
            b"EXPLAIN ANALYZE SELECT x FROM guarded", b"PREPARE g AS SELECT x FROM guarded", b"EXECUTE g",
            b"BEGIN; DECLARE c CURSOR FOR SELECT x FROM guarded", b"FETCH ALL FROM c", b"ROLLBACK",
            b"BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT x FROM guarded", b"COMMIT"):
    show(s, stream, sql)
s.sendall(parse(b"", b"SELECT x FROM guarded") + bind(b"", b"") + execute(b"") + sync)
errors(until(stream, b"Z"))
"#,
        )
        .unwrap();
    // It is part of the statement, and what can fail by a masked value is refused.
    assert!(!said.contains(SSN) && !said.contains("22P02") && said.matches("ERROR 42501").count() == 10, "{said}");
}

#[test]
fn what_is_known_of_results_takes_bounded_memory() {
    let world = World::with(POLICY);
    let columns: Vec<String> =
        (0..1500).map(|number| format!("a_name_of_some_fifty_bytes_as_names_are_{number} int")).collect();
    let setup = format!("SET ROLE orders_rw; CREATE TABLE wide (email text, {})", columns.join(", "));
    world.shop.postgres.sql(&setup).unwrap();
    // Statements of fifty bytes with fifteen hundred columns: prepared, and in one text.
    let script = r#"
s, stream = session()
for number in range(4000):
    s.sendall(parse(b"n%d" % number, b"SELECT w.* FROM wide w") + msg(b"D", b"Sn%d\0" % number) + sync)
    seen = until(stream, b"Z")
    if any(tag == b"E" for tag, _ in seen):
        errors(seen)
        break
o, other = session()
o.sendall(query(b"SELECT * FROM wide;" * 4000))
errors(until(other, b"Z"))
# Ahead of all answers: whoever does not wait is not told in time.
a, ahead = session()
try:
    a.sendall(b"".join(parse(b"n%d" % n, b"SELECT w.* FROM wide w") + msg(b"D", b"Sn%d\0" % n) for n in range(4000)) + sync)
    errors(until(ahead, b"Z"))
except OSError:
    pass
print("known", flush=True)
sys.stdin.readline()
show(o, other, b"SELECT 'served'")
"#;
    let (grown, said) = grown_until(&world, script, "known");
    assert!(grown < 350, "{grown} MiB more");
    assert!(said.contains("54000") && said.contains("one at a time") && said.contains("served"), "{said}");
}

#[test]
fn rows_of_a_masked_table_that_are_kept_in_columns_are_masked() {
    let world = World::with(POLICY);
    let setup = "SET ROLE orders_rw; CREATE TYPE kept AS (old customers); CREATE DOMAIN several AS customers[];
        CREATE TABLE audit (id int, old customers, all_of_them customers[], deep kept, domained several);
        INSERT INTO audit SELECT 1, c, ARRAY[c], ROW(c)::kept, ARRAY[c] FROM customers c WHERE id = 1;
        CREATE TABLE other (id int, k kept); INSERT INTO other SELECT id, deep FROM audit;
        CREATE VIEW of_other AS SELECT (k).old FROM other";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"SELECT old, all_of_them, deep, domained FROM audit", b"SELECT k FROM other", b"SELECT (old).ssn FROM audit",
            b"SELECT all_of_them[1].email FROM audit", b"SELECT old FROM of_other", b"SELECT id FROM audit"):
    show(s, stream, sql)
for sql in (b"SELECT old FROM audit", b"SELECT all_of_them FROM audit"):
    s.sendall(parse(b"", sql) + msg(b"B", b"\0\0\0\0\0\0\0\x01\0\x01") + execute(b"") + sync)
    print(until(stream, b"Z"))
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && !said.contains("ada@shop"), "{said}");
    assert!(said.matches("SELECT 1").count() == 8 && said.contains("***") && !said.contains("42501"), "{said}");
}
