//! What happens when things go wrong: clients and targets that do not keep to the protocol, broken configuration, full
//! disks, killed processes. Whatever it is, somebody who can act on it is told, the session is closed with a record, the
//! gateway does not panic or grow, other sessions go on, and nothing secret is to be found anywhere.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::Result;
use system_tests::env::{Gateway, free_port};
use system_tests::postgres::{NAME, PASSWORD};
use system_tests::process::{Finished, PATIENCE, Running, wait_until};
use system_tests::shop::{POLICY, Shop};

#[path = "failure/absence.rs"]
mod absence;

/// Clients that misbehave in many ways one after the other, on a busy machine.
const LONG: Duration = Duration::from_mins(3);
/// What is said to be noticed at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// More memory than the gateway may ever have needed in these tests, in KiB. What is sent to it is several times as much.
const MEMORY: u64 = 128 << 10;

/// A shop with a gateway, and a session of somebody else who must not notice anything. Dropped in this order.
struct World {
    neighbour: Running,
    gateway: Gateway,
    shop: Shop,
    /// Everything that clients and administrators were told.
    said: String,
}

impl World {
    fn new() -> Self {
        Self::of(Shop::new().unwrap(), Shop::serve)
    }

    fn of(shop: Shop, serve: impl FnOnce(&Shop) -> Result<Gateway>) -> Self {
        let gateway = serve(&shop).unwrap();
        let neighbour = neighbour(&shop);
        Self { neighbour, gateway, shop, said: String::new() }
    }

    /// One statement of an unmodified psql.
    fn psql(&mut self, sql: &str) -> Finished {
        let psql = self.shop.psql(sql);
        self.told(psql.run().unwrap())
    }

    /// psql at another port of the database's host, with more words.
    fn psql_at(&mut self, port: u16, sql: &str) -> Finished {
        let psql = self.shop.psql(sql).env("PGPORT", port.to_string());
        self.told(psql.run().unwrap())
    }

    fn weir(&mut self, line: &str) -> Finished {
        let finished = self.shop.env.weir(line.split_whitespace()).unwrap();
        self.told(finished)
    }

    fn told(&mut self, finished: Finished) -> Finished {
        self.said += &finished.stdout;
        self.said += &finished.stderr;
        finished
    }

    /// One of the clients in `client.py`, running.
    fn client(&self, name: &str) -> Running {
        self.shop.client("python3").args(["-c", include_str!("failure/client.py"), name]).start().unwrap()
    }

    /// The same, to its end; what it printed.
    fn misbehave(&mut self, name: &str) -> String {
        let finished = self.client(name).finish(LONG).unwrap();
        let said = self.told(finished).expect_success().unwrap();
        assert!(!said.contains("STILL OPEN"), "{said}");
        said
    }

    fn sessions(&mut self) -> Vec<Value> {
        let listed = self.weir("sessions list --limit 1000 --json").expect_success().unwrap();
        serde_json::from_str(&listed).unwrap()
    }

    /// The most memory that the gateway has had so far, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.gateway.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What must hold after every misfortune. The outcomes of all sessions, for what else there is to say about them.
    fn unharmed(mut self) -> Vec<String> {
        let psql = self.psql("SELECT 'still ' || 'served'");
        assert!(psql.stdout.contains("still served"), "{psql:?}");
        self.neighbour.write("SELECT 'neighbour is ' || 'well';\n\\q\n").unwrap();
        self.neighbour.wait_for("neighbour is well", PATIENCE).unwrap();
        assert!(self.memory() < MEMORY, "the gateway has had {} KiB", self.memory());
        self.keeps_secrets();

        let mut sessions = Vec::new();
        let closed = wait_until("the closing record of every session", PATIENCE, || {
            sessions = self.sessions();
            sessions.iter().all(|row| !row["closed_ns"].is_null() || !row["refused"].is_null())
        });
        assert!(closed.is_ok(), "{sessions:#?}");
        let recordings = self.gateway.state_dir().join("recordings");
        let verified = self.weir(&format!("verify --dir {}", recordings.display()));
        assert_eq!(verified.code, Some(10), "{verified:?}");
        let log = self.shop.env.log();
        assert!(!log.contains("panicked"), "{log}");
        let words = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        sessions.iter().map(|row| words(row, "outcome") + &words(row, "message")).collect()
    }

    /// Neither the held password nor the agent's token is anywhere but where it belongs.
    fn keeps_secrets(&self) {
        let token = fs::read_to_string(self.shop.env.token_path()).unwrap_or_default();
        let mut places = vec![
            ("what was said".to_owned(), self.said.clone().into_bytes()),
            ("the gateway's log".to_owned(), self.shop.env.log().into_bytes()),
        ];
        contents(&self.gateway.state_dir(), &mut places);
        for pid in self.gateway.pids().unwrap() {
            for file in ["cmdline", "environ"] {
                let path = format!("/proc/{pid}/{file}");
                let content = fs::read(&path).unwrap();
                places.push((path, content));
            }
        }
        assert!(places.iter().any(|(name, content)| name.ends_with(".segment") && content.len() > 1_000));
        for (name, content) in &places {
            for (what, secret) in [("password", PASSWORD), ("token", token.trim())] {
                let found = !secret.is_empty() && content.windows(secret.len()).any(|it| it == secret.as_bytes());
                assert!(!found, "the {what} is in {name}");
            }
        }
    }
}

/// A session that is open while things go wrong.
fn neighbour(shop: &Shop) -> Running {
    let mut psql = shop.client("psql").args(["--no-psqlrc"]).start().unwrap();
    psql.write("SELECT 'moved ' || 'in';\n").unwrap();
    psql.wait_for("moved in", PATIENCE).unwrap();
    psql
}

fn contents(directory: &Path, out: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, out);
        } else if path.file_name().is_none_or(|name| name != "reserve") {
            out.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// How often the database's log has seen a connection.
fn reached(shop: &Shop) -> usize {
    shop.postgres.log().matches("connection received").count()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn clients_that_do_not_speak_the_protocol_are_told_and_closed() {
    let mut world = World::new();
    // Meanwhile.
    let slow = world.client("slow");

    let garbage = world.misbehave("garbage");
    assert_eq!(count(&garbage, "closed") + count(&garbage, "reset"), 24, "{garbage}");
    assert!(garbage.contains("does not") && garbage.contains("08P01"), "{garbage}");
    let half = world.misbehave("half");
    assert_eq!((count(&half, "closed") + count(&half, "reset"), count(&half, "tls S")), (7, 1), "{half}");
    let length = world.misbehave("length");
    assert_eq!(count(&length, "closed") + count(&length, "reset"), 56, "{length}");
    assert_eq!(count(&length, "impossible length"), 56, "{length}");

    let slow = slow.finish(LONG).unwrap();
    let slow = world.told(slow).expect_success().unwrap();
    assert_eq!(count(&slow, "did not finish its start-up in 10 s"), 3, "{slow}");
    assert_eq!(count(&slow, "closed"), 3, "{slow}");

    let outcomes = world.unharmed();
    for outcome in ["impossible length", "did not finish its start-up", "hung up before", "does not speak"] {
        assert!(outcomes.iter().any(|it| it.contains(outcome)), "{outcome}: {outcomes:#?}");
    }
}

#[test]
fn statements_of_monstrous_size_and_depth_are_refused() {
    let mut world = World::new();
    let before = world.shop.postgres.log().len();
    let nested = world.misbehave("nested");
    assert!(nested.contains("nested too deeply") && nested.contains("lives"), "{nested}");
    let large = world.misbehave("large");
    assert!(large.contains("the limit is") && large.contains("lives"), "{large}");
    assert!(large.contains("cannot be looked at as a whole") && large.contains("goes on"), "{large}");
    let log = world.shop.postgres.log();
    assert!(!log[before..].contains("xxxxxxxx"), "it reached the database");
    assert!(!log[before..].contains(&"(".repeat(9_000)), "it reached the database");

    // The same as people do it: the error is psql's own.
    let script = world.shop.env.dir().join("large.sql");
    fs::write(&script, format!("SELECT '{}';\nSELECT 'goes ' || 'on';\n", "x".repeat(64 << 20))).unwrap();
    let psql = world.shop.client("psql").args(["--no-psqlrc", "--file"]).arg(&script).start().unwrap();
    let psql = psql.finish(LONG).unwrap();
    let psql = world.told(psql);
    assert!(psql.stderr.contains("cannot be looked at as a whole") && psql.stdout.contains("goes on"), "{psql:?}");
    world.unharmed();
}

#[test]
fn a_client_that_stops_reading_stops_nobody_else() {
    let mut world = World::new();
    let mut stuck: Vec<Running> = (0..4).map(|_| world.client("stuck")).collect();
    for client in &stuck {
        client.wait_for("stuck", PATIENCE).unwrap();
    }
    // The servers are stuck in turn: what the gateway and the kernel take is taken.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND query LIKE '%repeat%'";
    wait_until("servers that wait", PATIENCE, || world.shop.postgres.sql(waits).unwrap() == "4").unwrap();
    assert!(world.memory() < MEMORY, "{} KiB", world.memory());
    let psql = world.psql("SELECT 'in ' || 'between'");
    assert!(psql.stdout.contains("in between"), "{psql:?}");
    for client in &mut stuck {
        client.write("go\n").unwrap();
        client.wait_for("gone", PATIENCE).unwrap();
    }
    drop(stuck);
    wait_until("the end of their servers", PATIENCE, || world.shop.postgres.sql(waits).unwrap() == "0").unwrap();
    world.unharmed();
}

/// What a [`Crook`] does once it is told.
const PASS: u8 = 0;
const CUT: u8 = 1;
const BABBLE: u8 = 2;

/// Between the gateway and the database: passes everything on until it is told otherwise.
struct Crook {
    port: u16,
    deed: Arc<AtomicU8>,
}

impl Crook {
    fn new(database: u16) -> Self {
        let deed = Arc::new(AtomicU8::new(PASS));
        let told = Arc::clone(&deed);
        let port = serve(move |client| {
            let database = TcpStream::connect(("127.0.0.1", database)).unwrap();
            let (from, to) = (client.try_clone().unwrap(), database.try_clone().unwrap());
            thread::spawn(move || pass(from, to, &AtomicU8::new(PASS)));
            pass(database, client, &told);
        });
        Self { port, deed }
    }

    fn does(&self, deed: u8) {
        self.deed.store(deed, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, deed: &AtomicU8) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        match deed.load(Ordering::SeqCst) {
            // Whole messages are seldom: what is cut is in the middle of a row.
            CUT => {
                drop(to.write_all(&chunk[..read / 2]));
                break;
            }
            BABBLE => chunk[..read].fill(b'%'),
            _ => {}
        }
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}

/// A server of the test's own, which does the same to everybody.
fn serve(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", free_port().unwrap())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let talk = Arc::new(talk);
    thread::spawn(move || {
        for client in listener.incoming() {
            let talk = Arc::clone(&talk);
            thread::spawn(move || talk(client.unwrap()));
        }
    });
    port
}

/// A server that answers whatever it is sent with `answers`, one after the other, and notes what it was sent.
fn impostor(answers: &'static [&'static [u8]], heard: &Arc<Mutex<Vec<u8>>>) -> u16 {
    let heard = Arc::clone(heard);
    serve(move |mut client| {
        let mut chunk = [0; 4096];
        let mut answers = answers.iter();
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            heard.lock().unwrap().extend_from_slice(&chunk[..read]);
            if answers.next().is_some_and(|answer| client.write_all(answer).is_err()) {
                break;
            }
        }
    })
}

fn target(name: &str, port: u16, tls: &str) -> String {
    format!(
        "[[target]]\nname = \"{name}\"\nprotocol = \"postgres\"\naddress = [\"{NAME}:{port}\"]\ntls = {{ {tls} }}\n\
         login = {{ user = \"orders_rw\", password = {{ credential = \"orders-db\" }} }}\n\
         [[rule]]\nname = \"{name}\"\ntargets = [\"{name}\"]\nkinds = [\"select\", \"show\", \"set\"]\nthen = \"allow\"\n"
    )
}

#[test]
fn targets_that_lie_are_given_nothing() {
    const PLAIN: &str = "mode = \"disable\", insecure = \"a test's\"";
    let shop = Shop::new().unwrap();
    let verified = format!("ca = \"{}\"", shop.postgres.ca_path().display());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let cases: [(&str, &str, &'static [&'static [u8]], &str); 9] = [
        ("clear-text", PLAIN, &[b"R\0\0\0\x08\0\0\0\x03"], "clear text"),
        ("md5", PLAIN, &[b"R\0\0\0\x0c\0\0\0\x05salt"], "MD5"),
        ("trust", PLAIN, &[b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"], "without a password"),
        ("web", PLAIN, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "protocol"),
        ("huge", PLAIN, &[b"R\x7f\xff\xff\xff\0\0\0\0"], "protocol"),
        ("no-tls", &verified, &[b"N"], "no TLS"),
        ("odd-tls", &verified, &[b"S", b"this is no handshake"], "TLS"),
        // A proof of knowing the password that was made without knowing it.
        ("liar", PLAIN, &[b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0", b"R\0\0\0\x0c\0\0\0\x0cv=AA"], "target"),
        ("refuser", PLAIN, &[b"E\0\0\0\x25SFATAL\0C53300\0Mno room\x1b[2J left\0\0"], "no room"),
    ];
    let ports = cases.each_ref().map(|(_, _, answers, _)| impostor(answers, &heard));
    let nobody = free_port().unwrap();
    let mut config = target("nobody", nobody, PLAIN);
    for ((name, tls, ..), port) in cases.iter().zip(ports) {
        config += &target(name, port, tls);
    }
    shop.configure(&format!("{config}{POLICY}")).unwrap();
    let mut world = World::of(shop, Shop::serve);

    for ((name, _, _, told), port) in cases.iter().zip(ports) {
        let psql = world.psql_at(port, "SELECT 1");
        assert!(!psql.success() && psql.stderr.contains(told), "{name}: {psql:?}");
        assert!(!psql.stderr.contains('\x1b'), "{name}: {psql:?}");
    }
    let psql = world.psql_at(nobody, "SELECT 1");
    assert!(!psql.success() && psql.stderr.contains("cannot be reached"), "{psql:?}");
    let heard = heard.lock().unwrap().clone();
    assert!(!heard.is_empty() && !heard.windows(PASSWORD.len()).any(|it| it == PASSWORD.as_bytes()));
    assert!(!String::from_utf8_lossy(&heard).contains("SELECT"), "a statement was sent to an impostor");
    let outcomes = world.unharmed();
    for told in cases.iter().map(|(_, _, _, told)| *told).chain(["cannot be reached"]) {
        assert!(outcomes.iter().any(|it| it.contains(told)), "{told}: {outcomes:#?}");
    }
}

#[test]
fn a_login_is_bound_to_the_certificate_of_the_database_itself() {
    let shop = Shop::new().unwrap();
    let leaf = shop.postgres.ca().issue(&[NAME]).unwrap();
    let (certificate, key) = (shop.env.dir().join("middle.pem"), shop.env.dir().join("middle.key"));
    fs::write(&certificate, &leaf.certificate).unwrap();
    fs::write(&key, &leaf.key).unwrap();
    let tls = format!("ca = \"{}\"", shop.postgres.ca_path().display());
    let middles = [("passes", free_port().unwrap(), None), ("strips", free_port().unwrap(), Some("strip"))];
    let config: String = middles.iter().map(|(name, port, _)| target(name, *port, &tls)).collect();
    let running = middles.map(|(_, port, deed)| {
        let middle = shop.env.bystander("python3").args(["-c", include_str!("failure/middle.py")]);
        let middle = middle.args([port.to_string(), shop.postgres.port().to_string()]).arg(&certificate).arg(&key);
        let middle = middle.args(deed).start().unwrap();
        middle.wait_for("ready", PATIENCE).unwrap();
        middle
    });
    shop.configure(&format!("{config}{POLICY}")).unwrap();
    let mut world = World::of(shop, Shop::serve);
    for (name, port, _) in middles {
        // A client that binds nothing is read by whoever has a certificate that it trusts.
        let url = format!("host=127.0.0.1 port={port} user=orders_rw dbname=orders channel_binding=disable");
        let direct = world.shop.env.bystander("psql").env("PGPASSWORD", PASSWORD).args([&url, "-c", "SELECT 1"]);
        direct.run().unwrap().expect_success().unwrap();
        let psql = world.psql_at(port, "SELECT 1");
        assert!(!psql.success() && psql.stderr.contains("channel binding"), "{name}: {psql:?}");
    }
    drop(running);
    world.unharmed();
}

#[test]
fn what_the_kernel_half_says_is_logged_and_not_without_end() {
    const CONNECTS: usize = 300;
    let world = World::new();
    // As many connects as may be under way at once, none of which anybody makes.
    let fill = format!(
        r#"
import ctypes, os, struct, sys
key, value, most = {}, {}, {}
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    size = len(attributes)
    return libc.syscall({}, command, attributes, size)
path = ctypes.create_string_buffer(sys.argv[1].encode())
fd = bpf(7, struct.pack("QII", ctypes.addressof(path), 0, 0))
assert fd >= 0, os.strerror(ctypes.get_errno())
one, note = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
for number in range(most):
    struct.pack_into("I", one, 0, number)
    if bpf(2, struct.pack("IIQQQ", fd, 0, ctypes.addressof(one), ctypes.addressof(note), 0)) != 0:
        break
print("full at", number)
"#,
        size_of::<gateway_common::Flow>(),
        size_of::<gateway_common::Note>(),
        gateway_common::MAX_PENDING + 1,
        libc::SYS_bpf,
    );
    let pin = world.shop.env.bpf_dir().join(format!("v{}/maps/PENDING", gateway_common::LAYOUT));
    let filled = world.shop.env.bystander("python3").args(["-c", &fill]).arg(pin).run().unwrap();
    assert!(filled.stdout.contains(&format!("full at {}", gateway_common::MAX_PENDING)), "{filled:?}");
    let connect = format!(
        "import socket\nfor _ in range({CONNECTS}):\n s = socket.socket()\n try:\n  s.connect(('192.0.2.1', 443)); s.recv(1)\n except OSError: pass"
    );
    let began = Instant::now();
    world.shop.env.agent("python3").args(["-c", &connect]).run().unwrap().expect_success().unwrap();
    wait_until("the end of it in the log", PATIENCE, || {
        world.shop.env.log().contains("messages in this second are not")
    })
    .unwrap_or_else(|error| panic!("{error}: {}", world.shop.env.log()));
    let lines = count(&world.shop.env.log(), "too many connects are under way");
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=10 * seconds).contains(&lines), "{lines} in {seconds} s: {}", world.shop.env.log());
}

#[test]
fn targets_that_break_off_end_their_own_sessions() {
    let shop = Shop::new().unwrap();
    let crook = Crook::new(shop.postgres.port());
    let tls = format!("ca = \"{}\"", shop.postgres.ca_path().display());
    shop.configure(&format!("{}{POLICY}", target("crook", crook.port, &tls))).unwrap();
    let mut world = World::of(shop, Shop::serve);
    let rows = "SELECT repeat('x', 1000) FROM generate_series(1, 400000);\n";
    for deed in [CUT, BABBLE] {
        crook.does(PASS);
        let client = world.shop.client("psql").args(["--no-psqlrc", "--quiet", "--set", "FETCH_COUNT=0"]);
        let mut psql = client.env("PGPORT", crook.port.to_string()).start().unwrap();
        psql.write("SELECT 'before ' || 'that';\n").unwrap();
        psql.wait_for("before that", PATIENCE).unwrap();
        // Rows are on their way when it happens.
        psql.write(rows).unwrap();
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%repeat%x%'";
        wait_until("the statement", PATIENCE, || world.shop.postgres.sql(running).unwrap() != "1").unwrap();
        crook.does(deed);
        let psql = psql.finish(LONG).unwrap();
        assert!(!psql.stderr.is_empty() && !psql.stdout.contains("(400000 rows)"), "{deed}: {}", psql.stderr);
        assert!(psql.stderr.contains("target"), "{deed}: {}", psql.stderr);
        world.said += &psql.stderr;
    }
    let outcomes = world.unharmed();
    assert!(outcomes.iter().filter(|it| it.contains("target")).count() >= 2, "{outcomes:#?}");
}

#[test]
fn a_database_that_goes_away_and_comes_back() {
    let mut world = World::new();
    let mut open = world.shop.client("psql").args(["--no-psqlrc"]).start().unwrap();
    open.write("SELECT 'here ' || 'now';\n").unwrap();
    open.wait_for("here now", PATIENCE).unwrap();
    world.shop.postgres.stop().unwrap();
    let psql = world.psql("SELECT 1");
    assert!(!psql.success() && psql.stderr.contains("cannot be reached"), "{psql:?}");
    open.write("SELECT 1;\n").unwrap();
    let open = open.finish(PATIENCE).unwrap();
    assert!(!open.success() && open.stderr.contains("connection"), "{open:?}");
    world.told(open);
    world.shop.postgres.resume().unwrap();
    // It was a session of the same database: who was there when it went was cut off, too.
    world.neighbour = neighbour(&world.shop);
    let outcomes = world.unharmed();
    assert!(outcomes.iter().any(|it| it.contains("target")), "{outcomes:#?}");
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let mut world = World::new();
    let path = world.shop.env.config_path();
    let good = fs::read_to_string(&path).unwrap();
    let version = |world: &mut World| -> Value {
        let status = world.weir("status --json").expect_success().unwrap();
        serde_json::from_str::<Value>(&status).unwrap()["config"].clone()
    };
    let before = version(&mut world);
    let half = &good[..good.len() - 40];
    let missing = good.replace("protocol = \"postgres\"", "");
    let unknown = good.replace("then    = \"deny\"", "then    = \"dney\"");
    // It reads well, frees the agents, and cannot be taken up.
    let freed = good.replace("/agents", "/others").replace("\nuser = \"agent", "\n# user = \"agent");
    let cannot = freed.replace("[identity]", "[identity]\nca = \"/no/such/ca.pem\"");
    assert!(cannot.contains("ca.pem") && cannot.contains("/others") && cannot.contains("# user"), "{cannot}");
    for (broken, told) in [
        (half, "weir.toml:"),
        ("\0\0\0", "weir.toml:"),
        (&missing, "protocol"),
        (&unknown, "dney"),
        (&cannot, "/no/such/ca.pem"),
    ] {
        fs::write(&path, broken).unwrap();
        let before = world.shop.env.log().len();
        world.gateway.reload().unwrap();
        let log = world.shop.env.log()[before..].to_owned();
        assert!(log.contains("was not reloaded") && log.contains(told), "{told}: {log}");
        let dropped = world.psql("DROP TABLE orders");
        assert!(dropped.stderr.contains("go through migrations"), "{told}: {dropped:?}");
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(version(&mut world), before);
    let recordings = world.gateway.state_dir().join("recordings");
    let mut segments = Vec::new();
    contents(&recordings, &mut segments);
    let records: Vec<u8> =
        segments.into_iter().filter(|(name, _)| name.ends_with(".segment")).flat_map(|it| it.1).collect();
    assert_eq!(count(&String::from_utf8_lossy(&records), "config_rejected"), 5);
    // A new start does not take them either, and says where they are wrong.
    let line = 1 + unknown.lines().position(|line| line.contains("dney")).unwrap();
    let other = world.shop.env.dir().join("other.toml");
    let weir = world.shop.env.weir_path().to_string_lossy().into_owned();
    for (broken, told) in [(&*unknown, format!("other.toml:{line}")), (half, "other.toml:".to_owned())] {
        fs::write(&other, broken).unwrap();
        let started = world.shop.env.bystander(&weir).args(["serve", "--config"]).arg(&other).run().unwrap();
        assert!(started.code.is_some_and(|code| code != 0), "{started:?}");
        assert!(started.stderr.contains(&told), "{started:?}");
        world.told(started);
    }
    world.unharmed();
}

#[test]
fn a_full_disk_denies_what_must_be_recorded_until_there_is_space() {
    const DISK: u64 = 160 << 20;
    let mut world = World::of(Shop::new().unwrap(), |shop| shop.env.serve_on_small_disk(DISK));
    let write = "UPDATE orders SET amount = amount + 1 WHERE id = 1";
    assert!(world.psql(write).stdout.contains("UPDATE 1"));
    let amount = |world: &World| world.shop.postgres.sql("SELECT amount FROM orders WHERE id = 1").unwrap();
    let before = amount(&world);

    let filler = world.gateway.state_dir().join("filler");
    let full = fill(&filler);
    assert!(full > 10 << 20, "only {full} bytes were free");
    // What there was of space ahead takes some more, the reserve the records at hand; then it is over.
    let long = format!("SELECT '{}'", "x".repeat(60_000));
    wait_until("a denial", PATIENCE, || !world.psql(&long).success()).unwrap();
    fill(&filler.with_extension("more"));
    let psql = world.psql(write);
    assert!(!psql.success() && psql.stderr.contains("record"), "{psql:?}");
    assert_eq!(amount(&world), before, "a statement ran that was not recorded");
    world.neighbour.write(&format!("{write};\n")).unwrap();
    world.neighbour.wait_for("recording", PATIENCE).unwrap();
    assert_eq!(amount(&world), before, "a statement ran that was not recorded");
    let status = world.weir("status");
    assert!(status.code == Some(1) && status.stdout.contains("disk"), "{status:?}");

    fs::remove_file(&filler).unwrap();
    fs::remove_file(filler.with_extension("more")).unwrap();
    wait_until("space to be noticed", PATIENCE, || world.psql(write).success()).unwrap();
    assert_ne!(amount(&world), before);
    world.neighbour = neighbour(&world.shop);
    world.unharmed();
}

/// Takes all the space there is; how much it was.
fn fill(path: &Path) -> u64 {
    let mut file = fs::File::create(path).unwrap();
    let mut length = 0;
    for size in [1 << 20, 4 << 10, 1] {
        let block = vec![b'.'; size];
        while file.write_all(&block).is_ok() {
            length += size as u64;
        }
    }
    length
}

#[test]
fn token_files_that_are_none_are_refused() {
    let mut world = World::new();
    let path = world.shop.env.token_path();
    let token = fs::read_to_string(&path).unwrap();
    let elsewhere = world.shop.env.dir().join("elsewhere");
    fs::write(&elsewhere, &token).unwrap();
    let make: [(&str, &dyn Fn()); 5] = [
        ("symbolic link", &|| symlink(&elsewhere, &path).unwrap()),
        ("not a regular file", &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::all()).unwrap()),
        ("larger than", &|| fs::File::create(&path).unwrap().set_len(1 << 30).unwrap()),
        ("empty", &|| fs::write(&path, "\n").unwrap()),
        ("missing", &|| {}),
    ];
    for (told, make) in make {
        drop(fs::remove_file(&path));
        make();
        let asked = Instant::now();
        let psql = world.psql("SELECT 1");
        assert!(!psql.success() && psql.stderr.contains("token"), "{told}: {psql:?}");
        assert!(asked.elapsed() < 2 * AT_ONCE, "{told}: {:?}", asked.elapsed());
    }
    drop(fs::remove_file(&path));
    world.shop.env.set_token(&token).unwrap();
    let outcomes = world.unharmed();
    assert_eq!(outcomes.iter().filter(|it| it.contains("token")).count(), 5, "{outcomes:#?}");
}

#[test]
fn a_killed_gateway_lets_nothing_pass_and_forgets_nothing() {
    let world = World::new();
    let table = "CREATE TABLE public.load (n integer PRIMARY KEY); ALTER TABLE public.load OWNER TO orders_rw";
    world.shop.postgres.sql(table).unwrap();
    // Writers that note what was acknowledged, each number once.
    let mut writers = Vec::new();
    for first in [0, 10_000, 20_000] {
        let lines = (first..first + 5_000).map(|n| format!("INSERT INTO load VALUES ({n});\n\\echo acknowledged {n}."));
        let script = lines.collect::<Vec<_>>().join("\n");
        let path = world.shop.env.dir().join(format!("load-{first}.sql"));
        fs::write(&path, script).unwrap();
        let psql = world.shop.client("psql").args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file"]);
        writers.push(psql.arg(path).start().unwrap());
    }
    for writer in &writers {
        wait_until("some writes", LONG, || count(&writer.stdout(), "acknowledged") > 20).unwrap();
    }
    let World { mut neighbour, gateway, shop, said } = world;
    gateway.kill().unwrap();
    let mut acknowledged: Vec<u32> = Vec::new();
    for writer in writers {
        let writer = writer.finish(PATIENCE).unwrap();
        assert!(!writer.success(), "the gateway was killed too late");
        let numbers = writer.stdout.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.strip_suffix('.'));
        acknowledged.extend(numbers.map(|number| number.parse::<u32>().unwrap()));
    }
    let before = reached(&shop);
    let asked = Instant::now();
    let psql = shop.psql("SELECT 1").run().unwrap();
    assert!(!psql.success() && asked.elapsed() < AT_ONCE, "{psql:?} after {:?}", asked.elapsed());
    neighbour.write("SELECT 1;\n").unwrap();
    let neighbour_end = neighbour.finish(PATIENCE).unwrap();
    assert!(!neighbour_end.success(), "{neighbour_end:?}");
    assert_eq!(reached(&shop), before, "a connection went around the dead gateway");

    let mut world = World::of(shop, Shop::serve);
    world.said = said;
    let lost: Vec<Value> = world.sessions().into_iter().filter(|row| row["outcome"] == "gateway lost").collect();
    assert_eq!(lost.len(), 4, "{lost:#?}");
    let recorded: String = lost
        .iter()
        .map(|row| {
            world.weir(&format!("sessions show {} --json", row["id"].as_str().unwrap())).expect_success().unwrap()
        })
        .collect();
    assert!(acknowledged.len() > 60, "{acknowledged:?}");
    let statements = count(&recorded, "operation_decided");
    let rows: usize = world.shop.postgres.sql("SELECT count(*) FROM load").unwrap().parse().unwrap();
    assert!(
        rows >= acknowledged.len() && statements >= rows,
        "{} acknowledged, {rows} written, {statements} recorded",
        acknowledged.len()
    );
    for n in acknowledged {
        assert!(recorded.contains(&format!("({n})")), "{n} was acknowledged and is not recorded");
    }
    world.unharmed();
}

#[test]
fn a_killed_witness_takes_the_gateway_along() {
    let mut world = World::new();
    let main = world.gateway.pid();
    let witness = world.gateway.pids().unwrap().into_iter().find(|pid| *pid != main).unwrap();
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(witness).unwrap()), Signal::SIGKILL).unwrap();
    wait_until("the gateway's end", Duration::from_secs(20), || world.gateway.is_gone()).unwrap();
    assert!(world.shop.env.log().contains("the witness died"));
    let before = reached(&world.shop);
    let asked = Instant::now();
    let psql = world.psql("SELECT 1");
    assert!(!psql.success() && asked.elapsed() < AT_ONCE, "{psql:?}");
    assert_eq!(reached(&world.shop), before);
    let World { shop, .. } = world;
    let world = World::of(shop, Shop::serve);
    let outcomes = world.unharmed();
    assert!(outcomes.iter().any(|it| it.contains("ended by the gateway")), "{outcomes:#?}");
}

#[test]
fn a_row_that_is_too_large_to_be_checked_is_told_as_that() {
    let shop = Shop::new().unwrap();
    let _gateway = shop.serve().unwrap();
    let told = shop.psql("SELECT repeat('x', 17 << 20)").run().unwrap();
    // Not how long it is: that may be a masked value's length.
    assert!(told.stderr.contains("a row of the result is too large") && !told.stderr.contains("178258"), "{told:?}");
    assert!(told.stderr.contains("the limit is 16777216") && !told.stderr.contains("does not speak"), "{told:?}");
}
