//! Asks the host's own resolver (getaddrinfo, so hosts file and all), in threads, a bounded number at a time.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// A client waits no longer for an answer; its own patience is about 5 s.
const TIMEOUT: Duration = Duration::from_secs(2);
/// getaddrinfo cannot be told to stop: so many threads may be stuck in it.
const MAX_LOOKUPS: usize = 32;
/// Agents that ask at the same time share an answer. Much shorter than any TTL.
const SHARED: Duration = Duration::from_secs(2);

pub(super) struct Lookup {
    running: Arc<Semaphore>,
    /// Its keys are names of targets only, so the configuration bounds it.
    recent: Arc<Mutex<Recent>>,
}

type Recent = HashMap<String, (Instant, Vec<IpAddr>)>;

impl Default for Lookup {
    fn default() -> Self {
        Self { running: Arc::new(Semaphore::new(MAX_LOOKUPS)), recent: Arc::default() }
    }
}

impl Lookup {
    /// The addresses of a target's name; None where there are none to be had in time.
    pub(super) async fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Some((at, addresses)) = lock(&self.recent).get(name)
            && at.elapsed() < SHARED
        {
            return Some(addresses.clone());
        }
        tokio::time::timeout(TIMEOUT, self.ask(name.to_owned())).await.ok().flatten()
    }

    /// Forgets what no configured name needs any more.
    pub(super) fn clear(&self) {
        lock(&self.recent).clear();
    }

    async fn ask(&self, name: String) -> Option<Vec<IpAddr>> {
        let permit = Arc::clone(&self.running).acquire_owned().await.ok()?;
        let recent = Arc::clone(&self.recent);
        let asked = tokio::task::spawn_blocking(move || {
            // Given back when the thread is free again, however long nobody has been waiting for it.
            let _permit = permit;
            let found = (name.as_str(), 0).to_socket_addrs();
            let mut addresses: Vec<IpAddr> = match found {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(error) => {
                    tracing::debug!(name, %error, "a target's name cannot be resolved");
                    return None;
                }
            };
            let mut seen = std::collections::HashSet::new();
            addresses.retain(|address| seen.insert(*address));
            lock(&recent).insert(name, (Instant::now(), addresses.clone()));
            Some(addresses)
        });
        asked.await.ok().flatten()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
