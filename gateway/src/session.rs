//! A session: the audited unit, and the only handle on the engine that a protocol gets.
//!
//! A protocol turns what the client sent into an [`Operation`], has it judged, and asks for a decision. Only
//! [`Session::decide`] makes a [`Permit`], which owns the request and gives it up once, by [`Permit::forward`]. What comes
//! back is accounted for by the [`Forwarded`] that the permit turned into.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::approval::{Ask, Forecast, Outcome as ApprovalOutcome, Pending};
use crate::config::Mode;
use crate::engine::{Engine, InForce};
use crate::identity::{self, Principal};
use crate::ids::{OperationId, SessionId};
use crate::limit::Allowance;
use crate::live::Live;
use crate::mask::Masker;
use crate::origin::{Evidence, Origin};
use crate::policy::{Action, Gate, HoldRequirement, Kind, Operation, Subject};
use crate::record::RecordError;
use crate::record::event::{self, Event};
use crate::target::{Target, Upstream};

/// How often a client that waits for an approval hears that it still does.
const HOLD_NOTICE_EVERY: Duration = Duration::from_secs(3);

/// Who speaks with what, under which policy. Made by `Engine::open`, ended by [`Session::close`].
pub struct Session {
    pub id: SessionId,
    pub origin: Origin,
    pub evidence: Evidence,
    pub principal: Principal,
    pub target: Arc<Target>,
    /// Where the target really is.
    pub upstream: Upstream,
    engine: Arc<Engine>,
    masker: Masker,
    /// Policy lets it read and nothing else, as it was when the session began: the target holds it to that, too.
    pub reads_only: bool,
    /// The masks that `masker` was made of; when a reload changes them the session ends.
    masks_version: u64,
    /// Whether policy was only observed as it began.
    mode: Mode,
    /// The `[identity]` that its principal was verified by.
    identity_version: u64,
    /// The last configuration that it was found to fit.
    fits_epoch: AtomicU64,
    /// Unix seconds at which the token must be verified again.
    token_expires_at: AtomicU64,
    live: Arc<Live>,
    started: Instant,
    next_operation: AtomicU32,
    totals: Totals,
    /// Operations that may yet be undone were recorded, and the records are not known to be durable.
    owes_durable: AtomicBool,
    closed: AtomicBool,
}

#[derive(Default)]
struct Totals {
    statements: AtomicU64,
    rows: AtomicU64,
    cells_masked: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// What policy says of one operation under one policy: may be kept for the next time the same text comes by, as long as
/// [`Session::is_current`] says so.
#[derive(Debug)]
pub struct Judgement {
    operation: Arc<Operation>,
    /// What policy says, and what is done about it: the same, unless it is only observed.
    verdict: Gate,
    gate: Gate,
    epoch: u64,
}

/// What exactly would be forwarded, beside the request itself.
#[derive(Clone, Copy, Default)]
pub struct Exact<'a> {
    /// The bytes, and the parameters bound to them: an approval is for these and no others.
    pub bytes: &'a [&'a [u8]],
    /// Parameters as they may be shown and recorded; None where there are none or they touch tagged data.
    pub parameters: Option<&'a str>,
    /// Its text as it was understood, written out anew, for those who decide; hides what the text hides. None: it is nothing else.
    pub understood: Option<&'a str>,
    /// What the target expects of it, for those who decide. None: it was not asked, or could not tell.
    pub forecast: Option<&'a Forecast>,
    /// It only reads, or changes rows in a transaction that is open: nothing of it stands unless another operation of this session,
    /// which is not such a one, lets it stand. Its record need not be durable before that.
    pub is_revocable: bool,
}

/// The decision on a request `R`.
#[must_use]
pub enum Decision<R> {
    Permit(Permit<R>),
    Hold(Held<R>),
    Denial(Denial),
}

/// The right to forward one request, once.
#[must_use]
pub struct Permit<R> {
    request: R,
    forwarded: Forwarded,
}

/// An operation that is on its way to the target; give it to [`Session::replied`] when the reply is complete.
#[must_use]
#[derive(Debug)]
pub struct Forwarded {
    pub id: OperationId,
    started_us: u64,
}

/// A request that waits for people.
#[must_use]
pub struct Held<R> {
    request: R,
    operation: OperationId,
    pending: Pending,
    /// Of the policy that asked for the approval.
    epoch: u64,
    since: Instant,
    next_notice: Instant,
}

/// What a wait brings next.
pub enum HeldEvent<R> {
    /// Tell the client, go on waiting.
    StillWaiting(Held<R>),
    Permit(Permit<R>),
    Denial(Denial),
}

/// A no, and why. Policy, not a fault.
#[derive(Clone, Debug)]
pub struct Denial {
    pub id: OperationId,
    pub message: String,
    pub rule: Option<String>,
}

/// What came back for one operation.
#[derive(Debug, Default)]
pub struct ReplySummary {
    /// In the protocol's words: a command tag, an error's code.
    pub outcome: String,
    pub rows: u64,
    pub cells_masked: u64,
    /// Names of the masks that changed something.
    pub masks: Vec<String>,
    /// Bytes of the whole reply as the client got it.
    pub bytes: u64,
    /// The reply as the client got it, up to the configured limit.
    pub content: Vec<u8>,
    pub content_truncated: bool,
}

/// The engine could not do its part: the session must end, nothing more may be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the recording cannot be written, and what is not recorded is not forwarded: {0}")]
    Recording(#[from] RecordError),
    #[error("the policy's masks for this target changed; connect again")]
    MasksChanged,
    #[error("the configuration of this target changed; connect again")]
    TargetChanged,
    #[error("whether policy is only observed changed; connect again")]
    ModeChanged,
    #[error("whose tokens are taken, and what is read in them, changed; connect again")]
    IssuerChanged,
    #[error("the configuration of this agent changed: {0}")]
    AgentChanged(String),
    #[error("the agent's token is no longer valid: {0}")]
    Identity(String),
    #[error("the session was ended by {0}")]
    Killed(String),
}

impl Denial {
    /// One sentence group for people and for models: that it is policy, what the rule says, the ID, what not to do.
    pub fn sentence(&self) -> String {
        match &self.rule {
            Some(rule) => format!("denied by policy, rule \"{rule}\": {} (ID {})", self.message, self.id),
            None => format!("denied by policy: {} (ID {})", self.message, self.id),
        }
    }

    /// What the client can do about it.
    pub fn hint(&self) -> String {
        format!(
            "This is a policy decision, not a fault; do not retry it unchanged. `weir why {}` explains it.",
            self.id
        )
    }
}

impl<R> Permit<R> {
    /// Gives the request up, to be written to the target now.
    pub fn forward(self) -> (R, Forwarded) {
        (self.request, self.forwarded)
    }

    pub fn id(&self) -> OperationId {
        self.forwarded.id
    }
}

#[cfg(test)]
impl Forwarded {
    /// For tests of what comes after the decision.
    pub(crate) fn for_test(id: OperationId) -> Self {
        Self { id, started_us: 0 }
    }
}

impl Judgement {
    fn new(operation: Arc<Operation>, verdict: Gate, mode: Mode, epoch: u64) -> Self {
        let gate = match (mode, &verdict) {
            (Mode::Observe, Gate::Deny { .. } | Gate::Hold { .. }) => Gate::Allow { rules: Vec::new() },
            _ => verdict.clone(),
        };
        Self { operation, verdict, gate, epoch }
    }

    #[cfg(test)]
    pub(crate) fn by(operation: Arc<Operation>, gate: Gate) -> Self {
        Self::new(operation, gate, Mode::Enforce, 0)
    }

    /// The same of an operation that differs in nothing but its text, which no rule looks at.
    #[must_use]
    pub fn with_text(&self, text: String) -> Self {
        let Operation { text: _, database, actions, statements, refusal } = &*self.operation;
        let (database, actions, refusal) = (database.clone(), Arc::clone(actions), refusal.clone());
        Self {
            operation: Arc::new(Operation { text, database, actions, statements: *statements, refusal }),
            verdict: self.verdict.clone(),
            gate: self.gate.clone(),
            epoch: self.epoch,
        }
    }

    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Session {
    pub(crate) fn new(
        engine: Arc<Engine>,
        id: SessionId,
        live: Arc<Live>,
        (origin, evidence): (Origin, Evidence),
        principal: Principal,
        (target, upstream): (Arc<Target>, Upstream),
        (in_force, masker): (&InForce, Masker),
    ) -> Self {
        let token_expires_at = AtomicU64::new(principal.expires_at);
        let subject = Subject { agent: &principal.agent, groups: &principal.groups, target: &target.name };
        let reads_only = in_force.config.reads_only(subject, &target);
        Self {
            id,
            origin,
            evidence,
            principal,
            target,
            upstream,
            engine,
            masker,
            reads_only,
            masks_version: in_force.masks_version,
            mode: in_force.config.gateway.mode,
            identity_version: in_force.identity_version,
            fits_epoch: AtomicU64::new(in_force.epoch),
            token_expires_at,
            live,
            started: Instant::now(),
            next_operation: AtomicU32::new(0),
            totals: Totals::default(),
            owes_durable: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// How much the next statement may take. Where policy only observes, nothing ends.
    pub fn allowance(&self) -> Allowance {
        let config = self.engine.config();
        if config.gateway.mode == Mode::Observe {
            return Allowance::default();
        }
        Allowance::new(&config.limits, &self.principal.agent, &self.target.name)
    }

    /// What the client may see of replies.
    pub fn masker(&self) -> &Masker {
        &self.masker
    }

    /// Numbers the masks that [`Session::masker`] was made of: what a protocol makes of them is good for sessions of the same
    /// number only.
    pub fn masks_version(&self) -> u64 {
        self.masks_version
    }

    /// False once a reload has changed the masks: the session may not serve anything more under those that it has.
    pub fn masks_are_current(&self) -> bool {
        self.masks_version == self.engine.masks_version()
    }

    /// The rest of the gateway, for what a protocol shares between sessions.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Microseconds since the session began.
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Judges an operation under the policy of this moment.
    pub fn judge(&self, operation: Arc<Operation>) -> Judgement {
        self.judge_under(&self.engine.in_force(), operation)
    }

    fn judge_under(&self, in_force: &InForce, operation: Arc<Operation>) -> Judgement {
        let InForce { config, epoch, .. } = in_force;
        let subject =
            Subject { agent: &self.principal.agent, groups: &self.principal.groups, target: &self.target.name };
        let verdict = config.policy.judge(subject, &operation);
        Judgement::new(operation, verdict, config.gateway.mode, *epoch)
    }

    /// Judges the opening of the session itself, now that the protocol knows what it is for.
    pub fn judge_connect(&self, text: String, database: Option<String>) -> Judgement {
        let in_force = self.engine.in_force();
        let InForce { config, epoch, .. } = &*in_force;
        let subject =
            Subject { agent: &self.principal.agent, groups: &self.principal.groups, target: &self.target.name };
        let verdict = config.policy.judge_connect(subject, database.as_deref());
        let actions = Arc::from([Action::of(Kind::Connect)]);
        let operation = Arc::new(Operation { text, database, actions, statements: 1, refusal: None });
        Judgement::new(operation, verdict, config.gateway.mode, *epoch)
    }

    /// Whether a rule of this moment asks how many rows the target's tables have.
    pub fn asks_of_catalog(&self) -> bool {
        self.engine.config().policy.asks_of_catalog(&self.target.name)
    }

    /// Whether a kept judgement is still the policy's.
    pub fn is_current(&self, judgement: &Judgement) -> bool {
        judgement.epoch == self.engine.epoch()
    }

    /// The decision. Writes the record first: durably for whatever is not a plain read, and then with all that was not durable before
    /// it. Changes of rows in a transaction are durable with what ends it.
    ///
    /// # Errors
    /// The session must end: its record cannot be written, its masks are out of date, its token has expired, or it was
    /// killed.
    pub async fn decide<R>(
        &self,
        judgement: &Judgement,
        request: R,
        exact: Exact<'_>,
    ) -> Result<Decision<R>, SessionError> {
        self.still_valid().await?;
        // Nothing is waited for from here to the verdict: policy, masks and target are those of one configuration.
        let in_force = self.engine.in_force();
        self.fits(&in_force)?;
        let rejudged;
        let judgement = if judgement.epoch == in_force.epoch {
            judgement
        } else {
            rejudged = self.judge_under(&in_force, Arc::clone(&judgement.operation));
            &rejudged
        };
        let id = self.id.operation(self.next_operation.fetch_add(1, Ordering::Relaxed));
        self.totals.statements.fetch_add(1, Ordering::Relaxed);
        match &judgement.gate {
            Gate::Allow { .. } => {
                self.record_decision(id, judgement, exact, None).await?;
                Ok(Decision::Permit(self.permit(id, request)))
            }
            Gate::Deny { rule, message } => {
                self.record_decision(id, judgement, exact, None).await?;
                Ok(Decision::Denial(Denial { id, message: message.clone(), rule: rule.clone() }))
            }
            Gate::Hold { requirements } => self.hold(id, judgement, requirements, request, exact).await,
        }
    }

    /// Records what came back. Not awaited for durability: the decision before it was.
    pub async fn replied(&self, forwarded: Forwarded, reply: ReplySummary) -> Result<(), SessionError> {
        self.totals.rows.fetch_add(reply.rows, Ordering::Relaxed);
        self.totals.cells_masked.fetch_add(reply.cells_masked, Ordering::Relaxed);
        self.totals.bytes_down.fetch_add(reply.bytes, Ordering::Relaxed);
        let event = Event::OperationReplied(event::OperationReplied {
            operation: forwarded.id,
            outcome: reply.outcome,
            rows: reply.rows,
            cells_masked: reply.cells_masked,
            masks: reply.masks,
            bytes: reply.bytes,
            content: reply.content,
            content_truncated: reply.content_truncated,
            started_us: forwarded.started_us,
            finished_us: self.elapsed_us(),
        });
        self.engine.recorder().append(event).await?;
        Ok(())
    }

    /// Bytes that the client sent.
    pub fn count_up(&self, bytes: u64) {
        self.totals.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until somebody ends this session from outside; says who.
    pub async fn killed(&self) -> String {
        self.live.killed().await
    }

    /// The one closing record.
    pub async fn close(self, outcome: &str) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let closing = self.closing(outcome);
        if let Err(error) = self.engine.recorder().append(closing.clone()).await {
            tracing::warn!(session = %self.id, %error, "the closing record is written when that is possible again");
            self.engine.recorder().append_now(&closing);
        }
    }

    fn closing(&self, outcome: &str) -> Event {
        Event::SessionClosed(event::SessionClosed {
            id: self.id,
            outcome: outcome.to_owned(),
            statements: self.totals.statements.load(Ordering::Relaxed),
            rows: self.totals.rows.load(Ordering::Relaxed),
            cells_masked: self.totals.cells_masked.load(Ordering::Relaxed),
            bytes_up: self.totals.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.totals.bytes_down.load(Ordering::Relaxed),
        })
    }

    /// Whether the session may go on under a configuration: with the masks, the target and the agent that it has.
    fn fits(&self, in_force: &InForce) -> Result<(), SessionError> {
        if self.fits_epoch.load(Ordering::Relaxed) == in_force.epoch {
            return Ok(());
        }
        // What is passed on as it is has none.
        if self.masks_version != in_force.masks_version && self.target.protocol.logs_in() {
            return Err(SessionError::MasksChanged);
        }
        if self.mode != in_force.config.gateway.mode {
            return Err(SessionError::ModeChanged);
        }
        if self.identity_version != in_force.identity_version {
            return Err(SessionError::IssuerChanged);
        }
        let config = &in_force.config;
        if !config.targets.iter().any(|target| self.target.is_still(target)) {
            return Err(SessionError::TargetChanged);
        }
        identity::still_is(config, &self.origin, &self.evidence, &self.principal)
            .map_err(|error| SessionError::AgentChanged(error.to_string()))?;
        self.fits_epoch.store(in_force.epoch, Ordering::Relaxed);
        Ok(())
    }

    /// Completes when a reload has it that this session, which is for one operation that was permitted, has to end; says why.
    pub async fn overtaken(&self, operation: &Arc<Operation>) -> String {
        let mut reloads = self.engine.reloads();
        loop {
            let in_force = self.engine.in_force();
            if let Err(error) = self.fits(&in_force) {
                return error.to_string();
            }
            if let Gate::Deny { message, .. } = self.judge_under(&in_force, Arc::clone(operation)).gate {
                return format!("the policy changed: {message}");
            }
            if reloads.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn still_valid(&self) -> Result<(), SessionError> {
        if self.live.is_killed() {
            return Err(SessionError::Killed(self.live.killer()));
        }
        if self.engine.unix_seconds() >= self.token_expires_at.load(Ordering::Relaxed) {
            let expires_at = self.engine.renew(self).await.map_err(SessionError::Identity)?;
            self.token_expires_at.store(expires_at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Records that an operation which was approved did not run after all. It stays denied if that cannot be recorded.
    async fn not_run(&self, id: OperationId, why: &str) {
        let forwarded = Forwarded { id, started_us: self.elapsed_us() };
        let reply = ReplySummary { outcome: format!("not run: {why}"), ..ReplySummary::default() };
        if let Err(error) = self.replied(forwarded, reply).await {
            tracing::warn!(operation = %id, %error, "that an approved operation was not run is not recorded");
        }
    }

    fn permit<R>(&self, id: OperationId, request: R) -> Permit<R> {
        Permit { request, forwarded: Forwarded { id, started_us: self.elapsed_us() } }
    }

    async fn record_decision(
        &self,
        id: OperationId,
        judgement: &Judgement,
        exact: Exact<'_>,
        approval: Option<u64>,
    ) -> Result<(), RecordError> {
        let operation = &judgement.operation;
        let event = event::Deciding {
            operation: id,
            text: &operation.text,
            database: operation.database.as_deref(),
            actions: &operation.actions,
            statements: operation.statements,
            parameters: exact.parameters,
            gate: &judgement.verdict,
            refusal: operation.refusal.as_deref(),
            approval,
            at_us: self.elapsed_us(),
        };
        let is_allowed = matches!(judgement.verdict, Gate::Allow { .. });
        let only_reads = is_allowed && operation.is_read_only();
        if is_allowed && approval.is_none() && exact.is_revocable {
            self.owes_durable.fetch_or(!only_reads, Ordering::Relaxed);
            return self.engine.recorder().append(event).await;
        }
        if only_reads && !self.owes_durable.load(Ordering::Relaxed) {
            return self.engine.recorder().append(event).await;
        }
        self.engine.recorder().append_durable(event).await?;
        self.owes_durable.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn hold<R>(
        &self,
        id: OperationId,
        judgement: &Judgement,
        requirements: &[HoldRequirement],
        request: R,
        exact: Exact<'_>,
    ) -> Result<Decision<R>, SessionError> {
        let ask = Ask {
            operation: id,
            digest: self.digest(judgement, exact),
            text: judgement.operation.text.clone(),
            understood: exact.understood.map(str::to_owned),
            actions: judgement.operation.shown_actions(),
            parameters: exact.parameters.map(str::to_owned),
            agent: self.principal.agent.clone(),
            agent_uid: self.origin.uid,
            place: identity::place(&self.engine.config(), &self.origin, &self.evidence),
            subject: self.principal.subject.clone(),
            names: self.principal.names.clone(),
            groups: self.principal.groups.clone(),
            target: self.target.name.clone(),
            database: judgement.operation.database.clone(),
            requirements: requirements.to_vec(),
            evidence: self.evidence.clone(),
            forecast: exact.forecast.cloned(),
        };
        let pending = match self.engine.approvals().request(ask).await {
            Ok(pending) => pending,
            Err(error) => {
                self.record_decision(id, judgement, exact, None).await?;
                let rule = requirements.first().map(|requirement| requirement.rule.clone());
                return Ok(Decision::Denial(Denial { id, message: error.to_string(), rule }));
            }
        };
        self.record_decision(id, judgement, exact, Some(pending.number())).await?;
        let now = Instant::now();
        let (epoch, next_notice) = (judgement.epoch, now + HOLD_NOTICE_EVERY);
        Ok(Decision::Hold(Held { request, operation: id, pending, epoch, since: now, next_notice }))
    }

    /// What an approval is bound to: the bytes and parameters, the target, the login, the principal, the policy.
    fn digest(&self, judgement: &Judgement, exact: Exact<'_>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut add = |part: &[u8]| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        for part in exact.bytes {
            add(part);
        }
        add(self.target.name.as_bytes());
        add(self.target.login.as_ref().map_or("", |login| &login.user).as_bytes());
        add(judgement.operation.database.as_deref().unwrap_or_default().as_bytes());
        add(self.principal.agent.as_bytes());
        add(self.principal.issuer.as_bytes());
        add(self.principal.subject.as_bytes());
        add(self.engine.config().version.as_bytes());
        hasher.finalize().into()
    }
}

impl Drop for Session {
    /// Writes what `close` did not: a task that panicked or was cancelled still leaves its closing record.
    fn drop(&mut self) {
        self.engine.live().forget(self.id);
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.engine.recorder().append_now(&self.closing("interrupted"));
        }
    }
}

impl<R> Held<R> {
    pub fn number(&self) -> u64 {
        self.pending.number()
    }

    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// What the client is told while it waits.
    pub fn notice(&self) -> String {
        format!(
            "waiting for approval {} ({} s); `weir approve {}` or `weir deny {}` decides",
            self.number(),
            self.since.elapsed().as_secs(),
            self.number(),
            self.number()
        )
    }

    /// Waits for the decision, or until the client should hear something again. Dropping the future and the `Held`
    /// withdraws the request.
    pub async fn next(mut self, session: &Session) -> HeldEvent<R> {
        let tick = tokio::time::sleep_until(self.next_notice.into());
        tokio::select! {
            outcome = self.pending.outcome() => self.finish(session, outcome).await,
            () = tick => {
                self.next_notice += HOLD_NOTICE_EVERY;
                HeldEvent::StillWaiting(self)
            }
        }
    }

    async fn finish(self, session: &Session, outcome: ApprovalOutcome) -> HeldEvent<R> {
        let number = self.pending.number();
        let id = self.operation;
        match outcome {
            ApprovalOutcome::Approved { .. } => match self.still_holds(session).await {
                Ok(()) => HeldEvent::Permit(session.permit(id, self.request)),
                Err(message) => {
                    session.not_run(id, &message).await;
                    HeldEvent::Denial(Denial { id, message, rule: None })
                }
            },
            ApprovalOutcome::Denied { by, reason } => {
                let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let message = format!("approval {number} was denied by {}{because}", by.user);
                HeldEvent::Denial(Denial { id, message, rule: None })
            }
            ApprovalOutcome::Expired => {
                let message = format!("approval {number} was not given in time");
                HeldEvent::Denial(Denial { id, message, rule: None })
            }
            ApprovalOutcome::Withdrawn => {
                let message = format!(
                    "the gateway was replaced while approval {number} was waited for; connect again and repeat it"
                );
                HeldEvent::Denial(Denial { id, message, rule: None })
            }
        }
    }

    /// What was approved is this operation, of a session that may go on, under that policy. Minutes may have passed since:
    /// the token may have expired or been taken back, and another policy may say no.
    async fn still_holds(&self, session: &Session) -> Result<(), String> {
        let number = self.pending.number();
        session.still_valid().await.map_err(|error| format!("approval {number} came too late: {error}"))?;
        // Last: verifying the token takes time.
        let in_force = session.engine.in_force();
        session.fits(&in_force).map_err(|error| format!("approval {number} came too late: {error}"))?;
        if self.epoch == in_force.epoch {
            Ok(())
        } else {
            Err(format!("the policy changed while approval {number} was waited for; send it again"))
        }
    }
}
