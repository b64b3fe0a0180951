//! Names of relations and of columns, and what they stand for where they are written.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use pg_query::{NodeEnum, NodeRef, protobuf};

use super::scope::Of;
use super::{Item, Showing, Source, Touched, Walk, known, name_parts};
use crate::policy::{Access, Kind, TableUse};
use crate::protocol::postgres::catalog::{COVERED, Exposure};
use crate::protocol::postgres::operation::descent::{Unknown, Walked};
use crate::protocol::postgres::operation::functions;

/// In the place of a column's name, which is never empty: the row itself.
const WHOLE_ROW: &str = "";

impl<'a> Walk<'a> {
    pub(super) fn join(&mut self, join: &'a protobuf::JoinExpr) -> Walked {
        let protobuf::JoinExpr {
            jointype: _,
            is_natural,
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
        self.maybe(quals.as_deref())?;
        if alias.is_some() {
            // It hides what the columns are called.
            self.any_column_of(Of::Innermost);
        } else if *is_natural {
            // It compares columns that nobody names.
            self.all_columns_of(Of::Innermost);
        }
        for alias in [join_using_alias, alias].into_iter().flatten() {
            self.add_item(&alias.aliasname, Source::Other);
        }
        Ok(())
    }

    pub(super) fn sample(&mut self, sample: &'a protobuf::RangeTableSample) -> Walked {
        let protobuf::RangeTableSample { relation, method, args, repeatable, location: _ } = sample;
        self.maybe(relation.as_deref())?;
        self.function(&name_parts(method)?)?;
        self.all(args)?;
        self.maybe(repeatable.as_deref())
    }

    pub(super) fn other_item(&mut self, alias: Option<&'a protobuf::Alias>, node: NodeRef<'a>) -> Walked {
        self.children(node)?;
        self.add_item(alias.map_or("", |it| it.aliasname.as_str()), Source::Other);
        Ok(())
    }

    pub(super) fn functions_item(&mut self, range: &'a protobuf::RangeFunction) -> Walked {
        self.children(NodeRef::RangeFunction(range))?;
        let alias = range.alias.as_ref();
        let mut columns: Vec<String> =
            name_parts(alias.map_or(&[], |it| &it.colnames))?.into_iter().map(str::to_owned).collect();
        columns.extend(range.coldeflist.iter().filter_map(|it| match &it.node {
            Some(NodeEnum::ColumnDef(column)) => Some(column.colname.clone()),
            _ => None,
        }));
        self.add_item(alias.map_or("", |it| it.aliasname.as_str()), Source::Function { columns });
        Ok(())
    }

    pub(super) fn add_item(&mut self, name: &'a str, source: Source) {
        self.scopes.add(Item { name, source });
    }

    /// A relation in a FROM list, or one that a utility statement names.
    pub(super) fn relation(
        &mut self,
        range: &'a protobuf::RangeVar,
        access: Access,
    ) -> Result<Option<(usize, usize)>, Unknown> {
        let is_cte = access == Access::Read && range.schemaname.is_empty() && self.scopes.has_cte(&range.relname);
        if is_cte {
            let name = range.alias.as_ref().map_or(&range.relname, |it| &it.aliasname);
            self.add_item(name, Source::Other);
            return Ok(None);
        }
        self.target_table(range, access).map(Some)
    }

    /// A relation that no CTE can stand for.
    pub(super) fn target_table(
        &mut self,
        range: &'a protobuf::RangeVar,
        access: Access,
    ) -> Result<(usize, usize), Unknown> {
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
        if !bare {
            self.any_column_of(Of::Innermost);
        }
        Ok(at)
    }

    /// Notes that any column may be read, under whatever name; of catalogs also the one that is covered.
    fn any_column_of(&mut self, of: Of<'a>) {
        self.all_columns_of(of);
        let table = |it: &Item<'_>| if let Source::Table { at, .. } = it.source { Some(at) } else { None };
        let tables: Vec<_> = self.scopes.of(of).filter_map(table).collect();
        self.spend(tables.len());
        for (action, table) in tables {
            let used = self.actions.get(action).and_then(|it| it.tables.get(table));
            let catalog = COVERED.iter().find(|(catalog, _)| used.is_some_and(|it| it.name == *catalog));
            if let Some((catalog, _)) = catalog {
                self.touch(catalog, &Exposure::Derived);
            }
        }
    }

    /// For rules: what is masked has ways of its own to be seen.
    fn all_columns_of(&mut self, of: Of<'a>) {
        let table = |it: &Item<'_>| if let Source::Table { at, .. } = it.source { Some(at) } else { None };
        let tables: BTreeSet<_> = self.scopes.of(of).filter_map(table).collect();
        self.spend(tables.len());
        for (action, table) in tables {
            let Some(used) = self.actions.get(action).and_then(|it| it.tables.get(table)) else { continue };
            let read = match used.access {
                Access::Read => Some(table),
                Access::Write => self.used(action, Access::Read, used.schema.clone(), used.name.clone()),
            };
            let read = read.and_then(|it| self.actions.get_mut(action)?.tables.get_mut(it));
            let Some(read) = read else { continue };
            read.columns.insert("*".to_owned());
            self.seen.all_columns.by_place.insert(read.name.clone());
        }
    }

    pub(super) fn table_by_parts(&mut self, parts: &[&str], access: Access) -> Walked {
        match parts {
            [.., schema, name] => drop(self.table(Some(schema), name, access)),
            [name] => drop(self.table(None, name, access)),
            [] => return Err(Unknown("an empty name")),
        }
        Ok(())
    }

    pub(super) fn table(&mut self, schema: Option<&str>, name: &str, access: Access) -> ((usize, usize), Exposure) {
        let exposure = self.set.exposure(schema, name);
        let is_guarded = self.set.is_guarded(schema, name);
        self.seen.mixed |= self.set.is_mixed(schema, name);
        let is_upkeep = self.actions.get(self.at).is_some_and(|it| matches!(it.kind, Kind::Vacuum | Kind::Lock));
        if access == Access::Write && is_systems(schema, name) && !is_upkeep {
            // A rule of the view pg_settings makes an UPDATE of it a SET.
            let why = format!("{name} belongs to the system: settings and catalogs are not written as tables here");
            self.seen.pinned.get_or_insert(why);
        }
        if self.defining && name == "pg_settings" {
            // Writing to a view of it is a SET under another name, which nobody would know.
            let why = "a view or a rule of pg_settings can change settings: read pg_settings itself".to_owned();
            self.seen.pinned.get_or_insert(why);
        }
        match &exposure {
            Exposure::Tagged(_) | Exposure::Derived => {
                self.touch(name, &exposure);
                self.seen.reads_tagged |= access == Access::Read;
            }
            // The session's own temporary schema: no mask is about what is in it, and the catalog has it under another name.
            Exposure::Unknown if schema == Some("pg_temp") => {}
            Exposure::Unknown => {
                self.seen.unknown.insert((schema.map(str::to_owned), name.to_owned()));
            }
            // Its policies, or its children, have tagged columns: the server's tree tells which of these count.
            Exposure::Clear if is_guarded => {
                self.touch(name, &exposure);
                self.seen.mixed = true;
                self.seen.reads_tagged |= access == Access::Read;
            }
            Exposure::Clear => {}
        }
        let at = self.at;
        let index = self.used(at, access, schema.map(str::to_owned), name.to_owned());
        ((at, index.unwrap_or(0)), exposure)
    }

    /// The place of a table's use in an action, made if it is the first of its kind.
    pub(super) fn used(
        &mut self,
        action: usize,
        access: Access,
        schema: Option<String>,
        name: String,
    ) -> Option<usize> {
        let tables = &mut self.actions.get_mut(action)?.tables;
        match self.uses.entry((action, access, schema, name)) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(vacant) => {
                let (_, _, schema, name) = vacant.key().clone();
                let rows = self.set.rows(schema.as_deref(), &name);
                let schemas = if schema.is_none() { self.set.schemas_of(&name) } else { Vec::new() };
                tables.push(TableUse { schema, name, access, columns: BTreeSet::new(), rows, schemas });
                Some(*vacant.insert(tables.len() - 1))
            }
        }
    }

    pub(super) fn touch(&mut self, relation: &str, exposure: &Exposure) {
        self.spend(self.seen.touched.len());
        if !self.seen.touched.iter().any(|it| it.relation == relation && it.exposure == *exposure) {
            self.seen.touched.push(Touched { relation: relation.to_owned(), exposure: exposure.clone() });
        }
    }

    pub(super) fn sensitive_name(&mut self, name: &str) {
        if self.set.is_sensitive_name(name) {
            let exposure = self.set.exposure(None, name);
            self.touch(name, &exposure);
        }
    }

    pub(super) fn column(&mut self, column: &'a protobuf::ColumnRef, in_target_list: bool) -> Walked {
        let star = matches!(column.fields.last().and_then(|it| it.node.as_ref()), Some(NodeEnum::AStar(_)));
        let named = if star { &column.fields[..column.fields.len() - 1] } else { &column.fields[..] };
        let named = name_parts(named)?;
        if !(star && in_target_list && self.showing == Showing::List) {
            return self.column_of(&named, star, in_target_list);
        }
        self.showing = Showing::All;
        self.seen.all_columns.shown = true;
        let walked = self.column_of(&named, star, in_target_list);
        self.showing = Showing::List;
        walked
    }

    fn column_of(&mut self, named: &[&'a str], star: bool, in_target_list: bool) -> Walked {
        match (named, star) {
            ([], true) => {
                self.refer(Of::Innermost, "*");
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
                if functions::takes_row(name) {
                    self.row_of(item);
                }
                if self.may_be_one_value(item, name) {
                    self.attribute(name)?;
                }
                self.qualified(item, name);
            }
            ([], false) => return Err(Unknown("a column without a name")),
        }
        Ok(())
    }

    /// Whether what an item gives may be a value that is no row, or a row without this column. What this walk does not follow may be anything.
    fn may_be_one_value(&mut self, item: &str, column: &str) -> bool {
        let (mut looked_at, mut is_followed) = (0, false);
        let is_one = |it: &Item<'_>| match &it.source {
            Source::Function { columns } => {
                looked_at += 1 + columns.len();
                !columns.iter().any(|it| it == column)
            }
            Source::Table { .. } | Source::Other => false,
        };
        let found = self.scopes.of(Of::Named(item)).inspect(|_| is_followed = true).any(is_one);
        self.spend(looked_at);
        found || !is_followed
    }

    /// `value.name`: where the value is no row with a field of that name, the server calls the function, or casts to the type (PostgreSQL
    /// manual, "Value Expressions", on field selection and functional notation).
    fn attribute(&mut self, name: &str) -> Walked {
        if self.set.is_cast_by_code(name) {
            self.type_name(&[name]);
        }
        if self.set.may_take_one(name) { self.function(&[name]) } else { Ok(()) }
    }

    /// Notes a column of every item that it may be of.
    fn refer(&mut self, of: Of<'a>, column: &'a str) {
        if !self.scopes.is_news(self.storing, of, column) {
            return;
        }
        let mut looked_at = 0;
        let tables: BTreeSet<(usize, usize)> = self
            .scopes
            .of(of)
            .inspect(|_| looked_at += 1)
            .filter_map(|it| if let Source::Table { at, .. } = it.source { Some(at) } else { None })
            .collect();
        self.spend(looked_at);
        for table in tables {
            self.read_column(table, column);
        }
    }

    pub(super) fn may_belong(&mut self, column: &'a str) {
        self.refer(Of::Any, column);
    }

    fn qualified(&mut self, item: &'a str, column: &'a str) {
        if self.scopes.has(item) {
            self.refer(Of::Named(item), column);
        } else {
            // A name that this walk does not follow (OLD, NEW, a join's alias) may be any table's.
            self.may_belong(column);
        }
    }

    /// A table's name where a value is expected is its whole row.
    fn row_of(&mut self, name: &'a str) {
        if !self.scopes.is_news(self.storing, Of::Named(name), WHOLE_ROW) {
            return;
        }
        let (mut tables, mut is_tagged) = (BTreeSet::new(), false);
        for item in self.scopes.of(Of::Named(name)) {
            if let Source::Table { at, exposure, .. } = &item.source {
                tables.insert(*at);
                is_tagged |= matches!(exposure, Exposure::Tagged(_));
            }
        }
        if is_tagged {
            self.seen.whole_row.get_or_insert_with(|| name.to_owned());
        }
        for table in tables {
            self.read_column(table, "*");
        }
    }

    pub(super) fn read_column(&mut self, table: (usize, usize), column: &str) {
        if self.storing
            && let Exposure::Tagged(tagged) = self.exposure_of(table)
            && (column == "*" || tagged.contains(column))
        {
            self.seen.stores_tagged.get_or_insert_with(|| column.to_owned());
        }
        let Some(used) = self.actions.get(table.0).and_then(|it| it.tables.get(table.1)) else { return };
        if used.access == Access::Write {
            // What is read of the written table is a use of its own.
            let (schema, name) = (used.schema.clone(), used.name.clone());
            let Some(read) = self.used(table.0, Access::Read, schema, name) else { return };
            self.add_column((table.0, read), column);
        } else {
            self.add_column(table, column);
        }
    }

    pub(super) fn add_column(&mut self, table: (usize, usize), column: &str) {
        let used = self.actions.get(table.0).and_then(|it| it.tables.get(table.1));
        let is_it = |(catalog, covered): &&(&str, &str)| {
            (column == "*" || column == *covered)
                && used.is_some_and(|it| {
                    it.name == *catalog && it.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
                })
        };
        if let Some((catalog, _)) = COVERED.iter().find(is_it).filter(|_| !self.set.is_empty()) {
            self.touch(catalog, &Exposure::Derived);
        }
        let Some(used) = self.actions.get_mut(table.0).and_then(|it| it.tables.get_mut(table.1)) else { return };
        let by_place = &mut self.seen.all_columns.by_place;
        if column == "*"
            && self.showing != Showing::All
            && used.access == Access::Read
            && !by_place.contains(&used.name)
        {
            by_place.insert(used.name.clone());
        }
        if !used.columns.contains(column) {
            used.columns.insert(column.to_owned());
        }
    }

    pub(super) fn exposure_of(&self, table: (usize, usize)) -> Exposure {
        let used = self.actions.get(table.0).and_then(|it| it.tables.get(table.1));
        used.map_or(Exposure::Unknown, |it| self.set.exposure(it.schema.as_deref(), &it.name))
    }

    pub(super) fn is_untagged(&self, table: (usize, usize), column: &str) -> bool {
        match self.exposure_of(table) {
            Exposure::Clear | Exposure::Unknown => true,
            Exposure::Tagged(tagged) => !tagged.contains(column),
            Exposure::Derived => false,
        }
    }

    pub(super) fn indirection(&mut self, indirection: &'a protobuf::AIndirection) -> Walked {
        for step in &indirection.indirection {
            if let Some(NodeEnum::String(field)) = &step.node {
                self.attribute(&field.sval)?;
            }
        }
        self.children(NodeRef::AIndirection(indirection))
    }

    pub(super) fn target(&mut self, target: &'a protobuf::ResTarget) -> Walked {
        let protobuf::ResTarget { name: _, indirection, val, location: _ } = target;
        self.all(indirection)?;
        match val.as_deref().map(known).transpose()? {
            Some(NodeRef::ColumnRef(column)) => self.column(column, true),
            Some(other) => self.visit(other),
            None => Ok(()),
        }
    }
}

/// A relation of the system's, or one that may be.
fn is_systems(schema: Option<&str>, name: &str) -> bool {
    match schema {
        Some("pg_catalog" | "information_schema") => true,
        _ => name.starts_with("pg_"),
    }
}
