//! From a raw parse tree to what a statement does: its actions, and what it has to do with tagged data.
//!
//! The walk visits every node (see [`super::descent`]) and gives meaning to those that have one: queries open scopes,
//! range variables are tables unless a CTE of that name is in scope, column references may belong to the tables in scope.
//! Where the text does not tell, the walk assumes more, never less.

mod bodies;
mod code;
mod query;
mod relation;
mod scope;
mod shown;

use std::collections::{BTreeSet, HashMap, HashSet};

use pg_query::protobuf::{self, a_const};
use pg_query::{Node, NodeEnum, NodeRef};

use self::scope::{Item, Scopes, Source};
use super::descent::{Unknown, Walked, parts};
use super::{AllColumns, Name};
use crate::policy::{Access, Action, Kind};
use crate::protocol::postgres::catalog::{Exposure, TaggedSet};

/// Also where nothing tagged is in the statement: the catalogs that it is planned by have pages, too, and statistics in them.
const COUNTS_PAGES: &str = "the pages and bytes that EXPLAIN counts (BUFFERS, WAL, MEMORY) tell how long values are; write BUFFERS OFF, \
                            beside ANALYZE from PostgreSQL 18 on, too";

/// What one statement was seen to do.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "observations that have nothing to do with each other")]
pub(super) struct Seen {
    /// Tagged and derived relations that it names.
    pub(super) touched: Vec<Touched>,
    /// Relations that the catalog does not know.
    pub(super) unknown: BTreeSet<(Option<String>, String)>,
    /// Not a plain SELECT, INSERT, UPDATE or DELETE, and what it is instead.
    pub(super) wrapper: Option<&'static str>,
    /// A DROP, a TRUNCATE or a LOCK: it shows nothing of what it names.
    pub(super) shows_nothing: bool,
    /// Why it is refused on any target with tagged data.
    pub(super) hazard: Option<String>,
    /// Why it is refused on every target.
    pub(super) pinned: Option<String>,
    /// It would let a session write that is only to read.
    pub(super) lets_write: bool,
    /// A SET of something by which nothing comes to mean something else.
    pub(super) keeps_meanings: bool,
    /// A function or operator that may run any code.
    pub(super) opaque_code: Option<String>,
    /// A function that has effects, or shows state, outside its result.
    pub(super) effect: Option<String>,
    /// Some part of it stores values.
    pub(super) writes_values: bool,
    /// A tagged relation is read, be it only to choose rows.
    pub(super) reads_tagged: bool,
    /// It gives tagged columns of new rows their values.
    pub(super) inserts_tagged: bool,
    /// What it returns is more than columns.
    pub(super) returns_computed: bool,
    /// A tagged column that it writes over.
    pub(super) writes_tagged: Option<String>,
    /// A tagged column that a stored value reads.
    pub(super) stores_tagged: Option<String>,
    /// A tagged relation used as a row.
    pub(super) whole_row: Option<String>,
    pub(super) name: Option<Name>,
    /// A relation of which a key has a tagged column, or a constraint or an index both tagged and other ones.
    pub(super) mixed: bool,
    /// Byte offsets of literals and parameters that plainly belong to an untagged column.
    pub(super) shown: HashSet<i32>,
    /// Byte offsets of parameters.
    pub(super) parameters: HashSet<i32>,
    /// Its strings carry secrets whatever they say.
    pub(super) secret_strings: bool,
    pub(super) all_columns: AllColumns,
}

#[derive(Debug)]
pub(super) struct Touched {
    pub(super) relation: String,
    pub(super) exposure: Exposure,
}

/// Whether it is where the statement itself shows columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Showing {
    #[default]
    Nothing,
    /// In the list of what it shows, where nothing has a name written that masks have.
    List,
    /// There, at all columns of something, as they are.
    All,
}

pub(super) struct Walk<'a> {
    set: &'a TaggedSet,
    actions: Vec<Action>,
    extra: Vec<Action>,
    at: usize,
    scopes: Scopes<'a>,
    /// Where in its action a table is used, by the action, the use, and the table's schema and name.
    uses: HashMap<(usize, Access, Option<String>, String), usize>,
    /// Steps that may still be taken beside visiting each node once; see [`Walk::spend`].
    left: usize,
    /// Within an expression whose value is stored.
    storing: bool,
    /// Within a CTE.
    inner: bool,
    /// Within the definition of a view or a rule, through which others write later.
    defining: bool,
    /// How a relation is used that a utility statement names.
    access: Access,
    /// How many bodies of code it stands in.
    depth: usize,
    showing: Showing,
    /// The setting that the column `name` is, in a query of pg_dump's: see [`code::pg_dumps_setting`].
    setting: Option<&'static str>,
    seen: Seen,
}

/// The actions of one statement, outermost first, and what else was seen. Comparing columns with tables takes of the steps
/// that are `left`; with none left the statement is not understood.
pub(super) fn walk(statement: &Node, set: &TaggedSet, left: &mut usize) -> Result<(Vec<Action>, Seen), Unknown> {
    walk_within(0, statement, set, left)
}

/// The same, of a statement within as many bodies of code.
fn walk_within(
    depth: usize,
    statement: &Node,
    set: &TaggedSet,
    left: &mut usize,
) -> Result<(Vec<Action>, Seen), Unknown> {
    let mut walk = Walk {
        set,
        actions: Vec::new(),
        extra: Vec::new(),
        at: 0,
        scopes: Scopes::default(),
        uses: HashMap::new(),
        left: *left,
        storing: false,
        inner: false,
        defining: false,
        access: Access::Read,
        depth,
        showing: Showing::Nothing,
        setting: None,
        seen: Seen::default(),
    };
    let walked = known(statement).and_then(|it| walk.visit(it)).and_then(|()| walk.in_bounds());
    *left = walk.left;
    walked?;
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
        self.in_bounds()?;
        self.word_of_newer_servers(node);
        match node {
            NodeRef::SelectStmt(it) => self.query(it),
            NodeRef::InsertStmt(it) => self.nested(Kind::Insert, |walk| walk.insert(it)),
            NodeRef::UpdateStmt(it) => self.nested(Kind::Update, |walk| walk.update(it)),
            NodeRef::DeleteStmt(it) => self.nested(Kind::Delete, |walk| walk.delete(it)),
            NodeRef::MergeStmt(it) => self.nested(Kind::Merge, |walk| walk.merge(it)),
            NodeRef::RangeVar(it) => self.relation(it, self.access).map(drop),
            NodeRef::RangeSubselect(it) => self.other_item(it.alias.as_ref(), node),
            NodeRef::RangeFunction(it) => self.functions_item(it),
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
                self.type_name(&name_parts(&it.names)?);
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

    /// Opens an action for `body`, and returns to the one before.
    fn nested(&mut self, kind: Kind, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        let before = self.at;
        self.at = self.actions.len();
        self.actions.push(Action::of(kind));
        let walked = body(self);
        self.at = before;
        walked
    }

    /// An action that a function call or an option adds to the statement's own.
    fn add_action(&mut self, kind: Kind, function: Option<&str>) {
        let functions: Vec<String> = function.into_iter().map(str::to_owned).collect();
        self.spend(self.extra.len());
        if !self.extra.iter().any(|it| it.kind == kind && it.functions == functions) {
            self.extra.push(Action { functions, ..Action::of(kind) });
        }
    }

    /// Something of it is not understood. The first such thing is told of.
    fn not_understood(&mut self, what: String) {
        if !self.extra.iter().any(|it| it.kind == Kind::Unparsed) {
            self.extra.push(Action::unparsed(what));
        }
    }

    fn action(&mut self) -> Option<&mut Action> {
        self.actions.get_mut(self.at)
    }

    fn scoped(&mut self, body: impl FnOnce(&mut Self) -> Walked) -> Walked {
        self.scopes.open();
        let walked = body(self);
        self.scopes.close();
        walked
    }

    /// Accounts for work that grows faster than the text. The next node ends the walk when it was too much.
    fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    fn in_bounds(&self) -> Walked {
        if self.left == 0 { Err(Unknown("it has too many names to compare with each other")) } else { Ok(()) }
    }

    fn utility(&mut self, node: NodeRef<'a>, utility: super::utility::Utility<'a>) -> Walked {
        let super::utility::Utility {
            kind,
            word,
            access,
            tables,
            also,
            hazard,
            pinned,
            cascades,
            lets_write,
            keeps_meanings,
            name,
            secret,
        } = utility;
        if let (Some(outer), true) = (self.seen.wrapper, matches!(kind, Kind::Execute)) {
            // What a prepared statement shows is checked by its result, and here it is wrapped.
            self.hazard(format!("{outer} of a prepared statement can show masked data"));
        }
        if matches!(kind, Kind::Drop | Kind::Truncate | Kind::Lock) && !cascades {
            self.seen.shows_nothing |= self.actions.is_empty();
        } else {
            self.seen.wrapper = self.seen.wrapper.or(Some(word));
        }
        if let Some(why) = hazard {
            self.hazard(why);
        }
        self.seen.pinned = self.seen.pinned.take().or(pinned);
        self.seen.lets_write |= lets_write;
        self.seen.keeps_meanings |= keeps_meanings && self.actions.is_empty();
        // EXPLAIN of a DECLARE makes no cursor: whatever has the name keeps it.
        let makes = |it: &Name| matches!(it, Name::Prepares(_) | Name::Declares(_));
        let name = name.filter(|it| self.actions.is_empty() || !makes(it));
        self.seen.name = self.seen.name.take().or(name);
        self.seen.secret_strings |= secret;
        // A statement inside a CREATE SCHEMA or a rule is not inside a query.
        let scopes = std::mem::take(&mut self.scopes);
        let before = std::mem::replace(&mut self.access, access);
        let defining = self.defining;
        self.defining |= matches!(node, NodeRef::ViewStmt(_) | NodeRef::RuleStmt(_));
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
        self.defining = defining;
        self.scopes = scopes;
        walked
    }

    fn hazard(&mut self, why: String) {
        self.seen.hazard = self.seen.hazard.take().or(Some(why));
    }

    fn children_of_utility(&mut self, node: NodeRef<'a>) -> Walked {
        match node {
            NodeRef::CopyStmt(it) => self.copy(it),
            NodeRef::DoStmt(it) => self.code(it),
            NodeRef::ExplainStmt(it) => {
                if super::inner::counts_pages(it, self.set.counts_buffers()) {
                    self.hazard(COUNTS_PAGES.to_owned());
                }
                self.children(node)
            }
            // SELECT INTO and CREATE TABLE AS write the new relation and read with their query.
            NodeRef::CreateTableAsStmt(it) => {
                if let Some(rel) = it.into.as_deref().and_then(|it| it.rel.as_ref()) {
                    self.relation(rel, Access::Write)?;
                }
                self.maybe(it.query.as_deref())
            }
            // Statements inside these are how the grammar writes their options.
            NodeRef::AlterSystemStmt(protobuf::AlterSystemStmt { setstmt })
            | NodeRef::AlterRoleSetStmt(protobuf::AlterRoleSetStmt { role: _, database: _, setstmt })
            | NodeRef::AlterDatabaseSetStmt(protobuf::AlterDatabaseSetStmt { dbname: _, setstmt }) => {
                let Some(setting) = setstmt else { return Ok(()) };
                // For sessions to come, instead of this one.
                let later = super::utility::set(setting)?;
                self.seen.pinned = self.seen.pinned.take().or(later.pinned);
                if let Some(why) = later.hazard {
                    self.hazard(why);
                }
                self.children(NodeRef::VariableSetStmt(setting))
            }
            NodeRef::AlterDefaultPrivilegesStmt(protobuf::AlterDefaultPrivilegesStmt { options, action }) => {
                self.all(options)?;
                action.as_ref().map_or(Ok(()), |it| self.children(NodeRef::GrantStmt(it)))
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
            walk.maybe(where_clause.as_deref())
        })?;
        self.all(options)
    }
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
