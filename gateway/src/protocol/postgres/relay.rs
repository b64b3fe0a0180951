//! One session, from the client's start-up to its end: a task that moves bytes both ways and has every statement decided.
//!
//! The loop handles what came from the target, then what came from the client, then waits for more; nothing is sent to
//! either side but from there, in one write for what was read together. Whatever the gateway has to say itself (a denial, a
//! wait, a look at a statement's result before it runs) it says when the target owes nothing more: then order is a matter of
//! course.

use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::cancel::Waiting;
use super::operation::Class;
use super::reply::{Fault, HIGH_WATER, Replies, Running, Until};
use super::shared::{Catalog, Freshness, State, Way};
use super::statement::{Columns, Description, Judged, Memory, Portal, Prepared};
use super::stream::Stream;
use super::wire::{self, Column, Handling, Inbox, Malformed, Piece, Report, Severity, TransactionState};
use crate::mask::{Masked, MaskedBuffer};
use crate::policy::{Action, Kind, Operation};
use crate::session::{
    Decision, Denial, Exact, Forwarded, HeldEvent, Judgement, Permit, ReplySummary, Session, SessionError,
};

/// Of what a client sent ahead while it is not its turn; then it is not read any more.
const MAX_AHEAD: usize = 256 << 10;
/// Messages that the target may owe; then the client is not read any more.
const MAX_OWED: usize = 10_000;
/// The last bytes of a session must be taken by then.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
/// The statement by which a text is looked at before it runs, in the session of the client's.
const PROBE: &[u8] = b"weir_probe";
/// A text that no server takes for a statement: it makes a batch fail at the target that failed for the client.
const NO_STATEMENT: &[u8] = b"denied by policy";
/// Of parameters that are shown to people.
const MAX_PARAMETERS_SHOWN: usize = 1_000;
const DENIED: &str = "42501";

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client closed the session")]
    Terminated,
    #[error("the client left")]
    ClientLeft,
    #[error("the connection with the client broke: {0}")]
    Client(#[source] io::Error),
    #[error("the client does not keep to PostgreSQL's protocol: {0}")]
    ClientMalformed(#[from] Malformed),
    #[error("the client sent {0}")]
    ClientUnexpected(&'static str),
    #[error("the target closed the connection")]
    TargetLeft,
    #[error("the connection with the target broke: {0}")]
    Target(#[source] io::Error),
    #[error(transparent)]
    TargetFault(#[from] Fault),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the session was ended by {0}")]
    Killed(String),
}

impl End {
    fn report(&self) -> Option<Report> {
        let code = match self {
            Self::Terminated | Self::ClientLeft | Self::Client(_) => return None,
            Self::ClientMalformed(_) | Self::ClientUnexpected(_) => "08P01",
            Self::TargetLeft | Self::Target(_) | Self::TargetFault(_) => "08006",
            Self::Session(_) | Self::Killed(_) => "57P01",
        };
        Some(Report::new(Severity::Fatal, code, self.to_string()))
    }
}

/// Both ends of a session, and what is under way between them.
pub(super) struct Relay<'s> {
    session: &'s Session,
    state: &'s State,
    way: &'s Way,
    client: Side,
    target: Side,
    to_client: MaskedBuffer,
    to_client_sent: usize,
    to_target: Outbound,
    replies: Replies<'s>,
    front: Front,
    /// Numbers the client's batches: what it sends up to a Sync, or one simple query.
    batch: u64,
    /// What of the batch was forwarded.
    forwarded: Batch,
    catalog: Option<Arc<Catalog>>,
    /// A statement was forwarded that may change the catalog.
    catalog_changed_at: Option<Instant>,
    memory: Memory,
    waiting: Arc<Waiting>,
    killed: Pin<Box<dyn Future<Output = String> + Send + 's>>,
}

/// One connection and what was read from it.
struct Side {
    stream: Stream,
    inbox: Inbox,
}

/// How the client's next message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Open,
    /// Something of the batch was denied: all up to the Sync is ignored.
    Absorbing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Batch {
    /// Any message of it; the target is owed a Sync.
    any: bool,
    /// A message behind which no Flush or Sync was sent.
    unflushed: bool,
    /// A statement of it runs.
    executed: bool,
}

/// What is to be sent to the target. Statements get in by their permits only.
#[derive(Default)]
struct Outbound {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbound {
    /// Sends a request that was permitted.
    fn permitted(&mut self, permit: Permit<Range<usize>>, inbox: &Inbox) -> Forwarded {
        let (range, forwarded) = permit.forward();
        self.bytes.extend_from_slice(inbox.bytes(range));
        forwarded
    }

    /// Sends a message that runs no statement: preparing, describing, closing, COPY data of a statement that runs.
    fn harmless(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// What looking at a statement before it runs has brought.
enum Probed {
    /// The columns of each statement that had to be looked at.
    Clean(Vec<Option<Columns>>),
    Unclean(String),
    /// The target itself does not take the statement.
    Failed(Vec<u8>),
}

/// A request that got through, or not.
enum Outcome {
    Permit(Permit<Range<usize>>),
    /// The client was told no, or took it back.
    Over,
}

/// What a relay begins with.
pub(super) struct Ends {
    pub(super) client: Stream,
    pub(super) target: Stream,
    pub(super) target_inbox: Inbox,
    pub(super) greeting: Vec<u8>,
    pub(super) waiting: Arc<Waiting>,
}

impl<'s> Relay<'s> {
    pub(super) fn new(session: &'s Session, state: &'s State, way: &'s Way, ends: Ends) -> Self {
        let content_limit = session.engine().config().recording.reply_limit;
        let mut to_client = MaskedBuffer::new();
        to_client.append(&Masked::from_gateway(ends.greeting));
        Self {
            session,
            state,
            way,
            client: Side { stream: ends.client, inbox: Inbox::default() },
            target: Side { stream: ends.target, inbox: ends.target_inbox },
            to_client,
            to_client_sent: 0,
            to_target: Outbound::default(),
            replies: Replies::new(session.masker(), content_limit),
            front: Front::Open,
            batch: 0,
            forwarded: Batch::default(),
            catalog: None,
            catalog_changed_at: None,
            memory: Memory::default(),
            waiting: ends.waiting,
            killed: Box::pin(session.killed()),
        }
    }

    /// Serves the session to its end.
    pub(super) async fn run(mut self) -> End {
        let end = match self.converse().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.close(&end).await;
        end
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.receive().await?;
            match self.next_from_client()? {
                Some((tag, range)) => self.client_message(tag, range).await?,
                None => self.progress().await?,
            }
        }
    }

    /// Ends both sides: what is under way is recorded, the target is told goodbye, the client why.
    async fn close(mut self, end: &End) {
        self.replies.abandon("unfinished");
        if let Err(error) = self.record_finished().await {
            tracing::warn!(session = %self.session.id, %error, "the last replies were not recorded");
        }
        let mut goodbye = Vec::new();
        wire::message(&mut goodbye, b'X', |_| {});
        self.to_target.harmless(&goodbye);
        let target = &mut self.target.stream;
        let unsent = &self.to_target.bytes[self.to_target.sent..];
        let closing = async {
            // A target that is gone cannot be told.
            if target.write_all(unsent).await.is_ok() {
                let _ = target.shutdown().await;
            }
        };
        let _ = timeout(CLOSING_TIMEOUT, closing).await;
        let Some(report) = end.report() else { return };
        let told = self.to_client.as_masked();
        let unsent = told.get().get(self.to_client_sent..).unwrap_or_default();
        let flushed = timeout(CLOSING_TIMEOUT, self.client.stream.write_all(unsent)).await;
        if matches!(flushed, Ok(Ok(()))) {
            super::startup::farewell(self.client.stream, &report).await;
        }
    }

    // Moving bytes.

    /// Handles what the target sent, and records the replies that are complete.
    async fn receive(&mut self) -> Result<(), End> {
        self.replies.receive(&mut self.target.inbox, &mut self.to_client)?;
        self.target.inbox.compact();
        if !self.replies.finished.is_empty() {
            self.record_finished().await?;
        }
        Ok(())
    }

    async fn record_finished(&mut self) -> Result<(), SessionError> {
        for (forwarded, summary) in self.replies.finished.drain(..) {
            self.session.replied(forwarded, summary).await?;
        }
        Ok(())
    }

    /// The client's next message, if it is there and the target keeps up.
    fn next_from_client(&mut self) -> Result<Option<(u8, Range<usize>)>, End> {
        if self.to_target.pending() >= HIGH_WATER || self.replies.owed() >= MAX_OWED {
            return Ok(None);
        }
        self.client.inbox.compact();
        let handling = |tag, _| if tag == b'd' { Handling::Stream } else { Handling::Whole };
        Ok(match self.client.inbox.next(handling)? {
            Piece::Message(tag, range) | Piece::Part(tag, range) => Some((tag, range)),
            Piece::Incomplete => None,
        })
    }

    /// Moves bytes until something new was read from either side.
    async fn progress(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll_progress(cx)).await
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let was_full = (self.to_client.len() >= HIGH_WATER, self.to_target.pending() >= HIGH_WATER);
        if let Poll::Ready(Err(error)) = self.poll_write_target(cx) {
            return Poll::Ready(Err(End::Target(error)));
        }
        if let Poll::Ready(Err(error)) = self.poll_write_client(cx) {
            return Poll::Ready(Err(End::Client(error)));
        }
        if let Poll::Ready(by) = self.killed.as_mut().poll(cx) {
            return Poll::Ready(Err(End::Killed(by)));
        }
        let mut moved =
            was_full.0 && self.to_client.len() < HIGH_WATER || was_full.1 && self.to_target.pending() < HIGH_WATER;
        if self.to_client.len() < HIGH_WATER {
            match self.target.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::TargetLeft)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Target(error))),
                Poll::Pending => {}
            }
        }
        if self.client_may_send() {
            match self.client.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::ClientLeft)),
                Poll::Ready(Ok(read)) => {
                    self.session.count_up(read as u64);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Client(error))),
                Poll::Pending => {}
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn client_may_send(&self) -> bool {
        // A message that is being put together may be larger than what is taken ahead.
        self.to_target.pending() < HIGH_WATER
            && self.replies.owed() < MAX_OWED
            && (self.client.inbox.len() < MAX_AHEAD || self.client.inbox.wants_more())
    }

    fn poll_write_target(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Outbound { bytes, sent } = &mut self.to_target;
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while *sent < bytes.len() {
            match ready!(Pin::new(&mut self.target.stream).poll_write(cx, &bytes[*sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *sent += written,
            }
        }
        ready!(Pin::new(&mut self.target.stream).poll_flush(cx))?;
        give_back(bytes);
        *sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.to_client.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.to_client_sent < self.to_client.len() {
            let told = self.to_client.as_masked();
            let unsent = told.get().get(self.to_client_sent..).unwrap_or_default();
            match ready!(Pin::new(&mut self.client.stream).poll_write(cx, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.to_client_sent += written,
            }
        }
        ready!(Pin::new(&mut self.client.stream).poll_flush(cx))?;
        if self.to_client.len() > 4 * HIGH_WATER {
            self.to_client = MaskedBuffer::new();
        } else {
            self.to_client.clear();
        }
        self.to_client_sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Waits until the target has answered everything, or ignores the rest of the batch.
    async fn drain(&mut self) -> Result<(), End> {
        if self.forwarded.unflushed && !self.replies.skipping {
            let mut flush = Vec::new();
            wire::message(&mut flush, b'H', |_| {});
            self.to_target.harmless(&flush);
            self.forwarded.unflushed = false;
        }
        loop {
            self.receive().await?;
            if self.replies.is_idle() {
                return Ok(());
            }
            if self.replies.copying_in {
                return Err(End::ClientUnexpected("another message than COPY data while the target waited for that"));
            }
            self.progress().await?;
        }
    }

    fn tell(&mut self, report: &Report) {
        let mut message = Vec::new();
        report.write(&mut message);
        self.to_client.append(&Masked::from_gateway(message));
    }

    fn tell_ready(&mut self) {
        let mut message = Vec::new();
        wire::ready_for_query(&mut message, self.replies.state);
        self.to_client.append(&Masked::from_gateway(message));
    }

    /// EmptyQueryResponse: nothing was asked, so nothing is forwarded.
    fn tell_empty(&mut self) {
        let mut message = Vec::new();
        wire::message(&mut message, b'I', |_| {});
        self.to_client.append(&Masked::from_gateway(message));
    }

    // The client's messages.

    async fn client_message(&mut self, tag: u8, range: Range<usize>) -> Result<(), End> {
        match tag {
            b'X' => return Err(End::Terminated),
            b'd' | b'c' | b'f' => {
                self.copy_message(tag, range);
                return Ok(());
            }
            b'S' => {
                self.sync(range);
                return Ok(());
            }
            // An error at the target means the same as a denial here: all up to the Sync is ignored.
            _ if self.front == Front::Absorbing || self.replies.skipping => return Ok(()),
            _ => {}
        }
        if self.replies.copying_in && tag != b'H' {
            return Err(End::ClientUnexpected("another message than COPY data while the target waited for that"));
        }
        match tag {
            b'Q' => self.query(range).await,
            b'P' => self.parse(range).await,
            b'B' => self.bind(range).await,
            b'D' => self.describe(range).await,
            b'E' => self.execute(range).await,
            b'C' => self.close_name(range),
            b'H' => {
                if self.forwarded.any {
                    self.to_target.harmless(self.client.inbox.bytes(range));
                    self.forwarded.unflushed = false;
                }
                Ok(())
            }
            b'F' => self.function_call(range).await,
            _ => Err(End::ClientUnexpected("a message of an unknown type")),
        }
    }

    fn copy_message(&mut self, tag: u8, range: Range<usize>) {
        // The target ignores what comes when it takes no data: a client may still be sending when a COPY has failed.
        if self.front == Front::Open {
            self.to_target.harmless(self.client.inbox.bytes(range));
            if tag != b'd' {
                self.replies.copy_ended();
            }
        }
    }

    fn sync(&mut self, range: Range<usize>) {
        if self.replies.copying_in {
            self.to_target.harmless(self.client.inbox.bytes(range));
            return;
        }
        let absorbed = std::mem::replace(&mut self.front, Front::Open) == Front::Absorbing;
        if self.forwarded.any || self.replies.skipping || !absorbed {
            self.to_target.harmless(self.client.inbox.bytes(range));
            self.replies.sync(self.batch);
        } else {
            // Nothing of the batch reached the target, and it owes nothing: its state is known.
            self.tell_ready();
        }
        self.next_batch();
    }

    fn next_batch(&mut self) {
        self.forwarded = Batch::default();
        self.batch += 1;
    }

    fn in_batch(&mut self) {
        self.forwarded.any = true;
        self.forwarded.unflushed = true;
    }

    async fn query(&mut self, range: Range<usize>) -> Result<(), End> {
        if self.forwarded.any {
            return Err(End::ClientUnexpected(
                "a simple query in a batch of the extended protocol; send Sync before it",
            ));
        }
        let judged = match self.judged_query(range.clone()).await {
            Ok(judged) => judged,
            Err(problem) => return self.query_problem(problem?).await,
        };
        if judged.is_empty() {
            self.drain().await?;
            self.tell_empty();
            self.tell_ready();
        } else {
            self.forward_query(&judged, range).await?;
        }
        self.next_batch();
        Ok(())
    }

    async fn query_problem(&mut self, report: Report) -> Result<(), End> {
        self.drain().await?;
        self.tell(&report);
        self.tell_ready();
        self.next_batch();
        Ok(())
    }

    async fn forward_query(&mut self, judged: &Arc<Judged>, range: Range<usize>) -> Result<(), End> {
        let tagged = judged.statements().iter().any(|it| self.replies.names.touches_tagged(it));
        let mut checked = Vec::new();
        if tagged && !judged.is_denied() {
            self.drain().await?;
            match self.probe(judged).await? {
                Probed::Clean(columns) => checked = columns,
                Probed::Unclean(reason) => {
                    let refused = judged.refused(self.session, reason);
                    let outcome = self.decide(&refused, judged, range, None, Answer::Query).await?;
                    // A refusal cannot be permitted.
                    debug_assert!(matches!(outcome, Outcome::Over));
                    return Ok(());
                }
                Probed::Failed(error) => return self.failed_probe(judged, range, &error).await,
            }
        }
        let Outcome::Permit(permit) = self.decide(&judged.judgement, judged, range, None, Answer::Query).await? else {
            return Ok(());
        };
        let forwarded = self.to_target.permitted(permit, &self.client.inbox);
        let mut running = running(judged, forwarded, tagged);
        running.checked = checked;
        self.replies.query(running);
        self.went(judged);
        Ok(())
    }

    /// A statement is on its way: what is known here follows.
    fn went(&mut self, judged: &Judged) {
        self.replies.names.apply(judged);
        if judged.effects.changes_catalog {
            self.catalog_changed_at = Some(Instant::now());
        }
    }

    /// Has the target describe the results of statements that touch tagged tables, before they run.
    async fn probe(&mut self, judged: &Judged) -> Result<Probed, End> {
        let statements = judged.statements();
        let mut checked = vec![None; statements.len()];
        for (index, statement) in statements.iter().enumerate() {
            if !self.replies.names.touches_tagged(statement) {
                continue;
            }
            let text = if statements.len() == 1 { &*judged.text } else { &judged.text[statement.text_range.clone()] };
            let mut out = Vec::new();
            wire::message(&mut out, b'P', |out| {
                wire::put_string(out, PROBE);
                wire::put_string(out, text.as_bytes());
                out.extend_from_slice(&[0, 0]);
            });
            for tag in [b'D', b'C'] {
                wire::message(&mut out, tag, |out| {
                    out.push(b'S');
                    wire::put_string(out, PROBE);
                });
            }
            wire::message(&mut out, b'S', |_| {});
            let answer = self.ask(&out, Until::Ready).await?;
            let columns = match (answer.error, answer.columns) {
                (Some(_), _) if statements.len() > 1 => {
                    let reason = "the statement touches masked columns and could not be checked as part of a batch; \
                                  send the statements one at a time";
                    return Ok(Probed::Unclean(reason.to_owned()));
                }
                (Some(error), _) => return Ok(Probed::Failed(error)),
                (None, Some(columns)) => columns,
                (None, None) => return Err(Fault::Unexpected('Z').into()),
            };
            if let Err(reason) = plain(judged, columns.as_deref()) {
                return Ok(Probed::Unclean(reason));
            }
            checked[index] = Some(columns);
        }
        Ok(Probed::Clean(checked))
    }

    async fn ask(&mut self, messages: &[u8], until: Until) -> Result<super::reply::Own, End> {
        self.to_target.harmless(messages);
        self.replies.ask(until);
        loop {
            self.receive().await?;
            if let Some(answer) = self.replies.answered() {
                return Ok(answer);
            }
            self.progress().await?;
        }
    }

    /// The target does not take the statement: its error is the answer, for it has read no data. In a transaction the error
    /// has happened there too, and the state says so.
    async fn failed_probe(&mut self, judged: &Arc<Judged>, range: Range<usize>, error: &[u8]) -> Result<(), End> {
        let code = wire::sqlstate(error).unwrap_or("XX000").to_owned();
        if judged.is_allowed()
            && let Outcome::Permit(permit) = self.decide(&judged.judgement, judged, range, None, Answer::Query).await?
        {
            let (_, forwarded) = permit.forward();
            let outcome = format!("ERROR {code} (found when it was checked)");
            self.session.replied(forwarded, ReplySummary { outcome, ..ReplySummary::default() }).await?;
        }
        match self.session.masker().pass_text(false, error) {
            Ok(passed) => self.to_client.append(&passed),
            Err(_) => self.tell(&Report::new(Severity::Error, &code, "the target does not take this statement")),
        }
        self.tell_ready();
        Ok(())
    }

    async fn parse(&mut self, range: Range<usize>) -> Result<(), End> {
        let message = wire::parse(self.client.inbox.bytes(range.clone()))?;
        let (name, text) = (message.name.to_vec(), message.query.to_vec());
        let judged = match self.judged(&text).await {
            Ok(judged) => judged,
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        if judged.is_denied() {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
            // Recorded and told by the decision; a denied statement is not even prepared.
            if let Outcome::Over = self.decide(&judged.judgement, &judged, range.clone(), None, Answer::Batch).await? {
                return Ok(());
            }
        }
        let taken = self.replies.names.may_be_prepared(&name);
        let prepared = Prepared { judged, description: Description::default() };
        let previous = match self.replies.names.set_statement(&name, Some(prepared)) {
            Ok(previous) => previous,
            Err(full) => return self.batch_problem(&Report::new(Severity::Error, "54000", full.to_string())).await,
        };
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.parse(name, previous);
        self.in_batch();
        if taken {
            self.drain().await?;
        }
        Ok(())
    }

    async fn bind(&mut self, range: Range<usize>) -> Result<(), End> {
        let message = wire::bind(self.client.inbox.bytes(range.clone()))?;
        let name = message.portal.to_vec();
        let Some(prepared) = self.replies.names.statement(message.statement).cloned() else {
            let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(message.statement));
            return self.batch_problem(&Report::new(Severity::Error, "26000", text)).await;
        };
        let parameters = shown_parameters(&message, prepared.judged.redact_parameters);
        let portal = Portal {
            id: self.replies.names.fresh_id(),
            values: message.values.into(),
            parameters,
            result_formats: message.result_formats.into(),
            judged: prepared.judged,
            description: Description::default(),
            statement_description: prepared.description,
            asked: false,
            batch: self.batch,
            confirmed: false,
        };
        let id = portal.id;
        let previous = match self.replies.names.set_portal(&name, Some(portal)) {
            Ok(previous) => previous,
            Err(full) => return self.batch_problem(&Report::new(Severity::Error, "54000", full.to_string())).await,
        };
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.bind(name, id, previous);
        self.in_batch();
        Ok(())
    }

    /// The kind and name of a Describe or Close.
    fn named(&self, range: Range<usize>) -> Result<(u8, Vec<u8>), Malformed> {
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range));
        let (kind, name) = (fields.u8()?, fields.string()?.to_vec());
        fields.end()?;
        if matches!(kind, b'S' | b'P') { Ok((kind, name)) } else { Err(Malformed::Body) }
    }

    async fn describe(&mut self, range: Range<usize>) -> Result<(), End> {
        let (kind, name) = self.named(range.clone())?;
        if kind == b'S' {
            let Some(description) = self.replies.names.statement(&name).map(|it| it.description.clone()) else {
                let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(&name));
                return self.batch_problem(&Report::new(Severity::Error, "26000", text)).await;
            };
            self.replies.describe_statement(description);
        } else {
            let Some(portal) = self.replies.names.portal_mut(&name) else {
                return self.unknown_portal(&name).await;
            };
            portal.asked = true;
            let description = portal.description.clone();
            self.replies.describe_portal(description, false);
        }
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.in_batch();
        Ok(())
    }

    async fn unknown_portal(&mut self, name: &[u8]) -> Result<(), End> {
        let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
        self.batch_problem(&Report::new(Severity::Error, "34000", text)).await
    }

    fn close_name(&mut self, range: Range<usize>) -> Result<(), End> {
        let (kind, name) = self.named(range.clone())?;
        // Closing what does not exist is no error, and taking away cannot fail.
        if kind == b'S' {
            let _ = self.replies.names.set_statement(&name, None);
        } else {
            let _ = self.replies.names.set_portal(&name, None);
        }
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.close();
        self.in_batch();
        Ok(())
    }

    async fn execute(&mut self, range: Range<usize>) -> Result<(), End> {
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range.clone()));
        let name = fields.string()?.to_vec();
        let _rows = fields.u32()?;
        fields.end()?;
        // A Bind of an earlier batch may have failed: then the name stands for something else at the target.
        if self.replies.names.portal(&name).is_some_and(|portal| !portal.confirmed && portal.batch != self.batch) {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
        }
        let Some(portal) = self.replies.names.portal(&name).cloned() else {
            return self.unknown_portal(&name).await;
        };
        let judged = match self.judged(portal.judged.text.as_bytes()).await {
            Ok(judged) => judged,
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        if judged.is_empty() {
            // It runs nothing.
            self.to_target.harmless(self.client.inbox.bytes(range));
            self.replies.execute_nothing();
            self.in_batch();
            return Ok(());
        }
        let tagged = judged.statements().iter().any(|it| self.replies.names.touches_tagged(it));
        if tagged && !judged.is_denied() {
            self.ask_portal(&portal, &name);
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
            let Some(columns) = portal.description.get() else { return Err(Fault::Unexpected('n').into()) };
            if let Err(reason) = plain(&judged, columns.as_deref()) {
                let refused = judged.refused(self.session, reason);
                let outcome = self.decide(&refused, &judged, range, Some(&portal), Answer::Batch).await?;
                // A refusal cannot be permitted.
                debug_assert!(matches!(outcome, Outcome::Over));
                return Ok(());
            }
        } else if !portal.asked && portal.statement_description.get().is_none() {
            self.ask_portal(&portal, &name);
        }
        let outcome = self.decide(&judged.judgement, &judged, range, Some(&portal), Answer::Batch).await?;
        let Outcome::Permit(permit) = outcome else { return Ok(()) };
        if self.replies.skipping {
            // The batch failed at the target meanwhile: nothing of it may follow, and nothing was forwarded.
            let (_, forwarded) = permit.forward();
            let outcome = "not run".to_owned();
            self.session.replied(forwarded, ReplySummary { outcome, ..ReplySummary::default() }).await?;
            return Ok(());
        }
        let forwarded = self.to_target.permitted(permit, &self.client.inbox);
        let mut running = running(&judged, forwarded, tagged);
        running.portal = Some(portal);
        self.replies.execute(running);
        self.in_batch();
        self.forwarded.executed = true;
        self.went(&judged);
        Ok(())
    }

    /// Asks for a portal's description, unless the client has.
    fn ask_portal(&mut self, portal: &Portal, name: &[u8]) {
        if portal.asked {
            return;
        }
        let mut out = Vec::new();
        wire::message(&mut out, b'D', |out| {
            out.push(b'P');
            wire::put_string(out, name);
        });
        self.to_target.harmless(&out);
        if let Some(portal) = self.replies.names.portal_mut(name) {
            portal.asked = true;
        }
        self.replies.describe_portal(portal.description.clone(), true);
        self.in_batch();
    }

    /// Calls by oid, without a text: what the function does is not known here.
    async fn function_call(&mut self, range: Range<usize>) -> Result<(), End> {
        if self.forwarded.any {
            return Err(End::ClientUnexpected(
                "a function call in a batch of the extended protocol; send Sync before it",
            ));
        }
        let oid = wire::Fields::of(self.client.inbox.bytes(range.clone())).u32()?;
        self.drain().await?;
        let catalog = match self.catalog(Freshness::Usual).await {
            Ok(catalog) => catalog,
            Err(report) => return self.query_problem(report).await,
        };
        let masked = "a function called by number is not known to be harmless; this target has masked columns";
        let action = Action {
            kind: Kind::FunctionCall,
            tables: Vec::new(),
            functions: vec![oid.to_string()],
            has_where: None,
            has_limit: None,
        };
        let operation = Operation {
            text: format!("function call {oid}"),
            database: Some(self.way.database.clone()),
            actions: vec![action],
            refusal: (!catalog.set.is_empty()).then(|| masked.to_owned()),
        };
        let judgement = self.session.judge(Arc::new(operation));
        let bytes = self.client.inbox.bytes(range.clone()).to_vec();
        let exact = Exact { bytes: &[&bytes], parameters: None };
        match self.session.decide(&judgement, range, exact).await? {
            Decision::Permit(permit) => {
                let forwarded = self.to_target.permitted(permit, &self.client.inbox);
                self.replies.function_call(Running::new(forwarded, Arc::clone(&catalog.set)));
            }
            Decision::Denial(denial) => self.deny(&denial, Answer::Query).await?,
            Decision::Hold(held) => {
                if let Outcome::Permit(permit) = self.hold(held, Answer::Query).await? {
                    let forwarded = self.to_target.permitted(permit, &self.client.inbox);
                    self.replies.function_call(Running::new(forwarded, Arc::clone(&catalog.set)));
                }
            }
        }
        self.next_batch();
        Ok(())
    }

    // Judging and deciding.

    /// What the text of a simple query does and what policy says of it. The error is what the client is to be told, or the
    /// session's end.
    async fn judged_query(&mut self, range: Range<usize>) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Ok)?;
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range));
        let text = fields.string().and_then(|text| fields.end().map(|()| text)).map_err(|error| Err(error.into()))?;
        if let Some(judged) = self.memory.recall(self.session, &catalog, text) {
            return Ok(judged);
        }
        let text = utf8(text)?;
        self.judged_anew(text, catalog).await
    }

    /// The same for a prepared statement's text.
    async fn judged(&mut self, text: &[u8]) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Ok)?;
        match self.memory.recall(self.session, &catalog, text) {
            Some(judged) => Ok(judged),
            None => self.judged_anew(utf8(text)?, catalog).await,
        }
    }

    async fn judged_anew(&mut self, text: Arc<str>, catalog: Arc<Catalog>) -> Result<Arc<Judged>, Result<Report, End>> {
        let mut judged = self.judge(&text, catalog).await;
        if judged.has_unknown_relations() && !judged.catalog.set.is_empty() {
            let catalog = self.catalog(Freshness::AsNewAs(Instant::now())).await.map_err(Ok)?;
            judged = self.judge(&text, catalog).await;
        }
        let judged = Arc::new(judged);
        self.memory.keep(&judged);
        Ok(judged)
    }

    async fn judge(&mut self, text: &Arc<str>, catalog: Arc<Catalog>) -> Judged {
        let parsed = catalog.understand(&self.state.analyser, text).await;
        Judged::new(self.session, &self.way.database, Arc::clone(text), parsed, catalog)
    }

    /// The catalog that statements are understood under.
    async fn catalog(&mut self, freshness: Freshness) -> Result<Arc<Catalog>, Report> {
        let freshness = match (freshness, self.catalog_changed_at.take()) {
            (Freshness::Usual, Some(changed)) => Freshness::AsNewAs(changed),
            (freshness, _) => freshness,
        };
        if freshness == Freshness::Usual
            && let Some(catalog) = &self.catalog
            && catalog.is_fresh()
        {
            return Ok(Arc::clone(catalog));
        }
        match self.state.catalog(self.session, self.way, freshness).await {
            Ok(catalog) => {
                self.catalog = Some(Arc::clone(&catalog));
                Ok(catalog)
            }
            Err(why) => {
                self.catalog = None;
                let message =
                    format!("the target {:?} is denied until this is put right: {why}", self.session.target.name);
                let hint = "What is masked cannot be known without its catalog, so nothing passes. This is for the \
                            people who run Weir, not for you; do not retry at once.";
                Err(Report::new(Severity::Error, DENIED, message).with_hint(hint))
            }
        }
    }

    /// Has a request decided; what is denied, or waited for in vain, the client is told here.
    async fn decide(
        &mut self,
        judgement: &Judgement,
        judged: &Judged,
        range: Range<usize>,
        portal: Option<&Portal>,
        answer: Answer,
    ) -> Result<Outcome, End> {
        let values: &[u8] = portal.map_or(&[], |portal| &portal.values);
        let exact = Exact {
            bytes: &[judged.text.as_bytes(), values],
            parameters: portal.and_then(|portal| portal.parameters.as_deref()),
        };
        match self.session.decide(judgement, range, exact).await? {
            Decision::Permit(permit) => Ok(Outcome::Permit(permit)),
            Decision::Denial(denial) => {
                self.deny(&denial, answer).await?;
                Ok(Outcome::Over)
            }
            Decision::Hold(held) => self.hold(held, answer).await,
        }
    }

    async fn deny(&mut self, denial: &Denial, answer: Answer) -> Result<(), End> {
        let report = Report::new(Severity::Error, DENIED, denial.sentence()).with_hint(denial.hint());
        self.drain().await?;
        self.answer(&report, answer).await
    }

    async fn batch_problem(&mut self, report: &Report) -> Result<(), End> {
        self.drain().await?;
        self.answer(report, Answer::Batch).await
    }

    /// Says no, in order, with the transaction's true state.
    async fn answer(&mut self, report: &Report, answer: Answer) -> Result<(), End> {
        if self.replies.skipping {
            return Ok(());
        }
        self.tell(report);
        match answer {
            Answer::Query => self.tell_ready(),
            Answer::Batch => {
                self.front = Front::Absorbing;
                if self.forwarded.executed {
                    self.fail_batch().await?;
                }
            }
        }
        Ok(())
    }

    /// To the client the batch has failed, so what ran of it must not be committed: it fails at the target too.
    async fn fail_batch(&mut self) -> Result<(), End> {
        let mut out = Vec::new();
        wire::message(&mut out, b'P', |out| {
            wire::put_string(out, PROBE);
            wire::put_string(out, NO_STATEMENT);
            out.extend_from_slice(&[0, 0]);
        });
        wire::message(&mut out, b'H', |_| {});
        self.ask(&out, Until::Error).await.map(drop)
    }

    /// Waits for people, and tells the client that it does. A client that leaves or cancels takes the request back.
    async fn hold(&mut self, held: crate::session::Held<Range<usize>>, answer: Answer) -> Result<Outcome, End> {
        self.drain().await?;
        if self.replies.skipping {
            return Ok(Outcome::Over);
        }
        let (session, waiting) = (self.session, Arc::clone(&self.waiting));
        let cancelled = waiting.cancelled();
        tokio::pin!(cancelled);
        let mut held = held;
        loop {
            self.tell(&Report::new(Severity::Notice, "00000", held.notice()));
            let event = {
                let next = held.next(session);
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        () = &mut cancelled => break None,
                        event = &mut next => break Some(event),
                        progress = self.progress() => progress?,
                    }
                    self.receive().await?;
                }
            };
            match event {
                Some(HeldEvent::StillWaiting(again)) => held = again,
                Some(HeldEvent::Permit(permit)) => return Ok(Outcome::Permit(permit)),
                Some(HeldEvent::Denial(denial)) => {
                    self.deny(&denial, answer).await?;
                    return Ok(Outcome::Over);
                }
                None => {
                    let report = Report::new(Severity::Error, "57014", "canceling statement due to user request");
                    self.answer(&report, answer).await?;
                    return Ok(Outcome::Over);
                }
            }
        }
    }
}

/// How a request that does not run is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// An error, then readiness.
    Query,
    /// An error; readiness comes with the Sync.
    Batch,
}

impl Side {
    /// Reads what is there; ready with the number of bytes, 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(self.inbox.space());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        self.inbox.filled(read);
        Poll::Ready(Ok(read))
    }
}

fn running(judged: &Judged, forwarded: Forwarded, tagged: bool) -> Box<Running> {
    let mut running = Running::new(forwarded, Arc::clone(&judged.catalog.set));
    running.tagged = tagged;
    let ends = |action: &Action| matches!(action.kind, Kind::Transaction | Kind::Set);
    running.ends_transaction = judged.judgement.operation().actions.iter().any(ends);
    running
}

fn utf8(text: &[u8]) -> Result<Arc<str>, Result<Report, End>> {
    let text = std::str::from_utf8(text);
    text.map(Arc::from).map_err(|_| Ok(Report::new(Severity::Error, "22021", "the statement is not valid UTF-8")))
}

/// Empties a buffer, and gives its memory back if it was unusually large.
fn give_back(bytes: &mut Vec<u8>) {
    if bytes.capacity() > 4 * HIGH_WATER {
        *bytes = Vec::new();
    } else {
        bytes.clear();
    }
}

/// Whether every column of a tagged statement's result is a column of an ordinary table, so that its mask is known.
fn plain(judged: &Judged, columns: Option<&[Column]>) -> Result<(), String> {
    let Some(columns) = columns else { return Ok(()) };
    for (index, column) in columns.iter().enumerate() {
        let is_column = column.table != 0 && column.attribute > 0 && judged.catalog.set.is_ordinary(column.table);
        if !is_column {
            let tables: Vec<&str> = judged
                .statements()
                .iter()
                .filter_map(|it| if let Class::Plain { relations } = &it.class { Some(relations) } else { None })
                .flatten()
                .map(String::as_str)
                .collect();
            let tables = if tables.is_empty() { "a table".to_owned() } else { tables.join(", ") };
            return Err(format!(
                "column {} (\"{}\") of the result is not plainly a column of a table, and {tables} in this statement has \
                 masked columns; select the columns themselves",
                index + 1,
                String::from_utf8_lossy(&column.name)
            ));
        }
    }
    Ok(())
}

/// Parameters as people see them; none where there are none or they may be compared with tagged data.
fn shown_parameters(bind: &wire::Bind<'_>, redacted: bool) -> Option<Arc<str>> {
    if bind.parameters.is_empty() || redacted {
        return None;
    }
    let format = |index: usize| match &bind.parameter_formats[..] {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    };
    let mut shown = String::new();
    for (index, value) in bind.parameters.iter().enumerate() {
        use std::fmt::Write;
        let written = match value {
            None => write!(shown, "${} = NULL, ", index + 1),
            Some(value) if format(index) == 0 => {
                write!(shown, "${} = '{}', ", index + 1, String::from_utf8_lossy(value))
            }
            Some(value) => write!(shown, "${} = {} bytes, ", index + 1, value.len()),
        };
        if written.is_err() || shown.len() > MAX_PARAMETERS_SHOWN {
            break;
        }
    }
    let mut end = shown.trim_end_matches(", ").len().min(MAX_PARAMETERS_SHOWN);
    while !shown.is_char_boundary(end) {
        end -= 1;
    }
    shown.truncate(end);
    Some(shown.into())
}

/// What the client is greeted with, when the target has let the gateway in.
pub(super) fn greet(out: &mut Vec<u8>, parameters: &[(String, String)], user: &str, process: u32, key: &[u8]) {
    wire::authentication_ok(out);
    for (name, value) in parameters {
        // What the client calls itself is not what the gateway is to the target.
        let value = if name == "session_authorization" { user } else { value };
        wire::parameter_status(out, name, value);
    }
    wire::backend_key_data(out, process, key);
    wire::ready_for_query(out, TransactionState::Idle);
}
