//! Queries: the scopes that they open, what they read and what they write.

use pg_query::protobuf::{CmdType, MergeMatchKind};
use pg_query::{Node, NodeEnum, NodeRef, protobuf};

use super::code::{is_about_a_cursor, pg_dumps_setting};
use super::{Item, Showing, Source, Walk, known, name_parts};
use crate::policy::{Access, Action, Kind, TableUse};
use crate::protocol::postgres::catalog::{Exposure, TaggedSet};
use crate::protocol::postgres::operation::descent::{Unknown, Walked, parts};
use crate::protocol::postgres::operation::functions;

/// Whose column a value is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    New,
    There,
}

impl<'a> Walk<'a> {
    /// A SELECT that stands for itself is an action; one inside another statement belongs to that one.
    pub(super) fn query(&mut self, select: &'a protobuf::SelectStmt) -> Walked {
        if !self.scopes.is_empty() {
            return self.select(select);
        }
        self.nested(Kind::Select, |walk| {
            let limited = select.limit_count.as_deref().is_some_and(|it| !is_null(it));
            let narrows = where_of(select, &mut walk.left);
            if let Some(action) = walk.action() {
                action.has_limit = Some(limited);
                action.has_where = narrows;
            }
            let is_all = walk.depth == 0 && walk.actions.len() == 1 && select.into_clause.is_none();
            if is_all && !select.target_list.iter().any(|it| is_named_like(it, walk.set)) {
                walk.showing = Showing::List;
            }
            walk.select(select)
        })
    }

    pub(super) fn select(&mut self, select: &'a protobuf::SelectStmt) -> Walked {
        let protobuf::SelectStmt {
            distinct_clause,
            into_clause,
            target_list,
            from_clause,
            where_clause,
            group_clause,
            group_distinct: _,
            having_clause,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset,
            limit_count,
            limit_option: _,
            locking_clause,
            with_clause,
            op: _,
            all: _,
            larg,
            rarg,
        } = select;
        // Of this query's columns only: not of what stands in it, nor of what it stands in.
        let outer = self.setting.take();
        let showing = std::mem::take(&mut self.showing);
        let walked = self.scoped(|walk| {
            if let Some(with) = with_clause {
                walk.with(with)?;
            }
            for side in [larg, rarg].into_iter().flatten() {
                walk.select(side)?;
            }
            if let Some(into) = into_clause {
                walk.select_into(into)?;
            }
            if is_about_a_cursor(select) {
                // None of its columns but the one.
                let used = walk.used(walk.at, Access::Read, Some("pg_catalog".to_owned()), "pg_cursors".to_owned());
                let (at, exposure) = ((walk.at, used.unwrap_or(0)), Exposure::Clear);
                walk.add_item("pg_cursors", Source::Table { at, exposure, bare: true });
            } else {
                walk.from(from_clause)?;
            }
            walk.setting = pg_dumps_setting(select);
            walk.showing = if larg.is_none() { showing } else { Showing::Nothing };
            walk.all(target_list)?;
            walk.showing = Showing::Nothing;
            walk.setting = None;
            walk.maybe(where_clause.as_deref())?;
            for it in group_clause {
                walk.show_ordinal(Some(it));
            }
            walk.all(group_clause)?;
            walk.maybe(having_clause.as_deref())?;
            walk.all(window_clause)?;
            walk.all(values_lists)?;
            // A plain DISTINCT is a list of one NULL.
            distinct_clause.iter().filter(|it| it.node.is_some()).try_for_each(|it| walk.visit(known(it)?))?;
            walk.all(sort_clause)?;
            for bound in [limit_offset, limit_count].into_iter().flatten() {
                walk.show(bound);
                walk.visit(known(bound)?)?;
            }
            walk.all(locking_clause)
        });
        self.setting = outer;
        self.showing = showing;
        walked
    }

    pub(super) fn select_into(&mut self, into: &'a protobuf::IntoClause) -> Walked {
        self.seen.wrapper = self.seen.wrapper.or(Some("SELECT INTO"));
        let Some(rel) = &into.rel else { return Err(Unknown("INTO without a relation")) };
        let schema = (!rel.schemaname.is_empty()).then_some(rel.schemaname.as_str());
        self.nested(Kind::Create, |walk| {
            walk.table(schema, &rel.relname, Access::Write);
            Ok(())
        })
    }

    pub(super) fn from(&mut self, items: &'a [Node]) -> Walked {
        let before = std::mem::replace(&mut self.access, Access::Read);
        let walked = self.all(items);
        self.access = before;
        walked
    }

    pub(super) fn with(&mut self, with: &'a protobuf::WithClause) -> Walked {
        let protobuf::WithClause { ctes, recursive, location: _ } = with;
        let mut names = Vec::with_capacity(ctes.len());
        for cte in ctes {
            let Some(NodeEnum::CommonTableExpr(cte)) = &cte.node else { return Err(Unknown("a WITH without a CTE")) };
            names.push(cte);
        }
        if *recursive {
            for it in &names {
                self.cte_name(&it.ctename);
            }
        }
        for cte in names {
            let protobuf::CommonTableExpr { ctequery, cycle_clause, search_clause: _, .. } = &**cte;
            // Within an expression that is stored, so is what a CTE of its own hands on.
            let inner = std::mem::replace(&mut self.inner, true);
            let walked = self.maybe(ctequery.as_deref());
            self.inner = inner;
            walked?;
            if let Some(cycle) = cycle_clause {
                self.children(NodeRef::CtecycleClause(cycle))?;
            }
            self.cte_name(&cte.ctename);
        }
        Ok(())
    }

    pub(super) fn cte_name(&mut self, name: &'a str) {
        self.scopes.add_cte(name);
    }

    pub(super) fn insert(&mut self, insert: &'a protobuf::InsertStmt) -> Walked {
        let protobuf::InsertStmt {
            relation,
            cols,
            select_stmt,
            on_conflict_clause,
            returning_clause,
            with_clause,
            r#override: _,
        } = insert;
        self.seen.writes_values = true;
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let outside = walk.scopes.mark();
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("an INSERT without a table"))?, Access::Write)?;
            if cols.is_empty() && select_stmt.is_some() {
                walk.write_column(table, "*", Row::New);
            }
            walk.written_columns(table, cols, Row::New)?;
            if let Some(source) = select_stmt.as_deref() {
                // The source does not see the target.
                let hidden = walk.scopes.hide(outside);
                walk.show_values(cols, source, &hidden);
                walk.storing(|walk| walk.visit(known(source)?))?;
                for item in hidden {
                    walk.scopes.add(item);
                }
            }
            if let Some(conflict) = on_conflict_clause {
                if !conflict.target_list.is_empty() {
                    let of_values = select_stmt.as_deref().is_some_and(|it| is_values(it, &mut walk.left));
                    walk.updates_on_conflict(conflict, table, of_values);
                }
                walk.on_conflict(conflict, table)?;
            }
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    /// An upsert updates rows: an action that rules about updates see. One from a query may update any number of them; values
    /// choose theirs by a key, as a WHERE would.
    fn updates_on_conflict(&mut self, conflict: &protobuf::OnConflictClause, table: (usize, usize), of_values: bool) {
        let tables = self.writes(table, &conflict.target_list);
        let has_where = of_values || conflict.where_clause.as_deref().is_some_and(|it| narrows(it, &mut self.left));
        self.extra.push(Action {
            kind: Kind::Update,
            tables,
            functions: Vec::new(),
            has_where: Some(has_where),
            has_limit: None,
            unparsed: None,
            runs_code: false,
        });
    }

    pub(super) fn on_conflict(&mut self, conflict: &'a protobuf::OnConflictClause, table: (usize, usize)) -> Walked {
        let protobuf::OnConflictClause { action: _, infer, target_list, where_clause, location: _ } = conflict;
        if let Some(infer) = infer {
            self.children(NodeRef::InferClause(infer))?;
        }
        let exposure = self.exposure_of(table);
        self.scopes.add(Item { name: "excluded", source: Source::Table { at: table, exposure, bare: true } });
        self.assign(target_list, table, Row::There)?;
        // Which of the proposed rows is chosen ends in the stored values.
        self.storing(|walk| walk.maybe(where_clause.as_deref()))
    }

    pub(super) fn update(&mut self, update: &'a protobuf::UpdateStmt) -> Walked {
        let protobuf::UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } =
            update;
        self.seen.writes_values = true;
        self.has_where(where_clause.as_deref());
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("an UPDATE without a table"))?, Access::Write)?;
            walk.from(from_clause)?;
            walk.assign(target_list, table, Row::There)?;
            if from_clause.is_empty() {
                walk.maybe(where_clause.as_deref())?;
            } else {
                // Which of the joined rows is chosen ends in the stored values.
                walk.storing(|walk| walk.maybe(where_clause.as_deref()))?;
            }
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    pub(super) fn delete(&mut self, delete: &'a protobuf::DeleteStmt) -> Walked {
        let protobuf::DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = delete;
        self.has_where(where_clause.as_deref());
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("a DELETE without a table"))?, Access::Write)?;
            walk.from(using_clause)?;
            walk.maybe(where_clause.as_deref())?;
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    pub(super) fn merge(&mut self, merge: &'a protobuf::MergeStmt) -> Walked {
        let protobuf::MergeStmt {
            relation,
            source_relation,
            join_condition,
            merge_when_clauses,
            returning_clause,
            with_clause,
        } = merge;
        self.seen.writes_values = true;
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("a MERGE without a table"))?, Access::Write)?;
            let source = source_relation.as_deref().ok_or(Unknown("a MERGE without a source"))?;
            walk.from(std::slice::from_ref(source))?;
            walk.maybe(join_condition.as_deref())?;
            for clause in merge_when_clauses {
                let Some(NodeEnum::MergeWhenClause(clause)) = &clause.node else {
                    return Err(Unknown("a MERGE clause of another kind"));
                };
                walk.merge_action(clause, join_condition.as_deref(), table)?;
                let protobuf::MergeWhenClause {
                    match_kind: _,
                    command_type: _,
                    r#override: _,
                    condition,
                    target_list,
                    values,
                } = &**clause;
                walk.maybe(condition.as_deref())?;
                let row = if clause.command_type() == CmdType::CmdInsert { Row::New } else { Row::There };
                walk.assign(target_list, table, row)?;
                walk.storing(|walk| walk.all(values))?;
            }
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    /// What a WHEN does is an action of its own, so that rules about deletes see it.
    fn merge_action(
        &mut self,
        clause: &protobuf::MergeWhenClause,
        join: Option<&Node>,
        table: (usize, usize),
    ) -> Walked {
        let kind = match clause.command_type() {
            CmdType::CmdInsert => Kind::Insert,
            CmdType::CmdUpdate => Kind::Update,
            CmdType::CmdDelete => Kind::Delete,
            CmdType::CmdNothing => return Ok(()),
            _ => return Err(Unknown("a MERGE action of another kind")),
        };
        // Rows without a match are chosen by nothing but the clause's own condition.
        let joined = clause.match_kind() == MergeMatchKind::MergeWhenMatched
            && join.is_some_and(|it| narrows(it, &mut self.left));
        let chosen = joined || clause.condition.as_deref().is_some_and(|it| narrows(it, &mut self.left));
        let tables = self.writes(table, &clause.target_list);
        self.extra.push(Action {
            kind,
            tables,
            functions: Vec::new(),
            has_where: (kind != Kind::Insert).then_some(chosen),
            has_limit: None,
            unparsed: None,
            runs_code: false,
        });
        Ok(())
    }

    /// The table that an action of its own writes, in the columns that it assigns; without any it writes all.
    fn writes(&self, (action, table): (usize, usize), assigned: &[Node]) -> Vec<TableUse> {
        let name = |it: &Node| if let Some(NodeEnum::ResTarget(it)) = &it.node { Some(it.name.clone()) } else { None };
        let used = self.actions.get(action).and_then(|it| it.tables.get(table)).cloned();
        used.map(|it| TableUse { columns: assigned.iter().filter_map(name).collect(), ..it }).into_iter().collect()
    }

    pub(super) fn with_if_any(&mut self, with: Option<&'a protobuf::WithClause>) -> Walked {
        with.map_or(Ok(()), |it| self.with(it))
    }

    pub(super) fn has_where(&mut self, condition: Option<&Node>) {
        let narrows = condition.is_some_and(|it| narrows(it, &mut self.left));
        if let Some(action) = self.action() {
            action.has_where = Some(narrows);
        }
    }

    pub(super) fn storing(&mut self, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        let before = std::mem::replace(&mut self.storing, true);
        let walked = body(self);
        self.storing = before;
        walked
    }

    /// `SET column = value`, of UPDATE, ON CONFLICT and MERGE.
    pub(super) fn assign(&mut self, targets: &'a [Node], table: (usize, usize), row: Row) -> Walked {
        self.written_columns(table, targets, row)?;
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else { return Err(Unknown("a SET of another kind")) };
            if let Some(value) = target.val.as_deref() {
                if self.is_untagged(table, &target.name) {
                    self.show(value);
                }
                self.storing(|walk| walk.visit(known(value)?))?;
            }
        }
        Ok(())
    }

    pub(super) fn written_columns(&mut self, table: (usize, usize), targets: &'a [Node], row: Row) -> Walked {
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else {
                return Err(Unknown("a target of another kind"));
            };
            self.write_column(table, &target.name, row);
            // A subscript is stored as well: as the key of an object, or the place in an array.
            self.storing(|walk| walk.all(&target.indirection))?;
        }
        Ok(())
    }

    pub(super) fn write_column(&mut self, table: (usize, usize), column: &str, row: Row) {
        self.add_column(table, column);
        let Exposure::Tagged(tagged) = self.exposure_of(table) else { return };
        match row {
            _ if column != "*" && !tagged.contains(column) => {}
            Row::New => self.seen.inserts_tagged = true,
            Row::There => drop(self.seen.writes_tagged.get_or_insert_with(|| column.to_owned())),
        }
    }

    pub(super) fn returning(
        &mut self,
        returning: Option<&'a protobuf::ReturningClause>,
        table: (usize, usize),
    ) -> Walked {
        let Some(protobuf::ReturningClause { options, exprs }) = returning else { return Ok(()) };
        if self.inner && !matches!(self.exposure_of(table), Exposure::Clear | Exposure::Unknown) {
            self.seen.reads_tagged = true;
        }
        for option in options {
            // PostgreSQL 18: WITH (OLD AS o, NEW AS n) names the target's own rows.
            let Some(NodeEnum::ReturningOption(option)) = &option.node else {
                return Err(Unknown("a RETURNING option of another kind"));
            };
            let exposure = self.exposure_of(table);
            self.seen.returns_computed = true;
            self.scopes.add(Item { name: &option.value, source: Source::Table { at: table, exposure, bare: true } });
        }
        self.seen.returns_computed |= !exprs.iter().all(is_column);
        self.all(exprs)
    }
}

fn is_column(target: &Node) -> bool {
    let value = if let Some(NodeEnum::ResTarget(it)) = &target.node { it.val.as_deref() } else { None };
    matches!(value.and_then(|it| it.node.as_ref()), Some(NodeEnum::ColumnRef(_)))
}

/// Whether a source is VALUES that give as many rows as are written.
fn is_values(source: &Node, left: &mut usize) -> bool {
    let Some(NodeEnum::SelectStmt(select)) = &source.node else { return false };
    !select.values_lists.is_empty()
        && select.values_lists.iter().all(|it| it.node.as_ref().is_some_and(|it| gives_one(it.to_ref(), left)))
}

/// Whether nothing in an expression may give several rows: it calls nothing but functions that are known not to.
fn gives_one(node: NodeRef<'_>, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    if *left == 0 {
        // The walk ends.
        return false;
    }
    if let NodeRef::FuncCall(call) = node
        && !name_parts(&call.funcname).is_ok_and(|it| functions::gives_one_value(&it))
    {
        return false;
    }
    // What a subquery gives is one value, whatever is in it.
    if matches!(node, NodeRef::SubLink(_)) {
        return true;
    }
    let mut all = true;
    let walked = parts(node, &mut |child| {
        all = all && gives_one(child, left);
        Ok(())
    });
    all && walked.is_ok()
}

fn is_null(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(it)) if it.isnull)
}

/// True unless a condition plainly holds for every row: `true`, `1 = 1`, `id = id`, `true OR id = 1`. Every node takes one of
/// the steps that are `left`: conditions hold statements with conditions of their own.
fn narrows(condition: &Node, left: &mut usize) -> bool {
    match condition.node.as_ref() {
        Some(NodeEnum::BoolExpr(it)) => match it.boolop() {
            protobuf::BoolExprType::OrExpr => it.args.iter().all(|it| narrows(it, left)),
            _ => it.args.iter().any(|it| narrows(it, left)),
        },
        Some(NodeEnum::AExpr(it)) => {
            let same = match (column_name(it.lexpr.as_deref()), column_name(it.rexpr.as_deref())) {
                (Some(left), Some(right)) => left == right,
                _ => false,
            };
            !same && condition.node.as_ref().is_some_and(|it| depends_on_row(it.to_ref(), left))
        }
        Some(other) => depends_on_row(other.to_ref(), left),
        None => false,
    }
}

/// Whether a query has a WHERE: each side of a UNION and the like that reads a table. None: none does.
fn where_of(select: &protobuf::SelectStmt, left: &mut usize) -> Option<bool> {
    match (&select.larg, &select.rarg) {
        (Some(one), Some(other)) => match (where_of(one, left), where_of(other, left)) {
            (Some(one), Some(other)) => Some(one && other),
            (one, other) => one.or(other),
        },
        _ if select.from_clause.is_empty() => None,
        _ => Some(select.where_clause.as_deref().is_some_and(|it| narrows(it, left))),
    }
}

fn column_name(node: Option<&Node>) -> Option<Vec<&str>> {
    match node?.node.as_ref()? {
        NodeEnum::ColumnRef(it) => name_parts(&it.fields).ok(),
        _ => None,
    }
}

fn depends_on_row(node: NodeRef<'_>, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    if *left == 0 {
        // The walk ends.
        return false;
    }
    if matches!(node, NodeRef::ColumnRef(_) | NodeRef::CurrentOfExpr(_)) {
        return true;
    }
    let mut found = false;
    let walked = parts(node, &mut |child| {
        found = found || depends_on_row(child, left);
        Ok(())
    });
    found && walked.is_ok()
}

/// Whether what is shown is called what masks call columns, by a name that is written.
fn is_named_like(target: &Node, set: &TaggedSet) -> bool {
    matches!(&target.node, Some(NodeEnum::ResTarget(it)) if set.is_masked_name(&it.name))
}
