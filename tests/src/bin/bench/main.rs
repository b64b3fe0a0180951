//! `cargo xtask bench`: figures side by side. Every row alternates its ways round by round in one run, since only ratios
//! within a run mean something on a shared machine; it gives the median and the spread over the rounds.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::socket::Backlog;
use serde_json::{Value, json};
use system_tests::Result;
use system_tests::env::{Env, Place};
use system_tests::pgbouncer::Pgbouncer;
use system_tests::postgres::{self, Options, Postgres};
use system_tests::shop::Shop;

mod detectors;
mod idle;
mod load;
mod open;
mod verdicts;

/// Connects of one measurement, and the pause between them: latency is measured, not load.
const CONNECTS: usize = 300;
const PAUSE: Duration = Duration::from_millis(1);
/// Threads that connect at once: enough that no wait for the disk leaves a core idle.
const FLOODERS: usize = 256;
/// Starts of psql in one measurement.
const STARTS: usize = 15;
/// Rows of pgbench's accounts: 100,000 a scale.
const SCALE: u32 = 10;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["connector", address] => connector(address),
        ["hold", count, addresses @ ..] => open::hold(count, addresses),
        ["flood", address, seconds] => flood(address, seconds),
        words => bench(words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    rounds: u32,
    seconds: u32,
    /// Only rows whose name contains it.
    row: String,
    json: Option<String>,
}

/// Measures what makes one or more rows of the table.
type Measure = fn(&Stage, &Plan) -> Result<Vec<Row>>;

/// What is measured, by names that `--row` is looked for in.
const ROWS: [(&str, Measure); 5] = [
    (verdicts::NAME_OF_ROWS, verdicts::rows),
    ("connect, p50", |stage, plan| Ok(vec![connect_row(stage, plan)?])),
    ("connect and close, no agent", |stage, plan| Ok(vec![others_row(stage, plan)?])),
    ("connections to their end", |stage, plan| Ok(vec![flood_row(stage, plan)?])),
    ("psql, start to first row", |stage, plan| Ok(vec![psql_row(stage, plan)?])),
];

fn plan(words: &[&str]) -> Result<Plan> {
    let mut plan = Plan { rounds: 5, seconds: 5, row: String::new(), json: None };
    for pair in words.chunks(2) {
        match pair {
            ["--rounds", rounds] => plan.rounds = rounds.parse()?,
            ["--seconds", seconds] => plan.seconds = seconds.parse()?,
            ["--row", name] => (*name).clone_into(&mut plan.row),
            ["--json", file] => plan.json = Some((*file).to_owned()),
            other => return Err(format!("unknown words {other:?}").into()),
        }
    }
    Ok(plan)
}

fn bench(words: &[&str]) -> Result {
    let plan = plan(words)?;
    let is_asked = |name: &str| name.contains(&plan.row);
    let measures: Vec<Measure> = ROWS.iter().filter(|(name, _)| is_asked(name)).map(|(_, measure)| *measure).collect();
    let loads: Vec<&load::Load> = load::LOADS.iter().filter(|it| is_asked(it.name)).collect();
    let bulks: Vec<&load::Bulk> = load::BULKS.iter().filter(|it| is_asked(it.name)).collect();
    let (with_open, with_detectors) = (is_asked(open::NAME_OF_ROWS), is_asked(detectors::NAME_OF_ROWS));
    let with_idle = is_asked(idle::NAME_OF_ROWS);
    let on_stage = !measures.is_empty() || !loads.is_empty() || !bulks.is_empty();
    if !on_stage && !with_open && !with_idle && !with_detectors {
        let names = ROWS.iter().map(|(name, _)| *name).chain(load::LOADS.iter().map(|it| it.name));
        let names = names.chain(load::BULKS.iter().map(|it| it.name));
        let names: Vec<&str> = names.chain([open::NAME_OF_ROWS, idle::NAME_OF_ROWS, detectors::NAME_OF_ROWS]).collect();
        return Err(format!("no row has {:?} in its name; there are: {}", plan.row, names.join("; ")).into());
    }
    let mut rows = Vec::new();
    if on_stage {
        let stage = Stage::new()?;
        for measure in measures {
            rows.extend(measure(&stage, &plan)?);
        }
        for load in loads {
            rows.extend(load::rows(&stage, &plan, load)?);
        }
        for bulk in bulks {
            rows.extend(load::bulk_rows(&stage, &plan, bulk)?);
        }
    }
    if with_open {
        rows.extend(open::rows(&plan)?);
    }
    if with_idle {
        rows.extend(idle::rows(&plan)?);
    }
    if with_detectors {
        rows.extend(detectors::rows(&plan)?);
    }
    print!("{}", table(&rows));
    if let Some(file) = &plan.json {
        fs::write(file, serde_json::to_string_pretty(&rows.iter().map(Row::json).collect::<Vec<_>>())?)?;
    }
    Ok(())
}

/// Everything that is measured, running.
struct Stage {
    gateway: system_tests::env::Gateway,
    pgbouncer: Pgbouncer,
    shop: Shop,
}

impl Stage {
    fn new() -> Result<Self> {
        println!(
            "preparing: PostgreSQL with pgbench's tables (scale {SCALE}), pgbouncer, weir with rules, masks and recording"
        );
        let env = Env::as_it_comes()?;
        let postgres =
            Postgres::start_with(&env, Options { log_statements: false, durable: true, ..Options::default() })?;
        let shop = Shop::with(env, postgres)?;
        shop.postgres.pgbench_tables(SCALE)?;
        load::make_tables(&shop.postgres)?;
        shop.configure(&load::policy())?;
        let pgbouncer = Pgbouncer::start(&shop, "session")?;
        let gateway = shop.serve()?;
        Ok(Self { gateway, pgbouncer, shop })
    }

    /// A client of libpq that goes straight to the server, or to `port`, with the held login.
    fn direct(&self, program: &str, port: u16) -> Place<'_> {
        self.shop
            .env
            .bystander(program)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGDATABASE", postgres::DATABASE)
            .env("PGUSER", postgres::ROLE)
            .env("PGPASSWORD", postgres::PASSWORD)
            .env("PGSSLMODE", "require")
    }

    /// The same client as an agent, with nothing but the database's place.
    fn agent(&self, program: &str) -> Place<'_> {
        self.shop.client(program).env("PGSSLMODE", "require")
    }
}

/// One row of the table: a quantity, the ways to it, and their figures round by round.
struct Row {
    name: String,
    unit: &'static str,
    aim: &'static str,
    ways: Vec<(&'static str, Vec<f64>)>,
    /// The way that the ratio is to.
    base: usize,
}

impl Row {
    fn new(name: impl Into<String>, unit: &'static str, aim: &'static str, ways: &[&'static str], base: usize) -> Self {
        Self { name: name.into(), unit, aim, ways: ways.iter().map(|way| (*way, Vec::new())).collect(), base }
    }

    fn add(&mut self, way: usize, figure: f64) {
        self.ways[way].1.push(figure);
    }

    /// Median over the rounds of weir's figure (the last way) divided by the base's in the same round.
    fn ratio(&self) -> f64 {
        let (base, weir) = (&self.ways[self.base].1, &self.ways[self.ways.len() - 1].1);
        median(&base.iter().zip(weir).map(|(base, weir)| weir / base).collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        let ways = self.ways.iter().map(|(way, figures)| {
            let (low, high) = spread(figures);
            json!({ "way": way, "median": median(figures), "low": low, "high": high, "rounds": figures })
        });
        json!({ "row": self.name, "unit": self.unit, "ways": ways.collect::<Vec<_>>(),
            "ratio": self.ratio(), "ratio_to": self.ways[self.base].0, "aim": self.aim })
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

fn spread(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| (low.min(*figure), high.max(*figure)))
}

fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("\n| what | way | median | spread | ratio | aim |\n| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        for (at, (way, figures)) in row.ways.iter().enumerate() {
            let (low, high) = spread(figures);
            let ratio = if at > 0 && at + 1 == row.ways.len() {
                format!("{:.2} of {}", row.ratio(), row.ways[row.base].0)
            } else {
                String::new()
            };
            let aim = if ratio.is_empty() { "" } else { row.aim };
            let _ = writeln!(
                text,
                "| {} | {way} | {:.1} {} | {low:.1} to {high:.1} | {ratio} | {aim} |",
                row.name,
                median(figures),
                row.unit
            );
        }
    }
    text
}

/// This program where agents may read it.
fn staged(env: &Env) -> Result<String> {
    let staged = env.dir().join("bin/connector");
    if !staged.exists() {
        fs::copy(std::env::current_exe()?, &staged)?;
    }
    Ok(staged.to_string_lossy().into_owned())
}

/// What a connection costs a process that is no agent: with no program attached above it, and with all of them.
fn others_row(stage: &Stage, plan: &Plan) -> Result<Row> {
    let mut row = Row::new("connect and close, no agent", "us", "at most 1 us more", &["no hooks", "weir"], 0);
    let (server, program) = (closing_server()?, staged(&stage.shop.env)?);
    for round in 0..plan.rounds {
        progress("connect of others", round, plan);
        for (way, place) in [(0, stage.shop.env.outsider(&program)), (1, stage.shop.env.bystander(&program))] {
            row.add(way, 1e6 / flooded(place, server, plan)?);
        }
    }
    Ok(row)
}

/// Connections one after the other, as many as there are cores at a time, each to its end: here one that the gateway refuses,
/// with a durable record.
fn flood_row(stage: &Stage, plan: &Plan) -> Result<Row> {
    let mut row = Row::new("connections to their end", "/s", "20,000 a second", &["direct", "weir"], 0);
    let (server, program) = (closing_server()?, staged(&stage.shop.env)?);
    let nowhere = SocketAddr::from(([198, 18, 0, 1], 9));
    for round in 0..plan.rounds {
        progress("connections", round, plan);
        row.add(0, flooded(stage.shop.env.bystander(&program), server, plan)?);
        row.add(1, flooded(stage.shop.env.agent(&program), nowhere, plan)?);
    }
    Ok(row)
}

/// Connections a second.
fn flooded(place: Place<'_>, address: SocketAddr, plan: &Plan) -> Result<f64> {
    let seconds = plan.seconds.to_string();
    let limit = Duration::from_secs(u64::from(plan.seconds) + 30);
    let place = place.args(["flood", &address.to_string(), &seconds]);
    Ok(place.start()?.finish(limit)?.expect_success()?.trim().parse()?)
}

/// A server that closes what it has accepted.
fn closing_server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Room for all that connect at once: the standard library's listeners have less.
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(address)
}

/// Connects and waits for the end, again and again; prints how often a second.
fn flood(address: &str, seconds: &str) -> Result {
    let (address, time): (SocketAddr, _) = (address.parse()?, Duration::from_secs(seconds.parse()?));
    let start = Instant::now();
    let threads: Vec<_> = (0..FLOODERS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut count = 0_u32;
                while start.elapsed() < time {
                    let mut stream = TcpStream::connect(address)?;
                    // A reset is an end, too.
                    let _ = stream.read(&mut [0]);
                    count += 1;
                }
                Ok::<_, std::io::Error>(count)
            })
        })
        .collect();
    let mut sum = 0.0;
    for thread in threads {
        sum += f64::from(thread.join().map_err(|_| "a thread panicked")??);
    }
    println!("{:.1}", sum / start.elapsed().as_secs_f64());
    Ok(())
}

/// connect(2) of an agent through all hooks, against the same call of a process that is no agent.
fn connect_row(stage: &Stage, plan: &Plan) -> Result<Row> {
    let mut row = Row::new("connect, p50", "us", "at most 1.4", &["direct", "weir"], 0);
    let staged = staged(&stage.shop.env)?;
    let address = format!("127.0.0.1:{}", stage.shop.postgres.port());
    for round in 0..plan.rounds {
        progress("connect", round, plan);
        for (way, place) in [(0, stage.shop.env.bystander(&staged)), (1, stage.shop.env.agent(&staged))] {
            row.add(way, connector_figure(place, &address)?);
        }
    }
    Ok(row)
}

/// The median of an agent's connects, in microseconds.
fn connector_figure(place: Place<'_>, address: &str) -> Result<f64> {
    Ok(place.args(["connector", address]).run()?.expect_success()?.trim().parse()?)
}

/// The first address of a name and a port.
fn resolved(address: &str) -> Result<SocketAddr> {
    Ok(address.to_socket_addrs()?.next().ok_or_else(|| format!("{address} has no address"))?)
}

/// Connects again and again and prints the median in microseconds.
fn connector(address: &str) -> Result {
    let address = resolved(address)?;
    let mut figures = Vec::with_capacity(CONNECTS);
    for _ in 0..CONNECTS {
        let start = Instant::now();
        let stream = TcpStream::connect(address)?;
        figures.push(start.elapsed().as_secs_f64() * 1e6);
        drop(stream);
        std::thread::sleep(PAUSE);
    }
    println!("{:.2}", median(&figures));
    Ok(())
}

/// From the start of psql to its first row.
fn psql_row(stage: &Stage, plan: &Plan) -> Result<Row> {
    let mut row = Row::new("psql, start to first row", "ms", "at most 1.5", &["direct", "weir"], 0);
    for round in 0..plan.rounds {
        progress("psql", round, plan);
        for way in [0, 1] {
            let mut figures = Vec::new();
            for _ in 0..STARTS {
                // Both verify what they are shown: the server's certificate, or the gateway's.
                let (place, ca) = if way == 0 {
                    (stage.direct("psql", stage.shop.postgres.port()), stage.shop.postgres.ca_path())
                } else {
                    (stage.agent("psql"), stage.shop.env.runtime_dir().join("ca.pem"))
                };
                let place = place.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca);
                let start = Instant::now();
                place.args(["--no-psqlrc", "--tuples-only", "--command", "SELECT 1"]).run()?.expect_success()?;
                figures.push(start.elapsed().as_secs_f64() * 1e3);
            }
            row.add(way, median(&figures));
        }
    }
    Ok(row)
}

fn progress(what: &str, round: u32, plan: &Plan) {
    println!("{what}: round {} of {}", round + 1, plan.rounds);
}
