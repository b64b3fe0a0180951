//! `weir sessions`: what happened.

use std::io::IsTerminal as _;
use std::path::Path;

use clap::{Args, Subcommand};

use super::output::{Cell, Colour, Error, Out, Table, clean, runtime_dir, shorten};
use super::time;
use super::which::Which;
use crate::admin::Request;
use crate::admin::client::ask_all;
use crate::ids::SessionId;
use crate::origin::Evidence;
use crate::record::event::Record;
use crate::record::index::SessionRow;

mod replay;
mod show;

pub(super) use show::{approval, approver, login, subject};

pub(super) const HELP: &str = "\
A session is one connection of an agent to a target, refused ones included. Reading the records is itself recorded.

Examples:
  weir sessions                            the newest
  weir sessions --agent coder --limit 200
  weir sessions show 01k3v9m2c7q4x         process, token, every statement with its rule and verdict
  weir sessions replay 01k3v9m2c7q4x       statements and what came back, as the agent saw it
  weir sessions replay 01k3v9m2c7q4x --speed 4
  weir sessions --refused --since 1h
  weir sessions --json | jq -r '.[] | select(.refused != null) | .id'";

/// Characters of a message in a list.
const SHORT: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// Only connections that were refused.
    #[arg(long)]
    refused: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest sessions (the default).
    List(List),
    /// One session: who, where to, every statement.
    Show {
        #[arg(value_parser = super::session_id)]
        id: SessionId,
    },
    /// End an open session at its next step.
    Kill {
        #[arg(value_parser = super::session_id)]
        id: SessionId,
    },
    /// What one session's client sent and got back, with its timing.
    Replay {
        #[arg(value_parser = super::session_id)]
        id: SessionId,
        /// So many times as fast.
        #[arg(long, default_value_t = 1.0, value_parser = speed, conflicts_with = "no_timing")]
        speed: f64,
        /// All at once.
        #[arg(long)]
        no_timing: bool,
    },
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.001..=1e6).contains(&speed) => Ok(speed),
        _ => Err("a speed is a number such as 0.5 or 10".to_owned()),
    }
}

impl Sessions {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let gateway = runtime_dir(config);
        match self.command.unwrap_or(Command::List(self.list)) {
            Command::List(list) => list.run(&gateway, out),
            Command::Show { id } => {
                let records: Vec<Record> = ask_all(&gateway, Request::Session { id })?;
                if out.json {
                    out.json(&records)?;
                } else {
                    show::session(id, &records, out)?;
                }
                Ok(0)
            }
            Command::Replay { id, speed, no_timing } => {
                // A file or a pipe has no use for pauses.
                let speed = (!no_timing && std::io::stdout().is_terminal()).then_some(speed);
                replay::run(&gateway, id, speed, out)
            }
            Command::Kill { id } => {
                ask_all::<serde_json::Value>(&gateway, Request::Kill { id })?;
                if out.json {
                    out.json(&serde_json::json!({ "id": id, "ends": "at its next step" }))?;
                } else {
                    out.line(format!("session {id} ends at its next step"))?;
                }
                Ok(0)
            }
        }
    }
}

impl List {
    fn run(self, gateway: &Path, out: &mut Out) -> Result<u8, Error> {
        let Self { which, refused } = self;
        let since_ns = which.since_ns();
        let Which { agent, target, limit, .. } = which;
        let request = Request::Sessions { limit, agent, target, since_ns, refused_only: refused };
        let rows: Vec<SessionRow> = ask_all(gateway, request)?;
        if out.json {
            out.json(&rows)?;
            return Ok(0);
        }
        if rows.is_empty() {
            out.line("no session was recorded")?;
            return Ok(0);
        }
        let mut table = Table::new([
            "SESSION",
            "OPENED",
            "AGENT",
            "SUBJECT",
            "TARGET",
            "STATEMENTS",
            "DENIED",
            "HELD",
            "ROWS",
            "MASKED",
            "OUTCOME",
        ]);
        for row in &rows {
            table.row(cells(row));
        }
        out.table(&table)?;
        Ok(0)
    }
}

fn cells(row: &SessionRow) -> Vec<Cell> {
    let name = |name: &Option<String>| -> Cell { name.as_deref().map_or_else(|| "-".to_owned(), clean).into() };
    let count = |count: u64, colour| Cell::new(if count == 0 { Colour::Dim } else { colour }, count.to_string());
    let outcome = match (&row.refused, &row.outcome, row.closed_ns) {
        (Some(stage), _, _) => {
            let message = row.message.as_deref().map(|message| shorten(message, SHORT)).unwrap_or_default();
            Cell::new(Colour::Red, format!("refused ({}): {message}", clean(stage)))
        }
        (None, _, None) => Cell::new(Colour::Green, "open"),
        (None, outcome, Some(_)) => shorten(outcome.as_deref().unwrap_or("closed"), SHORT).into(),
    };
    vec![
        Cell::new(Colour::Bold, row.id.to_string()),
        time::both(row.opened_ns / 1_000_000).into(),
        name(&row.agent),
        name(&row.subject),
        name(&row.target),
        count(row.statements, Colour::Plain),
        count(row.denied, Colour::Red),
        count(row.held, Colour::Yellow),
        count(row.rows, Colour::Plain),
        count(row.cells_masked, Colour::Plain),
        outcome,
    ]
}

/// The process that connected and its ancestors.
pub(super) fn process_fields(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    for (depth, process) in evidence.tree.iter().enumerate() {
        let name = if depth == 0 { "process" } else { "started by" };
        let argv: Vec<String> = process.argv.iter().map(clean).collect();
        fields.push((name, format!("{} {} [{}]", process.pid, clean(&process.executable), argv.join(" "))));
    }
    fields
}
