//! The gateway's ears in the network namespaces of agents: opened when an agent is seen in one, closed when the last one has
//! left it.
//!
//! The witness looks, and its usher opens the sockets; here is when to ask. A look follows each change of agents' cgroups,
//! each sign of life from an unknown namespace (what it sends is held by the kernel half meanwhile), and each second.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::intercept::{DeniedEvent, Doors, Interceptor};
use crate::record::event::Event;
use crate::shards::Ears;
use crate::witness::{Namespace, NamespaceLook, Witness};

/// Processes in unknown namespaces that wait to be looked at; more are found by the next look.
const HINTS: usize = 64;
/// After a change: a process that has just been put into a cgroup often enters its namespace only a moment later. The last one is
/// the time between two looks when nothing changes.
const NEXT_LOOKS: [Duration; 6] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(120),
    Duration::from_millis(300),
    Duration::from_secs(1),
];
/// Between two looks, whatever happens.
const PAUSE: Duration = Duration::from_millis(5);

/// Namespaces from which something is held; of more it is recorded at once that they are refused.
const MAX_HELD: usize = 1024;
/// The kernel has given a held connect up by then.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Tells of what comes from namespaces that the kernel half does not know.
#[derive(Clone)]
pub(crate) struct Hints(mpsc::Sender<DeniedEvent>);

impl Hints {
    pub(crate) fn new() -> (Self, mpsc::Receiver<DeniedEvent>) {
        let (sender, receiver) = mpsc::channel(HINTS);
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, held: DeniedEvent) {
        // A full queue is a look that is due anyway.
        let _ = self.0.try_send(held);
    }
}

/// What is held, the first of each namespace: where the gateway does not come to listen, that is a refusal, and recorded.
#[derive(Default)]
struct Held(HashMap<u64, (Instant, DeniedEvent)>);

impl Held {
    /// What is not to be waited for comes back.
    fn add(&mut self, event: DeniedEvent) -> Option<DeniedEvent> {
        // A socket alone is not refused anything.
        if event.origin.destination.port() == 0 || self.0.contains_key(&event.origin.netns_cookie) {
            return None;
        }
        if self.0.len() >= MAX_HELD {
            return Some(event);
        }
        self.0.insert(event.origin.netns_cookie, (Instant::now(), event));
        None
    }

    fn in_vain(&mut self) -> impl Iterator<Item = DeniedEvent> {
        self.0.extract_if(|_, (since, _)| since.elapsed() >= HELD_FOR).map(|(_, (_, event))| event)
    }
}

/// The namespaces in which the gateway listens, by their cookies.
pub(crate) struct Places(HashMap<u64, Open>);

impl Places {
    /// Listens where another gateway did before. On the runtime of this moment: whatever comes next, they are here to be left to
    /// the next gateway.
    pub(crate) fn taken_over(
        before: Vec<Namespace>,
        engine: &Arc<Engine>,
        interceptor: &Interceptor,
        witness: &Witness,
        ears: &Ears,
    ) -> Self {
        let listening =
            |namespace: Namespace| (namespace.cookie, listen(engine, interceptor, witness, ears, namespace));
        Self(before.into_iter().map(listening).collect())
    }

    /// The same sockets, for the gateway that takes over. Nothing listens on them from now on, and nothing closes them.
    pub(crate) fn leave(self) -> Vec<(u64, [OwnedFd; Doors::COUNT])> {
        self.0.into_iter().filter_map(|(cookie, mut open)| Some((cookie, open.copies.take()?))).collect()
    }
}

/// What listens in one namespace.
struct Open {
    tasks: Vec<AbortHandle>,
    copies: Option<[OwnedFd; Doors::COUNT]>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Listens wherever agents are, for as long as it is polled.
pub(crate) async fn listen_where_agents_are(
    engine: &Arc<Engine>,
    interceptor: &Interceptor,
    witness: &Witness,
    ears: &Ears,
    mut hints: mpsc::Receiver<DeniedEvent>,
    Places(open): &mut Places,
) {
    let mut held = Held::default();
    let mut looks = NEXT_LOOKS.into_iter();
    let mut pids = Vec::new();
    let mut failing = false;
    loop {
        let look = witness.namespaces(std::mem::take(&mut pids), open.keys().copied().collect()).await;
        if look.is_err() != failing {
            failing = look.is_err();
            if let Err(error) = &look {
                tracing::error!(%error, "network namespaces that are not known yet stay closed");
            } else {
                tracing::info!("network namespaces can be looked at again");
            }
        }
        let NamespaceLook { opened, left } = look.unwrap_or_default();
        for cookie in left {
            tracing::debug!(netns = cookie, "the last agent left a network namespace");
            open.remove(&cookie);
        }
        if let Some(namespace) = opened {
            tracing::info!(netns = namespace.cookie, "listening in another network namespace");
            held.0.remove(&namespace.cookie);
            open.insert(namespace.cookie, listen(engine, interceptor, witness, ears, namespace));
            continue;
        }
        record(engine, held.in_vain()).await;
        sleep(PAUSE).await;
        let next = looks.next().unwrap_or(NEXT_LOOKS[NEXT_LOOKS.len() - 1]);
        let mut events = Vec::new();
        tokio::select! {
            () = sleep(next) => continue,
            () = witness.cgroups_changed() => {}
            received = hints.recv_many(&mut events, HINTS) => {
                if received == 0 {
                    return;
                }
            }
        }
        looks = NEXT_LOOKS.into_iter();
        pids.extend(events.iter().map(|event| event.origin.pid));
        // The kernel half may have told of it before the last look.
        events.retain(|event| !open.contains_key(&event.origin.netns_cookie));
        let refused: Vec<_> = events.into_iter().filter_map(|event| held.add(event)).collect();
        record(engine, refused).await;
    }
}

async fn record(engine: &Engine, refused: impl IntoIterator<Item = DeniedEvent>) {
    for event in refused {
        if let Err(error) = engine.recorder().append(Event::from(event.refused())).await {
            tracing::error!(%error, "a refusal was not recorded");
        }
    }
}

fn listen(
    engine: &Arc<Engine>,
    interceptor: &Interceptor,
    witness: &Witness,
    ears: &Ears,
    namespace: Namespace,
) -> Open {
    let copies = namespace.doors.copies();
    if let Err(error) = &copies {
        tracing::warn!(%error, netns = namespace.cookie, "a gateway that replaces this one will not get the listeners there");
    }
    let Doors { listeners, resolvers } = namespace.doors;
    let mut tasks = Vec::from(listeners.map(|listener| ears.listen(listener)));
    for resolver in resolvers {
        let (engine, interceptor, witness) = (Arc::clone(engine), interceptor.clone(), witness.clone());
        let serve = async move { engine.dns().serve_udp(resolver, interceptor, witness).await };
        tasks.push(tokio::spawn(serve).abort_handle());
    }
    Open { tasks, copies: copies.ok() }
}
