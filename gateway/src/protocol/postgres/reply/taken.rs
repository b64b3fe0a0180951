//! What a client takes of a target's data, and where that ends: rows beyond a limit are dropped, the target is told to cancel
//! the statement, and its error is told as the limit's.

use super::{Fault, Replies, Running};
use crate::mask::{Masked, MaskedBuffer};
use crate::protocol::postgres::wire::{Report, Severity};

const HINT: &str =
    "This is a policy decision, not a fault; do not retry it unchanged: ask for less, with a WHERE or a LIMIT.";

impl Replies<'_> {
    /// Counts a row of so many bytes. False: it is beyond a limit, and the client does not get it.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let Some(running) = super::running_mut(&mut self.expected) else { return true };
        if running.over.is_some() {
            return false;
        }
        for taken in [&mut running.taken, &mut self.taken] {
            taken.rows += 1;
            taken.bytes += bytes as u64;
        }
        running.over = running.allowance.exceeded(running.taken, self.taken);
        self.wants_cancel |= running.over.is_some();
        running.over.is_none()
    }

    /// Whether the running statement is beyond a limit.
    pub(super) fn is_over(&self) -> bool {
        self.running().is_some_and(|running| running.over.is_some())
    }

    /// In the place of the error by which a statement ends that was beyond a limit. False: it was not.
    pub(super) fn tell_limit(&mut self, out: &mut MaskedBuffer) -> bool {
        let Some(running) = super::running_mut(&mut self.expected) else { return false };
        let Some(why) = running.over.take() else { return false };
        running.summary.outcome = format!("ERROR 42501 (ended: {why})");
        let mut report = Vec::new();
        let text = format!("denied by policy: {why}, and the result has more; what came so far is not all of it");
        Report::new(Severity::Error, "42501", text).with_hint(HINT).write(&mut report);
        self.send(&Masked::from_gateway(&report), out);
        true
    }
}

impl Running {
    /// A statement that was beyond a limit must not seem to have been done.
    pub(super) fn must_be_within(&self) -> Result<(), Fault> {
        match &self.over {
            Some(why) => Err(Fault::Limit(why.clone())),
            None => Ok(()),
        }
    }
}
