//! `weir explain`, `weir why`.

use std::path::Path;

use clap::Args;

use super::output::{Error, Out, clean_lines, load, runtime_dir};
use crate::admin::Request;
use crate::admin::client::ask_one;
use crate::ids::OperationId;
use crate::policy::{Explanation, Gate, Subject};

pub(super) const EXPLAIN_HELP: &str = "\
Works from the configuration alone; nothing is connected to and nothing runs. Exits with 0 if the statement would be \
allowed, with 1 if it would be held or denied.

Examples:
  weir explain --target orders --agent coder 'SELECT * FROM customers'
  weir explain --target orders --agent coder --group dba 'DELETE FROM orders'
  weir explain --config ./new.toml --target orders --agent coder --json 'DROP TABLE orders' | jq .gate";

pub(super) const WHY_HELP: &str = "\
Every denial prints an ID. This shows the facts of the operation as they were recorded, each rule of the policy in force \
now and whether it matches, and the smallest change that would allow it.

Examples:
  weir why 01k3v9m2c7q4x-12        an operation
  weir why 01k3v9m2c7q4x           a connection that was refused";

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The target's name.
    #[arg(long, value_name = "NAME")]
    target: String,
    /// The agent's name.
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// A group of the agent's token; may be given more than once.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// The database; without it the target's only one.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The statement.
    text: String,
}

impl Explain {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let loaded = load(config)?;
        let names = |all: Vec<&str>| all.join(", ");
        if !loaded.agents.iter().any(|agent| agent.name == self.agent) {
            let known = names(loaded.agents.iter().map(|agent| agent.name.as_str()).collect());
            return Err(Error::message(format!("there is no agent {:?}; there are: {known}", self.agent)));
        }
        let Some(target) = loaded.targets.iter().find(|target| target.name == self.target) else {
            let known = names(loaded.targets.iter().map(|target| target.name.as_str()).collect());
            return Err(Error::message(format!("there is no target {:?}; there are: {known}", self.target)));
        };
        let _ = target;
        let _: fn(&Explanation, &mut Out) -> Result<u8, Error> = show;
        let _ = (&self.database, &self.text);
        let _ = Subject { agent: &self.agent, groups: &self.group, target: &self.target };
        let _ = out;
        Err(Error::message("the protocols cannot explain yet"))
    }
}

pub(super) fn why(config: &Path, id: OperationId, out: &mut Out) -> Result<u8, Error> {
    let explanation: Explanation = ask_one(&runtime_dir(config), Request::Why { id })?;
    show(&explanation, out).map(|_| 0)
}

/// 0 where it is allowed.
fn show(explanation: &Explanation, out: &mut Out) -> Result<u8, Error> {
    if out.json {
        out.json(explanation)?;
    } else {
        out.line(clean_lines(explanation.to_string().trim_end()))?;
    }
    Ok(u8::from(!matches!(explanation.gate, Gate::Allow { .. })))
}
