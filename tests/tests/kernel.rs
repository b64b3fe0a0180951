//! The kernel half on the real kernel: what is redirected, to whom it is attributed, what is refused, and that nothing
//! passes while Weir's processes die and come back. Agents are plain Python programs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use system_tests::cgroup::{self, Ground};
use weir::intercept::{self, DnsSocket, Interceptor};
use weir::origin::Origin;
use weir::target::CredentialSource;
use weir::witness::{self, CredentialName, Witness, WitnessConfig, WitnessError};

#[path = "kernel/dns.rs"]
mod dns;
#[path = "kernel/evidence.rs"]
mod evidence;
#[path = "kernel/files.rs"]
mod files;
#[path = "kernel/layouts.rs"]
mod layouts;
#[path = "kernel/memory.rs"]
mod memory;
#[path = "kernel/start.rs"]
mod start;
#[path = "kernel/tampering.rs"]
mod tampering;
#[path = "kernel/waiting.rs"]
mod waiting;

const PATIENCE: Duration = Duration::from_secs(20);
const PROBE: &str = env!("CARGO_BIN_EXE_probe");

/// The test process moves into the gateway's cgroup, so that one test at a time can run.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A ground with everything attached, and this process as its gateway.
struct Scene {
    witness: Witness,
    interceptor: Interceptor,
    witness_pid: u32,
    config: WitnessConfig,
    ground: Ground,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut WitnessConfig)) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        cgroup::clean().unwrap();
        let mut ground = Ground::new();
        ground.enter();
        let mut config = config(&ground);
        change(&mut config);
        let (witness, interceptor, witness_pid) = start_witness(&config);
        Self { witness, interceptor, witness_pid, config, ground, _turn: turn }
    }

    /// Runs a Python program in a cgroup of the ground, to its end.
    fn python(&self, cgroup: &str, script: &str, arguments: &[&str]) -> Output {
        python(&self.ground, cgroup, script, arguments).output().unwrap()
    }

    /// What an agent's program printed; it must succeed.
    fn agent(&self, script: &str, arguments: &[&str]) -> String {
        let output = self.python("agents/one", script, arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn gateway(&self) -> Gateway {
        Gateway::start(&self.interceptor, self.ground.port)
    }
}

fn config(ground: &Ground) -> WitnessConfig {
    WitnessConfig {
        kernel: ground.kernel_config(),
        token_files: Vec::new(),
        token_variables: Vec::new(),
        credentials: Vec::new(),
        containers: false,
    }
}

fn start_witness(config: &WitnessConfig) -> (Witness, Interceptor, u32) {
    let mut command = Command::new(PROBE);
    command.arg("witness");
    let process = witness::spawn_as(command, config).unwrap_or_else(|error| panic!("the witness: {error}"));
    assert!(process.report().enforcing(), "{:?}", process.report());
    let pid = process.pid();
    let (witness, interceptor) = process.into_parts().unwrap();
    (witness, interceptor, pid)
}

fn python(ground: &Ground, cgroup: &str, script: &str, arguments: &[&str]) -> Command {
    let mut command = ground.command(cgroup, "/usr/bin/python3");
    command.args(["-c", &format!("{PRELUDE}\n{script}")]).args(arguments);
    command
}

/// Helpers of all agents' programs.
const PRELUDE: &str = r#"
import errno, os, socket, sys, time, select, json, struct
def name(error): return errno.errorcode.get(error.errno, str(error))
def attempt(what):
    try:
        what()
        return "ok"
    except OSError as error:
        return name(error)
"#;

/// Accepts, takes the origin off the socket, reads a line and answers with `gateway` and the line.
struct Gateway {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Receiver<(String, Result<Origin, String>)>,
}

impl Gateway {
    fn start(interceptor: &Interceptor, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, seen) = channel();
        let mut threads = Vec::new();
        for listener in intercept::listeners(port).unwrap() {
            listener.set_nonblocking(false).unwrap();
            nix::sys::socket::setsockopt(
                &listener,
                nix::sys::socket::sockopt::ReceiveTimeout,
                &nix::sys::time::TimeVal::new(0, 50_000),
            )
            .unwrap();
            let (interceptor, sender, stop) = (interceptor.clone(), sender.clone(), stop.clone());
            threads.push(std::thread::spawn(move || accept_all(&listener, &interceptor, &sender, &stop)));
        }
        Self { stop, threads, seen }
    }

    fn next(&self) -> (String, Origin) {
        let (line, origin) = self.seen.recv_timeout(PATIENCE).expect("nobody connected");
        (line, origin.unwrap_or_else(|error| panic!("no origin: {error}")))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    interceptor: &Interceptor,
    seen: &Sender<(String, Result<Origin, String>)>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let origin = interceptor.origin(stream.as_fd(), peer).map_err(|error| error.to_string());
        let line = answer(stream, "gateway");
        let _ = seen.send((line, origin));
    }
}

/// Reads a line and sends it back behind `who`.
fn answer(stream: TcpStream, who: &str) -> String {
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    let _ = reader.read_line(&mut line);
    let _ = writeln!(reader.get_mut(), "{who} {}", line.trim());
    line.trim().to_owned()
}

/// A server that is no agent's and not the gateway: who reaches it was not intercepted.
fn bystander_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, "direct");
        }
    });
    address
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Connects to where its argument says and prints the answer and the peer's name.
const CONNECT: &str = r#"
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
s.settimeout(30)
try:
    s.connect((host, port))
    s.sendall(b"hello\n")
    print(s.makefile().readline().strip(), s.getpeername()[0], s.getpeername()[1])
except OSError as error:
    print(name(error))
"#;

#[test]
fn every_connect_is_attributed_to_its_process() {
    const PROCESSES: usize = 6;
    const CONNECTS: usize = 150;
    // Blocking and not, three families, several processes at once, every connection with a nonce of its own.
    const SCRIPT: &str = r#"
count = int(sys.argv[1])
targets = [(socket.AF_INET, "192.0.2.10"), (socket.AF_INET6, "2001:db8::10"), (socket.AF_INET6, "::ffff:192.0.2.11")]
for n in range(count):
    for family, host in targets:
        for blocking in (True, False):
            s = socket.socket(family)
            s.setblocking(blocking)
            try:
                s.connect((host, 1000 + n))
            except BlockingIOError:
                select.select([], [s], [], 10)
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            s.setblocking(True)
            s.sendall(f"{os.getpid()} {host} {1000 + n}\n".encode())
            assert s.makefile().readline().startswith("gateway")
            assert s.getpeername()[:2] == (host, 1000 + n), s.getpeername()
"#;
    let scene = Scene::new();
    let gateway = scene.gateway();
    let count = CONNECTS.to_string();
    let children: Vec<_> =
        (0..PROCESSES).map(|_| python(&scene.ground, "agents/one", SCRIPT, &[&count]).spawn().unwrap()).collect();
    let mut connects: HashMap<u32, usize> = HashMap::new();
    for _ in 0..PROCESSES * CONNECTS * 6 {
        let (nonce, origin) = gateway.next();
        let fields: Vec<&str> = nonce.split(' ').collect();
        let host = fields[1].parse::<IpAddr>().unwrap().to_canonical();
        assert_eq!(origin.pid.to_string(), fields[0], "{origin:?}");
        assert_eq!(origin.destination, SocketAddr::new(host, fields[2].parse().unwrap()));
        assert_eq!((origin.uid, origin.socket_cgroup_id), (0, origin.cgroup_id));
        assert!(origin.source.ip().is_loopback());
        *connects.entry(origin.pid).or_default() += 1;
    }
    for mut child in children {
        assert_eq!(connects.get(&child.id()), Some(&(CONNECTS * 6)));
        assert!(child.wait().unwrap().success());
    }
    let report = block_on(scene.witness.attachments()).unwrap();
    assert_eq!(report.counters["redirected"], (PROCESSES * CONNECTS * 6) as u64);
    assert_eq!((report.pending, report.counters["unattributed"]), (0, 0), "{report:?}");
}

#[test]
fn the_gateway_knows_its_peers_only_by_the_kernels_note() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    // Not an agent: it reaches the gateway's port, and has no origin.
    let mut stream = TcpStream::connect(("127.0.0.1", scene.ground.port)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let (_, origin) = gateway.seen.recv_timeout(PATIENCE).unwrap();
    assert!(origin.unwrap_err().contains("did not come through"));
    // An agent that connects to it by itself is redirected like everywhere, and asked for what it asked for.
    let port = scene.ground.port.to_string();
    assert!(scene.agent(CONNECT, &["127.0.0.1", &port]).starts_with("gateway hello"));
    assert_eq!(gateway.next().1.destination.port(), scene.ground.port);
}

#[test]
fn a_socket_from_outside_is_intercepted_too() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let procs = scene.ground.directory("agents/one").join("cgroup.procs");
    let script = r#"
tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
open(sys.argv[1], "w").write(str(os.getpid()))
tcp.connect(("192.0.2.1", 5432))
tcp.sendall(b"hello\n")
print(tcp.makefile().readline().strip(), attempt(lambda: udp.send(b"x")))
"#;
    let output = scene.python("bystanders", script, &[procs.to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "gateway hello EPERM\n", "{output:?}");
    let (_, origin) = gateway.next();
    assert_eq!(origin.destination, "192.0.2.1:5432".parse().unwrap());
    assert_eq!(origin.socket_cgroup_id, 0);
}

#[test]
fn an_agents_user_is_an_agent_in_every_cgroup() {
    let scene = Scene::with(|config| config.kernel.agent_uids = vec![54_321]);
    let gateway = scene.gateway();
    let script = format!("os.setuid(54321)\n{CONNECT}");
    let output = scene.python("bystanders", &script, &["192.0.2.1", "5432"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "gateway hello 192.0.2.1 5432\n");
    assert_eq!(gateway.next().1.uid, 54_321);
}

/// As it would by newuidmap(1), in a user namespace of its own, outside of every agents' cgroup.
#[test]
fn whom_an_agents_user_may_become_is_an_agent_in_every_cgroup() {
    const SEND: &str = r#"
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
os.setuid(int(sys.argv[1]))
print(attempt(lambda: udp.send(b"x")))
"#;
    let subuid = std::env::temp_dir().join(format!("weir-subuid-{}", std::process::id()));
    std::fs::write(&subuid, "# x\n54322:300000:65536\n54321:400000:65536\nghost:500000:65536\n").unwrap();
    let mut scene = Scene::with(|config| {
        config.kernel.agent_uids = vec![54_321];
        config.kernel.agent_names = [("ghost".to_owned(), 54_321)].into();
        config.kernel.subuid.clone_from(&subuid);
    });
    let gateway = scene.gateway();
    let server = bystander_server().port().to_string();
    let connect = |scene: &Scene, uid: u32| {
        let script = format!("os.setuid({uid})\n{CONNECT}");
        let output = scene.python("bystanders", &script, &["127.0.0.1", &server]);
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    };
    let send = |scene: &Scene, uid: u32| scene.python("bystanders", SEND, &[&uid.to_string()]).stdout;
    for uid in [400_000, 465_535, 500_000, 565_535] {
        assert_eq!(connect(&scene, uid), "gateway", "{uid}");
        assert_eq!(gateway.next().1.uid, uid);
        assert_eq!(send(&scene, uid), b"EPERM\n", "{uid}");
    }
    let free = [0, 300_000, 399_999, 465_536, 499_999, 565_536];
    for uid in free {
        assert_eq!(connect(&scene, uid), "direct", "{uid}");
        assert_eq!(send(&scene, uid), b"ok\n", "{uid}");
    }
    // Read again at a reload; a file that cannot be held changes nothing.
    std::fs::write(&subuid, "54321:0:65536\n").unwrap();
    let refused = block_on(scene.witness.reconfigure(scene.config.clone())).unwrap_err().to_string();
    assert!(refused.contains("root") && refused.contains(&subuid.display().to_string()), "{refused}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(connect(&scene, 400_000), "gateway");
    std::fs::write(&subuid, "54321:300000:65536\n").unwrap();
    block_on(scene.witness.reconfigure(scene.config.clone())).unwrap();
    assert_eq!([300_000, 400_000].map(|uid| connect(&scene, uid)), ["gateway", "direct"]);
    // Another witness, whose programs replace these, knows the same.
    kill(scene.witness_pid);
    (scene.witness, scene.interceptor, scene.witness_pid) = start_witness(&scene.config);
    assert_eq!([300_000, 400_000, 0].map(|uid| connect(&scene, uid)), ["gateway", "direct", "direct"]);
    std::fs::remove_file(&subuid).unwrap();
}

#[test]
fn bystanders_are_left_alone() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let server = bystander_server();
    let port = server.port().to_string();
    let output = scene.python("bystanders", CONNECT, &["127.0.0.1", &port]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("direct hello 127.0.0.1 {port}\n"));
    let options = "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, 36, 1); s.bind(('127.0.0.1', 0)); print('ok')";
    assert_eq!(scene.python("bystanders", options, &[]).stdout, b"ok\n");
}

#[test]
fn without_a_gateway_agents_are_refused_at_once() {
    let scene = Scene::new();
    let server = bystander_server().port().to_string();
    let started = Instant::now();
    for host in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "127.0.0.1"] {
        assert_eq!(scene.agent(CONNECT, &[host, &server]), "ECONNREFUSED\n", "{host}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    wait_for("the end of all connects", || block_on(scene.witness.attachments()).unwrap().pending == 0);
}

/// A new network namespace with its loopback device up (CLONE_NEWNET, SIOCSIFFLAGS); the cgroup stays.
const ENTER: &str = r#"
import ctypes, fcntl
assert ctypes.CDLL(None).unshare(0x40000000) == 0
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh22x", b"lo", 1))
"#;

#[test]
fn an_unknown_network_namespace_is_held_and_told_until_somebody_listens_there() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let mut events = scene.interceptor.denied_events().unwrap();
    let script = format!("{ENTER}\n{CONNECT}");
    let agent = python(&scene.ground, "agents/one", &script, &["192.0.2.1", "5432"]).stdout(Stdio::piped()).spawn();
    let agent = agent.unwrap();
    // Once by socket(), again by connect(), which says where to.
    let held = block_on(async {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.next().await.unwrap();
                if event.origin.destination.port() != 0 {
                    return event;
                }
            }
        })
        .await
    });
    let held = held.unwrap();
    assert!(held.is_held() && held.protocol == 6, "{held:?}");
    assert_eq!((held.origin.pid, held.origin.destination), (agent.id(), "192.0.2.1:5432".parse().unwrap()));
    let look = block_on(scene.witness.namespaces(Vec::new(), Vec::new())).unwrap();
    assert!(look.opened.is_some(), "{look:?}");
    // The answer was lost, as far as the witness can know: it is given again, and not when it has arrived.
    drop(look);
    let look = block_on(scene.witness.namespaces(Vec::new(), Vec::new())).unwrap();
    let namespace = look.opened.expect("the agent's namespace was not found");
    let look = block_on(scene.witness.namespaces(Vec::new(), vec![namespace.cookie])).unwrap();
    assert!(look.opened.is_none() && look.left.is_empty(), "{look:?}");
    assert_eq!(namespace.cookie, held.origin.netns_cookie);
    let [listener, _] = namespace.doors.listeners;
    let mut accepted = None;
    system_tests::process::wait_until("the agent's connection", PATIENCE, || {
        accepted = listener.accept().ok();
        accepted.is_some()
    })
    .unwrap();
    let (stream, peer) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    let origin = scene.interceptor.origin(stream.as_fd(), peer).unwrap();
    assert_eq!((origin.pid, origin.netns_cookie), (agent.id(), namespace.cookie));
    answer(stream, "gateway");
    let output = agent.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"gateway hello 192.0.2.1 5432\n");
    // Nobody is there any more: the second look says so, once.
    let look = |serving: &[u64]| block_on(scene.witness.namespaces(Vec::new(), serving.to_vec())).unwrap();
    let serving = [namespace.cookie];
    assert_eq!([look(&serving).left, look(&serving).left], [vec![], vec![namespace.cookie]]);
    assert_eq!(look(&serving).left, [namespace.cookie], "until the gateway has heard of it");
    assert_eq!(look(&[]).left, [0; 0]);
}

#[test]
fn an_unknown_network_namespace_is_refused_where_nobody_can_listen() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let port = scene.ground.port;
    // Somebody outside has taken the gateway's port there, which no agent may.
    let script = format!(
        "{ENTER}\ns = socket.create_server(('127.0.0.1', {port}))\nprint('ready', flush=True)\nsys.stdin.read()"
    );
    let mut squatter =
        python(&scene.ground, "bystanders", &script, &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(squatter.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let enter = format!(
        "import ctypes\nassert ctypes.CDLL(None).setns(os.open('/proc/{}/ns/net', os.O_RDONLY), 0) == 0\nfirst = attempt(lambda: \
         socket.create_connection(('192.0.2.1', 5432), 0.3))\nprint('held', flush=True)\nsys.stdin.readline()\n{CONNECT}",
        squatter.id()
    );
    let mut agent = python(&scene.ground, "agents/one", &enter, &["192.0.2.1", "5432"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(agent.stdout.as_mut().unwrap(), &mut held).unwrap();
    let look = block_on(scene.witness.namespaces(Vec::new(), Vec::new())).unwrap();
    assert!(look.opened.is_none(), "{look:?}");
    let warnings = block_on(scene.witness.attachments()).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("network namespace")), "{warnings:?}");
    std::io::Write::write_all(agent.stdin.as_mut().unwrap(), b"\n").unwrap();
    let output = agent.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ECONNREFUSED\n");
    squatter.kill().unwrap();
    squatter.wait().unwrap();
}

#[test]
fn what_cannot_be_redirected_is_refused_with_an_error_at_once() {
    const SCRIPT: &str = r#"
INET, INET6, STREAM, DGRAM, RAW = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
port, dns_port = int(sys.argv[1]), int(sys.argv[2])
tcp = socket.socket()
def option(level, name, value): return attempt(lambda: socket.socket().setsockopt(level, name, value))
def bind(family, kind, address): return attempt(lambda: socket.socket(family, kind).bind(address))
udp, udp6 = socket.socket(INET, DGRAM), socket.socket(INET6, DGRAM)
print(json.dumps({
    "raw": attempt(lambda: socket.socket(INET, RAW, 6)),
    "raw6": attempt(lambda: socket.socket(INET6, RAW, 58)),
    "hdrincl": attempt(lambda: socket.socket(INET, RAW, 255)),
    "ping": attempt(lambda: socket.socket(INET, DGRAM, 1)),
    "ping6": attempt(lambda: socket.socket(INET6, DGRAM, 58)),
    "udplite": attempt(lambda: socket.socket(INET, DGRAM, 136)),
    "mptcp": attempt(lambda: socket.socket(INET, STREAM, 262)),
    "udp": attempt(lambda: udp.sendto(b"x", ("192.0.2.1", 443))),
    "udp_loopback": attempt(lambda: udp.sendto(b"x", ("127.0.0.1", 443))),
    "udp6": attempt(lambda: udp6.sendto(b"x", ("2001:db8::1", 443))),
    "udp_mapped": attempt(lambda: udp6.sendto(b"x", ("::ffff:192.0.2.1", 443))),
    "udp_connect": attempt(lambda: udp.connect(("192.0.2.1", 443))),
    "udp_resolver": attempt(lambda: udp.sendto(b"x", ("127.64.0.1", dns_port))),
    "device": option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"),
    "device_index": option(socket.SOL_SOCKET, 62, 1),
    "mark": option(socket.SOL_SOCKET, socket.SO_MARK, 1),
    "transparent": option(0, 19, 1),
    "transparent6": attempt(lambda: socket.socket(INET6).setsockopt(41, 75, 1)),
    "source_route": option(0, 4, b"\x83\x07\x04\x7f\x00\x00\x01\x00"),
    "repair": option(6, 19, 1),
    "gateway_port": bind(INET, STREAM, ("127.0.0.1", port)),
    "gateway_port_any": bind(INET, STREAM, ("0.0.0.0", port)),
    "gateway_port6": bind(INET6, STREAM, ("::", port)),
    "resolver_port": bind(INET, DGRAM, ("127.0.0.1", dns_port)),
    "low_port": bind(INET, STREAM, ("127.0.0.1", 81)),
    "nodelay": option(6, 1, 1),
    "own_port": bind(INET, STREAM, ("127.0.0.1", 0)),
}))
"#;
    let scene = Scene::new();
    let ports = [scene.ground.port.to_string(), scene.ground.dns_port.to_string()];
    let seen: serde_json::Value = serde_json::from_str(&scene.agent(SCRIPT, &[&ports[0], &ports[1]])).unwrap();
    // Where `net.ipv4.ping_group_range` leaves the user out, the kernel refuses before any program runs.
    for ping in ["ping", "ping6"] {
        assert!(["EPERM", "EACCES"].contains(&seen[ping].as_str().unwrap()), "{seen}");
    }
    for (attempt, expected) in [
        ("raw", "EPERM"),
        ("raw6", "EPERM"),
        ("hdrincl", "EPERM"),
        ("udplite", "EPROTONOSUPPORT"),
        ("mptcp", "EPROTONOSUPPORT"),
        ("udp", "ECONNREFUSED"),
        ("udp_loopback", "ECONNREFUSED"),
        ("udp6", "ECONNREFUSED"),
        ("udp_mapped", "ECONNREFUSED"),
        ("udp_connect", "ECONNREFUSED"),
        ("udp_resolver", "ECONNREFUSED"),
        ("device", "EPERM"),
        ("device_index", "EPERM"),
        ("mark", "EPERM"),
        ("transparent", "EPERM"),
        ("transparent6", "EPERM"),
        ("source_route", "EPERM"),
        ("repair", "EPERM"),
        ("gateway_port", "EPERM"),
        ("gateway_port_any", "EPERM"),
        ("gateway_port6", "EPERM"),
        ("resolver_port", "EPERM"),
        ("low_port", "EPERM"),
        ("nodelay", "ok"),
        ("own_port", "ok"),
    ] {
        assert_eq!(seen[attempt], expected, "{attempt}: {seen}");
    }
    assert_eq!(seen.as_object().unwrap().len(), 27);
}

#[test]
fn only_the_gateway_binds_its_ports() {
    let scene = Scene::new();
    let (port, dns_port) = (scene.ground.port.to_string(), scene.ground.dns_port.to_string());
    let script = r"
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for port in sys.argv[1:]:
        print(attempt(lambda: socket.socket(socket.AF_INET, kind).bind(('127.0.0.1', int(port)))))
";
    let output = scene.python("bystanders", script, &[&port, &dns_port]);
    assert_eq!(output.stdout, b"EPERM\nEPERM\nEPERM\nEPERM\n");
    // This process is in the gateway's cgroup.
    drop(intercept::listeners(scene.ground.port).unwrap());
    drop(intercept::dns_sockets(scene.ground.dns_port).unwrap());
}

#[test]
fn an_agent_reaches_its_own_loopback_server_and_nobody_elses() {
    const OWN: &str = r#"
import threading
def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"own\n")
        connection.close()
for family, bind, hosts in ((socket.AF_INET, "127.0.0.1", ["127.0.0.1"]), (socket.AF_INET, "0.0.0.0", ["127.0.0.1", "127.9.9.9"]),
                            (socket.AF_INET6, "::1", ["::1"]), (socket.AF_INET6, "::", ["::1", "::ffff:127.0.0.1"])):
    listener = socket.socket(family)
    listener.bind((bind, 0))
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    for host in hosts:
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.settimeout(10)
        print(host, attempt(lambda: s.connect((host, port))), s.makefile().readline().strip())
"#;
    const SERVER: &str = r#"
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"other\n")
"#;
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let seen = scene.agent(OWN, &[]);
    assert_eq!(seen.lines().count(), 6, "{seen}");
    assert!(seen.lines().all(|line| line.ends_with("ok own")), "{seen}");
    // Another agent's server is not the agent's own, nor is a bystander's.
    for owner in ["agents/two", "bystanders", "agents/one/below"] {
        let mut server =
            python(&scene.ground, owner, SERVER, &[]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        assert!(scene.agent(CONNECT, &["127.0.0.1", port.trim()]).starts_with("gateway hello"), "{owner}");
        server.kill().unwrap();
        server.wait().unwrap();
    }
    let report = block_on(scene.witness.attachments()).unwrap();
    assert_eq!(report.counters["own_server"], 6);
}

#[test]
fn nothing_passes_while_the_witness_is_killed_and_comes_back() {
    const ROUNDS: usize = 7;
    const PROBER: &str = r#"
counts = {}
end = time.time() + 60
while not os.path.exists(sys.argv[2]) and time.time() < end:
    s = socket.socket()
    s.settimeout(10)
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        s.sendall(b"hello\n")
        result = s.makefile().readline().split(" ")[0].strip() or "closed"
    except OSError as error:
        result = name(error)
    s.close()
    counts[result] = counts.get(result, 0) + 1
print(json.dumps(counts))
"#;
    let mut scene = Scene::new();
    let server = bystander_server().port().to_string();
    let stop = std::env::temp_dir().join(format!("weir-stop-{}", std::process::id()));
    let prober = python(&scene.ground, "agents/one", PROBER, &[&server, stop.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut attributed = 0;
    for _ in 0..ROUNDS {
        let gateway = scene.gateway();
        for _ in 0..100 {
            gateway.next();
            attributed += 1;
        }
        drop(gateway);
        kill(scene.witness_pid);
        block_on(async { tokio::time::timeout(PATIENCE, scene.witness.lost()).await }).unwrap();
        assert_eq!(block_on(scene.witness.attachments()), Err(WitnessError::Lost));
        (scene.witness, scene.interceptor, scene.witness_pid) = start_witness(&scene.config);
    }
    std::fs::write(&stop, "").unwrap();
    let output = prober.wait_with_output().unwrap();
    let _ = std::fs::remove_file(&stop);
    let counts: HashMap<String, u64> = serde_json::from_slice(&output.stdout).unwrap();
    println!("{counts:?}");
    assert_eq!(counts.get("direct"), None, "{counts:?}");
    assert!(counts["gateway"] >= attributed && counts["ECONNREFUSED"] > 0, "{counts:?}");
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn detach_lets_agents_pass_and_ends_by_itself() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let server = bystander_server().port().to_string();
    let connect = || scene.agent(CONNECT, &["127.0.0.1", &server]);
    assert!(connect().starts_with("gateway"));
    let report = witness::detach(&scene.config, Duration::from_secs(3), "the pager rang").unwrap();
    let detached = report.detached.clone().unwrap();
    assert_eq!((detached.uid, detached.reason.as_str(), detached.remaining <= 3), (0, "the pager rang", true));
    assert!(!report.enforcing());
    assert!(connect().starts_with("direct"));
    // Nobody is needed to end it.
    kill(scene.witness_pid);
    wait_for("the end of the detach", || witness::kernel_status(&scene.config).unwrap().enforcing());
    assert!(!connect().starts_with("direct"));
}

#[test]
fn an_agent_cannot_detach() {
    let scene = Scene::new();
    let move_to = |cgroup: &str| {
        let path = scene.ground.directory(cgroup).join("cgroup.procs");
        std::fs::write(path, std::process::id().to_string()).unwrap();
    };
    move_to("agents/one");
    let result = witness::detach(&scene.config, Duration::from_mins(1), "let me out");
    move_to("gateway");
    assert!(result.unwrap_err().to_string().contains("agent"));
    let too_long = witness::detach(&scene.config, Duration::from_hours(24), "for ever");
    assert!(too_long.unwrap_err().to_string().contains("at most"));
    assert!(witness::kernel_status(&scene.config).unwrap().enforcing());
}

#[test]
fn attachments_are_seen_as_they_are_and_put_back() {
    let scene = Scene::new();
    assert!(block_on(scene.witness.attachments()).unwrap().enforcing());
    // Held, so that the witness cannot put the link back before it is seen missing.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(scene.witness_pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    std::fs::remove_file(links(&scene).join("connect4")).unwrap();
    let report = witness::kernel_status(&scene.config).unwrap();
    let missing: Vec<&str> =
        report.hooks.iter().filter(|hook| !hook.effective).map(|hook| hook.name.as_str()).collect();
    assert_eq!((missing, report.enforcing()), (vec!["connect4"], false));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    wait_for("the repair", || block_on(scene.witness.attachments()).unwrap().enforcing());
    assert_eq!(scene.agent(CONNECT, &["192.0.2.1", "5432"]), "ECONNREFUSED\n");
}

fn links(scene: &Scene) -> std::path::PathBuf {
    scene.config.kernel.bpf_dir.join(format!("v{}/links", gateway_common::LAYOUT))
}

#[test]
fn an_agents_cgroup_that_is_made_anew_is_intercepted_again() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let agents = scene.ground.directory("agents");
    std::fs::remove_dir(&agents).unwrap();
    std::fs::create_dir(&agents).unwrap();
    let server = bystander_server().port().to_string();
    // Told by the kernel, not found by the next round: well before Python has started.
    assert!(scene.agent(CONNECT, &["127.0.0.1", &server]).starts_with("gateway"));
}

#[test]
fn clean_detaches_everything() {
    let scene = Scene::new();
    let server = bystander_server().port().to_string();
    kill(scene.witness_pid);
    block_on(scene.witness.lost());
    witness::clean(&scene.config.kernel.bpf_dir).unwrap();
    wait_for("the detachment", || scene.agent(CONNECT, &["127.0.0.1", &server]).starts_with("direct"));
    assert!(!scene.config.kernel.bpf_dir.exists());
}

#[test]
fn at_boot_everything_is_closed_before_a_gateway_runs() {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let ground = Ground::new();
    let config = config(&ground);
    let report = witness::kernel_attach(&config).unwrap();
    assert!(report.enforcing(), "{report:?}");
    let server = bystander_server().port().to_string();
    let output = python(&ground, "agents/one", CONNECT, &["127.0.0.1", &server]).output().unwrap();
    assert_eq!(output.stdout, b"ECONNREFUSED\n");
    // Twice is once.
    assert_eq!(witness::kernel_attach(&config).unwrap().hooks, report.hooks);
    drop(turn);
}

#[test]
fn a_reload_changes_who_is_an_agent() {
    let scene = Scene::new();
    let _gateway = scene.gateway();
    let server = bystander_server().port().to_string();
    let who = || scene.python("bystanders", CONNECT, &["127.0.0.1", &server]).stdout;
    assert!(who().starts_with(b"direct"));
    let mut config = scene.config.clone();
    config.kernel.agents.push(scene.ground.below("bystanders"));
    block_on(scene.witness.reconfigure(config)).unwrap();
    assert!(who().starts_with(b"gateway"));
    block_on(scene.witness.reconfigure(scene.config.clone())).unwrap();
    assert!(who().starts_with(b"direct"));
    let mut elsewhere = scene.config.clone();
    elsewhere.kernel.attach = String::new();
    assert!(block_on(scene.witness.reconfigure(elsewhere)).is_err());
    let mut another_port = scene.config.clone();
    another_port.kernel.port += 2;
    assert!(block_on(scene.witness.reconfigure(another_port)).is_err());
    let mut inside = scene.config.clone();
    inside.kernel.gateway_cgroup = Some(scene.ground.below("agents"));
    assert!(block_on(scene.witness.reconfigure(inside)).unwrap_err().to_string().contains("must not run"));
}

#[test]
fn refused_things_become_events_at_a_bounded_rate() {
    let scene = Scene::new();
    let mut events = scene.interceptor.denied_events().unwrap();
    assert!(scene.interceptor.denied_events().is_err());
    let script = r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(1000): attempt(lambda: s.sendto(b"x", ("192.0.2.1", 443)))
"#;
    scene.agent(script, &[]);
    let event = block_on(async { tokio::time::timeout(PATIENCE, events.next()).await }).unwrap().unwrap();
    assert_eq!((event.reason, event.protocol), ("denied_udp", 17));
    assert_eq!(event.origin.destination, "192.0.2.1:443".parse().unwrap());
    let report = block_on(scene.witness.attachments()).unwrap();
    assert_eq!(report.counters["denied_udp"], 1000);
    assert!(report.counters["events_dropped"] >= 900, "{report:?}");
}

#[test]
fn the_gateway_process_has_nothing_left() {
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let file = std::env::temp_dir().join(format!("weir-root-only-{}", std::process::id()));
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = Command::new(PROBE)
        .args(["confined", "nobody", &bystander.id().to_string(), file.to_str().unwrap()])
        .output()
        .unwrap();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    std::fs::remove_file(&file).unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && seen.lines().count() == 16,
        "{seen} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in seen.lines() {
        // What a reload needs, so that this test can fail either way.
        let allowed = ["own_cgroup", "mounts", "nothing"].iter().any(|name| line.starts_with(name));
        assert_eq!(line.ends_with(" yes"), allowed, "{line}");
    }
}

/// The unspecified address means what the socket is bound to: an own server at one loopback address must not open the way
/// to somebody else's at another.
#[test]
fn an_own_server_opens_no_way_to_another_one() {
    const TRICKS: &str = r#"
import socket, sys
port, other = int(sys.argv[1]), int(sys.argv[2])
def attempt(listen, bind, to, port):
    server = socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET)
    if ":" in listen:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((listen, port)); server.listen(5)
    client = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET)
    client.settimeout(5)
    try:
        client.bind((bind, 0)); client.connect((to, port))
        client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f"); client.recv(1)
    except OSError as error:
        print(to, error)
    client.close(); server.close()
attempt("::1", "::ffff:127.0.0.1", "::", port)
attempt("127.0.0.1", "127.0.0.2", "0.0.0.0", other)
attempt("127.0.0.1", "::ffff:127.0.0.2", "::ffff:0.0.0.0", other)
print("tried")
"#;
    let shop = system_tests::shop::Shop::new().unwrap();
    let victim = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let (port, other) = (shop.postgres.port().to_string(), victim.local_addr().unwrap().port().to_string());
    let arrived = || shop.postgres.log().matches("connection received").count();
    let mut gateway = Some(shop.serve().unwrap());
    for round in ["served", "gateway dead"] {
        let before = arrived();
        let tried = shop.env.agent("python3").args(["-c", TRICKS, &port, &other]).run().unwrap();
        assert!(tried.stdout.ends_with("tried\n"), "{round}: {tried:?}");
        assert_eq!(arrived(), before, "{round}: the agent reached the database: {tried:?}");
        assert!(victim.accept().is_err(), "{round}: the agent reached somebody's server: {tried:?}");
        if let Some(gateway) = gateway.take() {
            gateway.kill().unwrap();
        }
    }
}
