//! From a raw parse tree to what a statement does: its actions, and what it has to do with tagged data.
//!
//! The walk visits every node (see [`super::descent`]) and gives meaning to those that have one: queries open scopes,
//! range variables are tables unless a CTE of that name is in scope, column references may belong to the tables in scope.
//! Where the text does not tell, the walk assumes more, never less.

use std::collections::{BTreeSet, HashSet};

use pg_query::protobuf::{self, a_const};
use pg_query::{Node, NodeEnum, NodeRef};

use super::descent::{Unknown, Walked, parts};
use super::functions;
use crate::policy::{Access, Action, Kind, TableUse};
use crate::protocol::postgres::catalog::{Exposure, TaggedSet};

/// What one statement was seen to do.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Tagged and derived relations that it names.
    pub(super) touched: Vec<Touched>,
    /// Relations that the catalog does not know.
    pub(super) unknown: BTreeSet<(Option<String>, String)>,
    /// Not a plain SELECT, INSERT, UPDATE or DELETE, and what it is instead.
    pub(super) wrapper: Option<&'static str>,
    /// Why it is refused on any target with tagged data.
    pub(super) hazard: Option<String>,
    /// Why it is refused on every target.
    pub(super) pinned: Option<String>,
    /// A function or operator that may run any code.
    pub(super) opaque_code: Option<String>,
    /// A function that has effects, or shows state, outside its result.
    pub(super) effect: Option<String>,
    /// Some part of it stores values.
    pub(super) writes_values: bool,
    /// A tagged relation is read elsewhere than in a WHERE.
    pub(super) reads_tagged: bool,
    /// A tagged column that it writes.
    pub(super) writes_tagged: Option<String>,
    /// A tagged column that a stored value reads.
    pub(super) stores_tagged: Option<String>,
    /// A tagged relation used as a row.
    pub(super) whole_row: Option<String>,
    pub(super) name: Option<super::Name>,
    /// Byte offsets of literals and parameters that plainly belong to an untagged column.
    pub(super) shown: HashSet<i32>,
    /// Byte offsets of parameters.
    pub(super) parameters: HashSet<i32>,
    /// Its strings carry secrets whatever they say.
    pub(super) secret_strings: bool,
}

#[derive(Debug)]
pub(super) struct Touched {
    pub(super) relation: String,
    pub(super) exposure: Exposure,
}

/// Where in a query the walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// What is read here may end in a result or in a table.
    Value,
    /// What is read here only chooses rows.
    Where,
}

/// One query level.
#[derive(Default)]
struct Scope<'a> {
    ctes: Vec<&'a str>,
    items: Vec<Item<'a>>,
}

/// One item of a FROM list, or the target of a write.
struct Item<'a> {
    name: &'a str,
    source: Source,
}

enum Source {
    Table {
        /// Index of the action and of the table in it.
        at: (usize, usize),
        exposure: Exposure,
        /// Its columns have their own names here.
        bare: bool,
    },
    /// A subquery, a CTE, a function: its columns come from anywhere.
    Other,
}

pub(super) struct Walk<'a> {
    set: &'a TaggedSet,
    actions: Vec<Action>,
    extra: Vec<Action>,
    at: usize,
    scopes: Vec<Scope<'a>>,
    place: Place,
    /// Within an expression whose value is stored.
    storing: bool,
    /// Within a CTE.
    inner: bool,
    /// How a relation is used that a utility statement names.
    access: Access,
    seen: Seen,
}

/// The actions of one statement, outermost first, and what else was seen.
pub(super) fn walk(statement: &Node, set: &TaggedSet) -> Result<(Vec<Action>, Seen), Unknown> {
    let mut walk = Walk {
        set,
        actions: Vec::new(),
        extra: Vec::new(),
        at: 0,
        scopes: Vec::new(),
        place: Place::Value,
        storing: false,
        inner: false,
        access: Access::Read,
        seen: Seen::default(),
    };
    walk.visit(known(statement)?)?;
    if walk.actions.is_empty() {
        return Err(Unknown("a tree without a statement"));
    }
    walk.actions.append(&mut walk.extra);
    Ok((walk.actions, walk.seen))
}

fn known(node: &Node) -> Result<NodeRef<'_>, Unknown> {
    Ok(node.node.as_ref().ok_or(Unknown("an empty node"))?.to_ref())
}

/// The strings of a qualified name; anything else in it is not a name.
pub(super) fn name_parts(nodes: &[Node]) -> Result<Vec<&str>, Unknown> {
    nodes
        .iter()
        .map(|it| match &it.node {
            Some(NodeEnum::String(part)) => Ok(part.sval.as_str()),
            _ => Err(Unknown("a name that is none")),
        })
        .collect()
}

impl<'a> Walk<'a> {
    pub(super) fn visit(&mut self, node: NodeRef<'a>) -> Walked {
        match node {
            NodeRef::SelectStmt(it) => self.query(it),
            NodeRef::InsertStmt(it) => self.nested(Kind::Insert, |walk| walk.insert(it)),
            NodeRef::UpdateStmt(it) => self.nested(Kind::Update, |walk| walk.update(it)),
            NodeRef::DeleteStmt(it) => self.nested(Kind::Delete, |walk| walk.delete(it)),
            NodeRef::MergeStmt(it) => self.nested(Kind::Merge, |walk| walk.merge(it)),
            NodeRef::RangeVar(it) => self.relation(it, self.access).map(drop),
            NodeRef::RangeSubselect(it) => self.other_item(it.alias.as_ref(), node),
            NodeRef::RangeFunction(it) => self.other_item(it.alias.as_ref(), node),
            NodeRef::RangeTableFunc(it) => self.other_item(it.alias.as_ref(), node),
            NodeRef::JsonTable(it) => self.other_item(it.alias.as_ref(), node),
            NodeRef::RangeTableSample(it) => self.sample(it),
            NodeRef::JoinExpr(it) => self.join(it),
            NodeRef::WithClause(it) => self.with(it),
            // These name aliases of the FROM list, not relations.
            NodeRef::LockingClause(_) => Ok(()),
            NodeRef::ColumnRef(it) => self.column(it, false),
            NodeRef::AIndirection(it) => self.indirection(it),
            NodeRef::FuncCall(it) => self.call(it),
            NodeRef::AExpr(it) => self.operator_expression(it),
            NodeRef::SubLink(it) => {
                self.operator(&it.oper_name)?;
                self.children(node)
            }
            NodeRef::SortBy(it) => {
                self.operator(&it.use_op)?;
                self.show_ordinal(it.node.as_deref());
                self.children(node)
            }
            NodeRef::ResTarget(it) => self.target(it),
            NodeRef::TypeName(it) => {
                it.typmods.iter().for_each(|one| self.show(one));
                self.children(node)
            }
            NodeRef::ParamRef(it) => {
                self.seen.parameters.insert(it.location);
                Ok(())
            }
            // In a utility statement a bare name can be a relation's.
            NodeRef::String(it) if self.scopes.is_empty() => {
                self.sensitive_name(&it.sval);
                Ok(())
            }
            other => match super::utility::classify(other)? {
                Some(utility) => self.utility(other, utility),
                None => self.children(other),
            },
        }
    }

    fn children(&mut self, node: NodeRef<'a>) -> Walked {
        parts(node, &mut |child| self.visit(child))
    }

    fn all(&mut self, nodes: &'a [Node]) -> Walked {
        nodes.iter().try_for_each(|it| self.visit(known(it)?))
    }

    fn maybe(&mut self, node: Option<&'a Node>) -> Walked {
        node.map_or(Ok(()), |it| self.visit(known(it)?))
    }

    /// What chooses rows.
    fn filter(&mut self, node: Option<&'a Node>) -> Walked {
        let before = std::mem::replace(&mut self.place, Place::Where);
        let storing = std::mem::replace(&mut self.storing, false);
        let walked = self.maybe(node);
        self.place = before;
        self.storing = storing;
        walked
    }

    // --- actions ---------------------------------------------------------------------------------------------------

    /// Opens an action for `body`, and returns to the one before.
    fn nested(&mut self, kind: Kind, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        let before = self.at;
        self.at = self.actions.len();
        self.actions.push(Action { kind, tables: Vec::new(), functions: Vec::new(), has_where: None, has_limit: None });
        let walked = body(self);
        self.at = before;
        walked
    }

    /// An action that a function call or an option adds to the statement's own.
    fn add_action(&mut self, kind: Kind, function: Option<&str>) {
        let functions: Vec<String> = function.into_iter().map(str::to_owned).collect();
        if !self.extra.iter().any(|it| it.kind == kind && it.functions == functions) {
            self.extra.push(Action { kind, tables: Vec::new(), functions, has_where: None, has_limit: None });
        }
    }

    fn action(&mut self) -> Option<&mut Action> {
        self.actions.get_mut(self.at)
    }

    fn scoped(&mut self, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        self.scopes.push(Scope::default());
        let walked = body(self);
        self.scopes.pop();
        walked
    }

    /// A SELECT that stands for itself is an action; one inside another statement belongs to that one.
    fn query(&mut self, select: &'a protobuf::SelectStmt) -> Walked {
        if !self.scopes.is_empty() {
            return self.select(select);
        }
        self.nested(Kind::Select, |walk| {
            let limited = select.limit_count.as_deref().is_some_and(|it| !is_null(it));
            if let Some(action) = walk.action() {
                action.has_limit = Some(limited);
            }
            walk.select(select)
        })
    }

    fn utility(&mut self, node: NodeRef<'a>, utility: super::utility::Utility<'a>) -> Walked {
        let super::utility::Utility { kind, word, access, tables, also, hazard, pinned, name, secret } = utility;
        if let (Some(outer), true) = (self.seen.wrapper, matches!(kind, Kind::Execute)) {
            // What a prepared statement shows is checked by its result, and here it is wrapped.
            self.hazard(format!("{outer} of a prepared statement can show masked data"));
        }
        self.seen.wrapper = self.seen.wrapper.or(Some(word));
        if let Some(why) = hazard {
            self.hazard(why);
        }
        self.seen.pinned = self.seen.pinned.take().or(pinned);
        self.seen.name = self.seen.name.take().or(name);
        self.seen.secret_strings |= secret;
        // A statement inside a CREATE SCHEMA or a rule is not inside a query.
        let scopes = std::mem::take(&mut self.scopes);
        let before = std::mem::replace(&mut self.access, access);
        let walked = self.nested(kind, |walk| {
            for parts in tables {
                walk.table_by_parts(&parts, access)?;
            }
            for kind in also {
                walk.add_action(kind, None);
            }
            walk.children_of_utility(node)
        });
        self.access = before;
        self.scopes = scopes;
        walked
    }

    fn hazard(&mut self, why: String) {
        self.seen.hazard = self.seen.hazard.take().or(Some(why));
    }

    fn children_of_utility(&mut self, node: NodeRef<'a>) -> Walked {
        match node {
            NodeRef::CopyStmt(it) => self.copy(it),
            // SELECT INTO and CREATE TABLE AS write the new relation and read with their query.
            NodeRef::CreateTableAsStmt(it) => {
                if let Some(rel) = it.into.as_deref().and_then(|it| it.rel.as_ref()) {
                    self.relation(rel, Access::Write)?;
                }
                self.maybe(it.query.as_deref())
            }
            other => self.children(other),
        }
    }

    fn copy(&mut self, copy: &'a protobuf::CopyStmt) -> Walked {
        let protobuf::CopyStmt { relation, query, attlist, is_from, is_program: _, filename: _, options, where_clause } =
            copy;
        self.maybe(query.as_deref())?;
        self.scoped(|walk| {
            if let Some(relation) = relation {
                let access = if *is_from { Access::Write } else { Access::Read };
                let index = walk.target_table(relation, access)?;
                let columns = if attlist.is_empty() { vec!["*"] } else { name_parts(attlist)? };
                for column in columns {
                    walk.add_column(index, column);
                }
            }
            walk.filter(where_clause.as_deref())
        })?;
        self.all(options)
    }

    // --- queries ---------------------------------------------------------------------------------------------------

    fn select(&mut self, select: &'a protobuf::SelectStmt) -> Walked {
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
        self.scoped(|walk| {
            if let Some(with) = with_clause {
                walk.with(with)?;
            }
            for side in [larg, rarg].into_iter().flatten() {
                walk.select(side)?;
            }
            if let Some(into) = into_clause {
                walk.select_into(into)?;
            }
            walk.from(from_clause)?;
            walk.all(target_list)?;
            walk.filter(where_clause.as_deref())?;
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
        })
    }

    fn select_into(&mut self, into: &'a protobuf::IntoClause) -> Walked {
        self.seen.wrapper = self.seen.wrapper.or(Some("SELECT INTO"));
        let Some(rel) = &into.rel else { return Err(Unknown("INTO without a relation")) };
        let schema = (!rel.schemaname.is_empty()).then_some(rel.schemaname.as_str());
        self.nested(Kind::Create, |walk| {
            walk.table(schema, &rel.relname, Access::Write);
            Ok(())
        })
    }

    fn from(&mut self, items: &'a [Node]) -> Walked {
        let before = std::mem::replace(&mut self.access, Access::Read);
        let walked = self.all(items);
        self.access = before;
        walked
    }

    fn with(&mut self, with: &'a protobuf::WithClause) -> Walked {
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
            let (inner, storing) = (self.inner, self.storing);
            (self.inner, self.storing) = (true, false);
            let walked = self.maybe(ctequery.as_deref());
            (self.inner, self.storing) = (inner, storing);
            walked?;
            if let Some(cycle) = cycle_clause {
                self.children(NodeRef::CtecycleClause(cycle))?;
            }
            self.cte_name(&cte.ctename);
        }
        Ok(())
    }

    fn cte_name(&mut self, name: &'a str) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.ctes.push(name);
        }
    }

    fn insert(&mut self, insert: &'a protobuf::InsertStmt) -> Walked {
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
            let outside = walk.scopes.last().map_or(0, |it| it.items.len());
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("an INSERT without a table"))?, Access::Write)?;
            if cols.is_empty() && select_stmt.is_some() {
                walk.write_column(table, "*");
            }
            walk.written_columns(table, cols)?;
            if let Some(source) = select_stmt.as_deref() {
                // The source does not see the target.
                let hidden = walk.scopes.last_mut().map(|it| it.items.split_off(outside)).unwrap_or_default();
                walk.show_values(cols, source, &hidden);
                walk.storing(|walk| walk.visit(known(source)?))?;
                if let Some(scope) = walk.scopes.last_mut() {
                    scope.items.extend(hidden);
                }
            }
            if let Some(conflict) = on_conflict_clause {
                walk.on_conflict(conflict, table)?;
            }
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    fn on_conflict(&mut self, conflict: &'a protobuf::OnConflictClause, table: (usize, usize)) -> Walked {
        let protobuf::OnConflictClause { action: _, infer, target_list, where_clause, location: _ } = conflict;
        if let Some(infer) = infer {
            let before = std::mem::replace(&mut self.place, Place::Where);
            let walked = self.children(NodeRef::InferClause(infer));
            self.place = before;
            walked?;
        }
        let exposure = self.exposure_of(table);
        if let Some(scope) = self.scopes.last_mut() {
            scope.items.push(Item { name: "excluded", source: Source::Table { at: table, exposure, bare: true } });
        }
        self.assign(target_list, table)?;
        self.filter(where_clause.as_deref())
    }

    fn update(&mut self, update: &'a protobuf::UpdateStmt) -> Walked {
        let protobuf::UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } =
            update;
        self.seen.writes_values = true;
        self.has_where(where_clause.as_deref());
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("an UPDATE without a table"))?, Access::Write)?;
            walk.from(from_clause)?;
            walk.assign(target_list, table)?;
            walk.filter(where_clause.as_deref())?;
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    fn delete(&mut self, delete: &'a protobuf::DeleteStmt) -> Walked {
        let protobuf::DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = delete;
        self.has_where(where_clause.as_deref());
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("a DELETE without a table"))?, Access::Write)?;
            walk.from(using_clause)?;
            walk.filter(where_clause.as_deref())?;
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    fn merge(&mut self, merge: &'a protobuf::MergeStmt) -> Walked {
        let protobuf::MergeStmt {
            relation,
            source_relation,
            join_condition,
            merge_when_clauses,
            returning_clause,
            with_clause,
        } = merge;
        self.seen.writes_values = true;
        self.seen.wrapper = self.seen.wrapper.or(Some("MERGE"));
        self.scoped(|walk| {
            walk.with_if_any(with_clause.as_ref())?;
            let table =
                walk.target_table(relation.as_ref().ok_or(Unknown("a MERGE without a table"))?, Access::Write)?;
            let source = source_relation.as_deref().ok_or(Unknown("a MERGE without a source"))?;
            walk.from(std::slice::from_ref(source))?;
            walk.filter(join_condition.as_deref())?;
            for clause in merge_when_clauses {
                let Some(NodeEnum::MergeWhenClause(clause)) = &clause.node else {
                    return Err(Unknown("a MERGE clause of another kind"));
                };
                let protobuf::MergeWhenClause {
                    match_kind: _,
                    command_type: _,
                    r#override: _,
                    condition,
                    target_list,
                    values,
                } = &**clause;
                walk.filter(condition.as_deref())?;
                walk.assign(target_list, table)?;
                walk.storing(|walk| walk.all(values))?;
            }
            walk.returning(returning_clause.as_ref(), table)
        })
    }

    fn with_if_any(&mut self, with: Option<&'a protobuf::WithClause>) -> Walked {
        with.map_or(Ok(()), |it| self.with(it))
    }

    fn has_where(&mut self, condition: Option<&Node>) {
        let narrows = condition.is_some_and(narrows);
        if let Some(action) = self.action() {
            action.has_where = Some(narrows);
        }
    }

    fn storing(&mut self, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        let before = std::mem::replace(&mut self.storing, true);
        let walked = body(self);
        self.storing = before;
        walked
    }

    /// `SET column = value`, of UPDATE, ON CONFLICT and MERGE.
    fn assign(&mut self, targets: &'a [Node], table: (usize, usize)) -> Walked {
        self.written_columns(table, targets)?;
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else { return Err(Unknown("a SET of another kind")) };
            if let Some(value) = target.val.as_deref() {
                if self.is_untagged(table, &target.name) {
                    self.show(value);
                }
                self.storing(|walk| walk.visit(known(value)?))?;
            }
            self.all(&target.indirection)?;
        }
        Ok(())
    }

    fn written_columns(&mut self, table: (usize, usize), targets: &'a [Node]) -> Walked {
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else {
                return Err(Unknown("a target of another kind"));
            };
            self.write_column(table, &target.name);
        }
        Ok(())
    }

    fn write_column(&mut self, table: (usize, usize), column: &str) {
        self.add_column(table, column);
        if let Exposure::Tagged(tagged) = self.exposure_of(table)
            && (column == "*" || tagged.contains(column))
        {
            self.seen.writes_tagged.get_or_insert_with(|| column.to_owned());
        }
    }

    fn returning(&mut self, returning: Option<&'a protobuf::ReturningClause>, table: (usize, usize)) -> Walked {
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
            if let Some(scope) = self.scopes.last_mut() {
                scope
                    .items
                    .push(Item { name: &option.value, source: Source::Table { at: table, exposure, bare: true } });
            }
        }
        self.all(exprs)
    }

    // --- FROM ------------------------------------------------------------------------------------------------------

    fn join(&mut self, join: &'a protobuf::JoinExpr) -> Walked {
        let protobuf::JoinExpr {
            jointype: _,
            is_natural: _,
            larg,
            rarg,
            using_clause,
            join_using_alias,
            quals,
            alias,
            rtindex: _,
        } = join;
        self.maybe(larg.as_deref())?;
        self.maybe(rarg.as_deref())?;
        for column in name_parts(using_clause)? {
            self.may_belong(column);
        }
        self.filter(quals.as_deref())?;
        for alias in [join_using_alias, alias].into_iter().flatten() {
            self.add_item(&alias.aliasname, Source::Other);
        }
        Ok(())
    }

    fn sample(&mut self, sample: &'a protobuf::RangeTableSample) -> Walked {
        let protobuf::RangeTableSample { relation, method, args, repeatable, location: _ } = sample;
        self.maybe(relation.as_deref())?;
        self.function(&name_parts(method)?)?;
        self.all(args)?;
        self.maybe(repeatable.as_deref())
    }

    fn other_item(&mut self, alias: Option<&'a protobuf::Alias>, node: NodeRef<'a>) -> Walked {
        self.children(node)?;
        self.add_item(alias.map_or("", |it| it.aliasname.as_str()), Source::Other);
        Ok(())
    }

    fn add_item(&mut self, name: &'a str, source: Source) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.items.push(Item { name, source });
        }
    }

    /// A relation in a FROM list, or one that a utility statement names.
    fn relation(&mut self, range: &'a protobuf::RangeVar, access: Access) -> Result<Option<(usize, usize)>, Unknown> {
        let is_cte = access == Access::Read
            && range.schemaname.is_empty()
            && self.scopes.iter().any(|it| it.ctes.contains(&range.relname.as_str()));
        if is_cte {
            let name = range.alias.as_ref().map_or(&range.relname, |it| &it.aliasname);
            self.add_item(name, Source::Other);
            return Ok(None);
        }
        self.target_table(range, access).map(Some)
    }

    /// A relation that no CTE can stand for.
    fn target_table(&mut self, range: &'a protobuf::RangeVar, access: Access) -> Result<(usize, usize), Unknown> {
        if range.relname.is_empty() {
            return Err(Unknown("a relation without a name"));
        }
        let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
        let (at, exposure) = self.table(schema, &range.relname, access);
        let (name, bare) = match &range.alias {
            Some(alias) => (&alias.aliasname, alias.colnames.is_empty()),
            None => (&range.relname, true),
        };
        self.add_item(name, Source::Table { at, exposure, bare });
        Ok(at)
    }

    fn table_by_parts(&mut self, parts: &[&str], access: Access) -> Walked {
        match parts {
            [.., schema, name] => drop(self.table(Some(schema), name, access)),
            [name] => drop(self.table(None, name, access)),
            [] => return Err(Unknown("an empty name")),
        }
        Ok(())
    }

    fn table(&mut self, schema: Option<&str>, name: &str, access: Access) -> ((usize, usize), Exposure) {
        let exposure = self.set.exposure(schema, name);
        match &exposure {
            Exposure::Tagged(_) | Exposure::Derived => {
                self.touch(name, &exposure);
                self.seen.reads_tagged |= access == Access::Read && self.place == Place::Value;
            }
            Exposure::Unknown => {
                self.seen.unknown.insert((schema.map(str::to_owned), name.to_owned()));
            }
            Exposure::Clear => {}
        }
        let at = self.at;
        let Some(action) = self.action() else { return ((at, 0), exposure) };
        let known = |it: &TableUse| it.schema.as_deref() == schema && it.name == name && it.access == access;
        let index = action.tables.iter().position(known).unwrap_or_else(|| {
            action.tables.push(TableUse {
                schema: schema.map(str::to_owned),
                name: name.to_owned(),
                access,
                columns: BTreeSet::new(),
            });
            action.tables.len() - 1
        });
        ((at, index), exposure)
    }

    fn touch(&mut self, relation: &str, exposure: &Exposure) {
        if !self.seen.touched.iter().any(|it| it.relation == relation && it.exposure == *exposure) {
            self.seen.touched.push(Touched { relation: relation.to_owned(), exposure: exposure.clone() });
        }
    }

    fn sensitive_name(&mut self, name: &str) {
        if self.set.is_sensitive_name(name) {
            let exposure = self.set.exposure(None, name);
            self.touch(name, &exposure);
        }
    }

    // --- columns ---------------------------------------------------------------------------------------------------

    fn column(&mut self, column: &'a protobuf::ColumnRef, in_target_list: bool) -> Walked {
        let star = matches!(column.fields.last().and_then(|it| it.node.as_ref()), Some(NodeEnum::AStar(_)));
        let named = if star { &column.fields[..column.fields.len() - 1] } else { &column.fields[..] };
        match (name_parts(named)?.as_slice(), star) {
            ([], true) => {
                let scope = self.scopes.len().saturating_sub(1);
                self.refer(|at, _| at == scope, "*");
            }
            ([.., item], true) => {
                if !in_target_list {
                    self.row_of(item);
                }
                self.qualified(item, "*");
            }
            ([name], false) => {
                // A bare name is a column's, or else a whole row's.
                self.row_of(name);
                self.may_belong(name);
            }
            ([.., item, name], false) => {
                if self.set.user_function(name).takes_row {
                    self.function(&[name])?;
                }
                self.qualified(item, name);
            }
            ([], false) => return Err(Unknown("a column without a name")),
        }
        Ok(())
    }

    /// Notes a column of every item that `which` picks by (scope, name).
    fn refer(&mut self, which: impl Fn(usize, &str) -> bool, column: &str) {
        let mut tables = Vec::new();
        for (at, scope) in self.scopes.iter().enumerate() {
            for item in &scope.items {
                if let Source::Table { at: table, .. } = item.source
                    && which(at, item.name)
                {
                    tables.push(table);
                }
            }
        }
        for table in tables {
            self.read_column(table, column);
        }
    }

    fn may_belong(&mut self, column: &str) {
        self.refer(|_, _| true, column);
    }

    fn qualified(&mut self, item: &str, column: &str) {
        let mut scopes = self.scopes.iter().enumerate().rev();
        match scopes.find(|(_, scope)| scope.items.iter().any(|it| it.name == item)) {
            Some((at, _)) => self.refer(|scope, name| scope == at && name == item, column),
            // A name that this walk does not follow (OLD, NEW, a join's alias) may be any table's.
            None => self.may_belong(column),
        }
    }

    /// A table's name where a value is expected is its whole row.
    fn row_of(&mut self, name: &str) {
        let is_tagged = |it: &Item<'_>| {
            it.name == name && matches!(&it.source, Source::Table { exposure: Exposure::Tagged(_), .. })
        };
        if self.scopes.iter().flat_map(|it| &it.items).any(is_tagged) {
            self.seen.whole_row.get_or_insert_with(|| name.to_owned());
        }
        self.refer(|_, item| item == name, "*");
    }

    fn read_column(&mut self, table: (usize, usize), column: &str) {
        if let Exposure::Tagged(tagged) = self.exposure_of(table)
            && self.storing
            && (column == "*" || tagged.contains(column))
        {
            self.seen.stores_tagged.get_or_insert_with(|| column.to_owned());
        }
        let Some(used) = self.actions.get(table.0).and_then(|it| it.tables.get(table.1)) else { return };
        if used.access == Access::Write {
            // What is read of the written table is a use of its own.
            let (schema, name) = (used.schema.clone(), used.name.clone());
            let Some(action) = self.actions.get_mut(table.0) else { return };
            let known = |it: &&mut TableUse| it.access == Access::Read && it.schema == schema && it.name == name;
            if let Some(read) = action.tables.iter_mut().find(known) {
                read.columns.insert(column.to_owned());
            } else {
                let columns = BTreeSet::from([column.to_owned()]);
                action.tables.push(TableUse { schema, name, access: Access::Read, columns });
            }
        } else {
            self.add_column(table, column);
        }
    }

    fn add_column(&mut self, table: (usize, usize), column: &str) {
        if let Some(used) = self.actions.get_mut(table.0).and_then(|it| it.tables.get_mut(table.1))
            && !used.columns.contains(column)
        {
            used.columns.insert(column.to_owned());
        }
    }

    fn exposure_of(&self, table: (usize, usize)) -> Exposure {
        let used = self.actions.get(table.0).and_then(|it| it.tables.get(table.1));
        used.map_or(Exposure::Unknown, |it| self.set.exposure(it.schema.as_deref(), &it.name))
    }

    fn is_untagged(&self, table: (usize, usize), column: &str) -> bool {
        match self.exposure_of(table) {
            Exposure::Clear | Exposure::Unknown => true,
            Exposure::Tagged(tagged) => !tagged.contains(column),
            Exposure::Derived => false,
        }
    }

    fn indirection(&mut self, indirection: &'a protobuf::AIndirection) -> Walked {
        for step in &indirection.indirection {
            if let Some(NodeEnum::String(field)) = &step.node
                && self.set.user_function(&field.sval).takes_row
            {
                self.function(&[&field.sval])?;
            }
        }
        self.children(NodeRef::AIndirection(indirection))
    }

    fn target(&mut self, target: &'a protobuf::ResTarget) -> Walked {
        let protobuf::ResTarget { name: _, indirection, val, location: _ } = target;
        self.all(indirection)?;
        match val.as_deref().map(known).transpose()? {
            Some(NodeRef::ColumnRef(column)) => self.column(column, true),
            Some(other) => self.visit(other),
            None => Ok(()),
        }
    }

    // --- functions and operators -----------------------------------------------------------------------------------

    fn call(&mut self, call: &'a protobuf::FuncCall) -> Walked {
        let protobuf::FuncCall {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = call;
        let parts = name_parts(funcname)?;
        self.function(&parts)?;
        if functions::is_system(&parts, "set_config") {
            self.set_config(args);
        }
        self.all(args)?;
        self.all(agg_order)?;
        self.maybe(agg_filter.as_deref())?;
        match over {
            Some(over) => self.children(NodeRef::WindowDef(over)),
            None => Ok(()),
        }
    }

    fn function(&mut self, parts: &[&str]) -> Walked {
        let Some(name) = parts.last() else { return Err(Unknown("a function without a name")) };
        let written = parts.join(".");
        if let Some(kind) = functions::also(name) {
            self.add_action(kind, Some(&written));
        }
        self.seen.secret_strings |= functions::takes_secrets(name);
        let shadowed = parts.len() == 1 && self.set.user_function(name).shadows;
        match functions::nature(parts) {
            functions::Nature::Pure if !shadowed => {}
            functions::Nature::Effect if !shadowed => {
                self.seen.effect.get_or_insert_with(|| written.clone());
            }
            _ => {
                self.seen.opaque_code.get_or_insert_with(|| written.clone());
            }
        }
        self.note_function(written);
        Ok(())
    }

    fn note_function(&mut self, name: String) {
        if let Some(action) = self.action()
            && !action.functions.contains(&name)
        {
            action.functions.push(name);
        }
    }

    /// `set_config` is SET by another name.
    fn set_config(&mut self, args: &[Node]) {
        let (name, value) = (args.first().and_then(string), args.get(1).and_then(string));
        if let Some(name) = name {
            self.add_action(super::utility::setting_kind(name), Some("set_config"));
            let refused = super::utility::pinned(name, value);
            self.seen.pinned = self.seen.pinned.take().or(refused);
        } else {
            self.add_action(Kind::Set, Some("set_config"));
            self.add_action(Kind::SetRole, Some("set_config"));
        }
    }

    fn operator(&mut self, name: &[Node]) -> Walked {
        let parts = name_parts(name)?;
        match parts.as_slice() {
            [] => {}
            [.., schema, operator] => {
                let written = format!("operator({schema}.{operator})");
                if *schema != "pg_catalog" {
                    self.seen.opaque_code.get_or_insert_with(|| written.clone());
                    self.note_function(written);
                }
            }
            [operator] => {
                if self.set.is_user_operator(operator) {
                    self.seen.opaque_code.get_or_insert_with(|| format!("operator({operator})"));
                }
            }
        }
        Ok(())
    }

    fn operator_expression(&mut self, expression: &'a protobuf::AExpr) -> Walked {
        self.operator(&expression.name)?;
        let sides = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
        if let (Some(left), Some(right)) = sides {
            if self.is_plain_column(left) {
                self.show(right);
            }
            if self.is_plain_column(right) {
                self.show(left);
            }
        }
        self.maybe(sides.0)?;
        self.maybe(sides.1)
    }

    // --- what may be shown to people -------------------------------------------------------------------------------

    /// Marks a literal, or a list of literals, as plainly not a tagged column's.
    fn show(&mut self, node: &Node) {
        match &node.node {
            Some(NodeEnum::AConst(it)) => drop(self.seen.shown.insert(it.location)),
            Some(NodeEnum::ParamRef(it)) => drop(self.seen.shown.insert(it.location)),
            Some(NodeEnum::TypeCast(it)) => it.arg.iter().for_each(|one| self.show(one)),
            Some(NodeEnum::List(it)) => it.items.iter().for_each(|one| self.show(one)),
            Some(NodeEnum::AArrayExpr(it)) => it.elements.iter().for_each(|one| self.show(one)),
            // Anything else is an expression, and stays hidden.
            _ => {}
        }
    }

    /// `ORDER BY 2` is a position.
    fn show_ordinal(&mut self, node: Option<&Node>) {
        if let Some(NodeEnum::AConst(it)) = node.and_then(|it| it.node.as_ref())
            && matches!(it.val, Some(a_const::Val::Ival(_)))
        {
            self.seen.shown.insert(it.location);
        }
    }

    /// The literals of a VALUES list whose columns are named and untagged.
    fn show_values(&mut self, cols: &[Node], source: &Node, target: &[Item<'_>]) {
        let Some(NodeEnum::SelectStmt(select)) = &source.node else { return };
        let Some(Item { source: Source::Table { exposure, .. }, .. }) = target.first() else { return };
        let open = |col: &Node| match (&col.node, exposure) {
            (Some(NodeEnum::ResTarget(_)), Exposure::Clear | Exposure::Unknown) => true,
            (Some(NodeEnum::ResTarget(it)), Exposure::Tagged(tagged)) => !tagged.contains(&it.name),
            _ => false,
        };
        let open: Vec<bool> = cols.iter().map(open).collect();
        for row in &select.values_lists {
            let Some(NodeEnum::List(row)) = &row.node else { continue };
            for (value, _) in row.items.iter().zip(&open).filter(|(_, open)| **open) {
                self.show(value);
            }
        }
    }

    /// True for a column that can only be an untagged one of a table in scope.
    fn is_plain_column(&self, node: &Node) -> bool {
        let fields = match &node.node {
            Some(NodeEnum::ColumnRef(it)) => &it.fields,
            Some(NodeEnum::TypeCast(it)) => return it.arg.as_deref().is_some_and(|it| self.is_plain_column(it)),
            _ => return false,
        };
        let Ok(parts) = name_parts(fields) else { return false };
        let plain = |it: &Item<'_>, column: &str| match &it.source {
            Source::Table { exposure: Exposure::Clear | Exposure::Unknown, bare, .. } => *bare,
            Source::Table { exposure: Exposure::Tagged(tagged), bare, .. } => *bare && !tagged.contains(column),
            Source::Table { exposure: Exposure::Derived, .. } | Source::Other => false,
        };
        let mut items = self.scopes.iter().flat_map(|it| &it.items);
        match parts.as_slice() {
            [column] => items.all(|it| plain(it, column)),
            [.., item, column] => {
                let mut named = items.filter(|it| it.name == *item).peekable();
                named.peek().is_some() && named.all(|it| plain(it, column))
            }
            [] => false,
        }
    }
}

fn is_null(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(it)) if it.isnull)
}

/// The value of a string literal, cast or not.
pub(super) fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::AConst(it) => match it.val.as_ref()? {
            a_const::Val::Sval(it) => Some(&it.sval),
            _ => None,
        },
        NodeEnum::TypeCast(it) => string(it.arg.as_deref()?),
        _ => None,
    }
}

/// True unless a condition plainly holds for every row: `true`, `1 = 1`, `id = id`, `true OR id = 1`.
fn narrows(condition: &Node) -> bool {
    match condition.node.as_ref() {
        Some(NodeEnum::BoolExpr(it)) => match it.boolop() {
            protobuf::BoolExprType::OrExpr => it.args.iter().all(narrows),
            _ => it.args.iter().any(narrows),
        },
        Some(NodeEnum::AExpr(it)) => {
            let same = match (column_name(it.lexpr.as_deref()), column_name(it.rexpr.as_deref())) {
                (Some(left), Some(right)) => left == right,
                _ => false,
            };
            !same && condition.node.as_ref().is_some_and(|it| depends_on_row(it.to_ref()))
        }
        Some(other) => depends_on_row(other.to_ref()),
        None => false,
    }
}

fn column_name(node: Option<&Node>) -> Option<Vec<&str>> {
    match node?.node.as_ref()? {
        NodeEnum::ColumnRef(it) => name_parts(&it.fields).ok(),
        _ => None,
    }
}

fn depends_on_row(node: NodeRef<'_>) -> bool {
    if matches!(node, NodeRef::ColumnRef(_) | NodeRef::CurrentOfExpr(_)) {
        return true;
    }
    let mut found = false;
    let walked = parts(node, &mut |child| {
        found |= depends_on_row(child);
        Ok(())
    });
    found && walked.is_ok()
}
