//! One gateway replaces another, as a restart or an upgrade of weir.service does: nothing passes, nothing is lost, and
//! sessions go on.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::env::{AGENT_USER, Attacker, Gateway, Left, signal_process};
use system_tests::process::{Finished, PATIENCE, Running, wait_until};
use system_tests::shop::{POLICY, RAW, Shop};

const MASKED: &str = "*******1002";
const SSN: &str = "SELECT ssn FROM customers WHERE id = 1;\n";
/// A gateway that nobody replaces gives up after half a minute.
const ALONE: Duration = Duration::from_secs(45);

struct World {
    shop: Shop,
}

impl World {
    fn new() -> Self {
        let shop = Shop::new().unwrap();
        Self { shop }
    }

    /// Configures how long sessions may go on in a gateway that was replaced.
    fn drain_for(&self, time: &str) {
        let path = self.shop.env.config_path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replacen("[gateway]\n", &format!("[gateway]\ndrain = \"{time}\"\n"), 1);
        std::fs::write(&path, text).unwrap();
    }

    fn serve(&self) -> Gateway {
        self.shop.env.serve_replaceable().unwrap()
    }

    /// A restart; what is left of the old one, and the new one.
    fn replace(&self, gateway: Gateway) -> (Left, Gateway) {
        let left = gateway.leave().unwrap();
        (left, self.serve())
    }

    /// psql that has had its first answer.
    fn session(&self) -> Running {
        let mut psql = self.shop.client("psql").args(["--no-psqlrc", "--tuples-only", "--no-align"]).start().unwrap();
        psql.write(SSN).unwrap();
        psql.wait_for(MASKED, PATIENCE).unwrap();
        psql
    }

    /// A gateway that was replaced, the next one, and a session of the first with its ID.
    fn replaced(&self) -> (Left, Gateway, Running, String) {
        let gateway = self.serve();
        let psql = self.session();
        let id = self.sessions()[0]["id"].as_str().unwrap().to_owned();
        let (left, gateway) = self.replace(gateway);
        (left, gateway, psql, id)
    }

    /// A process that the gateway takes for the next one, with this line of Python for what it does.
    fn heir(&self, line: &str) -> Running {
        let env = &self.shop.env;
        let script = format!("{FALSE_HEIR}\njoin(sys.argv[2])\nbecome_weir()\n{line}");
        let python = env.bystander("python3").args(["-u", "-c", &script]);
        let python = python.arg(env.runtime_dir().join("handover.sock")).arg(env.cgroup().join("gateway"));
        python.start().unwrap()
    }

    fn psql(&self, sql: &str) -> Finished {
        self.shop.psql(sql).run().unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        let listed = self.weir(&["sessions", "--json"]);
        serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().clone()
    }

    fn weir(&self, words: &[&str]) -> String {
        self.shop.env.weir(words).unwrap().expect_success().unwrap()
    }

    fn log(&self) -> String {
        self.shop.env.log()
    }

    /// The recording is one chain, whoever wrote it.
    fn assert_verifies(&self) {
        let verified = self.shop.env.weir(["verify"]).unwrap();
        assert_eq!(verified.code, Some(10), "{verified:?}");
    }
}

/// The outcome of a session that is not open any more.
fn outcome(sessions: &[Value], id: &str) -> Option<String> {
    let session = sessions.iter().find(|session| session["id"] == id)?;
    session["outcome"].as_str().map(str::to_owned)
}

#[test]
fn a_session_outlives_its_gateway_and_the_next_one_records_it() {
    let world = World::new();
    let (left, _gateway, mut psql, id) = world.replaced();

    psql.write("BEGIN;\nDROP TABLE orders;\n").unwrap();
    psql.wait_for("Schema changes go through migrations.", PATIENCE).unwrap();
    psql.write(&format!("ROLLBACK;\n{SSN}\\echo done\n")).unwrap();
    psql.wait_for("done", PATIENCE).unwrap();
    assert_eq!(psql.stdout().matches(MASKED).count(), 2, "{}\n{}", psql.stdout(), world.log());
    assert!(world.psql("SELECT 1").success());
    let status = world.weir(&["status"]);
    assert!(status.contains("1 gateway that this one replaced"), "{status}");
    assert_eq!(outcome(&world.sessions(), &id), None);

    // A denial of the old gateway is explained by the new one.
    let stderr = psql.stderr();
    let denied = stderr
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .find(|word| word.starts_with(&format!("{id}-")));
    let why = world.weir(&["why", denied.unwrap_or_else(|| panic!("no ID in {stderr}"))]);
    assert!(why.contains("no schema changes"), "{why}");

    assert!(psql.finish(PATIENCE).unwrap().success());
    wait_until("the old gateway's end", PATIENCE, || left.is_gone()).unwrap();
    let shown = world.weir(&["sessions", "show", &id]);
    assert!(shown.matches("SELECT ssn").count() == 2 && shown.contains("DROP TABLE"), "{shown}");
    assert_eq!(outcome(&world.sessions(), &id).as_deref(), Some("the client closed the session"));
    let status = world.weir(&["status"]);
    assert!(!status.contains("replaced"), "{status}");
    world.assert_verifies();
}

/// Connects without end, by an address that it looked up once, and says how many were not served, and how many reached somebody else
/// than the gateway: who answers proves by a certificate who it is.
const PROBER: &str = r#"
import os, socket, ssl, struct, sys, threading
address = (socket.gethostbyname(os.environ["PGHOST"]), int(os.environ["PGPORT"]))
gateways = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
gateways.check_hostname = False
gateways.load_verify_locations(os.environ["GATEWAY_CA"])
tried, failed, free, going = 0, [], [], True
def stop():
    global going
    sys.stdin.readline()
    going = False
threading.Thread(target=stop).start()
print("begun", flush=True)
while going:
    tried += 1
    try:
        with socket.create_connection(address, timeout=20) as s:
            s.sendall(struct.pack("!ii", 8, 80877103))
            answer = s.recv(1)
            if answer != b"S":
                failed.append(repr(answer))
            else:
                gateways.wrap_socket(s, server_hostname=os.environ["PGHOST"]).close()
    except ssl.SSLCertVerificationError as error:
        free.append(str(error))
    except OSError as error:
        failed.append(str(error))
print(tried, "tried", len(failed), "failed", len(free), "free", failed[:5], free[:5], flush=True)
"#;

/// Wants the gateway's ports, and says how often it got one.
const THIEF: &str = r#"
import os, socket, sys, threading
tried, got, going = 0, 0, True
def stop():
    global going
    sys.stdin.readline()
    going = False
threading.Thread(target=stop).start()
print("begun", flush=True)
while going:
    for kind, port in ((socket.SOCK_STREAM, os.environ["PORT"]), (socket.SOCK_DGRAM, os.environ["DNS_PORT"])):
        with socket.socket(socket.AF_INET, kind) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            tried += 1
            try:
                s.bind(("127.0.0.1", int(port)))
                got += 1
            except OSError:
                pass
print(tried, "tried", got, "failed", 0, "free", flush=True)
"#;

impl World {
    /// Somebody who is no agent reaches the database itself, and the prober sees that: else it would show nothing.
    fn the_prober_tells_who_answers(&self) {
        let env = &self.shop.env;
        let free = self.shop.placed(env.bystander("python3")).env("PGHOST", self.shop.postgres.address().to_string());
        let free = free.env("GATEWAY_CA", env.runtime_dir().join("ca.pem")).args(["-u", "-c", PROBER]);
        let mut free = free.start().unwrap();
        free.wait_for("begun", PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        free.write("\n").unwrap();
        free.wait_for("tried", PATIENCE).unwrap();
        let said = free.stdout();
        assert!(said.contains(" 0 failed") && !said.contains(" 0 free"), "{said}");
    }
}

/// Restarts in a row; in the long form with `cargo xtask test handover --all`.
fn restarts() -> usize {
    if std::env::var_os("WEIR_ALL").is_some() { 1000 } else { 10 }
}

/// Connections in the database's log.
struct Counts {
    received: usize,
    authorized: usize,
    by_psql: usize,
}

fn counts(log: &str) -> Counts {
    let authorized = || log.lines().filter(|line| line.contains("connection authorized"));
    Counts {
        received: log.matches("connection received").count(),
        authorized: authorized().count(),
        by_psql: authorized().filter(|line| line.contains("application_name=psql")).count(),
    }
}

#[test]
fn no_connect_is_lost_however_often_the_gateway_is_replaced() {
    let world = World::new();
    world.drain_for("1h");
    let mut gateway = world.serve();
    let ca = world.shop.env.runtime_dir().join("ca.pem");
    let python =
        |script: &str| world.shop.client("python3").env("GATEWAY_CA", &ca).args(["-u", "-c", script]).start().unwrap();
    world.the_prober_tells_who_answers();
    let mut prober = python(PROBER);
    // The same from a network namespace, where the gateway has listeners of its own.
    let inside = format!("import ctypes, os\nassert ctypes.CDLL(None).unshare(0x50000000) == 0\n{UP}\n{PROBER}");
    let mut elsewhere = python(&inside);
    // Root, but not the gateway, and no agent.
    let thief = world.shop.env.bystander("python3").args(["-u", "-c", THIEF]);
    let (port, dns_port) = (world.shop.env.port().to_string(), world.shop.env.dns_port().to_string());
    let mut thief = thief.env("PORT", port).env("DNS_PORT", dns_port).start().unwrap();
    for running in [&prober, &elsewhere, &thief] {
        running.wait_for("begun", PATIENCE).unwrap();
    }
    let before = counts(&world.shop.postgres.log());
    let mut lasting = world.session();
    for _ in 0..restarts() {
        (_, gateway) = world.replace(gateway);
    }
    lasting.write(SSN).unwrap();
    wait_until("the lasting session", PATIENCE, || lasting.stdout().matches(MASKED).count() == 2).unwrap();
    for prober in [&mut prober, &mut elsewhere, &mut thief] {
        prober.write("\n").unwrap();
        prober.wait_for("tried", PATIENCE).unwrap();
        let said = prober.stdout();
        println!("{said}");
        assert!(said.contains(" 0 failed") && said.contains(" 0 free"), "{said}\n{}", world.log());
        let tried: usize = said.split_whitespace().nth(1).unwrap().parse().unwrap();
        // A connect waits as long as a restart takes.
        assert!(tried > restarts() / 2, "{said}");
    }
    // A probe goes no further than the gateway: whoever reached the database has logged in, as agents cannot. That is the one
    // session that lasts, and the gateway itself, to read the catalog.
    let log = world.shop.postgres.log();
    let now = counts(&log);
    assert_eq!(now.received - before.received, now.authorized - before.authorized, "somebody else was there: {log}");
    assert_eq!(now.by_psql - before.by_psql, 1, "{log}");
    assert!(lasting.finish(PATIENCE).unwrap().success());
    // Those that were replaced, of which one is left, know that others take care.
    assert!(!world.log().contains("agents are not intercepted"), "{}", world.log());
    drop(gateway);
    world.assert_verifies();
}

/// Brings the loopback device up, and looks the name up, in a namespace that has just been made.
const UP: &str = r#"
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1))
"#;

#[test]
fn sessions_of_a_replaced_gateway_that_is_killed_are_closed_as_lost() {
    let world = World::new();
    let (left, _gateway, mut psql, id) = world.replaced();
    left.signal(Signal::SIGKILL);
    wait_until("the closing record", PATIENCE, || outcome(&world.sessions(), &id).is_some()).unwrap();
    assert_eq!(outcome(&world.sessions(), &id).as_deref(), Some("gateway lost"));
    psql.write("SELECT 1;\n").unwrap();
    psql.wait_for("connection to server was lost", PATIENCE).unwrap();
    assert!(world.psql("SELECT 1").success());
    world.assert_verifies();
}

#[test]
fn sessions_end_with_the_gateway_that_records_them() {
    let world = World::new();
    let (left, gateway, mut psql, id) = world.replaced();
    // The main process alone: what it started ends with it.
    gateway.signal(Signal::SIGKILL).unwrap();
    wait_until("both gateways' end", PATIENCE, || left.is_gone() && gateway.is_gone()).unwrap();
    psql.write("SELECT 1;\n").unwrap();
    wait_until("psql's error", PATIENCE, || !psql.stderr().is_empty()).unwrap();
    assert!(!world.psql("SELECT 1").success());
    let _gateway = world.serve();
    assert_eq!(outcome(&world.sessions(), &id).as_deref(), Some("gateway lost"));
    world.assert_verifies();
}

#[test]
fn a_gateway_that_nobody_replaces_waits_and_then_ends() {
    let world = World::new();
    let gateway = world.serve();
    let mut psql = world.session();
    let left = gateway.leave().unwrap();
    // What is open goes on, what comes waits for the next gateway.
    psql.write(&format!("{SSN}\\echo done\n")).unwrap();
    psql.wait_for("done", PATIENCE).unwrap();
    let mut waiting = world.shop.psql("SELECT 1").start().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(waiting.is_running());
    wait_until("its end", ALONE, || left.is_gone()).unwrap();
    let waited = waiting.finish(PATIENCE).unwrap();
    assert!(!waited.success(), "{waited:?}");
    assert!(!world.psql("SELECT 1").success());
    let _gateway = world.serve();
    let outcomes: Vec<_> = world.sessions().iter().map(|session| session["outcome"].to_string()).collect();
    assert!(outcomes.iter().all(|outcome| outcome.contains("the gateway, which stops")), "{outcomes:?}");
    world.assert_verifies();
}

/// `systemctl stop`, then `systemctl kill`.
#[test]
fn a_second_signal_ends_at_once_what_was_told_to_stop() {
    let world = World::new();
    let gateway = world.serve();
    let _psql = world.session();
    let left = gateway.leave().unwrap();
    left.signal(Signal::SIGTERM);
    wait_until("its end", Duration::from_secs(10), || left.is_gone()).unwrap();
    let gateway = world.serve();
    let _psql = world.session();
    let (left, _gateway) = world.replace(gateway);
    left.signal(Signal::SIGTERM);
    wait_until("its end", Duration::from_secs(10), || left.is_gone()).unwrap();
    assert!(world.psql("SELECT 1").success());
    world.assert_verifies();
}

#[test]
fn sessions_that_go_on_follow_the_policy_and_the_operators_of_the_new_gateway() {
    let world = World::new();
    let gateway = world.serve();
    let (mut one, mut two) = (world.session(), world.session());
    let ids: Vec<String> = world.sessions().iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect();
    world.shop.configure(&POLICY.replace(r#"kinds   = ["select", "#, r"kinds   = [")).unwrap();
    let (_left, _gateway) = world.replace(gateway);
    // A restart is how a new policy comes into force, too.
    one.write("SELECT 1;\n").unwrap();
    one.wait_for("ERROR", PATIENCE).unwrap();
    // A reload of the new gateway reaches them.
    world.shop.configure(POLICY).unwrap();
    world.weir(&["reload"]);
    wait_until("the policy", PATIENCE, || {
        one.write("SELECT 'again';\n").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        one.stdout().contains("again")
    })
    .unwrap();
    // And so does who ends a session.
    for id in &ids {
        let said: Value = serde_json::from_str(&world.weir(&["sessions", "kill", id, "--json"])).unwrap();
        assert_eq!(said["id"], **id);
    }
    for psql in [&mut one, &mut two] {
        psql.write("SELECT 1;\n").unwrap();
        psql.wait_for("was ended by root", PATIENCE).unwrap();
    }
    world.assert_verifies();
}

/// Says the number and the key of its session, and what became of a statement while each line's key was used to cancel it, by
/// whoever.
const CANCELLED: &str = r#"
import time
s = connect()
startup(s, 2)
stream = messages(s)
print("has", *[body.hex() for tag, body in until(stream, b"Z") if tag == b"K"])
for seconds in sys.stdin:
    s.sendall(query(b"SELECT pg_sleep(" + seconds.encode() + b")"))
    print("begun")
    tags = [tag for tag, _ in until(stream, b"Z")]
    print("cancelled" if b"E" in tags else "slept" if b"D" in tags else tags)
"#;
/// Asks for the session of this number and key to be cancelled.
const CANCELS: &str = r#"
identity = bytes.fromhex(sys.argv[1])
s = connect()
s.sendall(struct.pack(">II", 8 + len(identity), 80877102) + identity)
print([tag for tag, _ in messages(s)])
"#;

#[test]
fn a_statement_that_runs_in_a_replaced_gateway_can_be_cancelled() {
    let world = World::new();
    let mut gateway = world.serve();
    let mut client = world.shop.raw_client(CANCELLED).start().unwrap();
    client.wait_for("\n", PATIENCE).unwrap();
    let identity = client.stdout().trim().strip_prefix("has ").unwrap().to_owned();
    let other_key = format!("{}{}", &identity[..8], "00".repeat(32));
    let shop = &world.shop;
    let others = || shop.placed(shop.env.agent_in("next", AGENT_USER, "/usr/bin/python3").unwrap());
    // The gateway that has the session is the one that was replaced, then one of several.
    for round in 1..=2 {
        (_, gateway) = world.replace(gateway);
        for (whose, identity, seconds, expected) in [
            ("a key that is another", &other_key, "3", "slept"),
            ("another agent", &identity, "3", "slept"),
            ("its own", &identity, "60", "cancelled"),
        ] {
            let before = client.stdout().lines().count();
            client.write(&format!("{seconds}\n")).unwrap();
            wait_until("the statement", PATIENCE, || client.stdout().lines().count() > before).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            let script = format!("{RAW}\n{CANCELS}");
            let place = if whose == "another agent" { others() } else { shop.client("/usr/bin/python3") };
            let cancels = place.args(["-u", "-c", &script, identity]).run().unwrap();
            if whose != "another agent" {
                // As at a server, nothing tells whether there is such a session.
                assert_eq!(cancels.stdout, "[]\n", "{cancels:?}");
            }
            wait_until("its end", PATIENCE, || client.stdout().lines().count() > before + 1).unwrap();
            assert_eq!(client.stdout().lines().last(), Some(expected), "{whose}, round {round}\n{}", world.log());
        }
    }
    assert!(client.finish(PATIENCE).unwrap().success());
    drop(gateway);
    world.assert_verifies();
}

#[test]
fn a_statement_that_waits_for_approval_is_refused_when_the_gateway_is_replaced() {
    let world = World::new();
    let gateway = world.serve();
    let mut psql = world.session();
    psql.write("DELETE FROM orders;\n").unwrap();
    psql.wait_for("waiting for approval", PATIENCE).unwrap();
    let (_left, _gateway) = world.replace(gateway);
    psql.wait_for("the gateway was replaced while approval", PATIENCE).unwrap();
    psql.write("DELETE FROM orders;\n").unwrap();
    psql.wait_for("connect again and repeat it", PATIENCE).unwrap();
    // Numbers go on, and approvers are heard.
    let mut next = world.shop.psql("DELETE FROM orders WHERE id = -1; DELETE FROM orders").start().unwrap();
    next.wait_for("waiting for approval 2", PATIENCE).unwrap();
    world.weir(&["deny", "2"]);
    assert!(!next.finish(PATIENCE).unwrap().success());
    drop(psql);
    world.assert_verifies();
    next = world.session();
    assert!(next.finish(PATIENCE).unwrap().success());
}

#[test]
fn sessions_end_when_the_time_to_drain_is_over() {
    let world = World::new();
    world.drain_for("2s");
    let gateway = world.serve();
    let mut psql = world.session();
    let (left, _gateway) = world.replace(gateway);
    psql.write("SELECT 'still there';\n").unwrap();
    psql.wait_for("still there", PATIENCE).unwrap();
    wait_until("its end", Duration::from_secs(12), || left.is_gone()).unwrap();
    psql.write("SELECT 1;\n").unwrap();
    psql.wait_for("which was replaced some time ago", PATIENCE).unwrap();
    world.assert_verifies();
}

#[test]
fn a_connection_that_is_being_admitted_outlives_its_gateway() {
    let world = World::new();
    let gateway = world.serve();
    // The only one, and no session yet: its token cannot be verified without the issuer's keys.
    world.shop.issuer.set_delay(Duration::from_millis(1500));
    let psql = world.shop.psql("SELECT 1").start().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let (_left, _gateway) = world.replace(gateway);
    let finished = psql.finish(PATIENCE).unwrap();
    assert!(finished.success(), "{finished:?}");
    assert_eq!(world.sessions().len(), 1);
    world.assert_verifies();
}

/// Longer than the gateway leaves between two fetches of an issuer's keys.
const REFETCH: Duration = Duration::from_secs(11);

#[test]
fn a_connection_that_is_admitted_after_the_last_session_was_ended_is_refused() {
    let world = World::new();
    world.drain_for("1s");
    let gateway = world.serve();
    let mut slow = world.session();
    // From now on no token is verified without the issuer, which is slow.
    world.shop.issuer.rotate(true).unwrap();
    world.shop.give_token(&world.shop.claims()).unwrap();
    world.shop.issuer.set_delay(Duration::from_secs(2));
    std::thread::sleep(REFETCH);
    // A client that does not read, so that its session takes a while to end.
    slow.write("SELECT repeat('x', 1000000) FROM generate_series(1, 200);\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal_process(slow.pid(), Signal::SIGSTOP).unwrap();
    let psql = world.shop.psql("SELECT 'too late'").start().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let (left, _gateway) = world.replace(gateway);
    let finished = psql.finish(PATIENCE).unwrap();
    assert!(finished.stderr.contains("which was replaced some time ago; connect again"), "{finished:?}");
    wait_until("the old gateway's end", PATIENCE, || left.is_gone()).unwrap();
    let refused = world.sessions().into_iter().find(|session| session["refused"] == "gateway");
    assert!(refused.is_some(), "{:?}", world.sessions());
    world.assert_verifies();
}

/// Greets as the next gateway does (`{ protocol: 1 }` in MessagePack), says what it was given, and ends; where it is told of a
/// lock, when that is free.
const FALSE_HEIR: &str = r#"
import fcntl, os, socket, sys, time
def inherit(path, hello=b"\x91\x02", lock=None):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        for _ in range(1000):
            try:
                s.connect(path)
                break
            except OSError:
                time.sleep(0.01)
        s.send(hello)
        try:
            print("given", socket.recv_fds(s, 100000, 4), flush=True)
            if lock:
                fcntl.flock(open(lock, "w"), fcntl.LOCK_EX)
        except OSError as error:
            print("refused", error, flush=True)
def join(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")
def become_weir():
    import pwd
    weir = pwd.getpwnam("weir")
    os.setgid(weir.pw_gid)
    os.setuid(weir.pw_uid)
"#;

#[test]
fn an_agent_that_can_be_the_gateways_user_inherits_nothing() {
    let world = World::new();
    let gateway = world.serve();
    let mut psql = world.session();
    let socket = world.shop.env.runtime_dir().join("handover.sock");
    let script = format!("{FALSE_HEIR}\nbecome_weir()\ninherit(sys.argv[1])");
    let container = world.shop.env.attacker(Attacker::Container, "/usr/bin/python3");
    let attacker = container.args(["-u", "-c", &script]).arg(&socket).start().unwrap();
    let left = gateway.leave().unwrap();
    wait_until("an answer", PATIENCE, || !attacker.stdout().is_empty() || !attacker.stderr().is_empty()).unwrap();
    assert!(!attacker.stdout().contains("given"), "{}", attacker.stdout());
    wait_until("its refusal in the log", PATIENCE, || world.log().contains("and not in the gateway's")).unwrap();
    // The right one is let in after it.
    let _gateway = world.serve();
    psql.write("SELECT 'still there';\n").unwrap();
    psql.wait_for("still there", PATIENCE).unwrap();
    drop(left);
    world.assert_verifies();
}

/// Statements without a pause that must be recorded before they run.
const WRITER: &str = r#"
import subprocess
psql = subprocess.Popen(["psql", "--no-psqlrc"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print("begun", flush=True)
try:
    while psql.poll() is None:
        psql.stdin.write(b"UPDATE orders SET id = id WHERE id = -1;\n" * 10)
        psql.stdin.flush()
except OSError:
    pass
print("ended", flush=True)
"#;

#[test]
fn statements_that_wait_for_their_record_end_when_the_next_gateway_dies_half_way() {
    const WRITERS: usize = 8;
    let world = World::new();
    let gateway = world.serve();
    let writers: Vec<_> =
        (0..WRITERS).map(|_| world.shop.client("python3").args(["-u", "-c", WRITER]).start().unwrap()).collect();
    for writer in &writers {
        writer.wait_for("begun", PATIENCE).unwrap();
    }
    wait_until("their sessions", PATIENCE, || world.sessions().len() == WRITERS).unwrap();
    // It dies when the recording is free, and nobody's: before that, another one is waited for.
    let lock = world.shop.env.state_dir().join("recordings/lock");
    let heir = world.heir(&format!("inherit(sys.argv[1], lock={:?})", lock.display().to_string()));
    let left = gateway.leave().unwrap();
    heir.wait_for("given", PATIENCE).unwrap();
    wait_until("the gateway's end", PATIENCE, || left.is_gone()).unwrap();
    for writer in &writers {
        writer.wait_for("ended", PATIENCE).unwrap();
    }
    let _gateway = world.serve();
    world.assert_verifies();
}

/// An upgrade to one that hands over otherwise: it begins when the old one has ended, which does not wait for another.
#[test]
fn a_gateway_of_another_version_is_made_room_for_at_once() {
    let world = World::new();
    let gateway = world.serve();
    let mut psql = world.session();
    let _heir = world.heir(r#"inherit(sys.argv[1], b"\x91\x7f")"#);
    let left = gateway.leave().unwrap();
    wait_until("its end", Duration::from_secs(15), || left.is_gone()).unwrap();
    assert!(world.log().contains("the next gateway speaks protocol 127"), "{}", world.log());
    psql.write("SELECT 1;\n").unwrap();
    psql.wait_for("the gateway, which stops", PATIENCE).unwrap();
    let _gateway = world.serve();
    assert!(world.psql("SELECT 1").success());
    world.assert_verifies();
}

#[test]
fn a_replaced_gateway_that_is_not_heard_any_more_serves_nobody() {
    let world = World::new();
    let (left, gateway, mut psql, id) = world.replaced();
    // It stands still in the middle of a record that no socket takes at once, for longer than the next one waits for the rest.
    signal_process(gateway.serving_pid().unwrap(), Signal::SIGSTOP).unwrap();
    psql.write(&format!("SELECT length('{}');\n", "x".repeat(900_000))).unwrap();
    wait_until("a record that is half sent", PATIENCE, || is_sending(left.serving_pid())).unwrap();
    signal_process(left.serving_pid(), Signal::SIGSTOP).unwrap();
    signal_process(gateway.serving_pid().unwrap(), Signal::SIGCONT).unwrap();
    wait_until("the closing record", PATIENCE, || outcome(&world.sessions(), &id).is_some()).unwrap();
    assert_eq!(outcome(&world.sessions(), &id).as_deref(), Some("gateway lost"));
    psql.write("SELECT 'still', 'there';\n").unwrap();
    signal_process(left.serving_pid(), Signal::SIGCONT).unwrap();
    wait_until("its end", PATIENCE, || left.is_gone()).unwrap();
    psql.wait_for("connection to server was lost", PATIENCE).unwrap();
    assert!(!psql.stdout().contains("still"));
    world.assert_verifies();
}

/// True if a thread of the process waits for somebody to read what it sends through a socket of this host.
fn is_sending(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let waits = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("wchan")).unwrap_or_default());
    waits.into_iter().any(|wait| wait.starts_with("sock_alloc_send"))
}

#[test]
fn a_replaced_gateway_ends_with_its_witness() {
    let world = World::new();
    let gateway = world.serve();
    let mut psql = world.session();
    let (left, _gateway) = world.replace(gateway);
    signal_process(left.process("weir-witness").unwrap(), Signal::SIGKILL).unwrap();
    wait_until("its end", PATIENCE, || left.is_gone()).unwrap();
    psql.write("SELECT 1;\n").unwrap();
    psql.wait_for("whose witness died", PATIENCE).unwrap();
    assert!(world.psql("SELECT 1").success());
    world.assert_verifies();
}
