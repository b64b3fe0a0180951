//! `weir denials`: what was denied, in one list.

use std::path::Path;

use clap::Args;

use super::output::{Cell, Colour, Error, Out, Table, clean, runtime_dir, shorten};
use super::time;
use super::which::Which;
use crate::admin::Request;
use crate::admin::client::ask_all;
use crate::record::denials::{Denial, Kind};

pub(super) const HELP: &str = "\
Everything that an agent tried and did not get: connections that never became a session, statements that were denied, names \
that the resolver did not answer, and what the kernel half refused (sockets, datagrams, packets). What policy only observes is \
there, too, and passed. What an ID is told of has \
more to it: `weir why ID`. The kernel half tells of 20 refusals a second in each cgroup and counts the rest: `weir status`. With --agent or --target there are connections and \
statements only.

Examples:
  weir denials                             the newest
  weir denials --agent coder --since 1h
  weir denials --json | jq -r '.[] | select(.kind == \"dns\") | .what' | sort | uniq -c";

/// Characters of a text in a list.
const SHORT: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Denials {
    #[command(flatten)]
    which: Which,
}

impl Denials {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let since_ns = self.which.since_ns();
        let Which { agent, target, limit, .. } = self.which;
        let request = Request::Denials { limit, agent, target, since_ns };
        let denials: Vec<Denial> = ask_all(&runtime_dir(config), request)?;
        if out.json {
            out.json(&denials)?;
            return Ok(0);
        }
        if denials.is_empty() {
            out.line("nothing was denied")?;
            return Ok(0);
        }
        let mut table = Table::new(["WHEN", "KIND", "AGENT", "PID", "UID", "WHAT", "WHY", "ID"]);
        for denial in &denials {
            table.row(cells(denial));
        }
        out.table(&table)?;
        Ok(0)
    }
}

fn cells(denial: &Denial) -> Vec<Cell> {
    let Denial { at_ns, kind, id, agent, pid, uid, what, reason, more, observed } = denial;
    let number = |number: &Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let reason = if *kind == Kind::Kernel { words(reason) } else { reason };
    let reason = shorten(reason, SHORT);
    let reason = if *observed { format!("passed, observed only: {reason}") } else { reason };
    let reason = if *more > 0 { format!("{reason} (and {more} more before)") } else { reason };
    vec![
        time::both(at_ns / 1_000_000).into(),
        kind.as_str().to_owned().into(),
        agent.as_deref().map_or_else(|| "-".to_owned(), clean).into(),
        number(pid).into(),
        number(uid).into(),
        shorten(what, SHORT).into(),
        Cell::new(if *observed { Colour::Yellow } else { Colour::Red }, reason),
        Cell::new(Colour::Bold, id.map_or_else(|| "-".to_owned(), |id| id.to_string())),
    ]
}

/// The kernel half's word for a refusal, for people. What it has no word for stands as it is recorded.
fn words(reason: &str) -> &str {
    match reason {
        "denied_udp" => "UDP other than DNS",
        "denied_protocol" => "a kind of socket that agents may not have",
        "denied_netns" => "the gateway does not listen in its network namespace",
        "denied_socket_option" => "a socket option that leads around the gateway",
        "denied_inbound" => "somebody tried to connect to the agent; `listen` of [[agent]] allows ports",
        recorded => recorded,
    }
}
