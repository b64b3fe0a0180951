//! What GROUP BY compares. The columns of a table that it names beside all of the table's primary key decide nothing: rows are
//! in one group by the key alone. The server's planner knows that as well, and takes them out of what it sorts or hashes by
//! (`remove_useless_groupby_columns`, in every version that is traced), so that not even the order of the groups tells of them.
//! Reports group by what they show that way: `GROUP BY c.id, c.name, c.email`.
//!
//! Which keys the planner goes by, and would not rather go by another, is in the catalog ([`TaggedSet::key`]).

use super::Refusal;
use super::query::{Frame, number};
use super::tree::{Node, Value};

/// A column of a relation that stands in the query's own FROM clause: the item's number, the relation, the column's number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    item: usize,
    relation: u32,
    column: i16,
}

impl Place {
    /// Where an expression has its value from, if it is nothing but such a column.
    pub(super) fn of(expression: &Value<'_>, frame: &Frame<'_, '_>) -> Result<Option<Self>, Refusal> {
        let is_own = |it: &&Node<'_>| it.kind == "VAR" && it.word("varlevelsup") == Some("0");
        let Some(variable) = expression.as_node().filter(is_own) else { return Ok(None) };
        let (item, column): (usize, i16) = (number(variable, "varno")?, number(variable, "varattno")?);
        let Some(entry) = frame.entry(item) else { return Ok(None) };
        match (entry.word("rtekind"), entry.word("relkind")) {
            (Some("0"), Some("r")) => Ok(Some(Self { item, relation: number(entry, "relid")?, column })),
            // From PostgreSQL 18 on, what is grouped by is an item of its own, made of expressions over the others.
            (Some("9"), _) => {
                let index = usize::try_from(column).ok().and_then(|it| it.checked_sub(1));
                match index.and_then(|it| entry.list("groupexprs").get(it)) {
                    Some(grouped) if !is_grouped(grouped, frame) => Self::of(grouped, frame),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// Whether it is decided by others that are grouped by, as `key` has the keys of relations.
    pub(super) fn is_decided<'k>(self, by: &[Self], key: impl Fn(u32) -> Option<&'k [i16]>) -> bool {
        let has = |column: &i16| by.contains(&Self { column: *column, ..self });
        key(self.relation).is_some_and(|key| !key.contains(&self.column) && key.iter().all(has))
    }
}

/// An expression of the item that is grouped by, which is made of none of its own.
fn is_grouped(value: &Value<'_>, frame: &Frame<'_, '_>) -> bool {
    let item = value.as_node().and_then(|it| it.word("varno")).and_then(|it| it.parse().ok());
    item.and_then(|it| frame.entry(it)).is_some_and(|it| it.word("rtekind") == Some("9"))
}
