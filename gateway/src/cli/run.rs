//! `weir run`: a command as an agent, in a cgroup of its own.
//!
//! The parent makes a cgroup below the agent's and starts `weir run` again with the cgroup's path; that child moves itself there,
//! becomes the agent's user, gives up gaining privileges, and only then executes the command: nothing of the command ever runs
//! outside. The parent waits and removes the cgroup.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use nix::unistd::{Uid, User};

use super::output::{Error, load};
use crate::config::{AgentConfig, AgentMatch, Config, TokenSource};

mod seal;

pub(super) const HELP: &str = "\
Needs root, since it becomes the agent's user. The command gets a small environment: PATH, TERM, LANG, the user's own HOME, \
the token's variable if the agent has one, and what --env names; what root's shell holds is not for agents.

Examples:
  sudo weir run -- psql -h db.internal orders                        the only agent there is
  sudo weir run --agent coder --instance alice -- claude              as coder@alice.service, with its token
  sudo weir run --agent coder --env ANTHROPIC_API_KEY -- claude";

/// The instance of a unit that needs one, where nothing depends on it.
const INSTANCE: &str = "weir-run";
/// Variables that every command may have.
const HARMLESS: &[&str] = &["PATH", "TERM", "COLORTERM", "LANG", "LC_ALL", "TZ", "NO_COLOR"];

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Which agent; may be left out where only one is configured.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Which instance, where the agent's unit has a `*`: what `%i` stands for in the token's path.
    #[arg(long, value_name = "NAME", value_parser = instance)]
    instance: Option<String>,
    /// A variable to hand on; may be given more than once.
    #[arg(long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// The cgroup to enter: for the second half of this command.
    #[arg(long, hide = true, value_name = "PATH")]
    enter: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self, config: &Path) -> Result<u8, Error> {
        if !Uid::effective().is_root() {
            return Err(Error::message("only root can become an agent's user: `sudo weir run ...`"));
        }
        let loaded = load(config)?;
        let agent = choose(&loaded, self.agent.as_deref())?;
        let user = agent_user(agent)?;
        match &self.enter {
            Some(cgroup) => Err(self.become_agent(agent, &user, cgroup)),
            None => self.supervise(config, &loaded, agent),
        }
    }

    /// The parent: makes the cgroup, waits, cleans up.
    fn supervise(&self, config: &Path, loaded: &Config, agent: &AgentConfig) -> Result<u8, Error> {
        let parent = cgroup2_mount()?.join(self.agent_cgroup(loaded, agent)?);
        let cgroup = Leaf::make(&parent)?;
        let mut child = Command::new("/proc/self/exe");
        child.arg("--config").arg(config).arg("run").arg("--agent").arg(&agent.name).arg("--enter").arg(&cgroup.0);
        for variable in &self.env {
            child.arg("--env").arg(variable);
        }
        let status = child.arg("--").args(&self.command).status()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        Ok(u8::try_from(code).unwrap_or(1))
    }

    /// Where the agent's cgroups are, below the mount. A unit's name must be in the path for the agent to be recognised.
    fn agent_cgroup(&self, config: &Config, agent: &AgentConfig) -> Result<PathBuf, Error> {
        let intercepted = || {
            let first = config.gateway.agents.first();
            first.map(PathBuf::from).ok_or_else(|| Error::message("[gateway] agents names no cgroup"))
        };
        Ok(match &agent.matches {
            AgentMatch::Cgroup(path) => PathBuf::from(path.trim_matches('/')),
            AgentMatch::Unit(pattern) if pattern.contains('*') => {
                let instance = match (self.instance.as_deref(), &agent.token) {
                    (Some(instance), _) => instance,
                    (None, TokenSource::File(path)) if path.contains("%i") => {
                        return Err(Error::message(format!(
                            "the token of agent {:?} lies at {path}: say which instance, with --instance",
                            agent.name
                        )));
                    }
                    (None, _) => INSTANCE,
                };
                intercepted()?.join(pattern.replace('*', instance))
            }
            AgentMatch::Unit(unit) => intercepted()?.join(unit),
            AgentMatch::Container(_) => {
                let message = format!("agent {:?} is a container: its runtime runs commands in it", agent.name);
                return Err(Error::message(message));
            }
            AgentMatch::UserOnly => intercepted()?,
        })
    }

    /// The child: never returns but with the reason why the command could not be executed.
    fn become_agent(&self, agent: &AgentConfig, user: &User, cgroup: &Path) -> Error {
        let entered = fs::OpenOptions::new()
            .write(true)
            .open(cgroup.join("cgroup.procs"))
            .and_then(|mut procs| procs.write_all(b"0\n"));
        if let Err(error) = entered {
            return Error::message(format!("cannot enter the cgroup {}: {error}", cgroup.display()));
        }
        // Last, so that the command is held by it and nothing before is.
        let dropped = drop_to(user).map_err(io::Error::from);
        if let Err(error) = dropped.and_then(|()| seal::leave_descriptors()).and_then(|()| seal::seal()) {
            return Error::message(format!("cannot become {:?}: {error}", user.name));
        }
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Error::message("there is no command");
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        let token = match &agent.token {
            TokenSource::Environment(name) => Some(name.as_str()),
            TokenSource::File(_) => None,
        };
        for name in HARMLESS.iter().copied().chain(self.env.iter().map(String::as_str)).chain(token) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name).env("SHELL", &user.shell);
        let error = command.exec();
        Error::message(format!("cannot run {}: {error}", program.display()))
    }
}

/// A word that may stand in a path and in a unit's name.
fn instance(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    if is_word && !text.starts_with('.') { Ok(text.to_owned()) } else { Err("an instance is a word".to_owned()) }
}

/// The user, its groups and no others, no capability, none to be gained; and the end of the parent is the command's too.
fn drop_to(user: &User) -> nix::Result<()> {
    let name = std::ffi::CString::new(user.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    nix::unistd::initgroups(&name, user.gid)?;
    nix::unistd::setresgid(user.gid, user.gid, user.gid)?;
    nix::unistd::setresuid(user.uid, user.uid, user.uid)?;
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
}

fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a AgentConfig, Error> {
    let names = || config.agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.agents.as_slice()) {
        (Some(name), agents) => agents
            .iter()
            .find(|agent| agent.name == name)
            .ok_or_else(|| Error::message(format!("there is no agent {name:?}; there are: {}", names()))),
        (None, [only]) => Ok(only),
        (None, []) => Err(Error::message("no [[agent]] is configured")),
        (None, _) => Err(Error::message(format!("say which agent, with --agent: {}", names()))),
    }
}

fn agent_user(agent: &AgentConfig) -> Result<User, Error> {
    let name = agent.user.as_deref().ok_or_else(|| {
        Error::message(format!("agent {:?} has no `user`: give it one of its own in weir.toml", agent.name))
    })?;
    match User::from_name(name).map_err(io::Error::from)? {
        Some(user) if user.uid.is_root() => {
            Err(Error::message(format!("the user of agent {:?} is root: give it one of its own", agent.name)))
        }
        Some(user) => Ok(user),
        None => Err(Error::message(format!("there is no user {name:?}: `useradd --system {name}` makes it"))),
    }
}

/// Where cgroup2 is mounted: with the older hierarchies beside it, it is not where one expects it.
pub(super) fn cgroup2_mount() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| PathBuf::from(path))
        .ok_or_else(|| Error::message("cgroup2 is not mounted on this host"))
}

/// A cgroup that goes when the command is over.
struct Leaf(PathBuf);

impl Leaf {
    fn make(parent: &Path) -> Result<Self, Error> {
        let path = parent.join(format!("run-{}", std::process::id()));
        let explain = |error| Error::message(format!("cannot make the cgroup {}: {error}", path.display()));
        fs::create_dir_all(parent).map_err(explain)?;
        match fs::create_dir(&path) {
            // Left by a process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(explain)?,
        }
        Ok(Self(path))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Busy while the command's own children live on: they stay agents, and so does their cgroup.
        let _ = fs::remove_dir(&self.0);
    }
}
