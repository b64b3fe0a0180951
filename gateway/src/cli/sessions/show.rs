//! `weir sessions show`: one session as a page, out of its records.

use std::collections::BTreeMap;

use super::super::output::{Colour, Error, Out, clean, or_none, plural};
use super::super::time;
use super::process_fields;
use crate::approval::{Approver, Status, Transition};
use crate::ids::SessionId;
use crate::origin::{Evidence, Origin};
use crate::policy::Gate;
use crate::record::event::{
    ConnectionRefused, Event, OperationDecided, OperationReplied, Record, SessionClosed, SessionOpened,
};

type Fields = Vec<(&'static str, String)>;

/// What the records say of one operation.
#[derive(Default)]
struct Seen<'a> {
    decided: Option<&'a OperationDecided>,
    approval: Vec<&'a Transition>,
    replied: Option<&'a OperationReplied>,
}

pub(super) fn session(id: SessionId, records: &[Record], out: &mut Out) -> Result<(), Error> {
    let mut fields: Fields = vec![("session", id.to_string())];
    let mut closed = None;
    let mut operations: BTreeMap<u32, Seen<'_>> = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::SessionOpened(event) => fields.extend(opened(record.at_unix_ns, event)),
            Event::ConnectionRefused(event) => fields.extend(refused(record.at_unix_ns, event)),
            Event::SessionClosed(event) => closed = Some((record.at_unix_ns, event)),
            Event::OperationDecided(event) => {
                operations.entry(event.operation.sequence).or_default().decided = Some(event);
            }
            Event::OperationReplied(event) => {
                operations.entry(event.operation.sequence).or_default().replied = Some(event);
            }
            Event::Approval(event) => operations.entry(event.operation().sequence).or_default().approval.push(event),
            _ => {}
        }
    }
    let is_session = !records.iter().any(|record| matches!(record.event, Event::ConnectionRefused(_)));
    match closed {
        Some((at, event)) => fields.extend(ended(at, event)),
        None if is_session => fields.push(("closed", out.paint(Colour::Green, "it is open"))),
        None => {}
    }
    out.fields(&fields)?;
    for (sequence, seen) in &operations {
        out.line("")?;
        operation(id, *sequence, seen, out)?;
    }
    Ok(())
}

fn opened(at_unix_ns: u64, event: &SessionOpened) -> Fields {
    let principal = &event.principal;
    let mut fields = vec![
        ("opened", time::both(at_unix_ns / 1_000_000)),
        ("agent", clean(&principal.agent)),
        ("subject", format!("{} (issuer {})", subject(&principal.subject, &principal.names), clean(&principal.issuer))),
        ("groups", or_none(&principal.groups)),
        ("token", format!("{} until {}", token(event), time::local(principal.expires_at.saturating_mul(1000)))),
        ("target", format!("{} ({})", clean(&event.target), event.protocol.as_str())),
    ];
    fields.extend(origin(&event.origin, event.evidence.user.as_deref()));
    fields.push(("cgroup", clean(&event.evidence.cgroup)));
    fields.extend(login(&event.evidence));
    fields.extend(container(&event.evidence).map(|container| ("container", container)));
    fields.extend(process_fields(&event.evidence));
    fields.push((
        "policy",
        format!("{}{}", clean(&event.config_version), if event.observe { ", observed only" } else { "" }),
    ));
    fields
}

/// The subject of a token, and what else it is called.
pub(crate) fn subject(subject: &str, names: &[String]) -> String {
    let others: Vec<String> = names.iter().filter(|name| *name != subject).map(clean).collect();
    let others = if others.is_empty() { String::new() } else { format!(", called {}", others.join(", ")) };
    format!("{}{others}", clean(subject))
}

/// Who logged in where the process was started.
pub(crate) fn login(evidence: &Evidence) -> Option<(&'static str, String)> {
    Some(("started by", format!("who logged in as uid {}", evidence.login_uid?)))
}

/// Its name, if the runtime said one, and its id.
fn container(evidence: &Evidence) -> Option<String> {
    let id = clean(evidence.container.as_ref()?);
    Some(match &evidence.container_name {
        Some(name) => format!("{} ({id})", clean(name)),
        None => id,
    })
}

/// The token's name, or enough of its digest to tell it from others.
fn token(event: &SessionOpened) -> String {
    let digest = crate::approval::hex(&event.principal.token_digest[..8]);
    event
        .principal
        .token_id
        .as_ref()
        .map_or_else(|| format!("sha256 {digest}…"), |id| format!("{} (sha256 {digest}…)", clean(id)))
}

fn origin(origin: &Origin, user: Option<&str>) -> Fields {
    let user = user.map(|user| format!("{} ", clean(user))).unwrap_or_default();
    vec![
        ("user", format!("{user}(uid {}, gid {})", origin.uid, origin.gid)),
        ("from", origin.source.to_string()),
        ("to", origin.destination.to_string()),
    ]
}

fn refused(at_unix_ns: u64, event: &ConnectionRefused) -> Fields {
    let unknown = || "unknown".to_owned();
    let mut fields = vec![
        ("refused", time::both(at_unix_ns / 1_000_000)),
        ("because", format!("{} ({})", clean(&event.message), clean(&event.reason))),
    ];
    if let Some(rule) = &event.rule {
        fields.push(("rule", clean(rule)));
    }
    fields.push(("agent", event.agent.as_ref().map_or_else(unknown, clean)));
    fields.push(("target", event.target.as_ref().map_or_else(unknown, clean)));
    if let Some(seen) = &event.origin {
        let user = event.evidence.as_ref().and_then(|evidence| evidence.user.as_deref());
        fields.extend(origin(seen, user));
    }
    if let Some(evidence) = &event.evidence {
        fields.push(("cgroup", clean(&evidence.cgroup)));
        fields.extend(login(evidence));
        fields.extend(container(evidence).map(|container| ("container", container)));
        fields.extend(process_fields(evidence));
    }
    fields
}

fn ended(at_unix_ns: u64, event: &SessionClosed) -> Fields {
    vec![
        ("closed", format!("{}: {}", time::both(at_unix_ns / 1_000_000), clean(&event.outcome))),
        (
            "totals",
            format!(
                "{}, {}, {} masked, {} bytes up, {} down",
                plural(event.statements, "statement"),
                plural(event.rows, "row"),
                plural(event.cells_masked, "cell"),
                event.bytes_up,
                event.bytes_down
            ),
        ),
    ]
}

fn operation(id: SessionId, sequence: u32, seen: &Seen<'_>, out: &mut Out) -> Result<(), Error> {
    let name = out.paint(Colour::Bold, id.operation(sequence));
    if let Some(decided) = seen.decided {
        let at = out.paint(Colour::Dim, format!("+{}", time::micros(decided.at_us)));
        let verdict = out.paint(colour(&decided.gate), clean(decided.gate.to_string()));
        out.line(format!("{name}  {at}  {verdict}"))?;
        out.foreign(&decided.text)?;
        if let Some(parameters) = &decided.parameters {
            out.line("    with parameters")?;
            out.foreign(parameters)?;
        }
    } else {
        out.line(name)?;
    }
    for transition in &seen.approval {
        out.line(format!("    approval {}", approval(transition)))?;
    }
    if let Some(replied) = seen.replied {
        let masked = match (replied.cells_masked, replied.masks.as_slice()) {
            (0, _) => String::new(),
            (cells, []) => format!(", {} masked", plural(cells, "cell")),
            (cells, masks) => format!(", {} masked by {}", plural(cells, "cell"), clean(masks.join(", "))),
        };
        let took = time::micros(replied.finished_us.saturating_sub(replied.started_us));
        let line = format!("-> {}, {}{masked}, {took}", clean(&replied.outcome), plural(replied.rows, "row"));
        out.line(format!("    {}", out.paint(Colour::Dim, line)))?;
    }
    Ok(())
}

fn colour(gate: &Gate) -> Colour {
    match gate {
        Gate::Allow { .. } => Colour::Green,
        Gate::Hold { .. } => Colour::Yellow,
        Gate::Deny { .. } => Colour::Red,
    }
}

/// Who voted, and who that is if another user logged in.
pub(crate) fn approver(by: &Approver) -> String {
    let login = by.login_uid.filter(|uid| *uid != by.uid).map(|uid| {
        let user = by.login_user.as_ref().map(|user| format!("{}, ", clean(user))).unwrap_or_default();
        format!(", logged in as {user}uid {uid}")
    });
    format!("{} (uid {}{})", clean(&by.user), by.uid, login.unwrap_or_default())
}

/// One line for what happened to an approval.
pub(crate) fn approval(transition: &Transition) -> String {
    match transition {
        Transition::Requested(view) => {
            let needs: Vec<String> = view.requirements.iter().flat_map(|it| it.approvers.clone()).collect();
            format!("{} asked of {}", view.number, or_none(&needs))
        }
        Transition::Voted { number, vote, completes, .. } => {
            let what = match (vote.approve, completes) {
                (true, true) => "approved",
                (true, false) => "approved, and needs more,",
                (false, _) => "denied",
            };
            let reason = vote.reason.as_ref().map(|reason| format!(": {}", clean(reason))).unwrap_or_default();
            format!("{number} {what} by {} at {}{reason}", approver(&vote.by), time::local(vote.at))
        }
        Transition::Ended { number, status: Status::Expired, .. } => format!("{number} expired"),
        Transition::Ended { number, status, .. } => format!("{number} {status}"),
    }
}
