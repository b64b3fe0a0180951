//! Clients that others wrote, judged by the suites that they wrote for them: each suite runs twice, straight at a database
//! and through a gateway that allows everything, and what becomes of each test must be the same. What is not is listed
//! here with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use system_tests::env::{Env, Gateway, Place};
use system_tests::postgres::{DATABASE, NAME, PASSWORD, Postgres, ROLE};
use system_tests::process::Running;
use system_tests::shop::Shop;

#[path = "postgres_clients/django.rs"]
mod django;
#[path = "postgres_clients/pgbench.rs"]
mod pgbench;
#[path = "postgres_clients/pgx.rs"]
mod pgx;
#[path = "postgres_clients/programs.rs"]
mod programs;
#[path = "postgres_clients/sqllogictest.rs"]
mod sqllogictest;
#[path = "postgres_clients/transcripts.rs"]
mod transcripts;
#[path = "postgres_clients/versions.rs"]
mod versions;

/// One run of one suite.
const LIMIT: Duration = Duration::from_mins(8);
/// One test of a suite, in seconds.
const ONE_TEST: &str = "60";
/// How often those that differ are tried again.
const RETRIES: usize = 3;
const PYTHON: &str = "/usr/bin/python3";
const REPORT: &str = include_str!("postgres_clients/report.py");

const ALLOW_ALL: &str = "
[access]
admin = [\"root\"]
audit = [\"root\"]

[[rule]]
name    = \"everything\"
targets = [\"orders\"]
then    = \"allow\"

[[rule]]
name    = \"also what is not understood\"
targets = [\"orders\"]
kinds   = [\"unparsed\"]
then    = \"allow\"
";
/// The gateway reads statements as the server does.
const ENCODING: &str = "client_encoding stays UTF-8, or statements would be read in another way here than there";
const STRINGS: &str = "standard_conforming_strings stays on, for the same reason";

/// A client's own suite.
struct Suite<'a> {
    /// Its directory below `src`.
    source: &'static str,
    /// What pytest is told besides.
    words: &'static [&'static str],
    /// Its own database, and what it wants there.
    database: &'static str,
    prepared: &'static str,
    /// More variables, by which this suite is told where the database is.
    variables: &'a [(&'static str, &'a str)],
    /// Fewer tests than this would mean that it did not run.
    least: usize,
    /// Tests that may end in another way through the gateway, and why that is right.
    different: &'static [(&'static str, &'static str)],
}

#[test]
fn asyncpg() {
    let different = &[(
        "test_executemany_server_failure_during_writes",
        "two connections hold twice as much on its way: the client has sent its 4 MiB before it hears of the error",
    )];
    same(&Suite {
        source: "asyncpg-0.32.0",
        words: &["tests"],
        database: DATABASE,
        prepared: "",
        variables: &[],
        least: 300,
        different,
    });
}

/// Two minutes of what SQLAlchemy's suite uses, too: `cargo xtask test` leaves it to `--all`, and says so.
#[test]
fn psycopg2() {
    same(&Suite {
        source: "psycopg2-2.9.10",
        words: &["tests"],
        database: DATABASE,
        prepared: "",
        variables: &[("PSYCOPG2_TESTDB", DATABASE)],
        least: 500,
        different: &[
            ("ConnectionTests::test_encoding_name", ENCODING),
            ("CopyTests::test_copy_bytes", ENCODING),
            ("CopyTests::test_copy_expert_textiobase", ENCODING),
            ("CopyTests::test_copy_text", ENCODING),
            ("NotifiesTests::test_notifies_received_on_set_client_encoding", ENCODING),
            ("QuotingTestCase::test_koi8", ENCODING),
            ("QuotingTestCase::test_latin1", ENCODING),
            ("JsonTestCase::test_scs", STRINGS),
            ("test_flush_on_write", "a text of more than 4 MiB ends the session"),
        ],
    });
}

/// What SQLAlchemy asks of any dialect; with `--all` also what is PostgreSQL's own, which takes some minutes.
#[test]
fn sqlalchemy() {
    sqlalchemy_by("postgresql+psycopg2");
}

/// The same by psycopg 3; with `--all` also by the half of it that does not wait.
#[test]
fn sqlalchemy_by_psycopg() {
    sqlalchemy_by("postgresql+psycopg");
    if std::env::var_os("WEIR_ALL").is_some() {
        sqlalchemy_by("postgresql+psycopg_async");
    }
}

fn sqlalchemy_by(driver: &str) {
    const ALL: &[&str] = &[
        "test/dialect/test_suite.py",
        "test/dialect/postgresql/test_dialect.py",
        "test/dialect/postgresql/test_on_conflict.py",
        "test/dialect/postgresql/test_query.py",
        "test/dialect/postgresql/test_reflection.py",
        "test/dialect/postgresql/test_types.py",
    ];
    let all = std::env::var_os("WEIR_ALL").is_some();
    same(&Suite {
        source: "sqlalchemy-2.0.46",
        words: if all { ALL } else { &ALL[..4] },
        database: "sqlalchemy",
        prepared: "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext",
        // The rest is libpq's to find out.
        variables: &[("PYTEST_ADDOPTS", &format!("--dburi={driver}:///sqlalchemy"))],
        least: if all { 10_000 } else { 1_500 },
        different: &[("test_backslash_escapes_detection[False-True]", STRINGS), ("::test_client_encoding", ENCODING)],
    });
}

/// A gateway that allows everything, in every database of a server.
fn open_shop() -> (Shop, Gateway) {
    open(Shop::new().unwrap())
}

fn open(shop: Shop) -> (Shop, Gateway) {
    shop.configure(ALLOW_ALL).unwrap();
    let config = fs::read_to_string(shop.env.config_path()).unwrap();
    let open = config.replace(&format!("databases = [\"{DATABASE}\"]\n"), "");
    assert_ne!(open, config);
    fs::write(shop.env.config_path(), open).unwrap();
    let gateway = shop.serve().unwrap();
    (shop, gateway)
}

/// Clients make extensions, roles and databases.
fn make_superuser(server: &Postgres) {
    server.sql(&format!("ALTER ROLE {ROLE} SUPERUSER; GRANT ALL ON DATABASE {DATABASE} TO {ROLE}")).unwrap();
}

/// Runs a suite both ways.
fn same(suite: &Suite<'_>) {
    let (shop, _gateway) = open_shop();
    let other = Postgres::start(&shop.env).unwrap();
    for server in [&shop.postgres, &other] {
        make_superuser(server);
        if suite.database != DATABASE {
            server.sql(&format!("CREATE DATABASE {} OWNER {ROLE}", suite.database)).unwrap();
            server.sql_in(suite.database, suite.prepared).unwrap();
        }
    }
    let straight = |tests: &[&str]| {
        // As a user who is no agent.
        let place = shop.env.bystander_as("daemon", PYTHON).env("PGPASSWORD", PASSWORD);
        start(suite, tests, place.env("PGHOST", "127.0.0.1").env("PGPORT", other.port().to_string()), "straight")
    };
    let through = |tests: &[&str]| {
        let place = shop.env.agent(PYTHON).env("PGHOST", NAME).env("PGPORT", shop.postgres.port().to_string());
        start(suite, tests, place, "through")
    };
    let both = |tests: &[&str]| Run::finish(straight(tests), through(tests));
    compare(&shop.env, suite.source, both, suite.words, suite.least, suite.different);
}

/// What became of each test: it passed, failed or was skipped.
type Outcomes = BTreeMap<String, String>;

/// Runs tests both ways, and those that differ again. Fewer than `least` would mean that the suite did not run.
fn compare(
    env: &Env,
    name: &str,
    both: impl Fn(&[&str]) -> (Outcomes, Outcomes),
    tests: &[&str],
    least: usize,
    different: &[(&str, &str)],
) {
    let (one, two) = both(tests);
    assert!(one.len() >= least, "only {} tests ran", one.len());
    let passed = one.values().filter(|it| *it == "passed").count();
    println!("{name}: {} tests, {passed} passed straight", one.len());
    let mut differing: Vec<&str> = Vec::new();
    let tests: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
    for test in tests.into_iter().filter(|test| one.get(*test) != two.get(*test)) {
        match different.iter().find(|(name, _)| test.ends_with(name)) {
            Some((_, why)) => {
                println!("    {test}: {:?}, then {:?} through the gateway: {why}", one.get(test), two.get(test));
            }
            None => differing.push(test),
        }
    }
    // Some fail now and then, either way: such a one is seen to fail straight, too, or is equal each time that it is tried again.
    let mut complaints = BTreeSet::new();
    for _ in 0..RETRIES {
        if differing.is_empty() {
            break;
        }
        println!("    again: {differing:?}");
        let (again, through_again) = both(&differing);
        differing.retain(|test| again.get(*test) != two.get(*test));
        complaints.extend(differing.iter().copied().filter(|test| through_again.get(*test) != one.get(*test)));
    }
    complaints.retain(|test| differing.contains(test));
    let complaint =
        |test: &&str| format!("{test}: {:?}, then {:?} through the gateway", one.get(*test), two.get(*test));
    let complaints: Vec<String> = complaints.iter().map(complaint).collect();
    assert!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), env.log());
}

/// A suite in Python that runs.
struct Run {
    name: String,
    process: Running,
    report: PathBuf,
}

fn start(suite: &Suite<'_>, tests: &[&str], place: Place<'_>, way: &str) -> Run {
    let clients = staged(place.environment(), &["site", "src"]);
    fs::write(clients.join("site/weir_report.py"), REPORT).unwrap();
    let (report, home) = reports(&clients, way);
    let source = clients.join("src").join(suite.source);
    let place = place
        .env("HOME", home)
        .env("PGDATABASE", suite.database)
        .env("PGUSER", ROLE)
        .env("PYTHONPATH", clients.join("site"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WEIR_REPORT", &report)
        .args(["-m", "pytest", "-p", "weir_report", "-p", "no:cacheprovider", "--quiet", "--tb=native"])
        .args(["--timeout", ONE_TEST, "--rootdir"])
        .arg(&source)
        .args(tests.iter().map(|test| source.join(test)));
    let place = suite.variables.iter().fold(place, |place, (name, value)| place.env(name, value));
    Run { name: format!("{}-{way}", suite.source), process: place.start().unwrap(), report }
}

/// Where a run says what became of its tests, and a home for it.
fn reports(clients: &Path, name: &str) -> (PathBuf, PathBuf) {
    let reports = clients.join("reports");
    let home = reports.join(format!("home-{name}"));
    for (directory, mode) in [(&reports, 0o1777), (&home, 0o777)] {
        fs::create_dir_all(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    (reports.join(name), home)
}

impl Run {
    /// Both run at once, before two servers.
    fn finish(straight: Self, through: Self) -> (Outcomes, Outcomes) {
        (straight.outcomes(), through.outcomes())
    }

    /// What it has said.
    fn outcomes(self) -> Outcomes {
        let finished = self.process.finish(LIMIT).unwrap();
        let lines = fs::read_to_string(&self.report).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
        fs::remove_file(self.report).unwrap();
        if let Some(log) = std::env::var_os("WEIR_CLIENTS_LOG") {
            let path = PathBuf::from(log).join(format!("{}.log", self.name));
            fs::write(path, finished.stdout + &finished.stderr).unwrap();
        }
        let lines = lines.lines().map(|line| line.split_once(' ').unwrap());
        lines.map(|(outcome, test)| (test.to_owned(), outcome.to_owned())).collect()
    }
}

/// Parts of the clients' directory where an agent can read them.
fn staged(env: &Env, parts: &[&str]) -> PathBuf {
    let from =
        PathBuf::from(std::env::var_os("WEIR_CLIENTS").expect("WEIR_CLIENTS: run `cargo xtask test postgres-clients`"));
    let to = env.dir().join("clients");
    fs::create_dir_all(&to).unwrap();
    for part in parts {
        if !to.join(part).exists() {
            copy(&from.join(part), &to.join(part));
        }
    }
    to
}

fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--no-preserve=ownership"]).arg(from).arg(to);
    assert!(cp.status().unwrap().success());
    assert!(Command::new("chmod").args(["--recursive", "a+rX"]).arg(to).status().unwrap().success());
}
