//! Two servers that differ in the values of masked columns alone, and sessions made by chance: what an agent gets back, bytes,
//! counts, tags, errors and their order, is the same, and so is what another session of its sees meanwhile. Time is not compared: how long a statement takes is not hidden.

use std::fs;
use std::time::Duration;

use system_tests::env::{Env, Gateway};
use system_tests::postgres::{Options, Postgres};
use system_tests::shop::{RAW, Shop};

/// Sessions of a short run, beside those that have each construct once, and its seed. `cargo xtask test noninterference --minutes N --seed S`
/// goes on.
const SESSIONS: &str = "110";
const SEED: &str = "1";
/// The same at the oldest and the newest server that there is.
const FEW_SESSIONS: &str = "20";
/// Where the long form runs, too; `--server MAJOR` chooses another one for it, and then there are no others.
const DEBIANS: &str = "15";
const OLDEST: &str = "13";
const NEWEST: &str = "18";
const OTHERS: [&str; 5] = [OLDEST, "14", "16", "17", NEWEST];
/// Sessions of the run without masks, which shows that the sessions do look at masked values.
const UNMASKED: &str = "20";
const LIMIT: Duration = Duration::from_mins(8);

/// The sessions' maker, a file for each family of what it makes.
const SESSION_MAKER: &[(&str, &str)] = &[
    ("catalogs.py", include_str!("noninterference/catalogs.py")),
    ("changes.py", include_str!("noninterference/changes.py")),
    ("copies.py", include_str!("noninterference/copies.py")),
    ("definitions.py", include_str!("noninterference/definitions.py")),
    ("documents.py", include_str!("noninterference/documents.py")),
    ("maker.py", include_str!("noninterference/maker.py")),
    ("queries.py", include_str!("noninterference/queries.py")),
    ("raw.py", RAW),
    ("run.py", include_str!("noninterference/run.py")),
    ("sessions.py", include_str!("noninterference/sessions.py")),
    ("values.py", include_str!("noninterference/values.py")),
    ("wire.py", include_str!("noninterference/wire.py")),
];

/// What both servers have alike, and the rows, in which this word stands for what tells the servers apart.
const SCHEMA: &str = include_str!("noninterference/schema.sql");
const ROWS: &str = include_str!("noninterference/data.sql");
const SALT: &str = "SALT";
/// What the oldest server has not: the lines that end in this are left out there.
const NEWER: &str = "-- from 14 on";

/// Who writes to `again` has all rows as they were at the beginning. What this does only the owner knows: no text names a table.
const FILL: &str = "
CREATE SCHEMA owner;
CREATE TABLE owner.script (text text);
CREATE FUNCTION owner.fill() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN EXECUTE (SELECT text FROM owner.script); RETURN NULL; END';
CREATE TRIGGER fill AFTER INSERT ON again FOR EACH STATEMENT EXECUTE FUNCTION owner.fill();
";

/// Schemas for the temporary tables of as many connections. Who is the first to need one would make it, and how many there are at once is
/// a matter of time: oids that are given afterwards would tell.
const OWN_SCHEMAS: &str = "
SET allow_system_table_mods = on;
DO $$BEGIN FOR i IN 1..100 LOOP
    EXECUTE format('CREATE SCHEMA pg_temp_%s', i); EXECUTE format('CREATE SCHEMA pg_toast_temp_%s', i);
END LOOP; END$$;
";

const RULES: &str = "
[[rule]]
name    = \"everything\"
targets = [\"orders\", \"twin\"]
then    = \"allow\"
";
const REDACTED: &str = "
[[mask]]
name    = \"all of it\"
targets = [\"orders\", \"twin\"]
columns = [\"public.customers.ssn\", \"*.*.email\", \"public.customers.salary\", \"public.customers.born\", \"public.customers.tags\",
           \"public.customers.doc\", \"public.customers.balance\", \"public.customers.token\", \"public.customers.active\", \"*.*.pad\"]
with    = \"redact\"
";
/// The same, but for a column of which the end is shown, which is alike on both servers. What a statement computes of it may end in
/// anything, and is no value of that column: nothing of it may be shown.
const IN_PART: &str = "
[[mask]]
name    = \"its end is shown\"
targets = [\"orders\", \"twin\"]
columns = [\"public.customers.ssn\"]
with    = { partial = { keep_last = 3 } }

[[mask]]
name    = \"all the others\"
targets = [\"orders\", \"twin\"]
columns = [\"*.*.email\", \"public.customers.salary\", \"public.customers.born\", \"public.customers.tags\",
           \"public.customers.doc\", \"public.customers.balance\", \"public.customers.token\", \"public.customers.active\", \"*.*.pad\"]
with    = \"redact\"
";

struct Twins {
    shop: Shop,
    twin: Postgres,
}

impl Twins {
    fn new(version: &str) -> Self {
        let env = Env::new().unwrap();
        let other = OTHERS.into_iter().find(|it| *it == version);
        assert!(other.is_some() || version == DEBIANS, "no server {version}");
        let options = Options { log_statements: false, version: other, ..Options::default() };
        let is_there = |line: &&str| version != OLDEST || !line.ends_with(NEWER);
        let schema: Vec<&str> = SCHEMA.lines().filter(is_there).collect();
        let schema = schema.join("\n");
        let servers = [Postgres::start_with(&env, options).unwrap(), Postgres::start_with(&env, options).unwrap()];
        for (server, salt) in servers.iter().zip(["1", "2"]) {
            server.sql("ALTER SYSTEM SET autovacuum = off").unwrap();
            server.sql("SELECT pg_reload_conf()").unwrap();
            server.sql(&format!("SET ROLE orders_rw; {schema}; RESET ROLE; {FILL}; {OWN_SCHEMAS}")).unwrap();
            let rows = ROWS.replace(SALT, salt);
            server
                .sql(&format!("INSERT INTO owner.script VALUES ($script${rows}$script$); INSERT INTO again VALUES (1)"))
                .unwrap();
        }
        let [postgres, twin] = servers;
        Self { shop: Shop::with(env, postgres).unwrap(), twin }
    }

    fn serve(&self, policy: &str) -> Gateway {
        let twin = self.twin.target_config().replace("name = \"orders\"", "name = \"twin\"");
        self.shop.configure(&format!("{twin}{policy}")).unwrap();
        self.shop.serve().unwrap()
    }

    fn run(&self, sessions: &str, more: &[(&str, String)]) -> String {
        let ports = format!("{} {}", self.shop.postgres.port(), self.twin.port());
        let scripts = self.shop.env.dir().join("sessions");
        fs::create_dir_all(&scripts).unwrap();
        for (name, text) in SESSION_MAKER {
            fs::write(scripts.join(name), text).unwrap();
        }
        let mut client = self
            .shop
            .client("/usr/bin/python3")
            .arg("-uB")
            .arg(scripts.join("run.py"))
            .env("PORTS", ports)
            .env("SESSIONS", sessions);
        client = client.env("SEED", std::env::var("WEIR_SEED").unwrap_or_else(|_| SEED.to_owned()));
        for (name, value) in more {
            client = client.env(name, value);
        }
        let minutes: u64 = more.iter().find(|(name, _)| *name == "MINUTES").map_or(0, |(_, it)| it.parse().unwrap());
        client.start().unwrap().finish(LIMIT + Duration::from_mins(minutes)).unwrap().expect_success().unwrap()
    }
}

/// Nothing differs.
fn holds(twins: &Twins, masks: &str, sessions: &str, more: &[(&str, String)]) {
    let gateway = twins.serve(&format!("{RULES}{masks}"));
    let said = twins.run(sessions, more);
    println!("{said}");
    assert!(!said.contains("DIFFERS"), "{said}");
    drop(gateway);
}

/// A little, where nobody asks for one server alone.
fn holds_at(version: &str, masks: &str) {
    if ["WEIR_SERVER", "WEIR_MINUTES"].into_iter().any(|it| std::env::var_os(it).is_some()) {
        println!("another server was asked for");
        return;
    }
    holds(&Twins::new(version), masks, FEW_SESSIONS, &[]);
}

#[test]
fn so_they_do_at_the_oldest_server() {
    holds_at(OLDEST, REDACTED);
}

#[test]
fn so_they_do_at_the_newest_server_where_a_column_is_masked_in_part() {
    holds_at(NEWEST, IN_PART);
}

#[test]
fn agents_get_the_same_whatever_is_masked() {
    let twins = Twins::new(&std::env::var("WEIR_SERVER").unwrap_or_else(|_| DEBIANS.to_owned()));
    match std::env::var("WEIR_MINUTES").map(|it| it.parse::<u32>().unwrap()) {
        Err(_) => holds(&twins, REDACTED, SESSIONS, &[]),
        Ok(minutes) => {
            let half = minutes / 2;
            for (masks, minutes) in [(REDACTED, minutes - half), (IN_PART, half)] {
                holds(&twins, masks, SESSIONS, &[("MINUTES", minutes.to_string())]);
            }
        }
    }

    // Without masks the same sessions tell the servers apart: they do look at what differs.
    let _gateway = twins.serve(RULES);
    // (Always these: there are some that nobody refuses then, and after which the tables cannot be filled anew.)
    let said = twins.run(UNMASKED, &[("COUNT", "yes".to_owned()), ("SEED", SEED.to_owned())]);
    println!("without masks: {said}");
    let differ: u32 =
        said.trim().lines().last().unwrap().split(", ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(differ * 5 > UNMASKED.parse::<u32>().unwrap(), "{said}");
    assert!(!said.contains("what others see differed 0 times"), "what others see is looked at, too: {said}");
}
