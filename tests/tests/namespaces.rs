//! Agents in network namespaces of their own: intercepted there by listeners that the gateway opens when it sees them, held
//! or refused until then, and nothing stays open where nobody is any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::env::{AGENT, AGENT_USER, Gateway};
use system_tests::postgres;
use system_tests::process::{Finished, PATIENCE, wait_until};
use system_tests::shop::{POLICY, Shop};

const SSN: &str = "SELECT ssn FROM customers WHERE id = 1";
const MASKED: &str = "*******1002";
/// The gateway lets go of a namespace at the second look, a second after the first.
const LET_GO: Duration = Duration::from_secs(10);

struct World {
    gateway: Gateway,
    shop: Shop,
}

impl World {
    fn new() -> Self {
        let shop = Shop::new().unwrap();
        shop.configure(POLICY).unwrap();
        let gateway = shop.serve().unwrap();
        Self { gateway, shop }
    }

    /// psql as the agent, in whatever `words` make for it.
    fn psql(&self, words: &[&str]) -> Finished {
        let place = self.shop.placed(self.shop.env.agent_behind(words.iter().copied(), "psql"));
        place.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", SSN]).run().unwrap()
    }

    /// What a Python program of the agent prints.
    fn python(&self, script: &str) -> String {
        let place =
            self.shop.placed(self.shop.env.agent("python3")).env("TARGET", self.shop.postgres.port().to_string());
        place.args(["-c", &format!("{PRELUDE}\n{script}")]).run().unwrap().expect_success().unwrap()
    }

    /// Descriptors of all of the gateway's processes.
    fn descriptors(&self) -> usize {
        let pids = self.gateway.pids().unwrap();
        pids.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()).sum()
    }

    fn counter(&self, name: &str) -> u64 {
        let status = self.shop.env.weir(["status", "--json"]).unwrap().expect_success().unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["kernel"]["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {status}"))
    }
}

/// `enter()` moves to a new user and network namespace with the loopback device up; `hello()` speaks the first bytes
/// of PostgreSQL's protocol.
const PRELUDE: &str = r#"
import ctypes, errno, fcntl, os, socket, struct, sys, time
def unshare(flags):
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
NEWUSER, NEWNET = 0x10000000, 0x40000000
def loopback_up():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1))
def enter(up=True):
    unshare(NEWUSER | NEWNET)
    if up:
        loopback_up()
# The agent knows the target by its name; whatever it does next, it has the address.
ADDRESS = socket.gethostbyname(os.environ["PGHOST"])
def hello(host=ADDRESS):
    s = socket.create_connection((host, int(os.environ["TARGET"])), timeout=10)
    s.sendall(struct.pack("!ii", 8, 80877103))
    return s.recv(1).decode()
"#;

#[test]
fn an_agent_in_a_namespace_of_its_own_is_intercepted_at_once() {
    let world = World::new();
    for _ in 0..5 {
        // Without routes, without addresses, its loopback device down: as a namespace begins.
        let psql = world.psql(&["unshare", "--net", "--"]);
        assert_eq!(psql.stdout.trim_end(), MASKED, "{psql:?}\n{}", world.shop.env.log());
    }
    let sessions = world.shop.env.weir(["sessions", "--json"]).unwrap().expect_success().unwrap();
    assert!(sessions.matches("\"target\":").count() >= 5, "{sessions}");
}

#[test]
fn a_named_namespace_is_intercepted_and_two_do_not_get_in_each_others_way() {
    let world = World::new();
    let names = ["one", "two"].map(|name| format!("weir-{}-{name}", std::process::id()));
    for name in &names {
        world.shop.env.bystander("ip").args(["netns", "add", name]).run().unwrap().expect_success().unwrap();
    }
    let both = names.each_ref().map(|name| world.psql(&["nsenter", &format!("--net=/run/netns/{name}"), "--"]));
    for name in &names {
        world.shop.env.bystander("ip").args(["netns", "delete", name]).run().unwrap().expect_success().unwrap();
    }
    for psql in both {
        assert_eq!(psql.stdout.trim_end(), MASKED, "{psql:?}\n{}", world.shop.env.log());
    }
}

/// A container by runc with a root file system of its own: psql, what it is linked with, and a resolver that is not there.
#[test]
fn an_agent_in_a_container_is_intercepted_and_known_by_the_containers_id() {
    let world = World::new();
    let env = &world.shop.env;
    let id = "0123456789abcdef".repeat(4);
    let bundle = env.dir().join("container");
    make_root(&bundle.join("rootfs"));
    let run = |words: &[&str]| env.bystander("runc").args(words).run().unwrap().expect_success().unwrap();
    run(&["spec", "--bundle", &bundle.display().to_string()]);
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let user = nix::unistd::User::from_name(AGENT_USER).unwrap().unwrap();
    let (host, port, database) = (postgres::NAME, world.shop.postgres.port(), postgres::DATABASE);
    let variables = [format!("PGHOST={host}"), format!("PGPORT={port}"), format!("PGDATABASE={database}")];
    spec["process"]["terminal"] = json!(false);
    spec["process"]["user"] = json!({ "uid": user.uid.as_raw(), "gid": user.gid.as_raw() });
    spec["process"]["env"] = json!(variables);
    spec["process"]["args"] = json!(["/psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", SSN]);
    // What `--cgroup-parent` does.
    spec["linux"]["cgroupsPath"] = json!(format!("/{}/agents/{AGENT}/docker-{id}.scope", env.attach()));
    fs::write(&file, spec.to_string()).unwrap();

    let runc = env.bystander("runc");
    let name = format!("weir-{}", std::process::id());
    let psql = runc.args(["run", "--bundle"]).arg(&bundle).arg(&name).run().unwrap();
    assert_eq!(psql.stdout.trim_end(), MASKED, "{psql:?}\n{}", env.log());
    let sessions = env.weir(["sessions", "--json"]).unwrap().expect_success().unwrap();
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    let session = sessions[0]["id"].as_str().unwrap();
    let shown = env.weir(["sessions", "show", session]).unwrap().expect_success().unwrap();
    assert!(shown.contains(&id) && shown.contains("/psql"), "{shown}");
}

/// Copies psql with its libraries, by what ldd says.
fn make_root(root: &Path) {
    let versions = fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path().join("bin/psql"));
    let psql = versions.into_iter().find(|psql| psql.exists()).unwrap();
    let linked = Command::new("ldd").arg(&psql).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
    fs::copy(psql, root.join("psql")).unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    // psql wants a name for its user.
    fs::copy("/etc/passwd", root.join("etc/passwd")).unwrap();
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
}

#[test]
fn what_an_agent_sends_first_from_an_unknown_namespace_is_held_and_not_lost() {
    let world = World::new();
    let before = world.counter("held_netns");
    // No time at all between the namespace and the connect; the agent made both by itself, without root.
    let script = "
enter()
start = time.monotonic()
print(hello(), time.monotonic() - start)
print(hello())
";
    let said = world.python(script);
    let mut words = said.split_whitespace();
    assert_eq!((words.next(), words.nth(1)), (Some("S"), Some("S")), "{said}\n{}", world.shop.env.log());
    assert!(world.counter("held_netns") > before, "it was not held, and so this shows nothing");
}

#[test]
fn a_namespace_with_its_loopback_down_is_brought_up() {
    let world = World::new();
    let script = "
enter(up=False)
for attempt in range(100):
    try:
        print(hello())
        break
    except OSError as error:
        if error.errno not in (errno.ENETUNREACH, errno.ECONNREFUSED, errno.ETIMEDOUT, None):
            raise
        time.sleep(0.1)
";
    assert_eq!(world.python(script).trim_end(), "S");
}

#[test]
fn names_are_resolved_in_a_namespace_too() {
    let world = World::new();
    let script = "
enter()
socket.socket()
time.sleep(0.3)
print(hello(os.environ['PGHOST']))
";
    assert_eq!(world.python(script).trim_end(), "S", "{}", world.shop.env.log());
}

#[test]
fn namespaces_that_come_and_go_leave_nothing_behind() {
    const ROUNDS: usize = 100;
    let world = World::new();
    world.psql(&["unshare", "--net", "--"]);
    wait_until("the end of the first", LET_GO, || world.descriptors() < 200).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let before = world.descriptors();
    let script = format!(
        "
good = 0
for round in range({ROUNDS}):
    child = os.fork()
    if child == 0:
        enter()
        os._exit(0 if hello() == 'S' else 1)
    good += os.waitpid(child, 0)[1] == 0
print(good)
"
    );
    let place =
        world.shop.placed(world.shop.env.agent("python3")).env("TARGET", world.shop.postgres.port().to_string());
    let started = Instant::now();
    let done = place.args(["-c", &format!("{PRELUDE}\n{script}")]).start().unwrap();
    let done = done.finish(Duration::from_mins(2)).unwrap().expect_success().unwrap();
    println!("{ROUNDS} namespaces in {:?}", started.elapsed());
    assert_eq!(done.trim_end(), ROUNDS.to_string(), "{}", world.shop.env.log());
    wait_until("the gateway to let go", LET_GO, || world.descriptors() <= before)
        .unwrap_or_else(|error| panic!("{error}: {} descriptors, {before} before", world.descriptors()));
    assert_eq!(namespaces_held_by(&world.gateway), 1, "a namespace is kept alive");
    let served = world.shop.env.weir(["status", "--json"]).unwrap().expect_success().unwrap();
    assert!(!served.contains("stay closed"), "{served}");
}

/// Network namespaces of the gateway's sockets, told apart by their inode in /proc/PID/net: those of its threads only; a socket
/// elsewhere shows in the kernel's list of namespaces.
fn namespaces_held_by(gateway: &Gateway) -> usize {
    let inodes: BTreeSet<String> = gateway
        .pids()
        .unwrap()
        .iter()
        .map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string())
        .collect();
    inodes.len()
}

#[test]
fn a_gateway_that_comes_back_listens_in_the_namespaces_again() {
    let world = World::new();
    let script = "
enter()
print(hello(), flush=True)
sys.stdin.readline()
try:
    print(hello(), flush=True)
except OSError as error:
    print(errno.errorcode.get(error.errno, error), flush=True)
sys.stdin.readline()
print(hello(socket.gethostbyname(os.environ['PGHOST'])), flush=True)
";
    let place =
        world.shop.placed(world.shop.env.agent("python3")).env("TARGET", world.shop.postgres.port().to_string());
    let mut agent = place.args(["-c", &format!("{PRELUDE}\n{script}")]).start().unwrap();
    agent.wait_for("S\n", PATIENCE).unwrap();
    let World { gateway, shop } = world;
    gateway.kill().unwrap();
    agent.write("\n").unwrap();
    agent.wait_for("ECONNREFUSED\n", PATIENCE).unwrap();
    let _gateway = shop.serve().unwrap();
    // The first look of the new gateway finds the agent.
    wait_until("the listener", PATIENCE, || shop.env.log().contains("listening in another network namespace")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    agent.write("\n").unwrap();
    let said = agent.finish(PATIENCE).unwrap();
    assert_eq!(said.stdout, "S\nECONNREFUSED\nS\n", "{said:?}\n{}", shop.env.log());
}
