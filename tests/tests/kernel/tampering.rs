//! Somebody with root takes the kernel half away, piece by piece, under a living witness: within a second it is whole again, or
//! the witness says that it is not; and what was left of it keeps agents in meanwhile.
//!
//! The agents' host has a cable (see [`system_tests::outside`]), so that a packet that gets out is seen from outside. Beside that, a
//! server on the loopback device, which no device guards, says who reached it.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use system_tests::canary::Canary;
use system_tests::outside::{CANARY, Outside};
use system_tests::sabotage::{detach_link, pin_link_again};

use super::*;

/// What is taken away is back, or the log says that it is not.
const WITHIN: Duration = Duration::from_secs(1);
/// The probers have tried each way some times by then.
const A_WHILE: Duration = Duration::from_millis(400);

/// A scene on the agents' host, with agents that try to get out all the while.
struct Siege {
    probers: Vec<Child>,
    stop: PathBuf,
    loopback: Canary,
    datagrams: UdpSocket,
    outside: &'static Outside,
    _gateway: Gateway,
    scene: Scene,
}

impl Siege {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut WitnessConfig)) -> Self {
        let outside = Outside::enter().unwrap();
        let scene = Scene::with(change);
        let gateway = scene.gateway();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.set_nonblocking(true).unwrap();
        let stop = std::env::temp_dir().join(format!("weir-siege-{}", std::process::id()));
        let _ = std::fs::remove_file(&stop);
        let loopback = Canary::start().unwrap();
        outside.take().unwrap();
        let mut siege = Self { probers: Vec::new(), stop, loopback, datagrams, outside, _gateway: gateway, scene };
        siege.send_agents();
        siege
    }

    /// One that connects, and one that sends datagrams, to each of the two hosts.
    fn send_agents(&mut self) {
        let (outside, local) = (self.outside.answer_at(CANARY).unwrap(), self.loopback.port());
        let datagrams = self.datagrams.local_addr().unwrap().port();
        for (kind, host, port) in [
            ("tcp", CANARY.to_string(), outside),
            ("tcp", "127.0.0.1".to_owned(), local),
            ("udp", CANARY.to_string(), 9),
            ("udp", "127.0.0.1".to_owned(), datagrams),
        ] {
            let words = [kind, &host, &port.to_string(), self.stop.to_str().unwrap()];
            let prober = python(&self.scene.ground, "agents/one", PROBER, &words).stdout(Stdio::piped()).spawn();
            self.probers.push(prober.unwrap());
        }
        // Under way when it begins.
        let before = self.redirected();
        wait_for("the probers", || self.redirected() > before + 10);
    }

    fn redirected(&self) -> u64 {
        witness::kernel_status(&self.scene.config).unwrap().counters.get("redirected").copied().unwrap_or_default()
    }

    /// Does it, and waits until everything is in effect again; how long that took.
    fn healed_after(&self, deed: impl FnOnce()) -> Duration {
        let started = Instant::now();
        deed();
        let is_whole = || witness::kernel_status(&self.scene.config).is_ok_and(|report| report.enforcing());
        wait_for("the repair", is_whole);
        started.elapsed()
    }

    /// What the agents have got: never a word from a server.
    fn end(mut self) -> Vec<HashMap<String, u64>> {
        std::thread::sleep(A_WHILE);
        std::fs::write(&self.stop, "").unwrap();
        let said: Vec<HashMap<String, u64>> = self
            .probers
            .drain(..)
            .map(|prober| serde_json::from_slice(&prober.wait_with_output().unwrap().stdout).unwrap())
            .collect();
        let _ = std::fs::remove_file(&self.stop);
        let tries: u64 = said.iter().flat_map(HashMap::values).sum();
        let passed = self.loopback.reached();
        println!("agents tried {tries} times meanwhile, {passed} passed: {said:?}");
        for counts in &said {
            assert_eq!(counts.get("direct"), None, "{said:?}");
            assert!(counts.values().sum::<u64>() > 5, "{said:?}");
        }
        assert!(said[..2].iter().all(|counts| counts.contains_key("gateway")), "{said:?}");
        assert_eq!(self.loopback.reached(), 0, "an agent reached a server on loopback: {said:?}");
        assert!(self.datagrams.recv(&mut [0; 16]).is_err(), "a datagram arrived on loopback: {said:?}");
        let frames = self.outside.take().unwrap();
        let frames: Vec<_> = frames.iter().map(|frame| (frame.source, frame.destination, frame.port)).collect();
        assert!(frames.is_empty(), "{} packets left the host: {:?}", frames.len(), &frames[..frames.len().min(5)]);
        said
    }

    fn links(&self) -> PathBuf {
        links(&self.scene)
    }

    /// The pins of links that can be detached: those of cgroups.
    fn hooks(&self) -> Vec<PathBuf> {
        let is_hook =
            |path: &PathBuf| !path.ends_with("weir_cgroup_made") && !path.display().to_string().contains("lsm-");
        let hooks: Vec<PathBuf> = names_in(&self.links()).into_iter().filter(is_hook).collect();
        assert_eq!(hooks.len(), 15, "{hooks:?}");
        hooks
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        for prober in &mut self.probers {
            // Errors mean that it is gone already.
            drop((prober.kill(), prober.wait()));
        }
    }
}

/// Connects, or sends, and counts what came of it.
const PROBER: &str = r#"
kind, host, port, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
counts, kept = {}, []
def connect():
    s = socket.socket()
    s.settimeout(0.2)
    try:
        s.connect((host, port))
        s.sendall(b"hello\n")
        return s.makefile().readline().split(" ")[0].strip() or "closed"
    except TimeoutError:
        return "held"
    except OSError as error:
        return name(error)
    finally:
        s.close()
def send():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        result = attempt(lambda: s.sendto(b"hello", (host, port)))
        time.sleep(0.002)
        return result
end = time.time() + 120
while not os.path.exists(stop) and time.time() < end:
    result = connect() if kind == "tcp" else send()
    counts[result] = counts.get(result, 0) + 1
print(json.dumps(counts))
"#;

fn names_in(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn report(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!("{what}: {} times, answered after {median:?} (median), {longest:?} (at most)", times.len());
    for time in times {
        assert!(*time <= WITHIN, "{what}: {times:?}");
    }
}

/// Each of them by itself: the others hold what it held.
#[test]
fn a_program_that_somebody_detaches_is_back_within_a_second_and_nothing_passed() {
    let siege = Siege::new();
    let mut times = Vec::new();
    for link in &siege.hooks() {
        times.push(siege.healed_after(|| detach_link(link).unwrap()));
        std::thread::sleep(A_WHILE / 4);
    }
    report("a program detached", &times);
    siege.end();
}

/// While nobody can put it back at all.
#[test]
fn nothing_passes_while_a_program_is_missing() {
    let siege = Siege::new();
    let witness = nix::unistd::Pid::from_raw(i32::try_from(siege.scene.witness_pid).unwrap());
    let mut times = Vec::new();
    for link in siege.hooks() {
        nix::sys::signal::kill(witness, nix::sys::signal::Signal::SIGSTOP).unwrap();
        detach_link(&link).unwrap();
        assert!(!witness::kernel_status(&siege.scene.config).unwrap().enforcing(), "{}", link.display());
        std::thread::sleep(A_WHILE);
        times.push(siege.healed_after(|| nix::sys::signal::kill(witness, nix::sys::signal::Signal::SIGCONT).unwrap()));
    }
    report("a program missing, and a witness that goes on", &times);
    siege.end();
}

#[test]
fn pins_that_somebody_removes_are_back_within_a_second_and_nothing_passed() {
    let siege = Siege::new();
    let pins = siege.scene.config.kernel.bpf_dir.clone();
    let (of_layout, maps) = (siege.links().with_file_name(""), siege.links().with_file_name("maps"));
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(siege.healed_after(|| std::fs::remove_dir_all(&pins).unwrap()));
        times.push(siege.healed_after(|| std::fs::remove_dir_all(&of_layout).unwrap()));
        times.push(siege.healed_after(|| std::fs::remove_dir_all(siege.links()).unwrap()));
        for link in names_in(&siege.links()) {
            times.push(siege.healed_after(|| std::fs::remove_file(link).unwrap()));
        }
    }
    report("pins removed", &times);
    // Maps too, and the same ones: else a gateway that comes back would meet other maps than the programs know.
    let before = siege.redirected();
    std::fs::remove_dir_all(&maps).unwrap();
    wait_for("the maps", || maps.join("COUNTS").exists() && siege.redirected() > before);
    siege.end();
}

/// The witness may mount nothing. What it holds stays in effect, it says what is wrong, and puts the pins back when somebody has mounted it
/// again.
#[test]
fn an_unmounted_bpffs_is_told_within_a_second_and_nothing_passed() {
    let own = std::env::temp_dir().join(format!("weir-bpffs-{}", std::process::id()));
    let siege = Siege::with(|config| config.kernel.bpf_dir = own.join("pins"));
    let complains = || {
        let report = block_on(siege.scene.witness.attachments()).unwrap();
        // Not taken away yet, whatever became of the pins.
        assert!(report.enforcing(), "{report:?}");
        report.warnings.iter().any(|warning| warning.contains("bpffs"))
    };
    assert!(!complains());
    let started = Instant::now();
    umount2(&own, MntFlags::MNT_DETACH).unwrap();
    wait_for("the complaint", complains);
    report("bpffs unmounted", &[started.elapsed()]);
    let status = witness::kernel_status(&siege.scene.config).unwrap();
    assert!(!status.enforcing(), "what doctor sees: {status:?}");
    std::thread::sleep(3 * A_WHILE);
    let healed =
        siege.healed_after(|| mount(Some("bpf"), &own, Some("bpf"), MsFlags::empty(), Some("mode=700")).unwrap());
    report("bpffs mounted again", &[healed]);
    wait_for("the end of the complaint", || !complains());
    siege.end();
    umount2(&own, MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_dir(&own).unwrap();
}

/// The first thing that is done in it is a connect; nobody waits for the witness to have heard of it.
#[test]
fn an_agents_cgroup_that_is_made_anew_is_never_free() {
    const ROUNDS: usize = 300;
    const REMAKE: &str = r#"
agents, home, host, port, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
def move(cgroup): open(cgroup + "/cgroup.procs", "w").write("0")
counts = {}
for n in range(rounds):
    os.rmdir(agents)
    # Unless the witness was faster.
    os.makedirs(agents, exist_ok=True)
    place = agents
    if n % 2:
        place = agents + "/unit"
        os.mkdir(place)
    move(place)
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect((host, port))
        s.sendall(b"hello\n")
        result = s.makefile().readline().split(" ")[0].strip() or "closed"
    except OSError as error:
        result = name(error)
    s.close()
    move(home)
    if place != agents: os.rmdir(place)
    counts[result] = counts.get(result, 0) + 1
print(json.dumps(counts))
"#;
    let outside = Outside::enter().unwrap();
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let canary = Canary::start().unwrap();
    let port = canary.port().to_string();
    let (agents, home) = (scene.ground.directory("agents"), scene.ground.directory("bystanders"));
    outside.take().unwrap();
    let words = [agents.to_str().unwrap(), home.to_str().unwrap(), "127.0.0.1", &port, &ROUNDS.to_string()];
    let output = scene.python("bystanders", REMAKE, &words);
    assert!(output.status.success(), "{output:?}");
    let counts: HashMap<String, usize> = serde_json::from_slice(&output.stdout).unwrap();
    let passed = canary.reached();
    println!("an agents' cgroup made anew and entered at once: {ROUNDS} times, {passed} passed: {counts:?}");
    assert_eq!(counts, HashMap::from([("gateway".to_owned(), ROUNDS)]));
    assert_eq!(canary.reached(), 0);
}

/// Each of them is another agent's.
#[test]
fn an_agents_cgroup_that_cannot_be_made_keeps_no_other_from_care() {
    let scene = Scene::with(|config| {
        let limited = format!("{}/limited/agents", config.kernel.attach);
        config.kernel.agents.insert(0, limited);
    });
    let _gateway = scene.gateway();
    let warns = || {
        let report = block_on(scene.witness.attachments()).unwrap();
        report.warnings.iter().any(|warning| warning.contains("limited/agents: "))
    };
    let (limited, other) = (scene.ground.directory("limited"), scene.ground.directory("agents"));
    std::fs::write(limited.join("cgroup.max.descendants"), "0").unwrap();
    std::fs::remove_dir(limited.join("agents")).unwrap();
    wait_for("the warning", warns);
    std::fs::remove_dir(&other).unwrap();
    wait_for("the other one", || other.exists());
    let intercepted = "gateway hello 192.0.2.1 5432\n";
    assert_eq!(scene.agent(CONNECT, &["192.0.2.1", "5432"]), intercepted);
    // Whoever makes it makes an agents', whatever the witness knows by then.
    std::fs::write(limited.join("cgroup.max.descendants"), "max").unwrap();
    let output = scene.python("limited/agents/one", CONNECT, &["192.0.2.1", "5432"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), intercepted);
    wait_for("the end of the warning", || !warns());
}

/// More often than the map of agents' cgroups has room for: the kernel half tidies up by itself.
#[test]
fn an_agents_cgroup_that_is_made_anew_without_a_witness_is_never_free() {
    const ROUNDS: usize = gateway_common::MAX_AGENT_IDS + 100;
    let scene = Scene::new();
    kill(scene.witness_pid);
    let agents = scene.ground.directory("agents");
    for one in names_in(&agents).into_iter().filter(|path| path.is_dir()) {
        std::fs::remove_dir(one).unwrap();
    }
    for _ in 0..ROUNDS {
        std::fs::remove_dir(&agents).unwrap();
        std::fs::create_dir(&agents).unwrap();
    }
    let server = bystander_server().port().to_string();
    let output = scene.python("agents", CONNECT, &["127.0.0.1", &server]);
    println!("made anew {ROUNDS} times without a witness");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ECONNREFUSED\n");
}

/// As it happens in an upgrade, if the old witness puts its pins back just when the new one has removed them.
#[test]
fn a_witness_that_another_layout_succeeds_lets_go_and_leaves_nothing() {
    let siege = Siege::new();
    let next = siege.scene.config.kernel.bpf_dir.join("v999/links");
    std::fs::create_dir_all(&next).unwrap();
    for link in siege.hooks() {
        pin_link_again(&link, &next.join(link.file_name().unwrap())).unwrap();
    }
    let started = Instant::now();
    let old = siege.links().with_file_name("");
    wait_for("the old pins' end", || !old.exists());
    report("succeeded", &[started.elapsed()]);
    // For longer than until the next looks, and all that is left are the other's.
    std::thread::sleep(3 * A_WHILE);
    assert!(!old.exists());
    siege.end();
}

/// Five looks a second, for ever: so they must be cheap.
#[test]
fn looking_after_the_kernel_half_costs_next_to_nothing() {
    const FOR: Duration = Duration::from_secs(5);
    /// Of one CPU. What is expected is a tenth of that.
    const AT_MOST: f64 = 0.01;
    let scene = Scene::new();
    // proc(5): nanoseconds on a CPU, of the one thread that the witness has.
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", scene.witness_pid)).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap()).as_secs_f64()
    };
    let before = spent();
    std::thread::sleep(FOR);
    let share = (spent() - before) / FOR.as_secs_f64();
    println!("the witness's look costs {:.3} % of a CPU", share * 100.0);
    assert!(share < AT_MOST, "{:.2} %", share * 100.0);
}
