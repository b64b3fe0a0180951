//! COPY: data that a statement sends or takes, outside rows.

use super::{Expected, Fault, HEADER, Replies, close_message};
use crate::mask::{MaskedBuffer, NeedsMasking};

impl Replies<'_> {
    /// The client has sent the end of COPY data. Of what was sent before the target asked for it a note is kept.
    pub(in crate::protocol::postgres) fn copy_ended(&mut self) {
        if std::mem::take(&mut self.copying_in) {
            return;
        }
        match self.expected.back_mut() {
            Some(Expected::CopyEnds(count)) => *count = count.saturating_add(1),
            Some(_) => self.expected.push_back(Expected::CopyEnds(1)),
            // Nothing runs that could take data.
            None => {}
        }
    }

    /// From here to the end of the client's data the target ignores Sync: those that were sent ahead are not answered.
    pub(super) fn copy_in_begins(&mut self) -> Result<(), Fault> {
        self.copying_in = true;
        while self.expected.len() > 1 {
            match self.expected.remove(1) {
                Some(Expected::Sync { .. }) => {}
                Some(Expected::CopyEnds(count)) => {
                    self.copying_in = false;
                    if count > 1 {
                        self.expected.insert(1, Expected::CopyEnds(count - 1));
                    }
                    break;
                }
                _ => return Err(Fault::CopyOrder),
            }
        }
        Ok(())
    }

    pub(super) fn copy_data(&mut self, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        let by_cell = self.running().is_some_and(|running| running.copying.is_some());
        if !self.takes(if by_cell { 0 } else { message.len() }) {
            return Ok(());
        }
        let Some(running) = self.running_mut().filter(|running| running.copying_out) else {
            return Err(Fault::Unexpected('d'));
        };
        if running.copying.is_some() {
            let start = out.len();
            self.copied_rows(message, out)?;
            self.took(out.len() - start);
            return Ok(());
        }
        running.summary.rows += 1;
        let tagged = running.tagged;
        match self.masker.pass_text(tagged, message) {
            Ok(passed) => self.send(&passed, out),
            // A COPY of tagged tables that was not traced is refused before; should one run all the same, nothing of it is shown.
            Err(NeedsMasking::Columns) => return Err(Fault::Disagreement),
            Err(NeedsMasking::Finding) => self.mask_copied_text(message, out)?,
        }
        Ok(())
    }

    pub(super) fn mask_copied_text(&mut self, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        let start = out.len();
        let cell = self.masker.mask_text(&message[HEADER..]);
        out.framing([b'd', 0, 0, 0, 0]);
        out.cell(&cell);
        close_message(out, start)?;
        self.masked_one(cell.hits);
        self.account(start, out);
        Ok(())
    }
}
