//! The rows of a COPY that was traced: taken apart, masked as the query's own rows would be, and put together again.

use super::plan::{Plan, plan};
use super::shorten::Shortening;
use super::{Fault, Replies, Running, close_message, lineage};
use crate::mask::{Hits, MaskedBuffer, Masker, NeedsMasking};
use crate::protocol::postgres::copy::{self, CopyForm, NotInForm};
use crate::protocol::postgres::wire::{Fields, HEADER, MAX_HELD};

/// Instead of a row's count of columns.
const END_OF_ROWS: i16 = -1;

/// What is known of rows that are being sent.
pub(super) struct Copying {
    form: CopyForm,
    plan: Plan,
    names: Vec<Vec<u8>>,
    /// Nothing has come yet: a header may.
    at_start: bool,
}

impl Copying {
    /// How the next row, which is too large, can be made shorter.
    pub(super) fn shortening(&self) -> Option<Shortening> {
        let is_header = self.at_start && self.form.has_header();
        let shortens = self.plan.rows.by_cell() && !is_header;
        shortens.then(|| Shortening::of_copy(&self.form, self.at_start, self.plan.rows.covered().collect()))
    }

    /// Whether the next row needs no look.
    pub(super) fn passes_unseen(&self) -> bool {
        let is_header = self.at_start && self.form.has_header();
        !is_header && !self.plan.rows.by_cell() && !self.form.is_binary()
    }
}

impl From<NotInForm> for Fault {
    fn from(_: NotInForm) -> Self {
        Self::Row
    }
}

impl Running {
    /// CopyOutResponse: what the target is about to send must be what was found out before.
    pub(super) fn copy_begins(&mut self, masker: &Masker, message: &[u8]) -> Result<(), Fault> {
        let checked = self.checked.get(self.statement);
        // Data of others is refused as it comes, if anything tagged is in the statement.
        let Some(found) = checked.and_then(Option::as_ref) else { return Ok(()) };
        let (Some(form), Some(columns)) = (&found.copied, &found.columns) else { return Ok(()) };
        let mut fields = Fields::of(message);
        let format = i16::from(fields.u8()?);
        let count = fields.count()?;
        for _ in 0..count {
            fields.i16()?;
        }
        fields.end()?;
        if (format == 1) != form.is_binary() {
            return Err(Fault::Disagreement);
        }
        if count != columns.len() {
            return Err(Fault::Copied);
        }
        let plan = plan(masker, &self.set, columns, Some(&[format]), lineage(checked));
        let names = columns.iter().map(|it| it.name.clone()).collect();
        self.copying = Some(Copying { form: form.clone(), plan, names, at_start: true });
        Ok(())
    }
}

impl Replies<'_> {
    pub(super) fn copied_rows(&mut self, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        let masker = self.masker;
        let Some(running) = self.running_mut() else { return Err(Fault::Unexpected('d')) };
        let Some(copying) = &mut running.copying else { return Err(Fault::Unexpected('d')) };
        let is_first = std::mem::take(&mut copying.at_start);
        if is_first && copying.form.has_header() {
            // It has names, and nothing else.
            let cells = copying.form.cells(&message[HEADER..], copying.names.len())?;
            if !cells.iter().zip(&copying.names).all(|(cell, name)| cell.value.as_deref() == Some(&**name)) {
                return Err(Fault::Disagreement);
            }
            let header = masker.pass_metadata(message);
            self.send(&header, out);
            return Ok(());
        }
        if !copying.plan.rows.by_cell() && !copying.form.is_binary() {
            // It has no masked column.
            running.summary.rows += 1;
            return match masker.pass_text(false, message) {
                Ok(passed) => {
                    self.send(&passed, out);
                    Ok(())
                }
                Err(NeedsMasking::Columns | NeedsMasking::Finding) => self.mask_copied_text(message, out),
            };
        }
        let start = out.len();
        out.framing([b'd', 0, 0, 0, 0]);
        let masked = copying.put(masker, &message[HEADER..], is_first, out)?;
        if out.len() - start > MAX_HELD {
            out.truncate(start);
            self.shows_too_much();
            return Ok(());
        }
        close_message(out, start)?;
        running.hits.add(masked.hits);
        running.summary.rows += masked.rows;
        running.summary.cells_masked += masked.cells;
        self.account(start, out);
        Ok(())
    }
}

#[derive(Default)]
struct Done {
    hits: Hits,
    rows: u64,
    cells: u64,
}

impl Done {
    fn cell(&mut self, hits: Hits) {
        if !hits.is_empty() {
            self.hits.add(hits);
            self.cells += 1;
        }
    }
}

impl Copying {
    /// Masks the rows of a message.
    fn put(&self, masker: &Masker, data: &[u8], is_first: bool, out: &mut MaskedBuffer) -> Result<Done, Fault> {
        if self.form.is_binary() {
            self.put_binary(masker, data, is_first, out)
        } else {
            self.put_text(masker, data, out)
        }
    }

    fn put_text(&self, masker: &Masker, row: &[u8], out: &mut MaskedBuffer) -> Result<Done, Fault> {
        let mut done = Done { rows: 1, ..Done::default() };
        let cells = self.form.cells(row, self.plan.columns)?;
        let alone = cells.len() == 1;
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                out.framing([self.form.delimiter()]);
            }
            let masked = masker.mask_cell(&self.plan.rows, index, cell.value.as_deref());
            // That it needs quotation marks would tell of a value that is masked.
            let quoted = cell.quoted && masked.hits.is_empty();
            out.encoded(&masked, |value, out| self.form.write(value, quoted, alone, out));
            done.cell(masked.hits);
        }
        out.framing([b'\n']);
        Ok(done)
    }

    /// Each row is a count and as many values with their lengths; the end is a count of -1.
    fn put_binary(&self, masker: &Masker, data: &[u8], is_first: bool, out: &mut MaskedBuffer) -> Result<Done, Fault> {
        let mut done = Done::default();
        let mut rest = data;
        if is_first {
            let (header, behind) = copy::binary_header(data)?;
            for byte in header {
                out.framing([*byte]);
            }
            rest = behind;
        }
        let mut fields = Fields::new(rest);
        while fields.end().is_err() {
            let count = fields.i16()?;
            out.framing(count.to_be_bytes());
            if count == END_OF_ROWS {
                fields.end()?;
                break;
            }
            if usize::try_from(count) != Ok(self.plan.columns) {
                return Err(Fault::Row);
            }
            for index in 0..self.plan.columns {
                let masked = masker.mask_cell(&self.plan.rows, index, fields.value()?);
                out.framing(match masked.len() {
                    None => (-1i32).to_be_bytes(),
                    Some(length) => u32::try_from(length).map_err(|_| Fault::Row)?.to_be_bytes(),
                });
                out.cell(&masked);
                done.cell(masked.hits);
            }
            done.rows += 1;
        }
        Ok(done)
    }
}
