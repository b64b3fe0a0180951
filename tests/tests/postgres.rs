//! PostgreSQL on the real kernel: unmodified clients on the agent's side, a real server on the other, and between them
//! policy, masks, approvals and the recording.

#[path = "postgres/calls.rs"]
mod calls;
#[path = "postgres/copy.rs"]
mod copy;
#[path = "postgres/denials.rs"]
mod denials;
#[path = "postgres/facts.rs"]
mod facts;
#[path = "postgres/large.rs"]
mod large;
#[path = "postgres/limits.rs"]
mod limits;
#[path = "postgres/pooler.rs"]
mod pooler;
#[path = "postgres/rds_iam.rs"]
mod rds_iam;
#[path = "postgres/reload.rs"]
mod reload;
#[path = "postgres/startup.rs"]
mod startup;

use system_tests::env::Gateway;
use system_tests::postgres::{CARD, EMAIL, NAME, Postgres, SSN};
use system_tests::process::{Finished, PATIENCE};
use system_tests::shop::{POLICY, RAW, Shop};

/// The scene with a running gateway. Dropped in this order.
struct World {
    gateway: Gateway,
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
        Self { gateway, shop }
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
fn what_could_tell_of_masked_values_is_refused() {
    let world = World::new();
    assert_eq!(world.rows("SELECT count(*), max(ssn), min(name) FROM customers"), "3|***|Ada Okafor");
    for sql in [
        "COPY customers TO '/tmp/customers'",
        "SELECT ssn::int FROM customers",
        "SELECT id FROM customers WHERE ssn LIKE '900-1%'",
        "SELECT 1; SELECT id FROM customers ORDER BY ssn",
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
            b = c.execute("SELECT max(ssn::int) FROM customers WHERE id = %s", (2,))
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

/// A client without a library: speaks bytes, and prints what it got.
impl World {
    fn raw(&self, script: &str) -> String {
        self.shop.raw(script).unwrap()
    }

    /// What `weir sessions show` tells of all sessions.
    fn recorded(&self) -> String {
        let weir = |words: [&str; 3]| self.shop.env.weir(words).unwrap().expect_success().unwrap();
        let sessions: serde_json::Value = serde_json::from_str(&weir(["sessions", "list", "--json"])).unwrap();
        let ids = sessions.as_array().unwrap().iter().map(|session| session["id"].as_str().unwrap());
        ids.map(|id| weir(["sessions", "show", id])).collect()
    }
}

#[test]
fn what_is_no_protocol_gets_a_clear_error_and_others_go_on() {
    let world = World::new();
    let said = world.raw(
        r#"
for first in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", struct.pack(">II", 0x7fffffff, 196608), struct.pack(">II", 8, 131072), bytes(range(256)) * 8]:
    s = connect()
    s.sendall(first)
    errors(until(messages(s), b"E"))
for message in [b"Q\x7f\xff\xff\xff", b"Q\0\0\0\x03", msg(b"~"), msg(b"Q", b"SELECT 1"), msg(b"B", b"x"), b"E" + struct.pack(">I", 64 << 20)]:
    s, stream = session()
    s.sendall(message)
    errors(until(stream, b"E"))
# Closed in the middle of a message.
s, stream = session()
s.sendall(b"Q\0\0\0\x40SELECT")
s.close()
print("done")
"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 11, "{said}");
    assert!(lines[..10].iter().all(|line| line.starts_with("FATAL 08P01 the client ")), "{said}");
    assert_eq!(world.rows("SELECT 1"), "1");
}

#[test]
fn plaintext_behind_a_request_for_encryption_is_not_heard() {
    let world = World::new();
    let said = world.raw(
        r#"
s = connect()
s.sendall(struct.pack(">II", 8, 80877103))
startup(s)
seen = s.recv(1)
rest = b""
try:
    rest = s.recv(65536)
except ConnectionResetError:
    pass
print(seen, b"R\0\0\0" in rest)
s = connect()
s.sendall(struct.pack(">II", 8, 80877104))
print(s.recv(1))
s.sendall(struct.pack(">II", 8, 80877104))
errors(until(messages(s), b"E"))
"#,
    );
    assert_eq!(said, "b'S' False\nb'N'\nFATAL 08P01 the client asked for encryption once more than it may\n");
}

#[test]
fn huge_and_deep_texts_are_answered() {
    let world = World::new();
    let said = world.raw(
        r#"
s, stream = session()
s.sendall(msg(b"Q", b"SELECT " + b"(" * 10000 + b"1" + b")" * 10000 + b"\0"))
errors(until(stream, b"Z"))
s.sendall(msg(b"Q", b"SELECT '" + b"x" * (2 << 20) + b"'\0"))
errors(until(stream, b"Z"))
s.sendall(msg(b"Q", b"SELECT 1\0"))
print(len([t for t, _ in until(stream, b"Z") if t == b"D"]))
"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("ERROR 42501 denied by policy") && lines[1].starts_with("ERROR 42501 denied"),
        "{said}"
    );
    assert_eq!(lines[2], "1");
}

#[test]
fn names_cannot_be_made_to_stand_for_another_statement() {
    let world = World::new();
    // A portal that waits for approval is bound, then its name is bound again, which fails at the server only.
    let said = world.raw(
        r#"
def parse(name, sql): return msg(b"P", name + b"\0" + sql + b"\0\0\0")
def bind(portal, name): return msg(b"B", portal + b"\0" + name + b"\0\0\0\0\0\0\0")
def execute(portal): return msg(b"E", portal + b"\0\0\0\0\0")
def q(sql): return msg(b"Q", sql + b"\0")
sync = msg(b"S")
s, stream = session()
s.sendall(q(b"BEGIN") + parse(b"bad", b"DELETE FROM payments") + bind(b"p", b"bad") + sync + q(b"SAVEPOINT s"))
for _ in range(3): until(stream, b"Z")
s.sendall(parse(b"good", b"SELECT 1") + bind(b"p", b"good") + sync + q(b"ROLLBACK TO SAVEPOINT s") + execute(b"p") + sync)
until(stream, b"Z"); until(stream, b"Z")
print([t for t, _ in until(stream, b"N")][-1])
s.close()
# Preparing a name again fails at the server, and the name stays what it was.
s, stream = session()
s.sendall(parse(b"a", b"DELETE FROM payments") + sync)
until(stream, b"Z")
s.sendall(parse(b"a", b"SELECT 1") + sync + bind(b"", b"a") + execute(b"") + sync)
errors(until(stream, b"Z"))
print([t for t, _ in until(stream, b"N")][-1])
s.close()
"#,
    );
    assert_eq!(said, "b'N'\nERROR 42P05 prepared statement \"a\" already exists\nb'N'\n");
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments").unwrap(), "3");
}

#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    let world = World::new();
    let mut stuck = world
        .shop
        .client("/usr/bin/python3")
        .args(["-u", "-c"])
        .arg(format!(
            "{RAW}\ns, stream = session()\ns.sendall(msg(b'Q', b\"SELECT repeat('x', 1000) FROM generate_series(1, 400000)\\0\"))\n\
             print('sent')\nsys.stdin.readline()\nprint(sum(1 for t, _ in until(stream, b'Z') if t == b'D'))\n"
        ))
        .start()
        .unwrap();
    stuck.wait_for("sent", PATIENCE).unwrap();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT repeat%' AND wait_event = 'ClientWrite'";
    let stands_still = || world.shop.postgres.sql(waiting).unwrap() == "1";
    system_tests::process::wait_until("the server to wait for its client", PATIENCE, stands_still).unwrap();
    let resident: u64 = world.gateway.pids().unwrap().into_iter().map(resident_kib).sum();
    assert!(resident < 200 << 10, "{resident} KiB");
    assert_eq!(world.rows("SELECT 1"), "1", "others go on");
    stuck.write("go\n").unwrap();
    stuck.close_stdin();
    assert_eq!(stuck.finish(PATIENCE).unwrap().stdout, "sent\n400000\n");
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_target_that_goes_away_is_told_and_recorded() {
    let world = World::new();
    let sleeping = world.shop.psql("SELECT 1 FROM orders WHERE pg_sleep(60) IS NULL").start().unwrap();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
    system_tests::process::wait_until("the statement to run", PATIENCE, || {
        world.shop.postgres.sql(kill).unwrap() == "1"
    })
    .unwrap();
    let ended = sleeping.finish(PATIENCE).unwrap();
    assert!(ended.stderr.contains("terminating connection due to administrator command"), "{}", ended.stderr);
    let sessions = world.shop.env.weir(["sessions", "list"]).unwrap().expect_success().unwrap();
    assert!(sessions.contains("target"), "{sessions}");
}

#[test]
fn a_target_that_is_down_is_named_and_one_with_a_typo_in_its_mask_is_denied() {
    let mut world = World::with(&POLICY.replace("public.customers.ssn", "public.customers.snn"));
    let denied = world.psql("SELECT 1");
    assert!(
        denied.stderr.contains("public.customers.snn") && denied.stderr.contains("did you mean"),
        "{}",
        denied.stderr
    );
    world.shop.postgres.stop().unwrap();
    let down = world.psql("SELECT 1");
    assert!(down.stderr.contains("cannot be reached"), "{}", down.stderr);
}

#[test]
fn wrong_databases_and_settings_are_refused_at_the_start() {
    let world = World::new();
    let wrong = world.shop.psql("SELECT 1").env("PGDATABASE", "postgres").run().unwrap();
    assert!(
        wrong.stderr.contains("FATAL:") && wrong.stderr.contains("is not one of this target's"),
        "{}",
        wrong.stderr
    );
    for options in ["-c standard_conforming_strings=off", "-c client_encoding=LATIN1", "-c session_preload_libraries=x"]
    {
        let refused = world.shop.psql("SELECT 1").env("PGOPTIONS", options).run().unwrap();
        assert!(refused.stderr.contains("does not pass through Weir"), "{options}: {}", refused.stderr);
    }
    // At the top of the packet these would be no settings, and decide where the session is and whose.
    for options in ["-c database=postgres", "-c user=postgres", "-c options=-crole=postgres", "--replication=database"]
    {
        let refused = world.shop.psql("SELECT current_database()").env("PGOPTIONS", options).run().unwrap();
        assert!(!refused.success() && refused.stderr.contains("is no setting"), "{options}: {refused:?}");
    }
    for (variable, value) in [("PGDATABASE", "postgres"), ("PGOPTIONS", "-c client_encoding=LATIN1")] {
        let denied = world.shop.psql("SELECT 1").env(variable, value).run().unwrap();
        let id = denied.stderr.split_once("(ID ").expect(&denied.stderr).1.split(')').next().unwrap();
        let why = world.shop.env.weir(["why", id]).unwrap().expect_success().unwrap();
        assert!(why.contains("No rule can allow this") && why.contains("connect "), "{why}");
        let session = world.shop.env.weir(["sessions", "list", "--limit", "1", "--json"]).unwrap();
        assert!(session.expect_success().unwrap().contains("\"denied\": 1"));
    }
    let kept = world.shop.psql("SHOW statement_timeout").env("PGOPTIONS", "-c statement_timeout=7s").run().unwrap();
    assert!(kept.expect_success().unwrap().contains("7s"));
    for sql in ["SET standard_conforming_strings = off", "SET client_encoding = 'LATIN1'"] {
        let refused = world.psql(sql);
        assert!(refused.stderr.contains("denied by policy"), "{sql}: {}", refused.stderr);
    }
}

#[test]
fn a_session_can_be_replayed() {
    let world = World::new();
    world.rows("SELECT id, ssn FROM customers ORDER BY id");
    world.psql("DROP TABLE orders");
    let listed = world.shop.env.weir(["sessions", "list", "--json"]).unwrap().expect_success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut replayed = String::new();
    for session in sessions.as_array().unwrap() {
        let id = session["id"].as_str().unwrap();
        replayed += &world.shop.env.weir(["sessions", "replay", id]).unwrap().expect_success().unwrap();
    }
    assert!(replayed.contains("*******1002") && replayed.contains("DROP TABLE orders"), "{replayed}");
    assert!(!replayed.contains(SSN), "{replayed}");
}

#[test]
fn whoever_waits_and_leaves_takes_the_request_back() {
    let world = World::new();
    let mut held = world.shop.psql("DELETE FROM payments").start().unwrap();
    wait_for_notice(&held);
    let number = approval_number(&held.stderr());
    held.kill();
    system_tests::process::wait_until("the request to be withdrawn", PATIENCE, || {
        !world.shop.env.weir(["approve", &number]).unwrap().success()
    })
    .unwrap();
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments").unwrap(), "3");
}

#[test]
fn whoever_sends_much_ahead_while_waiting_and_leaves_is_noticed() {
    let world = World::new();
    let said = world.raw(
        r#"
s, stream = session()
s.sendall(msg(b"Q", b"DELETE FROM payments\0"))
until(stream, b"N")
s.setblocking(False)
sent = 0
try:
    while True:
        sent += s.send(msg(b"Q", b"SELECT 1 -- " + b"x" * 60000 + b"\0"))
except BlockingIOError:
    pass
print(sent > 262144)
s.close()
"#,
    );
    assert_eq!(said.trim(), "True");
    system_tests::process::wait_until("the request to be withdrawn", PATIENCE, || {
        world.shop.env.weir(["approvals", "--json"]).unwrap().stdout.trim() == "[]"
    })
    .unwrap();
}

#[test]
fn psycopgs_server_side_cursors_are_described_and_masked() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"declare\", \"fetch\"]"));
    let script = r#"
import psycopg
with psycopg.connect("") as c:
    for sql in ("SELECT id, item FROM orders ORDER BY id", "SELECT id, lower(ssn) AS low FROM customers ORDER BY id"):
        with c.cursor(name="far away") as cursor:
            cursor.execute(sql)
            print([column.name for column in cursor.description], cursor.fetchone(), len(cursor.fetchall()))
"#;
    let ran = world.python(script);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        matches!(lines[..], [a, b] if a.starts_with("['id', 'item'] (1, ") && b.starts_with("['id', 'low'] (1, '***') ")),
        "{ran:?}"
    );
}

#[test]
fn who_may_only_read_is_held_to_it_by_the_target() {
    let rules = r#"
[[rule]]
name    = "reports"
agents  = ["coder"]
targets = ["orders"]
kinds   = ["select", "transaction", "set", "show", "discard"]
then    = "allow"
"#;
    let world = World::with(rules);
    let writer =
        "CREATE FUNCTION bump() RETURNS int LANGUAGE sql AS 'UPDATE orders SET amount = amount + 1 RETURNING 1'";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {writer}")).unwrap();
    let sum = || world.shop.postgres.sql("SELECT sum(amount) FROM orders").unwrap();
    let before = sum();
    let ways_out = [
        "SET default_transaction_read_only = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "BEGIN READ WRITE",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        "BEGIN; SET TRANSACTION READ WRITE",
        "BEGIN; SET LOCAL transaction_read_only TO 0",
    ];
    for way_out in ways_out {
        let ran = world.script(&[way_out, "SELECT bump()"]);
        assert!(ran.stderr.contains("stay read-only"), "{way_out}: {}", ran.stderr);
        assert!(ran.stderr.contains("cannot execute UPDATE in a read-only transaction"), "{way_out}: {}", ran.stderr);
    }
    let harmless = world.script(&[
        "RESET ALL",
        "DISCARD ALL",
        "BEGIN READ ONLY",
        "SELECT bump()",
        "ROLLBACK",
        "SHOW default_transaction_read_only",
    ]);
    assert!(harmless.stdout.contains("on") && harmless.stderr.contains("read-only transaction"), "{harmless:?}");
    let asked = world.shop.client("psql").env("PGOPTIONS", "-c default_transaction_read_only=off");
    let ran = asked.args(["--no-psqlrc", "--command", "SELECT bump()"]).run().unwrap();
    assert!(!ran.success(), "{ran:?}");
    // However it came about that the target would take writes.
    let undoes = "CREATE FUNCTION undo() RETURNS text LANGUAGE sql AS
                  $$ SELECT set_config('default_transaction_read_only', 'off', false) $$";
    world.shop.postgres.sql(undoes).unwrap();
    let ran = world.script(&["SELECT undo()", "SELECT bump()"]);
    assert!(ran.stderr.contains("the target set default_transaction_read_only to another value"), "{ran:?}");
    assert_eq!(sum(), before);
    // Who may write is not held to anything.
    world.shop.configure(&rules.replace("\"select\"", "\"select\", \"update\"")).unwrap();
    world.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    world.shop.psql("BEGIN READ WRITE; SELECT bump(); COMMIT").run().unwrap().expect_success().unwrap();
    // Nor is anybody where the target is told not to.
    let switched = world.shop.postgres.target_config() + "\nread_only_sessions = false\n";
    world.shop.configure_target(&switched, rules).unwrap();
    world.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    world.shop.psql("SELECT bump()").run().unwrap().expect_success().unwrap();
    assert_ne!(sum(), before);
}

#[test]
fn what_a_client_asks_for_and_nobody_knows_it_is_told() {
    let world = World::new();
    let said = world.raw(
        r#"
s = connect()
body = struct.pack(">I", 196610) + b"user\0coder\0database\0orders\0_pq_.unheard_of\0on\0\0"
s.sendall(struct.pack(">I", len(body) + 4) + body)
print([(t, body) for t, body in until(messages(s), b"Z") if t in b"vR"])
"#,
    );
    let expected =
        "[(b'v', b'\\x00\\x03\\x00\\x02\\x00\\x00\\x00\\x01_pq_.unheard_of\\x00'), (b'R', b'\\x00\\x00\\x00\\x00')]\n";
    assert_eq!(said, expected);
}

#[test]
fn observing_passes_everything_and_records_it() {
    let shop = Shop::new().unwrap();
    let identity = format!(
        "mode = \"observe\"\n[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"a test's\"\n",
        shop.issuer.url()
    );
    let rest = [&identity, &shop.env.agent_config(), &shop.postgres.target_config(), POLICY].join("\n");
    shop.env.configure(&rest).unwrap();
    let gateway = shop.serve().unwrap();
    let world = World { gateway, shop };
    assert_eq!(world.rows("SELECT ssn || '' FROM customers WHERE id = 1"), SSN);
    assert!(world.rows("COPY customers TO STDOUT").contains(EMAIL));
    assert!(world.rows("EXPLAIN SELECT * FROM customers WHERE ssn = '900-11-1002'").contains(SSN));
    let ran = world.python(
        "import psycopg\nwith psycopg.connect('') as c:\n    print(c.execute('SELECT max(ssn) FROM customers WHERE id = %s', (1,)).fetchone())",
    );
    assert_eq!(ran.stdout, format!("('{SSN}',)\n"), "{}", ran.stderr);
}

#[test]
fn psql_can_look_around() {
    let world = World::new();
    for (command, part) in [
        ("\\dt", "customers"),
        ("\\d orders", "placed_at"),
        ("\\d customers", "ssn"),
        ("\\dv", "contacts"),
        ("\\dn", "public"),
        ("\\du", "orders_rw"),
        ("\\l", "orders"),
        ("\\conninfo", "connected"),
        ("SELECT version()", "PostgreSQL"),
        ("SELECT current_user, current_database()", "orders_rw"),
        ("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'", "payments"),
    ] {
        let shown = world.psql(command);
        assert!(shown.success() && shown.stdout.contains(part), "{command}: {}\n{}", shown.stdout, shown.stderr);
    }
}

#[test]
fn each_server_of_a_target_has_a_catalog_of_its_own() {
    let shop = Shop::new().unwrap();
    let second = Postgres::start(&shop.env).unwrap();
    // Where the first server has the customers, the second has the payments, and the other way round: table by number.
    for sql in [
        "ALTER TABLE customers RENAME TO was_customers",
        "ALTER TABLE payments RENAME TO customers",
        "ALTER TABLE customers RENAME COLUMN note TO ssn",
        "UPDATE customers SET ssn = '900-44-4005'",
        "ALTER TABLE was_customers RENAME TO payments",
    ] {
        second.sql(sql).unwrap();
    }
    let authorities = [&shop.postgres, &second].map(|it| std::fs::read_to_string(it.ca_path()).unwrap()).concat();
    let ca = shop.env.dir().join("both.pem");
    std::fs::write(&ca, authorities).unwrap();
    let address = |port: u16| format!("\"{NAME}:{port}\"");
    let (one, other) = (address(shop.postgres.port()), address(second.port()));
    let target = shop.postgres.target_config();
    let both = target
        .replace(&one, &format!("{one}, {other}"))
        .replace(&shop.postgres.ca_path().display().to_string(), &ca.display().to_string());
    assert!(both.contains(&other) && both.contains("both.pem"), "{both}");
    shop.configure(POLICY).unwrap();
    let config = std::fs::read_to_string(shop.env.config_path()).unwrap();
    assert!(config.contains(&target));
    std::fs::write(shop.env.config_path(), config.replace(&target, &both)).unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    assert_eq!(world.rows("SELECT ssn FROM customers WHERE id = 1"), "*******1002");
    let there = world.shop.psql("SELECT ssn FROM customers WHERE id = 1").env("PGPORT", second.port().to_string());
    let there = there.args(["--tuples-only", "--no-align"]).run().unwrap().expect_success().unwrap();
    assert_eq!(there.trim_end(), "*******4005");
}

#[test]
fn a_table_made_just_now_is_masked_from_its_first_row() {
    let world = World::new();
    for round in 0..5 {
        // The catalog is read for the first of these, and the table is made right after.
        world.psql(&format!("SELECT 1 FROM nosuch_{round}"));
        let made = format!("CREATE TABLE made_{round} (email text); INSERT INTO made_{round} VALUES ('{EMAIL}')");
        world.shop.postgres.sql(&format!("SET ROLE orders_rw; {made}")).unwrap();
        assert_eq!(world.rows(&format!("SELECT email FROM made_{round}")), "************mple");
        assert_eq!(world.rows(&format!("SELECT email || '' FROM made_{round}")), "***");
    }
}

#[test]
fn an_approval_that_comes_after_the_token_has_expired_is_too_late() {
    let world = World::new();
    let mut claims = world.shop.claims();
    // Tokens are taken for 30 s more: for some 8 s this one is.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    claims["exp"] = serde_json::json!(now - 22);
    world.shop.give_token(&claims).unwrap();
    let held = world.shop.psql("DELETE FROM payments").start().unwrap();
    wait_for_notice(&held);
    let number = approval_number(&held.stderr());
    let expired = || world.psql("SELECT 1").stderr.contains("expired");
    system_tests::process::wait_until("the token to expire", PATIENCE, expired).unwrap();
    assert!(world.shop.env.weir(["approve", &number]).unwrap().success());
    let finished = held.finish(PATIENCE).unwrap();
    assert!(finished.stderr.contains("came too late: the agent's token is no longer valid"), "{}", finished.stderr);
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments").unwrap(), "3");
    let listed = world.shop.env.weir(["sessions", "list", "--limit", "1000", "--json"]).unwrap();
    let listed = listed.expect_success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let shown = sessions
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["id"].as_str())
        .map(|id| world.shop.env.weir(["sessions", "show", id]).unwrap().expect_success().unwrap());
    assert!(shown.collect::<String>().contains("not run: approval"));
}

#[test]
fn statements_that_are_much_work_do_not_hold_others_up() {
    let world = World::new();
    let sends = |columns: usize, tables: usize| {
        let script = format!(
            r#"{RAW}
s, stream = session()
names = lambda one, count: b",".join(b"%s%d" % (one, i) for i in range(count))
s.sendall(msg(b"Q", b"SELECT " + names(b"a", {columns}) + b" FROM " + names(b"t", {tables}) + b"\0"))
print("sent", flush=True)
errors(until(stream, b"Z"))
"#
        );
        let sender = world.shop.client("/usr/bin/python3").args(["-u", "-c"]).arg(script).start().unwrap();
        sender.wait_for("sent", PATIENCE).unwrap();
        sender
    };
    // Small enough to be understood where it is asked for, and large enough for both parsing threads.
    let much: Vec<_> = [(1_300, 1_300), (40_000, 40_000), (40_000, 40_000)].map(|(a, t)| sends(a, t)).into();
    let begun = std::time::Instant::now();
    assert_eq!(world.rows("SELECT 1"), "1");
    let long = format!("SELECT 2 /*{}*/", "x".repeat(20_000));
    assert_eq!(world.rows(&long), "2");
    let waited = begun.elapsed();
    for sender in much {
        let said = sender.finish(3 * PATIENCE).unwrap().stdout;
        assert!(said.contains("ERROR 42501 denied by policy"), "{said}");
    }
    // It was half a minute for the first, and without an end for the second.
    assert!(waited < PATIENCE, "{waited:?}");
}

#[test]
fn half_sent_messages_take_so_much_memory_and_no_more() {
    let world = World::new();
    let resident = || -> u64 { world.gateway.pids().unwrap().into_iter().map(resident_kib).sum() };
    let before = resident();
    let script = format!(
        r#"{RAW}
held = []
for i in range(20):
    s, stream = session()
    try:
        s.sendall(b"B" + struct.pack(">I", (16 << 20) - 8) + b"x" * ((16 << 20) - 100))
    except (BrokenPipeError, ConnectionResetError):
        pass
    held.append((s, stream))
print("sent", flush=True)
for s, stream in held[-5:]:
    errors(until(stream, b"E"))
print("told", flush=True)
sys.stdin.readline()
"#
    );
    let mut client = world.shop.client("/usr/bin/python3").args(["-u", "-c"]).arg(script).start().unwrap();
    client.wait_for("told", 2 * PATIENCE).unwrap();
    let taken = resident().saturating_sub(before);
    assert!(taken < 110 << 10, "{taken} KiB");
    // Those who ask for little are served all the while.
    assert_eq!(world.rows("SELECT 1"), "1");
    client.write("go\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().stdout;
    assert_eq!(said.matches("FATAL 53200 of the 128 MiB that the gateway has").count(), 5, "{said}");
    let listed = world.shop.env.weir(["sessions", "list", "--json"]).unwrap().expect_success().unwrap();
    assert!(listed.contains("this agent's share is taken"), "{listed}");
    let gone = || resident().saturating_sub(before) < 60 << 10;
    system_tests::process::wait_until("the memory to be given back", PATIENCE, gone).unwrap();
}

#[test]
fn one_agent_has_so_many_sessions_and_connections_and_no_more() {
    let shop = Shop::new().unwrap();
    shop.configure(POLICY).unwrap();
    let config = std::fs::read_to_string(shop.env.config_path()).unwrap();
    std::fs::write(shop.env.config_path(), config.replacen("shards", "max_sessions_per_agent = 3\nshards", 1)).unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    let script = format!(
        r#"{RAW}
held = [session() for _ in range(3)]
s = connect(); startup(s)
errors(until(messages(s), b"E"))
held[0][0].close()
import time
for _ in range(100):
    s = connect(); startup(s)
    if until(messages(s), b"Z")[-1][0] == b"Z":
        print("again", flush=True)
        break
    time.sleep(0.1)
# More than may wait to be admitted, at once, and none says a word.
flood, place = [], (socket.gethostbyname(os.environ["PGHOST"]), int(os.environ["PGPORT"]))
for _ in range(1500):
    s = socket.socket(); s.setblocking(False)
    s.connect_ex(place)
    flood.append(s)
time.sleep(3)
gone = 0
for s in flood:
    try:
        s.recv(1)
    except (ConnectionResetError, ConnectionRefusedError):
        gone += 1
    except BlockingIOError:
        pass
print("reset", gone > 0, flush=True)
"#
    );
    let said = world.python(&script);
    let expected = "FATAL 28000 agent \"coder\" has 3 sessions open, and may not have more at once; close some first";
    assert!(said.stdout.starts_with(expected), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.ends_with("again\nreset True\n"), "{}{}", said.stdout, said.stderr);
    let listed = world.shop.env.weir(["sessions", "--refused", "--limit", "1000", "--json"]).unwrap();
    let listed = listed.expect_success().unwrap();
    assert!(listed.contains("wait to be admitted already"), "{listed}");
    // It is served as ever when it is over.
    let served = || world.psql("SELECT 1").success();
    system_tests::process::wait_until("the flood to be over", PATIENCE, served).unwrap();
}

#[test]
fn a_simple_query_ends_a_batch_that_was_flushed() {
    let world = World::new();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
flush = msg(b"H")
s.sendall(parse(b"p", b"SELECT item FROM orders WHERE id = 1") + flush)
show(s, stream, b"SELECT 'after', 'a flush'")
s.sendall(parse(b"", b"SELECT 1") + bind(b"", b"") + flush)
show(s, stream, b"DROP TABLE orders")
s.sendall(bind(b"", b"p") + execute(b"") + sync)
print([body for tag, body in until(stream, b"Z") if tag in b"DC"])
for item, follows in ((b"kept", b"SELECT 'together'"), (b"kept too", b""), (b"undone", b"SELECT ssn FROM customers"),
                      (b"undone too", b"DROP TABLE orders"), (b"failed", b"SELECT 1 / 0")):
    insert = b"INSERT INTO orders (customer_id, item, amount) VALUES (1, '" + item + b"', 1)"
    s.sendall(parse(b"", insert) + bind(b"", b"") + execute(b"") + flush)
    show(s, stream, follows)
    show(s, stream, b"SELECT 'goes on'")
"#,
        )
        .unwrap();
    assert!(said.contains("after") && said.contains("42501") && said.contains("SELECT 1"), "{said}");
    assert!(said.contains("together") && said.contains("22012") && said.matches("goes on").count() == 5, "{said}");
    assert!(
        said.contains("send Sync before it") && said.matches("42501").count() == 3 && !said.contains(SSN),
        "{said}"
    );
    let ran = world
        .shop
        .postgres
        .sql("SELECT string_agg(item, ', ' ORDER BY id) FROM orders WHERE item ~ 'kept|undone|failed'");
    assert_eq!(
        ran.unwrap().trim(),
        "kept, kept too",
        "what runs in one transaction is committed or rolled back with it"
    );
    let sessions = world.shop.env.weir(["sessions", "--json"]).unwrap().expect_success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!(sessions[0]["denied"], 3, "each denial is a record");
}
