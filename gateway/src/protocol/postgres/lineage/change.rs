//! Statements that change rows: nothing tagged chooses the rows, nothing tagged is stored, and whether a row can be written tells
//! of no value that is masked.

use std::collections::BTreeSet;

use super::query::{Frame, Target, Walk, known_fields, number};
use super::tree::{Node, Value};
use super::{Refusal, StandsFor, Tagged};
use crate::mask::MaskKind;
use crate::protocol::postgres::catalog::Conflict;

/// Kinds of commands (`CmdType`).
const UPDATE: &str = "2";
const INSERT: &str = "3";
const DELETE: &str = "4";
const MERGE: &str = "5";
const NOTHING: &str = "7";

/// The fields of what an upsert and a MERGE do, in any version of the server.
const CONFLICT_FIELDS: &str =
    "action arbiterElems arbiterWhere constraint onConflictSet onConflictWhere exclRelIndex exclRelTlist";
const ACTION_FIELDS: &str = "matched matchKind commandType override qual targetList updateColnos";

/// Whether a command changes rows.
pub(super) fn is_change(command: Option<&str>) -> bool {
    matches!(command, Some(UPDATE | INSERT | DELETE | MERGE))
}

impl Walk<'_> {
    /// An INSERT, an UPDATE, a DELETE or a MERGE, on its own or in a CTE: the columns that it returns.
    pub(super) fn change(&self, query: &Node<'_>, parent: Option<&Frame<'_, '_>>) -> Result<Vec<Target>, Refusal> {
        self.known_query(query)?;
        if !["utilityStmt", "setOperations"].iter().all(|it| query.is_empty(it)) {
            return Err(Refusal::unknown("a statement that does more than one thing"));
        }
        if let StandsFor::Copy { .. } = self.stands_for {
            like_a_copy(query)?;
        }
        let frame = self.frame(query, parent)?;
        let target = number(query, "resultRelation")?;
        self.item(&frame, target)?;
        let target = frame.entry(target).ok_or_else(|| Refusal::unknown("a table to change"))?;
        let table: u32 = number(target, "relid")?;
        let entries = query.list("targetList");
        match query.word("commandType") {
            Some(INSERT) => {
                self.inserted(entries, table, &frame)?;
                if let Some(conflict) = query.node("onConflict") {
                    self.conflict(conflict, table, &frame)?;
                }
            }
            Some(UPDATE) => {
                let has_tagged = self.set.has_tagged(table) || self.set.is_above_tagged(table);
                let reads_all = has_tagged && self.set.reads_rows_to_update();
                self.reads_tagged.set(self.reads_tagged.get() || reads_all);
                self.updated(entries, table, &frame)?;
            }
            Some(DELETE) => self.deleted(entries, table, &frame)?,
            Some(MERGE) => self.merged(query, table, &frame)?,
            _ => return Err(Refusal::unknown("a statement of another kind")),
        }
        // What a view demands of its rows, or a policy.
        for check in query.list("withCheckOptions").iter().filter_map(Value::as_node) {
            self.condition("a check of a view, or of row security,", check.field("qual"), &frame)?;
        }
        let returned: Vec<Target> =
            query.list("returningList").iter().map(|it| self.target(it, &frame)).collect::<Result<_, _>>()?;
        if self.stands_for == (StandsFor::Copy { all: false }) {
            self.chosen_by_what_is_given(&returned, entries, table)?;
        }
        Ok(returned)
    }

    /// The condition of a COPY, which stands among what is returned, decides which rows there are: by values of the client's own it may, and
    /// not by what the table has for a masked column.
    fn chosen_by_what_is_given(&self, condition: &[Target], entries: &[Value<'_>], table: u32) -> Result<(), Refusal> {
        let given = entries.iter().filter(|it| !is_default(it)).filter_map(Value::as_node);
        let given = given.map(|it| Ok((table, number(it, "resno")?))).collect::<Result<BTreeSet<Tagged>, Refusal>>()?;
        match condition.iter().flat_map(Target::sources).find(|it| !given.contains(it)) {
            Some(column) => Err(Refusal::new(format!(
                "the condition of a COPY uses {}, which is masked and not among the columns that it brings",
                self.set.column_name(*column)
            ))),
            None => Ok(()),
        }
    }

    /// What a new row is made of. Tagged columns may have values that the statement brings along: it shows none of those that are
    /// there, unless a key is in the way.
    fn inserted(&self, entries: &[Value<'_>], table: u32, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        if self.set.conflicts_anyhow(table) {
            return Err(Refusal::new(
                "a key of the table, or an exclusion constraint, is computed from a masked column, also where that is NULL: whether a row \
                 can be written would tell of values that are masked",
            ));
        }
        for value in entries {
            let entry = value.as_node().ok_or_else(|| Refusal::unknown("a target list"))?;
            // The table's own defaults may call what they like: what they read is known by their texts, or the table is not for agents.
            if !is_default(value) {
                self.chooses("what is written", value, frame)?;
            }
            if entry.word("resjunk") == Some("false") {
                self.may_be_inserted((table, number(entry, "resno")?), entry.field("expr"), frame)?;
            }
        }
        if self.stands_for == (StandsFor::Copy { all: true }) {
            self.set.tagged_of(table).into_iter().try_for_each(|it| self.may_be_inserted(it, None, frame))?;
        }
        Ok(())
    }

    fn may_be_inserted(&self, column: Tagged, value: Option<&Value<'_>>, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        let is_null = |it: &Node<'_>| it.kind == "CONST" && it.word("constisnull") == Some("true");
        if value.and_then(Value::as_node).is_some_and(is_null) {
            return Ok(());
        }
        let name = self.set.column_name(column);
        let hashed = self.set.masks(column.0, column.1).iter().any(|it| matches!(it.with, MaskKind::Hash { .. }));
        if hashed {
            return Err(Refusal::new(format!(
                "it writes {name} (by its default, if not itself), of which a hash is shown: rows of one's own would tell which hash \
                 stands for which value"
            )));
        }
        match self.set.conflict(column) {
            Conflict::Never => Ok(()),
            Conflict::ByEquality if self.set.may_be_looked_up(column) => {
                let rows = self.rows_of(value, frame).ok_or_else(|| {
                    let is_copy = matches!(self.stands_for, StandsFor::Copy { .. });
                    let what = if is_copy { "any number of rows" } else { "rows of a query" };
                    Refusal::new(format!("it writes {what} to {name}, which is looked up by that"))
                })?;
                self.spend(rows)?;
                self.lookups.borrow_mut().extend(std::iter::repeat_n(column, rows));
                Ok(())
            }
            Conflict::ByEquality | Conflict::Otherwise => Err(Refusal::new(format!(
                "it writes {name}, which is masked and in a key, an exclusion constraint or an index that is unique: whether the row \
                 can be written would tell which values there are"
            ))),
        }
    }

    /// How many rows a value of an INSERT is written to; none where that is not known from its text.
    fn rows_of(&self, value: Option<&Value<'_>>, frame: &Frame<'_, '_>) -> Option<usize> {
        if frame.makes_rows() || matches!(self.stands_for, StandsFor::Copy { .. }) {
            return None;
        }
        if frame.has_no_from() {
            return Some(1);
        }
        let variable =
            value.and_then(Value::as_node).filter(|it| it.kind == "VAR" && it.word("varlevelsup") == Some("0"))?;
        let rows = frame.entry(number(variable, "varno").ok()?)?;
        let here = (rows.word("rtekind") == Some("5")).then(|| rows.list("values_lists").len())?;
        Some(if let StandsFor::Rows(rows) = self.stands_for { rows } else { here })
    }

    /// ON CONFLICT: which row is in the way is a matter of what is not masked.
    fn conflict(&self, conflict: &Node<'_>, table: u32, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        known_fields(conflict, "ONCONFLICTEXPR", CONFLICT_FIELDS)?;
        for element in conflict.list("arbiterElems") {
            let element = element.as_node().filter(|it| it.kind == "INFERENCEELEM").and_then(|it| it.field("expr"));
            let flow = self.flow(element.ok_or_else(|| Refusal::unknown("ON CONFLICT"))?, frame)?;
            // What is looked up by a key of its own was counted as it is written.
            let is_looked_up = flow.exact && flow.sources.iter().all(|it| self.set.may_be_looked_up(*it));
            if !is_looked_up {
                self.must_be_clear("ON CONFLICT", &flow)?;
            }
        }
        self.condition("ON CONFLICT", conflict.field("arbiterWhere"), frame)?;
        self.updated(conflict.list("onConflictSet"), table, frame)?;
        self.condition("ON CONFLICT", conflict.field("onConflictWhere"), frame)
    }

    fn updated(&self, entries: &[Value<'_>], table: u32, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        for value in entries {
            self.chooses("what is written", value, frame)?;
            let entry = value.as_node().ok_or_else(|| Refusal::unknown("a target list"))?;
            if entry.word("resjunk") != Some("false") {
                continue;
            }
            let column: i16 = number(entry, "resno")?;
            if !self.set.masks(table, column).is_empty() {
                return Err(Refusal::new(format!(
                    "it writes {}, which is masked: a masked value written back would destroy the real one",
                    self.set.column_name((table, column))
                )));
            }
            if self.set.shares_a_constraint(table, column) {
                return Err(Refusal::new(
                    "it writes a column that shares a constraint or an index with a masked one: whether that holds would tell of \
                     its values",
                ));
            }
        }
        Ok(())
    }

    fn deleted(&self, entries: &[Value<'_>], table: u32, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        if self.set.is_referred_to(table) {
            return Err(Refusal::new(
                "foreign keys refer to a masked column of the table: what becomes of the rows that do would tell of its values",
            ));
        }
        entries.iter().try_for_each(|it| self.chooses("what is written", it, frame))
    }

    /// What each WHEN of a MERGE does. How its rows were joined has been read with its FROM clause in older servers.
    fn merged(&self, query: &Node<'_>, table: u32, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        self.condition("the condition of a MERGE", query.field("mergeJoinCondition"), frame)?;
        // What the source hands on.
        query.list("targetList").iter().try_for_each(|it| self.chooses("what is written", it, frame))?;
        for action in query.list("mergeActionList") {
            let action = action.as_node().ok_or_else(|| Refusal::unknown("a WHEN"))?;
            known_fields(action, "MERGEACTION", ACTION_FIELDS)?;
            self.condition("WHEN", action.field("qual"), frame)?;
            let entries = action.list("targetList");
            match action.word("commandType") {
                Some(INSERT) => self.inserted(entries, table, frame)?,
                Some(UPDATE) => self.updated(entries, table, frame)?,
                Some(DELETE) => self.deleted(entries, table, frame)?,
                Some(NOTHING) => {}
                _ => return Err(Refusal::unknown("a WHEN")),
            }
        }
        Ok(())
    }
}

/// What there is of an INSERT that a COPY is judged as, and would not be of that.
fn like_a_copy(query: &Node<'_>) -> Result<(), Refusal> {
    if query.word("hasRowSecurity") != Some("false") {
        return Err(Refusal::new("the table has row security, which a COPY does not go by; use INSERT"));
    }
    if query.word("hasSubLinks") != Some("false") {
        return Err(Refusal::new("the condition of a COPY has no queries in it"));
    }
    Ok(())
}

/// Whether a value is none of the statement's text, but what the table has for a column that is not named: nothing in it has a
/// place in the text.
fn is_default(value: &Value<'_>) -> bool {
    match value {
        Value::Nothing | Value::Word(_) | Value::Datum(_) => true,
        Value::List(values) => values.iter().all(is_default),
        Value::Node(node) => {
            let has_no_place = matches!(node.word("location"), None | Some("-1"));
            has_no_place
                && !matches!(node.kind, "VAR" | "PARAM" | "SUBLINK")
                && node.fields.iter().all(|(_, value)| is_default(value))
        }
    }
}
