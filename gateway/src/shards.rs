//! The threads that accept connections and serve them.
//!
//! One thread does nothing but accept, and gives each connection to the shard that has fewest; a shard is a thread with a
//! runtime of its own that serves its connections to their end.
//!
//! Accepting has a thread of its own for the sake of connect(2). On loopback the listener is woken from within the client's
//! connect, as a rule on the client's CPU, and a shard that takes that CPU over keeps the client waiting for as long as it
//! works: that doubled the time of a connect. The accepting thread takes no CPU from anybody who runs (`SCHED_BATCH`).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};

use crate::accept;
use crate::engine::Engine;
use crate::intercept::{self, Ear, Interceptor};

/// A thread that has not turned its loop for this long is hung, and the watchdog is left to bite.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Accepted connections that wait for a shard's thread. When all are full, they wait in the kernel's backlog.
const QUEUE: usize = 256;
/// After an accept error that would repeat at once (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether the last session ended.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// The running threads.
pub(crate) struct Shards {
    threads: Vec<Thread>,
    ears: Ears,
}

/// Accepts at further listeners: those in other network namespaces.
#[derive(Clone)]
pub(crate) struct Ears {
    acceptor: Handle,
    lanes: Arc<Vec<Lane>>,
}

struct Thread {
    handle: JoinHandle<()>,
    runtime: Handle,
    beat: Arc<AtomicU64>,
    last_beat: u64,
}

/// An accepted connection on its way to a shard.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    load: Load,
}

/// Each clone but the first is a connection that the shard has.
type Load = Arc<()>;

/// The way to one shard.
struct Lane {
    queue: mpsc::Sender<Accepted>,
    load: Load,
}

impl Lane {
    fn load(&self) -> usize {
        Arc::strong_count(&self.load)
    }
}

impl Shards {
    /// Starts `count` shards and the thread that accepts for them, until `stopping` says for how long at most sessions that are
    /// open then go on.
    pub(crate) fn start(
        engine: &Arc<Engine>,
        interceptor: &Interceptor,
        listeners: [TcpListener; 2],
        count: usize,
        stopping: watch::Receiver<Option<Duration>>,
    ) -> io::Result<Self> {
        let mut threads = Vec::with_capacity(count + 1);
        let mut lanes = Vec::with_capacity(count);
        for number in 0..count {
            let (queue, accepted) = mpsc::channel(QUEUE);
            lanes.push(Lane { queue, load: Load::default() });
            let (engine, interceptor) = (Arc::clone(engine), interceptor.clone());
            let stopping = stopping.clone();
            let serve = async move { serve(engine, interceptor, accepted, stopping).await };
            threads.push(Thread::start(format!("shard-{number}"), serve)?);
        }
        let lanes = Arc::new(lanes);
        let acceptor = Thread::start("acceptor".to_owned(), accept_all(listeners, Arc::clone(&lanes), stopping))?;
        let ears = Ears { acceptor: acceptor.runtime.clone(), lanes };
        threads.push(acceptor);
        Ok(Self { threads, ears })
    }

    pub(crate) fn ears(&self) -> &Ears {
        &self.ears
    }

    pub(crate) fn any_ended(&self) -> bool {
        self.threads.iter().any(|thread| thread.handle.is_finished())
    }

    /// Whether each thread turned its loop since the last call.
    pub(crate) fn all_beat(&mut self) -> bool {
        // Each is asked: a thread that stands still must not hide what the others did.
        self.threads.iter_mut().map(Thread::beat).fold(true, |all, beat| all & beat)
    }

    pub(crate) fn join(self) {
        let Self { threads, ears } = self;
        // The shards' queues close with the last way to them.
        drop(ears);
        for thread in threads {
            if thread.handle.join().is_err() {
                tracing::error!("a thread panicked");
            }
        }
    }
}

impl Ears {
    /// Accepts on the accepting thread, until the handle aborts it.
    pub(crate) fn listen(&self, listener: TcpListener) -> AbortHandle {
        let lanes = Arc::clone(&self.lanes);
        self.acceptor.spawn(async move { accept_on(listener, &lanes).await }).abort_handle()
    }
}

impl Thread {
    fn start(name: String, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let beat = Arc::new(AtomicU64::new(1));
        let beating = keep_beating(Arc::clone(&beat));
        let own = runtime.handle().clone();
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    () = beating => {}
                }
            });
        })?;
        Ok(Self { handle, runtime: own, beat, last_beat: 0 })
    }

    fn beat(&mut self) -> bool {
        let last = std::mem::replace(&mut self.last_beat, self.beat.load(Ordering::Relaxed));
        self.last_beat != last
    }
}

async fn keep_beating(beat: Arc<AtomicU64>) {
    let mut tick = interval(HEARTBEAT / 2);
    loop {
        tick.tick().await;
        beat.fetch_add(1, Ordering::Relaxed);
    }
}

/// A shard: serves what it is given, until nothing more comes and its sessions have ended.
async fn serve(
    engine: Arc<Engine>,
    interceptor: Interceptor,
    mut queue: mpsc::Receiver<Accepted>,
    stopping: watch::Receiver<Option<Duration>>,
) {
    while let Some(Accepted { stream, peer, load }) = queue.recv().await {
        let (engine, interceptor) = (Arc::clone(&engine), interceptor.clone());
        tokio::spawn(async move {
            accept::connection(engine, interceptor, stream, peer).await;
            drop(load);
        });
    }
    let drained = async {
        // Not at once: what was taken off the queue last has not begun yet.
        tokio::time::sleep(DRAIN_POLL).await;
        while engine.has_sessions() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    let within = stopping.borrow().unwrap_or_default();
    if timeout(within, drained).await.is_err() {
        tracing::warn!("sessions were cut off at the end of the drain time");
    }
}

/// The accepting thread. At its end nothing is accepted any more, in no namespace.
async fn accept_all(
    listeners: [TcpListener; 2],
    lanes: Arc<Vec<Lane>>,
    mut stopping: watch::Receiver<Option<Duration>>,
) {
    if let Err(error) = intercept::take_no_cpu_from_others() {
        tracing::warn!(%error, "connects will take longer: the accepting thread runs like any other");
    }
    let [v4, v6] = listeners;
    tokio::select! {
        () = accept_on(v4, &lanes) => {}
        () = accept_on(v6, &lanes) => {}
        _ = stopping.wait_for(Option::is_some) => {}
    }
}

async fn accept_on(listener: TcpListener, lanes: &[Lane]) {
    let listener = match Ear::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One that stands still with a full queue does not stop the others.
                let Some(lane) = lanes.iter().min_by_key(|lane| (lane.queue.capacity() == 0, lane.load())) else {
                    return;
                };
                let accepted = Accepted { stream, peer, load: Arc::clone(&lane.load) };
                if lane.queue.send(accepted).await.is_err() {
                    return tracing::error!("a shard takes no more connections");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
