//! How a session begins: with a server that takes TLS directly, and its client's library, both of which Debian's are too old for.

use system_tests::postgres::{Options, Postgres};
use system_tests::process::{Finished, PATIENCE};
use system_tests::shop::{RAW, Shop};

use super::shop;

const NEWEST: &str = "18";
const SCRIPT: &str = include_str!("startup.py");

#[test]
fn sessions_begin_as_at_a_server_of_itself() {
    let shop = shop(NEWEST);
    let _gateway = shop.serve().unwrap();
    let behind = shop.raw_client(SCRIPT).start().unwrap().finish(2 * PATIENCE).unwrap().expect_success().unwrap();
    let alone = Postgres::start_with(&shop.env, Options { version: Some(NEWEST), ..Options::default() }).unwrap();
    let everybody = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(alone.socket_dir().join("pg_hba.conf"), everybody).unwrap();
    alone.sql("SELECT pg_reload_conf()").unwrap();
    let direct = shop.env.bystander("/usr/bin/python3").args(["-u", "-c"]).arg(format!("{RAW}\n{SCRIPT}"));
    let direct = direct.env("PGHOST", "127.0.0.1").env("PGPORT", alone.port().to_string()).env("PGUSER", "orders_rw");
    let direct = direct.run().unwrap().expect_success().unwrap();
    assert!(direct.contains("direct TLS: served\n") && direct.contains("TLS: S served\n"), "{direct}");
    assert_eq!(direct.matches(" refused").count(), 28, "{direct}");
    assert_eq!((direct.matches("cancelled").count(), direct.matches("went on").count()), (5, 5), "{direct}");
    for (behind, direct) in behind.lines().zip(direct.lines()) {
        assert_eq!(behind, direct, "behind the gateway, and not");
    }
    assert_eq!(behind.lines().count(), direct.lines().count());
    // What was slipped in has not become a session of its own.
    let listed = shop.env.weir(["sessions", "list", "--limit", "1000", "--json"]).unwrap().expect_success().unwrap();
    assert!(listed.contains("before it was answered"), "{listed}");
}

/// libpq 17 and newer, by psql, whose own library is older.
fn psql(shop: &Shop, version: &'static str, connection: &str) -> Finished {
    let library = shop.env.dir().join(format!("server-{version}/lib"));
    assert!(library.join("libpq.so.5").exists(), "{}", library.display());
    let psql = shop.client("psql").args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", connection]);
    psql.args(["--command", "\\conninfo", "--command", "SELECT item FROM orders WHERE id = 3"])
        .env("LD_LIBRARY_PATH", library)
        .run()
        .unwrap()
}

fn takes_tls_directly(version: &'static str) {
    let shop = shop(version);
    let _gateway = shop.serve().unwrap();
    let authority = shop.env.dir().join("gateway-ca.pem");
    std::fs::copy(shop.env.state_dir().join("ca/ca.pem"), &authority).unwrap();
    let authority = authority.display();
    for connection in [
        "sslmode=require sslnegotiation=direct",
        &format!("sslmode=verify-full sslrootcert={authority} sslnegotiation=direct"),
        &format!("sslmode=verify-full sslrootcert={authority} sslnegotiation=postgres"),
    ] {
        let said = psql(&shop, version, connection);
        assert!(said.success() && said.stdout.contains("TLSv1.3") && said.stdout.ends_with("lamp\n"), "{said:?}");
    }
    let plain = psql(&shop, version, "sslmode=disable");
    assert!(plain.success() && !plain.stdout.contains("TLS"), "{plain:?}");
    let strange = psql(&shop, version, "sslmode=verify-full sslrootcert=/etc/passwd sslnegotiation=direct");
    assert!(!strange.success() && strange.stdout.is_empty(), "{strange:?}");
}

#[test]
fn libpq_17_takes_tls_directly() {
    takes_tls_directly("17");
}

#[test]
fn libpq_18_takes_tls_directly() {
    takes_tls_directly(NEWEST);
}

#[test]
fn libpq_18_asks_for_the_newest_protocol() {
    let shop = shop(NEWEST);
    let _gateway = shop.serve().unwrap();
    for version in ["3.0", "3.2", "latest"] {
        let said = psql(&shop, NEWEST, &format!("max_protocol_version={version}"));
        assert!(said.success() && said.stdout.ends_with("lamp\n"), "{version}: {said:?}");
    }
}
