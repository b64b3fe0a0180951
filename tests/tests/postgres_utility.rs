//! What the default pack costs people who do no harm: a corpus of harmless work runs straight at a server and through a gateway
//! with the rules and masks that `weir init` proposes, and at most 2 % of its statements may be refused, of each part and of all.
//!
//! The masks are on columns that people mask in such tables (names, phones, addresses, e-mails, remarks) and that the work does
//! not choose, sort or group rows by, except where Weir has a way for that: [`PARTS`] names them, and why others are left out. What
//! is refused is counted by the gateway's own records, and printed with its reason. What is not refused must give what it gives
//! straight, but for cells that are masked. Queries that are *about* a masked column are refused, which
//! [`what_is_about_a_masked_column_is_refused`] sees with the same queries and another mask.
//!
//! A statement here is a text of which numbers and strings are left out: one that is sent a hundred times counts once. What was
//! sent is counted as well, and held to the same limit. A step that fails through the gateway alone counts as refused, whatever
//! the gateway says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use system_tests::env::{Gateway, Place};
use system_tests::postgres::{DATABASE, NAME, Options, PASSWORD, Postgres, ROLE};
use system_tests::process::{Finished, wait_until};
use system_tests::recording;
use system_tests::shop::Shop;
use weir::policy::Gate;
use weir::record::event::Event;

#[path = "postgres_utility/corpus.rs"]
mod corpus;

use self::corpus::{Mask, PARTS, Part, Program, Runs, Work};

/// What is called harmless here, with its version: the parts, and what they are made of.
const CORPUS: &str = "harmless work 1";
/// How much of it may be refused, in percent.
const MOST: usize = 2;
/// One run of one program.
const LIMIT: Duration = Duration::from_mins(2);
const SETTLED: Duration = Duration::from_secs(20);
/// What a masked cell shows, where it is not NULL.
const COVER: &str = "***";
const SUPERUSER: &str = "postgres";

/// Two servers with the same in them, the gateway before one of them, and what the gateway has recorded.
struct World {
    gateway: Gateway,
    shop: Shop,
    other: Postgres,
    files: PathBuf,
    /// Of the gateway's records, those that were looked at.
    read: usize,
}

/// What became of statements, by the gateway's word.
#[derive(Default)]
struct Tally {
    sent: usize,
    sent_and_refused: usize,
    /// By their shapes; why, if they were refused.
    statements: BTreeMap<String, Option<String>>,
    cells_masked: u64,
}

#[test]
fn at_most_two_percent_of_harmless_work_is_refused() {
    let mut world = World::new();
    let mut all = Tally::default();
    let mut complaints = Vec::new();
    println!("corpus \"{CORPUS}\", with the rules and masks that weir init proposes");
    for part in PARTS {
        world.adopt(part.masks);
        let mut tally = Tally::default();
        for program in part.programs {
            let (found, differences) = world.both(part, program);
            complaints.extend(differences.into_iter().map(|it| format!("{}: {}: {it}", part.name, program.name)));
            tally.add(found);
        }
        tally.report(part.name);
        complaints.extend(tally.complaint(part));
        all.add(tally);
    }
    all.report("all of it");
    complaints.extend(all.complaint_of("all of it"));
    assert!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), world.shop.env.log());
}

/// The same queries where they are about what is masked: TPC-H's 22nd chooses customers by their phone's first digits and by
/// their balance. The others merely show them, and are answered.
#[test]
fn what_is_about_a_masked_column_is_refused() {
    let mut world = World::new();
    world.adopt(corpus::PHONES);
    let tpch = &PARTS[0];
    let (tally, differences) = world.both(tpch, &tpch.programs[0]);
    assert_eq!(differences, [""; 0]);
    let refused: Vec<&String> = tally.statements.iter().filter_map(|(text, why)| why.as_ref().map(|_| text)).collect();
    assert!(matches!(refused.as_slice(), [one] if one.contains("cntrycode")), "{refused:?}");
    assert!(tally.cells_masked > 0);
}

impl World {
    fn new() -> Self {
        let env = system_tests::env::Env::new().unwrap();
        let quiet = Options { log_statements: false, ..Options::default() };
        let server = Postgres::start_with(&env, quiet).unwrap();
        let shop = Shop::with(env, server).unwrap();
        let other = Postgres::start_with(&shop.env, quiet).unwrap();
        for server in [&shop.postgres, &other] {
            // What autovacuum keeps of a table takes an oid, and psql's \\d shows oids.
            server.sql("ALTER SYSTEM SET autovacuum = off").unwrap();
            server.sql("SELECT pg_reload_conf()").unwrap();
        }
        let gateway = shop.serve().unwrap();
        let files = shop.env.dir().join("files");
        fs::create_dir(&files).unwrap();
        fs::set_permissions(&files, fs::Permissions::from_mode(0o777)).unwrap();
        for (name, text) in corpus::FILES {
            fs::write(files.join(name), text).unwrap();
        }
        let from = PathBuf::from(
            std::env::var_os("WEIR_WORKLOADS").expect("WEIR_WORKLOADS: run `cargo xtask test postgres-utility`"),
        );
        for part in ["site", "node", "tpch"] {
            copy(&from.join(part), &files.join(part));
        }
        Self { gateway, shop, other, files, read: 0 }
    }

    /// Takes the pack, with these masks in the place of its examples.
    fn adopt(&mut self, masks: &[Mask]) {
        let init = self.shop.env.weir(["init", "--stdout"]).unwrap().expect_success().unwrap();
        let access = "[access]\nadmin = [\"root\"]\naudit = [\"root\"]\n";
        self.shop.configure(&format!("{access}{}", pack(&init, masks))).unwrap();
        let config = fs::read_to_string(self.shop.env.config_path()).unwrap();
        let open = config.replace(&format!("databases = [\"{DATABASE}\"]\n"), "");
        assert_ne!(open, config);
        fs::write(self.shop.env.config_path(), open).unwrap();
        self.gateway.reload().unwrap();
    }

    /// Runs a program both ways. What the gateway says of it, and in what it differed.
    fn both(&mut self, part: &Part, program: &Program) -> (Tally, Vec<String>) {
        for server in [&self.shop.postgres, &self.other] {
            self.prepare(server, &part.work, program.name);
        }
        let straight = self.straight(program).start().unwrap();
        let through = self.through(program).start().unwrap();
        let (straight, through) = (straight.finish(LIMIT).unwrap(), through.finish(LIMIT).unwrap());
        assert!(straight.success(), "{} straight: {straight:?}", program.name);
        let mut tally = self.tally();
        let differences = match program.runs {
            Runs::Python(..) | Runs::Node(..) => steps_that_differ(&straight, &through, &mut tally),
            Runs::Psql(_) | Runs::Dump => texts_that_differ(&straight, &through),
            Runs::Bench(_) if through.success() => Vec::new(),
            Runs::Bench(_) => vec![format!("{through:?}")],
        };
        assert!(
            tally.sent >= program.least,
            "{}: the gateway knows of {} statements\n{through:?}",
            program.name,
            tally.sent
        );
        (tally, differences)
    }

    /// A database of the program's name, with what it works on.
    fn prepare(&self, server: &Postgres, work: &Work, name: &str) {
        server.sql(&format!("CREATE DATABASE \"{name}\" OWNER {ROLE}")).unwrap();
        let role = format!("--role={ROLE}");
        let mut command = match work {
            Work::Script(file) | Work::ScriptOf(_, file) => {
                let mut psql = Command::new("psql");
                psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", file]);
                psql
            }
            Work::Bench => {
                let mut pgbench = Command::new("pgbench");
                pgbench.args(["--initialize", "--quiet", "--scale", "1"]);
                pgbench
            }
        };
        if let Work::ScriptOf(directory, _) = work {
            command.current_dir(self.files.join(directory));
        } else {
            command.current_dir(&self.files);
        }
        command.env("PGHOST", server.socket_dir()).env("PGPORT", server.port().to_string()).env("PGUSER", SUPERUSER);
        let made = command.env("PGDATABASE", name).env("PGOPTIONS", role).stdin(Stdio::null()).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        server.sql_in(name, "VACUUM ANALYZE").unwrap();
    }

    /// As a user who is no agent, at the other server.
    fn straight(&self, program: &Program) -> Place<'_> {
        let place = self.shop.env.bystander_as("daemon", program.runs.executable()).env("PGPASSWORD", PASSWORD);
        self.at(place.env("PGHOST", "127.0.0.1").env("PGPORT", self.other.port().to_string()), program)
    }

    fn through(&self, program: &Program) -> Place<'_> {
        let place = self.shop.env.agent(program.runs.executable());
        self.at(place.env("PGHOST", NAME).env("PGPORT", self.shop.postgres.port().to_string()), program)
    }

    fn at<'a>(&self, place: Place<'a>, program: &Program) -> Place<'a> {
        let place = place.env("PGDATABASE", program.name).env("PGUSER", ROLE).env("HOME", &self.files);
        let place = place.env("PYTHONPATH", self.files.join("site")).env("PYTHONDONTWRITEBYTECODE", "1");
        let place = place.env("NODE_PATH", self.files.join("node"));
        match program.runs {
            Runs::Python(file, words) => place.arg(self.files.join(file)).args(words),
            Runs::Node(file) => place.arg("--no-deprecation").arg(self.files.join(file)),
            Runs::Psql(commands) => {
                let script = self.files.join(format!("{}.psql", program.name));
                fs::write(&script, commands.join("\n") + "\n").unwrap();
                place.args(["--no-psqlrc", "--file"]).arg(script)
            }
            // A dump for psql has a random word in it otherwise.
            Runs::Dump => place.args(["--schema-only", "--restrict-key=same"]),
            Runs::Bench(protocol) => {
                let place = place.args(["--no-vacuum", "--client=2", "--transactions=20", "--protocol", protocol]);
                place.args(["--builtin=tpcb-like", "--builtin=simple-update", "--builtin=select-only"])
            }
        }
    }

    /// What the gateway has recorded since it was asked last.
    fn tally(&mut self) -> Tally {
        let directory = self.shop.env.state_dir().join("recordings");
        let mut events = Vec::new();
        wait_until("the records of all sessions", SETTLED, || {
            events = recording::events(&directory).unwrap_or_default();
            let new = events.get(self.read..).unwrap_or_default();
            let opened = new.iter().filter(|it| matches!(it, Event::SessionOpened(_))).count();
            opened > 0 && opened == new.iter().filter(|it| matches!(it, Event::SessionClosed(_))).count()
        })
        .unwrap();
        let mut tally = Tally::default();
        for event in events.drain(self.read..) {
            self.read += 1;
            match event {
                Event::OperationDecided(decided) => {
                    let why = match decided.gate {
                        Gate::Deny { message, .. } => Some(decided.refusal.unwrap_or(message)),
                        Gate::Allow { .. } => None,
                        Gate::Hold { .. } => Some("it waits for a person".to_owned()),
                    };
                    tally.sent += 1;
                    tally.sent_and_refused += usize::from(why.is_some());
                    let known = tally.statements.entry(shape(&decided.text)).or_default();
                    *known = known.take().or(why);
                }
                Event::SessionClosed(closed) => tally.cells_masked += closed.cells_masked,
                Event::ConnectionRefused(refused) => panic!("a connection is refused: {refused:?}"),
                _ => {}
            }
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.sent_and_refused += other.sent_and_refused;
        self.cells_masked += other.cells_masked;
        for (text, why) in other.statements {
            let known = self.statements.entry(text).or_default();
            *known = known.take().or(why);
        }
    }

    fn refused(&self) -> usize {
        self.statements.values().filter(|it| it.is_some()).count()
    }

    fn report(&self, name: &str) {
        let percent = |part: usize, of: usize| f64::from(u32::try_from(part * 1000 / of.max(1)).unwrap()) / 10.0;
        let (refused, statements) = (self.refused(), self.statements.len());
        println!(
            "{name}: {statements} statements, {refused} refused ({} %); sent {} times, refused {} times ({} %); {} cells masked",
            percent(refused, statements),
            self.sent,
            self.sent_and_refused,
            percent(self.sent_and_refused, self.sent),
            self.cells_masked
        );
    }

    /// Shows what was refused, and says what of that is too much.
    fn complaint(&self, part: &Part) -> Option<String> {
        for (text, why) in &self.statements {
            if let Some(why) = why {
                println!("    refused: {text}\n        {why}");
            }
        }
        assert!(!part.shows_masked || self.cells_masked > 0, "{}: nothing was masked", part.name);
        self.complaint_of(part.name)
    }

    fn complaint_of(&self, name: &str) -> Option<String> {
        let too_much = |part: usize, of: usize| part * 100 > of * MOST;
        let is_too_much = too_much(self.refused(), self.statements.len()) || too_much(self.sent_and_refused, self.sent);
        is_too_much.then(|| format!("{name}: more than {MOST} % is refused"))
    }
}

/// The settings that `weir init` proposes below its comments, with other masks of columns.
fn pack(init: &str, masks: &[Mask]) -> String {
    let proposed =
        |line: &str| line.strip_prefix('#').filter(|it| !it.is_empty() && !it.starts_with(' ')).map(str::to_owned);
    let settings = init.lines().filter_map(proposed).collect::<Vec<_>>().join("\n");
    let mut blocks: Vec<&str> = settings.split("\n[[").collect();
    let before = blocks.len();
    blocks.retain(|block| !block.contains("\"personal data\""));
    assert_eq!((before, blocks.len()), (3, 2), "{settings}");
    let own = masks.iter().map(|Mask { name, columns, more }| {
        let columns: Vec<String> = columns.iter().map(|it| format!("\"{it}\"")).collect();
        let columns = columns.join(", ");
        format!(
            "\n[[mask]]\nname = \"{name}\"\ntargets = [\"orders\"]\ncolumns = [{columns}]\nwith = \"redact\"\n{more}\n"
        )
    });
    blocks.join("\n[[") + &own.collect::<String>()
}

/// A statement without its numbers and strings, on one line.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let in_word = shape.ends_with(|it: char| it.is_alphanumeric() || it == '_' || it == '$');
        match c {
            '\'' => {
                // Two quotes are one in the string.
                while rest.next().is_some_and(|it| it != '\'') || rest.next_if_eq(&'\'').is_some() {}
                shape.push('?');
            }
            '0'..='9' if !in_word => {
                while rest.next_if(|it| it.is_ascii_digit() || *it == '.').is_some() {}
                shape.push('?');
            }
            c if c.is_whitespace() => {
                if !shape.ends_with(' ') {
                    shape.push(' ');
                }
            }
            c => shape.push(c),
        }
    }
    shape.trim().to_owned()
}

/// What a program of steps said both ways: each step, and what it gave. One that fails without a denial counts as refused, too.
fn steps_that_differ(straight: &Finished, through: &Finished, tally: &mut Tally) -> Vec<String> {
    let steps = |finished: &Finished| -> Vec<Value> {
        let lines = finished.stdout.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {finished:?}"))
    };
    let (one, two) = (steps(straight), steps(through));
    let failing: Vec<&Value> = one.iter().filter(|it| it.get("fails").is_some()).collect();
    assert!(failing.is_empty(), "these fail straight: {failing:?}");
    assert!(!one.is_empty() && straight.stderr.is_empty(), "{straight:?}");
    let mut differences = Vec::new();
    if one.len() != two.len() || !through.success() {
        differences.push(format!("it ended in another way: {through:?}"));
    }
    for (one, two) in one.iter().zip(&two) {
        assert_eq!(one["step"], two["step"]);
        match two.get("fails") {
            Some(why) if why.as_str().is_some_and(|it| it.contains("denied by policy")) => {}
            Some(why) => {
                tally.sent += 1;
                tally.sent_and_refused += 1;
                // What fails in the same way is one statement, in whatever steps it is.
                let way = why.to_string().replace(|it: char| it.is_ascii_digit(), "");
                tally.statements.insert(format!("(not recorded) {way}"), Some(format!("step {}", one["step"])));
            }
            None if same(&one["gives"], &two["gives"]) => {}
            None => differences.push(format!("{one}\n  is through the gateway\n{two}")),
        }
    }
    differences
}

/// The same value, or one that is covered.
fn same(straight: &Value, through: &Value) -> bool {
    match (straight, through) {
        (Value::Array(one), Value::Array(two)) => {
            one.len() == two.len() && one.iter().zip(two).all(|(one, two)| same(one, two))
        }
        (Value::Object(one), Value::Object(two)) => {
            one.keys().collect::<BTreeSet<_>>() == two.keys().collect()
                && one.iter().all(|(name, one)| same(one, &two[name]))
        }
        _ => straight == through || through.is_null() || through == COVER,
    }
}

fn texts_that_differ(straight: &Finished, through: &Finished) -> Vec<String> {
    if (straight.code, &straight.stdout, &straight.stderr) == (through.code, &through.stdout, &through.stderr) {
        return Vec::new();
    }
    let (one, two) = (straight.stdout.lines(), through.stdout.lines());
    let first = one.zip(two).find(|(one, two)| one != two);
    vec![format!("it prints something else: first {first:?}; {:?} {}", through.code, through.stderr)]
}

fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--no-preserve=ownership"]).arg(from).arg(to);
    assert!(cp.status().unwrap().success());
    assert!(Command::new("chmod").args(["--recursive", "a+rX"]).arg(to).status().unwrap().success());
}
