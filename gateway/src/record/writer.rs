//! The writer: one thread appends what all sessions hand over, and makes it durable for many at once.
//!
//! Producers encode their records and put the bytes into a queue. What must be durable wakes the thread at once; the rest
//! waits for it, for a full batch, or for the linger time. One `fdatasync` then acknowledges everything before it.
//!
//! When a write fails, the recorder has failed: every producer gets an error, and denies. What was not durable by then is
//! cut off, so that the files never hold what a producer was told is not recorded. The thread goes on trying, and when it
//! can write again it records the gap and then takes records again, in a new segment.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::event::{self, Event, Recordable};
use super::forward::{Forwarder, Successor};
use super::recover::Tail;
use super::segment::{self, HEADER_LEN, Header, MAX_PAYLOAD};
use super::{RecordError, segment_path};

/// Bytes that may wait for the thread; producers wait beyond that.
const MAX_QUEUE: usize = 16 << 20;
/// What [`Recorder::append_now`] may add to a full queue, and to that of a failed recorder.
const MAX_OVERDRAFT: usize = 4 << 20;
/// So many bytes wake the thread by themselves.
const BATCH: usize = 256 << 10;
/// How long a record that nobody waits for may stay in the queue.
const LINGER: Duration = Duration::from_millis(100);
/// How long a written record may stay without `fdatasync`.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// A failed recorder tries so often to write again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A producer's buffer that had to grow beyond this is not kept.
const KEPT_BUFFER: usize = 256 << 10;
/// Zeros that are written ahead of records: `fdatasync` of what is written over them has neither a length nor blocks to tell
/// the file system of.
const AHEAD: usize = 512 << 10;
static ZEROS: [u8; AHEAD] = [0; AHEAD];
/// File that only takes space; see [`Limits::reserve_bytes`].
const RESERVE: &str = "reserve";

/// When a segment ends, and what is kept free for the record of a full disk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub segment_bytes: u64,
    pub segment_age: Duration,
    pub reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, segment_age: Duration::from_hours(1), reserve_bytes: 128 << 20 }
    }
}

/// The handle that records events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    pub(super) space: Notify,
    /// All records with lower numbers are durable.
    durable: AtomicU64,
}

/// Told when what was queued before it is durable, or why it never will be. Dropped: the writer has ended.
type Waiter = Box<dyn FnOnce(Result<(), RecordError>) + Send>;

#[derive(Default)]
pub(super) struct Queue {
    /// Length (4 bytes, little-endian) and payload, again and again.
    pub(super) payloads: Vec<u8>,
    waiters: Vec<Waiter>,
    failed: Option<RecordError>,
    pub(super) stop: bool,
    /// The thread is to write what is queued, and to leave the rest to another one (see [`Recorder::release`]).
    release: bool,
}

impl Recorder {
    /// Starts the thread with a fresh segment.
    pub fn start(directory: &Path, tail: Tail, limits: Limits) -> Result<(Self, JoinHandle<()>), RecordError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            space: Notify::new(),
            durable: AtomicU64::new(tail.next_sequence),
        });
        let reserve = Reserve { path: directory.join(RESERVE), bytes: limits.reserve_bytes };
        reserve.keep().map_err(|error| RecordError::io("reserving space for a full disk", &error))?;
        let writer = Writer {
            shared: Arc::clone(&shared),
            directory: directory.to_owned(),
            limits,
            segment: Segment::create(directory, tail)?,
            reserve,
            frames: Vec::new(),
            synced_at: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| RecordError::io("starting the recorder's thread", &error))?;
        Ok((Self(shared), thread))
    }

    /// Makes durable what is queued and ends the thread. Records are taken as before; they wait for [`Recorder::forward`].
    pub(super) fn release(&self) {
        self.0.lock().release = true;
        self.0.work.notify_one();
    }

    /// Goes on where a released thread has ended: what is queued is recorded by another gateway.
    pub(super) fn forward(&self, successor: Successor) -> io::Result<JoinHandle<()>> {
        self.0.lock().release = false;
        let forwarder = Forwarder::new(Arc::clone(&self.0), successor);
        std::thread::Builder::new().name("recorder".to_owned()).spawn(move || forwarder.run())
    }

    /// Ends the waits of everybody where a released thread has ended, and no other one goes on.
    pub(super) fn abandon(&self) {
        drop(OnExit::new(&self.0));
    }

    /// Hands over a record that was encoded by another gateway: the payload of a frame, see [`segment`]. Waits while the queue
    /// is full; for threads that may block.
    ///
    /// # Errors
    /// It is not recorded, as after [`Recorder::append`].
    pub(super) fn append_encoded(&self, payload: &[u8]) -> Result<(), RecordError> {
        while !self.0.try_put(payload, &mut None)? {
            self.flush_blocking()?;
        }
        Ok(())
    }

    /// [`Recorder::flush`] for threads that may block.
    pub(super) fn flush_blocking(&self) -> Result<(), RecordError> {
        let (waiter, done) = std::sync::mpsc::sync_channel(1);
        self.0.lock().wait(Box::new(move |result| _ = waiter.send(result)))?;
        self.0.work.notify_one();
        done.recv().unwrap_or(Err(RecordError::Stopped))
    }

    /// Returns when the record, and all before it, are durable.
    ///
    /// # Errors
    /// It is not: the caller must not go on with what the record is about.
    pub async fn append_durable(&self, event: impl Recordable) -> Result<(), RecordError> {
        let (waiter, done) = oneshot::channel();
        let waiter: Waiter = Box::new(|result| _ = waiter.send(result));
        self.push(event, Some(waiter)).await?;
        done.await.unwrap_or(Err(RecordError::Stopped))
    }

    /// [`Recorder::append_durable`] for threads that may block.
    pub fn append_durable_blocking(&self, event: &Event) -> Result<(), RecordError> {
        let (waiter, done) = std::sync::mpsc::sync_channel(1);
        let waiter: Waiter = Box::new(move |result| _ = waiter.send(result));
        with_payload(event, |payload| {
            let mut queue = self.0.lock();
            queue.check()?;
            queue.put(payload, Some(waiter));
            Ok(())
        })?;
        self.0.work.notify_one();
        done.recv().unwrap_or(Err(RecordError::Stopped))
    }

    /// Hands the record over; durable within about a second. Waits while the queue is full.
    pub async fn append(&self, event: impl Recordable) -> Result<(), RecordError> {
        self.push(event, None).await
    }

    /// For `Drop`, where nothing can wait: hands the record over even if the queue is full by now or the recorder has failed;
    /// then it is written when that is possible again.
    pub fn append_now(&self, event: &Event) {
        let handed_over = with_payload(event, |payload| {
            let mut queue = self.0.lock();
            if queue.stop {
                return Err(RecordError::Stopped);
            }
            if queue.payloads.len() + payload.len() > MAX_QUEUE + MAX_OVERDRAFT {
                return Err(RecordError::QueueFull);
            }
            if queue.put(payload, None) {
                self.0.work.notify_one();
            }
            Ok(())
        });
        if let Err(error) = handed_over {
            tracing::error!(%error, event = event.name(), "a record was lost");
        }
    }

    /// Makes durable what was handed over before the call.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (waiter, done) = oneshot::channel();
        self.0.lock().wait(Box::new(|result| _ = waiter.send(result)))?;
        self.0.work.notify_one();
        done.await.unwrap_or(Err(RecordError::Stopped))
    }

    /// All records with lower numbers are durable.
    pub fn durable(&self) -> u64 {
        self.0.durable.load(Ordering::Acquire)
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

    async fn push(&self, event: impl Recordable, mut waiter: Option<Waiter>) -> Result<(), RecordError> {
        let put = with_payload(&event, |payload| self.0.try_put(payload, &mut waiter))?;
        if put {
            return Ok(());
        }
        let payload = with_payload(&event, |payload| Ok(payload.to_vec()))?;
        drop(event);
        loop {
            let room = self.0.space.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.0.try_put(&payload, &mut waiter)? {
                return Ok(());
            }
            room.await;
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is queued: when somebody waits for it, when it is much, or when it has lain long enough. `dirty`: the caller has
    /// something to finish, and does not want to sleep for good.
    pub(super) fn wait_for_work(&self, batch: &mut Queue, dirty: bool) {
        let mut queue = self.lock();
        let idle = |queue: &mut Queue| !dirty && queue.payloads.is_empty() && !queue.is_urgent();
        queue = self.work.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        let lingering = |queue: &mut Queue| !queue.is_urgent();
        (queue, _) = self.work.wait_timeout_while(queue, LINGER, lingering).unwrap_or_else(PoisonError::into_inner);
        queue.take(batch);
        drop(queue);
        self.space.notify_waiters();
    }

    /// Nothing is recorded any more.
    pub(super) fn fail(&self, error: RecordError) {
        self.lock().failed = Some(error);
    }

    /// False: the queue is full.
    fn try_put(&self, payload: &[u8], waiter: &mut Option<Waiter>) -> Result<bool, RecordError> {
        let mut queue = self.lock();
        queue.check()?;
        if queue.payloads.len() + payload.len() > MAX_QUEUE {
            return Ok(false);
        }
        let wake = queue.put(payload, waiter.take());
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        Ok(true)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("bytes", &self.payloads.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
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

    fn wait(&mut self, waiter: Waiter) -> Result<(), RecordError> {
        self.check()?;
        self.waiters.push(waiter);
        Ok(())
    }

    /// Returns whether the thread has to be woken: somebody waits, there is much to do, or it may be asleep for good.
    fn put(&mut self, payload: &[u8], waiter: Option<Waiter>) -> bool {
        let was_empty = self.payloads.is_empty();
        // `with_payload` refuses what does not fit.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.payloads.extend_from_slice(&length.to_le_bytes());
        self.payloads.extend_from_slice(payload);
        let waits = waiter.is_some();
        self.waiters.extend(waiter);
        waits || was_empty || self.payloads.len() >= BATCH
    }

    /// Whether the thread must not wait any longer.
    fn is_urgent(&self) -> bool {
        self.stop || self.release || !self.waiters.is_empty() || self.payloads.len() >= BATCH
    }
}

/// Encodes an event into this thread's buffer.
fn with_payload<T>(
    event: &impl Recordable,
    use_it: impl FnOnce(&[u8]) -> Result<T, RecordError>,
) -> Result<T, RecordError> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // Taken, not borrowed: nothing that happens in `use_it` can find it in use.
    let mut buffer = BUFFER.take();
    buffer.clear();
    buffer.extend_from_slice(&event.prefix(unix_ns()).encode());
    let used = event::encode(event, &mut buffer).and_then(|()| {
        if buffer.len() > MAX_PAYLOAD { Err(RecordError::TooLarge(buffer.len())) } else { use_it(&buffer) }
    });
    if buffer.capacity() <= KEPT_BUFFER {
        BUFFER.set(buffer);
    }
    used
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The segment that is being written.
struct Segment {
    file: File,
    opened: Instant,
    /// Bytes and chain so far, and what of it is durable.
    written: End,
    synced: End,
    /// Up to where the file goes; behind what is written there are zeros.
    zeroed: u64,
    /// Then nobody knows what of the difference reached the disk, and no later `fdatasync` tells.
    sync_failed: bool,
}

/// A place between two frames. Its tail is where the next segment would go on.
#[derive(Clone, Copy)]
struct End {
    len: u64,
    tail: Tail,
}

impl Segment {
    fn create(directory: &Path, tail: Tail) -> Result<Self, RecordError> {
        let path = segment_path(directory, tail.next_segment);
        let failed = |error: io::Error| RecordError::io(&format!("creating {}", path.display()), &error);
        let header = Header {
            segment: tail.next_segment,
            host: tail.host,
            log: tail.log,
            first_sequence: tail.next_sequence,
            created_unix_ns: unix_ns(),
            previous: tail.hash,
        };
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let written = file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| File::open(directory)?.sync_all()) {
            // Half a header would look like an alteration later. If this fails too, the next try says so.
            let _ = std::fs::remove_file(&path);
            return Err(failed(error));
        }
        let tail = Tail { next_segment: tail.next_segment + 1, hash: header.hash(), ..tail };
        let end = End { len: HEADER_LEN as u64, tail };
        Ok(Self { file, opened: Instant::now(), written: end, synced: end, zeroed: end.len, sync_failed: false })
    }

    fn is_due(&self, limits: &Limits) -> bool {
        self.written.len > HEADER_LEN as u64
            && (self.written.len >= limits.segment_bytes || self.opened.elapsed() >= limits.segment_age)
    }

    fn is_dirty(&self) -> bool {
        self.written.len > self.synced.len
    }

    /// Number of the next record.
    fn next_sequence(&self) -> u64 {
        self.written.tail.next_sequence
    }

    /// Makes frames of queued payloads, the first of which follows `written`.
    fn frame(&self, payloads: &mut [u8], frames: &mut Vec<u8>) -> End {
        let mut tail = self.written.tail;
        let durable = self.synced.tail.next_sequence;
        frames.clear();
        let mut rest = payloads;
        while let Some((length, after)) = rest.split_first_chunk_mut() {
            let (payload, after) = after.split_at_mut(u32::from_le_bytes(*length) as usize);
            segment::seal(payload, tail.next_sequence, tail.next_sequence - durable);
            tail.hash = segment::append_frame(frames, &tail.hash, payload);
            tail.next_sequence += 1;
            rest = after;
        }
        End { len: self.written.len + frames.len() as u64, tail }
    }

    fn write(&mut self, frames: &[u8], end: End) -> io::Result<()> {
        self.file.write_all_at(frames, self.written.len)?;
        if end.len > self.zeroed {
            // Only a help: on a full disk what is written has the last word.
            let zeroed = self.file.write_all_at(&ZEROS, end.len).map(|()| end.len + AHEAD as u64);
            self.zeroed = zeroed.unwrap_or(end.len);
        }
        self.written = end;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.sync_failed = synced.is_err();
        synced.map(|()| self.synced = self.written)
    }

    /// Gives back the space that nothing was written to. What was written is durable.
    fn give_back(&self) {
        if let Err(error) = self.file.set_len(self.written.len) {
            tracing::debug!(%error, "up to {AHEAD} zeros stay behind a segment's end");
        }
    }

    /// Cuts off what a failed write left behind, and all that may not be durable after a failed `fdatasync`.
    fn revert(&mut self) -> io::Result<()> {
        let kept = if self.sync_failed { self.synced } else { self.written };
        self.file.set_len(kept.len)?;
        let synced = self.file.sync_all();
        self.sync_failed = synced.is_err();
        self.zeroed = kept.len;
        synced.map(|()| (self.written, self.synced) = (kept, kept))
    }
}

/// Space for the last words: a file that is given up when the disk is full, so that this can be recorded.
struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Takes the space, if it is not taken yet.
    fn keep(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() >= self.bytes {
            return Ok(());
        }
        let size = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        nix::fcntl::posix_fallocate(file.as_fd(), 0, size).map_err(|error| {
            // A part of it must not take space that records may need.
            let _ = self.release();
            error.into()
        })
    }

    fn release(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

struct Writer {
    shared: Arc<Shared>,
    directory: PathBuf,
    limits: Limits,
    segment: Segment,
    reserve: Reserve,
    frames: Vec<u8>,
    synced_at: Instant,
}

/// Ends the waits of everybody when the thread ends, by a panic too, unless another one goes on.
pub(super) struct OnExit {
    shared: Arc<Shared>,
    pub(super) released: bool,
}

impl OnExit {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), released: false }
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let mut queue = self.shared.lock();
        queue.failed.get_or_insert(RecordError::Stopped);
        queue.stop = true;
        queue.waiters.clear();
        drop(queue);
        self.shared.space.notify_waiters();
    }
}

impl Writer {
    fn run(mut self) {
        let mut on_exit = OnExit::new(&self.shared);
        let mut batch = Queue::default();
        loop {
            self.shared.wait_for_work(&mut batch, self.segment.is_dirty());
            let first = self.segment.next_sequence();
            match self.commit(&mut batch) {
                Ok(()) => acknowledge(&mut batch, &Ok(())),
                Err(error) => {
                    let lost = self.fail(&error, &mut batch, first);
                    if self.recover(&error, lost).is_err() {
                        return;
                    }
                }
            }
            if batch.stop || batch.release {
                if !self.segment.is_dirty() {
                    self.segment.give_back();
                }
                on_exit.released = batch.release;
                return;
            }
            batch.payloads.clear();
        }
    }

    /// Writes a batch; durable if asked for, or if it is time.
    fn commit(&mut self, batch: &mut Queue) -> Result<(), RecordError> {
        if !batch.payloads.is_empty() {
            if self.segment.is_due(&self.limits) {
                self.rotate()?;
            }
            self.write(batch)?;
        }
        let due = batch.is_urgent_to_sync() || self.synced_at.elapsed() >= SYNC_AFTER;
        if due && self.segment.is_dirty() { self.sync() } else { Ok(()) }
    }

    fn write(&mut self, batch: &mut Queue) -> Result<(), RecordError> {
        let end = self.segment.frame(&mut batch.payloads, &mut self.frames);
        self.segment.write(&self.frames, end).map_err(|error| RecordError::io("writing records", &error))
    }

    fn sync(&mut self) -> Result<(), RecordError> {
        self.segment.sync().map_err(|error| RecordError::io("making records durable", &error))?;
        self.synced_at = Instant::now();
        self.shared.durable.store(self.segment.next_sequence(), Ordering::Release);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), RecordError> {
        self.sync()?;
        self.segment.give_back();
        self.segment = Segment::create(&self.directory, self.segment.written.tail)?;
        Ok(())
    }

    /// Takes no more records. Those at hand, from number `first` on, are written into the reserve, if a full disk is what is
    /// wrong; otherwise everybody who waits is told. Returns how many are lost.
    fn fail(&mut self, error: &RecordError, batch: &mut Queue, first: u64) -> u64 {
        tracing::error!(%error, "recording failed: everything that must be recorded is denied");
        {
            // What was queued while the batch was written belongs to it: its producers were not told of a failure.
            let mut queue = self.shared.lock();
            queue.failed = Some(error.clone());
            batch.payloads.append(&mut queue.payloads);
            batch.waiters.append(&mut queue.waiters);
        }
        self.shared.space.notify_waiters();
        let at_hand = batch.records();
        let synced = self.segment.synced.tail.next_sequence;
        let earlier = if self.segment.sync_failed { first - synced } else { 0 };
        if matches!(error, RecordError::DiskFull) {
            match self.use_reserve(batch) {
                Ok(()) => return earlier,
                Err(error) => tracing::error!(%error, "the reserve does not help"),
            }
        }
        acknowledge(batch, &Err(error.clone()));
        if let Err(error) = self.revert() {
            tracing::error!(%error, "will be tried again");
        }
        earlier + at_hand
    }

    /// Gives the reserve up to write the records at hand, and that the disk is full.
    fn use_reserve(&mut self, batch: &mut Queue) -> Result<(), RecordError> {
        self.reserve.release().map_err(|error| RecordError::io("giving the reserve up", &error))?;
        self.revert()?;
        let reason = "the disk is full: from here on no more records were taken".to_owned();
        batch.put_event(&Event::Gap { reason })?;
        self.write(batch)?;
        self.sync()?;
        acknowledge(batch, &Ok(()));
        Ok(())
    }

    fn revert(&mut self) -> Result<(), RecordError> {
        self.segment.revert().map_err(|error| RecordError::io("cutting off what is not durable", &error))
    }

    /// Tries until records can be written again.
    ///
    /// # Errors
    /// The gateway stops before.
    fn recover(&mut self, error: &RecordError, lost: u64) -> Result<(), RecordError> {
        loop {
            if self.pause() {
                return Err(RecordError::Stopped);
            }
            if self.try_again(error, lost).is_ok() {
                self.shared.lock().failed = None;
                tracing::info!("recording works again");
                return Ok(());
            }
        }
    }

    /// Sleeps until it is time to try again; true if the thread has to end.
    fn pause(&self) -> bool {
        let running = |queue: &mut Queue| !queue.stop && !queue.release;
        let queue = self.shared.lock();
        let (queue, _) =
            self.shared.work.wait_timeout_while(queue, RETRY_AFTER, running).unwrap_or_else(PoisonError::into_inner);
        queue.stop || queue.release
    }

    fn try_again(&mut self, error: &RecordError, lost: u64) -> Result<(), RecordError> {
        self.revert()?;
        self.reserve.keep().map_err(|error| RecordError::io("reserving space for a full disk", &error))?;
        self.segment = Segment::create(&self.directory, self.segment.synced.tail)?;
        let mut batch = Queue::default();
        let reason = format!("records are taken again; {lost} were lost, and others refused: {error}");
        batch.put_event(&Event::Gap { reason })?;
        self.write(&mut batch)?;
        self.sync()
    }
}

impl Queue {
    fn put_event(&mut self, event: &Event) -> Result<(), RecordError> {
        with_payload(event, |payload| {
            self.put(payload, None);
            Ok(())
        })
    }

    /// Moves what is queued into a batch, and keeps the batch's space for what comes next.
    fn take(&mut self, batch: &mut Queue) {
        std::mem::swap(&mut self.payloads, &mut batch.payloads);
        std::mem::swap(&mut self.waiters, &mut batch.waiters);
        (batch.stop, batch.release) = (self.stop, self.release);
    }

    /// How many records there are.
    pub(super) fn records(&self) -> u64 {
        let (mut records, mut rest) = (0, &self.payloads[..]);
        while let Some((length, after)) = rest.split_first_chunk() {
            rest = after.get(u32::from_le_bytes(*length) as usize..).unwrap_or_default();
            records += 1;
        }
        records
    }

    pub(super) fn is_urgent_to_sync(&self) -> bool {
        self.stop || self.release || !self.waiters.is_empty()
    }
}

/// Tells everybody who waits what became of the batch.
pub(super) fn acknowledge(batch: &mut Queue, result: &Result<(), RecordError>) {
    for waiter in batch.waiters.drain(..) {
        waiter(result.clone());
    }
}
