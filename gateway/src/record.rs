//! The local recording store: what happened, in a form that proves itself.
//!
//! Segments ([`segment`]) are append-only files of hash-chained records and the only truth. One thread writes them
//! ([`writer`]). The SQLite index ([`index`]) only says where to look; it can be deleted and is made anew. A start after a
//! crash cuts the torn end ([`recover`]) and closes the sessions that the dead gateway left open. [`verify`] proves the chain
//! offline.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::RecordingConfig;
use crate::ids::{OperationId, SessionId};

pub mod denials;
pub mod event;
pub(crate) mod forward;
pub mod index;
mod keep;
pub mod read;
pub mod recover;
pub mod segment;
pub mod verify;
pub mod writer;

use denials::Denial;
use event::{Event, GatewayStarted, Record};
use forward::Successor;
use index::{Extent, Filter, Index, SessionRow};
use read::{ReadError, Reader};
pub use writer::{Limits, Recorder};

/// Outcome of sessions that a gateway left open when it died.
pub const GATEWAY_LOST: &str = "gateway lost";
/// Records that are read ahead of who takes them.
const READ_AHEAD: usize = 64;
/// How often the index takes in what was recorded, when nobody asks for it.
const INDEX_EVERY: Duration = Duration::from_secs(1);
/// Held by the one gateway that writes to a directory.
const LOCK: &str = "lock";

/// Why something could not be recorded or read back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{what}: {error}")]
    Io { what: String, error: Arc<io::Error> },
    #[error("the disk of the recordings is full; make space there")]
    DiskFull,
    #[error("another gateway writes to {0}; stop it first, or configure another directory")]
    InUse(PathBuf),
    #[error("the recorder has stopped")]
    Stopped,
    #[error("the gateway that took over cannot record")]
    NotTaken,
    #[error("too many records wait to be written")]
    QueueFull,
    #[error("a record of {0} bytes is too large")]
    TooLarge(usize),
    #[error("a record could not be encoded: {0}")]
    Encode(String),
    #[error("a record could not be read: {0}")]
    Decode(String),
    #[error("the index: {0}")]
    Index(Arc<rusqlite::Error>),
    #[error("the index has layout {0}, which this version does not know")]
    IndexLayout(i64),
    #[error("there is no session {0}")]
    UnknownSession(SessionId),
    #[error("there is no operation {0}")]
    UnknownOperation(OperationId),
}

impl RecordError {
    fn io(what: &str, error: &io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::DiskFull;
        }
        let copy =
            error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        Self::Io { what: what.to_owned(), error: Arc::new(copy) }
    }
}

impl From<rusqlite::Error> for RecordError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(Arc::new(error))
    }
}

/// A session's records as they are read. Dropped early, the reading ends.
#[derive(Debug)]
pub struct Records(tokio::sync::mpsc::Receiver<Result<Record, RecordError>>);

impl Records {
    /// The next record; None after the last.
    pub async fn next(&mut self) -> Result<Option<Record>, RecordError> {
        self.0.recv().await.transpose()
    }
}

/// The store of a running gateway.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    recorder: Recorder,
    writer: Mutex<Option<JoinHandle<()>>>,
    index: Arc<Mutex<Index>>,
    ownership: Mutex<Option<Ownership>>,
}

/// What only the one gateway has that writes to the directory.
#[derive(Debug)]
struct Ownership {
    indexer: JoinHandle<()>,
    /// Dropped to end the indexer.
    indexing: mpsc::Sender<()>,
    /// Kept open: it holds the lock.
    _lock: File,
}

impl Store {
    /// Opens or makes the store: cuts a torn end, brings the index up to date, starts the writer, records the start and
    /// closes the sessions that were left open, but for those `living` in a gateway that this one replaces. Blocks; call it
    /// before anything is served.
    pub fn open(
        config: &RecordingConfig,
        limits: Limits,
        started: GatewayStarted,
        living: &HashSet<SessionId>,
    ) -> Result<Self, RecordError> {
        let directory = config.directory.clone();
        std::fs::create_dir_all(&directory)
            .map_err(|error| RecordError::io(&format!("making {}", directory.display()), &error))?;
        let lock = lock(&directory)?;
        let mut recovered = recover::recover(&directory)?;
        let mut index = Index::open(&directory)?;
        if !index.fits(&directory)? {
            recovered.findings.push(format!(
                "the index remembers {} records and a last one that the segments do not have: the log was cut or rewritten",
                index.position()?.sequence
            ));
            index = Index::anew(&directory)?;
        }
        index.catch_up(&directory, recovered.tail.next_sequence)?;
        let lost = index.lost_sessions(&directory, |id| !living.contains(&id))?;
        let (recorder, writer) = Recorder::start(&directory, recovered.tail, limits)?;
        for reason in recovered.findings {
            tracing::warn!(%reason, "the recordings were not as a clean end leaves them; `weir verify` tells more");
            recorder.append_now(&Event::Gap { reason });
        }
        recorder.append_now(&Event::GatewayStarted(started));
        for closed in lost {
            recorder.append_now(&Event::SessionClosed(closed));
        }
        let index = Arc::new(Mutex::new(index));
        let (indexing, until) = mpsc::channel();
        let indexer = Indexer { directory: directory.clone(), recorder: recorder.clone(), index: Arc::clone(&index) };
        let indexer = std::thread::Builder::new()
            .name("indexer".to_owned())
            .spawn(move || indexer.run(&until))
            .map_err(|error| RecordError::io("starting the indexer's thread", &error))?;
        let ownership = Mutex::new(Some(Ownership { indexer, indexing, _lock: lock }));
        let store = Self { directory, recorder, writer: Mutex::new(Some(writer)), index, ownership };
        store.sweep(config)?;
        Ok(store)
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Deletes what is older or more than the configuration keeps. Blocks.
    pub fn sweep(&self, config: &RecordingConfig) -> Result<(), RecordError> {
        keep::sweep(&self.directory, &self.recorder, config)
    }

    /// Sessions, newest first.
    pub async fn sessions(&self, filter: Filter) -> Result<Vec<SessionRow>, RecordError> {
        self.query(move |index, _| index.sessions(&filter)).await
    }

    /// What was denied, newest first.
    pub async fn denials(&self, filter: Filter) -> Result<Vec<Denial>, RecordError> {
        self.query(move |index, _| index.denials(&filter)).await
    }

    /// All records of one session, in order, as they were recorded up to now.
    pub async fn records(&self, id: SessionId) -> Result<Records, RecordError> {
        let extents = self.query(move |index, _| index.extents(id)).await?;
        if extents.is_empty() {
            return Err(RecordError::UnknownSession(id));
        }
        let (records, receiver) = tokio::sync::mpsc::channel(READ_AHEAD);
        let directory = self.directory.clone();
        // Without the index's lock: whoever reads may be slow.
        tokio::task::spawn_blocking(move || {
            for extent in extents {
                match each_of_extent(&directory, extent, id, &records) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return,
                    Err(error) => {
                        // Nobody takes it any more: then nobody misses it.
                        let _ = records.blocking_send(Err(error));
                        return;
                    }
                }
            }
        });
        Ok(Records(receiver))
    }

    /// The records of one operation, after the one of how its session began.
    pub async fn operation(&self, id: OperationId) -> Result<Vec<Record>, RecordError> {
        let mut records = self.records(id.session).await?;
        let mut found = Vec::new();
        while let Some(record) = records.next().await? {
            let begins = matches!(record.event, Event::SessionOpened(_) | Event::ConnectionRefused(_));
            if begins || record.event.operation() == Some(id) {
                found.push(record);
            }
        }
        // Operation 0 is the connection itself, which may have been refused.
        let is_known = id.sequence == 0 || found.iter().any(|record| record.event.operation().is_some());
        if is_known { Ok(found) } else { Err(RecordError::UnknownOperation(id)) }
    }

    /// The number that the next approval gets.
    pub fn next_approval_number(&self) -> Result<u64, RecordError> {
        lock_of(&self.index).next_approval_number()
    }

    /// Runs a query over everything that was recorded before the call.
    async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Index, &Path) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        // A failed writer must not hide what was recorded before.
        if let Err(error) = self.recorder.flush().await {
            tracing::debug!(%error, "reading without a flush");
        }
        let (index, directory, durable) = (Arc::clone(&self.index), self.directory.clone(), self.recorder.durable());
        blocking(move || {
            let mut index = lock_of(&index);
            catch_up(&mut index, &directory, durable);
            ask(&index, &directory)
        })
        .await
    }

    /// Records the stop, writes what is queued and ends the threads. Blocks.
    pub fn close(&self, reason: &str) {
        self.recorder.append_now(&Event::GatewayStopped { reason: reason.to_owned() });
        self.recorder.stop();
        self.join_writer();
        self.give_up();
    }

    /// Makes durable what was recorded, and gives the directory up to another gateway. Records are taken on, and wait for
    /// [`Store::forward`]. Blocks.
    ///
    /// # Errors
    /// Recording has failed; so has every record from now on.
    pub(crate) fn release(&self) -> Result<(), RecordError> {
        self.recorder.release();
        self.join_writer();
        self.give_up();
        self.recorder.health()
    }

    /// Records through the gateway that took over.
    pub(crate) fn forward(&self, successor: Successor) -> Result<(), RecordError> {
        let writer = self.recorder.forward(successor);
        let writer = writer.map_err(|error| RecordError::io("starting the recorder's thread", &error))?;
        *lock_of(&self.writer) = Some(writer);
        Ok(())
    }

    /// Nobody records for this gateway any more, if the directory was given up and no other gateway took over.
    pub(crate) fn abandon(&self) {
        if lock_of(&self.writer).is_none() {
            self.recorder.abandon();
        }
    }

    /// Closes those of these sessions that are still open: the gateway that had them is gone. Returns how many. Blocks.
    pub(crate) fn close_lost(&self, sessions: &HashSet<SessionId>) -> Result<usize, RecordError> {
        self.recorder.flush_blocking()?;
        let lost = {
            let mut index = lock_of(&self.index);
            index.catch_up(&self.directory, self.recorder.durable())?;
            index.lost_sessions(&self.directory, |id| sessions.contains(&id))?
        };
        Ok(lost.into_iter().map(|closed| self.recorder.append_now(&Event::SessionClosed(closed))).count())
    }

    fn join_writer(&self) {
        let writer = lock_of(&self.writer).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the recorder's thread panicked");
        }
    }

    /// Ends what only the owner of the directory does. No other gateway writes before the lock is gone.
    fn give_up(&self) {
        let Some(Ownership { indexer, indexing, _lock }) = lock_of(&self.ownership).take() else { return };
        drop(indexing);
        if indexer.join().is_err() {
            tracing::error!("the indexer's thread panicked");
        }
        catch_up(&mut lock_of(&self.index), &self.directory, self.recorder.durable());
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Store {
    fn drop(&mut self) {
        self.recorder.stop();
    }
}

/// Brings the index up to date now and then, so that the first question after a busy day need not wait for it.
struct Indexer {
    directory: PathBuf,
    recorder: Recorder,
    index: Arc<Mutex<Index>>,
}

impl Indexer {
    fn run(self, until: &mpsc::Receiver<()>) {
        let mut done = 0;
        while until.recv_timeout(INDEX_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            let durable = self.recorder.durable();
            if durable != done {
                catch_up(&mut lock_of(&self.index), &self.directory, durable);
                done = durable;
            }
        }
    }
}

/// Brings the index up to date. What it cannot take in now it does not show; the segments have it.
fn catch_up(index: &mut Index, directory: &Path, durable: u64) {
    let Err(error) = index.catch_up(directory, durable) else { return };
    tracing::warn!(%error, "the index is behind the recordings");
    if error.is_damaged_index() {
        match Index::anew(directory) {
            Ok(anew) => *index = anew,
            Err(error) => tracing::warn!(%error, "the index could not be made anew"),
        }
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
) -> Result<T, RecordError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(RecordError::Stopped))
}

/// Sends a session's records in one extent; breaks when nobody takes them any more.
fn each_of_extent(
    directory: &Path,
    extent: Extent,
    id: SessionId,
    records: &tokio::sync::mpsc::Sender<Result<Record, RecordError>>,
) -> Result<ControlFlow<()>, RecordError> {
    let path = segment_path(directory, extent.segment);
    let failed = |error: ReadError| RecordError::Decode(format!("{}: {error}", path.display()));
    let mut reader = match Reader::open(&path) {
        // Deleted by retention since the index was asked.
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
        opened => opened.map_err(failed)?,
    };
    reader.seek(extent.first).map_err(|error| failed(error.into()))?;
    while let Some(frame) = reader.next(None).map_err(failed)? {
        let is_last = frame.offset >= extent.last;
        if frame.prefix.session == id.as_u64() && records.blocking_send(Ok(frame.decode()?)).is_err() {
            return Ok(ControlFlow::Break(()));
        }
        if is_last {
            break;
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Keeps a second gateway away from the directory until the file is closed.
fn lock(directory: &Path) -> Result<File, RecordError> {
    let path = directory.join(LOCK);
    let failed = |error: &io::Error| RecordError::io(&format!("locking {}", path.display()), error);
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RecordError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.segment"))
}

/// Numbers of the segments in the directory, ascending.
fn segment_numbers(directory: &Path) -> Result<Vec<u64>, RecordError> {
    let failed = |error: io::Error| RecordError::io(&format!("reading {}", directory.display()), &error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".segment")).and_then(|name| name.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests;
