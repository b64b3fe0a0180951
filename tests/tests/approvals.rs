//! Approvals end to end: an unmodified psql waits, a person decides from another terminal, and exactly that statement runs
//! exactly once, or does not.

#[path = "approvals/people.rs"]
mod people;
#[path = "approvals/shown.rs"]
mod shown;

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
    assert_eq!(
        forecast["cascades"],
        serde_json::json!(["deletes rows of payments (it has about 3 rows)"]),
        "{approval}"
    );
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

/// One word that looks like a secret must not hide what runs.
#[test]
fn approvers_see_what_code_does() {
    let unmasked = POLICY.split("[[mask]]").next().unwrap().replace("\"show\"]", "\"show\", \"do\"]");
    let world = World::with_policy(&unmasked);
    for body in [
        "$$ begin /* password */ delete from orders; perform 'password=x1y2'; end $$",
        "/* c */ language plpgsql $$ begin /* password */ delete from orders; perform 'password=x1y2'; end $$",
        "$$ begin delete from orders; perform crypt('x1y2', 'key'); end $$",
        "'begin /* pwd= */ delete from orders; perform ''password=x1y2''; end'",
    ] {
        let (psql, approval) = world.hold(&format!("do {body}"));
        let shown = world.weir(&format!("approvals show {}", number(&approval))).expect_success().unwrap();
        let code =
            if body.contains("crypt") { "begin delete from orders;" } else { "begin /* *** */ delete from orders;" };
        assert!(shown.contains(code) && shown.contains("does: do; delete orders"), "{shown}");
        assert!(!shown.contains("x1y2"), "{shown}");
        drop(psql);
    }
}

/// A function that is said to compute only, and does more, runs when the values are bound.
#[test]
fn nothing_runs_before_people_have_decided() {
    let rule = "[[rule]]\nname = \"refunds\"\ntargets = [\"orders\"]\nfunctions = [\"refund\", \"refunds\"]\n\
                then = { hold = { approvers = [\"dba\"], count = 1, timeout = \"5s\" } }\n";
    let unmasked = POLICY.split("[[mask]]").next().unwrap();
    let world = World::with_policy(&format!("{unmasked}{rule}"));
    let function = |name: &str, volatility: &str| {
        format!(
            "CREATE FUNCTION {name}(int) RETURNS int {volatility} SECURITY DEFINER LANGUAGE plpgsql AS
             $$ BEGIN PERFORM note_down($1); RETURN $1; END $$;"
        )
    };
    let setup = "CREATE TABLE noted (n int);
                 CREATE FUNCTION note_down(int) RETURNS void LANGUAGE sql AS 'INSERT INTO noted VALUES ($1)';";
    world.shop.postgres.sql(&format!("{setup}{}{}", function("refund", "IMMUTABLE"), function("refunds", ""))).unwrap();
    let script = "
import psycopg, sys
with psycopg.connect('', autocommit=True) as c:
    for name in ('refund', 'refunds'):
        try:
            print(c.execute(f'SELECT {name}(1), %s', (1,)).fetchone())
        except psycopg.Error as e:
            print(str(e).splitlines()[0])
";
    let said = world.shop.client("/usr/bin/python3").args(["-c", script]).run().unwrap().expect_success().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("refund is said to be immutable") && lines[0].contains("(ID "), "{said}");
    // This one waited, and nobody came.
    assert!(lines[1].contains("approval"), "{said}");
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM noted").unwrap().trim(), "0", "{said}");
}

/// A view that somebody replaces while people think.
#[test]
fn what_runs_is_about_what_people_were_shown() {
    let world = World::new();
    let sql = |text: &str| world.shop.postgres.sql(text).unwrap();
    sql("CREATE TABLE parts (id int); INSERT INTO parts VALUES (1); CREATE TABLE kept (id int); INSERT INTO kept VALUES (1), (2);
         CREATE VIEW batch AS SELECT id FROM parts; GRANT ALL ON parts, kept, batch TO orders_rw");
    for (between, rows) in [("kept", "2"), ("parts", "0")] {
        sql("CREATE OR REPLACE VIEW batch AS SELECT id FROM parts");
        let (psql, approval) = world.hold("DELETE FROM batch");
        assert_eq!(approval["forecast"]["plan"][0], "Delete on public.parts", "{approval}");
        sql(&format!("CREATE OR REPLACE VIEW batch AS SELECT id FROM {between}"));
        world.weir(&format!("approve {}", number(&approval))).expect_success().unwrap();
        let finished = psql.finish(PATIENCE).unwrap();
        assert_eq!(
            finished.stderr.contains("has become something else since it was shown"),
            between == "kept",
            "{finished:?}"
        );
        assert_eq!(sql(&format!("SELECT count(*) FROM {between}")).trim(), rows, "{finished:?}");
    }
}

/// Planning would run it before anybody was asked.
#[test]
fn nothing_is_planned_where_agents_may_have_made_functions() {
    let masks = POLICY.find("[[mask]]").unwrap();
    let world = World::with_policy(&POLICY[..masks]);
    world
        .shop
        .postgres
        .sql(
            "GRANT CREATE ON SCHEMA public TO orders_rw; SET ROLE orders_rw;
             CREATE FUNCTION loud(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_lock(424242); RETURN true; END $$;
             CREATE VIEW heard AS SELECT id FROM orders WHERE loud(1)",
        )
        .unwrap();
    let (psql, approval) = world.hold("DELETE FROM heard");
    assert_eq!(approval["forecast"], Value::Null, "{approval}");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(world.shop.postgres.sql(locks).unwrap().trim(), "0");
    world.weir(&format!("deny {}", number(&approval))).expect_success().unwrap();
    psql.finish(PATIENCE).unwrap();
    // What others have made is not theirs.
    world.shop.postgres.sql("ALTER FUNCTION loud(int) OWNER TO postgres").unwrap();
    let (psql, approval) = world.hold(DELETE);
    assert!(approval["forecast"]["rows"].is_number(), "{approval}");
    drop(psql);
}

/// Keys with every action, over several tables, to the table itself, and between tables of parts.
const KEYED: &str = "
    CREATE TABLE a (id int PRIMARY KEY, code text UNIQUE, parent int REFERENCES a ON DELETE CASCADE);
    CREATE TABLE b (id int PRIMARY KEY, a int UNIQUE REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b ON DELETE SET NULL);
    CREATE TABLE d (id int PRIMARY KEY, b int DEFAULT 1 REFERENCES b ON DELETE SET DEFAULT);
    CREATE TABLE e (id int, a int REFERENCES b (a) ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE f (id int, code text REFERENCES a (code) ON UPDATE SET NULL);
    CREATE TABLE \"g 'h\" (id int, e int REFERENCES c ON DELETE CASCADE);
    INSERT INTO a VALUES (1, 'x', NULL), (2, 'y', 1), (3, 'z', 2); INSERT INTO b VALUES (1, 1), (2, 2); INSERT INTO c VALUES (1, 1);
    INSERT INTO d SELECT n FROM generate_series(1, 5) n; INSERT INTO e VALUES (1, 1), (2, 2); INSERT INTO f VALUES (1, 'x');
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
    CREATE TABLE q (id int, p int REFERENCES p ON DELETE CASCADE) PARTITION BY RANGE (id);
    CREATE TABLE q_1 PARTITION OF q FOR VALUES FROM (0) TO (10); CREATE TABLE q_2 PARTITION OF q FOR VALUES FROM (10) TO (20);
    CREATE TABLE r (id int, p int REFERENCES p_1 ON DELETE SET NULL);
    CREATE TABLE s (id int, q int); CREATE TABLE t () INHERITS (s);
    ALTER TABLE t ADD PRIMARY KEY (id); CREATE TABLE u (s int REFERENCES t ON DELETE CASCADE);
    INSERT INTO p SELECT generate_series(1, 15); INSERT INTO q SELECT n, n FROM generate_series(1, 12) n; INSERT INTO r VALUES (1, 1);
    INSERT INTO s VALUES (1); INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); ANALYZE";

#[test]
fn approvers_see_what_happens_to_other_tables() {
    let truncating = "kinds   = [\"create\", \"drop\", \"truncate\", \"alter\"]\nthen    = \"deny\"";
    let held = "kinds   = [\"truncate\"]\nthen    = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }";
    let policy = POLICY.replace(truncating, held).replace("\"show\"]", "\"show\", \"merge\", \"truncate\"]");
    assert!(policy.contains(held));
    let world = World::with_policy(&policy);
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {KEYED}")).unwrap();
    let of_a = [
        "deletes rows of a (it has about 3 rows)",
        "deletes rows of b (it has about 2 rows)",
        "deletes rows of e (it has about 2 rows)",
        "sets columns to NULL in c (it has about 1 row)",
        "sets columns to their defaults in d (it has about 5 rows)",
    ];
    let of_p = ["deletes rows of q (it has about 12 rows)", "sets columns to NULL in r (it has about 1 row)"];
    let keys = ["changes keys in b (it has about 2 rows)", "changes keys in e (it has about 2 rows)"];
    let emptied = [
        "empties \"g 'h\" (it has about 0 rows)",
        "empties b (it has about 2 rows)",
        "empties c (it has about 1 row)",
        "empties d (it has about 5 rows)",
        "empties e (it has about 2 rows)",
        "empties f (it has about 1 row)",
    ];
    let both = [&emptied[..], &["empties q (it has about 12 rows)", "empties r (it has about 1 row)"]].concat();
    let cases: [(&str, u64, &[&str]); 14] = [
        ("DELETE FROM a", 3, &of_a),
        ("WITH gone AS (DELETE FROM a RETURNING id) SELECT count(*) FROM gone", 3, &of_a),
        ("MERGE INTO a USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE", 3, &of_a),
        ("DELETE FROM c", 1, &["deletes rows of \"g 'h\" (it has about 0 rows)"]),
        ("UPDATE a SET id = id + 10", 3, &keys),
        ("UPDATE a SET code = 'new'", 3, &["sets columns to NULL in f (it has about 1 row)"]),
        ("UPDATE a SET parent = id", 3, &[]),
        ("DELETE FROM p", 15, &of_p),
        ("DELETE FROM p_1", 9, &of_p),
        ("DELETE FROM p_2", 6, &of_p[..1]),
        ("DELETE FROM s", 2, &["deletes rows of u (it has about 1 row)"]),
        ("TRUNCATE a CASCADE", 3, &emptied),
        ("TRUNCATE q", 12, &[]),
        ("TRUNCATE a, p CASCADE", 18, &both),
    ];
    for (sql, rows, cascades) in cases {
        let (mut psql, approval) = world.hold(sql);
        let forecast = &approval["forecast"];
        assert_eq!(forecast["rows"], rows, "{sql}: {approval}");
        assert_eq!(forecast["cascades"], serde_json::json!(cascades), "{sql}");
        let shown = world.weir(&format!("approvals show {}", number(&approval))).expect_success().unwrap();
        assert!(cascades.iter().all(|it| shown.contains(&format!("and {it}"))), "{sql}: {shown}");
        psql.kill();
        wait_until("the request's withdrawal", PATIENCE, || world.waiting().is_empty()).unwrap();
    }
    // It is what the target then does.
    let left = "SELECT (SELECT count(*) FROM q), (SELECT count(*) FROM r WHERE p IS NULL)";
    assert_eq!(world.shop.postgres.sql(left).unwrap(), "12|0");
    let (psql, approval) = world.hold("DELETE FROM p");
    world.weir(&format!("approve {}", number(&approval))).expect_success().unwrap();
    psql.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert_eq!(world.shop.postgres.sql(left).unwrap(), "0|1");
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
    assert!(shown.contains("as it is understood:\n  | DELETE FROM orders\n"), "{shown}");
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
