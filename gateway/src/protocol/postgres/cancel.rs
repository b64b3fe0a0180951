//! Cancelling what runs: PostgreSQL's clients do it over a connection of its own, by a key that they got at start-up.
//!
//! The gateway hands out keys of its own beside the target's number of the process, which clients compare with that of
//! notifications. It knows for each whose session it is: only the agent that opened a session can cancel in it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::upstream::{self, Endpoint, UpstreamError};
use super::wire;
use crate::origin::Origin;
use crate::record::forward::Cancel;

/// Sessions that have a key; more than the gateway serves.
const MAX_KEYS: usize = 2 * crate::live::MAX_SESSIONS;
/// In protocol 3.2 keys have this size: PostgreSQL 18's own (MAX_CANCEL_KEY_LENGTH).
const LONG_KEY: usize = 32;

/// What proves that who wants a session cancelled is who opened it.
pub(super) struct Key(Box<[u8]>);

impl Key {
    /// A key by chance, as long as this minor version of the protocol has it.
    pub(super) fn new(minor: u16) -> io::Result<Self> {
        let mut key = vec![0; if minor < 2 { wire::KEY } else { LONG_KEY }];
        crate::engine::random(&mut key)?;
        Ok(Self(key.into()))
    }
}

/// The keys of all live sessions.
#[derive(Default)]
pub(super) struct Keys {
    live: Mutex<Live>,
}

/// By the target's number of the process, which several targets may give at once.
#[derive(Default)]
struct Live {
    count: usize,
    entries: HashMap<u32, Vec<Arc<Entry>>>,
}

/// What a cancel request for one session does.
struct Entry {
    key: Key,
    cgroup_id: u64,
    uid: u32,
    endpoint: Endpoint,
    process: u32,
    target_key: Vec<u8>,
    waiting: Arc<Waiting>,
}

/// How a session that waits for people, and has nothing running at the target, hears that it is cancelled.
#[derive(Default)]
pub(super) struct Waiting {
    holds: AtomicBool,
    cancelled: Notify,
}

/// A session's key; its end takes it back.
pub(super) struct Handle {
    keys: Arc<Keys>,
    entry: Arc<Entry>,
}

impl Waiting {
    /// Waits for a cancel request. What came before the wait does not count.
    pub(super) async fn cancelled(&self) {
        let woken = self.cancelled.notified();
        self.holds.store(true, Ordering::Release);
        let _resting = Resting(&self.holds);
        woken.await;
    }
}

struct Resting<'a>(&'a AtomicBool);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// All keys are taken.
#[derive(Debug, thiserror::Error)]
#[error("too many sessions are open")]
pub(super) struct Full;

impl Keys {
    /// Gives a session its key: before the client hears of it.
    pub(super) fn issue(
        self: &Arc<Self>,
        origin: &Origin,
        endpoint: Endpoint,
        (process, target_key): (u32, Vec<u8>),
        key: Key,
    ) -> Result<Handle, Full> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.count >= MAX_KEYS {
            return Err(Full);
        }
        let waiting = Arc::new(Waiting::default());
        let (cgroup_id, uid) = (origin.cgroup_id, origin.uid);
        let entry = Arc::new(Entry { key, cgroup_id, uid, endpoint, process, target_key, waiting });
        live.entries.entry(process).or_default().push(Arc::clone(&entry));
        live.count += 1;
        drop(live);
        Ok(Handle { keys: Arc::clone(self), entry })
    }

    fn find(&self, wanted: &Cancel) -> Option<Arc<Entry>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |entry: &&Arc<Entry>| {
            equal_in_constant_time(&entry.key.0, &wanted.key)
                && entry.cgroup_id == wanted.cgroup_id
                && entry.uid == wanted.uid
        };
        live.entries.get(&wanted.process)?.iter().find(is_meant).cloned()
    }

    /// Does what a cancel request asks for; false if it is nobody's, or another agent's.
    pub(super) async fn cancel(&self, wanted: &Cancel) -> Result<bool, UpstreamError> {
        let Some(entry) = self.find(wanted) else { return Ok(false) };
        if entry.waiting.holds.load(Ordering::Acquire) {
            entry.waiting.cancelled.notify_waiters();
        } else {
            upstream::cancel(&entry.endpoint, entry.process, &entry.target_key).await?;
        }
        Ok(true)
    }
}

impl Handle {
    /// What the client is told: the process, and the key.
    pub(super) fn told(&self) -> (u32, &[u8]) {
        (self.entry.process, &self.entry.key.0)
    }

    pub(super) fn waiting(&self) -> Arc<Waiting> {
        Arc::clone(&self.entry.waiting)
    }

    pub(super) fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.entry))
    }
}

/// Cancels what runs at the target of one session.
#[derive(Clone)]
pub(super) struct Canceller(Arc<Entry>);

impl Canceller {
    pub(super) async fn cancel(self) -> Result<(), UpstreamError> {
        upstream::cancel(&self.0.endpoint, self.0.process, &self.0.target_key).await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut live = self.keys.live.lock().unwrap_or_else(PoisonError::into_inner);
        let process = self.entry.process;
        let Some(entries) = live.entries.get_mut(&process) else { return };
        entries.retain(|entry| !Arc::ptr_eq(entry, &self.entry));
        if entries.is_empty() {
            live.entries.remove(&process);
        }
        live.count -= 1;
    }
}

/// Equal, in a time that does not tell where they differ.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(cgroup_id: u64, uid: u32) -> Origin {
        let address = "127.0.0.1:1".parse().unwrap();
        Origin {
            pid: 1,
            uid,
            gid: uid,
            cgroup_id,
            socket_cgroup_id: cgroup_id,
            netns_cookie: 1,
            connected_at: 1,
            started_at: None,
            destination: address,
            source: address,
        }
    }

    #[test]
    fn only_the_agent_with_the_key_finds_the_session() {
        let keys = Arc::new(Keys::default());
        let endpoint = Endpoint { address: "127.0.0.1:1".parse().unwrap(), tls: None };
        let issue =
            |key: &[u8]| keys.issue(&origin(7, 1000), endpoint.clone(), (42, vec![1]), Key(key.into())).unwrap();
        let (first, second) = (issue(&[1; 4]), issue(&[2; LONG_KEY]));
        assert_eq!((first.told(), second.told()), ((42, &[1; 4][..]), (42, &[2; LONG_KEY][..])), "of two servers");
        let is_found = |cgroup_id, uid, process, key: &[u8]| {
            keys.find(&Cancel { cgroup_id, uid, process, key: key.to_vec() }).is_some()
        };
        for (cgroup_id, uid, process, key, expected) in [
            (7, 1000, 42, &[1; 4][..], true),
            (7, 1000, 42, &[2; LONG_KEY], true),
            (7, 1000, 42, &[2; 4], false),
            (8, 1000, 42, &[1; 4], false),
            (7, 1001, 42, &[1; 4], false),
            (7, 1000, 42, &[3; 4], false),
            (7, 1000, 42, &[1; 3], false),
            (7, 1000, 43, &[1; 4], false),
        ] {
            assert_eq!(is_found(cgroup_id, uid, process, key), expected, "{cgroup_id} {uid} {process} {key:?}");
        }
        drop(first);
        assert!(!is_found(7, 1000, 42, &[1; 4]));
        assert!(is_found(7, 1000, 42, &[2; LONG_KEY]));
        drop(second);
        assert!(keys.live.lock().unwrap().entries.is_empty());
    }

    #[test]
    fn keys_are_by_chance_and_as_long_as_the_version_has_them() {
        let lengths = [0, 1, 2].map(|minor| Key::new(minor).unwrap().0.len());
        assert_eq!(lengths, [4, 4, 32]);
        assert_ne!(Key::new(2).unwrap().0, Key::new(2).unwrap().0);
    }
}
