//! What the gateway answers to those who may ask.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Action, Backend, Caller, Failure, FailureKind, Items, Request};
use crate::approval::{ApprovalError, LedgerError, Transition};
use crate::config::{Config, Mode};
use crate::engine::Engine;
use crate::ids::{OperationId, SessionId};
use crate::policy::{Explanation, Gate, Operation, Subject};
use crate::protocol;
use crate::record::RecordError;
use crate::record::event::{ConnectionRefused, Event, OperationDecided, Record, SessionOpened};
use crate::record::index::Filter;
use crate::target::Protocol;
use crate::verdicts::VerdictSummary;
use crate::witness::{AttachmentReport, Peer as Process, WitnessError};

/// Bytes of one text in an answer; the record has the rest.
const MAX_TEXT: usize = 128 * 1024;
/// Actions of one operation in an answer.
const MAX_ACTIONS: usize = 64;
/// Lines of a reply in one item of a replay.
const LINES: usize = 64;
/// Bytes of one line of a reply.
const MAX_LINE: usize = 4096;

/// The gateway at this moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
    pub observe: bool,
    /// Version of the configuration in force.
    pub config: String,
    pub agents: u64,
    pub targets: u64,
    pub rules: u64,
    pub masks: u64,
    /// Sessions that are open, approvals that wait.
    pub sessions: u64,
    pub approvals: u64,
    /// How long it takes to decide; None before the first statement.
    #[serde(default)]
    pub verdicts: Option<VerdictSummary>,
    /// Gateways that this one replaced and that still serve sessions.
    #[serde(default)]
    pub replaced: u64,
    /// None: the witness did not answer.
    pub kernel: Option<AttachmentReport>,
    /// What somebody should look at.
    pub problems: Vec<String>,
}

/// What is known of a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    pub id: OperationId,
    /// Nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// The connection never became a session.
    pub refused: Option<ConnectionRefused>,
    pub decided: Option<OperationDecided>,
    /// What became of its approval, if it needed one.
    pub approval: Vec<Transition>,
    /// Configuration that was in force then, and now.
    pub config_then: Option<String>,
    pub config_now: String,
    /// What the rules of now say of what was recorded then.
    pub now: Option<Explanation>,
}

/// One step of a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    Opened {
        agent: String,
        target: String,
        at_unix_ns: u64,
    },
    Statement {
        operation: OperationId,
        text: String,
        parameters: Option<String>,
        verdict: Gate,
        at_us: u64,
    },
    /// What came back, as the agent saw it. Several may follow each other.
    Reply {
        operation: OperationId,
        lines: Vec<String>,
    },
    Replied {
        operation: OperationId,
        outcome: String,
        rows: u64,
        cells_masked: u64,
        truncated: bool,
        at_us: u64,
    },
    Closed {
        outcome: String,
    },
}

impl Backend for Engine {
    fn config(&self) -> Arc<Config> {
        self.config()
    }

    async fn process(&self, pid: i32) -> Result<Process, WitnessError> {
        self.witness().peer(pid).await
    }

    async fn record(&self, action: Action) -> Result<(), LedgerError> {
        Ok(self.recorder().append_durable(Event::AdminAction(Box::new(action))).await?)
    }

    fn check(&self, request: &Request, by: &Caller) -> Result<(), Failure> {
        let (number, reason, approve) = match request {
            Request::Approve { number, reason } => (*number, reason, true),
            Request::Deny { number, reason } => (*number, reason, false),
            _ => return Ok(()),
        };
        Ok(self.approvals().would_count(number, &by.by, reason.as_deref(), approve)?)
    }

    async fn answer(&self, request: Request, caller: Caller, items: &Items) -> Result<(), Failure> {
        let Caller { by, sees_all } = caller;
        match request {
            Request::Status => items.send(&status(self).await).await,
            Request::Sessions { limit, agent, target, since_ns, refused_only } => {
                let filter = Filter { limit: limit.min(super::MAX_LISTED), agent, target, since_ns, refused_only };
                for row in self.store().sessions(filter).await? {
                    items.send(&row).await?;
                }
                Ok(())
            }
            Request::Denials { limit, agent, target, since_ns } => {
                let filter =
                    Filter { limit: limit.min(super::MAX_LISTED), agent, target, since_ns, refused_only: false };
                for denial in self.store().denials(filter).await? {
                    items.send(&denial).await?;
                }
                Ok(())
            }
            Request::Session { id } => {
                let mut records = self.store().records(id).await?;
                while let Some(record) = records.next().await? {
                    items.send(&without_content(record)).await?;
                }
                Ok(())
            }
            Request::Replay { id } => replay(self, id, items).await,
            Request::Why { id } => items.send(&why(self, id).await?).await,
            Request::Explain { target, agent, groups, database, text } => {
                let config = self.config();
                let Some(target) = config.targets.iter().find(|it| it.name == target) else {
                    return Err(Failure::not_found(format!("there is no target {target:?}")));
                };
                let database = match (database, target.databases.as_slice()) {
                    (Some(database), _) => database,
                    (None, [only]) => only.clone(),
                    (None, _) => return Err(Failure::new(FailureKind::Invalid, "which database? give --database")),
                };
                if !target.databases.is_empty() && !target.databases.contains(&database) {
                    let has = target.databases.join(", ");
                    return Err(Failure::not_found(format!(
                        "target {:?} has no database {database:?}; it has {has}",
                        target.name
                    )));
                }
                let subject = Subject { agent: &agent, groups: &groups, target: &target.name };
                let reads_only = config.reads_only(subject, target);
                let explained = protocol::explain_at_target(self, target, &database, &text, reads_only).await;
                let (operation, columns) = explained.map_err(Failure::failed)?;
                items.send(&Explanation { columns, ..config.policy.explain(subject, &operation) }).await
            }
            Request::Kill { id } => {
                if self.kill(id, &by.user) {
                    Ok(())
                } else {
                    Err(Failure::not_found(format!(
                        "there is no open session {id}; `weir sessions` shows what there is"
                    )))
                }
            }
            Request::Approvals => {
                for view in self.approvals().list().iter().filter(|view| sees_all || view.is_for(&by.names)) {
                    items.send(view).await?;
                }
                Ok(())
            }
            Request::Approval { number } => {
                let view = self.approvals().show(number)?;
                // To whom it is no concern it is not there.
                if !(sees_all || view.is_for(&by.names)) {
                    return Err(ApprovalError::Unknown(number).into());
                }
                items.send(&view).await
            }
            Request::Approve { number, reason } => {
                items.send(&self.approvals().approve(number, by, reason).await?).await
            }
            Request::Deny { number, reason } => items.send(&self.approvals().deny(number, by, reason).await?).await,
            Request::Reload => match self.reload().await {
                Ok(version) => items.send(&version).await,
                Err(error) => Err(Failure::new(FailureKind::Invalid, error)),
            },
            // It is recorded, which is all that was asked.
            Request::Detach { .. } => Ok(()),
        }
    }
}

async fn status(engine: &Engine) -> Status {
    let config = engine.config();
    let kernel = engine.witness().attachments().await;
    let mut problems = Vec::new();
    match &kernel {
        Ok(report) if report.enforcing() => {}
        Ok(report) if report.detached.is_some() => problems.push("agents pass unjudged: detached".to_owned()),
        Ok(_) => problems.push("agents are not intercepted".to_owned()),
        Err(error) => problems.push(format!("the witness: {error}")),
    }
    if let Err(error) = engine.recorder().health() {
        problems.push(format!("the recording: {error}"));
    }
    problems.extend(engine.protocols().problems());
    let count = |length: usize| length as u64;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime: engine.started().elapsed().as_secs(),
        observe: config.gateway.mode == Mode::Observe,
        config: config.version.clone(),
        agents: count(config.agents.len()),
        targets: count(config.targets.len()),
        rules: count(config.policy.rules.len()),
        masks: count(config.masks.len()),
        sessions: count(engine.live().count()),
        approvals: count(engine.approvals().list().len()),
        verdicts: engine.verdict_times().summary(),
        replaced: count(engine.predecessors().count()),
        kernel: kernel.ok(),
        problems,
    }
}

/// A record as a listing shows it: replies are for replay, and no text is longer than a line of the answer may be.
fn without_content(mut record: Record) -> Record {
    match &mut record.event {
        Event::OperationReplied(replied) => replied.content = Vec::new(),
        Event::OperationDecided(decided) => bound(decided),
        _ => {}
    }
    record
}

fn bound(decided: &mut OperationDecided) {
    decided.actions.truncate(MAX_ACTIONS);
    cut(&mut decided.text, MAX_TEXT);
    if let Some(parameters) = &mut decided.parameters {
        cut(parameters, MAX_TEXT);
    }
}

/// Shortens a text and says so.
pub(super) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let rest = text.len() - most;
        text.truncate(text.floor_char_boundary(most));
        text.push_str(" … (");
        text.push_str(&rest.to_string());
        text.push_str(" more bytes)");
    }
}

async fn why(engine: &Engine, id: OperationId) -> Result<Why, Failure> {
    let config = engine.config();
    let mut opened: Option<SessionOpened> = None;
    let mut why = Why {
        id,
        at_unix_ns: 0,
        refused: None,
        decided: None,
        approval: Vec::new(),
        config_then: None,
        config_now: config.version.clone(),
        now: None,
    };
    for Record { at_unix_ns, event, .. } in engine.store().operation(id).await? {
        match event {
            Event::SessionOpened(event) => opened = Some(event),
            Event::ConnectionRefused(event) => (why.at_unix_ns, why.refused) = (at_unix_ns, Some(event)),
            Event::OperationDecided(event) if event.operation == id => {
                (why.at_unix_ns, why.decided) = (at_unix_ns, Some(event));
            }
            Event::Approval(transition) if transition.operation() == id => why.approval.push(transition),
            _ => {}
        }
    }
    why.config_then = opened.as_ref().map(|opened| opened.config_version.clone());
    why.now = opened.as_ref().zip(why.decided.as_ref()).map(|(opened, decided)| explain(&config, opened, decided));
    if let Some(decided) = &mut why.decided {
        bound(decided);
    }
    if why.decided.is_none() && why.refused.is_none() {
        let session = id.session;
        return Err(Failure::not_found(format!(
            "session {session} has no operation {}; `weir sessions show {session}` shows what it has",
            id.sequence
        )));
    }
    Ok(why)
}

fn explain(config: &Config, opened: &SessionOpened, decided: &OperationDecided) -> Explanation {
    let principal = &opened.principal;
    let subject = Subject { agent: &principal.agent, groups: &principal.groups, target: &opened.target };
    let operation = Operation {
        text: decided.text.clone(),
        database: decided.database.clone(),
        actions: decided.actions.clone().into(),
        statements: decided.statements,
        refusal: decided.refusal.clone(),
    };
    config.policy.explain(subject, &operation)
}

async fn replay(engine: &Engine, id: SessionId, items: &Items) -> Result<(), Failure> {
    let mut records = engine.store().records(id).await?;
    let mut protocol = None;
    while let Some(Record { at_unix_ns, event, .. }) = records.next().await? {
        match event {
            Event::SessionOpened(opened) => {
                protocol = Some(opened.protocol);
                items.send(&Step::Opened { agent: opened.principal.agent, target: opened.target, at_unix_ns }).await?;
            }
            Event::ConnectionRefused(refused) => items.send(&Step::Closed { outcome: refused.message }).await?,
            Event::OperationDecided(mut decided) => {
                bound(&mut decided);
                let OperationDecided { operation, text, parameters, gate, at_us, .. } = decided;
                items.send(&Step::Statement { operation, text, parameters, verdict: gate, at_us }).await?;
            }
            Event::OperationReplied(replied) => {
                for lines in rendered(protocol, &replied.content).chunks(LINES) {
                    items.send(&Step::Reply { operation: replied.operation, lines: lines.to_vec() }).await?;
                }
                let replied = Step::Replied {
                    operation: replied.operation,
                    outcome: replied.outcome,
                    rows: replied.rows,
                    cells_masked: replied.cells_masked,
                    truncated: replied.content_truncated,
                    at_us: replied.finished_us,
                };
                items.send(&replied).await?;
            }
            Event::SessionClosed(closed) => items.send(&Step::Closed { outcome: closed.outcome }).await?,
            _ => {}
        }
    }
    Ok(())
}

fn rendered(protocol: Option<Protocol>, content: &[u8]) -> Vec<String> {
    let mut lines = protocol.map(|protocol| protocol::render_reply(protocol, content)).unwrap_or_default();
    for line in &mut lines {
        cut(line, MAX_LINE);
    }
    lines
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        let kind = match error {
            RecordError::UnknownSession(_) | RecordError::UnknownOperation(_) => FailureKind::NotFound,
            _ => FailureKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ApprovalError> for Failure {
    fn from(error: ApprovalError) -> Self {
        let kind = match error {
            ApprovalError::Unknown(_) | ApprovalError::Over { .. } => FailureKind::NotFound,
            ApprovalError::NotAnApprover { .. }
            | ApprovalError::Requester { .. }
            | ApprovalError::VotedAlready { .. } => FailureKind::Refused,
            ApprovalError::ReasonTooLong => FailureKind::Invalid,
            ApprovalError::NotRecorded(_) | ApprovalError::Interrupted => FailureKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_said_to_be() {
        let mut text = "ä".repeat(10);
        cut(&mut text, 5);
        assert_eq!(text, "ää … (15 more bytes)");
        let mut short = "abc".to_owned();
        cut(&mut short, 3);
        assert_eq!(short, "abc");
    }
}
