//! `weir init`: a starting configuration from what runs on this host.
//!
//! It looks for programs that are known to be agents (or those that it is told), sees where they and their children are
//! connected, and writes a file in observe mode: nothing is refused until somebody who has read the records says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use clap::Args;
use nix::unistd::{Uid, User};

use super::output::{Error, Out, plural};
use super::procfs::{self, Seen};
use crate::target::Protocol;

pub(super) const HELP: &str = "\
It looks at the processes that run now, so start it while the agents work, as root to see all of them. The file is in \
observe mode: everything is forwarded and recorded, and what policy would deny is recorded as such. An existing file is \
never overwritten, but for the one that the package brings, as long as nobody has touched it.

Examples:
  sudo weir init                          write /etc/weir/weir.toml
  sudo weir init --pid 4711               this process and its children are an agent, whatever its name
  sudo weir init --stdout                 look first
  weir check && weir doctor               then";

/// Programs that are agents, by the name of the executable or of the script that an interpreter runs.
const AGENTS: &[&str] = &[
    "aider",
    "amp",
    "auggie",
    "claude",
    "cline",
    "codex",
    "copilot",
    "crush",
    "cursor-agent",
    "droid",
    "gemini",
    "goose",
    "kiro-cli",
    "opencode",
    "openhands",
    "plandex",
    "qwen",
];
/// Interpreters whose first argument is the program.
const INTERPRETERS: &[&str] = &["node", "bun", "deno", "python", "python3", "uv", "npx", "bunx"];
/// Libraries that make an agent of the program that is started with them.
const LIBRARIES: &[&str] = &["autogen", "crewai", "langgraph", "smolagents"];

/// The file that the package installs: it only shuts agents out.
const PACKAGED: &[u8] = include_bytes!("../../../systemd/weir.toml");

#[derive(Debug, Args)]
pub(super) struct Init {
    /// A process that is an agent; may be given more than once.
    #[arg(long, value_name = "PID")]
    pid: Vec<i32>,
    /// Print the file, write nothing.
    #[arg(long)]
    stdout: bool,
}

/// What was found of one agent.
#[derive(Debug, Default)]
struct Found {
    pids: BTreeSet<i32>,
    cgroups: BTreeSet<String>,
    uids: BTreeSet<u32>,
    connections: BTreeSet<SocketAddr>,
}

impl Init {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let processes = procfs::processes()?;
        let agents = find(&processes, &self.pid)?;
        let text = file(&agents);
        if self.stdout {
            out.raw(text.as_bytes())?;
            return Ok(0);
        }
        write_new(config, &text)?;
        out.line(format!("{} written, in observe mode", config.display()))?;
        for (name, agent) in &agents {
            out.line(format!(
                "  agent {name}: process {}; {}",
                agent.pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                plural(agent.connections.len() as u64, "destination")
            ))?;
        }
        if agents.is_empty() {
            out.line("  no agent was found: start one and look again with `weir init --stdout`, or say --pid")?;
        }
        out.line("Read it, fill in what says CHANGE, then: weir check && weir doctor")?;
        Ok(0)
    }
}

fn find(processes: &[Seen], pids: &[i32]) -> Result<BTreeMap<String, Found>, Error> {
    for pid in pids {
        if !processes.iter().any(|process| process.pid == *pid) {
            return Err(Error::message(format!("there is no process {pid}")));
        }
    }
    let mut agents: BTreeMap<String, Found> = BTreeMap::new();
    for process in processes {
        let name = agent_name(process).or_else(|| pids.contains(&process.pid).then(|| word(&process.name)));
        let Some(name) = name else { continue };
        let agent = agents.entry(name).or_default();
        agent.cgroups.insert(process.cgroup.clone());
        agent.uids.insert(process.uid);
        for pid in procfs::tree(processes, process.pid) {
            if agent.pids.insert(pid) {
                agent.connections.extend(procfs::connections(pid));
            }
        }
    }
    for agent in agents.values_mut() {
        // What is on this host's loopback stays reachable to an agent if the agent itself runs it.
        agent.connections.retain(|address| !address.ip().is_loopback() || known(*address).is_some());
    }
    Ok(agents)
}

/// The agent's name, if the process is known for one.
fn agent_name(process: &Seen) -> Option<String> {
    let base = |argument: &String| {
        let name = Path::new(argument).file_stem()?.to_str()?;
        Some(name.to_owned())
    };
    let program = process.argv.first().and_then(base)?;
    if AGENTS.contains(&program.as_str()) {
        return Some(program);
    }
    let plain = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.iter().any(|interpreter| *interpreter == program || *interpreter == plain) {
        return None;
    }
    let script = process.argv.iter().skip(1).find(|argument| !argument.starts_with('-')).and_then(base)?;
    if AGENTS.contains(&script.as_str()) {
        return Some(script);
    }
    let uses = |library: &&&str| process.argv.iter().any(|argument| argument.contains(**library));
    LIBRARIES.iter().find(uses).map(|library| (*library).to_owned())
}

fn known(address: SocketAddr) -> Option<Protocol> {
    Protocol::at_port(address.port())
}

/// Never overwrites what somebody wrote.
fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::read(path).is_ok_and(|present| present == PACKAGED) {
        return std::fs::write(path, text).map_err(|error| Error::message(format!("{}: {error}", path.display())));
    }
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    match opened {
        Ok(mut file) => Ok(file.write_all(text.as_bytes())?),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::message(format!(
            "{} exists and is left as it is; `weir init --stdout` prints what would be written",
            path.display()
        ))),
        Err(error) => Err(Error::message(format!("{}: {error}", path.display()))),
    }
}

/// The file. Whatever came from this host is a TOML string or a bare word.
fn file(agents: &BTreeMap<String, Found>) -> String {
    let mut text = String::from(HEAD);
    for (name, agent) in agents {
        agent_section(&mut text, name, agent);
    }
    if agents.is_empty() {
        text += NO_AGENT;
    }
    let mut targets: BTreeMap<SocketAddr, BTreeSet<&str>> = BTreeMap::new();
    for (name, agent) in agents {
        for address in &agent.connections {
            targets.entry(*address).or_default().insert(name);
        }
    }
    for (address, users) in &targets {
        target_section(&mut text, *address, users);
    }
    text += TAIL;
    text
}

fn agent_section(text: &mut String, name: &str, agent: &Found) {
    let user = agent.uids.iter().next().and_then(|uid| User::from_uid(Uid::from_raw(*uid)).ok().flatten());
    let unit = agent.cgroups.iter().find_map(|cgroup| procfs::unit(cgroup)).filter(|unit| unit.ends_with(".service"));
    let pids: Vec<String> = agent.pids.iter().take(8).map(ToString::to_string).collect();
    let _ = writeln!(
        text,
        "# Found as {} (processes {}).",
        if unit.is_some() { "a service" } else { "a program" },
        pids.join(", ")
    );
    let _ = writeln!(text, "[[agent]]\nname  = {}", quote(name));
    match unit {
        Some(unit) => {
            let _ = writeln!(text, "unit  = {}    # give it Slice=agents.slice", quote(&pattern(unit)));
        }
        None => {
            let _ = writeln!(
                text,
                "unit  = {}    # a unit in agents.slice, or start it with `weir run`",
                quote(&format!("{name}@*.service"))
            );
        }
    }
    // An agent's user is its own: what runs under it anywhere counts as the agent.
    let taken = user.as_ref().map(|user| user.name.as_str());
    let _ = writeln!(
        text,
        "# user = {}    # CHANGE: a user of its own (it runs as {} now)",
        quote(&format!("agent-{name}")),
        quote(taken.unwrap_or("an unknown user"))
    );
    let _ =
        writeln!(text, "token = {{ file = {} }}    # CHANGE: where its token lies\n", quote("/run/agents/%i.token"));
}

fn target_section(text: &mut String, address: SocketAddr, users: &BTreeSet<&str>) {
    let users: Vec<String> = users.iter().map(|user| word(user)).collect();
    let users = users.join(", ");
    let Some(protocol) = known(address) else {
        let _ = writeln!(text, "# {users} also used {address}; what it speaks does not follow from its port.\n");
        return;
    };
    let name = format!("{}-{}", word(&address.ip().to_string()), address.port());
    let _ = writeln!(text, "# Used by {users}. Put the name that they look up beside the address.");
    let _ = writeln!(text, "[[target]]");
    let _ = writeln!(text, "name     = {}", quote(&name));
    let _ = writeln!(text, "protocol = {}", quote(protocol.as_str()));
    let _ = writeln!(text, "address  = [{}]", quote(&address.to_string()));
    if protocol.logs_in() {
        let _ = writeln!(
            text,
            "login    = {{ user = \"CHANGE\", password = {{ credential = {} }} }}    # held by the gateway",
            quote(&name)
        );
    }
    text.push('\n');
}

/// `coder@a.service` -> `coder@*.service`.
fn pattern(unit: &str) -> String {
    match unit.split_once('@') {
        Some((name, _)) => format!("{name}@*.service"),
        None => unit.to_owned(),
    }
}

/// Letters, digits and dashes.
fn word(text: &str) -> String {
    let word: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    word.trim_matches('-').to_owned()
}

/// A TOML string on one line: it may stand in a comment.
fn quote(text: &str) -> String {
    crate::show::toml_string(text)
}

const HEAD: &str = r#"# Written by `weir init` from what ran on this host. `weir check` checks it, `weir doctor` checks the host.

[gateway]
agents   = ["agents.slice"]     # what runs below these cgroups is intercepted
unlisted = "observe"            # destinations without a target; "deny" when all targets are listed
mode     = "observe"            # forwards and records everything; "enforce" when the records look right

[access]                        # who may use the admin socket, by unix group
admin   = ["weir-admin"]
approve = { dba = ["dba"] }
audit   = ["weir-audit"]

[identity]                      # CHANGE: who issues the agents' tokens
issuer   = "https://idp.example/realms/agents"
audience = "weir"

"#;

const NO_AGENT: &str = r#"# No agent ran. This is what one looks like:
# [[agent]]
# name  = "coder"
# unit  = "coder@*.service"
# user  = "agent-coder"
# token = { file = "/run/agents/%i.token" }

"#;

/// What follows a `#` at once is a setting.
const TAIL: &str = r#"# What is allowed, once the mode is "enforce". `weir explain` tells what a rule does before it does it. These kinds are what
# clients of a database do all day; rows in bulk ("copy_out") and changes of the schema are not among them.
#[[rule]]
#name    = "coders work on orders"
#agents  = ["coder"]
#targets = ["orders"]
#kinds   = ["select", "insert", "update", "delete", "transaction", "lock", "set", "show", "prepare", "execute", "deallocate", "declare", "fetch"]
#then    = "allow"

# What agents see covered. Each pattern (schema.table.column) must match a column, or the target is denied until it does: a
# misspelt one unprotects nothing. Rows are not chosen, sorted or grouped by what is covered.
#[[mask]]
#name    = "personal data"
#targets = ["orders"]
#columns = ["*.*.email", "*.*.phone"]
#with    = "redact"

#[[mask]]
#name   = "secrets anywhere"
#detect = ["credit_card", "aws_access_key"]
#with   = "redact"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn process(argv: &[&str]) -> Seen {
        Seen { argv: argv.iter().map(ToString::to_string).collect(), ..Seen::default() }
    }

    #[test]
    fn agents_are_known_by_what_runs() {
        let name = |argv: &[&str]| agent_name(&process(argv));
        assert_eq!(name(&["claude"]).as_deref(), Some("claude"));
        assert_eq!(
            name(&["/usr/bin/node", "--max-old-space-size=8192", "/usr/lib/codex.js", "x"]).as_deref(),
            Some("codex")
        );
        assert_eq!(name(&["python3.11", "-m", "crewai", "run"]).as_deref(), Some("crewai"));
        for other in [&["bash"][..], &["node", "server.js"], &["vim", "claude.md"], &[]] {
            assert_eq!(name(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_file_is_toml_whatever_the_host_is_called() {
        let hostile = "x\"]\n[[rule]]\nthen = \"allow";
        let found = Found {
            pids: BTreeSet::from([1, 2]),
            cgroups: BTreeSet::from([format!("/system.slice/{hostile}@1.service")]),
            uids: BTreeSet::from([0]),
            connections: ["10.0.0.7:443", "10.0.0.8:6379"].map(|address| address.parse().unwrap()).into(),
        };
        let text = file(&BTreeMap::from([(hostile.to_owned(), found)]));
        let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(!table.contains_key("rule"), "{text}");
        assert_eq!(table["target"].as_array().unwrap().len(), 1);
        assert_eq!(table["gateway"]["mode"].as_str(), Some("observe"));
    }

    /// Whatever is written must be taken by the gateway as it is.
    #[test]
    fn the_file_is_a_configuration() {
        let found = Found {
            pids: BTreeSet::from([1]),
            cgroups: BTreeSet::from(["/system.slice/coder@a.service".to_owned()]),
            uids: BTreeSet::from([0]),
            connections: ["10.0.0.7:443", "10.0.0.7:5432", "10.0.0.8:6379"]
                .map(|address| address.parse().unwrap())
                .into(),
        };
        for agents in [BTreeMap::new(), BTreeMap::from([("coder".to_owned(), found)])] {
            let source = crate::config::Source { path: "weir.toml".into(), text: file(&agents) };
            let (config, _) = crate::config::parse(&[source], &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(config.gateway.mode, crate::config::Mode::Observe);
            assert_eq!(config.agents.len(), agents.len());
            assert_eq!(config.targets.len(), 2 * agents.len());
        }
    }

    /// What stands there commented out is the pack that most will begin with.
    #[test]
    fn the_rules_that_it_proposes_are_a_configuration() {
        let settings = TAIL.lines().filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')));
        let text = format!(
            "{HEAD}[[agent]]\nname = \"coder\"\nunit = \"coder@*.service\"\ntoken = {{ file = \"/run/token\" }}\n[[target]]\n\
             name = \"orders\"\nprotocol = \"postgres\"\naddress = [\"192.0.2.1:5432\"]\n\
             login = {{ user = \"orders_rw\", password = {{ credential = \"orders-db\" }} }}\n{}",
            settings.collect::<Vec<_>>().join("\n")
        );
        let source = crate::config::Source { path: "weir.toml".into(), text };
        let (config, warnings) = crate::config::parse(&[source], &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((config.masks.len(), config.targets.len()), (2, 1));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let path = std::env::temp_dir().join(format!("weir-init-{}.toml", std::process::id()));
        write_new(&path, "first").unwrap();
        let error = write_new(&path, "second").unwrap_err().to_string();
        assert!(error.contains("is left as it is"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_package_s_own_file_is_replaced_until_somebody_touches_it() {
        let path = std::env::temp_dir().join(format!("weir-init-packaged-{}.toml", std::process::id()));
        std::fs::write(&path, PACKAGED).unwrap();
        write_new(&path, "mine").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let touched = [PACKAGED, b"# mine\n"].concat();
        std::fs::write(&path, &touched).unwrap();
        write_new(&path, "lost").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), touched);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_packaged_file_is_valid_and_closed() {
        let text = String::from_utf8(PACKAGED.to_vec()).unwrap();
        let source = crate::config::Source { path: "weir.toml".into(), text };
        let (config, warnings) = crate::config::parse(&[source], &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.gateway.mode, crate::config::Mode::Enforce);
        assert!(config.targets.is_empty() && config.agents.is_empty() && warnings.is_empty());
    }
}
