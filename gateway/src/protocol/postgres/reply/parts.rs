//! Messages that are larger than what is held, as they pass in parts.

use super::{Expected, Fault, Replies, Row};
use crate::mask::MaskedBuffer;
use crate::protocol::postgres::wire;

impl Replies<'_> {
    /// Whether rows, or what a COPY sends, need no look at what is in them.
    pub(super) fn passes_unseen(&mut self, tag: u8) -> bool {
        if !matches!(tag, b'D' | b'd') || self.masker.rules().is_empty() {
            return matches!(tag, b'D' | b'd');
        }
        if self.masker.detects() || self.own.is_some() {
            return false;
        }
        match (tag, self.expected.front_mut()) {
            (b'd', Some(Expected::Query(running) | Expected::Execute(running))) => match &running.copying {
                Some(copying) => copying.passes_unseen(),
                None => !running.tagged,
            },
            (b'D', Some(Expected::Query(running))) => running.described && running.passes_rows(),
            (b'D', Some(Expected::Execute(running))) => running.doubt.is_none() && running.passes_rows(),
            _ => false,
        }
    }

    /// A part of a message too large to be held: of one that is shortened, or that needs no look. `begins`: the first one, with the
    /// header.
    pub(super) fn part(&mut self, tag: u8, begins: bool, bytes: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        if self.running().is_none() || self.own.is_some() {
            return Err(Fault::Unexpected(char::from(tag)));
        }
        if self.is_over() {
            return Ok(());
        }
        if let Some(shortening) = &mut self.shortening {
            return shortening.push(bytes);
        }
        let header = if begins { wire::header(bytes)? } else { None };
        match (tag, header) {
            (b'd', _) if self.running().is_none_or(|running| !running.copying_out) => {
                return Err(Fault::Unexpected('d'));
            }
            (b'D', Some((_, length))) => match self.row(length)? {
                Row::Dropped => return Ok(()),
                Row::Passes(_) => {}
                Row::ByCell(_) => return Err(Fault::Row),
            },
            (b'd', Some((_, length))) if !self.takes(length) => return Ok(()),
            _ => {}
        }
        let passed = self.masker.pass_text(false, bytes).map_err(|_| Fault::Row)?;
        self.send(&passed, out);
        Ok(())
    }
}
