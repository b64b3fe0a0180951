//! How often agents look rows up by values of masked columns. Whoever may ask without end finds every value by trying.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::TaggedSet;

/// What is counted together.
const WINDOW: Duration = Duration::from_mins(1);
/// Agents times masks that are counted; there are never more than a configuration has.
const MAX_COUNTED: usize = 65_536;

/// The look-ups of all agents.
#[derive(Default)]
pub(super) struct Lookups(Mutex<HashMap<(String, String), Count>>);

struct Count {
    since: Instant,
    taken: u32,
}

impl Lookups {
    /// Counts one look-up by a column, for each of its masks. The error says why it may not be, for people.
    pub(super) fn take(&self, agent: &str, set: &TaggedSet, column: (u32, i16)) -> Result<(), String> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for mask in set.masks(column.0, column.1) {
            let most = mask.lookups_per_minute.unwrap_or(0);
            let key = (agent.to_owned(), mask.name.clone());
            if counts.len() >= MAX_COUNTED && !counts.contains_key(&key) {
                counts.retain(|_, count| now.duration_since(count.since) < WINDOW);
                if counts.len() >= MAX_COUNTED {
                    return Err("too many agents look rows up by masked columns; try again later".to_owned());
                }
            }
            let count = counts.entry(key).or_insert(Count { since: now, taken: 0 });
            if now.duration_since(count.since) >= WINDOW {
                *count = Count { since: now, taken: 0 };
            }
            if count.taken >= most {
                let wait = WINDOW.saturating_sub(now.duration_since(count.since)).as_secs() + 1;
                let (name, mask) = (set.column_name(column), &mask.name);
                return Err(format!(
                    "{name} may be looked up {most} times a minute (mask \"{mask}\"), and was; try again in {wait} seconds"
                ));
            }
            count.taken += 1;
        }
        Ok(())
    }
}
