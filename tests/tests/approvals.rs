//! Approvals end to end: an unmodified psql waits, a person decides from another terminal, and exactly that statement runs
//! exactly once, or does not.

use std::time::Duration;

use serde_json::Value;
use system_tests::env::Gateway;
use system_tests::process::{Finished, Running, wait_until};
use system_tests::shop::{POLICY, Shop};

const PATIENCE: Duration = Duration::from_secs(20);
const DELETE: &str = "DELETE FROM orders";

/// The shop behind a gateway. Dropped in this order.
struct World {
    gateway: Option<Gateway>,
    shop: Shop,
}

impl World {
    fn new() -> Self {
        Self::with_policy(POLICY)
    }

    fn with_policy(policy: &str) -> Self {
        let shop = Shop::new().unwrap();
        shop.configure(policy).unwrap();
        Self { gateway: Some(shop.serve().unwrap()), shop }
    }

    fn weir(&self, line: &str) -> Finished {
        self.shop.env.weir(line.split_whitespace()).unwrap()
    }

    fn waiting(&self) -> Vec<Value> {
        let listed = self.weir("approvals --json").expect_success().unwrap();
        serde_json::from_str(&listed).unwrap()
    }

    /// An agent's psql that waits for an approval, and the approval.
    fn hold(&self, sql: &str) -> (Running, Value) {
        let psql = self.shop.psql(sql).start().unwrap();
        psql.wait_for("approval", PATIENCE).unwrap();
        let approval = self.waiting().pop().expect("psql was told of an approval that is not listed");
        (psql, approval)
    }

    fn orders(&self) -> String {
        self.shop.postgres.sql("SELECT count(*) FROM orders").unwrap().trim().to_owned()
    }
}

fn number(approval: &Value) -> u64 {
    approval["number"].as_u64().unwrap()
}

#[test]
fn approvers_see_what_the_target_expects() {
    let world = World::new();
    world.shop.postgres.sql("ANALYZE").unwrap();
    let count = world.orders();
    let (psql, approval) = world.hold(DELETE);
    let forecast = &approval["forecast"];
    assert_eq!(forecast["rows"].to_string(), count, "{approval}");
    assert_eq!(forecast["cascades"], serde_json::json!(["deletes rows of payments"]), "{approval}");
    let shown = world.weir(&format!("approvals show {}", number(&approval))).expect_success().unwrap();
    let lines =
        ["the target expects", "Delete on public.orders", "Seq Scan on public.orders", "and deletes rows of payments"];
    assert!(lines.iter().all(|it| shown.contains(it)), "{shown}");
    drop(psql);

    // With parameters, in a transaction and in none, and with statements before and behind it in a batch.
    let script = r#"
import sys, psycopg
with psycopg.connect("", autocommit=sys.argv[1] == "auto") as c:
    with c.pipeline() if sys.argv[1] == "pipeline" else c.cursor():
        first = c.execute("SELECT count(*) FROM orders WHERE id > %s", (0,))
        done = c.execute("UPDATE orders SET item = %s", ("new",))
        last = c.execute("SELECT count(*) FROM orders WHERE item = %s", ("new",))
        print(first.fetchone()[0], done.rowcount, last.fetchone()[0], flush=True)
"#;
    for (mode, is_told) in [("auto", true), ("transaction", true), ("pipeline", false)] {
        world.shop.postgres.sql("UPDATE orders SET item = 'old'").unwrap();
        let python = world.shop.client("/usr/bin/python3").args(["-c", script, mode]).start().unwrap();
        wait_until("an approval", PATIENCE, || !world.waiting().is_empty()).unwrap();
        let approval = world.waiting().pop().unwrap();
        let rows = &approval["forecast"]["rows"];
        assert_eq!(rows.to_string(), if is_told { count.as_str() } else { "null" }, "{mode}: {approval}");
        assert!(approval["parameters"].as_str().is_some_and(|it| it.contains("new")), "{approval}");
        assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM orders WHERE item = 'new'").unwrap().trim(), "0");
        world.weir(&format!("approve {}", number(&approval))).expect_success().unwrap();
        let said = python.finish(PATIENCE).unwrap().expect_success().unwrap();
        assert_eq!(said.trim(), format!("{count} {count} {count}"), "{mode}");
    }
}

#[test]
fn approvers_see_what_a_disguised_statement_is_understood_as() {
    let rule = "\n[[rule]]\nname = \"customers\"\ntables = [\"customers\"]\nthen = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }\n";
    let world = World::with_policy(&(POLICY.to_owned() + rule));
    let disguised = r#"/* SELECT 1 */DeLeTe/**/fRoM U&"o\0072ders" -- WHERE id = 1"#;
    let (psql, approval) = world.hold(disguised);
    assert!(approval["text"].as_str().is_some_and(|it| it.contains(r#"U&"o\0072ders""#)), "{approval}");
    assert_eq!(approval["understood"], "DELETE FROM orders", "{approval}");
    let shown = world.weir(&format!("approvals show {}", number(&approval))).expect_success().unwrap();
    assert!(shown.contains("which is understood as\nDELETE FROM orders\n"), "{shown}");
    drop(psql);
    wait_until("the request's withdrawal", PATIENCE, || world.waiting().is_empty()).unwrap();

    // What is hidden stays so, and what says the same is not said twice.
    let (psql, approval) = world.hold("select id, /* all */ '900-11-1002' from customers");
    let understood = approval["understood"].as_str().unwrap();
    assert!(understood.starts_with("SELECT id, '***'") && !approval.to_string().contains("1002"), "{approval}");
    drop(psql);
    wait_until("the request's withdrawal", PATIENCE, || world.waiting().is_empty()).unwrap();
    let (psql, approval) = world.hold(&DELETE.to_lowercase());
    assert!(approval["understood"].is_null(), "{approval}");
    drop(psql);
}

#[test]
fn what_a_copy_is_about_is_looked_at_again_when_it_is_approved() {
    let rule = "\n[[rule]]\nname = \"copies\"\nkinds = [\"copy_out\"]\nthen = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }\n";
    let world = World::with_policy(&(POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]") + rule));
    let script = r#"
s, stream = session()
s.sendall(parse(b"", b"COPY customers (id, ssn) TO STDOUT") + bind(b"", b"") + execute(b"") + sync)
seen = until(stream, b"Z")
errors(seen)
print([body for tag, body in seen if tag in b"dC"])
show(s, stream, b"SELECT 'served'")
"#;
    for replaced in [false, true] {
        let client = world.shop.raw_client(script).start().unwrap();
        wait_until("an approval", PATIENCE, || !world.waiting().is_empty()).unwrap();
        let number = number(&world.waiting()[0]);
        if replaced {
            let other = "ALTER TABLE customers RENAME TO old; CREATE TABLE customers (id text, ssn int); GRANT ALL ON customers TO orders_rw";
            world.shop.postgres.sql(other).unwrap();
        }
        world.weir(&format!("approve {number}")).expect_success().unwrap();
        let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
        assert!(said.contains("served") && !said.contains("900-"), "{said}");
        assert_eq!((said.contains("*1002"), said.contains("ERROR 42501")), (!replaced, replaced), "{said}");
    }
}

#[test]
fn what_is_approved_runs_once_and_the_record_says_by_whom() {
    let world = World::new();
    assert_ne!(world.orders(), "0");
    let (psql, approval) = world.hold(DELETE);
    let number = number(&approval);
    assert_eq!(
        (&approval["text"], &approval["agent"], &approval["target"]),
        (&DELETE.into(), &"coder".into(), &"orders".into())
    );
    assert!(psql.stderr().contains(&format!("weir approve {number}")), "{}", psql.stderr());
    assert_ne!(world.orders(), "0", "nothing runs before somebody says so");
    let shown = world.weir(&format!("approvals show {number}")).expect_success().unwrap();
    assert!(shown.contains(DELETE) && shown.contains("psql") && shown.contains("coder@shop.example"), "{shown}");

    let approved = world.weir(&format!("approve {number} --reason OPS-12"));
    assert!(approved.success(), "{approved:?}");
    assert!(psql.finish(PATIENCE).unwrap().success());
    assert_eq!(world.orders(), "0");
    let again = world.weir(&format!("approve {number}"));
    assert!(again.code == Some(1) && again.stderr.contains("over already"), "{again:?}");

    let operation = approval["operation"].as_str().unwrap();
    let session = operation.split('-').next().unwrap();
    let shown = world.weir(&format!("sessions show {session}")).expect_success().unwrap();
    for part in [DELETE, "hold", "approved by root (uid 0", "OPS-12"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let why = world.weir(&format!("why {operation}")).expect_success().unwrap();
    assert!(why.contains("approved by root") && why.contains("whole-table writes need a human"), "{why}");
}

#[test]
fn a_denial_reaches_the_agent_with_its_reason() {
    let world = World::new();
    let before = world.orders();
    let (psql, approval) = world.hold(DELETE);
    let denied = world.weir(&format!("deny {} --reason not-today", number(&approval)));
    assert!(denied.success(), "{denied:?}");
    let finished = psql.finish(PATIENCE).unwrap();
    assert!(!finished.success() && finished.stderr.contains("not-today"), "{finished:?}");
    assert_eq!(world.orders(), before);
}

#[test]
fn silence_is_no() {
    let world = World::with_policy(&POLICY.replace("timeout = \"20s\"", "timeout = \"1s\""));
    let before = world.orders();
    let finished = world.shop.psql(DELETE).run().unwrap();
    assert!(!finished.success() && finished.stderr.contains("not given in time"), "{finished:?}");
    assert_eq!(world.orders(), before);
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let world = World::new();
    let before = world.orders();
    let (mut psql, approval) = world.hold(DELETE);
    psql.kill();
    wait_until("the request's withdrawal", PATIENCE, || world.waiting().is_empty()).unwrap();
    let late = world.weir(&format!("approve {}", number(&approval)));
    assert!(late.code == Some(1) && late.stderr.contains("client went away"), "{late:?}");
    assert_eq!(world.orders(), before);
}

#[test]
fn a_changed_policy_ends_what_was_asked_under_the_old_one() {
    let world = World::new();
    let before = world.orders();
    let (psql, approval) = world.hold(DELETE);
    world.shop.configure(&POLICY.replace("no schema changes", "none")).unwrap();
    assert!(world.weir("reload").success());
    assert!(world.weir(&format!("approve {}", number(&approval))).success());
    let finished = psql.finish(PATIENCE).unwrap();
    assert!(!finished.success() && finished.stderr.contains("policy changed"), "{finished:?}");
    assert_eq!(world.orders(), before);
}

#[test]
fn numbers_are_never_used_again() {
    let mut world = World::new();
    let (psql, approval) = world.hold(DELETE);
    world.gateway.take().unwrap().kill().unwrap();
    assert!(!psql.finish(PATIENCE).unwrap().success());
    world.gateway = Some(world.shop.serve().unwrap());
    assert!(world.waiting().is_empty(), "what waited ended with its client");
    let unknown = world.weir(&format!("approve {}", number(&approval)));
    assert!(unknown.code == Some(1) && unknown.stderr.contains("no approval"), "{unknown:?}");
    let (psql, second) = world.hold(DELETE);
    assert!(number(&second) > number(&approval), "{second}");
    drop(psql);
}
