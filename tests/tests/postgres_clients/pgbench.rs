//! pgbench, straight at a server and through the gateway before the very same one. What it does goes by the numbers of its own
//! generator, so with one client and one seed all of it is the same: what it prints, times aside, and what is in its tables after
//! each run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use system_tests::env::Place;
use system_tests::postgres::ROLE;

use super::programs::World;

/// Every way has it for itself.
const DATABASE: &str = "bench";
const PROTOCOLS: [&str; 3] = ["simple", "extended", "prepared"];
const BUILT_IN: [&str; 3] = ["tpcb-like", "simple-update", "select-only"];
/// Makes and fills the tables: by COPY, then again by one statement at the server, with keys.
const INITIALIZE: [&str; 2] = ["dtgvp", "dtGvpf"];
/// What it reads goes into what it writes.
const TOLD: &str = r"\set aid random(1, 100000)
SELECT abalance, octet_length(filler) AS width FROM pgbench_accounts WHERE aid = :aid \gset got_
\if :got_width > 0
UPDATE pgbench_tellers SET tbalance = tbalance + :got_abalance + 1 WHERE tid = :aid % 10 + 1 RETURNING tbalance AS now \gset
INSERT INTO pgbench_history (tid, bid, aid, delta, filler) VALUES (:aid % 10 + 1, 1, :aid, :now, 'told');
\endif
";
/// The same of statements sent together, which only the simple protocol has.
const TOGETHER: &str = r"\set aid random(1, 100000)
BEGIN \; SELECT bbalance AS first FROM pgbench_branches \; SELECT count(*) AS second FROM pgbench_tellers WHERE tid < :aid \aset
INSERT INTO pgbench_history (tid, bid, aid, delta, filler) VALUES (2, 1, :aid, :first + :second, 'together') \; COMMIT;
";
/// Many statements on their way at once, which the simple protocol has not.
const PIPELINE: &str = r"\set aid random(1, 100000)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :aid WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, filler) VALUES (3, 1, :aid, :aid, 'pipeline');
COMMIT;
\endpipeline
";
/// At its twentieth row it fails in a transaction, which ends the run.
const FAILS: &str = r"BEGIN;
INSERT INTO pgbench_history (tid, bid, aid, delta, filler) SELECT 4, 1, 1 + count(*), 0, 'fails' FROM pgbench_history WHERE filler = 'fails';
SELECT 1 / (20 - count(*)) FROM pgbench_history WHERE filler = 'fails';
COMMIT;
";
/// All that is in the tables. When a row was written is no part of it.
const TABLES: [(&str, &str); 4] = [
    ("pgbench_accounts", "aid, bid, abalance, filler"),
    ("pgbench_branches", "bid, bbalance, filler"),
    ("pgbench_history", "tid, bid, aid, delta, filler"),
    ("pgbench_tellers", "tid, bid, tbalance, filler"),
];

/// A run, what was printed, and what was in the tables then.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    words: String,
    code: Option<i32>,
    said: String,
    tables: Vec<String>,
}

#[test]
fn pgbench() {
    let world = World::new();
    for (name, script) in [("told", TOLD), ("together", TOGETHER), ("pipeline", PIPELINE), ("fails", FAILS)] {
        let path = world.file(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let [straight, through] = [World::straight, World::through].map(|way| all(&world, || way(&world, "pgbench")));
    for (one, two) in straight.iter().zip(&through) {
        assert_eq!(one, two, "straight, then through the gateway\n{}", world.shop.env.log());
    }
    let succeeded = straight.iter().filter(|run| run.code == Some(0)).count();
    let states: std::collections::BTreeSet<_> = straight.iter().map(|run| &run.tables).collect();
    println!("pgbench: {} runs, {succeeded} without an error, {} states", straight.len(), states.len());
    assert_eq!((straight.len(), through.len(), succeeded), (32, 32, 29));
    // Six runs only read, and of the two that fill the tables one does what the other has done.
    assert_eq!(states.len(), 25, "{straight:#?}");
}

/// Every run there is, one way.
fn all<'a>(world: &'a World, pgbench: impl Fn() -> Place<'a>) -> Vec<Run> {
    let server = &world.shop.postgres;
    server.sql(&format!("DROP DATABASE IF EXISTS {DATABASE}")).unwrap();
    server.sql(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).unwrap();
    let mut runs = Vec::new();
    let mut run = |words: &[&str]| {
        let finished = pgbench().env("PGDATABASE", DATABASE).args(words).run().unwrap();
        let said = without_times(&(finished.stdout + &finished.stderr));
        let tables = TABLES.iter().map(|(table, columns)| {
            let rows = format!("SELECT {columns} FROM {table}");
            let digest = format!("SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM ({rows}) AS t");
            server.sql_in(DATABASE, &digest).unwrap()
        });
        runs.push(Run { words: words.join(" "), code: finished.code, said, tables: tables.collect() });
    };
    for steps in INITIALIZE {
        run(&["--initialize", "--scale=1", "--init-steps", steps]);
    }
    for (seed, protocol) in PROTOCOLS.into_iter().enumerate() {
        let seed = format!("--random-seed={seed}");
        let common = ["--no-vacuum", "--report-per-command", "--client=1", &seed, "--protocol", protocol];
        for script in BUILT_IN {
            run(&[&common[..], &["--transactions=200", "--builtin", script]].concat());
            // A connection for each transaction.
            run(&[&common[..], &["--transactions=20", "--connect", "--builtin", script]].concat());
        }
        let mut own = vec!["told", "fails"];
        own.extend(if protocol == "simple" { ["together"] } else { ["pipeline"] });
        for script in own {
            run(&[&common[..], &["--transactions=100", "--file", &world.file(script)]].concat());
        }
        // Several at once: what they do is the same, in whatever order.
        run(&[&common[1..], &["--transactions=50", "--client=4", "--builtin", "select-only"]].concat());
    }
    runs
}

/// Numbers with a point are times, or made of times, and the server's version.
fn without_times(said: &str) -> String {
    let mut text = String::new();
    for word in said.split_inclusive(char::is_whitespace) {
        let is_time = |number: &str| number.parse::<f64>().is_ok() && number.contains('.');
        let bare = word.trim_matches(|c: char| !c.is_ascii_digit());
        if is_time(bare) {
            text.push_str("# ");
        } else if !word.trim().is_empty() {
            text.push_str(word);
        }
    }
    text
}
