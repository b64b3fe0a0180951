//! pgx, for Go: the module's own suite, of which each package is a program.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use system_tests::env::Place;
use system_tests::postgres::{DATABASE, NAME, PASSWORD, Postgres, ROLE};
use system_tests::process::{Finished, Running};

use super::{ENCODING, Outcomes, STRINGS, compare, make_superuser, open_shop, staged};

/// One run of one package's tests.
const LIMIT: Duration = Duration::from_mins(6);
/// Packages whose tests want a database.
const PACKAGES: &[&str] = &["pgx", "pgconn", "pgtype", "pgtype-zeronull", "pgxpool", "stdlib"];
/// What the suite wants there (its `testsetup/postgresql_setup.sql`). Other users, who log in in other ways, it does without.
const PREPARED: &str = r#"CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0);
    CREATE ROLE " tricky, ' } "" \ test user ""#;
/// By which the suite is told where the database is: for all tests, and for those of TCP and of TLS.
const VARIABLES: [&str; 3] = ["PGX_TEST_DATABASE", "PGX_TEST_TCP_CONN_STRING", "PGX_TEST_TLS_CONN_STRING"];
/// They do the same thousands of times, and take most of the time: with `--all` only.
const SLOW: &[&str] = &[
    "TestConnConcurrency",
    "TestConnCopyToLarge",
    "TestConnExecBatchHuge",
    "TestConnStress",
    "TestFatalTxError",
    "TestListenNotifyWhileBusyIsSafe",
    "TestNumericCodecFuzz",
];
const DIFFERENT: &[(&str, &str)] = &[
    ("/TestConnectInvalidUser", "who an agent says that it is decides nothing: the login is the target's"),
    ("/TestConnSimpleProtocolRefusesNonStandardConformingStrings", STRINGS),
    ("/TestConnSimpleProtocolRefusesNonUTF8ClientEncoding", ENCODING),
];

#[test]
fn pgx() {
    let (shop, _gateway) = open_shop();
    let other = Postgres::start(&shop.env).unwrap();
    for server in [&shop.postgres, &other] {
        make_superuser(server);
        server.sql(PREPARED).unwrap();
    }
    let programs = staged(&shop.env, &["pgx"]).join("pgx");
    let database = format!("user={ROLE} dbname={DATABASE} sslmode=require");
    let straight = format!("{database} host=127.0.0.1 port={} password={PASSWORD}", other.port());
    let through = format!("{database} host={NAME} port={}", shop.postgres.port());
    let both = |tests: &[&str]| {
        let (mut one, mut two) = (Outcomes::new(), Outcomes::new());
        // All at once, as `go test` does it, and before two servers.
        let running: Vec<_> = PACKAGES
            .iter()
            .filter_map(|package| {
                let program = programs.join(package).display().to_string();
                let pattern = pattern(package, &names(&program), tests)?;
                let straight = start(shop.env.bystander_as("daemon", &program), &straight, &pattern);
                Some((package, straight, start(shop.env.agent(&program), &through, &pattern)))
            })
            .collect();
        for (package, straight, through) in running {
            one.extend(outcomes(package, &straight.finish(LIMIT).unwrap(), "straight"));
            two.extend(outcomes(package, &through.finish(LIMIT).unwrap(), "through"));
        }
        (one, two)
    };
    compare(&shop.env, "pgx", both, &[], 1000, DIFFERENT);
}

fn start(place: Place<'_>, database: &str, pattern: &str) -> Running {
    let place = VARIABLES.iter().fold(place, |place, name| place.env(name, database));
    place.args(["-test.v", "-test.run", pattern]).start().unwrap()
}

/// The tests of a program, not of what is within them.
fn names(program: &str) -> Vec<String> {
    let listed = Command::new(program).args(["-test.list", "."]).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let all = std::env::var_os("WEIR_ALL").is_some();
    let names = String::from_utf8(listed.stdout).unwrap();
    names.lines().filter(|name| all || !SLOW.contains(name)).map(str::to_owned).collect()
}

/// What picks tests, of names as in [`outcomes`], out of a package's; an empty list has them all. None: none of them.
fn pattern(package: &str, names: &[String], tests: &[&str]) -> Option<String> {
    let chosen = |name: &&str| {
        tests.is_empty()
            || tests.iter().any(|test| {
                // What is within a test runs with it.
                let mut parts = test.split('/');
                parts.next() == Some(package) && parts.next() == Some(name)
            })
    };
    let names: Vec<&str> = names.iter().map(String::as_str).filter(chosen).collect();
    (!names.is_empty()).then(|| format!("^({})$", names.join("|")))
}

/// What became of each test, by its package and name, from lines as `--- PASS: TestName/within (0.01s)`.
fn outcomes(package: &str, finished: &Finished, way: &str) -> Outcomes {
    if let Some(log) = std::env::var_os("WEIR_CLIENTS_LOG") {
        let path = Path::new(&log).join(format!("pgx-{package}-{way}.log"));
        fs::write(path, format!("{}{}", finished.stdout, finished.stderr)).unwrap();
    }
    let outcome = |line: &str| {
        let (_, line) = line.split_once("--- ")?;
        let (outcome, rest) = line.split_once(": ")?;
        let (test, _) = rest.rsplit_once(" (")?;
        let outcome = match outcome {
            "PASS" => "passed",
            "FAIL" => "failed",
            "SKIP" => "skipped",
            _ => return None,
        };
        Some((format!("{package}/{test}"), outcome.to_owned()))
    };
    finished.stdout.lines().filter_map(outcome).collect()
}
