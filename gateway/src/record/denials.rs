//! What was denied, in one list: connections, statements, names that were asked for, and what the kernel half refused. The
//! index keeps a line of each; refused connections have theirs among the sessions.

use std::net::SocketAddr;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::RecordError;
use super::event::{Event, Record};
use super::index::{Filter, MAX_ROWS};
use crate::approval::{Status, Transition};
use crate::ids::{OperationId, SessionId};
use crate::origin::Origin;
use crate::policy::Gate;

/// Bytes of a text in the list; the record has the rest.
const MAX_TEXT: usize = 256;

pub(super) const TABLE: &str = "
    CREATE TABLE denials (
        sequence INTEGER PRIMARY KEY, segment INTEGER NOT NULL, at_ns INTEGER NOT NULL, kind TEXT NOT NULL,
        session INTEGER, operation INTEGER, pid INTEGER, uid INTEGER, what TEXT NOT NULL, reason TEXT,
        more INTEGER NOT NULL, observed INTEGER NOT NULL);
    CREATE INDEX denials_at ON denials (at_ns);
    CREATE INDEX denials_segment ON denials (segment);
    CREATE INDEX denials_waiting ON denials (session, operation) WHERE reason IS NULL;
";

/// What kind of thing was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A connection that never became a session.
    Connection,
    /// An operation of a session.
    Operation,
    /// A DNS query.
    Dns,
    /// A system call or a packet, by the kernel half.
    Kernel,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    pub kind: Kind,
    /// For `weir why`, where there is more to tell.
    pub id: Option<OperationId>,
    /// Where it is known: a connection's or a session's.
    pub agent: Option<String>,
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    /// A target, a destination, a name, or a statement's beginning.
    pub what: String,
    pub reason: String,
    /// So many more of the same agent were denied before it and not recorded one by one.
    pub more: u32,
    /// It went through all the same: policy says to observe only.
    pub observed: bool,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Operation => "operation",
            Self::Dns => "dns",
            Self::Kernel => "kernel",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Connection, Self::Operation, Self::Dns, Self::Kernel].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Notes a record that is about a denial, other than of a connection.
pub(super) fn note(db: &Connection, segment: u64, record: &Record) -> Result<(), RecordError> {
    let line = match &record.event {
        Event::OperationDecided(event) => {
            // One that waits has no reason yet, and is in no list.
            let reason = match (&event.gate, event.approval) {
                (Gate::Allow { .. }, _) => return Ok(()),
                (Gate::Hold { .. }, Some(_)) => None,
                (Gate::Hold { .. }, None) => Some("it needs an approval, and nobody could be asked".to_owned()),
                (Gate::Deny { rule, message }, _) => Some(match (&event.refusal, rule) {
                    (Some(refusal), _) => refusal.clone(),
                    (None, Some(rule)) => format!("rule {rule}: {message}"),
                    (None, None) => message.clone(),
                }),
            };
            Line { operation: Some(event.operation), reason, ..Line::new(Kind::Operation, &event.text) }
        }
        Event::Approval(transition) => return end_of_wait(db, transition),
        Event::DnsRefused { origin, name, kind, reason, passed_over, observed } => Line {
            origin: Some(origin),
            reason: Some(reason.clone()),
            more: *passed_over,
            observed: *observed,
            ..Line::new(Kind::Dns, &format!("{name} {kind}"))
        },
        Event::KernelDenied { origin, reason, protocol } => Line {
            origin: Some(origin),
            reason: Some(reason.clone()),
            ..Line::new(Kind::Kernel, &wanted(origin.destination, *protocol))
        },
        _ => return Ok(()),
    };
    let mut insert =
        db.prepare_cached("INSERT OR REPLACE INTO denials VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")?;
    insert.execute(params![
        record.sequence.cast_signed(),
        segment.cast_signed(),
        record.at_unix_ns.cast_signed(),
        line.kind.as_str(),
        line.operation.map(|operation| operation.session.as_u64().cast_signed()),
        line.operation.map(|operation| operation.sequence),
        line.origin.map(|origin| origin.pid),
        line.origin.map(|origin| origin.uid),
        line.what,
        line.reason.as_deref().map(shortened),
        line.more,
        line.observed,
    ])?;
    Ok(())
}

/// What a record says, on its way into the table.
struct Line<'a> {
    kind: Kind,
    operation: Option<OperationId>,
    origin: Option<&'a Origin>,
    what: String,
    reason: Option<String>,
    more: u32,
    observed: bool,
}

impl Line<'_> {
    fn new(kind: Kind, what: &str) -> Self {
        Self { kind, operation: None, origin: None, what: shortened(what), reason: None, more: 0, observed: false }
    }
}

/// An operation that waited was denied, or will never run.
fn end_of_wait(db: &Connection, transition: &Transition) -> Result<(), RecordError> {
    let reason = match transition {
        Transition::Voted { vote, .. } if !vote.approve => match &vote.reason {
            Some(reason) => format!("{} said no: {reason}", vote.by.user),
            None => format!("{} said no", vote.by.user),
        },
        Transition::Ended { status: Status::Expired, .. } => "nobody approved it in time".to_owned(),
        Transition::Ended { status: Status::Withdrawn, .. } => "the client left before it was approved".to_owned(),
        Transition::Requested(_) | Transition::Voted { .. } | Transition::Ended { .. } => return Ok(()),
    };
    let OperationId { session, sequence } = transition.operation();
    db.prepare_cached("UPDATE denials SET reason = ?3 WHERE session = ?1 AND operation = ?2 AND reason IS NULL")?
        .execute(params![session.as_u64().cast_signed(), sequence, shortened(&reason)])?;
    Ok(())
}

/// Forgets what lay in segments up to this one.
pub(super) fn forget(db: &Connection, segment: u64) -> Result<(), RecordError> {
    db.execute("DELETE FROM denials WHERE segment <= ?1", [segment.cast_signed()])?;
    Ok(())
}

/// The newest, newest first.
pub(super) fn list(db: &Connection, filter: &Filter) -> Result<Vec<Denial>, RecordError> {
    let limit = if filter.limit == 0 { MAX_ROWS } else { filter.limit.min(MAX_ROWS) };
    let mut query = db.prepare_cached(
        "SELECT * FROM (
           SELECT d.at_ns AS at_ns, d.kind AS kind, d.session AS session, d.operation AS operation, s.agent AS agent,
             coalesce(d.pid, s.pid) AS pid, coalesce(d.uid, s.uid) AS uid, d.what AS what, d.reason AS reason, d.more AS more,
             s.target AS target, max(d.observed, coalesce(s.observed, 0)) AS observed
           FROM denials d LEFT JOIN sessions s ON s.id = d.session WHERE d.reason IS NOT NULL
           UNION ALL
           SELECT opened_ns, 'connection', id, 0, agent, pid, uid, coalesce(target, ''), coalesce(message, refused), 0, target,
             observed
           FROM sessions WHERE refused IS NOT NULL)
         WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR at_ns >= ?3)
         ORDER BY at_ns DESC LIMIT ?4",
    )?;
    let since = filter.since_ns.map(u64::cast_signed);
    let rows = query.query_map(params![filter.agent, filter.target, since, limit], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Denial> {
    let session: Option<i64> = row.get("session")?;
    let sequence: Option<u32> = row.get("operation")?;
    let kind: String = row.get("kind")?;
    Ok(Denial {
        at_ns: row.get::<_, i64>("at_ns")?.cast_unsigned(),
        kind: Kind::parse(&kind).unwrap_or(Kind::Kernel),
        id: session
            .zip(sequence)
            .map(|(session, sequence)| OperationId { session: SessionId::from_u64(session.cast_unsigned()), sequence }),
        agent: row.get("agent")?,
        pid: row.get("pid")?,
        uid: row.get("uid")?,
        what: row.get("what")?,
        reason: row.get("reason")?,
        more: row.get("more")?,
        observed: row.get("observed")?,
    })
}

/// What the kernel half tells of what was tried: an address, where there was one.
fn wanted(destination: SocketAddr, protocol: u16) -> String {
    let protocol = match protocol {
        0 => String::new(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        33 => "DCCP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        136 => "UDP-Lite".to_owned(),
        262 => "MPTCP".to_owned(),
        other => format!("IP protocol {other}"),
    };
    if destination.ip().is_unspecified() {
        protocol
    } else {
        format!("{protocol} {destination}").trim_start().to_owned()
    }
}

fn shortened(text: &str) -> String {
    let kept = &text[..text.floor_char_boundary(MAX_TEXT)];
    if kept.len() < text.len() { format!("{kept}…") } else { text.to_owned() }
}
