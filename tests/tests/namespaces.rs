//! Agents in network namespaces of their own: intercepted there by listeners that the gateway opens when it sees them, held
//! or refused until then, and nothing stays open where nobody is any more.

use std::fs;
use std::time::{Duration, Instant};

use system_tests::env::{AGENT, AGENT_USER, Attacker, Gateway};
use system_tests::process::{Finished, PATIENCE, wait_until};
use system_tests::recording;
use system_tests::shop::{POLICY, Shop};
use weir::record::event::Event;

const SSN: &str = "SELECT ssn FROM customers WHERE id = 1";
const MASKED: &str = "*******1002";
/// The gateway lets go of a namespace at the second look that finds nobody; looks are a second apart at most.
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

    /// Their number where nobody is: the lowest for as long as the gateway holds on to a namespace. Its looks at processes, one a
    /// second, have some open for a moment.
    fn descriptors_without_anybody(&self) -> usize {
        let (started, mut lowest) = (Instant::now(), self.descriptors());
        while started.elapsed() < LET_GO {
            std::thread::sleep(Duration::from_millis(20));
            lowest = lowest.min(self.descriptors());
        }
        lowest
    }

    /// The gateway's processes.
    fn processes(&self) -> Vec<Process> {
        let pids = self.gateway.pids().unwrap();
        pids.into_iter().map(|pid| Process::read(pid).unwrap()).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        let status = self.shop.env.weir(["status", "--json"]).unwrap().expect_success().unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["kernel"]["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {status}"))
    }
}

#[derive(Debug)]
struct Process {
    pid: nix::unistd::Pid,
    words: String,
    /// All that it may use or take up again.
    capabilities: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let sets = status.lines().filter_map(|line| line.split_once(":\t"));
        let held = sets.filter(|(name, _)| ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].contains(name));
        let capabilities =
            held.map(|(_, set)| u64::from_str_radix(set.trim(), 16).unwrap()).fold(0, |all, set| all | set);
        Some(Self { pid: nix::unistd::Pid::from_raw(pid.cast_signed()), words, capabilities })
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
    // This one hides /sys/fs/cgroup from whom it starts.
    let executed = names.each_ref().map(|name| world.psql(&["ip", "netns", "exec", name]));
    for name in &names {
        world.shop.env.bystander("ip").args(["netns", "delete", name]).run().unwrap().expect_success().unwrap();
    }
    for psql in both.into_iter().chain(executed) {
        assert_eq!(psql.stdout.trim_end(), MASKED, "{psql:?}\n{}", world.shop.env.log());
    }
}

/// What runtimes do that root runs and that give their containers numbers of their own: the namespaces are root's, and so is the line that
/// leads out of them. What an agent holds there counts.
#[test]
fn capabilities_in_a_user_namespace_of_roots_count() {
    // Joins the cgroup that it is told, and becomes the rest, as number 0 of new namespaces.
    const REMAPPED: &str = r#"
import ctypes, os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
made, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if ctypes.CDLL(None).unshare(0x50000000) != 0:
        sys.exit("unshare")
    os.write(made[1], b"x")
    os.read(mapped[0], 1)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.execvp(sys.argv[2], sys.argv[2:])
os.read(made[0], 1)
for file in ("uid_map", "gid_map"):
    open(f"/proc/{child}/{file}", "w").write("0 300000 65536")
os.write(mapped[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;
    const PSQL: [&str; 6] = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", SSN];
    let world = World::new();
    let env = &world.shop.env;
    let run = |words: &[&str]| {
        let place = world.shop.placed(env.bystander("python3")).args(["-c", REMAPPED]);
        place.arg(env.agents_cgroup(Attacker::User)).args(words).args(PSQL).run().unwrap()
    };
    let root = run(&[]);
    assert!(root.stderr.contains("CAP_NET_RAW") && root.stderr.contains("accept_risk"), "{root:?}\n{}", env.log());
    // What Docker leaves of them.
    let one = run(&["setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_raw", "--"]);
    assert!(one.stderr.contains("holds CAP_NET_RAW"), "{one:?}\n{}", env.log());
    let without = run(&["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"]);
    assert_eq!(without.stdout.trim_end(), MASKED, "{without:?}\n{}", env.log());
}

#[test]
fn what_an_agent_sends_first_from_an_unknown_namespace_is_held_and_not_lost() {
    let world = World::new();
    let before = world.counter("held_netns");
    // No time at all between the namespace and the connect; the agent made both by itself, without root. Several times, since
    // the gateway may be quicker now and then.
    let script = "
for _ in range(10):
    child = os.fork()
    if child == 0:
        enter()
        start = time.monotonic()
        print(hello(), round(1000 * (time.monotonic() - start)), flush=True)
        print(hello(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
";
    let said = world.python(script);
    println!("{said}");
    assert_eq!(said.matches('S').count(), 20, "{said}\n{}", world.shop.env.log());
    assert!(world.counter("held_netns") > before, "nothing was held, and so this shows nothing");
}

/// Where the gateway cannot listen (here: it can enter no namespace, without its usher), what is held becomes a refusal on record.
#[test]
fn what_is_held_in_vain_is_refused_and_on_record() {
    let world = World::new();
    let usher = world.processes().into_iter().find(|process| process.words.contains("usher")).unwrap();
    nix::sys::signal::kill(usher.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let script = "
enter()
start = time.monotonic()
try:
    print(hello())
except OSError as error:
    print(errno.errorcode.get(error.errno, error), time.monotonic() - start < 8)
";
    assert_eq!(world.python(script).trim_end(), "ETIMEDOUT True");
    let recordings = world.shop.env.state_dir().join("recordings");
    let is_refusal = |event: &Event| matches!(event, Event::KernelDenied { reason, .. } if reason == "denied_netns");
    wait_until("the record", PATIENCE, || recording::events(&recordings).unwrap().iter().any(is_refusal)).unwrap();
    let status = world.shop.env.weir(["status", "--json"]).unwrap().expect_success().unwrap();
    assert!(status.contains("the usher") && status.contains("restart"), "{status}");
}

/// The usher does not end, and does nothing: new namespaces are refused, and all else goes on; when it goes on, so do they.
#[test]
fn an_usher_that_is_stopped_holds_up_nobody_but_whom_it_is_for() {
    let world = World::new();
    let usher = world.processes().into_iter().find(|process| process.words.contains("usher")).unwrap();
    let signal = |signal| nix::sys::signal::kill(usher.pid, signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    let script = "
here = hello()
enter()
try:
    print(here, hello())
except OSError as error:
    print(here, errno.errorcode.get(error.errno, error))
";
    assert_eq!(world.python(script).trim_end(), "S ETIMEDOUT");
    signal(nix::sys::signal::Signal::SIGCONT);
    wait_until("namespaces that are served", PATIENCE, || world.python("enter()\nprint(hello())").trim_end() == "S")
        .unwrap();
}

/// An agent that makes namespaces without end gets what an agent may have, and the next agent its own.
#[test]
fn one_agent_does_not_take_all_namespaces() {
    const SHARE: usize = 128;
    let world = World::new();
    let script = format!(
        "
children = []
for _ in range({SHARE} + 2):
    child = os.fork()
    if child == 0:
        enter()
        try:
            said = hello()
        except OSError as error:
            said = errno.errorcode.get(error.errno, 'ETIMEDOUT' if isinstance(error, TimeoutError) else str(error))
        os.write(1, (said + ' ').encode())
        sys.stdin.readline()
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"
    );
    let place =
        world.shop.placed(world.shop.env.agent("python3")).env("TARGET", world.shop.postgres.port().to_string());
    let agent = place.args(["-c", &format!("{PRELUDE}\n{script}")]).start().unwrap();
    let answers = |said: &str| said.split_whitespace().count();
    wait_until("an answer to each", PATIENCE, || answers(&agent.stdout()) == SHARE + 2).unwrap();
    let said = agent.stdout();
    let served = said.split_whitespace().filter(|answer| *answer == "S").count();
    let lost = said.split_whitespace().filter(|answer| *answer == "ETIMEDOUT").count();
    assert_eq!((served, lost), (SHARE, 2), "{said}");
    let status = world.shop.env.weir(["status"]).unwrap().expect_success().unwrap();
    assert!(status.contains(&format!("agents/{AGENT} is in more than the gateway listens in")), "{status}");

    let next = world.shop.placed(world.shop.env.agent_in("next", AGENT_USER, "python3").unwrap());
    let next = next.env("TARGET", world.shop.postgres.port().to_string());
    let next = next.args(["-c", &format!("{PRELUDE}\nenter()\nprint(hello())")]).run().unwrap();
    assert_eq!(next.stdout, "S\n", "{next:?}");
    drop(agent);
}

/// One process may enter namespaces, and it is not one that reads what agents send or shape.
#[test]
fn only_the_usher_may_enter_namespaces() {
    const SYS_ADMIN: u64 = 1 << 21;
    let world = World::new();
    let processes = world.processes();
    let may: Vec<_> = processes.iter().filter(|process| process.capabilities & SYS_ADMIN != 0).collect();
    assert!(may.len() == 1 && may[0].words.contains("usher"), "{processes:?}");
    assert_eq!(may[0].capabilities, SYS_ADMIN | 1 << 12, "SYS_ADMIN and NET_ADMIN, and nothing else");
    assert!(processes.len() == 3 && processes.iter().any(|process| process.capabilities == 0), "{processes:?}");
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
    /// More than the kernel half's table of namespaces has room for, so that it would show if they stayed in there.
    const ROUNDS: usize = gateway_common::MAX_NETNS + 76;
    /// Free places that the kernel's allocator keeps for each CPU count as taken.
    const ALLOCATORS: usize = 100;
    let world = World::new();
    world.psql(&["unshare", "--net", "--"]);
    let (before, living) = (world.descriptors_without_anybody(), living_namespaces());
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
    let done = done.finish(Duration::from_mins(5)).unwrap().expect_success().unwrap();
    println!("{ROUNDS} namespaces in {:?}", started.elapsed());
    assert_eq!(done.trim_end(), ROUNDS.to_string(), "{}", world.shop.env.log());
    // A namespace lives on by descriptors alone, and nobody else has any.
    wait_until("the gateway to let go", LET_GO, || world.descriptors() <= before)
        .unwrap_or_else(|error| panic!("{error}: {} descriptors, {before} before", world.descriptors()));
    wait_until("the kernel to let go", Duration::from_secs(30), || living_namespaces() <= living + ALLOCATORS)
        .unwrap_or_else(|error| panic!("{error}: {} namespaces, {living} before", living_namespaces()));
    println!(
        "{before} descriptors and {living} namespaces before, {} and {} after",
        world.descriptors(),
        living_namespaces()
    );
    let status = world.shop.env.weir(["status", "--json"]).unwrap().expect_success().unwrap();
    assert!(!status.contains("network namespace"), "{status}");
}

/// Network namespaces that the kernel has, also those that nothing but a descriptor holds (slabinfo(5): objects in use).
fn living_namespaces() -> usize {
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap();
    let line = slabs.lines().find_map(|line| line.strip_prefix("net_namespace ")).expect("no slabs of namespaces");
    line.split_whitespace().next().unwrap().parse().unwrap()
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

/// Nothing to do between the namespace and the name: the query is held, and not heard of, so that the resolver repeats it.
#[test]
fn a_name_that_is_looked_up_first_of_all_is_held_and_not_lost() {
    let world = World::new();
    let script = "
children = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        enter()
        start = time.monotonic()
        print(hello(socket.gethostbyname(os.environ['PGHOST'])), round(time.monotonic() - start), flush=True)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
";
    let said = world.python(script);
    println!("{said}");
    assert_eq!(said.matches('S').count(), 10, "{said}\n{}", world.shop.env.log());
}
