//! Where the columns of a result come from, by the tree that the server itself makes of a statement.
//!
//! A text does not tell which table a name stands for, what a view shows or which function is called; the server knows, and
//! prints what it has resolved (`debug_print_rewritten`) before anything runs. [`trace`] reads that tree: for each column of the
//! result the tagged columns that its values are computed from, and whether tagged columns choose which rows come back, or in
//! which order. Whoever sees the result learns nothing of tagged values then, beyond what the masks leave of them:
//!
//! - A column that *is* a tagged column gets its masks, one that is *computed* from some is covered whole, NULLs as well. Where a
//!   row, an array or JSON is put together of values, so that its form shows which is which, each has what it would have alone
//!   (`parts`).
//! - What is computed from tagged values must not fail, or the error would tell of them: only functions and operators that take
//!   any value (`Total`). Nor may tagged values decide whether something is computed that can fail.
//! - Nothing tagged is compared where rows are chosen, joined, grouped, sorted or counted. The one exception is a mask's own:
//!   equality with a constant or a parameter, up to so many a minute ([`Lineage::lookups`]). (What GROUP BY names beside a primary
//!   key is not compared: see `grouping`.)
//! - Nothing tagged is stored, and nothing that is there is written over where it is tagged; whether a row can be written, moved or
//!   removed is not up to tagged values either (`change`). A row security policy is a condition like any other.
//!
//! Every node has its place in the walk's tables; one that has none makes the statement refused. Pure: text in, facts out.
//! See the PostgreSQL manual, "The Rule System", section "The Query Tree".

mod change;
mod expression;
mod grouping;
mod parts;
mod query;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::catalog::TaggedSet;
use super::wire::Column;

use self::query::Walk;
use self::tree::{Value, read, unescaped};

pub(super) use self::parts::{Form, Parts};
pub(super) use self::tree::MAX_BYTES;

/// A tagged column: its table's oid and its number.
type Tagged = (u32, i16);

/// What a statement's result shows of tagged data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lineage {
    columns: Vec<Traced>,
    /// Tagged columns that rows are looked up by: each is compared with one value that the statement brings along.
    pub(super) lookups: Vec<Tagged>,
    /// A view or a row security policy of the database's is part of it: others may replace that, and the result look the same.
    pub(super) by_code: bool,
    /// Something in it reads a tagged column, be it shown or not.
    pub(super) reads_tagged: bool,
    /// A table in it has columns that were made after the catalog was read.
    pub(super) has_news: bool,
}

/// A column of a result.
#[derive(Debug, PartialEq, Eq)]
struct Traced {
    name: String,
    /// As `RowDescription` gives it: the relation's oid and the column's number, or zeros.
    origin: (u32, i16),
    flow: Flow,
}

/// The tagged columns that a value is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    sources: BTreeSet<Tagged>,
    /// The value is that of the one column, and nothing was computed.
    exact: bool,
    /// What it is put together of, where that shows.
    parts: Option<Arc<Parts>>,
    /// To compute it may fail, or leave a trace, whatever it is computed from: it must not be up to tagged values whether it is.
    fallible: bool,
}

/// What the values of a result's column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows<'l> {
    /// Nothing that is tagged.
    Clear,
    /// A tagged column, as it is.
    Column(u32, i16),
    /// Something computed from these.
    Computed(&'l BTreeSet<Tagged>),
    /// Something put together of values, some of which come from these.
    Together(&'l Parts, &'l BTreeSet<Tagged>),
}

/// What the server has printed the tree of, where that is another text than the statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StandsFor {
    #[default]
    Itself,
    /// An INSERT of so many rows, of which it has some.
    Rows(usize),
    /// A COPY of any number of rows, in all columns of its table or in those that it names.
    Copy { all: bool },
}

/// Why a statement is refused. For people: names columns, holds no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(String);

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// The tree is not one that can be read.
    fn unknown(what: &str) -> Self {
        Self(format!("its plan has a part that is not known here ({what}), and the statement touches masked columns"))
    }

    pub(super) fn into_reason(self) -> String {
        self.0
    }
}

impl Flow {
    pub(super) fn shows(&self) -> Shows<'_> {
        match (self.exact, self.sources.first(), &self.parts) {
            (_, None, _) => Shows::Clear,
            (true, Some(&(table, number)), _) => Shows::Column(table, number),
            (false, Some(_), None) => Shows::Computed(&self.sources),
            (false, Some(_), Some(parts)) => Shows::Together(parts, &self.sources),
        }
    }

    /// Bytes of memory beside its own, more or less.
    fn size(&self) -> usize {
        self.sources.len() * size_of::<Tagged>() * 2 + self.parts.as_ref().map_or(0, |it| it.size())
    }

    fn column(column: Tagged) -> Self {
        Self { sources: BTreeSet::from([column]), exact: true, ..Self::default() }
    }

    /// Of a value that is computed from this and other ones.
    fn add(&mut self, other: Self) {
        self.sources.extend(other.sources);
        (self.exact, self.parts) = (false, None);
        self.fallible |= other.fallible;
    }

    /// Of a value that is either this or another one, as it is.
    fn or(&mut self, other: Self) {
        let same = *self == other;
        let (exact, parts) = (self.exact, self.parts.take());
        self.add(other);
        if same {
            (self.exact, self.parts) = (exact, parts);
        }
    }

    fn computed(self) -> Self {
        Self { exact: false, parts: None, ..self }
    }

    fn by_what_may_fail(self) -> Self {
        Self { fallible: true, ..self.computed() }
    }
}

impl Lineage {
    /// What the columns show, first to last.
    pub(super) fn shows(&self) -> impl Iterator<Item = Shows<'_>> {
        self.columns.iter().map(|column| column.flow.shows())
    }

    /// Whether this is the result that the server describes.
    pub(super) fn agrees(&self, columns: &[Column]) -> bool {
        let same = |(mine, theirs): (&Traced, &Column)| {
            // Where a line of the tree was broken, a line break in a name is not to be told from a space.
            let spaced = theirs.name.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte });
            mine.origin == (theirs.table, theirs.attribute) && mine.name.bytes().eq(spaced)
        };
        self.columns.len() == columns.len() && self.columns.iter().zip(columns).all(same)
    }

    /// Bytes of memory that it takes, more or less.
    pub(super) fn size(&self) -> usize {
        let columns: usize = self.columns.iter().map(|it| size_of::<Traced>() + it.name.len() + it.flow.size()).sum();
        size_of::<Self>() + columns + self.lookups.len() * size_of::<Tagged>()
    }
}

/// The tagged columns (by their table's oid and their number) from which each column comes of what a server printed, if that can be
/// traced: for the fuzz target.
pub fn sources(printed: &str, set: &TaggedSet) -> Option<Vec<BTreeSet<(u32, i16)>>> {
    let lineage = trace(printed, set, false, StandsFor::Itself).ok()?;
    Some(lineage.columns.into_iter().map(|it| it.flow.sources).collect())
}

/// Reads what the server printed of one statement: the list of its queries after rewriting. `qualified`: it writes a schema before
/// each of its tables, so that these cannot become others.
pub(super) fn trace(
    printed: &str,
    set: &TaggedSet,
    qualified: bool,
    stands_for: StandsFor,
) -> Result<Lineage, Refusal> {
    let tree = read(printed).map_err(|error| Refusal::unknown(&error.to_string()))?;
    let Value::List(queries) = &tree else { return Err(Refusal::unknown("no list of queries")) };
    let [Value::Node(query)] = queries.as_slice() else {
        return Err(Refusal::new("a rule makes more than one statement of it"));
    };
    let walk = Walk::new(set, qualified, stands_for);
    let columns = walk.statement(query)?;
    Ok(walk.found(columns))
}
