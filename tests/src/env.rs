//! A place of its own for one test: cgroups, directories, ports, a configuration, a gateway, agents. All of it is below
//! an attach point of its own: nothing here touches the machine's other processes, the real root cgroup least of all.
//!
//! ```text
//! cgroup2 mount/weir-test-PID-N/agents/coder   agents run here
//!                              /gateway        `weir serve`
//!                              /bystanders     everybody else: servers, the administrator's commands
//! ```
//!
//! Dropping an [`Env`] kills what runs in these cgroups and removes pins, cgroups and files. What a killed test run
//! could not remove, the next run removes (and `cargo xtask clean-kernel`).

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::unistd::User;

use crate::Result;
use crate::process::{self, Finished, PATIENCE, Running, wait_until};

/// Also known to `cargo xtask clean-kernel`.
const PREFIX: &str = "weir-test-";
const BPF_MOUNT: &str = "/sys/fs/bpf";
pub(crate) const PAM_SERVICES: &str = "/etc/pam.d";
/// The users that `cargo xtask setup` makes.
pub const GATEWAY_USER: &str = "weir";
pub const WITNESS_USER: &str = "weir-witness";
pub const AGENT_USER: &str = "agent-coder";
/// The agent's name in [`Env::agent_config`], and its cgroup below `agents/`.
pub const AGENT: &str = "coder";

/// How long the gateway may take until it says that it is ready (it loads eBPF programs), and to end.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);

pub struct Env {
    /// `weir-test-PID-N`: the cgroup, the pins' and the files' directory have this name.
    name: String,
    dir: PathBuf,
    cgroup: PathBuf,
    port: u16,
    dns_port: u16,
    /// As [`Env::gateway_config`] has it.
    shards: u16,
}

impl Env {
    /// With a gateway of two shards, whatever the machine has.
    pub fn new() -> Result<Self> {
        Self::with_shards(2)
    }

    /// With a gateway as it comes.
    pub fn as_it_comes() -> Result<Self> {
        Self::with_shards(0)
    }

    fn with_shards(shards: u16) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        sweep()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let env = Self {
            dir: std::env::temp_dir().join(&name),
            cgroup: cgroup2_mount()?.join(&name),
            port: free_port()?,
            dns_port: free_port()?,
            shards,
            name,
        };
        env.make_cgroups()?;
        env.make_directories()?;
        Ok(env)
    }

    fn make_cgroups(&self) -> Result {
        for group in ["agents", "agents/coder", "agents/root", "agents/container", "gateway", "bystanders"] {
            let path = self.cgroup.join(group);
            fs::create_dir_all(&path).map_err(|e| format!("{}: {e} (the system tests need root)", path.display()))?;
        }
        Ok(())
    }

    fn make_directories(&self) -> Result {
        let (gateway, agent) = (user(GATEWAY_USER)?, user(AGENT_USER)?);
        for (directory, mode, owner) in [
            ("", 0o755, None),
            ("run", 0o755, Some(&gateway)),
            ("state", 0o750, Some(&gateway)),
            ("state/recordings", 0o700, Some(&gateway)),
            ("credentials", 0o700, None),
            ("tokens", 0o755, None),
            ("home", 0o700, Some(&agent)),
            ("bin", 0o755, None),
        ] {
            let path = self.dir.join(directory);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            if let Some(owner) = owner {
                chown(&path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
            }
        }
        // Where agents can execute it: the build directory may be below a home that only its owner enters.
        let (built, staged) = (built_weir()?, self.weir_path());
        if fs::hard_link(&built, &staged).is_err() {
            fs::copy(&built, &staged)?;
        }
        Ok(())
    }

    /// A copy of a test's program where agents can execute it.
    pub fn staged(&self, program: impl AsRef<Path>, name: &str, mode: u32) -> Result<PathBuf> {
        let (program, staged) = (program.as_ref(), self.dir.join("bin").join(name));
        fs::copy(program, &staged).map_err(|error| format!("{}: {error}", program.display()))?;
        fs::set_permissions(&staged, fs::Permissions::from_mode(mode))?;
        Ok(staged)
    }

    /// World-readable; everything in it is gone with the environment.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The attach point; below it are `agents`, `gateway` and `bystanders`.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The attach point as the configuration names it: relative to the cgroup2 mount.
    pub fn attach(&self) -> &str {
        &self.name
    }

    pub fn bpf_dir(&self) -> PathBuf {
        Path::new(BPF_MOUNT).join(&self.name)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The gateway's TCP port and its resolver's UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn dns_port(&self) -> u16 {
        self.dns_port
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.join("weir.toml")
    }

    pub fn weir_path(&self) -> PathBuf {
        self.dir.join("bin/weir")
    }

    /// The `[gateway]` section that keeps a gateway inside this environment.
    pub fn gateway_config(&self) -> String {
        format!(
            "[gateway]\nagents = [\"{0}/agents\"]\nattach = \"{0}\"\nuser = \"{GATEWAY_USER}\"\n\
             runtime_dir = \"{1}\"\nstate_dir = \"{2}\"\nbpf_dir = \"{3}\"\nport = {4}\ndns_port = {5}\nshards = {6}\n",
            self.name,
            self.runtime_dir().display(),
            self.state_dir().display(),
            self.bpf_dir().display(),
            self.port,
            self.dns_port,
            self.shards,
        )
    }

    /// The `[[agent]]` section of the agent that [`Env::agent`] runs, with its token in a file.
    pub fn agent_config(&self) -> String {
        format!(
            "[[agent]]\nname = \"{AGENT}\"\ncgroup = \"{}/agents/{AGENT}\"\nuser = \"{AGENT_USER}\"\ntoken = {{ file = \"{}\" }}\n",
            self.name,
            self.token_path().display(),
        )
    }

    /// Writes the configuration: this environment's `[gateway]`, then `rest`.
    pub fn configure(&self, rest: &str) -> Result {
        Ok(fs::write(self.config_path(), format!("{}\n{rest}", self.gateway_config()))?)
    }

    pub fn token_path(&self) -> PathBuf {
        self.dir.join("tokens").join(format!("{AGENT}.token"))
    }

    /// Gives the agent this token.
    pub fn set_token(&self, token: &str) -> Result {
        let (path, agent) = (self.token_path(), user(AGENT_USER)?);
        fs::write(&path, token)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(chown(&path, Some(agent.uid.as_raw()), Some(agent.gid.as_raw()))?)
    }

    /// A secret that the gateway finds as systemd would hand it over (`LoadCredential=`).
    pub fn set_credential(&self, name: &str, value: &str) -> Result {
        let path = self.dir.join("credentials").join(name);
        fs::write(&path, value)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?)
    }

    /// Names as the gateway resolves them. Agents do not see these: they ask the gateway.
    pub fn hosts(&self, entries: &[(&str, IpAddr)]) -> Result {
        let lines = entries.iter().map(|(name, address)| format!("{address} {name}\n"));
        Ok(fs::write(self.hosts_path(), lines.collect::<String>() + "127.0.0.1 localhost\n")?)
    }

    fn hosts_path(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("gateway.log")
    }

    /// Starts `weir serve` in its cgroup and waits until it says that it is ready.
    pub fn serve(&self) -> Result<Gateway> {
        let gateway = self.start_gateway()?;
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// The same as weir.service does it: the gateway can be replaced, see [`Gateway::leave`].
    pub fn serve_replaceable(&self) -> Result<Gateway> {
        let gateway = self.start(None, &["--replaceable"])?;
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// The same with a state directory of so many bytes, which only the gateway sees and which is gone with it: look at it
    /// by [`Gateway::state_dir`].
    pub fn serve_on_small_disk(&self, bytes: u64) -> Result<Gateway> {
        let gateway = self.start(Some(bytes), &[])?;
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// Starts `weir serve` and does not wait: for starts that are meant to fail.
    pub fn start_gateway(&self) -> Result<Gateway> {
        self.start(None, &[])
    }

    fn start(&self, disk: Option<u64>, words: &[&str]) -> Result<Gateway> {
        let notify_path = self.dir.join("notify");
        if notify_path.exists() {
            fs::remove_file(&notify_path)?;
        }
        let notify = UnixDatagram::bind(&notify_path)?;
        notify.set_nonblocking(true)?;
        fs::set_permissions(&notify_path, fs::Permissions::from_mode(0o666))?;
        if !self.hosts_path().exists() {
            self.hosts(&[])?;
        }
        // In a mount namespace of its own for a few files; pins and everything else are the machine's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", JOIN_AND_EXEC, "sh"]).arg(self.cgroup.join("gateway"));
        command.args(["unshare", "--mount", "--propagation", "slave", "sh", "-c", AS_UNIT_AND_EXEC, "sh"]);
        command.arg(self.hosts_path()).arg(disk.map_or(String::new(), |bytes| bytes.to_string())).arg(self.state_dir());
        command.arg(self.bpf_dir()).args(WITNESS).arg(format!("--bounding-set={CAPABILITIES}"));
        command.args(["inh", "ambient"].map(|set| format!("--{set}-caps={CAPABILITIES}"))).arg("--");
        command.arg(self.weir_path()).arg("serve").args(words).arg("--config").arg(self.config_path());
        command.env("NOTIFY_SOCKET", &notify_path).env("CREDENTIALS_DIRECTORY", self.dir.join("credentials"));
        command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Gateway {
            child: process::spawn(command)?,
            notify,
            cgroup: self.cgroup.join("gateway"),
            state_dir: self.state_dir(),
            log: self.log_path(),
            has_left: false,
        })
    }

    /// A command as the agent: in its cgroup, as its user, without capabilities or a way to new ones.
    pub fn agent(&self, program: &str) -> Place<'_> {
        Place::new(self, self.cgroup.join("agents").join(AGENT), Some(AGENT_USER), program)
    }

    /// A command in another cgroup below `agents/`, which is made if missing.
    pub fn agent_in(&self, group: &str, user: &str, program: &str) -> Result<Place<'_>> {
        let cgroup = self.cgroup.join("agents").join(group);
        fs::create_dir_all(&cgroup)?;
        Ok(Place::new(self, cgroup, Some(user), program))
    }

    /// A command of nobody, in the cgroup that this process is in: no program is attached there.
    pub fn outsider(&self, program: &str) -> Place<'_> {
        Place { env: self, command: Command::new(program) }
    }

    /// A command as the agent, begun by `words` as root: in a network namespace, say.
    pub fn agent_behind<'b>(&self, words: impl IntoIterator<Item = &'b str>, program: &str) -> Place<'_> {
        Place::wrapped(self, self.cgroup.join("agents").join(AGENT), &start_behind(words), program)
    }

    /// The same in another cgroup, which is made if missing.
    pub fn agent_in_behind<'b>(
        &self,
        group: &str,
        words: impl IntoIterator<Item = &'b str>,
        program: &str,
    ) -> Result<Place<'_>> {
        let cgroup = self.cgroup.join("agents").join(group);
        fs::create_dir_all(&cgroup)?;
        Ok(Place::wrapped(self, cgroup, &start_behind(words), program))
    }

    /// A command as an attacker that is an agent, with all that such an agent may have where nobody took it away.
    pub fn attacker(&self, attacker: Attacker, program: &str) -> Place<'_> {
        self.attacker_behind(&[], attacker, program)
    }

    /// A command in the container's cgroup that holds one capability (`net_raw`, as setpriv(1) calls it) and no other: as root, or
    /// as the agent's user.
    pub fn capable(&self, user: Option<&str>, capability: &str, program: &str) -> Place<'_> {
        let mut words = vec!["setpriv".to_owned(), "--pdeathsig".to_owned(), "KILL".to_owned()];
        let sets: &[&str] = if let Some(user) = user {
            words.extend(["--reuid", user, "--regid", user, "--init-groups"].map(str::to_owned));
            &["inh-caps", "ambient-caps", "bounding-set"]
        } else {
            words.push("--inh-caps=-all".to_owned());
            &["bounding-set"]
        };
        words.extend(sets.iter().map(|set| format!("--{set}=-all,+{capability}")));
        words.push("--".to_owned());
        Place::wrapped(self, self.cgroup.join("agents/container"), &words, program)
    }

    /// The same where anybody may open `/dev/net/tun`, as udev has it.
    pub fn attacker_with_tun(&self, attacker: Attacker, program: &str) -> Place<'_> {
        self.attacker_behind(&WITH_TUN, attacker, program)
    }

    /// The same, begun by `before` as root: with mounts of its own, say.
    pub fn attacker_behind(&self, before: &[&str], attacker: Attacker, program: &str) -> Place<'_> {
        let words = before.iter().copied().map(str::to_owned).chain(self.start_attacker(attacker, AGENT_USER));
        Place::wrapped(self, self.agents_cgroup(attacker), &words.collect::<Vec<_>>(), program)
    }

    /// The same outside of the agents' cgroups, and as `user`, whom no agent's name makes one: somebody who will be moved there.
    pub fn attacker_to_be(&self, attacker: Attacker, user: &str, program: &str) -> Place<'_> {
        let words: Vec<String> = self.start_attacker(attacker, user).collect();
        Place::wrapped(self, self.cgroup.join("bystanders"), &words, program)
    }

    /// The cgroup of such attackers.
    pub fn agents_cgroup(&self, attacker: Attacker) -> PathBuf {
        let group = match attacker {
            Attacker::User => AGENT,
            Attacker::Root => "root",
            Attacker::Container => "container",
        };
        self.cgroup.join("agents").join(group)
    }

    fn start_attacker(&self, attacker: Attacker, user: &str) -> impl Iterator<Item = String> {
        let words = match attacker {
            Attacker::User => USER.map(|word| if word == AGENT_USER { user } else { word }.to_owned()).to_vec(),
            Attacker::Root => ROOT.map(str::to_owned).to_vec(),
            Attacker::Container => {
                let mount = self.cgroup.parent().unwrap_or(&self.cgroup).display().to_string();
                CONTAINER.map(str::to_owned).into_iter().chain([mount]).collect()
            }
        };
        words.into_iter()
    }

    /// A command outside the agents, as root.
    pub fn bystander(&self, program: &str) -> Place<'_> {
        Place::new(self, self.cgroup.join("bystanders"), None, program)
    }

    /// A command outside the agents, as another user.
    pub fn bystander_as(&self, user: &str, program: &str) -> Place<'_> {
        Place::new(self, self.cgroup.join("bystanders"), Some(user), program)
    }

    /// The same where anybody may open `/dev/net/tun`, as udev has it.
    pub fn bystander_with_tun(&self, user: &str, program: &str) -> Place<'_> {
        let words: Vec<String> = WITH_TUN.into_iter().map(str::to_owned).chain(start_as(Some(user))).collect();
        Place::wrapped(self, self.cgroup.join("bystanders"), &words, program)
    }

    /// `weir WORDS --config ...` as the administrator.
    pub fn weir<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Finished> {
        let program = self.weir_path();
        self.bystander(&program.to_string_lossy()).args(words).arg("--config").arg(self.config_path()).run()
    }

    /// The gateway's log, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}---", self.log());
        }
        // Best effort: what stays is named, and the next run tries again.
        // The cgroups first: a witness that lives would put the pins back.
        for failed in [remove_cgroups(&self.cgroup), remove_dir(&self.bpf_dir()), remove_dir(&self.dir)] {
            if let Err(e) = failed {
                eprintln!("left behind: {e}");
            }
        }
        for mount in old_hierarchies().unwrap_or_default() {
            remove_tree(&mount.join(&self.name));
        }
    }
}

/// Joins the cgroup whose directory is the first argument, then becomes the rest. As services do, of whom nobody logged in to start
/// them; whoever runs the tests may have.
const JOIN_AND_EXEC: &str =
    r#"{ echo 4294967295 > /proc/self/loginuid; } 2>/dev/null; echo 0 > "$1/cgroup.procs" && shift && exec "$@""#;
/// What weir.service does: sees no processes of others (`ProtectProc=`), and the pins are the witness's. Besides, the first
/// argument is /etc/hosts, and a file system of as many bytes as the second says, if it says any, is where the third says. The
/// fourth is the pins' directory. Then becomes the rest.
const AS_UNIT_AND_EXEC: &str = r#"mount -t proc -o hidepid=invisible proc /proc && mount --bind "$1" /etc/hosts &&
{ test -z "$2" || { mount -t tmpfs -o "size=$2,mode=750" weir-test "$3" && mkdir -m 700 "$3/recordings" &&
chown -R weir: "$3"; }; } && mkdir -p -m 700 "$4" && chown -R weir-witness: "$4" &&
shift 4 && exec "$@""#;
/// The user of weir.service, without a way to more than [`CAPABILITIES`].
const WITNESS: [&str; 7] =
    ["setpriv", "--reuid", WITNESS_USER, "--regid", WITNESS_USER, "--clear-groups", "--no-new-privs"];
/// Those of weir.service.
const CAPABILITIES: &str =
    "-all,+bpf,+net_admin,+perfmon,+sys_ptrace,+dac_read_search,+setuid,+setgid,+setpcap,+sys_admin";

/// What an agent that attacks may be. None has a drop-in: nothing but Weir and the kernel stands in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attacker {
    /// The agent's user, which may gain privileges.
    User,
    /// Root, whose capabilities were all taken for good.
    Root,
    /// Root in a container on the host's network: the capabilities that runtimes leave by default, process numbers, mounts
    /// and names of its own, the cgroup files read-only and the pins out of sight.
    Container,
}

impl Attacker {
    pub const ALL: [Self; 3] = [Self::User, Self::Root, Self::Container];
}

const USER: [&str; 10] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--reuid",
    AGENT_USER,
    "--regid",
    AGENT_USER,
    "--init-groups",
    "--inh-caps=-all",
    "--",
];
const ROOT: [&str; 6] = ["setpriv", "--pdeathsig", "KILL", "--inh-caps=-all", "--bounding-set=-all", "--"];
const CONTAINER: [&str; 12] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-c",
    CONTAIN_AND_EXEC,
    "sh",
];
/// The first argument is the cgroup2 mount. The capabilities are those of runc's and containerd's default.
const CONTAIN_AND_EXEC: &str = r#"mount -t proc proc /proc && mount -t tmpfs none /sys/fs/bpf && mount -o remount,bind,ro "$1" &&
shift && exec setpriv --inh-caps=-all --bounding-set=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write -- "$@""#;

/// The numbers are those of `tun` (Linux, admin-guide/devices.txt).
const WITH_TUN: [&str; 7] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    r#"mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@""#,
    "sh",
];

/// The words that start a command as a user, without capabilities or a way to new ones; as root where none is named.
fn start_as(user: Option<&str>) -> Vec<String> {
    let mut words = vec!["setpriv", "--pdeathsig", "KILL"];
    if let Some(user) = user {
        words.extend(["--reuid", user, "--regid", user, "--init-groups"]);
        words.extend(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]);
    }
    words.push("--");
    words.into_iter().map(str::to_owned).collect()
}

/// The words that start a command as the agent's user, after `words` as root.
fn start_behind<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).chain(start_as(Some(AGENT_USER))).collect()
}

/// A command that is to run in one of the environment's cgroups.
pub struct Place<'a> {
    env: &'a Env,
    command: Command,
}

impl<'a> Place<'a> {
    fn new(env: &'a Env, cgroup: PathBuf, user: Option<&str>, program: &str) -> Self {
        Self::wrapped(env, cgroup, &start_as(user), program)
    }

    /// `program` behind the words that start it.
    fn wrapped(env: &'a Env, cgroup: PathBuf, words: &[String], program: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", JOIN_AND_EXEC, "sh"]).arg(cgroup).args(words).arg(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C.UTF-8");
        command.env("HOME", env.dir.join("home")).current_dir("/");
        Self { env, command }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs to its end, with no input.
    pub fn run(self) -> Result<Finished> {
        self.start()?.finish(PATIENCE)
    }

    /// Starts it, with its streams in the test's hands.
    pub fn start(self) -> Result<Running> {
        Running::start(self.command)
    }

    /// The plain command, for output that is to go elsewhere (a file, the terminal). Start it by [`process::spawn`].
    pub fn into_command(self) -> Command {
        self.command
    }

    /// The environment that it is to run in.
    pub fn environment(&self) -> &Env {
        self.env
    }
}

/// A running `weir serve`: all processes of it. Killed when dropped.
pub struct Gateway {
    child: std::process::Child,
    notify: UnixDatagram,
    cgroup: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    /// What is left of it is not to be killed.
    has_left: bool,
}

impl Gateway {
    /// The process that was started; it becomes the gateway, its child is the witness.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves, of a gateway that can be replaced: the main process's only child.
    pub fn serving_pid(&self) -> Result<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid()))?;
        Ok(children.trim().parse()?)
    }

    /// All its processes.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let procs = fs::read_to_string(self.cgroup.join("cgroup.procs"))?;
        Ok(procs.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// The one of them that has this name (`comm`).
    pub fn process(&self, name: &str) -> Result<u32> {
        process_named(&self.pids()?, name)
    }

    /// Its state directory as it sees it, while it lives.
    pub fn state_dir(&self) -> PathBuf {
        let inside = self.state_dir.strip_prefix("/").unwrap_or(&self.state_dir);
        Path::new("/proc").join(self.pid().to_string()).join("root").join(inside)
    }

    fn wait_ready(&self) -> Result {
        let mut ready = false;
        let waited = wait_until("READY=1 from the gateway", START_LIMIT, || {
            ready |= self.notified("READY=1");
            ready || self.is_gone()
        });
        if ready {
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let why = waited.err().map_or_else(|| "the gateway ended before it was ready".to_owned(), |e| e.to_string());
        Err(format!("{why}\n{log}").into())
    }

    /// Whether a notification (`sd_notify(3)`) with this line has come since the last call.
    pub fn notified(&self, line: &str) -> bool {
        let mut found = false;
        let mut datagram = [0; 4096];
        while let Ok(length) = self.notify.recv(&mut datagram) {
            found |= datagram[..length].split(|&byte| byte == b'\n').any(|got| got == line.as_bytes());
        }
        found
    }

    /// No process of it is left.
    pub fn is_gone(&self) -> bool {
        // A killed child that is not waited for stays in the cgroup's list as a zombie: look at its state instead.
        // The child itself counts from its start, before it has joined the cgroup.
        let mut pids = self.pids().unwrap_or_default();
        pids.push(self.pid());
        pids.iter().all(|pid| state_of(*pid).is_none_or(|state| state == 'Z'))
    }

    /// Sends a signal to the main process ("HUP", "TERM", "KILL" ...).
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Asks it to reload and waits until it says that it is ready again.
    pub fn reload(&self) -> Result {
        self.notified("READY=1");
        self.signal(nix::sys::signal::Signal::SIGHUP)?;
        self.wait_ready()
    }

    /// SIGKILL to all its processes at once: the crash that tests are about.
    pub fn kill(mut self) -> Result {
        fs::write(self.cgroup.join("cgroup.kill"), "1")?;
        self.child.wait()?;
        wait_until("the gateway's end", STOP_LIMIT, || self.is_gone())
    }

    /// SIGTERM, and waits until it is gone; the exit code.
    pub fn stop(mut self) -> Result<Option<i32>> {
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        wait_until("the gateway's orderly end", STOP_LIMIT, || !matches!(self.child.try_wait(), Ok(None)))?;
        Ok(self.child.wait()?.code())
    }
}

impl Gateway {
    /// Tells a replaceable gateway to stop, as a restart begins: its main process ends, and what is left of it waits for the
    /// next gateway, or serves its sessions.
    pub fn leave(mut self) -> Result<Left> {
        let pids = self.pids()?;
        let serving = self.serving_pid()?;
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        wait_until("the main process's end", STOP_LIMIT, || !matches!(self.child.try_wait(), Ok(None)))?;
        let main = self.pid();
        let pids = pids.into_iter().filter(|pid| *pid != main).collect();
        self.has_left = true;
        Ok(Left { pids, serving })
    }
}

/// The processes of a gateway that was told to stop and has sessions. Killed with the environment.
pub struct Left {
    pids: Vec<u32>,
    serving: u32,
}

impl Left {
    pub fn is_gone(&self) -> bool {
        self.pids.iter().all(|pid| state_of(*pid).is_none_or(|state| state == 'Z'))
    }

    /// To each of its processes, the witness too.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        for pid in &self.pids {
            // An error means that it is gone already.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

/// Sends a signal to one process.
pub fn signal_process(pid: u32, signal: nix::sys::signal::Signal) -> Result {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?)
}

impl Left {
    /// The process that serves its sessions.
    pub fn serving_pid(&self) -> u32 {
        self.serving
    }

    /// The one of them that has this name (`comm`).
    pub fn process(&self, name: &str) -> Result<u32> {
        process_named(&self.pids, name)
    }
}

fn process_named(pids: &[u32], name: &str) -> Result<u32> {
    let has_it = |pid: &&u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    Ok(*pids.iter().find(has_it).ok_or_else(|| format!("no {name}"))?)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        // Errors mean that it is gone already.
        drop(fs::write(self.cgroup.join("cgroup.kill"), "1"));
        drop(self.child.wait());
    }
}

/// The state letter of a process (proc(5), "stat": the field behind the last parenthesis).
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

pub(crate) fn user(name: &str) -> Result<User> {
    User::from_name(name)?.ok_or_else(|| format!("no user {name}: run `cargo xtask setup`").into())
}

/// Where cgroup2 is mounted.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    found.ok_or_else(|| "cgroup2 is not mounted: run `cargo xtask setup`".into())
}

/// Cgroups of version 1 beside it: container runtimes make theirs in each, and leave the ones above them.
fn old_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let old = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    Ok(old.collect())
}

/// The cache that `cargo xtask` uses.
pub fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("WEIR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("weir")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/weir")))
        .ok_or("no place for the cache: set WEIR_CACHE")?;
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A port that is free for TCP and UDP on loopback, from below the range that the kernel hands out by itself, so that no
/// connection takes it while a gateway is down.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

fn built_weir() -> Result<PathBuf> {
    let named = std::env::var_os("WEIR_BIN").map(PathBuf::from);
    // A test program is TARGET/debug/deps/NAME-HASH.
    let beside = || std::env::current_exe().ok()?.ancestors().nth(2).map(|dir| dir.join("weir"));
    let path = named.or_else(beside).filter(|path| path.exists());
    path.ok_or_else(|| "no weir binary: run `cargo xtask test`, or set WEIR_BIN".into())
}

/// Removes what dead test runs left behind.
fn sweep() -> Result {
    for pins in leftovers(Path::new(BPF_MOUNT)) {
        remove_dir(&pins)?;
    }
    for cgroup in leftovers(&cgroup2_mount()?) {
        remove_cgroups(&cgroup)?;
    }
    for cgroup in old_hierarchies()?.iter().flat_map(|mount| leftovers(mount)) {
        remove_tree(&cgroup);
    }
    for dir in leftovers(&std::env::temp_dir()) {
        remove_dir(&dir)?;
    }
    for service in leftovers(Path::new(PAM_SERVICES)) {
        match fs::remove_file(service) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let is_dead = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_dead).collect()
}

fn remove_dir(dir: &Path) -> Result {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", dir.display()).into()),
        _ => Ok(()),
    }
}

/// Kills what runs in the tree and removes it, leaves first.
fn remove_cgroups(cgroup: &Path) -> Result {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1").map_err(|e| format!("{}: {e}", cgroup.display()))?;
    wait_until(&format!("removal of {}", cgroup.display()), STOP_LIMIT, || remove_tree(cgroup))
}

/// Cgroups are removed by rmdir alone: their files are not files.
fn remove_tree(cgroup: &Path) -> bool {
    let children = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
    children.filter(|path| path.is_dir()).all(|path| remove_tree(&path)) && fs::remove_dir(cgroup).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_not_handed_out_twice() {
        assert_ne!(free_port().unwrap(), free_port().unwrap());
    }
}
