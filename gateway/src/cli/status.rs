//! `weir status`, `weir reload`.

use std::path::Path;

use super::output::{Colour, Error, Out, clean, plural, runtime_dir};
use super::time;
use crate::admin::client::ask_one;
use crate::admin::{Request, Status};

pub(super) const HELP: &str = "\
Exits with 1 if the gateway runs and something is wrong with it: agents are not intercepted, a target's masks cannot be \
resolved.

Examples:
  weir status
  weir status --json | jq .kernel.counters
  weir status >/dev/null || page-somebody";

pub(super) fn run(config: &Path, out: &mut Out) -> Result<u8, Error> {
    let status: Status = ask_one(&runtime_dir(config), Request::Status)?;
    let code = u8::from(!status.problems.is_empty());
    if out.json {
        out.json(&status)?;
        return Ok(code);
    }
    let mode =
        if status.observe { out.paint(Colour::Yellow, "observe: nothing is refused") } else { "enforce".to_owned() };
    let kernel = match &status.kernel {
        Some(report) if report.enforcing() => {
            out.paint(Colour::Green, format!("attached at {}", clean(&report.attach)))
        }
        Some(report) => match &report.detached {
            Some(detached) => out.paint(
                Colour::Red,
                format!("detached for another {}: {}", time::span(detached.remaining), clean(&detached.reason)),
            ),
            None => out.paint(Colour::Red, "not in effect: agents are not intercepted"),
        },
        None => out.paint(Colour::Red, "unknown: the witness does not answer"),
    };
    out.fields(&[
        ("gateway", format!("{} (pid {}), up {}", status.version, status.pid, time::span(status.uptime))),
        ("mode", mode),
        ("kernel", kernel),
        ("configuration", status.config.clone()),
        (
            "policy",
            [
                plural(status.agents, "agent"),
                plural(status.targets, "target"),
                plural(status.rules, "rule"),
                plural(status.masks, "mask"),
            ]
            .join(", "),
        ),
        ("sessions", sessions(&status)),
        ("approvals", format!("{} waiting", status.approvals)),
        ("verdicts", verdicts(&status)),
    ])?;
    if let Some(report) = &status.kernel {
        out.line("")?;
        let counters: Vec<(&str, String)> =
            report.counters.iter().map(|(name, count)| (name.as_str(), count.to_string())).collect();
        out.fields(&counters)?;
        super::kernel::print_warnings(report, out)?;
    }
    for problem in &status.problems {
        out.line(out.paint(Colour::Red, format!("problem: {}", clean(problem))))?;
    }
    Ok(code)
}

fn sessions(status: &Status) -> String {
    match status.replaced {
        0 => format!("{} open", status.sessions),
        replaced => {
            format!("{} open, and those of {} that this one replaced", status.sessions, plural(replaced, "gateway"))
        }
    }
}

fn verdicts(status: &Status) -> String {
    match &status.verdicts {
        None => "none yet".to_owned(),
        Some(verdicts) => format!(
            "{}, half of them within {}, 99 % within {}",
            verdicts.count,
            time::nanos(verdicts.median_ns),
            time::nanos(verdicts.p99_ns)
        ),
    }
}

pub(super) fn reload(config: &Path, out: &mut Out) -> Result<u8, Error> {
    let version: String = ask_one(&runtime_dir(config), Request::Reload)?;
    if out.json {
        out.json(&serde_json::json!({ "configuration": version }))?;
    } else {
        out.line(format!("configuration {version} is in force"))?;
    }
    Ok(0)
}
