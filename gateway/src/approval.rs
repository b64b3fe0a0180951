//! Approvals: operations that wait for people.
//!
//! A session whose operation a rule holds makes an [`Ask`] and gets a [`Pending`]; approvers see it under a number and
//! vote through the admin socket. Pending approvals live in memory only: they belong to a client that waits, and end with
//! it. What survives a restart is the record: every request and every vote is durable *before* it takes effect, so nothing
//! ever runs on an approval that the recording does not have.
//!
//! The rules, all of them in [`Entry::check`] and [`met`]: an approver belongs to a requirement's approvers, is not the
//! one who asks (nor who started the agent, nor a person that its token names), votes once; every requirement needs its number of
//! distinct people; any deny wins; nothing counts after the deadline; an approval is claimed once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ids::OperationId;
use crate::origin::Evidence;
use crate::policy::HoldRequirement;

/// Approvals that may wait at a time, how many of them may be one agent's, and how many one instance's of an agent. When half of them
/// wait, an agent may have no more than an instance: the rest is for others.
pub const MAX_PENDING: usize = 256;
pub const MAX_PENDING_PER_AGENT: usize = 32;
pub const MAX_PENDING_PER_PLACE: usize = 8;
/// Bytes of text that an approver can be shown. Longer operations cannot be held: nobody may approve what nobody saw.
pub const MAX_TEXT: usize = 64 * 1024;
/// Bytes of a reason that an approver gives.
pub const MAX_REASON: usize = 1024;
/// Upper bound of a requirement's timeout.
pub const MAX_WAIT: Duration = Duration::from_hours(24);
/// How long a given approval waits for its session to take it.
const CLAIM_WITHIN: Duration = Duration::from_secs(30);
/// Ended approvals whose fate is still told to whoever votes late.
const REMEMBERED: usize = 1024;

/// What waits, and for whom. Text and evidence are redacted already.
#[derive(Clone, Debug)]
pub struct Ask {
    pub operation: OperationId,
    /// Over the raw bytes, parameters, target, database user, principal and policy version: what exactly is approved.
    pub digest: [u8; 32],
    pub text: String,
    /// The text as it was understood, written out anew; hides what `text` hides. None: it is nothing else.
    pub understood: Option<String>,
    /// What it does, by which the rules have judged it; nothing of it is hidden.
    pub actions: Vec<String>,
    /// As they may be shown; None where there are none, or they touch tagged data.
    pub parameters: Option<String>,
    pub agent: String,
    pub agent_uid: u32,
    /// Tells the instances of an agent apart.
    pub place: String,
    pub subject: String,
    /// What else the subject is called.
    pub names: Vec<String>,
    pub groups: Vec<String>,
    pub target: String,
    pub database: Option<String>,
    pub requirements: Vec<HoldRequirement>,
    pub evidence: Evidence,
    /// None: the target was not asked, or could not tell.
    pub forecast: Option<Forecast>,
}

/// What a target expects of an operation before it runs: for those who decide, and no promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Rows that it gives back or changes, as estimated.
    pub rows: Option<u64>,
    /// How it would be done, in lines; holds no values.
    pub plan: Vec<String>,
    /// What else it does, to other tables.
    pub cascades: Vec<String>,
}

/// Who votes. Made by the admin socket from what the kernel says of its peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    pub user: String,
    pub uid: u32,
    /// The uid that logged in, where the kernel keeps it: the person behind `sudo`.
    pub login_uid: Option<u32>,
    /// That uid's name, if it has one.
    #[serde(default)]
    pub login_user: Option<String>,
    /// Approver names of `[access] approve` that this person holds.
    pub names: BTreeSet<String>,
}

/// How a wait ends for the session that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handed out once.
    Approved {
        by: Vec<Approver>,
    },
    Denied {
        by: Approver,
        reason: Option<String>,
    },
    Expired,
    /// The gateway is being replaced, and nobody can vote here any more.
    Withdrawn,
}

/// One change of an approval, for the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "transition", rename_all = "snake_case")]
pub enum Transition {
    Requested(Box<View>),
    Voted { number: u64, operation: OperationId, vote: Vote, completes: bool },
    Ended { number: u64, operation: OperationId, status: Status },
}

/// Where transitions are recorded. The only thing approvals know of the recording.
pub trait Ledger: Send + Sync + 'static {
    /// Returns when the transition is durable.
    fn record(&self, transition: Transition) -> Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send + '_>>;

    /// Records the end of a wait that nobody answered. Takes nothing's place, so that nothing waits for it.
    fn note(&self, transition: Transition);
}

/// Why the recording refused; kept opaque, it is only passed on.
pub type LedgerError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub by: Approver,
    pub approve: bool,
    pub reason: Option<String>,
    /// Unix milliseconds.
    pub at: u64,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Approved,
    Denied,
    Expired,
    /// The client went away.
    Withdrawn,
}

/// An approval as people and programs see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub number: u64,
    pub status: Status,
    pub operation: OperationId,
    /// Hexadecimal.
    pub digest: String,
    pub text: String,
    /// The text as it was understood, written out anew; hides what `text` hides. None: it is nothing else.
    #[serde(default)]
    pub understood: Option<String>,
    /// What it does, by which the rules have judged it; nothing of it is hidden.
    #[serde(default)]
    pub actions: Vec<String>,
    /// As they may be shown; None where there are none, or they touch tagged data.
    pub parameters: Option<String>,
    pub agent: String,
    pub agent_uid: u32,
    pub subject: String,
    /// What else the subject is called.
    #[serde(default)]
    pub names: Vec<String>,
    pub groups: Vec<String>,
    pub target: String,
    pub database: Option<String>,
    pub requirements: Vec<HoldRequirement>,
    pub evidence: Evidence,
    /// None: the target was not asked, or could not tell.
    #[serde(default)]
    pub forecast: Option<Forecast>,
    /// Unix milliseconds.
    pub requested_at: u64,
    pub expires_at: u64,
    pub votes: Vec<Vote>,
}

/// Why an operation cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("too many operations wait for approval already; try again when some are decided")]
    TooMany,
    #[error(
        "this operation needs approval, and its {0} bytes are more than an approver can be shown (at most {MAX_TEXT})"
    )]
    TooLong(usize),
    #[error("the request for approval could not be recorded")]
    NotRecorded(#[source] LedgerError),
    #[error(
        "this session is still with a gateway that was replaced, where nobody approves; connect again and repeat it"
    )]
    Closed,
}

/// Why a vote does not count.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    #[error("there is no approval {0}; `weir approvals list` shows what waits")]
    Unknown(u64),
    #[error("approval {number} is over already: {status}")]
    Over { number: u64, status: Status },
    #[error("approval {number} needs one of these approvers: {approvers}; {user} is none of them")]
    NotAnApprover { number: u64, approvers: String, user: String },
    #[error("approval {number} was asked for by {user}'s own agent; somebody else has to decide")]
    Requester { number: u64, user: String },
    #[error("{user} has voted on approval {number} already; it still needs somebody else")]
    VotedAlready { number: u64, user: String },
    #[error("a reason has at most {MAX_REASON} bytes")]
    ReasonTooLong,
    #[error("the vote could not be recorded, so it does not count")]
    NotRecorded(#[source] LedgerError),
    #[error("the vote was interrupted and does not count")]
    Interrupted,
}

/// All approvals of a gateway. A handle: clones share them.
#[derive(Clone)]
pub struct Approvals(Arc<Inner>);

/// A request that waits. Dropping it withdraws it.
pub struct Pending {
    approvals: Approvals,
    entry: Arc<Entry>,
}

impl Approvals {
    /// `first_number`: one more than the highest number that was ever recorded.
    pub fn new(first_number: u64, ledger: Arc<dyn Ledger>) -> Self {
        Self(Arc::new(Inner { ledger, table: Mutex::new(Table { next: first_number, ..Table::default() }) }))
    }

    /// Puts an operation before its approvers. They see it when the request is durable.
    pub async fn request(&self, ask: Ask) -> Result<Pending, RequestError> {
        let length = ask.text.len() + ask.parameters.as_ref().map_or(0, String::len);
        if length > MAX_TEXT {
            return Err(RequestError::TooLong(length));
        }
        let entry = self.0.table().admit(ask)?;
        // From here on dropping `pending` takes the entry out again, also when this future is dropped.
        let pending = Pending { approvals: self.clone(), entry };
        let requested = Transition::Requested(Box::new(pending.entry.view()));
        self.0.ledger.record(requested).await.map_err(RequestError::NotRecorded)?;
        pending.entry.state().phase.publish();
        Ok(pending)
    }

    /// Ends every wait, and lets none begin: approvers are heard by another gateway now.
    pub fn close(&self) {
        let entries: Vec<_> = {
            let mut table = self.0.table();
            table.closed = true;
            table.entries.values().cloned().collect()
        };
        for entry in entries {
            self.0.end(&entry, Status::Withdrawn);
            entry.changed.notify_one();
        }
    }

    /// Everything that waits, oldest first.
    pub fn list(&self) -> Vec<View> {
        let entries: Vec<_> = self.0.table().entries.values().cloned().collect();
        entries.iter().map(|entry| entry.view()).filter(|view| view.status == Status::Pending).collect()
    }

    pub fn show(&self, number: u64) -> Result<View, ApprovalError> {
        Ok(self.0.find(number)?.view())
    }

    /// Whether such a vote would count now; says so before anything of it is recorded.
    pub fn would_count(
        &self,
        number: u64,
        by: &Approver,
        reason: Option<&str>,
        approve: bool,
    ) -> Result<(), ApprovalError> {
        check_length(reason)?;
        self.0.find(number)?.check(by, approve).map(drop)
    }

    /// A yes. Returns when it is recorded and counts.
    pub async fn approve(&self, number: u64, by: Approver, reason: Option<String>) -> Result<View, ApprovalError> {
        self.vote(number, by, reason, true).await
    }

    /// A no, which ends the wait. Returns when it is recorded and counts.
    pub async fn deny(&self, number: u64, by: Approver, reason: Option<String>) -> Result<View, ApprovalError> {
        self.vote(number, by, reason, false).await
    }

    /// In a task of its own: an approver whose terminal goes away must not leave a vote recorded that does not count.
    async fn vote(
        &self,
        number: u64,
        by: Approver,
        reason: Option<String>,
        approve: bool,
    ) -> Result<View, ApprovalError> {
        check_length(reason.as_deref())?;
        let vote = Vote { by, approve, reason, at: unix_ms() };
        let inner = Arc::clone(&self.0);
        let cast = tokio::spawn(async move { inner.cast(number, vote).await });
        cast.await.unwrap_or(Err(ApprovalError::Interrupted))
    }
}

impl Pending {
    pub fn number(&self) -> u64 {
        self.entry.number
    }

    /// Waits for the decision, at most until the shortest of the requirements' timeouts. May be dropped and called
    /// again; the approval is handed out once, after that it is `Expired`.
    pub async fn outcome(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.entry.claim() {
                return outcome;
            }
            tokio::select! {
                () = self.entry.changed.notified() => {}
                () = tokio::time::sleep_until(self.entry.deadline.into()) => self.expire().await,
            }
        }
    }

    /// A vote that is being recorded was cast in time: it goes first.
    async fn expire(&self) {
        let _turn = self.entry.voting.lock().await;
        self.approvals.0.end(&self.entry, Status::Expired);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.approvals.0.end(&self.entry, Status::Withdrawn);
        self.approvals.0.table().retire(&self.entry);
    }
}

struct Inner {
    ledger: Arc<dyn Ledger>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    closed: bool,
    entries: BTreeMap<u64, Arc<Entry>>,
    ended: VecDeque<(u64, Status)>,
}

struct Entry {
    number: u64,
    ask: Ask,
    requested_at: u64,
    expires_at: u64,
    deadline: Instant,
    /// Held from the check of a vote until it counts: one vote at a time, in the order in which they are recorded.
    voting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// There is one waiter: the session.
    changed: Notify,
}

#[derive(Default)]
struct State {
    votes: Vec<Vote>,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    /// Not recorded yet: nobody sees it.
    #[default]
    Asked,
    Pending,
    Approved {
        at: Instant,
    },
    /// The session has its permit.
    Claimed,
    Denied,
    Over(Status),
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a wait that nobody decided.
    fn end(&self, entry: &Entry, status: Status) {
        let before = {
            let mut state = entry.state();
            let before = state.phase.status();
            if matches!(before, None | Some(Status::Pending)) {
                state.phase = Phase::Over(status);
            }
            before
        };
        if before == Some(Status::Pending) {
            self.ledger.note(Transition::Ended { number: entry.number, operation: entry.ask.operation, status });
        }
    }

    fn find(&self, number: u64) -> Result<Arc<Entry>, ApprovalError> {
        let table = self.table();
        if let Some(entry) = table.entries.get(&number) {
            let seen = entry.state().phase.status().is_some();
            return seen.then(|| Arc::clone(entry)).ok_or(ApprovalError::Unknown(number));
        }
        match table.ended.iter().find(|(ended, _)| *ended == number) {
            Some(&(number, status)) => Err(ApprovalError::Over { number, status }),
            None => Err(ApprovalError::Unknown(number)),
        }
    }

    async fn cast(&self, number: u64, vote: Vote) -> Result<View, ApprovalError> {
        let entry = self.find(number)?;
        let _turn = entry.voting.lock().await;
        let completes = entry.check(&vote.by, vote.approve)?;
        let operation = entry.ask.operation;
        let voted = Transition::Voted { number, operation, vote: vote.clone(), completes };
        self.ledger.record(voted).await.map_err(ApprovalError::NotRecorded)?;
        entry.count(vote, completes)?;
        Ok(entry.view())
    }
}

impl Table {
    fn admit(&mut self, ask: Ask) -> Result<Arc<Entry>, RequestError> {
        if self.closed {
            return Err(RequestError::Closed);
        }
        let all = self.entries.len();
        let of_agent = || self.entries.values().filter(|entry| entry.ask.agent == ask.agent);
        let of_place = of_agent().filter(|entry| entry.ask.place == ask.place).count();
        let most_of_agent = if all < MAX_PENDING / 2 { MAX_PENDING_PER_AGENT } else { MAX_PENDING_PER_PLACE };
        if all >= MAX_PENDING || of_agent().count() >= most_of_agent || of_place >= MAX_PENDING_PER_PLACE {
            return Err(RequestError::TooMany);
        }
        let entry = Arc::new(Entry::new(self.next, ask));
        self.next += 1;
        self.entries.insert(entry.number, Arc::clone(&entry));
        Ok(entry)
    }

    fn retire(&mut self, entry: &Entry) {
        self.entries.remove(&entry.number);
        if let Some(status) = entry.state().phase.status() {
            if self.ended.len() == REMEMBERED {
                self.ended.pop_front();
            }
            self.ended.push_back((entry.number, status));
        }
    }
}

impl Entry {
    fn new(number: u64, ask: Ask) -> Self {
        // Without a requirement nobody could approve: such a wait is over at once.
        let shortest = ask.requirements.iter().map(|requirement| requirement.timeout).min().unwrap_or_default();
        let wait = shortest.min(MAX_WAIT);
        let requested_at = unix_ms();
        Self {
            number,
            ask,
            requested_at,
            expires_at: requested_at.saturating_add(millis(wait)),
            deadline: Instant::now() + wait,
            voting: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the vote may count, and if so, whether it decides.
    fn check(&self, by: &Approver, approve: bool) -> Result<bool, ApprovalError> {
        let (number, user) = (self.number, by.user.clone());
        let state = self.state();
        match state.phase.status() {
            None => return Err(ApprovalError::Unknown(number)),
            Some(Status::Pending) if Instant::now() >= self.deadline => {
                return Err(ApprovalError::Over { number, status: Status::Expired });
            }
            Some(Status::Pending) => {}
            Some(status) => return Err(ApprovalError::Over { number, status }),
        }
        if !self.ask.requirements.iter().any(|requirement| by.is_one_of(&requirement.approvers)) {
            return Err(ApprovalError::NotAnApprover { number, approvers: self.approvers(), user });
        }
        if by.asked_for(&self.ask) {
            return Err(ApprovalError::Requester { number, user });
        }
        if approve && state.votes.iter().any(|earlier| earlier.by.may_be(by)) {
            return Err(ApprovalError::VotedAlready { number, user });
        }
        let yes: Vec<&Approver> =
            state.votes.iter().filter(|vote| vote.approve).map(|vote| &vote.by).chain([by]).collect();
        Ok(!approve || met(&self.ask.requirements, &yes))
    }

    /// Makes a recorded vote count, unless the client went away in the meantime.
    fn count(&self, vote: Vote, completes: bool) -> Result<(), ApprovalError> {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Pending) {
            let status = state.phase.status().unwrap_or(Status::Withdrawn);
            return Err(ApprovalError::Over { number: self.number, status });
        }
        if completes {
            state.phase = if vote.approve { Phase::Approved { at: Instant::now() } } else { Phase::Denied };
        }
        state.votes.push(vote);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The outcome, if there is one. An approval goes to the first who asks, and to nobody when it is stale.
    fn claim(&self) -> Option<Outcome> {
        let mut state = self.state();
        match state.phase {
            Phase::Asked | Phase::Pending => None,
            Phase::Approved { at } if at.elapsed() <= CLAIM_WITHIN => {
                state.phase = Phase::Claimed;
                let by = state.votes.iter().filter(|vote| vote.approve).map(|vote| vote.by.clone()).collect();
                Some(Outcome::Approved { by })
            }
            Phase::Denied => {
                let no = state.votes.iter().rev().find(|vote| !vote.approve)?;
                Some(Outcome::Denied { by: no.by.clone(), reason: no.reason.clone() })
            }
            Phase::Over(Status::Withdrawn) => Some(Outcome::Withdrawn),
            Phase::Approved { .. } | Phase::Claimed | Phase::Over(_) => Some(Outcome::Expired),
        }
    }

    fn approvers(&self) -> String {
        let names: BTreeSet<&str> =
            self.ask.requirements.iter().flat_map(|requirement| &requirement.approvers).map(String::as_str).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn view(&self) -> View {
        let state = self.state();
        let ask = &self.ask;
        View {
            number: self.number,
            status: state.phase.status().unwrap_or(Status::Pending),
            operation: ask.operation,
            digest: hex(&ask.digest),
            text: ask.text.clone(),
            parameters: ask.parameters.clone(),
            agent: ask.agent.clone(),
            agent_uid: ask.agent_uid,
            subject: ask.subject.clone(),
            names: ask.names.clone(),
            groups: ask.groups.clone(),
            target: ask.target.clone(),
            database: ask.database.clone(),
            requirements: ask.requirements.clone(),
            evidence: ask.evidence.clone(),
            understood: ask.understood.clone(),
            actions: ask.actions.clone(),
            forecast: ask.forecast.clone(),
            requested_at: self.requested_at,
            expires_at: self.expires_at,
            votes: state.votes.clone(),
        }
    }
}

impl Phase {
    fn publish(&mut self) {
        if matches!(self, Self::Asked) {
            *self = Self::Pending;
        }
    }

    /// None: not there yet for anybody.
    fn status(&self) -> Option<Status> {
        match self {
            Self::Asked => None,
            Self::Pending => Some(Status::Pending),
            Self::Approved { .. } | Self::Claimed => Some(Status::Approved),
            Self::Denied => Some(Status::Denied),
            Self::Over(status) => Some(*status),
        }
    }
}

impl Approver {
    /// Whom this may be: who logged in, and the user who acts, but for root where somebody logged in. Both, for a process in whose
    /// session nobody logged in may say once who did, and `sudo -u` makes nobody a second person.
    fn people(&self) -> impl Iterator<Item = u32> {
        let acts = (self.uid != 0 || self.login_uid.is_none()).then_some(self.uid);
        acts.into_iter().chain(self.login_uid)
    }

    /// Whether the two may be one person.
    fn may_be(&self, other: &Self) -> bool {
        self.people().any(|uid| other.people().any(|it| it == uid))
    }

    fn is_one_of(&self, approvers: &[String]) -> bool {
        approvers.iter().any(|name| self.names.contains(name))
    }

    /// Whether this is the requester, who started it, or a person whom the agent's token names. Rather one too many: another
    /// approver can always be asked. (Agents that are services were started by nobody who logged in.)
    fn asked_for(&self, ask: &Ask) -> bool {
        let is_agent = self.uid == ask.agent_uid || self.login_uid == Some(ask.agent_uid);
        let started_it = ask.evidence.login_uid.is_some_and(|uid| self.people().any(|it| it == uid));
        let is_called = |claimed: &String| {
            same_name(claimed, &self.user) || self.login_user.as_ref().is_some_and(|user| same_name(claimed, user))
        };
        is_agent || started_it || std::iter::once(&ask.subject).chain(&ask.names).any(is_called)
    }
}

/// `alice` is `alice`, `Alice` and `alice@example.com`.
fn same_name(claimed: &str, user: &str) -> bool {
    let local = claimed.split_once('@').map_or(claimed, |(local, _)| local);
    claimed.eq_ignore_ascii_case(user) || local.eq_ignore_ascii_case(user)
}

/// Whether every requirement has its number of distinct people among those who said yes.
fn met(requirements: &[HoldRequirement], yes: &[&Approver]) -> bool {
    requirements.iter().all(|requirement| {
        let mut people: Vec<&Approver> = Vec::new();
        for by in yes.iter().filter(|by| by.is_one_of(&requirement.approvers)) {
            if !people.iter().any(|earlier| earlier.may_be(by)) {
                people.push(by);
            }
        }
        people.len() >= requirement.count.max(1) as usize
    })
}

fn check_length(reason: Option<&str>) -> Result<(), ApprovalError> {
    if reason.is_some_and(|reason| reason.len() > MAX_REASON) { Err(ApprovalError::ReasonTooLong) } else { Ok(()) }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn, its client went away",
        })
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(millis).unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;

impl View {
    /// Whether somebody with these approver names may decide it.
    pub fn is_for(&self, names: &BTreeSet<String>) -> bool {
        self.requirements.iter().flat_map(|requirement| &requirement.approvers).any(|name| names.contains(name))
    }
}

impl Transition {
    /// The operation that waits, or did.
    pub fn operation(&self) -> OperationId {
        match self {
            Self::Requested(view) => view.operation,
            Self::Voted { operation, .. } | Self::Ended { operation, .. } => *operation,
        }
    }
}
