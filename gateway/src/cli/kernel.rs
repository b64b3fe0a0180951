//! `weir kernel attach`, `weir kernel status`, `weir detach`.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::{Cell, Colour, Error, Out, Table, clean, load, runtime_dir};
use super::time;
use crate::admin::Request;
use crate::admin::client::{ClientError, ask_all};
use crate::witness::{self, AttachmentReport, MAX_DETACH, WitnessConfig};

pub(super) const KERNEL_HELP: &str = "\
weir-kernel.service attaches at boot, before agents.slice can start anything; from then on agents reach nothing but the \
gateway, whether it runs or not.

Examples:
  weir kernel attach     attach and pin the programs (root)
  weir kernel status     what is in effect, as the kernel says; exits with 1 if anything is missing
  weir kernel status --json | jq .counters";

pub(super) const DETACH_HELP: &str = "\
Agents then reach everything directly: nothing is judged, masked or recorded. The kernel ends it by itself after the time \
that was asked for, at most 4 hours. Only host root can, outside every agent's cgroup, and it is recorded with the reason. \
Stopping weir.service does not free the agents; this does.

Examples:
  weir detach --for 15m --reason 'INC-381: gateway upgrade failed'
  weir detach --for 0 --reason 'fixed'        attach again now";

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
        };
        show(&report.map_err(Error::other)?, out)
    }
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
    for hook in &report.hooks {
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
    for warning in &report.warnings {
        out.line(out.paint(Colour::Yellow, format!("warning: {}", clean(warning))))?;
    }
    Ok(code)
}
