//! `weir doctor`: is this host able to hold agents, and is anything a way around?
//!
//! Each check is a function from what it looks at to findings; a finding says what to do. The checks only look, and trust
//! nothing that an agent could have written; one of them tries what an agent would.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::output::{Cell, Colour, Error, Out, Table, clean, load, plural, runtime_dir};
use crate::admin::client::ask_one;
use crate::admin::{Request, Status};
use crate::config::Config;

mod agents;
mod host;
mod locks;
mod resolvers;
mod targets;
mod trial;
mod ways;

pub(super) use trial::run as run_trial;

pub(super) const HELP: &str = "\
Run it as root, so that it sees all there is to see. It changes nothing; for a moment there is a cgroup of its own below the \
agents', with a process that tries to get out (to addresses that nobody has; the recording has the refusals). Exits with 1 if something fails; warnings are \
for what a careful operator would change.

Examples:
  sudo weir doctor
  sudo weir doctor --quick                      without connecting to targets
  sudo weir doctor --json | jq '.[] | select(.level == \"fail\")'";

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Do not connect to targets.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What one look showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at, in a word or two.
    subject: String,
    message: String,
    /// What to do; empty where nothing is to be done.
    advice: String,
}

impl Finding {
    fn ok(subject: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.to_owned(), message: message.into(), advice: String::new() }
    }

    fn warn(subject: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        let (message, advice) = (message.into(), advice.into());
        Self { level: Level::Warn, subject: subject.to_owned(), message, advice }
    }

    fn fail(subject: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(subject, message, advice) }
    }
}

impl Doctor {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let findings = self.look(config);
        let failed = findings.iter().any(|finding| finding.level == Level::Fail);
        if out.json {
            out.json(&findings)?;
        } else {
            show(&findings, out)?;
        }
        Ok(u8::from(failed))
    }

    fn look(&self, path: &Path) -> Vec<Finding> {
        let mut findings = host::kernel();
        if !nix::unistd::geteuid().is_root() {
            findings.push(Finding::warn("doctor", "not run as root: it cannot see everything", "sudo weir doctor"));
        }
        let config = match load(path) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                findings.push(Finding::fail("configuration", error.chain(), "weir check"));
                return findings;
            }
        };
        findings.push(Finding::ok("configuration", format!("version {}", config.version)));
        findings.extend(self.look_with(path, &config));
        findings
    }

    fn look_with(&self, path: &Path, config: &Arc<Config>) -> Vec<Finding> {
        let gateway = ask_one::<Status>(&runtime_dir(path), Request::Status).map_err(|error| error.to_string());
        let witness = gateway.as_ref().ok().and_then(|status| status.kernel.as_ref());
        let mut findings = host::attachments(config, witness);
        findings.extend(trial::findings(config));
        findings.extend(host::gateway(gateway.as_ref(), config));
        findings.extend(host::directories(config));
        findings.extend(agents::users(config));
        findings.extend(agents::tokens(config));
        findings.extend(ways::accepted_risks(config));
        findings.extend(resolvers::findings(config));
        findings.extend(agents::processes(config));
        findings.extend(host::namespaces());
        if !self.quick {
            findings.extend(targets::reachable(config));
        }
        findings
    }
}

fn show(findings: &[Finding], out: &mut Out) -> Result<(), Error> {
    let mut table = Table::new(["", "WHAT", "FINDING"]);
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => Cell::new(Colour::Green, "ok"),
            Level::Warn => Cell::new(Colour::Yellow, "warn"),
            Level::Fail => Cell::new(Colour::Red, "FAIL"),
        };
        table.row(vec![mark, clean(&finding.subject).into(), clean(&finding.message).into()]);
        if !finding.advice.is_empty() {
            table.row(vec![
                String::new().into(),
                String::new().into(),
                format!("-> {}", clean(&finding.advice)).into(),
            ]);
        }
    }
    out.table(&table)?;
    let count = |level| findings.iter().filter(|finding| finding.level == level).count() as u64;
    let (warnings, failures) = (plural(count(Level::Warn), "warning"), plural(count(Level::Fail), "failure"));
    out.line("")?;
    out.line(format!("{} ok, {warnings}, {failures}", count(Level::Ok)))
}
