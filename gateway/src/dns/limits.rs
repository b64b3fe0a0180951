//! What one agent may take of the resolver, and how many of its refused queries are told of. Pure: the time is an
//! argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose limits: the cgroup that made it an agent (so that cgroups which it makes below count as one) and the uid.
pub(super) type Holder = (Arc<str>, u32);

/// Queries a second, over time and at once: far above what clients that connect to targets ask, and what a search list
/// makes of it.
const RATE: u32 = 200;
const BURST: u32 = 1000;
/// Queries that wait for an answer from outside at the same time.
const MAX_WAITING: u32 = 64;
/// TCP connections at the same time.
const MAX_CONNECTIONS: u32 = 16;
/// Refused queries that are told of in each window; the others are counted.
const MAX_REFUSALS: u32 = 20;
const REFUSAL_WINDOW: Duration = Duration::from_mins(1);
/// Agents with limits of their own. One more takes the place of one that has nothing under way, or is refused.
const MAX_HOLDERS: usize = 4096;

#[derive(Default)]
pub(super) struct Limits(HashMap<Holder, Uses>);

struct Uses {
    /// Queries that it may still ask at once, as of `last`.
    allowance: f64,
    last: Instant,
    waiting: u32,
    connections: u32,
    refusals: Refusals,
}

struct Refusals {
    since: Instant,
    told: u32,
    untold: u32,
}

/// What is used for a while and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Waiting,
    Connection,
}

impl Limits {
    /// Whether the agent may ask one more query now.
    pub(super) fn query(&mut self, holder: &Holder, now: Instant) -> bool {
        let Some(uses) = self.uses(holder, now) else { return false };
        let since = now.saturating_duration_since(uses.last);
        uses.allowance = since.as_secs_f64().mul_add(f64::from(RATE), uses.allowance).min(f64::from(BURST));
        uses.last = now.max(uses.last);
        let may = uses.allowance >= 1.0;
        if may {
            uses.allowance -= 1.0;
        }
        may
    }

    /// Whether it may have one more of these; if so, it is given back by [`Limits::give_back`].
    pub(super) fn take(&mut self, holder: &Holder, kind: Kind, now: Instant) -> bool {
        let Some(uses) = self.uses(holder, now) else { return false };
        let (count, max) = uses.count(kind);
        let may = *count < max;
        *count += u32::from(may);
        may
    }

    pub(super) fn give_back(&mut self, holder: &Holder, kind: Kind) {
        if let Some(uses) = self.0.get_mut(holder) {
            let (count, _) = uses.count(kind);
            *count = count.saturating_sub(1);
        }
    }

    /// Whether to tell of one more refused query; if so, how many were passed over before.
    pub(super) fn refused(&mut self, holder: &Holder, now: Instant) -> Option<u32> {
        let refusals = &mut self.uses(holder, now)?.refusals;
        if now.saturating_duration_since(refusals.since) >= REFUSAL_WINDOW {
            (refusals.since, refusals.told) = (now, 0);
        }
        if refusals.told >= MAX_REFUSALS {
            refusals.untold = refusals.untold.saturating_add(1);
            return None;
        }
        refusals.told += 1;
        Some(std::mem::take(&mut refusals.untold))
    }

    fn uses(&mut self, holder: &Holder, now: Instant) -> Option<&mut Uses> {
        if self.0.len() >= MAX_HOLDERS && !self.0.contains_key(holder) {
            let idle = self.0.iter().filter(|(_, uses)| uses.waiting == 0 && uses.connections == 0);
            let oldest = idle.min_by_key(|(_, uses)| uses.last).map(|(holder, _)| holder.clone())?;
            self.0.remove(&oldest);
        }
        Some(self.0.entry(holder.clone()).or_insert_with(|| Uses {
            allowance: f64::from(BURST),
            last: now,
            waiting: 0,
            connections: 0,
            refusals: Refusals { since: now, told: 0, untold: 0 },
        }))
    }
}

impl Uses {
    fn count(&mut self, kind: Kind) -> (&mut u32, u32) {
        match kind {
            Kind::Waiting => (&mut self.waiting, MAX_WAITING),
            Kind::Connection => (&mut self.connections, MAX_CONNECTIONS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: usize) -> Holder {
        (format!("agents.slice/coder@{n}.service").into(), 1001)
    }

    #[test]
    fn queries_are_limited_by_time_and_for_each_agent() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let mut asked = |n, at| (0..10_000).filter(|_| limits.query(&holder(n), at)).count();
        assert_eq!(asked(1, start), BURST as usize);
        assert_eq!(asked(2, start), BURST as usize);
        assert_eq!(asked(1, start + Duration::from_secs(1)), RATE as usize);
        assert_eq!(asked(1, start), 0, "a clock that went back gives nothing");
        assert_eq!(asked(1, start + Duration::from_hours(1)), BURST as usize);
    }

    #[test]
    fn what_is_under_way_is_limited_and_given_back() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        for (kind, max) in [(Kind::Waiting, MAX_WAITING), (Kind::Connection, MAX_CONNECTIONS)] {
            assert_eq!((0..1000).filter(|_| limits.take(&holder(1), kind, start)).count(), max as usize);
            assert!(limits.take(&holder(2), kind, start));
            limits.give_back(&holder(1), kind);
            assert!(limits.take(&holder(1), kind, start));
            assert!(!limits.take(&holder(1), kind, start));
        }
    }

    #[test]
    fn agents_with_something_under_way_are_not_displaced() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        for n in 0..MAX_HOLDERS {
            assert!(limits.take(&holder(n), Kind::Waiting, start));
        }
        assert!(!limits.query(&holder(MAX_HOLDERS), start));
        limits.give_back(&holder(7), Kind::Waiting);
        assert!(limits.query(&holder(MAX_HOLDERS), start));
        assert_eq!(limits.0.len(), MAX_HOLDERS);
        assert!(!limits.0.contains_key(&holder(7)));
    }

    #[test]
    fn refusals_are_told_of_at_a_bounded_rate_and_counted() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!((0..100).filter(|_| limits.refused(&holder(1), start).is_some()).count(), 20);
        assert_eq!(limits.refused(&holder(2), start), Some(0));
        assert_eq!(limits.refused(&holder(1), start + REFUSAL_WINDOW), Some(80));
        assert_eq!(limits.refused(&holder(1), start + REFUSAL_WINDOW), Some(0));
    }
}
