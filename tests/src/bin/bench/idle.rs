//! Sessions of PostgreSQL that do nothing: how much memory each takes, and how fast others are beside them. Both proxies, weir being
//! before pgbouncer: ten thousand of the server's own processes are more than this machine has memory for.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use system_tests::Result;
use system_tests::env::{Env, Place};
use system_tests::pgbouncer::Pgbouncer;
use system_tests::postgres::{self, Options, Postgres};
use system_tests::shop::{POLICY, Shop};

use super::load::figure;
use super::{Plan, Row, SCALE, open, progress};

pub(super) const NAME_OF_ROWS: &str = "idle PostgreSQL sessions";
/// Where a process may have the descriptors for them.
const SESSIONS: usize = 10_000;

/// Opens so many sessions, says so, and keeps them until its input ends.
const HOLD: &str = "
import os, psycopg, socket, sys, threading
count, held = int(sys.argv[1]), []
# Asked once: an agent may ask so many questions a second.
address = socket.gethostbyname(os.environ['PGHOST'])
def some(n):
    held.extend([psycopg.connect('', hostaddr=address) for _ in range(n)])
threads = [threading.Thread(target=some, args=(count // 4,)) for _ in range(4)]
[it.start() for it in threads], [it.join() for it in threads]
print('open', len(held), flush=True)
sys.stdin.read()
";

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let sessions = open::sessions(SESSIONS)? / 4 * 4;
    println!("preparing: pgbouncer, and a gateway before it, for {sessions} sessions");
    let env = Env::as_it_comes()?;
    let server = Postgres::start_with(&env, Options { log_statements: false, durable: true, ..Options::default() })?;
    let shop = Shop::with(env, server)?;
    shop.postgres.pgbench_tables(SCALE)?;
    let pgbouncer = Pgbouncer::start_for(2 * SESSIONS, &shop, "session")?;
    let more = format!("max_sessions_per_agent = {}\n", 2 * SESSIONS);
    shop.env
        .configure(&(more + &shop.config_with(&(pgbouncer.target_config() + "pool_mode = \"session\"\n"), POLICY)))?;
    let gateway = shop.serve()?;

    let direct = |program: &str| -> Place<'_> {
        let place = shop.env.bystander(program).env("PGHOST", "127.0.0.1").env("PGPORT", pgbouncer.port.to_string());
        let place = place.env("PGDATABASE", postgres::DATABASE).env("PGUSER", postgres::ROLE);
        place.env("PGPASSWORD", postgres::PASSWORD).env("PGSSLMODE", "require")
    };
    let agent =
        |program: &str| shop.client(program).env("PGPORT", pgbouncer.port.to_string()).env("PGSSLMODE", "require");
    let ways = ["pgbouncer", "weir"];
    let mut memory = Row::new(format!("memory of each of {sessions} {NAME_OF_ROWS}"), "KiB", "", &ways, 0);
    let mut speed =
        Row::new(format!("pgbench -S, prepared, 8 clients beside {sessions} {NAME_OF_ROWS}"), "tps", "", &ways, 0);
    for way in 0..ways.len() {
        let place = |program: &str| if way == 0 { direct(program) } else { agent(program) };
        let pids = if way == 0 { vec![pgbouncer.process.pid()] } else { gateway.pids()? };
        let before = open::memory(&pids)?;
        progress(NAME_OF_ROWS, 0, plan);
        let holder = Holder::start(place("/usr/bin/python3").args(["-c", HOLD, &sessions.to_string()]), sessions)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        memory.add(way, open::memory(&pids)?.saturating_sub(before) as f64 / 1024.0 / sessions as f64);
        for round in 0..plan.rounds {
            progress("pgbench beside them", round, plan);
            let (seconds, limit) = (plan.seconds.to_string(), Duration::from_secs(u64::from(plan.seconds) + 60));
            let words = ["-n", "-S", "-M", "prepared", "-c", "8", "-T", &seconds];
            let done = place("pgbench").args(words).start()?.finish(limit)?.expect_success()?;
            speed.add(way, figure(&done, "tps = ")?);
        }
        holder.end()?;
    }
    Ok(vec![memory, speed])
}

struct Holder(Child);

impl Holder {
    fn start(place: Place<'_>, sessions: usize) -> Result<Self> {
        let mut holder = place.into_command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        if line.trim() != format!("open {sessions}") {
            return Err(format!("{sessions} sessions were to be opened: {line:?}").into());
        }
        Ok(Self(holder))
    }

    fn end(mut self) -> Result {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}
