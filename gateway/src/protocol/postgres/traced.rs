//! What becomes of a statement by the tree that the target has printed of it, or of the query within it: what its result may be, or
//! why it is refused. One place for sessions and for `weir explain --live`.

use std::sync::Arc;

use super::catalog::TaggedSet;
use super::copy::CopyForm;
use super::lineage::{self, Shows, StandsFor};
use super::operation::Query;
use super::reply::{Checked, unfit};
use super::statement::Columns;
use super::wire::Column;

const ANOTHER: &str = "the target describes another result than the one that it plans";
const KEPT_BY_LOOKUP: &str =
    "a new table is not filled with rows that are looked up by a masked column; select them without making one";
const WIDTHS: &str =
    "EXPLAIN of a statement that reads masked columns is refused: its plan tells how long their values are";

/// `columns`: as the target describes what it has printed the tree of. `qualified`: each table is written with its schema. The error is
/// for people.
pub(super) fn checked(
    query: &Query,
    tree: &str,
    columns: Columns,
    set: &TaggedSet,
    qualified: bool,
) -> Result<Checked, String> {
    let lineage = lineage::trace(tree, set, qualified, stands_for(query)).map_err(lineage::Refusal::into_reason)?;
    let described = columns.as_deref().unwrap_or_default();
    if !lineage.agrees(described) {
        return Err(ANOTHER.to_owned());
    }
    match query {
        Query::Itself | Query::Sampled(_) | Query::Made(_) => Ok(Checked::described(columns, Some(Arc::new(lineage)))),
        Query::Taken { .. } => Ok(Checked::described(None, Some(Arc::new(lineage)))),
        Query::Copied { form, .. } => match unfit(&lineage, described, &[1]).filter(|_| CopyForm::is_binary(form)) {
            Some(index) => Err(only_as_text(index)),
            None => Ok(Checked { columns, lineage: Some(Arc::new(lineage)), copied: Some(form.clone()) }),
        },
        Query::Planned { .. } if lineage.reads_tagged => Err(WIDTHS.to_owned()),
        Query::Planned { plan, .. } => Ok(Checked::described(Some(plan_columns(*plan)), None)),
        Query::Kept(_) if !lineage.lookups.is_empty() => Err(KEPT_BY_LOOKUP.to_owned()),
        Query::Kept(_) => match lineage.shows().zip(described).find(|(shows, _)| *shows != Shows::Clear) {
            Some((_, column)) => Err(kept_masked(&column.name)),
            None => Ok(Checked::described(None, None)),
        },
    }
}

fn stands_for(query: &Query) -> StandsFor {
    match query {
        Query::Sampled(sample) => StandsFor::Rows(sample.rows),
        Query::Taken { all, .. } => StandsFor::Copy { all: *all },
        _ => StandsFor::Itself,
    }
}

/// Why a column is refused that is computed from something masked and would be sent in binary.
pub(super) fn only_as_text(index: usize) -> String {
    format!("column {} shows something masked, of a type that is given as text only", index + 1)
}

/// What EXPLAIN describes (`ExplainResultDesc`).
fn plan_columns(type_oid: u32) -> Arc<[Column]> {
    Arc::from([Column { name: b"QUERY PLAN".to_vec(), table: 0, attribute: 0, type_oid, modifier: -1, format: 0 }])
}

fn kept_masked(column: &[u8]) -> String {
    format!(
        "column \"{}\" of the new table would hold values of masked columns, and have no mask; leave it out",
        String::from_utf8_lossy(column)
    )
}
