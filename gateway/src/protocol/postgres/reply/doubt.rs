//! Results that the catalog at hand may be too old for: they wait until a newer one has been asked.

use std::sync::Arc;

use super::taken::Over;
use super::{Expected, Fault, Replies};
use crate::protocol::postgres::catalog::TaggedSet;
use crate::protocol::postgres::wire::{self, Column};

/// Longer descriptions are asked about each time.
const MAX_KEY: usize = 4 << 10;

/// Columns of a result of which the catalog may not be up to date; see [`TaggedSet::doubts`].
#[derive(Debug)]
pub(in crate::protocol::postgres) struct Doubt {
    set: Arc<TaggedSet>,
    columns: Vec<Column>,
    /// The description, if it is doubted for names alone: what was shown under these before has been asked about.
    pub(in crate::protocol::postgres) key: Option<Arc<[u8]>>,
}

impl Doubt {
    pub(super) fn of(set: &Arc<TaggedSet>, columns: &[Column]) -> Option<Arc<Self>> {
        let doubted: Vec<Column> = columns.iter().filter(|it| set.doubts(it)).cloned().collect();
        if doubted.is_empty() {
            return None;
        }
        let by_name = doubted.iter().all(|it| set.has_column((it.table, it.attribute)));
        let key = by_name.then(|| {
            let mut key = Vec::new();
            wire::put_row_description(&mut key, columns, None);
            key
        });
        let key = key.filter(|it| it.len() <= MAX_KEY).map(Arc::from);
        Some(Arc::new(Self { set: Arc::clone(set), columns: doubted, key }))
    }

    /// Whether a newer catalog lets the result be shown as it was going to be. `own`: the session may see what is not committed.
    pub(in crate::protocol::postgres) fn is_settled_by(&self, newer: &TaggedSet, own: bool) -> bool {
        self.columns.iter().all(|it| self.set.is_settled_by(newer, it, own))
    }
}

impl Replies<'_> {
    /// What the result of the statement that runs is doubted for. Until that is [`settled`](Self::settled), nothing more is made of the
    /// target's messages.
    pub(in crate::protocol::postgres) fn doubt(&self) -> Option<&Arc<Doubt>> {
        self.running().and_then(|running| running.doubt.as_ref())
    }

    /// Whether the statement that runs shows columns whose names it does not write.
    pub(in crate::protocol::postgres) fn shows_all(&self) -> bool {
        self.running().is_some_and(|running| running.shows_all)
    }

    /// Whether the result may be shown. If not, it ends as one beyond a limit does.
    pub(in crate::protocol::postgres) fn settled(&mut self, shows: bool) {
        let Some(running) = self.running_mut() else { return };
        running.doubt = None;
        if !shows && running.over.is_none() {
            running.over = Some(Over::Outdated);
            self.wants_cancel = true;
        }
    }

    /// Finds out how the rows of a portal are treated, when the first one is there.
    pub(super) fn plan_rows(&mut self) -> Result<(), Fault> {
        let (masker, limit) = (self.masker, self.content_limit);
        match self.expected.front_mut() {
            Some(Expected::Execute(running))
                if self.own.is_none() && running.plan.is_none() && running.over.is_none() =>
            {
                running.plan_portal(masker, limit)
            }
            _ => Ok(()),
        }
    }
}
