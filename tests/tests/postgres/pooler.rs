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
        let shop = Shop::new().unwrap();
        let pooler = Pgbouncer::start(&shop, pool_mode).unwrap();
        shop.configure_target(&pooler.target_config(), policy).unwrap();
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

/// One connection of the server's for each session: nothing is missing.
#[test]
fn a_pooler_of_sessions_is_like_its_server() {
    let pooled = Pooled::new("session", &POLICY.replace("\"show\"]", "\"show\", \"copy_out\", \"deallocate\"]"));
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
"#,
    );
    let text = said.expect_success().unwrap();
    assert!(!text.contains(SSN) && !text.contains(EMAIL), "{text}");
    assert!(text.contains("('Ada Okafor', '*******1002', '***')"), "{text}");
    assert!(text.contains("42501\n57014\n(0,)"), "{text}");
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
