//! What is noted of a statement while it runs.

use std::sync::Arc;

use super::plan::plan;
use super::{Fault, Running, agrees, lineage};
use crate::mask::Masker;
use crate::protocol::postgres::wire;

impl Running {
    pub(super) fn keep(&mut self, bytes: &[u8], limit: usize) {
        let summary = &mut self.summary;
        let room = limit.saturating_sub(summary.content.len());
        summary.content.extend_from_slice(&bytes[..bytes.len().min(room)]);
        summary.content_truncated |= bytes.len() > room;
    }

    /// The next statement of a simple query begins.
    pub(super) fn next_statement(&mut self) {
        self.statement += 1;
        self.described = false;
        self.copying_out = false;
        self.copying = None;
    }

    /// Whether its rows have no masked column, as far as they were described.
    pub(super) fn passes_rows(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| !plan.rows.by_cell())
    }

    pub(super) fn completed(&mut self, message: &[u8]) -> Result<(), Fault> {
        let tag = wire::command_tag(message)?;
        if !self.summary.outcome.starts_with("ERROR") {
            tag.clone_into(&mut self.summary.outcome);
        }
        Ok(())
    }

    /// An Execute has no description of its own: it is the portal's, or its statement's in the formats that Bind asked for.
    pub(super) fn plan_portal(&mut self, masker: &Masker, limit: usize) -> Result<(), Fault> {
        let portal = self.portal.as_ref().ok_or(Fault::Unexpected('D'))?;
        let (columns, formats) = if let Some(columns) = portal.description.get() {
            (columns, None)
        } else {
            let columns = portal.statement_description.get().ok_or(Fault::Unexpected('D'))?;
            (columns, Some(&*portal.result_formats))
        };
        let columns = columns.ok_or(Fault::Unexpected('D'))?;
        if self.tagged {
            agrees(self.checked.first(), &columns)?;
        }
        let plan = plan(masker, &self.set, &columns, formats, lineage(self.checked.first()));
        self.tagged |= plan.tagged;
        self.doubt.clone_from(&plan.doubt);
        self.plan = Some(Arc::new(plan));
        if limit > 0 {
            let mut description = Vec::new();
            wire::put_row_description(&mut description, &columns, formats);
            self.keep(&description, limit);
        }
        Ok(())
    }
}
