//! The protocol's versions from end to end: a client of libpq 18 and a server of PostgreSQL 18, which speak 3.2, and each with others
//! that speak nothing but 3.0.

use std::fs;
use std::io::Write;

use system_tests::env::{Env, Gateway};
use system_tests::postgres::{DATABASE, NAME, Options, PASSWORD, Postgres, ROLE};
use system_tests::process::{PATIENCE, Running};
use system_tests::shop::{RAW, Shop};

/// Asks for each version, and cancels.
const RAW_CLIENT: &str = include_str!("../postgres/versions.py");
/// libpq 18, asked for each version: what is spoken, and what becomes of a statement that is cancelled in each way there is.
const LIBPQ_CLIENT: &str = r#"
import threading, time, psycopg
assert psycopg.pq.version() >= 180000
for wanted in "3.0", "3.2", "latest":
    with psycopg.connect("", max_protocol_version=wanted, autocommit=True) as connection:
        print(wanted, connection.info.full_protocol_version)
        for cancel in connection.cancel, connection.cancel_safe:
            threading.Timer(0.5, cancel).start()
            try:
                connection.execute("SELECT pg_sleep(60)")
            except psycopg.errors.QueryCanceled as error:
                print(error.sqlstate, connection.execute("SELECT 'goes on'").fetchone())
"#;
/// The same, where nothing less than 3.2 will do.
const DEMANDING_CLIENT: &str = r#"
import psycopg
try:
    with psycopg.connect("", min_protocol_version="3.2", max_protocol_version="3.2") as connection:
        print(connection.info.full_protocol_version, connection.execute("SELECT count(*) FROM orders").fetchone())
except psycopg.OperationalError as error:
    print("older" if "only supports protocol version 3.0" in str(error) else error)
"#;
/// Stands between gateway and server, and tells what is asked for, and what is said of versions and keys.
const TAP: &str = include_str!("tap.py");

/// A gateway that allows everything before a server of PostgreSQL 18, or before Debian's.
fn world(version: Option<&'static str>) -> (Shop, Gateway) {
    let env = Env::new().unwrap();
    let postgres = Postgres::start_with(&env, Options { version, ..Options::default() }).unwrap();
    super::open(Shop::with(env, postgres).unwrap())
}

/// What a script in Python printed, of an agent.
fn through(shop: &Shop, script: &str) -> String {
    let clients = super::staged(&shop.env, &["site"]);
    let client = shop.client(super::PYTHON).env("PYTHONPATH", clients.join("site")).env("PGUSER", ROLE);
    client.args(["-u", "-c", script]).run().unwrap().expect_success().unwrap()
}

#[test]
fn a_server_of_postgresql_18_is_told_apart_by_nothing() {
    let (shop, _gateway) = world(Some("18"));
    let raw = format!("{RAW}\n{RAW_CLIENT}");
    // It asks for no password on its socket, which its own user can reach.
    let client = shop.env.bystander_as("postgres", super::PYTHON).env("PGUSER", ROLE);
    let client = client.env("PGHOST", shop.postgres.socket_dir()).env("PGPORT", shop.postgres.port().to_string());
    let straight = client.args(["-u", "-c", &raw]).run().unwrap().expect_success().unwrap();
    assert!(straight.contains("(3, 2) [] 32\n") && straight.ends_with("(3, 2) slept\n(3, 2) 57014\n"), "{straight}");
    assert_eq!(through(&shop, &raw), straight);

    let clients = super::staged(&shop.env, &["site"]);
    for (script, expected) in [(LIBPQ_CLIENT, "3.2 30002\n57014 ('goes on',)\n"), (DEMANDING_CLIENT, "30002 (5,)\n")] {
        let client = shop.env.bystander_as("daemon", super::PYTHON).env("PYTHONPATH", clients.join("site"));
        let client = client.env("PGHOST", "127.0.0.1").env("PGPORT", shop.postgres.port().to_string());
        let client = client.env("PGUSER", ROLE).env("PGPASSWORD", PASSWORD).env("PGDATABASE", DATABASE);
        // libpq looks for certificates there.
        let client = client.env("HOME", "/nonexistent");
        let straight = client.args(["-u", "-c", script]).run().unwrap().expect_success().unwrap();
        assert!(straight.contains(expected), "{straight}");
        assert_eq!(through(&shop, script), straight);
    }
}

/// What the agent's leg speaks is not up to the target's.
#[test]
fn the_gateway_speaks_3_2_before_a_server_that_does_not() {
    let raw = format!("{RAW}\n{RAW_CLIENT}");
    let [newer, older] = [Some("18"), None].map(|version| {
        let (shop, _gateway) = world(version);
        [&raw, LIBPQ_CLIENT, DEMANDING_CLIENT].map(|script| through(&shop, script))
    });
    assert_eq!(older, newer);
}

/// The target is asked for what its client asks for, speaks what it speaks, and is told to cancel by its own key.
#[test]
fn the_target_is_spoken_to_in_its_own_version() {
    for (version, newer) in [(Some("18"), "asked for 3.2, key of 32"), (None, "asked for 3.2, negotiated, key of 4")] {
        let (shop, gateway) = world(version);
        let hba = shop.postgres.sql("SHOW hba_file").unwrap();
        let mut hba = fs::OpenOptions::new().append(true).open(hba.trim()).unwrap();
        hba.write_all(b"hostnossl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        shop.postgres.sql("SELECT pg_reload_conf()").unwrap();
        let tap = Tap::start(&shop);
        let config = fs::read_to_string(shop.env.config_path()).unwrap();
        let plain = "tls = { mode = \"disable\", insecure = \"a test looks into it\" }";
        let lines = config.lines().map(|line| if line.starts_with("tls = ") { plain } else { line });
        let config = lines.collect::<Vec<_>>().join("\n");
        let own = format!("{NAME}:{}", shop.postgres.port());
        let tapped = config.replace(&own, &format!("{NAME}:{}", tap.port));
        assert_ne!(tapped, config);
        fs::write(shop.env.config_path(), tapped).unwrap();
        gateway.reload().unwrap();
        let clients = super::staged(&shop.env, &["site"]);
        for (wanted, asked) in [("3.0", "asked for 3.0, key of 4"), ("3.2", newer)] {
            let before = tap.process.stdout().len();
            let script = LIBPQ_CLIENT.replace("\"3.0\", \"3.2\", \"latest\"", &format!("(\"{wanted}\",)"));
            let client = shop.client(super::PYTHON).env("PYTHONPATH", clients.join("site")).env("PGUSER", ROLE);
            let client = client.env("PGPORT", &tap.port).args(["-u", "-c", &script]);
            let said = client.run().unwrap().expect_success().unwrap();
            assert_eq!(said.matches("57014 ('goes on',)").count(), 2, "{said}");
            let length = asked.rsplit(' ').next().unwrap();
            let cancelled = format!("cancelled by a key of {length}\n").repeat(2);
            assert_eq!(tap.process.stdout()[before..], format!("{asked}\n{cancelled}"), "{version:?}");
        }
    }
}

struct Tap {
    process: Running,
    port: String,
}

impl Tap {
    fn start(shop: &Shop) -> Self {
        let port = shop.postgres.port().to_string();
        let place = shop.env.bystander_as("daemon", super::PYTHON).args(["-u", "-c", TAP, &port]);
        let process = place.start().unwrap();
        process.wait_for("\n", PATIENCE).unwrap();
        let port = process.stdout().trim().to_owned();
        Self { process, port }
    }
}
