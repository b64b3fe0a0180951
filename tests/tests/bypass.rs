//! No way around: every technique of the attack corpus (`tests/bypass`), tried by every kind of attacker, against the one
//! table that says what must come of it. The agents' host is a network namespace; whatever arrives at the other end of its
//! cable and is not the gateway's is a leak, whatever the attacker's program believes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use system_tests::env::{AGENT_USER, Attacker, Env, GATEWAY_USER, Gateway, Place};
use system_tests::outside::{self, Frame, Outside};
use system_tests::postgres::{Options, Postgres};
use system_tests::process::Running;
use system_tests::shop::Shop;

#[path = "bypass/table.rs"]
mod table;

use table::{Must, Row, TABLE};

/// What every attempt that sends anything sends.
const SECRET: &[u8] = b"the agent's secret";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long somebody tries to get in.
const KNOCK: Duration = Duration::from_millis(1500);

/// A host with a gateway, agents, an accomplice who is none, and the other end of its cable.
struct Scene {
    gateway: Option<Gateway>,
    accomplice: Running,
    /// A server of a bystander on loopback, which is no agent's.
    bystander: u16,
    shop: Shop,
    bypass: PathBuf,
    setuid: PathBuf,
    outside: Outside,
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
        let mut outside = Outside::lay_and_enter().unwrap();
        let env = Env::new().unwrap();
        let options = Options { network: Some(outside.network(outside::TARGET)), ..Options::default() };
        let postgres = Postgres::start_with(&env, options).unwrap();
        let shop = Shop::with(env, postgres).unwrap();
        let gateway = Some(shop.serve().unwrap());
        let env = &shop.env;
        let bypass = stage(env, "bypass", 0o755);
        let setuid = stage(env, "bypass-setuid", 0o4755);
        delegate(&env.cgroup().join("agents/coder"));
        let bystander = bystander_server();
        let path = env.dir().join("accomplice");
        let program = env.bystander(bypass.to_str().unwrap()).arg("accomplice");
        let accomplice = program
            .args([format!("accomplice={}", path.display()), format!("canary={}", outside::CANARY)])
            .start()
            .unwrap();
        accomplice.wait_for("ready", PATIENCE).unwrap();
        outside.answer_at((outside::CANARY, ACCOMPLICE_PORT).into()).unwrap();
        Self { gateway, accomplice, bystander, shop, bypass, setuid, outside }
    }

    fn arguments(&self, port: u16) -> Vec<String> {
        let env = &self.shop.env;
        let gateway = self.gateway.as_ref().map(|gateway| gateway.pids().unwrap()).unwrap_or_default();
        let main = self.gateway.as_ref().map_or(0, Gateway::pid);
        let witness = gateway.iter().find(|pid| **pid != main).copied().unwrap_or(0);
        let interface = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let interface = interface.lines().find(|line| line.ends_with(outside::WIRE)).unwrap();
        let interface = u32::from_str_radix(interface.split(' ').nth(1).unwrap(), 16).unwrap();
        let group = |name: &str| env.cgroup().join(name).display().to_string();
        [
            ("canary", outside::CANARY.to_string()),
            ("canary6", outside::CANARY6.to_string()),
            ("neighbour", outside::ROUTER_LINK_LOCAL.to_string()),
            ("host", outside::HOST.to_string()),
            ("host_link_local", outside::HOST_LINK_LOCAL.to_string()),
            ("hardware", outside::CABLE_HARDWARE.to_owned()),
            ("device", outside::WIRE.to_owned()),
            ("interface", interface.to_string()),
            ("port", port.to_string()),
            ("bystander", self.bystander.to_string()),
            ("gateway", env.port().to_string()),
            ("resolver", env.dns_port().to_string()),
            ("gateway_pid", main.to_string()),
            ("witness_pid", witness.to_string()),
            ("accomplice_pid", self.accomplice.pid().to_string()),
            ("accomplice", env.dir().join("accomplice").display().to_string()),
            ("admin", env.runtime_dir().join("admin.sock").display().to_string()),
            ("pins", env.bpf_dir().display().to_string()),
            ("layout", gateway_common::LAYOUT.to_string()),
            ("agents", group("agents/coder/cgroup.procs")),
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
            // Made before it is an agent: it begins outside and moves itself, which takes root.
            _ if technique.starts_with("moved_") => env.bystander(bypass),
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
        static PORT: AtomicU16 = AtomicU16::new(2000);
        // The accomplice connects before it hands its socket in, so that somebody must listen.
        let port = match technique {
            "handed_tcp_connected" | "handed_reconnect" | "moved_tcp_connected" => ACCOMPLICE_PORT,
            _ => PORT.fetch_add(1, Ordering::Relaxed),
        };
        self.outside.take().unwrap();
        let running = self.place(who, technique).arg(technique).args(self.arguments(port)).start().unwrap();
        let entered = technique.starts_with("bind_shell") && self.knock(technique, &running);
        let finished = running.finish(PATIENCE).unwrap();
        let said = finished.stdout.lines().last().unwrap_or_default().to_owned();
        assert!(
            finished.success() && !said.is_empty(),
            "{technique} as {who:?} could not even try: {finished:?}\n{:?}",
            self.arguments(port)
        );
        let leaks = self.outside.take().unwrap().into_iter().filter(|frame| self.is_leak(frame)).collect();
        Attempt { said, entered, port, leaks }
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

/// Where a server at the other end listens, for connections that an accomplice makes.
const ACCOMPLICE_PORT: u16 = 1999;

/// The corpus beside the `weir` that agents can execute.
fn stage(env: &Env, name: &str, mode: u32) -> PathBuf {
    let built = std::env::var_os("WEIR_BIN").map(PathBuf::from);
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("weir");
    let built = built.unwrap_or(beside).with_file_name("bypass");
    let staged = env.dir().join("bin").join(name);
    std::fs::copy(&built, &staged).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(mode)).unwrap();
    staged
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
fn judge(row: &Row, must: Must, attempt: &Attempt, refused: Option<&[String]>, bystander: u16) -> Option<String> {
    let Attempt { said, entered, port, leaks } = attempt;
    let errno = said.strip_prefix("blocked ");
    let port = if row.technique.contains("loopback") || row.technique.contains("unspecified") { bystander } else { *port };
    let as_it_must = match must {
        Must::Blocked(errnos) => errno.is_some_and(|errno| errnos.contains(&errno)),
        Must::Intercepted => match refused {
            // Taken by the gateway, which recorded it and ended it.
            Some(refused) => {
                (said == "closed" || errno == Some("ECONNRESET"))
                    && refused.iter().any(|message| message.ends_with(&format!(":{port}")))
            }
            None => errno.is_some(),
        },
        Must::Harmless => said.starts_with("done "),
        Must::Open(_) => !said.starts_with("blocked "),
    };
    let mut wrong = String::new();
    if !as_it_must {
        write!(wrong, "{said:?} where {must:?}; ").unwrap();
    }
    if *entered {
        wrong.push_str("somebody came in; ");
    }
    let leaks: Vec<_> = leaks.iter().map(|leak| (leak.source, leak.destination, leak.protocol, leak.port)).collect();
    if !leaks.is_empty() && !matches!(must, Must::Open(door) if door.leaks) {
        write!(wrong, "leaked {leaks:?}").unwrap();
    }
    (!wrong.is_empty()).then(|| format!("{}: {wrong}", row.technique))
}

/// Every row of the table, by one attacker; with a gateway, or without one.
fn try_all(scene: &Scene, who: Who, must: impl Fn(&Row) -> Option<Must>) -> Vec<String> {
    let attempts: Vec<_> = TABLE
        .iter()
        .filter_map(|row| Some((row, must(row)?)))
        .map(|(row, must)| (row, must, scene.attempt(who, row.technique)))
        .collect();
    let refused = scene.gateway.is_some().then(|| scene.refused());
    attempts
        .iter()
        .filter_map(|(row, must, attempt)| judge(row, *must, attempt, refused.as_deref(), scene.bystander))
        .map(|wrong| format!("{who:?}: {wrong}"))
        .collect()
}

#[test]
fn the_table_has_every_technique_once() {
    let listed = std::process::Command::new(stage_path()).arg("list").output().unwrap();
    let listed: BTreeSet<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|row| row.technique.to_owned()).collect();
    assert_eq!(rows.len(), TABLE.len());
    assert_eq!(listed.difference(&rows).collect::<Vec<_>>(), vec!["inherited"], "a step of others");
    assert_eq!(rows.difference(&listed).count(), 0);
}

fn stage_path() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("bypass")
}

/// The oracle must be able to see: the gateway's own packets, and a leak.
fn the_oracle_sees(scene: &Scene) {
    scene.outside.take().unwrap();
    let psql = scene.shop.psql("SELECT 'by way of ' || 'the gateway'").run().unwrap();
    assert!(psql.stdout.contains("by way of the gateway"), "{psql:?}\n{}", scene.shop.env.log());
    let frames = scene.outside.take().unwrap();
    assert!(!frames.is_empty() && !frames.iter().any(|frame| scene.is_leak(frame)), "{frames:?}");
    // A neighbour is no agent: nothing stops it, and its packets are nobody's whom the oracle knows.
    let free = scene.shop.env.bystander_as("games", scene.bypass.to_str().unwrap());
    let free = free.arg("udp").args(scene.arguments(ACCOMPLICE_PORT)).run().unwrap();
    assert_eq!(free.stdout, "done sent\n");
    let frames = scene.outside.take().unwrap();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert!(scene.is_leak(&frames[0]) && frames[0].holds(SECRET));
}

#[test]
fn nothing_gets_around_the_gateway_alive_or_dead() {
    let mut scene = Scene::new();
    the_oracle_sees(&scene);
    let mut wrong = Vec::new();
    for round in ["served", "gateway dead"] {
        let mut found = Vec::new();
        for attacker in Attacker::ALL {
            found.extend(try_all(&scene, Who::Agent(attacker), |row| Some(row.must(attacker))));
        }
        found.extend(try_all(&scene, Who::Neighbour, |row| row.neighbour));
        wrong.extend(found.into_iter().map(|wrong| format!("{round}: {wrong}")));
        if let Some(gateway) = scene.gateway.take() {
            gateway.kill().unwrap();
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(scene.shop.env.log().matches("panicked").count(), 0);
    let _ = GATEWAY_USER;
}
