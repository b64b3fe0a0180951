//! Rows that are masked value by value.

use super::plan::Plan;
use super::{Fault, Replies, close_message};
use crate::mask::{Hits, MaskedBuffer};
use crate::protocol::postgres::wire::{self, Fields, MAX_HELD};

impl Replies<'_> {
    /// What is left of a row counts.
    pub(super) fn masked_row(&mut self, plan: &Plan, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        let start = out.len();
        self.mask_row(plan, message, out)?;
        self.took(out.len() - start);
        Ok(())
    }

    /// Puts a row with its masked values masked behind what is there. False: it is too large even so, is not shown, and ends its
    /// statement.
    pub(super) fn mask_row(&mut self, plan: &Plan, message: &[u8], out: &mut MaskedBuffer) -> Result<bool, Fault> {
        let start = out.len();
        // All of it is looked at first: with half a row before it, the client would not see why its session ends.
        let count = wire::row_columns(message)?;
        if count != plan.columns {
            return Err(Fault::Row);
        }
        let mut fields = Fields::of(message);
        fields.count()?;
        out.framing([b'D', 0, 0, 0, 0]);
        out.framing(u16::try_from(count).map_err(|_| Fault::Row)?.to_be_bytes());
        let (mut hits, mut masked) = (Hits::default(), 0);
        for index in 0..count {
            let cell = self.masker.mask_cell(&plan.rows, index, fields.value()?);
            if !cell.hits.is_empty() {
                hits.add(cell.hits);
                masked += 1;
            }
            out.framing(match cell.len() {
                None => (-1i32).to_be_bytes(),
                Some(length) => u32::try_from(length).map_err(|_| Fault::Row)?.to_be_bytes(),
            });
            out.cell(&cell);
        }
        close_message(out, start)?;
        if out.len() - start > MAX_HELD {
            out.truncate(start);
            self.shows_too_much();
            return Ok(false);
        }
        if let Some(running) = self.running_mut() {
            running.hits.add(hits);
            running.summary.cells_masked += masked;
        }
        self.account(start, out);
        Ok(true)
    }
}
