//! pgbouncer in the place of the server: what it takes, what it does not, and what is said then.

use system_tests::env::Gateway;
use system_tests::pgbouncer::Pgbouncer;
use system_tests::postgres::{EMAIL, SSN};
use system_tests::process::Finished;
use system_tests::shop::{POLICY, Shop};

struct Pooled {
    gateway: Gateway,
    pooler: Pgbouncer,
    shop: Shop,
}

impl Pooled {
    fn new(pool_mode: &str, policy: &str) -> Self {
        Self::with(pool_mode, "", policy)
    }

    /// `told`: of the target's section.
    fn with(pool_mode: &str, told: &str, policy: &str) -> Self {
        let shop = Shop::new().unwrap();
        let pooler = Pgbouncer::start(&shop, pool_mode).unwrap();
        shop.configure_target(&(pooler.target_config() + told), policy).unwrap();
        let gateway = shop.serve().unwrap();
        Self { gateway, pooler, shop }
    }

    fn port(&self) -> String {
        self.pooler.port.to_string()
    }

    fn psql(&self, sql: &str) -> Finished {
        self.shop.psql(sql).args(["--tuples-only", "--no-align"]).env("PGPORT", self.port()).run().unwrap()
    }

    fn python(&self, script: &str) -> Finished {
        self.shop.client("/usr/bin/python3").args(["-c", script]).env("PGPORT", self.port()).run().unwrap()
    }
}

/// One connection of the server's for each session: where that is said, nothing is missing.
#[test]
fn a_pooler_of_sessions_is_like_its_server() {
    let pooled = Pooled::with(
        "session",
        "pool_mode = \"session\"\n",
        &POLICY.replace("\"show\"]", "\"show\", \"copy_out\", \"deallocate\"]"),
    );
    let masked = pooled.psql("SELECT ssn, upper(email), name FROM customers WHERE id = 1").expect_success().unwrap();
    assert_eq!(masked, "*******1002|***|Ada Okafor\n");
    let said = pooled.python(
        r#"
import psycopg
with psycopg.connect("") as c:
    for id in range(1, 4):
        print(c.execute("SELECT name, ssn, reverse(ssn) FROM customers WHERE id = %s", (id,), prepare=True).fetchone())
    c.execute("INSERT INTO orders (customer_id, item, amount) VALUES (1, 'by a pooler', 1) RETURNING id")
    c.rollback()
    with c.cursor().copy("COPY customers (ssn) TO STDOUT") as copy:
        print(b"".join(bytes(x) for x in copy))
    try:
        c.execute("SELECT id FROM customers ORDER BY ssn")
    except psycopg.Error as e:
        print(e.sqlstate)
    c.rollback()
    c.execute("SET LOCAL statement_timeout = 50")
    try:
        c.execute("SELECT count(*) FROM generate_series(1, 1000000000)")
    except psycopg.Error as e:
        print(e.sqlstate)
    c.rollback()
    print(c.execute("SELECT count(*) FROM orders WHERE item = 'by a pooler'").fetchone())
    c.rollback()
    c.autocommit = True
    for _ in range(3):
        print(c.execute("SELECT upper(item) FROM orders WHERE id = %s", (1,), prepare=True).fetchone())
"#,
    );
    let text = said.expect_success().unwrap();
    assert!(!text.contains(SSN) && !text.contains(EMAIL), "{text}");
    assert!(text.contains("('Ada Okafor', '*******1002', '***')"), "{text}");
    assert!(text.contains("42501\n57014\n(0,)"), "{text}");
    assert_eq!(text.lines().rev().take(3).collect::<std::collections::HashSet<_>>().len(), 1, "{text}");
    pooled.gateway.stop().unwrap();
}

/// The names of a session's earlier transactions may be those of another session's by now: what was judged as one statement would run as
/// another one.
#[test]
fn behind_a_pooler_names_end_with_their_transactions() {
    let pooled = Pooled::new(
        "transaction",
        &POLICY.replace("\"show\"]", "\"show\", \"prepare\", \"execute\", \"declare\", \"fetch\"]"),
    );
    let said = pooled.python(
        r#"
import psycopg
def told(result):
    return result.status, result.error_message.decode(), [result.get_value(row, 0) for row in range(result.ntuples)]
def session():
    return psycopg.connect("", autocommit=True).pgconn
one, other, third = session(), session(), session()
harmless, secret = b"SELECT upper(item) FROM orders ORDER BY id", b"SELECT upper(ssn) FROM customers ORDER BY id"
for name, prepare, run in (
    (b"s", lambda s, sql: s.prepare(b"s", sql), lambda s: s.exec_prepared(b"s", None)),
    (b"", lambda s, sql: s.prepare(b"", sql), lambda s: s.exec_prepared(b"", None)),
    (b"q", lambda s, sql: s.exec_(b"PREPARE q AS " + sql), lambda s: s.exec_(b"EXECUTE q")),
    (b"c", lambda s, sql: s.exec_(b"DECLARE c CURSOR WITH HOLD FOR " + sql), lambda s: s.exec_(b"FETCH ALL c")),
):
    prepare(one, harmless)
    # It has the connection of the server's on which that was; another one is opened for the next.
    third.exec_(b"BEGIN; SELECT 1")
    print(name, "other", told(prepare(other, secret))[0])
    print(name, "one", told(run(one)))
    third.exec_(b"ROLLBACK")
# Within one transaction it is one connection.
one.exec_(b"BEGIN")
one.prepare(b"t", harmless)
print("within", len(told(one.exec_prepared(b"t", None))[2]) > 0, len(told(one.exec_prepared(b"t", None))[2]) > 0)
one.exec_(b"COMMIT")
print("behind", told(one.exec_prepared(b"t", None)))
"#,
    );
    let text = said.expect_success().unwrap();
    assert!(!text.contains(SSN), "{text}");
    assert_eq!(text.matches("does not exist").count(), 3, "{text}");
    assert_eq!(text.matches("denied by policy").count(), 2, "{text}");
    assert!(text.contains("within True True") && text.contains("pool_mode"), "{text}");
    pooled.gateway.stop().unwrap();
}

/// One for each transaction. What is asked of the server is asked within one.
#[test]
fn a_pooler_of_transactions_serves_what_is_sent_as_text() {
    let pooled = Pooled::new("transaction", POLICY);
    for round in 0..3 {
        let masked = pooled.psql("SELECT ssn, lower(email) FROM customers WHERE id = 1").expect_success().unwrap();
        assert_eq!(masked, "*******1002|***\n", "{round}");
    }
    let in_transaction = pooled
        .psql("BEGIN; UPDATE customers SET phone = 'x' WHERE id = 1; SELECT ssn FROM customers WHERE id = 1; ROLLBACK");
    assert!(in_transaction.stdout.contains("*******1002"), "{in_transaction:?}");
    let refused = pooled.psql("SELECT id FROM customers WHERE ssn LIKE '900-1%'");
    assert!(refused.stderr.contains("of customers.ssn is refused"), "{refused:?}");
    assert_eq!(pooled.psql("SELECT count(*) FROM customers").expect_success().unwrap(), "3\n");
    pooled.gateway.stop().unwrap();
}

/// It takes few settings at the start of a session, and says so; whoever reads it must know what to do.
#[test]
fn a_session_that_a_pooler_will_not_hold_to_reading_does_not_begin() {
    let reports = "[[rule]]\nname = \"reports\"\nagents = [\"coder\"]\ntargets = [\"orders\"]\nkinds = [\"select\"]\nthen = \"allow\"\n";
    let pooled = Pooled::new("session", reports);
    let refused = pooled.psql("SELECT 1");
    assert!(!refused.success() && refused.stderr.contains("read_only_sessions = false"), "{refused:?}");
    let switched = pooled.pooler.target_config() + "read_only_sessions = false\n";
    pooled.shop.configure_target(&switched, reports).unwrap();
    pooled.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    assert_eq!(pooled.psql("SELECT 1").expect_success().unwrap(), "1\n");
}
