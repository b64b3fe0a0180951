//! How long verdicts take: counted over all sessions since the gateway began, for `weir status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Steps between a power of two and the next one: a time is told up to a sixteenth of itself.
const STEPS_LOG2: u32 = 4;
const STEPS: usize = 1 << STEPS_LOG2;
/// From 16 ns on, to 78 hours.
const OCTAVES: usize = 44;
const BUCKETS: usize = OCTAVES * STEPS;

/// How many verdicts took how long.
#[derive(Debug)]
pub struct VerdictTimes([AtomicU64; BUCKETS]);

/// Of all verdicts so far. Times are in nanoseconds, from the whole request to what becomes of it; where people were asked, no time was
/// taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictSummary {
    pub count: u64,
    /// As long, and no longer, took half of them.
    pub median_ns: u64,
    /// And 99 in 100.
    pub p99_ns: u64,
}

impl Default for VerdictTimes {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl VerdictTimes {
    pub fn count(&self, took: Duration) {
        let bucket = bucket_of(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        // Nothing else depends on it.
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// None before the first one.
    pub fn summary(&self) -> Option<VerdictSummary> {
        let counts = self.0.each_ref().map(|it| it.load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        let among = |share: u64| {
            let rank = count.saturating_mul(share).div_ceil(100);
            let mut so_far = 0;
            counts.iter().position(|it| {
                so_far += it;
                so_far >= rank
            })
        };
        if count == 0 {
            return None;
        }
        Some(VerdictSummary { count, median_ns: longest_in(among(50)?), p99_ns: longest_in(among(99)?) })
    }
}

fn bucket_of(ns: u64) -> usize {
    let ns = ns.max(1 << STEPS_LOG2);
    let octave = ns.ilog2() - STEPS_LOG2;
    // Less than twice the steps.
    let step = usize::try_from(ns >> octave).unwrap_or(STEPS) - STEPS;
    (octave as usize * STEPS + step).min(BUCKETS - 1)
}

/// The longest time that is counted in a bucket.
fn longest_in(bucket: usize) -> u64 {
    let next = ((STEPS + bucket % STEPS + 1) as u64) << (bucket / STEPS);
    next - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_up_to_a_sixteenth() {
        for ns in [16, 17, 31, 32, 33, 999, 1000, 1023, 1024, 2_900, 3_000, 123_456_789, 10_u64.pow(14)] {
            let told = longest_in(bucket_of(ns));
            assert!(ns <= told && told <= ns + ns / 16, "{ns} {told}");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn half_of_them_and_nearly_all() {
        let times = VerdictTimes::default();
        assert_eq!(times.summary(), None);
        for _ in 0..98 {
            times.count(Duration::from_nanos(900));
        }
        times.count(Duration::from_micros(40));
        times.count(Duration::from_millis(9));
        let summary = times.summary().unwrap();
        assert_eq!((summary.count, summary.median_ns, summary.p99_ns), (100, 927, 40_959));
    }
}
