//! `weir approvals`, `weir approve`, `weir deny`.

use std::path::Path;

use clap::{Args, Subcommand};

use super::output::{Cell, Colour, Error, Out, Table, clean, or_none, plural, runtime_dir, shorten};
use super::time;
use crate::admin::Request;
use crate::admin::client::{ask_all, ask_one};
use crate::approval::{Status, View};
use crate::policy::HoldRequirement;

pub(super) const HELP: &str = "\
An operation that a rule holds waits here with a number while its client waits too. What you see is exactly what would \
run; an approval is for these bytes, this target and this principal, once.

Examples:
  weir approvals                  what waits
  weir approvals show 7           everything about one of them: the statement, the process, who asks
  weir approve 7 --reason OPS-12  let it run
  weir approvals --json | jq '.[].number'";

pub(super) const APPROVE_HELP: &str = "\
You need to be in a group of one of the approvers that the rule names ([access] approve). Nobody approves what his own \
agent asks: not the user it runs as, not who started it, and not whom its token names. Where a rule wants several \
people, it runs when the last of them has approved.

Examples:
  weir approvals show 7
  weir approve 7
  weir approve 7 --reason 'agreed in OPS-12'";

pub(super) const DENY_HELP: &str = "\
One denial ends the wait, whatever others said before. The reason is shown to the agent.

Examples:
  weir deny 7
  weir deny 7 --reason 'take the WHERE of last week'";

/// Characters of a statement in a list.
const SHORT: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Approvals {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What waits (the default).
    List,
    /// Everything about one approval.
    Show { number: u64 },
}

#[derive(Debug, Args)]
pub(super) struct Vote {
    /// The approval's number: `weir approvals` shows it.
    number: u64,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Approvals {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let gateway = runtime_dir(config);
        match self.command {
            None | Some(Command::List) => list(&ask_all(&gateway, Request::Approvals)?, out),
            Some(Command::Show { number }) => show(&ask_one(&gateway, Request::Approval { number })?, out),
        }
    }
}

impl Vote {
    pub(super) fn run(self, approve: bool, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let Self { number, reason } = self;
        let request = if approve { Request::Approve { number, reason } } else { Request::Deny { number, reason } };
        let view: View = ask_one(&runtime_dir(config), request)?;
        if out.json {
            out.json(&view)?;
            return Ok(0);
        }
        match view.status {
            Status::Approved => out.line(format!("approved: {}", shorten(&view.text, SHORT)))?,
            Status::Denied => out.line(format!("denied: {}", shorten(&view.text, SHORT)))?,
            status => {
                out.line(format!("your vote is recorded; approval {number} is {status}"))?;
                for requirement in &view.requirements {
                    out.line(format!("  needs {}", needs(requirement)))?;
                }
            }
        }
        Ok(0)
    }
}

fn list(approvals: &[View], out: &mut Out) -> Result<u8, Error> {
    if out.json {
        out.json(approvals)?;
        return Ok(0);
    }
    if approvals.is_empty() {
        out.line("nothing waits for approval")?;
        return Ok(0);
    }
    let mut table = Table::new(["NUMBER", "WAITS", "EXPIRES", "AGENT", "TARGET", "APPROVERS", "OPERATION"]);
    let now = time::now();
    for view in approvals {
        let soon = view.expires_at.saturating_sub(now) < 60_000;
        table.row(vec![
            Cell::new(Colour::Bold, view.number.to_string()),
            time::span(now.saturating_sub(view.requested_at) / 1000).into(),
            Cell::new(if soon { Colour::Red } else { Colour::Plain }, time::relative(view.expires_at, now)),
            clean(&view.agent).into(),
            clean(&view.target).into(),
            clean(approvers(view)).into(),
            shorten(&view.text, SHORT).into(),
        ]);
    }
    out.table(&table)?;
    out.line("")?;
    out.line("`weir approvals show N` shows all of it; `weir approve N` and `weir deny N` decide.")?;
    Ok(0)
}

fn show(view: &View, out: &mut Out) -> Result<u8, Error> {
    if out.json {
        out.json(view)?;
        return Ok(0);
    }
    let mut fields = vec![
        ("approval", format!("{}, {}", view.number, view.status)),
        ("operation", view.operation.to_string()),
        ("asked", time::both(view.requested_at)),
        ("expires", time::both(view.expires_at)),
        ("agent", format!("{} (uid {})", clean(&view.agent), view.agent_uid)),
        ("subject", super::sessions::subject(&view.subject, &view.names)),
        ("groups", or_none(&view.groups)),
        ("target", clean(&view.target)),
        ("database", view.database.as_deref().map_or_else(|| "none".to_owned(), clean)),
        ("cgroup", clean(&view.evidence.cgroup)),
    ];
    fields.extend(super::sessions::login(&view.evidence));
    fields.extend(super::sessions::process_fields(&view.evidence));
    for requirement in &view.requirements {
        fields.push(("needs", needs(requirement)));
    }
    for vote in &view.votes {
        let what = if vote.approve { "yes" } else { "no" };
        let reason = vote.reason.as_ref().map(|reason| format!(": {}", clean(reason))).unwrap_or_default();
        let by = super::sessions::approver(&vote.by);
        fields.push(("vote", format!("{what} by {by} at {}{reason}", time::local(vote.at))));
    }
    fields.push(("digest", view.digest.clone()));
    out.fields(&fields)?;
    what_it_does(view, out)?;
    texts(view, out)?;
    if view.status == Status::Pending {
        out.line("")?;
        out.line(format!("`weir approve {0}` lets it run once; `weir deny {0}` refuses it.", view.number))?;
    }
    Ok(0)
}

/// What Weir and the target make of it: before its text, which its agent chose.
fn what_it_does(view: &View, out: &mut Out) -> Result<(), Error> {
    if !view.actions.is_empty() {
        out.line("")?;
        out.line(format!("does: {}", clean(view.actions.join("; "))))?;
    }
    if let Some(forecast) = &view.forecast {
        out.line("")?;
        let rows = forecast.rows.map_or_else(|| "an unknown number of rows".to_owned(), |it| plural(it, "row"));
        let by = if forecast.plan.is_empty() { "" } else { ", by this plan" };
        out.line(format!("the target expects {rows}{by}"))?;
        for line in &forecast.plan {
            out.line(format!("  {}", clean(line)))?;
        }
        for cascade in &forecast.cascades {
            out.line(format!("and {}", clean(cascade)))?;
        }
    }
    Ok(())
}

/// Its text, as it is understood first.
fn texts(view: &View, out: &mut Out) -> Result<(), Error> {
    let texts = [
        ("what runs, as it is understood:", view.understood.as_deref()),
        ("what runs, as it was sent:", Some(view.text.as_str())),
        ("with these parameters:", view.parameters.as_deref()),
    ];
    for (title, text) in texts {
        let Some(text) = text else { continue };
        out.line("")?;
        out.line(title)?;
        out.foreign(text)?;
    }
    Ok(())
}

fn approvers(view: &View) -> String {
    let mut names: Vec<&str> =
        view.requirements.iter().flat_map(|requirement| &requirement.approvers).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn needs(requirement: &HoldRequirement) -> String {
    let message = requirement.message.as_ref().map(|message| format!(": {}", clean(message))).unwrap_or_default();
    format!(
        "{} of {} (rule \"{}\"){message}",
        plural(requirement.count.into(), "approval"),
        clean(requirement.approvers.join(", ")),
        clean(&requirement.rule)
    )
}
