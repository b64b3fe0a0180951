//! Rows of whole transactions and of bulk: pgbench, and psql where pgbench cannot, straight to the server, by pgbouncer and by
//! weir. Beside what comes through, the CPU time that the proxies take for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Plan, Row, Stage, progress};
use system_tests::Result;
use system_tests::env::Place;
use system_tests::postgres::Postgres;
use system_tests::shop::POLICY;

/// Rows of the tables that are read as a whole: some 27 MB.
const BULK_ROWS: u32 = 200_000;
/// How often a gigabyte has such a table.
const A_GIGABYTE: u32 = 38;
/// Longer than a gigabyte takes on any way.
const A_GIGABYTES_TIME: Duration = Duration::from_mins(2);
const WAYS: [&str; 3] = ["direct", "pgbouncer", "weir"];

/// What pgbench does.
pub(super) struct Load {
    pub(super) name: &'static str,
    clients: u32,
    /// Words for pgbench.
    words: &'static [&'static str],
    /// A script of our own.
    script: Option<&'static str>,
    /// What is aimed at, of pgbouncer's.
    speed: &'static str,
    cpu: &'static str,
}

const SIMPLE: &[&str] = &["-S", "-M", "simple"];
const EXTENDED: &[&str] = &["-S", "-M", "extended"];
const PREPARED: &[&str] = &["-S", "-M", "prepared"];
const BY_TEXT: &[&str] = &["-M", "simple"];
const BY_NAME: &[&str] = &["-M", "prepared"];

const MASKED: &str = "\\set id random(1, 200000)\nSELECT name, email FROM people WHERE id = :id;\n";
const COMPUTED: &str = "\\set id random(1, 200000)\nSELECT name, lower(email) || phone FROM people WHERE id = :id;\n";

const fn load(
    name: &'static str,
    clients: u32,
    words: &'static [&'static str],
    script: Option<&'static str>,
    aims: (&'static str, &'static str),
) -> Load {
    Load { name, clients, words, script, speed: aims.0, cpu: aims.1 }
}

const ONE: (&str, &str) = ("at least 0.95", "at most 1.3");
const MANY: (&str, &str) = ("at least 1.0", "at most 1.3");
const NONE: (&str, &str) = ("", "");

/// The rows, by names that `--row` is looked for in.
pub(super) const LOADS: [Load; 13] = [
    load("pgbench -S, simple, 1 client", 1, SIMPLE, None, ONE),
    load("pgbench -S, simple, 8 clients", 8, SIMPLE, None, MANY),
    load("pgbench -S, simple, 64 clients", 64, SIMPLE, None, MANY),
    load("pgbench -S, extended, 1 client", 1, EXTENDED, None, ONE),
    load("pgbench -S, extended, 8 clients", 8, EXTENDED, None, MANY),
    load("pgbench -S, extended, 64 clients", 64, EXTENDED, None, MANY),
    load("pgbench -S, prepared, 1 client", 1, PREPARED, None, ONE),
    load("pgbench -S, prepared, 8 clients", 8, PREPARED, None, MANY),
    load("pgbench -S, prepared, 64 clients", 64, PREPARED, None, MANY),
    load("pgbench, TPC-B, 8 clients", 8, BY_TEXT, None, MANY),
    load("masked columns by id, simple, 8 clients", 8, BY_TEXT, Some(MASKED), NONE),
    load("masked columns by id, prepared, 8 clients", 8, BY_NAME, Some(MASKED), NONE),
    load("computed of masked ones, simple, 8 clients", 8, BY_TEXT, Some(COMPUTED), NONE),
];

/// What a gigabyte is read by.
#[derive(Clone, Copy)]
enum By {
    Select,
    Copy,
}

/// A gigabyte of one table's rows.
pub(super) struct Bulk {
    pub(super) name: &'static str,
    table: &'static str,
    by: By,
    /// Of the time that it takes straight from the server.
    aim: &'static str,
}

pub(super) const BULKS: [Bulk; 4] = [
    Bulk { name: "1 GB SELECT, nothing masked", table: "plain", by: By::Select, aim: "at most 1.11" },
    Bulk { name: "1 GB SELECT, two masked columns", table: "people", by: By::Select, aim: "at most 2.0" },
    Bulk { name: "1 GB COPY out, nothing masked", table: "plain", by: By::Copy, aim: "at most 1.11" },
    Bulk { name: "1 GB COPY out, two masked columns", table: "people", by: By::Copy, aim: "at most 2.0" },
];

/// The scene's rules and masks, and what these rows need besides.
pub(super) fn policy() -> String {
    POLICY
        .replace("\"*.*.email\"", "\"*.*.email\", \"public.people.phone\"")
        .replace("\"transaction\"", "\"transaction\", \"copy_out\"")
}

/// Tables that are read as a whole: one with two masked columns, and the same under other names.
pub(super) fn make_tables(postgres: &Postgres) -> Result {
    postgres.sql(&format!(
        "SET ROLE orders_rw;
         CREATE TABLE people (id int PRIMARY KEY, name text, email text, phone text, joined date, score float8, note text);
         INSERT INTO people SELECT i, 'name ' || i, 'user' || i || '@shop.example', '555-' || i, date '2020-01-01' + i % 1000,
             i / 7.0, repeat('a note of some words ', 2) FROM generate_series(1, {BULK_ROWS}) i;
         CREATE TABLE plain (id, name, address, number, joined, score, note) AS TABLE people"
    ))?;
    postgres.sql("VACUUM ANALYZE people, plain").map(drop)
}

/// Transactions a second, and the proxies' CPU time for each.
pub(super) fn rows(stage: &Stage, plan: &Plan, load: &Load) -> Result<Vec<Row>> {
    let mut speed = Row::new(load.name, "tps", load.speed, &WAYS, 1);
    let mut cpu = Row::new(format!("{}: CPU of the proxy", load.name), "us/tx", load.cpu, &WAYS[1..], 0);
    let script = stage.shop.env.dir().join("load.sql");
    if let Some(text) = load.script {
        fs::write(&script, text)?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    for round in 0..plan.rounds {
        progress(load.name, round, plan);
        for way in 0..WAYS.len() {
            let (clients, seconds) = (load.clients.to_string(), plan.seconds.to_string());
            let limit = Duration::from_secs(u64::from(plan.seconds) + 30);
            let (place, proxy) = client(stage, "pgbench", way)?;
            let mut place = place.args(load.words).args(["-n", "-c", &clients, "-T", &seconds]);
            if load.script.is_some() {
                place = place.arg("-f").arg(script.display().to_string());
            }
            let before = cpu_seconds(&proxy)?;
            let done = place.start()?.finish(limit)?.expect_success()?;
            let used = cpu_seconds(&proxy)? - before;
            speed.add(way, figure(&done, "tps = ")?);
            if way > 0 {
                cpu.add(way - 1, used * 1e6 / figure(&done, "transactions actually processed: ")?);
            }
        }
    }
    Ok(vec![speed, cpu])
}

/// The time that a gigabyte takes, and the proxies' CPU time for it.
pub(super) fn bulk_rows(stage: &Stage, plan: &Plan, bulk: &Bulk) -> Result<Vec<Row>> {
    let mut time = Row::new(bulk.name, "ms", bulk.aim, &WAYS, 0);
    let mut cpu = Row::new(format!("{}: CPU of the proxy", bulk.name), "ms", "", &WAYS[1..], 0);
    let query = format!("SELECT {0}.* FROM {0}, generate_series(1, {A_GIGABYTE})", bulk.table);
    let script = stage.shop.env.dir().join("bulk.sql");
    fs::write(&script, format!("{query};\n"))?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    for round in 0..plan.rounds {
        progress(bulk.name, round, plan);
        for way in 0..WAYS.len() {
            let program = if matches!(bulk.by, By::Copy) { "psql" } else { "pgbench" };
            let (place, proxy) = client(stage, program, way)?;
            let place = match bulk.by {
                By::Select => place.args(["-n", "-t", "1", "-f"]).arg(script.display().to_string()),
                By::Copy => place
                    .args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--command"])
                    .arg(format!("COPY ({query}) TO STDOUT")),
            };
            let (before, start) = (cpu_seconds(&proxy)?, Instant::now());
            place.start()?.finish(A_GIGABYTES_TIME)?.expect_success()?;
            time.add(way, start.elapsed().as_secs_f64() * 1e3);
            if way > 0 {
                cpu.add(way - 1, (cpu_seconds(&proxy)? - before) * 1e3);
            }
        }
    }
    Ok(vec![time, cpu])
}

/// A client on one of the ways, and the processes of the proxy there.
fn client<'s>(stage: &'s Stage, program: &str, way: usize) -> Result<(Place<'s>, Vec<u32>)> {
    Ok(match WAYS[way] {
        "direct" => (stage.direct(program, stage.shop.postgres.port()), Vec::new()),
        "pgbouncer" => (stage.direct(program, stage.pgbouncer.port), vec![stage.pgbouncer.process.pid()]),
        _ => (stage.agent(program), stage.gateway.pids()?),
    })
}

/// The number behind a label in pgbench's report.
pub(super) fn figure(report: &str, label: &str) -> Result<f64> {
    let after = report.split_once(label).ok_or_else(|| format!("no {label:?} in pgbench's report:\n{report}"))?.1;
    Ok(after.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default().parse()?)
}

/// User and system time of processes so far (proc(5), "stat", fields 14 and 15).
fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let mut sum = 0;
    for pid in pids {
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        sum += fields[11].parse::<i64>()? + fields[12].parse::<i64>()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "ticks of one run are far below 2^52")]
    Ok(sum as f64 / ticks as f64)
}
