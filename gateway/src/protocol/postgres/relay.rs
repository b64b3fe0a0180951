//! One session, from the client's start-up to its end: a task that moves bytes both ways and has every statement decided.
//!
//! The loop handles what came from the target, then what came from the client, then waits for more; nothing is sent to
//! either side but from there, in one write for what was read together. Whatever the gateway has to say itself (a denial, a
//! wait, a look at a statement's result before it runs) it says when the target owes nothing more: then order is a matter of
//! course.

mod batch;
mod decide;
mod forecast;
mod query;
mod trace;

pub(super) use self::trace::Known as Trace;
use self::trace::Traces;

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep, timeout};

use super::cancel::{Canceller, Waiting};
use super::reply::{Fault, HIGH_WATER, Own, Replies, Undo, Until};
use super::shared::{Catalog, State, Way};
use super::statement::{Lifetime, Memory, Names};
use super::stream::Stream;
use super::wire::{
    self, Handling, Inbox, Malformed, NoRoom, PassedOver, Piece, Report, Severity, Share, TransactionState,
};
use crate::mask::{Masked, MaskedBuffer};
use crate::session::{Forwarded, Permit, Session, SessionError};

/// Of what a client sent ahead while it is not its turn; then it is not read any more.
const MAX_AHEAD: usize = 256 << 10;
/// Messages that the target may owe; then the client is not read any more.
const MAX_OWED: usize = 10_000;
/// How often it is looked whether a client that is not read is still there.
const LOOK_AFTER: Duration = Duration::from_secs(5);
/// The last bytes of a session must be taken by then.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
/// The statement by which a text is looked at before it runs, in the session of the client's.
const PROBE: &[u8] = wire::OWN_NAME;

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
    /// After it has told the client why.
    #[error("the target ended the session")]
    TargetEnded,
    #[error("the connection with the target broke: {0}")]
    Target(#[source] io::Error),
    #[error(transparent)]
    TargetFault(#[from] Fault),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the session was ended by {0}")]
    Killed(String),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl End {
    /// Reading from the client failed, or there was nowhere to read to.
    fn client(error: io::Error) -> Self {
        error.downcast::<NoRoom>().map_or_else(Self::Client, Self::from)
    }

    fn client_is_gone(&self) -> bool {
        matches!(self, Self::Terminated | Self::ClientLeft | Self::Client(_))
    }

    /// What the client is told beside what it was told already.
    fn report(&self) -> Option<Report> {
        let code = match self {
            Self::Terminated | Self::ClientLeft | Self::Client(_) | Self::TargetEnded => return None,
            Self::ClientMalformed(_) | Self::ClientUnexpected(_) => "08P01",
            Self::NoRoom(_) | Self::TargetFault(Fault::Full(_)) => "53200",
            Self::TargetFault(Fault::TooLarge { .. }) => "54000",
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
    /// What the target's texts are in.
    encoding: Encoding,
    catalog: Option<Arc<Catalog>>,
    /// A statement was forwarded that may change the catalog, and it was not read since.
    catalog_changed: bool,
    /// It was read, but while the transaction of that statement was open: nobody but this session sees the change.
    change_unseen: bool,
    /// Others have changed something since the catalog was read.
    is_outdated: bool,
    memory: Memory,
    /// Where the results of statements come from that are prepared.
    traces: Traces,
    /// Relations that the catalog did not have when it was read for them, and when that was.
    missing: HashMap<(Option<String>, String), Instant>,
    /// Whether the COPY data at hand goes to the target, whose first part did; None: it has not begun.
    copy_goes: Option<bool>,
    /// How long the statement at hand has been thought about, its preparing, binding and describing included. None: people were asked.
    thought: Option<Duration>,
    waiting: Arc<Waiting>,
    canceller: Canceller,
    /// A request to the target to cancel, until it is done with.
    cancelling: Option<JoinHandle<()>>,
    killed: Pin<Box<dyn Future<Output = String> + Send + 's>>,
    /// Set while the client is not read, so that its end is not seen by reading.
    next_look: Option<Pin<Box<Sleep>>>,
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

/// What a client has sent.
enum Sent {
    /// Or a part of one.
    Message(u8, Range<usize>),
    /// One of which nothing was kept.
    TooLarge(PassedOver),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Batch {
    /// Any message of it; the target is owed a Sync.
    any: bool,
    /// A message behind which no Flush or Sync was sent.
    unflushed: bool,
    reached: Reached,
}

/// How far a batch has got at the target, or its way there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    #[default]
    Prepared,
    /// A portal was bound.
    Bound,
    /// A statement runs.
    Executed,
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

/// What a database's texts are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Names are to it what they are here.
    Utf8,
    /// It cuts and folds names otherwise, and each of its characters has an equivalent in UTF-8.
    Latin1,
    /// Some of its texts may have no equivalent: sending them fails, or not.
    Other,
}

impl Encoding {
    /// By `server_encoding`, as the target reports it.
    pub(super) fn named(name: Option<&str>) -> Self {
        match name {
            Some("UTF8") => Self::Utf8,
            Some("LATIN1") => Self::Latin1,
            _ => Self::Other,
        }
    }
}

/// What a relay begins with.
pub(super) struct Ends {
    pub(super) client: Stream,
    pub(super) target: Stream,
    pub(super) target_inbox: Inbox,
    pub(super) greeting: Vec<u8>,
    pub(super) encoding: Encoding,
    pub(super) lifetime: Lifetime,
    pub(super) waiting: Arc<Waiting>,
    pub(super) canceller: Canceller,
}

impl<'s> Relay<'s> {
    pub(super) fn new(session: &'s Session, state: &'s State, way: &'s Way, ends: Ends) -> Self {
        let content_limit = session.engine().config().recording.reply_limit;
        let room = Share::new(&state.room, &session.principal.agent);
        let mut to_client = MaskedBuffer::new();
        to_client.append(&Masked::from_gateway(ends.greeting));
        Self {
            session,
            state,
            way,
            client: Side { stream: ends.client, inbox: Inbox::of_client(room) },
            target: Side { stream: ends.target, inbox: ends.target_inbox },
            to_client,
            to_client_sent: 0,
            to_target: Outbound::default(),
            replies: Replies::new(session.masker(), content_limit, Names::lasting(ends.lifetime), session.reads_only),
            front: Front::Open,
            batch: 0,
            forwarded: Batch::default(),
            encoding: ends.encoding,
            catalog: None,
            catalog_changed: false,
            change_unseen: false,
            is_outdated: false,
            memory: Memory::default(),
            traces: Traces::default(),
            missing: HashMap::new(),
            copy_goes: None,
            thought: Some(Duration::ZERO),
            waiting: ends.waiting,
            canceller: ends.canceller,
            cancelling: None,
            killed: Box::pin(session.killed()),
            next_look: None,
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
            self.undo_beyond().await?;
            match self.next_from_client()? {
                Some(Sent::Message(tag, range)) => self.client_message(tag, range).await?,
                Some(Sent::TooLarge(message)) => self.too_large(message).await?,
                None => self.progress().await?,
            }
        }
    }

    /// Counts how long a message was thought about, and with the last one of its statement how long that was.
    fn thought_for(&mut self, tag: u8, time: Duration) {
        self.thought = self.thought.map(|before| before + time);
        if matches!(tag, b'Q' | b'E')
            && let Some(thought) = self.thought.replace(Duration::ZERO)
        {
            self.session.engine().verdict_times().count(thought);
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
        if end.client_is_gone() {
            return;
        }
        let told = self.to_client.as_masked();
        let unsent = told.get().get(self.to_client_sent..).unwrap_or_default();
        let flushed = timeout(CLOSING_TIMEOUT, self.client.stream.write_all(unsent)).await;
        if matches!(flushed, Ok(Ok(()))) {
            match end.report() {
                Some(report) => super::startup::farewell(self.client.stream, &report).await,
                None => super::startup::close(self.client.stream).await,
            }
        }
    }

    // Moving bytes.

    /// Handles what the target sent, and records the replies that are complete.
    async fn receive(&mut self) -> Result<(), End> {
        self.replies.receive(&mut self.target.inbox, &mut self.to_client)?;
        while self.replies.doubt().is_some() {
            // Seldom, and not in the way of all that a session takes.
            Box::pin(self.settle()).await;
            self.replies.receive(&mut self.target.inbox, &mut self.to_client)?;
        }
        self.target.inbox.compact();
        if std::mem::take(&mut self.replies.wants_cancel) {
            self.cancel_at_target();
        }
        if !self.replies.finished.is_empty() {
            self.record_finished().await?;
        }
        Ok(())
    }

    /// Stops a statement of which the client gets no more. What still comes of it is dropped.
    fn cancel_at_target(&mut self) {
        let (canceller, session) = (self.canceller.clone(), self.session.id);
        let earlier = self.cancelling.take();
        self.cancelling = Some(tokio::spawn(async move {
            if let Some(earlier) = earlier {
                // Whatever became of it, it is done with.
                let _ = earlier.await;
            }
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(%session, %error, "a statement beyond a limit goes on at the target");
            }
        }));
    }

    /// To the client a statement has failed that the target has done: so it fails there, too.
    async fn undo_beyond(&mut self) -> Result<(), End> {
        let Some(undo) = self.replies.undo.take_if(|it| *it != Undo::IfOpen) else { return Ok(()) };
        // Seldom, and not in the way of all that a session takes.
        Box::pin(self.fail_batch()).await?;
        if undo == Undo::Transaction {
            Box::pin(self.sync_at_target()).await?;
            self.tell_ready();
        }
        Ok(())
    }

    async fn record_finished(&mut self) -> Result<(), SessionError> {
        for (forwarded, summary) in self.replies.finished.drain(..) {
            self.session.replied(forwarded, summary).await?;
        }
        Ok(())
    }

    /// The client's next message, if it is there, the target keeps up and the client takes what it is told.
    fn next_from_client(&mut self) -> Result<Option<Sent>, End> {
        let is_behind = self.to_target.pending() >= HIGH_WATER || self.replies.owed() >= MAX_OWED;
        // A request to cancel that comes late meets the next statement.
        if self.cancelling.is_some() {
            return Ok(None);
        }
        // What the gateway answers itself, such as a denial, needs no target to slow it down.
        if is_behind || self.to_client.len() >= HIGH_WATER {
            return Ok(None);
        }
        self.client.inbox.compact();
        if !self.client.inbox.is_within_message() {
            self.copy_goes = None;
        }
        let handling = |tag, _| if tag == b'd' { Handling::Stream } else { Handling::Whole };
        Ok(match self.client.inbox.next(handling)? {
            Piece::Message(tag, range) | Piece::Part(tag, range) => Some(Sent::Message(tag, range)),
            Piece::Incomplete => self.client.inbox.passed_over().map(Sent::TooLarge),
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
        let cancelled = self.cancelling.as_mut().is_some_and(|it| Pin::new(it).poll(cx).is_ready());
        if cancelled {
            self.cancelling = None;
        }
        let mut moved = cancelled
            || was_full.0 && self.to_client.len() < HIGH_WATER
            || was_full.1 && self.to_target.pending() < HIGH_WATER;
        if self.to_client.len() < HIGH_WATER {
            match self.target.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.replies.ended => return Poll::Ready(Err(End::TargetEnded)),
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
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::client(error))),
                Poll::Pending => {}
            }
            self.next_look = None;
        } else if self.poll_client_left(cx).is_ready() {
            return Poll::Ready(Err(End::ClientLeft));
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when a client that is not read has closed its end.
    fn poll_client_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let look = self.next_look.get_or_insert_with(|| Box::pin(sleep(LOOK_AFTER)));
            ready!(look.as_mut().poll(cx));
            self.next_look = None;
            if self.client.stream.is_closed_by_peer() {
                return Poll::Ready(());
            }
        }
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
            // A request to cancel that comes late would meet what is sent next.
            if self.replies.is_idle() && self.cancelling.is_none() {
                self.undo_beyond().await?;
                self.replies.names.all_answered();
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
                self.thought = Some(Duration::ZERO);
                self.sync(range);
                return Ok(());
            }
            _ => {}
        }
        if !self.takes(tag)? {
            return Ok(());
        }
        if tag != b'H' && self.replies.names.holds_too_much() {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
        }
        let began = Instant::now();
        self.request(tag, range).await?;
        self.thought_for(tag, began.elapsed());
        Ok(())
    }

    /// A message that asks for something, and is heard.
    async fn request(&mut self, tag: u8, range: Range<usize>) -> Result<(), End> {
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

    /// Whether a message that asks for something is heard.
    fn takes(&self, tag: u8) -> Result<bool, End> {
        // What statements show is known by the catalog of the masks of this moment.
        if !self.session.masks_are_current() {
            return Err(SessionError::MasksChanged.into());
        }
        // An error at the target means the same as a denial here: all up to the Sync is ignored.
        if self.front == Front::Absorbing || self.replies.skipping {
            return Ok(false);
        }
        if self.replies.copying_in && tag != b'H' {
            return Err(End::ClientUnexpected("another message than COPY data while the target waited for that"));
        }
        Ok(true)
    }

    fn copy_message(&mut self, tag: u8, range: Range<usize>) {
        // The target ignores what comes when it takes no data: a client may still be sending when a COPY has failed. But of a
        // message that it has a part of it waits for the rest.
        let goes = self.front == Front::Open && !self.replies.is_idle();
        if *self.copy_goes.get_or_insert(goes) {
            self.to_target.harmless(self.client.inbox.bytes(range));
            if tag != b'd' {
                self.replies.copy_ended();
            }
        }
    }

    fn next_batch(&mut self) {
        self.forwarded = Batch::default();
        self.traces.next_batch();
        self.batch += 1;
    }

    fn in_batch(&mut self) {
        self.forwarded.any = true;
        self.forwarded.unflushed = true;
    }

    async fn ask(&mut self, messages: &[u8], until: Until) -> Result<Own, End> {
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
}

impl Side {
    /// Reads what is there; ready with the number of bytes, 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(self.inbox.space().map_err(io::Error::other)?);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        self.inbox.filled(read);
        Poll::Ready(Ok(read))
    }
}

/// Empties a buffer, and gives its memory back if it was unusually large.
fn give_back(bytes: &mut Vec<u8>) {
    if bytes.capacity() > 4 * HIGH_WATER {
        *bytes = Vec::new();
    } else {
        bytes.clear();
    }
}

/// What the client is greeted with behind its welcome, when the target has let the gateway in.
pub(super) fn greet(out: &mut Vec<u8>, parameters: &[(String, String)], user: &str, process: u32, key: &[u8]) {
    for (name, value) in parameters {
        // What the client calls itself is not what the gateway is to the target.
        let value = if name == "session_authorization" { user } else { value };
        wire::parameter_status(out, name, value);
    }
    wire::backend_key_data(out, process, key);
    wire::ready_for_query(out, TransactionState::Idle);
}
