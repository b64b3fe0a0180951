//! What a client takes of a target's data, and where that ends: rows beyond a limit are dropped, the target is told to cancel
//! the statement, and its error is told as the limit's. A target that was done before it heard of that is not believed where
//! that can be undone, or only was read.

use std::fmt;

use super::shorten::Shortening;
use super::{Expected, Fault, Replies, Row, Running, transaction_state};
use crate::mask::{Masked, MaskedBuffer};
use crate::protocol::postgres::wire::{MAX_HELD, Report, Severity, TransactionState};

const HINT: &str =
    "This is a policy decision, not a fault; do not retry it unchanged: ask for less, with a WHERE or a LIMIT.";

/// Why a statement must end before its result does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// In the words of the rule.
    Limit(String),
    /// What is shown of a row is too large, or what has to be held to find that out. What is covered does not count.
    Large,
    /// The catalog has not some of its columns yet, or has a mask for one by now.
    Outdated,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(why) => f.write_str(why),
            Self::Outdated => f.write_str(
                "somebody has changed the columns of its tables, and it was not known yet which of them are masked",
            ),
            Self::Large => write!(
                f,
                "a row of the result is too large: on a target with masks each is checked as a whole, and the limit is {MAX_HELD} bytes"
            ),
        }
    }
}

impl Over {
    fn code(&self) -> &'static str {
        match self {
            Self::Limit(_) => "42501",
            Self::Large => "54000",
            // serialization_failure: whoever runs it again gets it.
            Self::Outdated => "40001",
        }
    }

    fn report(&self) -> Report {
        let text = match self {
            Self::Limit(why) => {
                format!("denied by policy: {why}, and the result has more; what came so far is not all of it")
            }
            Self::Large => format!("{self}; what came so far is not all of the result"),
            Self::Outdated => {
                let text = format!("the statement was stopped: {self}");
                return Report::new(Severity::Error, self.code(), text).with_hint("Run it once more.");
            }
        };
        Report::new(Severity::Error, self.code(), text).with_hint(HINT)
    }
}

/// What is left to do about a statement that was done at the target, though to the client it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Undo {
    /// It only read: nothing, if the target says that no transaction is open.
    IfOpen,
    /// The open batch must fail.
    Batch,
    /// An open transaction must fail, and then the client be told that it has.
    Transaction,
}

/// What makes it true that a statement has failed which the target has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Undoing {
    /// It only read.
    Nothing,
    Rollback,
    Never,
}

impl Running {
    /// How the row that begins can be made shorter than it is.
    fn shortening(&self, tag: u8) -> Option<Shortening> {
        match (tag, &self.copying, &self.plan) {
            (b'd', Some(copying), _) => copying.shortening(),
            (b'D', _, Some(plan)) if plan.rows.by_cell() => Some(Shortening::of_row(plan.rows.covered().collect())),
            _ => None,
        }
    }

    /// What ran before it in its batch is undone with it or not at all.
    pub(in crate::protocol::postgres) fn follows_work(&mut self) {
        if self.undoing == Undoing::Nothing {
            self.undoing = Undoing::Rollback;
        }
    }
}

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
        running.over = running.allowance.exceeded(running.taken, self.taken).map(Over::Limit);
        self.wants_cancel |= running.over.is_some();
        running.over.is_none()
    }

    /// Counts a text that is no row, but may be made of some: an error's, a notice's, what a function gives. False: it is beyond a limit, and
    /// the statement, if it goes on, is to be stopped.
    pub(super) fn takes_text(&mut self, bytes: usize) -> bool {
        self.took(bytes);
        let taken = self.taken;
        let Some(running) = super::running_mut(&mut self.expected) else { return true };
        if running.over.is_none() {
            running.over = running.allowance.exceeded(running.taken, taken).map(Over::Limit);
        }
        running.over.is_none()
    }

    /// Counts so many bytes more of a row that was taken.
    pub(super) fn took(&mut self, bytes: usize) {
        let Some(running) = super::running_mut(&mut self.expected) else { return };
        for taken in [&mut running.taken, &mut self.taken] {
            taken.bytes += bytes as u64;
        }
    }

    /// A message of the result is too large to be looked at as a whole: it is shortened as it comes, or dropped. False: nothing runs that
    /// has results.
    pub(super) fn is_too_large(&mut self, tag: u8, length: usize) -> bool {
        if length <= MAX_HELD || !matches!(tag, b'D' | b'd') || self.own.is_some() {
            return false;
        }
        let Some(running) = super::running_mut(&mut self.expected) else { return false };
        if running.over.is_some() {
            return true;
        }
        let shortening = if self.masker.applies() { running.shortening(tag) } else { None };
        match shortening {
            Some(shortening) => self.shortening = Some(shortening),
            None => self.shows_too_much(),
        }
        true
    }

    /// More of a row would be shown than may be held of one: the statement ends.
    pub(super) fn shows_too_much(&mut self) {
        let Some(running) = super::running_mut(&mut self.expected) else { return };
        if running.over.is_none() {
            running.over = Some(Over::Large);
            self.wants_cancel = true;
        }
    }

    /// A row that was too large to be looked at as a whole has come to its end.
    pub(super) fn shortened(&mut self, out: &mut MaskedBuffer) -> Result<(), Fault> {
        let Some(shortening) = self.shortening.take() else { return Ok(()) };
        let tag = shortening.tag();
        let Some(message) = shortening.finish() else {
            self.shows_too_much();
            return Ok(());
        };
        if tag == b'd' {
            return self.copy_data(&message, out);
        }
        match self.row(message.len())? {
            Row::Dropped => Ok(()),
            Row::ByCell(plan) => self.masked_row(&plan, &message, out),
            Row::Passes(_) => Err(Fault::Row),
        }
    }

    /// Whether the running statement is beyond a limit.
    pub(super) fn is_over(&self) -> bool {
        self.running().is_some_and(|running| running.over.is_some())
    }

    /// In the place of the error by which a statement ends that was beyond a limit. False: it was not.
    pub(super) fn tell_limit(&mut self, out: &mut MaskedBuffer) -> bool {
        let Some(running) = super::running_mut(&mut self.expected) else { return false };
        let Some(over) = running.over.take() else { return false };
        running.summary.outcome = format!("ERROR {} (ended: {over})", over.code());
        let mut report = Vec::new();
        over.report().write(&mut report);
        self.send(&Masked::from_gateway(&report), out);
        true
    }

    /// The target was done with a statement beyond a limit before it heard of that. It must not seem to have been done, and so it
    /// is undone, if nothing was sent behind it that stands on it; where the end of its transaction was, it must only have read.
    pub(super) fn done_beyond(&mut self, out: &mut MaskedBuffer) -> Result<(), Fault> {
        let mut expected = self.expected.iter();
        match (expected.next(), expected.next(), expected.next()) {
            (Some(Expected::Execute(running)), None, None) if running.undoing != Undoing::Never => {
                self.undo = Some(Undo::Batch);
            }
            (Some(Expected::Execute(running)), Some(Expected::Sync { .. }), None)
            | (Some(Expected::Query(running)), None, None)
                if running.undoing == Undoing::Nothing =>
            {
                self.undo = Some(Undo::IfOpen);
            }
            (Some(Expected::Query(running) | Expected::Execute(running)), ..) => {
                let why = running.over.as_ref().map(Over::to_string);
                return Err(Fault::Limit(why.unwrap_or_default()));
            }
            _ => return Ok(()),
        }
        self.tell_limit(out);
        if let Some(Expected::Execute(_)) = self.expected.front() {
            self.fail_batch();
        }
        Ok(())
    }

    /// All that a COPY sends was sent, some of it in vain.
    pub(super) fn copied_beyond(&mut self) -> Result<(), Fault> {
        match self.expected.front_mut() {
            Some(Expected::Query(running) | Expected::Execute(running)) if running.copying_out => {
                running.copying_out = false;
                Ok(())
            }
            _ => Err(Fault::Unexpected('c')),
        }
    }

    /// The target is ready after a statement that has failed for the client alone. True: in an open transaction, so that the
    /// client does not hear of it before that has failed.
    pub(super) fn must_undo(&mut self, ready: &[u8]) -> Result<bool, Fault> {
        if self.undo != Some(Undo::IfOpen) {
            return Ok(false);
        }
        let is_open = transaction_state(ready)? == TransactionState::Open;
        if is_open && self.expected.len() > 1 {
            return Err(Fault::Ahead);
        }
        self.undo = is_open.then_some(Undo::Transaction);
        Ok(is_open)
    }
}
