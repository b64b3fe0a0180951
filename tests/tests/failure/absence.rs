//! The gateway or its witness is killed, out of memory, stopped or stuck, while agents are at work: nothing passes, who connects is
//! refused or waits as configured, and the service manager hears no sign of life.

use std::collections::BTreeMap;
use std::path::PathBuf;

use system_tests::canary::Canary;
use system_tests::postgres::NAME;
use system_tests::sabotage::Stuck;

use super::*;

/// What is seen of the agents at a time.
const A_WHILE: Duration = Duration::from_secs(2);
/// A sign of life comes every other second, or not at all.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Agents that connect without end: to the database, by an address that was looked up once, and to a server that is no target.
struct Agents {
    prober: Running,
    canary: Canary,
}

/// A line of input asks what came of it since the last one.
const PROBER: &str = r#"
import errno, json, os, socket, struct, sys, threading, time
targets = {"orders": (socket.gethostbyname(os.environ["PGHOST"]), int(os.environ["PGPORT"])), "canary": ("127.0.0.1", int(sys.argv[1]))}
asked, answered = 0, 0
def listen():
    global asked
    for line in sys.stdin:
        asked += 1
    os._exit(0)
threading.Thread(target=listen, daemon=True).start()
def connect(address):
    try:
        with socket.create_connection(address, timeout=0.5) as s:
            s.sendall(struct.pack("!ii", 8, 80877103))
            return {b"S": "served", b"d": "direct", b"": "closed"}[s.recv(1)]
    except TimeoutError:
        return "held"
    except OSError as error:
        return errno.errorcode[error.errno]
print("begun", flush=True)
while True:
    counts = {}
    while asked == answered:
        for name, address in targets.items():
            result = name + " " + connect(address)
            counts[result] = counts.get(result, 0) + 1
        time.sleep(0.005)
    answered = asked
    print("came of it", json.dumps(counts), flush=True)
"#;

impl Agents {
    fn send(shop: &Shop) -> Self {
        let canary = Canary::start().unwrap();
        let prober = shop.client("python3").args(["-u", "-c", PROBER, &canary.port().to_string()]).start().unwrap();
        prober.wait_for("begun", PATIENCE).unwrap();
        let mut agents = Self { prober, canary };
        agents.are_served(shop);
        agents
    }

    /// What came of the tries of the time that is given them, none of which got anywhere but to the gateway.
    fn tried(&mut self, shop: &Shop, time: Duration) -> BTreeMap<String, u64> {
        self.ask();
        let before = reached(shop);
        thread::sleep(time);
        let came = self.ask();
        assert!(!came.is_empty());
        assert!(!came.keys().any(|result| result.ends_with("direct")), "{came:?}");
        assert_eq!(self.canary.reached(), 0, "an agent reached a server: {came:?}");
        assert_eq!(reached(shop), before, "an agent reached the database: {came:?}");
        came
    }

    fn ask(&mut self) -> BTreeMap<String, u64> {
        let answers = |said: &str| said.lines().filter(|line| line.ends_with('}')).count();
        let before = answers(&self.prober.stdout());
        self.prober.write("\n").unwrap();
        wait_until("the agents' answer", PATIENCE, || answers(&self.prober.stdout()) > before).unwrap();
        let said = self.prober.stdout();
        let last = said.lines().rfind(|line| line.ends_with('}')).unwrap();
        serde_json::from_str(last.strip_prefix("came of it ").unwrap()).unwrap()
    }

    fn are_served(&mut self, shop: &Shop) {
        wait_until("agents that are served", PATIENCE, || {
            let came = self.tried(shop, Duration::from_millis(200));
            came.keys().all(|result| ["orders served", "canary closed", "canary ECONNRESET"].contains(&&**result))
        })
        .unwrap();
    }
}

/// The results of connects to the one and to the other.
fn results<'a>(came: &'a BTreeMap<String, u64>, to: &str) -> Vec<&'a str> {
    came.keys().filter_map(|result| result.strip_prefix(to)?.strip_prefix(' ')).collect()
}

/// Everybody is refused at once.
fn assert_refused(came: &BTreeMap<String, u64>) {
    assert_eq!(
        (results(came, "orders"), results(came, "canary")),
        (vec!["ECONNREFUSED"], vec!["ECONNREFUSED"]),
        "{came:?}"
    );
}

/// Everybody waits.
fn assert_held(came: &BTreeMap<String, u64>) {
    assert_eq!((results(came, "orders"), results(came, "canary")), (vec!["held"], vec!["held"]), "{came:?}");
}

impl World {
    /// With this line in the configuration's `[gateway]`, and the target by its address, too: what names agents were told, a gateway
    /// that is killed takes with it.
    fn set_up(line: &str) -> Self {
        let shop = Shop::new().unwrap();
        let path = shop.env.config_path();
        let text = fs::read_to_string(&path).unwrap().replacen("[gateway]\n", &format!("[gateway]\n{line}\n"), 1);
        let (named, address) = (format!("[\"{NAME}:"), shop.postgres.address());
        let text = text.replacen(&named, &format!("[\"{address}:{}\", \"{NAME}:", shop.postgres.port()), 1);
        fs::write(&path, text).unwrap();
        Self::of(shop, Shop::serve)
    }

    /// Whether the service manager hears a sign of life within the time that there is one in.
    fn gives_a_sign_of_life(&self) -> bool {
        self.gateway.notified("WATCHDOG=1");
        thread::sleep(SIGN_OF_LIFE);
        self.gateway.notified("WATCHDOG=1")
    }

    fn witness(&self) -> u32 {
        self.gateway.process("weir-witness").unwrap()
    }

    /// The gateway is gone, by whatever; the next one, and what the agents met until then.
    fn comes_back(self, agents: &mut Agents) -> Self {
        let Self { gateway, shop, said, .. } = self;
        drop(gateway);
        let mut world = Self::of(shop, Shop::serve);
        world.said = said;
        agents.are_served(&world.shop);
        world
    }
}

fn send(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

#[test]
fn who_connects_while_there_is_no_gateway_is_refused_at_once() {
    // The default.
    let world = World::new();
    let mut agents = Agents::send(&world.shop);
    for pid in world.gateway.pids().unwrap() {
        send(pid, Signal::SIGKILL);
    }
    wait_until("the gateway's end", PATIENCE, || world.gateway.is_gone()).unwrap();
    assert_refused(&agents.tried(&world.shop, A_WHILE));
    let asked = Instant::now();
    let psql = world.shop.psql("SELECT 1").run().unwrap();
    assert!(!psql.success() && asked.elapsed() < AT_ONCE, "{psql:?} after {:?}", asked.elapsed());
    let world = world.comes_back(&mut agents);
    drop(agents);
    world.unharmed();
}

#[test]
fn who_connects_while_there_is_no_gateway_waits_where_that_is_configured() {
    let world = World::set_up("without_gateway = \"wait\"");
    let mut agents = Agents::send(&world.shop);
    for pid in world.gateway.pids().unwrap() {
        send(pid, Signal::SIGKILL);
    }
    wait_until("the gateway's end", PATIENCE, || world.gateway.is_gone()).unwrap();
    // One that knows the address, and one that has to ask for it.
    let script = "import os, socket, struct, sys\ns = socket.create_connection((sys.argv[1], int(os.environ['PGPORT'])), timeout=20)\n\
                  s.sendall(struct.pack('!ii', 8, 80877103))\nprint('waited', s.recv(1))";
    let address = world.shop.postgres.address().to_string();
    let knows = world.shop.client("python3").args(["-c", script, &address]).start().unwrap();
    let asked = Instant::now();
    let psql = world.shop.psql("SELECT 'waited ' || 'too'").start().unwrap();
    assert_held(&agents.tried(&world.shop, A_WHILE));
    let world = world.comes_back(&mut agents);
    let knows = knows.finish(PATIENCE).unwrap();
    println!("a connect waited for {:?}", asked.elapsed());
    assert_eq!(knows.stdout.trim_end(), "waited b'S'", "{knows:?}");
    let psql = psql.finish(PATIENCE).unwrap();
    println!("a name and a connect waited for {:?}", asked.elapsed());
    assert!(psql.stdout.contains("waited too"), "{psql:?}");
    drop(agents);
    world.unharmed();
}

/// A memory cgroup, of whichever version this kernel has the controller in.
struct Memory {
    directory: PathBuf,
    limit: &'static str,
    events: &'static str,
}

impl Memory {
    /// Around a gateway, with so much that it may take beyond what it has.
    fn around(world: &World, more: u64) -> Self {
        Self::around_those(world, &world.gateway.pids().unwrap(), more)
    }

    /// Around these processes of it alone, where a cgroup of this kind may be beside the one that it is in.
    fn around_those(world: &World, pids: &[u32], more: u64) -> Self {
        let env = &world.shop.env;
        let old = PathBuf::from("/sys/fs/cgroup/memory");
        let own = env.cgroup().join("gateway");
        let memory = if old.join("cgroup.procs").exists() {
            // It goes with the environment, by this name.
            let directory = old.join(env.attach());
            fs::create_dir(&directory).unwrap();
            Self { directory, limit: "memory.limit_in_bytes", events: "memory.oom_control" }
        } else {
            for above in [env.cgroup().parent().unwrap(), env.cgroup()] {
                fs::write(above.join("cgroup.subtree_control"), "+memory")
                    .unwrap_or_else(|error| panic!("no memory controller: {}: {error}", above.display()));
            }
            Self { directory: own.clone(), limit: "memory.max", events: "memory.events" }
        };
        if memory.directory != own {
            // What they have stays on the account that it was on.
            for pid in pids {
                fs::write(memory.directory.join("cgroup.procs"), pid.to_string()).unwrap();
            }
        }
        let used =
            fs::read_to_string(memory.directory.join(memory.limit.replace("limit", "usage").replace("max", "current")));
        let used: u64 = used.unwrap().trim().parse().unwrap();
        fs::write(memory.directory.join(memory.limit), (used + more).to_string()).unwrap();
        memory
    }

    /// Processes that were killed for want of it.
    fn killed(&self) -> u64 {
        let events = fs::read_to_string(self.directory.join(self.events)).unwrap();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

#[test]
fn a_gateway_that_runs_out_of_memory_lets_nothing_pass() {
    let world = World::new();
    let mut agents = Agents::send(&world.shop);
    let memory = Memory::around(&world, 4 << 20);
    assert_eq!(memory.killed(), 0);
    // Each row is checked as a whole, and so it has to be held.
    let large = "SELECT repeat('x', 15 << 20) FROM generate_series(1, 20)";
    let eaters: Vec<Running> = (0..4).map(|_| world.shop.psql(large).start().unwrap()).collect();
    wait_until("the kernel to kill it", LONG, || memory.killed() > 0).unwrap();
    wait_until("the end of what is left of it", PATIENCE, || world.gateway.is_gone()).unwrap();
    for eater in eaters {
        let eater = eater.finish(PATIENCE).unwrap();
        assert!(!eater.success(), "{}", eater.stderr);
    }
    assert_refused(&agents.tried(&world.shop, A_WHILE));
    let mut world = world.comes_back(&mut agents);
    let lost = world.sessions().iter().filter(|row| row["outcome"] == "gateway lost").count();
    assert!(lost > 0, "no session was open when it was killed");
    drop(agents);
    world.unharmed();
}

/// The witness alone is killed: the gateway ends with it.
#[test]
fn a_witness_that_runs_out_of_memory_lets_nothing_pass() {
    /// Less than what the arguments of one process take.
    const LITTLE: u64 = 64 << 10;
    let world = World::new();
    let mut agents = Agents::send(&world.shop);
    let (main, witness) = (world.gateway.pid(), world.witness());
    let memory = Memory::around_those(&world, &[witness], LITTLE);
    assert_eq!(memory.killed(), 0);
    // It reads what every process that connects was started with.
    let address = world.shop.postgres.address().to_string();
    let words: Vec<String> = (0..20).map(|_| "x".repeat(100_000)).collect();
    let mut long = Vec::new();
    wait_until("the kernel to kill it", LONG, || {
        long.push(world.shop.psql("SELECT 1").env("PGHOSTADDR", &address).args(&words).start().unwrap());
        thread::sleep(Duration::from_millis(100));
        memory.killed() > 0
    })
    .unwrap();
    let exe = PathBuf::from(format!("/proc/{witness}/exe"));
    wait_until("its end, and nobody else's", PATIENCE, || !exe.exists()).unwrap();
    wait_until("the gateway's end", PATIENCE, || world.gateway.is_gone()).unwrap();
    assert!(!world.gateway.pids().unwrap().contains(&main));
    drop(long);
    assert_refused(&agents.tried(&world.shop, A_WHILE));
    let world = world.comes_back(&mut agents);
    drop(agents);
    world.unharmed();
}

/// It only passes on what others say: agents are served while it is stopped, and when it is killed the gateway goes with it.
#[test]
fn a_supervisor_that_is_stopped_and_killed_lets_nothing_pass() {
    let world = World::of(Shop::new().unwrap(), |shop| shop.env.serve_replaceable());
    let mut agents = Agents::send(&world.shop);
    send(world.gateway.pid(), Signal::SIGSTOP);
    agents.are_served(&world.shop);
    // So the service manager ends it before long.
    assert!(!world.gives_a_sign_of_life());
    let address = world.shop.postgres.address().to_string();
    let psql = world.shop.psql("SELECT 'served ' || 'all the same'").env("PGHOSTADDR", address).run().unwrap();
    assert!(psql.stdout.contains("served all the same"), "{psql:?}");
    send(world.gateway.pid(), Signal::SIGKILL);
    wait_until("the gateway's end", PATIENCE, || world.gateway.is_gone()).unwrap();
    assert_refused(&agents.tried(&world.shop, A_WHILE));
    let world = world.comes_back(&mut agents);
    drop(agents);
    world.unharmed();
}

#[test]
fn a_gateway_that_is_stopped_lets_nothing_pass_and_gives_no_sign_of_life() {
    let world = World::new();
    let mut agents = Agents::send(&world.shop);
    assert!(world.gives_a_sign_of_life(), "this shows nothing");
    world.gateway.signal(Signal::SIGSTOP).unwrap();
    assert_held(&agents.tried(&world.shop, A_WHILE));
    assert!(!world.gives_a_sign_of_life());
    // The watchdog's way.
    world.gateway.signal(Signal::SIGABRT).unwrap();
    world.gateway.signal(Signal::SIGKILL).unwrap();
    wait_until("the gateway's end", PATIENCE, || world.gateway.is_gone()).unwrap();
    assert_refused(&agents.tried(&world.shop, A_WHILE));
    let world = world.comes_back(&mut agents);
    world.gateway.signal(Signal::SIGSTOP).unwrap();
    assert_held(&agents.tried(&world.shop, A_WHILE));
    world.gateway.signal(Signal::SIGCONT).unwrap();
    agents.are_served(&world.shop);
    assert!(world.gives_a_sign_of_life());
    drop(agents);
    world.unharmed();
}

#[test]
fn a_witness_that_is_stopped_lets_nobody_in_and_the_gateway_gives_no_sign_of_life() {
    /// It is asked every five seconds, has five to answer, and fifteen in all.
    const NOTICED: Duration = Duration::from_secs(25);
    let mut world = World::new();
    let mut agents = Agents::send(&world.shop);
    let witness = world.witness();
    send(witness, Signal::SIGSTOP);
    let since = Instant::now();
    assert_held(&agents.tried(&world.shop, A_WHILE));
    // Who is in stays in.
    world.neighbour.write("SELECT 'here ' || 'still';\n").unwrap();
    world.neighbour.wait_for("here still", PATIENCE).unwrap();
    // Who waits is refused, with a record.
    let address = world.shop.postgres.address().to_string();
    let refused = world.shop.psql("SELECT 1").env("PGHOSTADDR", address).run().unwrap();
    let refused = world.told(refused);
    assert!(!refused.success(), "{refused:?}");
    wait_until("the sign of life to stay away", NOTICED, || !world.gives_a_sign_of_life()).unwrap();
    println!("a stopped witness is noticed after {:?}", since.elapsed());
    assert_held(&agents.tried(&world.shop, A_WHILE));
    send(witness, Signal::SIGCONT);
    // At once: in a moment the agents have made more sessions than are listed.
    let is_told = |row: &Value| {
        [&row["outcome"], &row["message"]]
            .iter()
            .any(|said| said.as_str().is_some_and(|said| said.contains("the witness did not answer")))
    };
    wait_until("the record of the refusal", PATIENCE, || world.sessions().iter().any(is_told))
        .unwrap_or_else(|error| panic!("{error}: {:#?}", world.sessions()));
    agents.are_served(&world.shop);
    wait_until("a sign of life", NOTICED, || world.gives_a_sign_of_life()).unwrap();
    drop(agents);
    world.unharmed();
}

/// Its threads by name, a name for each once.
fn threads(pid: u32) -> BTreeMap<String, i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.map(|task| {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap().trim().to_owned();
        (name, path.file_name().unwrap().to_str().unwrap().parse().unwrap())
    });
    threads.collect()
}

/// Each of those without which there is no gateway.
#[test]
fn a_gateway_with_a_thread_that_is_stuck_lets_nothing_pass_and_gives_no_sign_of_life() {
    /// As long as it takes until the last one is missed.
    const MISSED: Duration = Duration::from_secs(25);
    let world = World::new();
    let mut agents = Agents::send(&world.shop);
    let threads = threads(world.gateway.pid());
    println!("{:?}", threads.keys());
    for name in ["weir", "acceptor", "shard-0", "shard-1", "recorder"] {
        let stuck = Stuck::new(*threads.get(name).unwrap_or_else(|| panic!("no {name} in {threads:?}"))).unwrap();
        let since = Instant::now();
        let came = agents.tried(&world.shop, A_WHILE);
        wait_until(&format!("the sign of life to stay away, without {name}"), MISSED, || !world.gives_a_sign_of_life())
            .unwrap_or_else(|error| panic!("{error}: {came:?}"));
        println!("without {name}: {came:?}, noticed after {:?}", since.elapsed());
        drop(stuck);
        agents.are_served(&world.shop);
        wait_until("a sign of life", MISSED, || world.gives_a_sign_of_life()).unwrap();
    }
    drop(agents);
    world.unharmed();
}
