//! Which settings that the target reports are the client's own words, so that it may hear of them.
//!
//! A setting may hold any text, and code at the target may put any value into one. So a report passes if all that has run can have set
//! nothing but what the client says itself: it comes of a batch of SETs, or of the end of a transaction in which nothing else ran, which
//! takes settings back, and not to what came from elsewhere.

use std::collections::HashSet;

use super::Running;

/// Names that are remembered; with more, no transaction's end tells of any.
const MAX_FOREIGN: usize = 64;

/// What a statement, or a batch, can have set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::protocol::postgres) enum Sets {
    /// What it says.
    Own,
    /// What it says, and what was there before: it may end a transaction.
    Back,
    /// Anything: it may run code.
    #[default]
    Anything,
}

/// What may have been set up to now.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// By what is done of this batch.
    batch: Option<Sets>,
    /// A statement of this transaction may have run code.
    foreign_in_transaction: bool,
    /// Settings that have had a value which was not passed on.
    foreign: HashSet<Vec<u8>>,
}

impl Settings {
    pub(super) fn ran(&mut self, running: &Running) {
        self.batch = self.batch.max(Some(running.sets));
        self.foreign_in_transaction |= running.sets == Sets::Anything;
    }

    /// The target is ready; `ended`: with no transaction open.
    pub(super) fn ready(&mut self, ended: bool) {
        self.batch = None;
        self.foreign_in_transaction &= !ended;
    }

    /// Whether the client may hear of a value that a setting of this name has now. Older servers tell before the statement is done.
    pub(super) fn are_own(&mut self, name: &[u8], running: Option<&Running>) -> bool {
        let own = match self.batch.max(running.map(|it| it.sets)) {
            Some(Sets::Own) => true,
            Some(Sets::Back) => {
                !self.foreign_in_transaction && self.foreign.len() < MAX_FOREIGN && !self.foreign.contains(name)
            }
            Some(Sets::Anything) | None => false,
        };
        if !own && self.foreign.len() < MAX_FOREIGN {
            self.foreign.insert(name.to_vec());
        }
        own
    }
}
