//! A denial leaves the session as a server leaves it after an error at the same place: what came before has its replies, what
//! follows is skipped, the transaction's state is told as it is, and nothing of what was denied or skipped is done.

use std::collections::BTreeMap;

use system_tests::postgres::{Options, Postgres};
use system_tests::process::PATIENCE;
use system_tests::shop::{POLICY, RAW};

use super::World;

const SCRIPT: &str = include_str!("denials.py");
const TABLE: &str =
    "SET ROLE orders_rw; CREATE TABLE kept (id int GENERATED ALWAYS AS IDENTITY, note text); CREATE TABLE shut (note text);
     CREATE TABLE held (note text)";
const RULES: &str = r#"
[[rule]]
name   = "shut"
tables = ["shut"]
then   = "deny"

[[rule]]
name   = "held"
tables = ["held"]
then   = { hold = { approvers = ["dba"], count = 1, timeout = "1s" } }
"#;

/// Where a denial is no error at the target, since nothing ran in its batch that would have to be undone: the transaction around it
/// goes on, and that is told. A simple query is denied before any of it runs. (`ROW` stands for the row of `SELECT 7, 'before'`.)
const OTHERWISE: [(&str, &str); 12] = [
    ("first, in a transaction", r"E Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    (
        "prepared and bound before, in a transaction",
        r"1 2 E Z'T' 2 C'INSERT 0 1\x00' Z'T' / C'COMMIT\x00' Z'I' / open / earlier,by name",
    ),
    ("COPY, in a transaction", r"E Z'T' 1 2 ROW Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    (
        "COPY, taken back, in a transaction",
        r"E Z'T' 1 2 C'INSERT 0 1\x00' Z'T' / C'COMMIT\x00' Z'I' / open / earlier,c",
    ),
    ("COPY when it runs, in a transaction", r"1 2 E Z'T' 1 2 ROW Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    ("simple, in a transaction", r"E Z'T' C'INSERT 0 1\x00' Z'T' / C'COMMIT\x00' Z'I' / open / earlier,c"),
    ("simple, when it runs", "E Z'I' T ROW Z'I' / none / -"),
    ("simple, when it runs, in a transaction", r"E Z'T' T ROW Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    ("simple, between, in a transaction", r"E Z'T' T ROW Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    ("simple, with BEGIN, in a transaction", r"E Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
    ("simple, COPY, in a transaction", r"E Z'T' C'INSERT 0 1\x00' Z'T' / C'COMMIT\x00' Z'I' / open / earlier,c"),
    ("simple, COPY between, in a transaction", r"E Z'T' T ROW Z'T' / C'COMMIT\x00' Z'I' / open / earlier"),
];

/// By case, with the one row shortened.
fn lines(said: &str) -> BTreeMap<&str, String> {
    let row = r"D'\x00\x02\x00\x00\x00\x017\x00\x00\x00\x06before' C'SELECT 1\x00'";
    said.lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(case, said)| (case, said.replace(row, "ROW")))
        .collect()
}

#[test]
fn a_denial_leaves_what_an_error_would() {
    let world = World::with(&(POLICY.replace("\"show\"]", "\"show\", \"copy_in\"]") + RULES));
    world.shop.postgres.sql(TABLE).unwrap();
    let behind =
        world.shop.raw_client(SCRIPT).env("PARSED", "TRUNCATE shut").env("RUN", "INSERT INTO held VALUES ('x')");
    let behind = behind.env("COPY", "COPY shut FROM STDIN").env("COPY_RUN", "COPY held FROM STDIN").start().unwrap();
    let behind = behind.finish(4 * PATIENCE).unwrap().expect_success().unwrap();

    let alone = Postgres::start_with(&world.shop.env, Options::default()).unwrap();
    std::fs::write(alone.socket_dir().join("pg_hba.conf"), "local all all trust\nhost all all 127.0.0.1/32 trust\n")
        .unwrap();
    alone.sql("SELECT pg_reload_conf()").unwrap();
    alone.sql(TABLE).unwrap();
    let direct = world.shop.env.bystander("/usr/bin/python3").args(["-u", "-c"]).arg(format!("{RAW}\n{SCRIPT}"));
    let direct = direct.env("PGHOST", "127.0.0.1").env("PGPORT", alone.port().to_string()).env("PGUSER", "orders_rw");
    let direct = direct.env("PARSED", "TRUNCATE FROM shut").env("RUN", "SELECT 1 / (id - id) FROM payments");
    let direct = direct.env("COPY", "COPY shut FRM STDIN").env("COPY_RUN", "COPY none FROM STDIN");
    let direct = direct.run().unwrap().expect_success().unwrap();

    let (behind, direct) = (lines(&behind), lines(&direct));
    assert_eq!(direct.len(), 52);
    let otherwise = BTreeMap::from(OTHERWISE);
    for (case, at_server) in &direct {
        let expected = otherwise.get(case).copied();
        assert_eq!(behind[case], expected.unwrap_or(at_server), "{case}");
        assert_ne!(expected, Some(at_server.as_str()), "{case}");
    }
    // All that ran is what the cases say: nothing of the others has reached these tables.
    let left = "SELECT (SELECT count(*) FROM shut) + (SELECT count(*) FROM held) + (SELECT count(*) FROM kept)";
    assert_eq!(world.shop.postgres.sql(left).unwrap(), "0");
    let log = world.shop.postgres.log();
    for denied in ["TRUNCATE shut", "INTO held", "COPY shut", "COPY held"] {
        // What people are to be told of is asked, and not run.
        let ran = log.lines().find(|line| line.contains(denied) && !line.contains("EXPLAIN"));
        assert_eq!(ran, None, "it reached the server");
    }
}
