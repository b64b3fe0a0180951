//! Who is being admitted: connections between their accept and their session, or their refusal.
//!
//! Admission costs a round with the witness, a token's verification and a record on disk. Each origin (a cgroup and a user of
//! it) has so many under way at once and so many that wait; one agent that connects without end waits for itself, and what
//! is beyond is reset. Refusals of that kind are recorded so many a second, with the number of those that were not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who connects: a cgroup's ID and a user's.
pub type Key = (u64, u32);

/// Connections of one origin that are admitted at once; the rest wait for their turn.
const AT_ONCE: usize = 64;
/// Connections of one origin that are not sessions yet, under way, waiting, or being told that they are refused.
const MAX_OF_ONE: usize = 512;
/// The same of all origins, of those without one too.
const MAX_OF_ALL: usize = 4_096;
/// Records of connections that were reset, within [`RECORD_PERIOD`].
const RECORDS: u32 = 10;
const RECORD_PERIOD: Duration = Duration::from_secs(1);

/// Counts connections that are not sessions yet.
#[derive(Debug, Default)]
pub struct Admission {
    inside: Mutex<Inside>,
    resets: Mutex<Resets>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    of: HashMap<Key, Share>,
}

#[derive(Debug)]
struct Share {
    count: usize,
    turns: Arc<Semaphore>,
}

/// Which resets are recorded.
#[derive(Debug, Default)]
struct Resets {
    since: Option<Instant>,
    recorded: u32,
    passed_over: u64,
}

/// A connection's place, given up when it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    key: Key,
    turns: Arc<Semaphore>,
}

/// Too many connections of this origin, or of all, are not sessions yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    #[error("{MAX_OF_ONE} connections of this agent wait to be admitted already; connect more slowly")]
    One,
    #[error("{MAX_OF_ALL} connections wait to be admitted already; try again later")]
    All,
}

impl Admission {
    /// A place for a connection, if there is one.
    pub fn enter(self: &Arc<Self>, key: Key) -> Result<Place, Crowded> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.all >= MAX_OF_ALL {
            return Err(Crowded::All);
        }
        let share =
            inside.of.entry(key).or_insert_with(|| Share { count: 0, turns: Arc::new(Semaphore::new(AT_ONCE)) });
        if share.count >= MAX_OF_ONE {
            return Err(Crowded::One);
        }
        share.count += 1;
        let turns = Arc::clone(&share.turns);
        inside.all += 1;
        Ok(Place { admission: Arc::clone(self), key, turns })
    }

    /// Whether nobody is being admitted.
    pub fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).all == 0
    }

    /// Whether one more reset is recorded now, and how many before it were not.
    pub fn may_record(&self, now: Instant) -> Option<u64> {
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        if resets.since.is_none_or(|since| now.saturating_duration_since(since) >= RECORD_PERIOD) {
            (resets.since, resets.recorded) = (Some(now), 0);
        }
        if resets.recorded >= RECORDS {
            resets.passed_over += 1;
            return None;
        }
        resets.recorded += 1;
        Some(std::mem::take(&mut resets.passed_over))
    }
}

impl Place {
    /// Waits for the turn of this connection among those of its origin, in the order in which they ask. None: never, since the
    /// gateway ends.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.admission.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.all -= 1;
        if let Some(share) = inside.of.get_mut(&self.key) {
            share.count -= 1;
            if share.count == 0 {
                inside.of.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_origin_does_not_take_the_places_of_others() {
        let admission = Arc::new(Admission::default());
        let flood: Vec<Place> = (0..MAX_OF_ONE).map(|_| admission.enter((1, 1000)).unwrap()).collect();
        assert_eq!(admission.enter((1, 1000)).err(), Some(Crowded::One));
        assert!(admission.enter((1, 1001)).is_ok() && admission.enter((2, 1000)).is_ok());
        drop(flood);
        assert!(admission.enter((1, 1000)).is_ok());
        let inside = admission.inside.lock().unwrap();
        assert!(inside.all == 0 && inside.of.is_empty());
    }

    #[test]
    fn all_origins_together_have_so_many_places() {
        let admission = Arc::new(Admission::default());
        let enter = |number: usize| admission.enter((number as u64, 0));
        let crowd: Vec<Place> = (0..MAX_OF_ALL).map(|number| enter(number).unwrap()).collect();
        assert_eq!(enter(MAX_OF_ALL).err(), Some(Crowded::All));
        drop(crowd);
        assert!(enter(0).is_ok());
    }

    #[tokio::test]
    async fn connections_of_one_origin_take_turns() {
        let admission = Arc::new(Admission::default());
        let places: Vec<Place> = (0..=AT_ONCE).map(|_| admission.enter((1, 1)).unwrap()).collect();
        let mut turns = Vec::new();
        for place in &places[..AT_ONCE] {
            turns.push(place.turn().await.unwrap());
        }
        let next = places[AT_ONCE].turn();
        tokio::pin!(next);
        assert!(is_pending(next.as_mut()).await);
        // Another origin does not wait.
        assert!(admission.enter((2, 1)).unwrap().turn().await.is_some());
        turns.pop();
        assert!(next.await.is_some());
    }

    async fn is_pending<F: Future + Unpin>(mut future: F) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(cx).is_pending())).await
    }

    #[test]
    fn so_many_resets_are_recorded_and_the_rest_counted() {
        let admission = Admission::default();
        let begin = Instant::now();
        assert!((0..RECORDS).all(|_| admission.may_record(begin) == Some(0)));
        assert!((0..7).all(|_| admission.may_record(begin).is_none()));
        assert_eq!(admission.may_record(begin + RECORD_PERIOD), Some(7));
        assert_eq!(admission.may_record(begin + RECORD_PERIOD), Some(0));
    }
}
