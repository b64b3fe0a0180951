//! `weir kernel attach`, `weir kernel status`, `weir detach`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::{Cell, Colour, Error, Out, Table, clean, load, runtime_dir};
use super::time;
use crate::admin::Request;
use crate::admin::client::{ClientError, ask_all, is_listening};
use crate::witness::{self, AttachmentReport, MAX_DETACH, WitnessConfig};

pub(super) const KERNEL_HELP: &str = "\
weir-kernel.service attaches at boot, before agents.slice can start anything; from then on agents reach nothing but the \
gateway, whether it runs or not.

Examples:
  weir kernel attach     attach and pin the programs (root)
  weir kernel status     what is in effect, as the kernel says; exits with 1 if anything is missing
  weir kernel remove     let go for good, when Weir goes from this host; refused while agents run
  weir kernel status --json | jq .counters";

pub(super) const DETACH_HELP: &str = "\
Agents then reach everything directly: nothing is judged, masked or recorded. The kernel ends it by itself after the time \
that was asked for, at most 4 hours. Only host root can, outside every agent's cgroup, and it is recorded with the reason. \
Stopping weir.service does not free the agents; this does.

Examples:
  weir detach --for 15m --reason 'INC-381: gateway upgrade failed'
  weir detach --for 0 --reason 'fixed'        attach again now";

/// The drop-in for agents' units, by its name.
const DROP_IN: &str = "weir-agent.conf";
/// Where an administrator's units and drop-ins are (systemd.unit(5), "UNIT FILE LOAD PATH").
const UNIT_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];

#[derive(Debug, Args)]
pub(super) struct Kernel {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Debug, Subcommand)]
enum KernelCommand {
    /// Attach and pin the programs.
    Attach,
    /// What is in effect.
    Status,
    /// Let go for good and leave nothing behind.
    ///
    /// Refused while agents run or units link the drop-in, unless `weir detach` is in force, and while the gateway runs.
    /// Removing the package does this.
    Remove {
        /// Only say whether it would be refused; the gateway may run.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// How long: 90s, 15m, 2h; 0 ends a running one.
    #[arg(long = "for", value_name = "TIME", value_parser = time::parse_span)]
    duration: Duration,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
}

impl Kernel {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let witness = WitnessConfig::new(&load(config)?).map_err(Error::other)?;
        let report = match self.command {
            KernelCommand::Attach => witness::kernel_attach(&witness),
            KernelCommand::Status => witness::kernel_status(&witness),
            KernelCommand::Remove { check } => return remove(config, &witness, check, out),
        };
        show(&report.map_err(Error::other)?, out)
    }
}

fn remove(config: &Path, witness: &WitnessConfig, only_check: bool, out: &mut Out) -> Result<u8, Error> {
    witness::check_remove(witness).map_err(Error::other)?;
    if !witness::is_detached(witness).map_err(Error::other)? {
        refuse_linked_units()?;
    }
    if only_check {
        return Ok(0);
    }
    // Its witness would attach everything again within a second.
    if is_listening(&runtime_dir(config)) {
        return Err(Error::message("the gateway runs: stop it first (systemctl stop weir.service)"));
    }
    witness::kernel_remove(witness).map_err(Error::other)?;
    out.line("removed: no program, no pin and no cgroup of Weir is left")?;
    Ok(0)
}

/// Units that have the drop-in as a link would start outside the slice, unhardened, once the package is gone. A copy holds
/// its unit back: it requires weir-kernel.service.
fn refuse_linked_units() -> Result<(), Error> {
    let linked: Vec<String> =
        UNIT_DIRECTORIES.iter().flat_map(|directory| linked_units(Path::new(directory))).collect();
    if linked.is_empty() {
        return Ok(());
    }
    Err(Error::message(format!(
        "refused: these units link {DROP_IN} and would start as no agents from now on: {}. Remove the links, or let agents \
         go on purpose first: weir detach --for 15m --reason 'removing weir'",
        linked.join(", ")
    )))
}

/// The names of `directory/NAME.d/*` that are links to a `weir-agent.conf`, as NAME.
fn linked_units(directory: &Path) -> Vec<String> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let is_link = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|target| target.ends_with(DROP_IN));
    let linked = entries(directory).filter_map(|unit| {
        let name = unit.file_name().into_string().ok()?.strip_suffix(".d")?.to_owned();
        entries(&unit.path()).any(is_link).then_some(name)
    });
    linked.collect()
}

impl Detach {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        if self.duration > MAX_DETACH {
            return Err(Error::message(format!("at most {} at a time", time::span(MAX_DETACH.as_secs()))));
        }
        let witness = WitnessConfig::new(&load(config)?).map_err(Error::other)?;
        // The gateway records it first. This is also the way out when the gateway is the problem, so its silence is no
        // obstacle; its refusal is one.
        let request = Request::Detach { seconds: self.duration.as_secs(), reason: self.reason.clone() };
        match ask_all::<serde_json::Value>(&runtime_dir(config), request) {
            Ok(_) => {}
            Err(ClientError::Failed(failure)) if failure.kind == crate::admin::FailureKind::Refused => {
                return Err(Error::message(failure.message));
            }
            Err(error) => eprintln!("weir: warning: not recorded by the gateway: {error}"),
        }
        let report = witness::detach(&witness, self.duration, &self.reason).map_err(Error::other)?;
        if out.json {
            out.json(&report)?;
        } else if let Some(detached) = &report.detached {
            let text = format!("agents pass unjudged for {}", time::span(detached.remaining));
            out.line(out.paint(Colour::Red, text))?;
        } else {
            out.line("agents are intercepted again")?;
        }
        Ok(0)
    }
}

fn show(report: &AttachmentReport, out: &mut Out) -> Result<u8, Error> {
    let code = u8::from(!report.enforcing());
    if out.json {
        out.json(report)?;
        return Ok(code);
    }
    out.line(format!("attached at {}", clean(&report.attach)))?;
    let mut table = Table::new(["HOOK", "IN EFFECT"]);
    for hook in report.hooks.iter().chain(&report.lsm) {
        let effective = if hook.effective { Cell::new(Colour::Green, "yes") } else { Cell::new(Colour::Red, "no") };
        table.row(vec![clean(&hook.name).into(), effective]);
    }
    out.table(&table)?;
    out.line("")?;
    let counters: Vec<(&str, String)> =
        report.counters.iter().map(|(name, count)| (name.as_str(), count.to_string())).collect();
    out.fields(&counters)?;
    if let Some(detached) = &report.detached {
        let text = format!(
            "detached by uid {} for another {}: {}",
            detached.uid,
            time::span(detached.remaining),
            clean(&detached.reason)
        );
        out.line(out.paint(Colour::Red, text))?;
    }
    print_warnings(report, out)?;
    Ok(code)
}

pub(super) fn print_warnings(report: &AttachmentReport, out: &mut Out) -> Result<(), Error> {
    report
        .warnings
        .iter()
        .chain(&report.gaps)
        .try_for_each(|warning| out.line(out.paint(Colour::Yellow, format!("warning: {}", clean(warning)))))
}
