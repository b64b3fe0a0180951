//! The local recording store: what happened, in a form that proves itself.
//!
//! Segments ([`segment`]) are append-only files of hash-chained records and the only truth. One thread writes them
//! ([`writer`]). The SQLite index ([`index`]) only says where to look; it can be deleted and is built anew. A start after a
//! crash cuts the torn end and closes the sessions that the dead gateway left open. [`verify`] proves the chain offline.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::config::RecordingConfig;
use crate::ids::SessionId;

pub mod event;
pub mod index;
mod keep;
pub mod read;
pub mod segment;
pub mod verify;
pub mod writer;

use event::{Event, GatewayStarted, Record, SessionClosed};
use index::{Filter, Index, SessionRow};
pub use writer::{Limits, Recorder};

/// Outcome of sessions that a gateway left open when it died.
pub const GATEWAY_LOST: &str = "gateway lost";

/// Why something could not be recorded or read back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{what}: {error}")]
    Io { what: String, error: Arc<io::Error> },
    #[error("the disk is full; make space in the directory of the recordings")]
    DiskFull,
    #[error("the recorder has stopped")]
    Stopped,
    #[error("a record of {0} bytes is too large")]
    TooLarge(usize),
    #[error("a record could not be encoded: {0}")]
    Encode(String),
    #[error("a record could not be read: {0}")]
    Decode(String),
    #[error("the index: {0}")]
    Index(Arc<rusqlite::Error>),
    #[error("there is no session {0}")]
    UnknownSession(SessionId),
}

impl RecordError {
    fn io(what: &str, error: &io::Error) -> Self {
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

/// The store of a running gateway.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    recorder: Recorder,
    index: Arc<Mutex<Index>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the store: cuts a torn end, brings the index up to date, starts the writer, records the start and
    /// closes the sessions that were left open. Blocks; call it before anything is served.
    pub fn open(config: &RecordingConfig, limits: Limits, started: GatewayStarted) -> Result<Self, RecordError> {
        let directory = config.directory.clone();
        std::fs::create_dir_all(&directory)
            .map_err(|error| RecordError::io(&format!("making {}", directory.display()), &error))?;
        let recovered = read::recover(&directory)?;
        let mut index = Index::open(&directory)?;
        index.catch_up(&directory)?;
        let lost = index.open_sessions()?;
        let (recorder, thread) = Recorder::start(&directory, recovered.tail, limits)?;
        let store = Self { directory, recorder, index: Arc::new(Mutex::new(index)), thread: Mutex::new(Some(thread)) };
        if let Some(reason) = recovered.damage {
            tracing::error!(%reason, "the recordings were altered or damaged; `weir verify` tells more");
            store.recorder.append_now(Event::Gap { reason });
        }
        store.recorder.append_now(Event::GatewayStarted(started));
        for session in lost {
            store.recorder.append_now(Event::SessionClosed(SessionClosed {
                id: session.id,
                outcome: GATEWAY_LOST.to_owned(),
                statements: 0,
                rows: 0,
                cells_masked: 0,
                bytes_up: 0,
                bytes_down: 0,
            }));
        }
        keep::sweep(&store.directory, &store.recorder, config)?;
        Ok(store)
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Deletes what is older or more than the configuration keeps.
    pub fn sweep(&self, config: &RecordingConfig) -> Result<(), RecordError> {
        keep::sweep(&self.directory, &self.recorder, config)
    }

    /// Sessions, newest first.
    pub async fn sessions(&self, filter: Filter) -> Result<Vec<SessionRow>, RecordError> {
        self.query(move |index, _| index.sessions(&filter)).await
    }

    /// All records of one session, in order.
    pub async fn session(&self, id: SessionId) -> Result<Vec<Record>, RecordError> {
        self.query(move |index, directory| {
            let records = index.records(directory, id)?;
            if records.is_empty() { Err(RecordError::UnknownSession(id)) } else { Ok(records) }
        })
        .await
    }

    /// The number that the next approval gets.
    pub fn next_approval_number(&self) -> Result<u64, RecordError> {
        let index = self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        index.next_approval_number()
    }

    /// Runs a query over everything that was recorded before the call. Not on the runtime's thread: it reads files.
    async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Index, &Path) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        // A failed writer must not hide what was recorded before.
        if let Err(error) = self.recorder.flush().await {
            tracing::debug!(%error, "reading without a flush");
        }
        let (index, directory) = (Arc::clone(&self.index), self.directory.clone());
        tokio::task::spawn_blocking(move || {
            let mut index = index.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            index.catch_up(&directory)?;
            ask(&index, &directory)
        })
        .await
        .unwrap_or(Err(RecordError::Stopped))
    }

    /// Records the stop, writes what is queued and ends the writer. Blocks.
    pub fn close(&self, reason: &str) {
        self.recorder.append_now(Event::GatewayStopped { reason: reason.to_owned() });
        self.recorder.stop();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the recorder panicked");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.recorder.stop();
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
