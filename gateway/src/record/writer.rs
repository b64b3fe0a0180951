//! The writer: one thread appends what all sessions hand over, and makes it durable for many at once.
//!
//! Producers encode their records and put the bytes into a queue. What must be durable wakes the thread; the rest waits for
//! it, or for a full batch, or for the linger time. One `fdatasync` then acknowledges everything before it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::event::{Event, Record};
use super::segment::{self, HEADER_LEN, Hash, Header, MAX_PAYLOAD, Prefix};
use super::{RecordError, segment_path};

/// Bytes that may wait for the thread; producers wait beyond that.
const MAX_QUEUE: usize = 16 << 20;
/// So many bytes wake the thread by themselves.
const BATCH: usize = 256 << 10;
/// How long a record that nobody waits for may stay in the queue.
const LINGER: Duration = Duration::from_millis(100);
/// How long a written record may stay without `fdatasync`.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// A failed writer tries so often to write again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a segment ends, and what is kept free for the record of a full disk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub segment_bytes: u64,
    pub segment_age: Duration,
    pub reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, segment_age: Duration::from_secs(3600), reserve_bytes: 128 << 20 }
    }
}

/// Where appending goes on after a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Number that the next segment gets.
    pub next_segment: u64,
    pub log: [u8; 16],
    pub next_sequence: u64,
    pub hash: Hash,
}

/// The handle that records events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    space: Notify,
}

type Waiter = oneshot::Sender<Result<(), RecordError>>;

#[derive(Debug, Default)]
struct Queue {
    /// Length (4 bytes, little-endian) and payload, again and again.
    payloads: Vec<u8>,
    waiters: Vec<Waiter>,
    failed: Option<RecordError>,
    stop: bool,
}

impl Recorder {
    /// Starts the thread with a fresh segment.
    pub fn start(directory: &Path, tail: Tail, limits: Limits) -> Result<(Self, JoinHandle<()>), RecordError> {
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), space: Notify::new() });
        let writer = Writer {
            shared: Arc::clone(&shared),
            directory: directory.to_owned(),
            limits,
            segment: Segment::create(directory, tail)?,
            reserve: directory.join("reserve"),
            frames: Vec::new(),
            synced: Instant::now(),
        };
        writer.keep_reserve().map_err(|error| RecordError::io("reserving space for a full disk", &error))?;
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| RecordError::io("starting the recorder's thread", &error))?;
        Ok((Self(shared), thread))
    }

    /// Returns when the record, and all before it, are durable.
    ///
    /// # Errors
    /// It is not: the caller must not go on with what the record is about.
    pub async fn append_durable(&self, event: Event) -> Result<(), RecordError> {
        let payload = encode(event)?;
        let (waiter, done) = oneshot::channel();
        self.push(&payload, Some(waiter)).await?;
        done.await.unwrap_or(Err(RecordError::Stopped))
    }

    /// Hands the record over; durable within about a second. Waits while the queue is full.
    pub async fn append(&self, event: Event) -> Result<(), RecordError> {
        self.push(&encode(event)?, None).await
    }

    /// For `Drop`, where nothing can wait: hands the record over even if the queue is full by now.
    pub fn append_now(&self, event: Event) {
        match encode(event) {
            Ok(payload) => {
                let mut queue = self.0.lock();
                if queue.failed.is_none() {
                    queue.put(&payload);
                }
            }
            Err(error) => tracing::error!(%error, "a record was lost"),
        }
    }

    /// Makes durable what was handed over before the call.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (waiter, done) = oneshot::channel();
        {
            let mut queue = self.0.lock();
            queue.check()?;
            queue.waiters.push(waiter);
        }
        self.0.work.notify_one();
        done.await.unwrap_or(Err(RecordError::Stopped))
    }

    /// Whether records are taken now.
    pub fn health(&self) -> Result<(), RecordError> {
        self.0.lock().check()
    }

    /// Writes what is queued and ends the thread.
    pub fn stop(&self) {
        self.0.lock().stop = true;
        self.0.work.notify_one();
    }

    async fn push(&self, payload: &[u8], mut waiter: Option<Waiter>) -> Result<(), RecordError> {
        loop {
            let room = self.0.space.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut queue = self.0.lock();
                queue.check()?;
                if queue.payloads.len() + payload.len() <= MAX_QUEUE {
                    queue.put(payload);
                    let urgent = waiter.is_some() || queue.payloads.len() >= BATCH;
                    queue.waiters.extend(waiter.take());
                    drop(queue);
                    if urgent {
                        self.0.work.notify_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn check(&self) -> Result<(), RecordError> {
        match (&self.failed, self.stop) {
            (Some(error), _) => Err(error.clone()),
            (None, true) => Err(RecordError::Stopped),
            (None, false) => Ok(()),
        }
    }

    fn put(&mut self, payload: &[u8]) {
        // `encode` refuses what does not fit.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.payloads.extend_from_slice(&length.to_le_bytes());
        self.payloads.extend_from_slice(payload);
    }
}

fn encode(event: Event) -> Result<Vec<u8>, RecordError> {
    let prefix = Prefix { notable: event.is_notable(), session: event.session().map_or(0, |id| id.as_u64()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record { at_unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), event };
    let mut payload = Vec::with_capacity(512);
    payload.extend_from_slice(&prefix.encode());
    rmp_serde::encode::write_named(&mut payload, &record).map_err(|error| RecordError::Encode(error.to_string()))?;
    if payload.len() > MAX_PAYLOAD {
        return Err(RecordError::TooLarge(payload.len()));
    }
    Ok(payload)
}

/// The segment that is being written.
struct Segment {
    file: File,
    /// Bytes that are whole frames; what a failed write left behind lies beyond.
    len: u64,
    opened: Instant,
    tail: Tail,
    records: u64,
}

impl Segment {
    fn create(directory: &Path, tail: Tail) -> Result<Self, RecordError> {
        let path = segment_path(directory, tail.next_segment);
        let failed = |error: io::Error| RecordError::io(&format!("creating {}", path.display()), &error);
        let header = Header {
            segment: tail.next_segment,
            log: tail.log,
            first_sequence: tail.next_sequence,
            previous: tail.hash,
        };
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let written = file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| File::open(directory)?.sync_all()) {
            // Half a header would look like an alteration later.
            let _ = std::fs::remove_file(&path);
            return Err(failed(error));
        }
        let tail = Tail { next_segment: tail.next_segment + 1, ..tail };
        Ok(Self { file, len: HEADER_LEN as u64, opened: Instant::now(), tail, records: 0 })
    }

    fn is_due(&self, limits: &Limits) -> bool {
        self.records > 0 && (self.len >= limits.segment_bytes || self.opened.elapsed() >= limits.segment_age)
    }
}

struct Writer {
    shared: Arc<Shared>,
    directory: PathBuf,
    limits: Limits,
    segment: Segment,
    /// A file that only takes space: given up when the disk is full, so that this can be recorded.
    reserve: PathBuf,
    frames: Vec<u8>,
    synced: Instant,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        let mut waiters = Vec::new();
        loop {
            let stop = self.wait_for_work(&mut batch, &mut waiters);
            self.shared.space.notify_waiters();
            match self.commit(&batch, !waiters.is_empty() || stop) {
                Ok(()) => {
                    waiters.drain(..).for_each(|waiter| _ = waiter.send(Ok(())));
                    self.recover();
                }
                Err(error) => {
                    tracing::error!(%error, "recording failed: everything that must be recorded is denied");
                    waiters.drain(..).for_each(|waiter| _ = waiter.send(Err(error.clone())));
                    self.fail(error);
                    self.recover();
                }
            }
            batch.clear();
            if stop {
                return;
            }
        }
    }

    /// Takes what is queued, when somebody waits for it, when it is much, or when it has lain long enough.
    fn wait_for_work(&self, batch: &mut Vec<u8>, waiters: &mut Vec<Waiter>) -> bool {
        let idle = |queue: &mut Queue| queue.waiters.is_empty() && queue.payloads.len() < BATCH && !queue.stop;
        let (mut queue, _) = self
            .shared
            .work
            .wait_timeout_while(self.shared.lock(), LINGER, idle)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.payloads, batch);
        std::mem::swap(&mut queue.waiters, waiters);
        queue.stop
    }

    /// Writes a batch; durable if asked for, or if it is time.
    fn commit(&mut self, batch: &[u8], durable: bool) -> Result<(), RecordError> {
        if !batch.is_empty() {
            if self.segment.is_due(&self.limits) {
                self.rotate()?;
            }
            self.write(batch)?;
        }
        if durable || self.synced.elapsed() >= SYNC_AFTER {
            self.segment.file.sync_data().map_err(|error| RecordError::io("making records durable", &error))?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    fn write(&mut self, batch: &[u8]) -> Result<(), RecordError> {
        self.frames.clear();
        let (mut hash, mut records) = (self.segment.tail.hash, 0);
        let mut rest = batch;
        while let Some((length, after)) = rest.split_first_chunk() {
            let (payload, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            hash = segment::append_frame(&mut self.frames, &hash, payload);
            records += 1;
            rest = after;
        }
        match self.segment.file.write_all_at(&self.frames, self.segment.len) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => self.write_into_reserve(&error)?,
            result => result.map_err(|error| RecordError::io("writing records", &error))?,
        }
        self.segment.len += self.frames.len() as u64;
        self.segment.records += records;
        self.segment.tail.next_sequence += records;
        self.segment.tail.hash = hash;
        Ok(())
    }

    /// The disk is full: gives the reserve up, so that the records at hand and the failure itself are kept, and takes no
    /// more until there is space again.
    fn write_into_reserve(&mut self, error: &io::Error) -> Result<(), RecordError> {
        if std::fs::metadata(&self.reserve).is_err() {
            return Err(RecordError::io("writing records", error));
        }
        let _ = std::fs::remove_file(&self.reserve);
        self.segment
            .file
            .write_all_at(&self.frames, self.segment.len)
            .map_err(|error| RecordError::io("writing records", &error))?;
        tracing::error!("the disk of the recordings is full: what must be recorded is denied until there is space");
        self.shared.lock().failed = Some(RecordError::DiskFull);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), RecordError> {
        self.segment.file.sync_data().map_err(|error| RecordError::io("ending a segment", &error))?;
        self.segment = Segment::create(&self.directory, self.segment.tail)?;
        Ok(())
    }

    fn fail(&mut self, error: RecordError) {
        self.shared.lock().failed = Some(error);
        // What the failed write left is not acknowledged and must not look like a torn record.
        if let Err(error) = self.segment.file.set_len(self.segment.len) {
            tracing::error!(%error, "the torn end of a segment could not be cut; the next start does it");
        }
    }

    /// Tries until records can be written again; records that there is a gap.
    fn recover(&mut self) {
        loop {
            let reason = match &self.shared.lock().failed {
                Some(error) => error.to_string(),
                None => return,
            };
            std::thread::sleep(RETRY_AFTER);
            if self.shared.lock().stop {
                return;
            }
            if self.keep_reserve().is_err() {
                continue;
            }
            let gap = encode(Event::Gap { reason }).unwrap_or_default();
            let mut batch = Queue::default();
            batch.put(&gap);
            if self.rotate().and_then(|()| self.commit(&batch.payloads, true)).is_ok() {
                let mut queue = self.shared.lock();
                queue.payloads.clear();
                queue.failed = None;
                tracing::info!("recording works again");
                return;
            }
        }
    }

    /// Takes the space of the reserve, if it is not taken yet.
    fn keep_reserve(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.reserve)?;
        if file.metadata()?.len() >= self.limits.reserve_bytes {
            return Ok(());
        }
        let size = i64::try_from(self.limits.reserve_bytes).unwrap_or(i64::MAX);
        nix::fcntl::posix_fallocate(file.as_fd(), 0, size).map_err(|error| {
            let _ = std::fs::remove_file(&self.reserve);
            error.into()
        })
    }
}
