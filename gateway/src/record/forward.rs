//! Recording through another gateway: what becomes of the records when a gateway is replaced and its sessions go on.
//!
//! There is one log and one writer. The gateway that is replaced gives the directory up and sends its records on to the one
//! that took over, which writes them and says when they are durable. So a strict record is durable before its operation is
//! forwarded here too, and a chain stays one chain.
//!
//! The stream is a socket pair. Records go one way: the length of a payload (4 bytes, little-endian) and the payload, as they
//! lie in the queue; a length of 0 asks for a word when all before it is durable. That word comes the other way, and so do
//! orders to the sessions that go on.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::error::TrySendError;

use super::segment::{self, MAX_PAYLOAD, PREFIX_LEN};
use super::writer::{OnExit, Queue, Recorder, Shared, acknowledge};
use super::{RecordError, SessionId};

/// The other gateway may be so slow to write, which includes that it starts; beyond it nothing is recorded any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The rest of a record whose beginning has come, and room for a word to the other side.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a reader looks whether it is to pass the stream on.
const POLL_MS: u8 = 20;
/// Orders that wait for the control thread.
const MAX_ORDERS: usize = 64;
/// A user's name or a key in an order. No key that a gateway gives is longer.
const MAX_WORDS: usize = u8::MAX as usize;

const DURABLE: u8 = b'D';
const NOT_RECORDED: u8 = b'N';
const KILL: u8 = b'K';
const CANCEL: u8 = b'C';
const RELOAD: u8 = b'R';

/// What the gateway that took over asks of the sessions that go on in the one it replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// End one session, which `by` wants.
    Kill {
        session: SessionId,
        by: String,
    },
    Cancel(Cancel),
    /// Read the configuration again.
    Reload,
}

/// What a client asks for that wants a session cancelled: of this agent, process and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cancel {
    pub(crate) cgroup_id: u64,
    pub(crate) uid: u32,
    pub(crate) process: u32,
    pub(crate) key: Vec<u8>,
}

/// The gateway that took over, as the one that it replaced records through it.
pub(crate) struct Successor {
    stream: UnixStream,
    /// True: what was sent is durable. Closed with the stream.
    answers: mpsc::Receiver<bool>,
}

impl Successor {
    /// Starts the thread that reads what comes back. The orders' channel closes when the other gateway is gone.
    pub(crate) fn new(stream: UnixStream) -> io::Result<(Self, tokio::sync::mpsc::Receiver<Order>)> {
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut reading = stream.try_clone()?;
        let (answered, answers) = mpsc::channel();
        let (ordered, orders) = tokio::sync::mpsc::channel(MAX_ORDERS);
        std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
            while let Ok(word) = Word::read(&mut reading) {
                let is_heard = match word {
                    Word::Answer(durable) => answered.send(durable).is_ok(),
                    // Any agent can ask for these: of too many some are lost, and no answer waits behind them.
                    Word::Order(order @ Order::Cancel(_)) => {
                        !matches!(ordered.try_send(order), Err(TrySendError::Closed(_)))
                    }
                    Word::Order(order) => ordered.blocking_send(order).is_ok(),
                };
                if !is_heard {
                    return;
                }
            }
        })?;
        Ok((Self { stream, answers }, orders))
    }

    /// Sends records; returns when they are durable, if that is asked.
    fn send(&mut self, payloads: &[u8], durably: bool) -> Result<Sent, RecordError> {
        let lost = |error: &io::Error| RecordError::io("sending records to the gateway that took over", error);
        self.stream.write_all(payloads).map_err(|error| lost(&error))?;
        if !durably {
            return Ok(Sent::OnTheWay);
        }
        self.stream.write_all(&0u32.to_le_bytes()).map_err(|error| lost(&error))?;
        match self.answers.recv_timeout(ANSWER_WITHIN) {
            Ok(true) => Ok(Sent::Durable),
            Ok(false) => Ok(Sent::NotRecorded),
            Err(_) => Err(lost(&io::Error::other("it does not answer"))),
        }
    }
}

impl Drop for Successor {
    /// Ends the reading thread, whose copy of the stream would keep it open.
    fn drop(&mut self) {
        // An error means that the other side has closed it.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

enum Sent {
    OnTheWay,
    Durable,
    NotRecorded,
}

/// The recorder's thread of a gateway that was replaced.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    successor: Successor,
}

impl Forwarder {
    pub(super) fn new(shared: Arc<Shared>, successor: Successor) -> Self {
        Self { shared, successor }
    }

    pub(super) fn run(mut self) {
        let _on_exit = OnExit::new(&self.shared);
        let mut batch = Queue::default();
        loop {
            self.shared.wait_for_work(&mut batch, false);
            let sent = self.successor.send(&batch.payloads, batch.is_urgent_to_sync());
            let result = match sent {
                Ok(Sent::OnTheWay | Sent::Durable) => Ok(()),
                Ok(Sent::NotRecorded) => Err(RecordError::NotTaken),
                Err(error) => {
                    tracing::error!(%error, lost = batch.records(), "recording failed: everything that must be recorded is denied");
                    self.shared.fail(error.clone());
                    return acknowledge(&mut batch, &Err(error));
                }
            };
            acknowledge(&mut batch, &result);
            if batch.stop {
                return;
            }
            batch.payloads.clear();
        }
    }
}

/// What comes back from the gateway that took over.
enum Word {
    Answer(bool),
    Order(Order),
}

impl Word {
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        Ok(match read_array::<1>(stream)? {
            [DURABLE] => Self::Answer(true),
            [NOT_RECORDED] => Self::Answer(false),
            [RELOAD] => Self::Order(Order::Reload),
            [KILL] => {
                let session = SessionId::from_u64(u64::from_le_bytes(read_array(stream)?));
                let by = read_words(stream)?;
                Self::Order(Order::Kill { session, by: String::from_utf8_lossy(&by).into_owned() })
            }
            [CANCEL] => {
                let cgroup_id = u64::from_le_bytes(read_array(stream)?);
                let (uid, process) = (u32::from_le_bytes(read_array(stream)?), u32::from_le_bytes(read_array(stream)?));
                Self::Order(Order::Cancel(Cancel { cgroup_id, uid, process, key: read_words(stream)? }))
            }
            [_] => return Err(invalid("it says what this version does not know")),
        })
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Answer(true) => vec![DURABLE],
            Self::Answer(false) => vec![NOT_RECORDED],
            Self::Order(Order::Reload) => vec![RELOAD],
            Self::Order(Order::Kill { session, by }) => {
                let mut out = [&[KILL], &session.as_u64().to_le_bytes()[..]].concat();
                put_words(&mut out, by.as_bytes());
                out
            }
            Self::Order(Order::Cancel(Cancel { cgroup_id, uid, process, key })) => {
                let (cgroup_id, uid, process) = (cgroup_id.to_le_bytes(), uid.to_le_bytes(), process.to_le_bytes());
                let mut out = [&[CANCEL], &cgroup_id[..], &uid, &process].concat();
                put_words(&mut out, key);
                out
            }
        }
    }
}

/// A gateway that was replaced and still serves sessions, as the one that took over sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Taken to write: answers and orders must not mix.
    writing: Mutex<()>,
    /// Sessions that it said it has, and those that it recorded since.
    sessions: Mutex<HashSet<SessionId>>,
    passed_on: AtomicBool,
}

/// How the reading of a predecessor's records came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is gone, with or without a last word.
    Ended,
    /// Between two records, since the next gateway takes over.
    PassedOn,
}

impl Predecessor {
    pub(crate) fn new(stream: UnixStream, sessions: impl IntoIterator<Item = SessionId>) -> io::Result<Self> {
        stream.set_read_timeout(Some(STREAM_TIMEOUT))?;
        stream.set_write_timeout(Some(STREAM_TIMEOUT))?;
        let sessions = Mutex::new(sessions.into_iter().collect());
        Ok(Self { stream, writing: Mutex::default(), sessions, passed_on: AtomicBool::new(false) })
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets [`Predecessor::record`] return at the next end of a record.
    pub(crate) fn pass_on(&self) {
        self.passed_on.store(true, Ordering::Release);
    }

    pub(crate) fn order(&self, order: Order) {
        if let Err(error) = self.say(&Word::Order(order)) {
            tracing::warn!(%error, "a gateway that was replaced was not told");
        }
    }

    fn say(&self, word: &Word) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.stream).write_all(&word.encode()).inspect_err(|_| {
            // Half of the word may have gone, and another one would be read as its rest. An error means that it is gone.
            let _ = self.stream.shutdown(Shutdown::Both);
        })
    }

    /// Records what the other gateway sends, until it ends or is passed on. Blocks.
    pub(crate) fn record(&self, recorder: &Recorder) -> Reading {
        let reading = self.record_until_the_end(recorder);
        if reading == Reading::Ended {
            // One that still lives must not take for recorded what it sends from now on. An error means that it does not live.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        reading
    }

    fn record_until_the_end(&self, recorder: &Recorder) -> Reading {
        let mut state = Recorded::default();
        loop {
            let next = self.wait().and_then(|reading| match reading {
                None => self.record_one(recorder, &mut state).map(|()| None),
                reading => Ok(reading),
            });
            match next {
                Ok(None) => {}
                // The next gateway would say that all is durable.
                Ok(Some(Reading::PassedOn)) if state.failed => return Reading::Ended,
                Ok(Some(reading)) => return reading,
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::error!(%error, "a gateway that was replaced cannot be heard any more");
                    }
                    return Reading::Ended;
                }
            }
        }
    }

    /// Until there is something to read, or a reason to read no more.
    fn wait(&self) -> io::Result<Option<Reading>> {
        loop {
            if self.passed_on.load(Ordering::Acquire) {
                return Ok(Some(Reading::PassedOn));
            }
            match poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], POLL_MS) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One record, or the question whether those before it are durable.
    fn record_one(&self, recorder: &Recorder, state: &mut Recorded) -> io::Result<()> {
        let mut stream = &self.stream;
        let length = u32::from_le_bytes(read_array(&mut stream)?) as usize;
        if length == 0 {
            let failed = std::mem::take(&mut state.failed);
            return self.say(&Word::Answer(!failed && recorder.flush_blocking().is_ok()));
        }
        if !(PREFIX_LEN..=MAX_PAYLOAD).contains(&length) {
            return Err(invalid("a record of an impossible length"));
        }
        state.payload.resize(length, 0);
        stream.read_exact(&mut state.payload)?;
        let session = segment::session_of(&state.payload).ok_or_else(|| invalid("a record without its beginning"))?;
        self.sessions().extend(session);
        state.failed |= recorder.append_encoded(&state.payload).is_err();
        Ok(())
    }
}

/// What is kept between two records.
#[derive(Default)]
struct Recorded {
    payload: Vec<u8>,
    /// A record since the last question was not taken: the next answer says so. The recorder itself records the gap.
    failed: bool,
}

/// Bytes behind their number, cut where they are more than it can tell.
fn put_words(out: &mut Vec<u8>, words: &[u8]) {
    let words = &words[..words.len().min(MAX_WORDS)];
    out.push(u8::try_from(words.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(words);
}

fn read_words(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let [length] = read_array(stream)?;
    let mut words = vec![0; usize::from(length)];
    stream.read_exact(&mut words).map(|()| words)
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
