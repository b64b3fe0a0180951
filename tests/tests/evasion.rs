//! Agents that try to have one statement judged and another one run, or to be told what a mask hides by another way than
//! rows. Each test is a break that once worked.

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
