//! Looks at processes that connect faster than they can be looked at: whoever waits while the witness is asked about the same
//! process shares the next answer, for which that is asked after all of them had connected.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::WitnessError;
use crate::origin::{Evidence, Origin};

/// What an answer is about: process, user, captured cgroup.
type Key = (u32, u32, u64);

/// The processes that are being looked at. Bounded by what admission lets in at once: each entry has somebody who waits.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<HashMap<Key, Desk>>);

/// Where those that connected from one process wait for each other.
#[derive(Debug, Default)]
struct Desk {
    people: usize,
    last: Arc<tokio::sync::Mutex<Option<Look>>>,
}

#[derive(Debug)]
struct Look {
    begun_at: Instant,
    evidence: Evidence,
}

impl Looks {
    /// What `look` says of the process behind the origin, or said to somebody else, if it began after this call.
    pub(super) async fn evidence<F>(&self, origin: &Origin, look: impl FnOnce() -> F) -> Result<Evidence, WitnessError>
    where
        F: Future<Output = Result<Evidence, WitnessError>>,
    {
        let came_at = Instant::now();
        let (_place, last) = self.place((origin.pid, origin.uid, origin.cgroup_id));
        let mut last = last.lock().await;
        if let Some(look) = &*last
            && look.begun_at > came_at
            && look.evidence.tree.first().is_some_and(|process| origin.is_of_process_begun_at(process.started_at))
        {
            return Ok(look.evidence.clone());
        }
        let begun_at = Instant::now();
        let evidence = look().await?;
        *last = Some(Look { begun_at, evidence: evidence.clone() });
        Ok(evidence)
    }

    fn place(&self, key: Key) -> (Place<'_>, Arc<tokio::sync::Mutex<Option<Look>>>) {
        let mut desks = self.lock();
        let desk = desks.entry(key).or_default();
        desk.people += 1;
        (Place { looks: self, key }, Arc::clone(&desk.last))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody at a desk; the last one takes it away.
struct Place<'a> {
    looks: &'a Looks,
    key: Key,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut desks = self.looks.lock();
        if let Entry::Occupied(mut desk) = desks.entry(self.key) {
            desk.get_mut().people -= 1;
            if desk.get().people == 0 {
                desk.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio::task::JoinSet;

    use super::*;
    use crate::origin::Process;
    use crate::witness::evidence::tests::own_origin;

    fn evidence(started_at: u64) -> Evidence {
        Evidence { tree: vec![Process { started_at, ..Process::default() }], ..Evidence::default() }
    }

    /// So many that connect at once while nobody answers yet; then all are answered. How often it was looked.
    async fn at_once(origins: &[Origin], answer: Result<Evidence, WitnessError>) -> usize {
        let (looks, gate) = (Arc::new(Looks::default()), Arc::new(Semaphore::new(0)));
        let mut waiting = JoinSet::new();
        for origin in origins {
            let (looks, gate) = (Arc::clone(&looks), Arc::clone(&gate));
            let (origin, answer) = (origin.clone(), answer.clone());
            waiting.spawn(async move {
                let look = async || {
                    gate.acquire().await.unwrap().forget();
                    answer.clone()
                };
                assert_eq!(looks.evidence(&origin, look).await, answer);
            });
            tokio::task::yield_now().await;
        }
        gate.add_permits(origins.len());
        while let Some(done) = waiting.join_next().await {
            done.unwrap();
        }
        assert!(looks.lock().is_empty());
        origins.len() - gate.available_permits()
    }

    #[tokio::test]
    async fn who_waits_shares_a_look_that_begins_after_all_have_come() {
        let (_, origin) = own_origin();
        let ten = vec![Origin { connected_at: 7, ..origin.clone() }; 10];
        // The first one's had begun before the others came.
        assert_eq!(at_once(&ten, Ok(evidence(7))).await, 2);
        assert_eq!(at_once(&ten[..1], Ok(evidence(7))).await, 1);
    }

    #[tokio::test]
    async fn nothing_is_shared_with_other_processes_users_and_cgroups() {
        let (_, origin) = own_origin();
        let others = [
            Origin { pid: origin.pid + 1, ..origin.clone() },
            Origin { uid: origin.uid + 1, ..origin.clone() },
            Origin { cgroup_id: origin.cgroup_id + 1, ..origin.clone() },
            origin,
        ];
        assert_eq!(at_once(&others, Ok(evidence(0))).await, 4);
    }

    #[tokio::test]
    async fn neither_errors_are_shared_nor_a_process_that_is_younger_than_the_connect() {
        let (_, origin) = own_origin();
        let five = vec![Origin { connected_at: 7, ..origin }; 5];
        assert_eq!(at_once(&five, Err(WitnessError::Busy)).await, 5);
        assert_eq!(at_once(&five, Ok(evidence(8))).await, 5);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_kept_of_who_left_at_once() {
        let (looks, (_, origin)) = (Arc::new(Looks::default()), own_origin());
        for _ in 0..200 {
            let mut waiting = JoinSet::new();
            for _ in 0..10 {
                let (looks, origin) = (Arc::clone(&looks), origin.clone());
                waiting.spawn(async move { looks.evidence(&origin, async || Ok(evidence(0))).await });
            }
            waiting.join_all().await;
            assert!(looks.lock().is_empty());
        }
    }
}
