//! PostgreSQL on the real kernel: unmodified clients on the agent's side, a real server on the other, and between them
//! policy, masks, approvals and the recording.

use system_tests::env::Gateway;
use system_tests::postgres::{CARD, EMAIL, SSN};
use system_tests::process::{Finished, PATIENCE};
use system_tests::shop::{POLICY, Shop};

/// The scene with a running gateway. Dropped in this order.
struct World {
    _gateway: Gateway,
    shop: Shop,
}

impl World {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: &str) -> Self {
        let shop = Shop::new().unwrap();
        shop.configure(policy).unwrap();
        let gateway = shop.serve().unwrap();
        Self { _gateway: gateway, shop }
    }

    fn psql(&self, sql: &str) -> Finished {
        self.shop.psql(sql).run().unwrap()
    }

    /// Rows without decoration.
    fn rows(&self, sql: &str) -> String {
        let finished = self.shop.psql(sql).args(["--tuples-only", "--no-align"]).run().unwrap();
        finished.expect_success().unwrap().trim_end().to_owned()
    }

    /// Several statements, each sent by itself, whatever becomes of the one before.
    fn script(&self, statements: &[&str]) -> Finished {
        let mut client = self.shop.client("psql").args(["--no-psqlrc", "--tuples-only", "--no-align"]);
        for statement in statements {
            client = client.args(["--command", statement]);
        }
        client.run().unwrap()
    }

    fn python(&self, script: &str) -> Finished {
        self.shop.client("/usr/bin/python3").args(["-c", script]).run().unwrap()
    }
}

#[test]
fn psql_gets_rows_without_a_password_and_masked() {
    let world = World::new();
    assert_eq!(world.rows("SELECT id, item FROM orders WHERE id = 3"), "3|lamp");
    let customers = world.psql("SELECT * FROM customers ORDER BY id").expect_success().unwrap();
    assert!(customers.contains("Ada Okafor") && customers.contains("*******1002"), "{customers}");
    for secret in [SSN, EMAIL, "bruno@shop.example"] {
        assert!(!customers.contains(secret), "{customers}");
    }
    assert_eq!(
        world.rows("SELECT ssn AS x, email::text AS y FROM customers WHERE id = 1"),
        "*******1002|************mple"
    );
    let card = world.rows("SELECT card_number, note FROM payments WHERE id = 1");
    assert!(!card.contains(CARD) && card.ends_with("|paid"), "{card}");
}

#[test]
fn what_is_not_plainly_a_column_is_refused() {
    let world = World::new();
    for sql in [
        "SELECT ssn || '' FROM customers",
        "SELECT count(*) FROM customers",
        "SELECT email FROM contacts",
        "COPY customers TO STDOUT",
        "SELECT c FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT 1; SELECT max(ssn) FROM customers",
        "EXPLAIN ANALYZE SELECT * FROM customers WHERE ssn = '900-11-1002'",
    ] {
        let refused = world.psql(sql);
        assert!(!refused.stdout.contains("900") && !refused.stdout.contains('@'), "{sql}: {}", refused.stdout);
        assert!(refused.stderr.contains("ERROR:  denied by policy"), "{sql}: {}", refused.stderr);
        assert!(refused.stderr.contains("weir why"), "{sql}: {}", refused.stderr);
    }
    let log = world.shop.postgres.log();
    assert!(!log.contains("COPY customers"), "a refused statement reached the server");
}

#[test]
fn errors_tell_nothing_of_masked_values() {
    let world = World::new();
    for sql in [
        "SELECT ssn FROM customers WHERE ssn::int = 1",
        "SELECT ssn FROM customers WHERE 1 / (CASE WHEN ssn LIKE '900-11%' THEN 0 ELSE 1 END) = 1",
        "UPDATE customers SET name = NULL WHERE id = 1",
        "INSERT INTO customers (name, since) VALUES ('x', now())",
    ] {
        let failed = world.psql(sql);
        assert!(!failed.success(), "{sql}");
        for part in ["900-", "ada@", "22012", "22P02", "division"] {
            assert!(!failed.stderr.contains(part), "{sql}: {}", failed.stderr);
        }
    }
}

#[test]
fn a_denial_is_an_error_and_the_transaction_lives_on() {
    let world = World::new();
    let script = world.script(&[
        "BEGIN",
        "UPDATE orders SET item = 'gong' WHERE id = 3",
        "DROP TABLE orders",
        "SELECT item FROM orders WHERE id = 3",
        "ROLLBACK",
        "SELECT item FROM orders WHERE id = 3",
    ]);
    assert!(
        script
            .stderr
            .contains("ERROR:  denied by policy, rule \"no schema changes\": Schema changes go through migrations.")
    );
    assert_eq!(script.stdout, "BEGIN\nUPDATE 1\ngong\nROLLBACK\nlamp\n", "{}", script.stderr);
    let verbose = world.shop.psql("DROP TABLE orders").args(["--set", "VERBOSITY=verbose"]).run().unwrap();
    assert!(verbose.stderr.contains("ERROR:  42501:"), "{}", verbose.stderr);
    assert!(!world.shop.postgres.log().contains("DROP TABLE"), "the denied statement reached the server");
}

#[test]
fn a_batch_with_one_denied_statement_does_not_run() {
    let world = World::new();
    let denied = world.psql("UPDATE orders SET item = 'gong' WHERE id = 3; DROP TABLE orders");
    assert!(denied.stderr.contains("denied by policy"), "{}", denied.stderr);
    assert_eq!(world.rows("SELECT item FROM orders WHERE id = 3"), "lamp");
    assert_eq!(world.rows("SELECT 1; SELECT id, ssn FROM customers WHERE id = 1; SELECT 2"), "1\n1|*******1002\n2");
}

#[test]
fn a_write_without_where_waits_for_a_human() {
    let world = World::new();
    let held = world.shop.psql("DELETE FROM payments").start().unwrap();
    wait_for_notice(&held);
    let approval = approval_number(&held.stderr());
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments").unwrap(), "3");
    world.shop.env.weir(["approve", &approval]).unwrap().expect_success().unwrap();
    assert_eq!(held.finish(PATIENCE).unwrap().expect_success().unwrap(), "DELETE 3\n");

    let held = world.shop.psql("DELETE FROM orders").start().unwrap();
    wait_for_notice(&held);
    world.shop.env.weir(["deny", &approval_number(&held.stderr())]).unwrap().expect_success().unwrap();
    let denied = held.finish(PATIENCE).unwrap();
    assert!(!denied.success() && denied.stderr.contains("was denied by"), "{}", denied.stderr);
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM orders").unwrap(), "5");
}

#[test]
fn whoever_waits_can_cancel() {
    let world = World::new();
    let held = world.shop.psql("DELETE FROM payments").start().unwrap();
    wait_for_notice(&held);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(held.pid().cast_signed()), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    let cancelled = held.finish(PATIENCE).unwrap();
    assert!(cancelled.stderr.contains("canceling statement due to user request"), "{}", cancelled.stderr);
    let running = world.shop.psql("SELECT pg_sleep(60)").start().unwrap();
    system_tests::process::wait_until("the statement to run", PATIENCE, || {
        let active =
            world.shop.postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'");
        active.unwrap() == "1"
    })
    .unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.pid().cast_signed()), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    let cancelled = running.finish(PATIENCE).unwrap();
    assert!(cancelled.stderr.contains("canceling statement due to user request"), "{}", cancelled.stderr);
}

fn wait_for_notice(held: &system_tests::process::Running) {
    system_tests::process::wait_until("the notice", PATIENCE, || held.stderr().contains("waiting for approval"))
        .unwrap();
}

fn approval_number(stderr: &str) -> String {
    let after = stderr.split("waiting for approval ").nth(1).unwrap();
    after.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn clients_that_ask_for_tls_get_it() {
    let world = World::new();
    let version = world.shop.psql("SELECT 1").env("PGSSLMODE", "require").run().unwrap();
    version.expect_success().unwrap();
    let ca = world.shop.env.state_dir().join("ca/ca.pem");
    let readable = world.shop.env.dir().join("gateway-ca.pem");
    std::fs::copy(ca, &readable).unwrap();
    let verified = world.shop.psql("SELECT 1").env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", readable);
    verified.run().unwrap().expect_success().unwrap();
}

#[test]
fn psycopg_reads_writes_prepares_and_pipelines() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"deallocate\", \"copy_out\"]"));
    let script = r#"
import psycopg
with psycopg.connect("") as c:
    print(c.execute("SELECT item FROM orders WHERE id = %s", (3,)).fetchone())
    print(c.execute("SELECT ssn FROM customers WHERE id = %s", (1,)).fetchone())
    print(c.execute("SELECT ssn, id, since FROM customers WHERE id = %s", (1,), binary=True).fetchone())
    for i in range(1, 8):
        r = c.execute("SELECT id, email FROM customers WHERE id = %s", (1 + i % 3,), prepare=True).fetchone()
    print(r)
    try:
        c.execute("DROP TABLE orders")
    except psycopg.errors.InsufficientPrivilege as e:
        print("denied", e.sqlstate, c.info.transaction_status.name)
    print(c.execute("UPDATE orders SET item = %s WHERE id = %s", ("gong", 3)).rowcount)
    c.rollback()
    with c.pipeline():
        a = c.execute("SELECT item FROM orders WHERE id = %s", (1,))
        b = c.execute("SELECT name FROM customers WHERE id = %s", (2,))
        print(a.fetchone(), b.fetchone())
    c.commit()
    try:
        with c.pipeline():
            a = c.execute("UPDATE orders SET item = %s WHERE id = %s", ("gong", 3))
            b = c.execute("SELECT max(ssn) FROM customers WHERE id = %s", (2,))
            d = c.execute("SELECT 1")
    except psycopg.errors.InsufficientPrivilege:
        print("denied in the pipeline")
    c.rollback()
    print(c.execute("SELECT item FROM orders WHERE id = 3").fetchone())
    with c.cursor().copy("COPY (SELECT id, item FROM orders WHERE id < 3) TO STDOUT") as copy:
        print([bytes(x) for x in copy])
"#;
    let ran = world.python(script);
    let expected = "('lamp',)\n('*******1002',)\n('*******1002', 1, datetime.date(2021, 3, 4))\n(2, '**************mple')\n\
                    denied 42501 INTRANS\n1\n('kettle',) ('Bruno Lehner',)\ndenied in the pipeline\n('lamp',)\n[b'1\\tkettle\\n', b'2\\ttea, 500 g\\n']\n";
    assert!(ran.stdout == expected, "{}\n{}", ran.stdout, ran.stderr);
}

#[test]
fn pgbench_runs_in_all_its_modes() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"vacuum\", \"truncate\"]"));
    world.shop.postgres.pgbench_tables(1).unwrap();
    for mode in ["simple", "extended", "prepared"] {
        for script in ["select-only", "tpcb-like"] {
            let words = ["-n", "-M", mode, "-b", script, "-c", "4", "-t", "50"];
            let ran = world.shop.client("pgbench").args(words).run().unwrap();
            assert!(ran.success() && ran.stdout.contains("200/200"), "{mode} {script}: {}\n{}", ran.stdout, ran.stderr);
        }
    }
}
