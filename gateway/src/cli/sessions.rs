//! `weir sessions`: what happened.

use std::path::Path;

use clap::{Args, Subcommand};

use super::output::{Error, Out, clean};
use crate::ids::SessionId;
use crate::origin::Evidence;

pub(super) const HELP: &str = "\
A session is one connection of an agent to a target, refused ones included. Reading the records is itself recorded.

Examples:
  weir sessions                            the newest
  weir sessions --agent coder --limit 200
  weir sessions show 01k3v9m2c7q4x         process, token, every statement with its rule and verdict
  weir sessions replay 01k3v9m2c7q4x       statements and what came back, as the agent saw it
  weir sessions replay 01k3v9m2c7q4x --speed 4
  weir sessions --json | jq -r '.[] | select(.refused != null) | .id'";

#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Args)]
struct List {
    /// Only this agent's.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only to this target.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The newest so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::admin::MAX_LISTED)))]
    limit: u32,
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
        let _ = (config, out);
        match self.command.unwrap_or(Command::List(self.list)) {
            Command::List(List { agent, target, limit }) => drop((agent, target, limit)),
            Command::Show { id } => drop(id.to_string()),
            Command::Replay { id, speed, no_timing } => drop((id.to_string(), speed, no_timing)),
        }
        Err(Error::message("the recording store is not there yet"))
    }
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
