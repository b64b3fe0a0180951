//! Which literals and parameters people may see beside tagged data: those that plainly belong to an untagged column.

use pg_query::protobuf::a_const;
use pg_query::{Node, NodeEnum};

use super::scope::Of;
use super::{Item, Source, Walk, name_parts};
use crate::protocol::postgres::catalog::Exposure;

impl Walk<'_> {
    /// Marks a literal, or a list of literals, as plainly not a tagged column's.
    pub(super) fn show(&mut self, node: &Node) {
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
    pub(super) fn show_ordinal(&mut self, node: Option<&Node>) {
        if let Some(NodeEnum::AConst(it)) = node.and_then(|it| it.node.as_ref())
            && matches!(it.val, Some(a_const::Val::Ival(_)))
        {
            self.seen.shown.insert(it.location);
        }
    }

    /// The literals of a VALUES list whose columns are named and untagged.
    pub(super) fn show_values(&mut self, cols: &[Node], source: &Node, target: &[Item<'_>]) {
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
    pub(super) fn is_plain_column(&mut self, node: &Node) -> bool {
        let fields = match &node.node {
            Some(NodeEnum::ColumnRef(it)) => &it.fields,
            Some(NodeEnum::TypeCast(it)) => return it.arg.as_deref().is_some_and(|it| self.is_plain_column(it)),
            _ => return false,
        };
        let Ok(parts) = name_parts(fields) else { return false };
        let plain = |it: &Item<'_>, column: &str| match &it.source {
            Source::Table { exposure: Exposure::Clear | Exposure::Unknown, bare, .. } => *bare,
            Source::Table { exposure: Exposure::Tagged(tagged), bare, .. } => *bare && !tagged.contains(column),
            Source::Table { exposure: Exposure::Derived, .. } | Source::Function { .. } | Source::Other => false,
        };
        let (of, column) = match parts.as_slice() {
            [column] => (Of::Any, column),
            [.., item, column] if self.scopes.has(item) => (Of::Named(item), column),
            _ => return false,
        };
        // A statement that names a column where the server finds none fails and is recorded: its writer may have meant a tagged one.
        if self.set.is_tagged_column_name(column) {
            return false;
        }
        let mut looked_at = 0;
        let is_plain = self.scopes.of(of).inspect(|_| looked_at += 1).all(|it| plain(it, column));
        self.spend(looked_at);
        is_plain
    }
}
