//! `weir explain`, `weir why`.

use std::path::Path;

use clap::Args;

use super::output::{Error, Out, clean, clean_lines, load, runtime_dir};
use super::{sessions, time};
use crate::admin::client::ask_one;
use crate::admin::{Request, Why};
use crate::ids::OperationId;
use crate::policy::{Explanation, Gate, Subject};
use crate::protocol;
use crate::record::event::ConnectionRefused;

pub(super) const EXPLAIN_HELP: &str = "\
Works from the configuration alone; nothing is connected to and nothing runs. With --live the running gateway asks the \
target what it makes of the statement, without running it: which columns of the result are masked, and whether that refuses it. \
Exits with 0 if the statement would be allowed, with 1 if it would be held or denied.

Examples:
  weir explain --target orders --agent coder 'SELECT * FROM customers'
  weir explain --target orders --agent coder --group dba 'DELETE FROM orders'
  weir explain --target orders --agent coder --live 'SELECT name, lower(email) FROM customers'
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
    /// Ask the running gateway, and through it the target: where the columns of the result come from, and which are masked.
    /// Nothing of the statement runs.
    #[arg(long)]
    live: bool,
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
        let database = self.database.or_else(|| match target.databases.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        });
        if self.live {
            let request = Request::Explain {
                target: self.target,
                agent: self.agent,
                groups: self.group,
                database,
                text: self.text,
            };
            return show(&ask_one(&runtime_dir(config), request)?, out);
        }
        let operation = protocol::explain(target, database, &self.text).map_err(Error::message)?;
        let subject = Subject { agent: &self.agent, groups: &self.group, target: &self.target };
        let code = show(&loaded.policy.explain(subject, &operation), out)?;
        let masks = loaded.masks.iter().filter(|mask| mask.targets.is_empty() || mask.targets.contains(&self.target));
        let masks: Vec<&str> = masks.map(|mask| mask.name.as_str()).collect();
        if !out.json && !masks.is_empty() {
            out.line("")?;
            out.line(format!(
                "Masks of this target: {}. Which columns they meet, and whether that refuses the statement, the target's \
                 catalog tells: --live.",
                clean(masks.join(", "))
            ))?;
        }
        let applies = |names: &[String], name: &str| names.is_empty() || names.iter().any(|it| it == name);
        let limits = loaded.limits.iter();
        let limits = limits.filter(|it| applies(&it.agents, &self.agent) && applies(&it.targets, &self.target));
        let limits: Vec<&str> = limits.map(|limit| limit.name.as_str()).collect();
        if !out.json && !limits.is_empty() {
            out.line(format!("Limits: {}. They end a statement whose result is larger.", clean(limits.join(", "))))?;
        }
        Ok(code)
    }
}

pub(super) fn why(config: &Path, id: OperationId, out: &mut Out) -> Result<u8, Error> {
    let why: Why = ask_one(&runtime_dir(config), Request::Why { id })?;
    if out.json {
        out.json(&why)?;
        return Ok(0);
    }
    let mut fields = vec![("id", why.id.to_string()), ("when", time::both(why.at_unix_ns / 1_000_000))];
    if let Some(refused) = &why.refused {
        let name = |name: &Option<String>| name.as_deref().map_or_else(|| "unknown".to_owned(), clean);
        fields.push(("refused", clean(&refused.message)));
        fields.extend(refused.rule.iter().map(|rule| ("rule", clean(rule))));
        fields.extend([("agent", name(&refused.agent)), ("target", name(&refused.target))]);
    }
    if let Some(decided) = &why.decided {
        fields.push(("verdict", clean(&decided.gate)));
    }
    fields.extend(why.approval.iter().map(|transition| ("approval", sessions::approval(transition))));
    out.fields(&fields)?;
    if let Some(refused) = &why.refused {
        out.line("")?;
        out.line(advice(refused))?;
    }
    if let Some(now) = &why.now {
        out.line("")?;
        if why.config_then.as_ref() == Some(&why.config_now) {
            out.line("By the policy in force:")?;
        } else {
            out.line("The policy has changed since. By the one in force now:")?;
        }
        show(now, out)?;
    }
    // Last: its agent chose it.
    if let Some(decided) = &why.decided {
        out.line("")?;
        out.line("What was asked:")?;
        out.foreign(&decided.text)?;
    }
    Ok(0)
}

/// What to look at, by the stage that refused.
fn advice(refused: &ConnectionRefused) -> &'static str {
    match refused.reason.as_str() {
        "target" => "A [[target]] whose `address` has this destination would let it be judged.",
        "identity" => "The agent's [[agent]] section says where its token lies; `weir doctor` looks at it.",
        "policy" => "A [[rule]] that allows this agent something on this target lets it connect.",
        "gateway" => "`weir status` and the gateway's log tell what it could not do.",
        _ => "Connections are only taken from agents, as the kernel sent them here.",
    }
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
