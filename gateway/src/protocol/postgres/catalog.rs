//! Which columns of a target's database are tagged, and what else shows their values.
//!
//! A mask names columns by pattern; a result names them by (relation oid, column number); a statement names relations in
//! its own words. [`TaggedSet`] is one database's catalog read once and put in a form that answers all three, and that
//! errs on one side: a relation that only might show tagged data (a view over a tagged table, a statistics catalog) counts
//! as derived from it. [`load`] reads it with any ordinary role; [`TaggedSet::resolve`] does the thinking, and is pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::mask::{ColumnPattern, MaskRule};
use crate::policy::Glob;
use crate::protocol::postgres::operation;

/// More rows than this in any one catalog query deny the target, with an error that says so.
const MAX_CATALOG_ROWS: usize = 500_000;

/// Objects below this oid came with the server (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// System relations that hold values of user columns or texts of other sessions' statements.
const VALUE_CATALOGS: &[&str] = &[
    "pg_cursors",
    "pg_largeobject",
    "pg_prepared_statements",
    "pg_replication_slots",
    "pg_stat_activity",
    "pg_stat_replication",
    "pg_stat_statements",
    "pg_stat_statements_info",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_subscription",
];

/// The catalog of columns, which everybody reads, and its column with the values of rows that are older than their column.
pub(super) const MISSING_VALUES: (&str, &str) = ("pg_attribute", "attmissingval");

/// Why a target's tagged columns are not known. Each denies the target.
#[derive(Debug, Error)]
pub enum CatalogError {
    #[error("mask \"{mask}\": column pattern \"{pattern}\" matches no column of this database{}", hint(nearest.as_deref()))]
    Unresolved {
        mask: String,
        pattern: String,
        /// The column of the database that looks most like it.
        nearest: Option<String>,
    },
    #[error("the database's catalog has more than {MAX_CATALOG_ROWS} {what}")]
    TooLarge { what: &'static str },
    #[error(
        "the database's encoding is {encoding}, in which the name \"{name}\" of a masked table has other spellings"
    )]
    Encoding { encoding: String, name: String },
    #[error("the database's catalog could not be read")]
    Query(#[from] tokio_postgres::Error),
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|it| format!("; did you mean \"{it}\"?")).unwrap_or_default()
}

/// The tagged columns of one database, and everything a statement can name that touches them.
#[derive(Debug)]
pub struct TaggedSet {
    masks: HashMap<(u32, i16), Vec<Arc<MaskRule>>>,
    /// Relations by name, then by schema.
    relations: HashMap<String, Vec<Relation>>,
    ordinary: HashSet<u32>,
    functions: HashMap<String, UserFunction>,
    operators: HashSet<String>,
    cast_types: HashSet<String>,
    fetched_at: SystemTime,
}

#[derive(Debug)]
struct Relation {
    schema: String,
    exposure: Exposure,
    /// A row security policy reads tagged data when it is read.
    guarded: bool,
}

/// What a relation shows of tagged data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// The set has no such relation: made after it was fetched, or temporary, or missing.
    Unknown,
    /// Nothing.
    Clear,
    /// It has these tagged columns, and the server names them in a result.
    Tagged(BTreeSet<String>),
    /// It shows values of tagged columns under other names.
    Derived,
}

/// What a function name outside the server's own catalog may stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserFunction {
    /// It is no extension's, so that it may hide behind the name of a function that is known to be safe.
    pub shadows: bool,
    /// Its first argument can be a row: `t.f` calls it.
    pub takes_row: bool,
}

/// What [`load`] reads, before any thinking.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) relations: Vec<RelationRow>,
    /// Columns that some mask's pattern names, or that are called as a generated one.
    pub(crate) columns: Vec<ColumnRow>,
    /// (relation with a view definition or rule, relation it reads or writes)
    pub(crate) rewrites: Vec<(u32, u32)>,
    /// (relation with a row security policy, relation that the policy reads)
    pub(crate) policies: Vec<(u32, u32)>,
    /// Relations whose view definition or rule calls a function or an operator that did not come with the server, or one that
    /// did and is not known to be harmless.
    pub(crate) opaque: Vec<u32>,
    /// (child, parent), of inheritance and of partitions.
    pub(crate) inherits: Vec<(u32, u32)>,
    /// Columns that show another one, as (relation, number): generated ones what they are computed from, and those of a
    /// composite type what is in it.
    pub(crate) made_of: Vec<(ColumnRow, (u32, i16))>,
    pub(crate) functions: Vec<(String, UserFunction)>,
    pub(crate) operators: Vec<String>,
    /// Types that a function of somebody's casts from or to.
    pub(crate) cast_types: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct RelationRow {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `pg_class.relkind`
    pub(crate) kind: char,
}

#[derive(Clone, Debug)]
pub(crate) struct ColumnRow {
    pub(crate) relation: u32,
    pub(crate) number: i16,
    pub(crate) name: String,
}

impl TaggedSet {
    /// The set of a target without column masks: nothing is tagged, every statement is as free as its rules let it be.
    pub fn empty(fetched_at: SystemTime) -> Self {
        Self {
            masks: HashMap::new(),
            relations: HashMap::new(),
            ordinary: HashSet::new(),
            functions: HashMap::new(),
            operators: HashSet::new(),
            cast_types: HashSet::new(),
            fetched_at,
        }
    }

    /// From a catalog's rows to the set. A pattern that names no column is an error.
    pub(crate) fn resolve(
        mut snapshot: Snapshot,
        masks: &[Arc<MaskRule>],
        fetched_at: SystemTime,
    ) -> Result<Self, CatalogError> {
        let by_oid: HashMap<u32, &RelationRow> = snapshot.relations.iter().map(|it| (it.oid, it)).collect();
        let mut tags = tag(&snapshot.columns, &by_oid, masks)?;
        let made_of = std::mem::take(&mut snapshot.made_of);
        snapshot.columns.extend(made_of.iter().map(|(column, _)| column.clone()));
        loop {
            spread_over_inheritance(&mut tags, &snapshot.columns, &snapshot.inherits);
            if !spread_over_parts(&mut tags, &made_of) {
                break;
            }
        }
        let derived = derived(&tags, &by_oid, &snapshot);
        let guarded = guarded(&tags, &derived, &snapshot);

        let mut tagged_names: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for column in &snapshot.columns {
            if tags.contains_key(&(column.relation, column.number)) {
                tagged_names.entry(column.relation).or_default().insert(column.name.clone());
            }
        }
        let ordinary = snapshot.relations.iter().filter(|it| is_ordinary(it.kind)).map(|it| it.oid).collect();
        let mut relations: HashMap<String, Vec<Relation>> = HashMap::new();
        for row in snapshot.relations {
            let exposure = if derived.contains(&row.oid) || is_value_catalog(&row.schema, &row.name) {
                Exposure::Derived
            } else {
                tagged_names.remove(&row.oid).map_or(Exposure::Clear, Exposure::Tagged)
            };
            let guarded = guarded.contains(&row.oid);
            relations.entry(row.name).or_default().push(Relation { schema: row.schema, exposure, guarded });
        }
        let mut functions: HashMap<String, UserFunction> = HashMap::new();
        for (name, function) in snapshot.functions {
            let known = functions.entry(name).or_default();
            known.shadows |= function.shadows;
            known.takes_row |= function.takes_row;
        }
        let operators = snapshot.operators.into_iter().collect();
        let cast_types = snapshot.cast_types.into_iter().collect();
        Ok(Self { masks: tags, relations, ordinary, functions, operators, cast_types, fetched_at })
    }

    /// True where the target has no tagged column, so that no statement can touch one.
    pub fn is_empty(&self) -> bool {
        self.masks.is_empty()
    }

    /// When the catalog was read.
    pub fn fetched_at(&self) -> SystemTime {
        self.fetched_at
    }

    /// The masks of a result's column, by the (relation oid, column number) of its `RowDescription`.
    pub fn masks(&self, relation: u32, column: i16) -> &[Arc<MaskRule>] {
        self.masks.get(&(relation, column)).map_or(&[], Vec::as_slice)
    }

    /// True if the oid is a table's whose columns the server names as themselves: a plain or a partitioned table.
    pub fn is_ordinary(&self, relation: u32) -> bool {
        self.ordinary.contains(&relation)
    }

    /// What a relation shows, as a statement names it. Without a schema every relation of that name counts, because the
    /// search path is the session's own.
    pub fn exposure(&self, schema: Option<&str>, name: &str) -> Exposure {
        if self.is_empty() {
            return Exposure::Clear;
        }
        let mut seen = Exposure::Unknown;
        for relation in self.relations.get(name).into_iter().flatten() {
            if schema.is_none_or(|it| stands_for(it, &relation.schema)) {
                seen = seen.worse(&relation.exposure);
            }
        }
        // A TOAST table holds the long values of its table.
        let toast = schema == Some("pg_toast") || name.starts_with("pg_toast_");
        if toast || (seen == Exposure::Unknown && VALUE_CATALOGS.contains(&name)) {
            return Exposure::Derived;
        }
        seen
    }

    /// True if using the relation, as a statement names it, may run a row security policy that reads tagged data: the policy
    /// is a part of the statement then, and so are its errors.
    pub fn is_guarded(&self, schema: Option<&str>, name: &str) -> bool {
        let mut named = self.relations.get(name).into_iter().flatten();
        named.any(|it| it.guarded && schema.is_none_or(|schema| stands_for(schema, &it.schema)))
    }

    /// True if some tagged or derived relation has this name, whatever its schema.
    pub fn is_sensitive_name(&self, name: &str) -> bool {
        matches!(self.exposure(None, name), Exposure::Tagged(_) | Exposure::Derived)
    }

    /// A sensitive relation whose name is not plain ASCII. Only a UTF-8 server leaves such letters as they are written.
    fn fragile_name(&self) -> Option<&str> {
        let sensitive = |it: &Relation| matches!(it.exposure, Exposure::Tagged(_) | Exposure::Derived);
        let fragile = |name: &str, it: &Relation| sensitive(it) && !(name.is_ascii() && it.schema.is_ascii());
        let mut relations = self.relations.iter();
        relations.find(|(name, all)| all.iter().any(|it| fragile(name, it))).map(|(name, _)| name.as_str())
    }

    /// What is known of a function by that name that did not come with the server.
    pub fn user_function(&self, name: &str) -> UserFunction {
        self.functions.get(name).copied().unwrap_or_default()
    }

    /// True if somebody defined a cast from or to a type of that name by a function: casting may run any code.
    pub fn is_cast_by_code(&self, type_name: &str) -> bool {
        self.cast_types.contains(type_name)
    }

    /// True if somebody defined an operator by that name: using it may run any code.
    pub fn is_user_operator(&self, name: &str) -> bool {
        self.operators.contains(name)
    }
}

impl Exposure {
    /// The one of the two, or both together, that shows more.
    fn worse(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Derived, _) | (_, Self::Derived) => Self::Derived,
            (Self::Tagged(mut mine), Self::Tagged(theirs)) => {
                mine.extend(theirs.iter().cloned());
                Self::Tagged(mine)
            }
            (Self::Tagged(names), _) => Self::Tagged(names),
            (_, Self::Tagged(names)) => Self::Tagged(names.clone()),
            (Self::Clear, _) | (_, Self::Clear) => Self::Clear,
            (Self::Unknown, Self::Unknown) => Self::Unknown,
        }
    }
}

fn is_ordinary(kind: char) -> bool {
    matches!(kind, 'r' | 'p')
}

/// `pg_temp` is what a session calls its own temporary schema, whose name has a number.
fn stands_for(written: &str, schema: &str) -> bool {
    written == schema || written == "pg_temp" && schema.starts_with("pg_temp_")
}

fn is_system_schema(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

fn is_value_catalog(schema: &str, name: &str) -> bool {
    // Extensions put theirs into any schema.
    VALUE_CATALOGS.contains(&name) && (is_system_schema(schema) || name.starts_with("pg_stat_statements"))
}

type Tags = HashMap<(u32, i16), Vec<Arc<MaskRule>>>;

/// The columns that the patterns name, with the masks of each.
fn tag(
    columns: &[ColumnRow],
    relations: &HashMap<u32, &RelationRow>,
    masks: &[Arc<MaskRule>],
) -> Result<Tags, CatalogError> {
    let mut tags = Tags::new();
    for mask in masks {
        for pattern in &mask.columns {
            let mut resolved = false;
            for column in columns {
                let Some(relation) = relations.get(&column.relation) else { continue };
                if matches(pattern, relation, &column.name) {
                    resolved = true;
                    add(&mut tags, (column.relation, column.number), mask);
                }
            }
            if !resolved {
                return Err(CatalogError::Unresolved {
                    mask: mask.name.clone(),
                    pattern: written(pattern),
                    nearest: None,
                });
            }
        }
    }
    Ok(tags)
}

fn add(tags: &mut Tags, column: (u32, i16), mask: &Arc<MaskRule>) -> bool {
    let masks = tags.entry(column).or_default();
    let new = !masks.iter().any(|it| Arc::ptr_eq(it, mask));
    if new {
        masks.push(Arc::clone(mask));
    }
    new
}

fn matches(pattern: &ColumnPattern, relation: &RelationRow, column: &str) -> bool {
    let fits = |part: &str, name: &str| Glob::new(part).matches(name);
    // A wildcard does not reach into the server's own schemas.
    let schema = pattern.schema.as_deref().filter(|it| !it.contains('*') || !is_system_schema(&relation.schema));
    let anywhere = pattern.schema.is_none() && !is_system_schema(&relation.schema);
    (anywhere || schema.is_some_and(|it| fits(it, &relation.schema)))
        && pattern.table.as_deref().is_none_or(|it| fits(it, &relation.name))
        && fits(&pattern.column, column)
}

fn written(pattern: &ColumnPattern) -> String {
    let part = |it: &Option<String>| it.clone().unwrap_or_else(|| "*".to_owned());
    format!("{}.{}.{}", part(&pattern.schema), part(&pattern.table), pattern.column)
}

/// A partition holds its parent's rows and is read through it: both have the tags of either, by column name.
fn spread_over_inheritance(tags: &mut Tags, columns: &[ColumnRow], inherits: &[(u32, u32)]) {
    let mut kin: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(child, parent) in inherits {
        kin.entry(child).or_default().push(parent);
        kin.entry(parent).or_default().push(child);
    }
    let number: HashMap<(u32, &str), i16> =
        columns.iter().map(|it| ((it.relation, it.name.as_str()), it.number)).collect();
    let name: HashMap<(u32, i16), &str> =
        columns.iter().map(|it| ((it.relation, it.number), it.name.as_str())).collect();

    let mut todo: Vec<(u32, i16)> = tags.keys().copied().collect();
    while let Some(column) = todo.pop() {
        let Some(name) = name.get(&column) else { continue };
        let masks = tags.get(&column).cloned().unwrap_or_default();
        for relative in kin.get(&column.0).into_iter().flatten() {
            let Some(&number) = number.get(&(*relative, *name)) else { continue };
            let mut changed = false;
            for mask in &masks {
                changed |= add(tags, (*relative, number), mask);
            }
            if changed {
                todo.push((*relative, number));
            }
        }
    }
}

/// A generated column shows what it is computed from, and a row of another table in a column what is in that. What is
/// generated in one table is a plain column in its kin, from which others may be generated. True if it made a difference.
fn spread_over_parts(tags: &mut Tags, made_of: &[(ColumnRow, (u32, i16))]) -> bool {
    let mut changed = false;
    for (column, part) in made_of {
        for mask in tags.get(part).cloned().unwrap_or_default() {
            changed |= add(tags, (column.relation, column.number), &mask);
        }
    }
    changed
}

/// Relations that show tagged values under names of their own: views, materialized views, tables with rules, tagged
/// relations that are no ordinary table, foreign tables (which may lead back here), and all that builds on these.
fn derived(tags: &Tags, relations: &HashMap<u32, &RelationRow>, snapshot: &Snapshot) -> HashSet<u32> {
    if tags.is_empty() {
        return HashSet::new();
    }
    let mut readers: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(reader, read) in &snapshot.rewrites {
        readers.entry(read).or_default().push(reader);
    }
    let tagged: HashSet<u32> = tags.keys().map(|(relation, _)| *relation).collect();
    let values = snapshot.relations.iter().filter(|it| is_value_catalog(&it.schema, &it.name)).map(|it| it.oid);
    let foreign = snapshot.relations.iter().filter(|it| it.kind == 'f').map(|it| it.oid);
    let opaque = snapshot.opaque.iter().copied().filter(|it| *it >= FIRST_USER_OID);
    let unordinary = tagged.iter().copied().filter(|it| relations.get(it).is_none_or(|row| !is_ordinary(row.kind)));
    let mut derived: HashSet<u32> = foreign.chain(opaque).chain(unordinary).collect();
    let mut todo: Vec<u32> = derived.iter().copied().chain(tagged.iter().copied()).chain(values).collect();
    while let Some(relation) = todo.pop() {
        for &reader in readers.get(&relation).into_iter().flatten() {
            if derived.insert(reader) {
                todo.push(reader);
            }
        }
    }
    derived
}

/// Relations whose row security policies read tagged values, and all that builds on these.
fn guarded(tags: &Tags, derived: &HashSet<u32>, snapshot: &Snapshot) -> HashSet<u32> {
    let mut guarded = HashSet::new();
    if snapshot.policies.is_empty() {
        return guarded;
    }
    let mut users: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(user, used) in snapshot.policies.iter().chain(&snapshot.rewrites) {
        users.entry(used).or_default().push(user);
    }
    let mut todo: Vec<u32> = tags.keys().map(|(relation, _)| *relation).chain(derived.iter().copied()).collect();
    while let Some(relation) = todo.pop() {
        for &user in users.get(&relation).into_iter().flatten() {
            if guarded.insert(user) {
                todo.push(user);
            }
        }
    }
    guarded
}

const RELATIONS: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S']::\"char\"[])
    LIMIT $1";

const COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f']::\"char\"[])
      AND ($2 OR a.attname::text OPERATOR(pg_catalog.=) ANY ($3)
           OR a.attname OPERATOR(pg_catalog.=) ANY (SELECT g.attname FROM pg_catalog.pg_attribute g
                                                    WHERE g.attgenerated OPERATOR(pg_catalog.<>) ''))
    LIMIT $1";

const REWRITES: &str = "\
    SELECT DISTINCT r.ev_class, d.refobjid
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class
    LIMIT $1";

const POLICIES: &str = "\
    SELECT DISTINCT p.polrelid, d.refobjid
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid OPERATOR(pg_catalog.=) d.objid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid OPERATOR(pg_catalog.<>) p.polrelid
    LIMIT $1";

const OPAQUE: &str = "\
    SELECT DISTINCT r.ev_class
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) ANY
          (ARRAY['pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass]::oid[])
      AND d.refobjid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

/// The server's own functions in views and rules. Dependencies on these are not kept (they are pinned), so they are taken out
/// of the stored trees.
const VIEW_FUNCTIONS: &str = "\
    SELECT DISTINCT v.ev_class, p.proname::text
    FROM (SELECT r.ev_class, pg_catalog.substring(f.part, '^[0-9]+') AS number
          FROM pg_catalog.pg_rewrite r,
               pg_catalog.unnest(pg_catalog.string_to_array(
                   r.ev_qual::text OPERATOR(pg_catalog.||) r.ev_action::text, ':funcid ')) AS f(part)
          WHERE r.ev_class OPERATOR(pg_catalog.>=) $2) v
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) v.number::pg_catalog.oid
    WHERE p.oid OPERATOR(pg_catalog.<) $2
    LIMIT $1";

/// Views and rules that read a system catalog with values of user columns: on most of these no dependency is kept either. Of
/// the catalog of columns only the one column, or whole rows.
const VALUE_READERS: &str = "\
    SELECT DISTINCT r.ev_class
    FROM (SELECT ev_class, ev_qual::text OPERATOR(pg_catalog.||) ev_action::text AS tree
          FROM pg_catalog.pg_rewrite WHERE ev_class OPERATOR(pg_catalog.>=) $2) r
    JOIN (SELECT c.oid, NULL::int2 AS attnum
          FROM pg_catalog.pg_class c
          WHERE c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
            AND c.relname::text OPERATOR(pg_catalog.=) ANY ($3)
          UNION ALL
          SELECT a.attrelid, pg_catalog.unnest(ARRAY[0, a.attnum])
          FROM pg_catalog.pg_attribute a
          WHERE a.attrelid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attribute'::pg_catalog.regclass
            AND a.attname OPERATOR(pg_catalog.=) 'attmissingval') v
      ON pg_catalog.strpos(r.tree, pg_catalog.concat(' :relid ', v.oid, ' ')) OPERATOR(pg_catalog.>) 0
     AND (v.attnum IS NULL
          OR pg_catalog.strpos(r.tree, pg_catalog.concat(' :varattno ', v.attnum, ' ')) OPERATOR(pg_catalog.>) 0)
    LIMIT $1";

const INHERITS: &str = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits LIMIT $1";

const GENERATED: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text, d.refobjsubid::int2
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_attrdef e
      ON e.adrelid OPERATOR(pg_catalog.=) a.attrelid AND e.adnum OPERATOR(pg_catalog.=) a.attnum
    JOIN pg_catalog.pg_depend d
      ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
     AND d.objid OPERATOR(pg_catalog.=) e.oid
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid OPERATOR(pg_catalog.=) a.attrelid
    WHERE a.attgenerated OPERATOR(pg_catalog.<>) '' AND d.refobjsubid OPERATOR(pg_catalog.>) 0
      AND d.refobjsubid OPERATOR(pg_catalog.<>) a.attnum
    LIMIT $1";

/// Columns of a relation's row type, or of arrays or domains of it, each with the columns of that relation.
const COMPOSITES: &str = "\
    SELECT DISTINCT a.attrelid, a.attnum, a.attname::text, f.attrelid, f.attnum
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
    JOIN pg_catalog.pg_type b ON b.oid OPERATOR(pg_catalog.=) ANY (ARRAY[t.oid, t.typelem, t.typbasetype])
    JOIN pg_catalog.pg_type c ON c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[b.oid, b.typelem, b.typbasetype])
    JOIN pg_catalog.pg_attribute f ON f.attrelid OPERATOR(pg_catalog.=) c.typrelid
    WHERE a.attrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND c.typrelid OPERATOR(pg_catalog.>=) $2 AND f.attnum OPERATOR(pg_catalog.>) 0 AND NOT f.attisdropped
    LIMIT $1";

const FUNCTIONS: &str = "\
    SELECT p.proname::text,
           NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'),
           COALESCE(t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'p']::\"char\"[]), false)
    FROM pg_catalog.pg_proc p LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]
    WHERE p.oid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

const OPERATORS: &str = "\
    SELECT DISTINCT o.oprname::text
    FROM pg_catalog.pg_operator o
    WHERE o.oid OPERATOR(pg_catalog.>=) $2
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

const CASTS: &str = "\
    SELECT DISTINCT t.typname::text
    FROM pg_catalog.pg_cast c
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) ANY (ARRAY[c.castsource, c.casttarget])
    WHERE c.castfunc OPERATOR(pg_catalog.>=) $2
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

/// Reads the catalog of the client's database and resolves the masks of this target in it.
///
/// The queries are sent together and cost about one round trip; an ordinary role may run them, whatever its search path.
pub async fn load(client: &Client, masks: &[Arc<MaskRule>], target: &str) -> Result<TaggedSet, CatalogError> {
    let masks: Vec<Arc<MaskRule>> = masks.iter().filter(|it| concerns(it, target)).cloned().collect();
    let fetched_at = SystemTime::now();
    if masks.is_empty() {
        return Ok(TaggedSet::empty(fetched_at));
    }
    // So many queries at once are large.
    let snapshot = Box::pin(fetch(client, &masks)).await?;
    match TaggedSet::resolve(snapshot, &masks, fetched_at) {
        Err(CatalogError::Unresolved { mask, pattern, nearest: None }) => {
            let nearest = nearest(client, &pattern).await?;
            Err(CatalogError::Unresolved { mask, pattern, nearest })
        }
        Ok(set) => match set.fragile_name() {
            Some(name) => unless_utf8(client, name).await.map(|()| set),
            None => Ok(set),
        },
        other => other,
    }
}

async fn unless_utf8(client: &Client, name: &str) -> Result<(), CatalogError> {
    let row = client.query_one("SELECT pg_catalog.current_setting('server_encoding')", &[]).await?;
    let encoding: String = row.try_get(0)?;
    if encoding == "UTF8" { Ok(()) } else { Err(CatalogError::Encoding { encoding, name: name.to_owned() }) }
}

fn concerns(mask: &MaskRule, target: &str) -> bool {
    !mask.columns.is_empty() && (mask.targets.is_empty() || mask.targets.iter().any(|it| Glob::new(it).matches(target)))
}

async fn fetch(client: &Client, masks: &[Arc<MaskRule>]) -> Result<Snapshot, CatalogError> {
    let patterns = || masks.iter().flat_map(|it| &it.columns);
    let all = patterns().any(|it| it.column.contains('*'));
    let names: Vec<&str> = patterns().map(|it| it.column.as_str()).collect();
    let named: [&(dyn ToSql + Sync); 2] = [&all, &names];
    let users: [&(dyn ToSql + Sync); 1] = [&FIRST_USER_OID];
    let values: [&(dyn ToSql + Sync); 2] = [&FIRST_USER_OID, &VALUE_CATALOGS];
    let (
        relations,
        columns,
        rewrites,
        policies,
        opaque,
        view_functions,
        value_readers,
        inherits,
        generated,
        composites,
        functions,
        operators,
        casts,
    ) = tokio::try_join!(
        rows(client, "relations", RELATIONS, &[]),
        rows(client, "columns", COLUMNS, &named),
        rows(client, "view dependencies", REWRITES, &[]),
        rows(client, "row security policies", POLICIES, &[]),
        rows(client, "views with functions", OPAQUE, &users),
        rows(client, "functions in views", VIEW_FUNCTIONS, &users),
        rows(client, "views of system catalogs", VALUE_READERS, &values),
        rows(client, "inheritance links", INHERITS, &[]),
        rows(client, "generated columns", GENERATED, &[]),
        rows(client, "columns of composite types", COMPOSITES, &users),
        rows(client, "functions", FUNCTIONS, &users),
        rows(client, "operators", OPERATORS, &users),
        rows(client, "casts", CASTS, &users),
    )?;
    let relation = |row: &tokio_postgres::Row| -> Result<_, tokio_postgres::Error> {
        let kind: String = row.try_get(3)?;
        Ok(RelationRow {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            kind: kind.chars().next().unwrap_or(' '),
        })
    };
    let column = |row: &tokio_postgres::Row| -> Result<_, tokio_postgres::Error> {
        Ok(ColumnRow { relation: row.try_get(0)?, number: row.try_get(1)?, name: row.try_get(2)? })
    };
    let generated = read(&generated, |row| Ok((column(row)?, (row.try_get(0)?, row.try_get(3)?))))?;
    let mut made_of = read(&composites, |row| Ok((column(row)?, (row.try_get(3)?, row.try_get(4)?))))?;
    made_of.extend(generated);
    let mut opaque: Vec<u32> = read(&opaque, |row| row.try_get(0))?;
    opaque.extend(read(&value_readers, |row| row.try_get::<_, u32>(0))?);
    for (relation, function) in read(&view_functions, |row| Ok((row.try_get(0)?, row.try_get::<_, String>(1)?)))? {
        if !operation::is_harmless(&function) {
            opaque.push(relation);
        }
    }
    Ok(Snapshot {
        relations: read(&relations, relation)?,
        columns: read(&columns, column)?,
        rewrites: read(&rewrites, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        policies: read(&policies, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        opaque,
        inherits: read(&inherits, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        made_of,
        functions: read(&functions, |row| {
            Ok((row.try_get(0)?, UserFunction { shadows: row.try_get(1)?, takes_row: row.try_get(2)? }))
        })?,
        operators: read(&operators, |row| row.try_get(0))?,
        cast_types: read(&casts, |row| row.try_get(0))?,
    })
}

/// The rows of one catalog query, or an error if there are more than anybody should hold.
async fn rows(
    client: &Client,
    what: &'static str,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, CatalogError> {
    let limit = i64::try_from(MAX_CATALOG_ROWS).unwrap_or(i64::MAX).saturating_add(1);
    let mut all: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    all.extend(parameters);
    let rows = client.query(query, &all).await?;
    if rows.len() > MAX_CATALOG_ROWS { Err(CatalogError::TooLarge { what }) } else { Ok(rows) }
}

fn read<T>(
    rows: &[tokio_postgres::Row],
    one: impl Fn(&tokio_postgres::Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, tokio_postgres::Error> {
    rows.iter().map(one).collect()
}

/// Columns looked at for a "did you mean".
const MAX_CANDIDATES: i64 = 20_000;
/// How alike two names must be to be worth a mention (Jaro-Winkler).
const LIKENESS: f64 = 0.7;

const CANDIDATES: &str = "\
    SELECT n.nspname::text, c.relname::text, a.attname::text
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f']::\"char\"[])
      AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast'])
    LIMIT $1";

async fn nearest(client: &Client, pattern: &str) -> Result<Option<String>, CatalogError> {
    let wanted: Vec<&str> = pattern.split('.').collect();
    let mut best: Option<(f64, String)> = None;
    for row in client.query(CANDIDATES, &[&MAX_CANDIDATES]).await? {
        let parts: [String; 3] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?];
        let likeness = likeness(&wanted, &parts);
        if likeness >= LIKENESS && best.as_ref().is_none_or(|(so_far, _)| likeness > *so_far) {
            let shown: Vec<&str> = wanted
                .iter()
                .zip(&parts)
                .map(|(wanted, part)| if *wanted == "*" { "*" } else { part.as_str() })
                .collect();
            best = Some((likeness, shown.join(".")));
        }
    }
    Ok(best.map(|(_, shown)| shown))
}

/// How alike a pattern and a column are: as much as the parts that differ most.
fn likeness(wanted: &[&str], column: &[String; 3]) -> f64 {
    let parts = wanted.iter().zip(column).filter(|(wanted, _)| **wanted != "*");
    parts.map(|(wanted, part)| strsim::jaro_winkler(wanted, part)).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::MaskKind;

    fn relation(oid: u32, schema: &str, name: &str, kind: char) -> RelationRow {
        RelationRow { oid, schema: schema.to_owned(), name: name.to_owned(), kind }
    }

    fn column(relation: u32, number: i16, name: &str) -> ColumnRow {
        ColumnRow { relation, number, name: name.to_owned() }
    }

    /// A mask of columns written `schema.table.column`.
    fn mask(patterns: &[&str]) -> Arc<MaskRule> {
        let pattern = |text: &&str| {
            let parts: Vec<&str> = text.split('.').collect();
            let part = |at: usize| (parts[at] != "*").then(|| parts[at].to_owned());
            ColumnPattern { schema: part(0), table: part(1), column: parts[2].to_owned() }
        };
        Arc::new(MaskRule {
            name: "PII".to_owned(),
            targets: Vec::new(),
            columns: patterns.iter().map(pattern).collect(),
            detectors: Vec::new(),
            with: MaskKind::Redact,
        })
    }

    fn resolve(snapshot: Snapshot, masks: &[Arc<MaskRule>]) -> Result<TaggedSet, CatalogError> {
        TaggedSet::resolve(snapshot, masks, SystemTime::UNIX_EPOCH)
    }

    fn tagged(names: &[&str]) -> Exposure {
        Exposure::Tagged(names.iter().map(|it| (*it).to_owned()).collect())
    }

    fn two_schemas() -> Snapshot {
        Snapshot {
            relations: vec![
                relation(1, "public", "people", 'r'),
                relation(2, "crm", "people", 'r'),
                relation(3, "public", "orders", 'r'),
                relation(4, "pg_catalog", "pg_authid", 'r'),
                relation(5, "pg_catalog", "pg_stats", 'v'),
            ],
            columns: vec![
                column(1, 2, "email"),
                column(2, 7, "email"),
                column(2, 8, "ssn"),
                column(3, 1, "id"),
                column(4, 1, "email"),
            ],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_pattern_names_columns_and_a_wildcard_stays_out_of_system_schemas() {
        let set = resolve(two_schemas(), &[mask(&["*.*.email"])]).unwrap();
        assert_eq!(set.masks(1, 2).len(), 1);
        assert_eq!(set.masks(2, 7).len(), 1);
        assert!(set.masks(2, 8).is_empty());
        assert!(set.masks(4, 1).is_empty());
        let set = resolve(two_schemas(), &[mask(&["crm.peop*.*"])]).unwrap();
        assert_eq!((set.masks(1, 2).len(), set.masks(2, 7).len(), set.masks(2, 8).len()), (0, 1, 1));
    }

    #[test]
    fn all_masks_of_a_column_apply() {
        let set = resolve(two_schemas(), &[mask(&["*.*.email"]), mask(&["public.people.email"])]).unwrap();
        assert_eq!(set.masks(1, 2).len(), 2);
        assert_eq!(set.masks(2, 7).len(), 1);
    }

    #[test]
    fn a_pattern_that_names_nothing_is_an_error() {
        let error = resolve(two_schemas(), &[mask(&["*.*.email", "public.people.ssn"])]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mask \"PII\": column pattern \"public.people.ssn\" matches no column of this database"
        );
    }

    #[test]
    fn a_name_without_a_schema_stands_for_every_relation_of_that_name() {
        let set = resolve(two_schemas(), &[mask(&["crm.people.ssn"])]).unwrap();
        assert_eq!(set.exposure(Some("crm"), "people"), tagged(&["ssn"]));
        assert_eq!(set.exposure(Some("public"), "people"), Exposure::Clear);
        assert_eq!(set.exposure(None, "people"), tagged(&["ssn"]));
        assert_eq!(set.exposure(None, "orders"), Exposure::Clear);
        assert_eq!(set.exposure(None, "fresh"), Exposure::Unknown);
        assert_eq!(set.exposure(None, "pg_stats"), Exposure::Derived);
        assert_eq!(set.exposure(Some("pg_toast"), "pg_toast_1"), Exposure::Derived);
        assert_eq!(set.exposure(None, "pg_toast_1"), Exposure::Derived);
        assert!(TaggedSet::empty(SystemTime::UNIX_EPOCH).exposure(None, "pg_stats") == Exposure::Clear);
    }

    #[test]
    fn views_rules_and_foreign_tables_are_derived() {
        let mut snapshot = two_schemas();
        snapshot.relations.extend([
            relation(20_001, "public", "view", 'v'),
            relation(20_002, "public", "view_of_view", 'v'),
            relation(20_003, "public", "harmless", 'v'),
            relation(20_004, "public", "calls", 'v'),
            relation(20_005, "public", "of_calls", 'm'),
            relation(20_006, "public", "elsewhere", 'f'),
            relation(20_007, "public", "of_stats", 'v'),
        ]);
        snapshot.rewrites =
            vec![(20_001, 2), (20_002, 20_001), (20_003, 3), (20_005, 20_004), (20_007, 5), (20_002, 20_002)];
        snapshot.opaque = vec![20_004, 5];
        let set = resolve(snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
        for name in ["view", "view_of_view", "calls", "of_calls", "elsewhere", "of_stats"] {
            assert_eq!(set.exposure(None, name), Exposure::Derived, "{name}");
        }
        assert_eq!(set.exposure(None, "harmless"), Exposure::Clear);
    }

    #[test]
    fn a_mask_on_a_view_makes_the_view_refused_not_masked() {
        let mut snapshot = two_schemas();
        snapshot.relations.push(relation(9, "public", "people_view", 'v'));
        snapshot.columns.push(column(9, 1, "mail"));
        let set = resolve(snapshot, &[mask(&["public.people_view.mail"])]).unwrap();
        assert_eq!(set.exposure(None, "people_view"), Exposure::Derived);
        assert!(!set.is_ordinary(9));
    }

    #[test]
    fn partitions_share_the_tags_of_their_kin_by_name() {
        let snapshot = Snapshot {
            relations: vec![
                relation(1, "public", "all_people", 'p'),
                relation(2, "public", "people_a", 'p'),
                relation(3, "public", "people_a_1", 'r'),
                relation(4, "public", "people_b", 'r'),
            ],
            columns: vec![
                column(1, 1, "email"),
                column(2, 2, "email"),
                column(3, 3, "email"),
                column(4, 4, "email"),
                column(4, 5, "ssn"),
            ],
            inherits: vec![(2, 1), (3, 2), (4, 1)],
            ..Snapshot::default()
        };
        let set = resolve(snapshot, &[mask(&["public.people_a_1.email"])]).unwrap();
        for at in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            assert_eq!(set.masks(at.0, at.1).len(), 1, "{at:?}");
        }
        assert!(set.masks(4, 5).is_empty());
        assert_eq!(set.exposure(None, "people_b"), tagged(&["email"]));
        assert!(set.is_ordinary(1) && set.is_ordinary(3));
    }

    #[test]
    fn names_beyond_ascii_are_found() {
        let mut snapshot = two_schemas();
        let plain = resolve(two_schemas(), &[mask(&["crm.people.ssn"])]).unwrap();
        assert_eq!(plain.fragile_name(), None);
        snapshot.relations.push(relation(8, "public", "mädchen", 'r'));
        snapshot.columns.push(column(8, 1, "ssn"));
        let set = resolve(snapshot, &[mask(&["*.*.ssn"])]).unwrap();
        assert_eq!(set.fragile_name(), Some("mädchen"));
    }

    #[test]
    fn what_kin_generates_from_an_inherited_column_is_tagged() {
        let snapshot = Snapshot {
            relations: vec![
                relation(1, "public", "people", 'r'),
                relation(2, "public", "a", 'r'),
                relation(3, "public", "b", 'r'),
            ],
            columns: vec![
                column(1, 1, "email"),
                column(1, 2, "low"),
                column(2, 1, "email"),
                column(2, 2, "low"),
                column(3, 1, "email"),
                column(3, 2, "low"),
            ],
            inherits: vec![(2, 1), (3, 1)],
            made_of: vec![(column(3, 3, "lower"), (3, 2)), (column(2, 2, "low"), (2, 1))],
            ..Snapshot::default()
        };
        let set = resolve(snapshot, &[mask(&["public.people.email"])]).unwrap();
        for at in [(2, 2), (1, 2), (3, 2), (3, 3)] {
            assert_eq!(set.masks(at.0, at.1).len(), 1, "{at:?}");
        }
    }

    #[test]
    fn a_policy_that_reads_tagged_data_guards_what_is_built_on_its_table() {
        let mut snapshot = two_schemas();
        snapshot.relations.extend([
            relation(20_001, "public", "guarded", 'r'),
            relation(20_002, "public", "of_guarded", 'v'),
            relation(20_003, "public", "guarded_by_guarded", 'r'),
            relation(20_004, "public", "harmless", 'r'),
        ]);
        snapshot.policies = vec![(20_003, 20_002), (20_001, 2), (20_004, 3)];
        snapshot.rewrites = vec![(20_002, 20_001)];
        let set = resolve(snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
        for name in ["guarded", "of_guarded", "guarded_by_guarded"] {
            assert!(set.is_guarded(None, name) && set.exposure(None, name) == Exposure::Clear, "{name}");
        }
        assert!(set.is_guarded(Some("public"), "guarded") && !set.is_guarded(Some("crm"), "guarded"));
        assert!(!set.is_guarded(None, "harmless") && !set.is_guarded(None, "orders"));
    }

    #[test]
    fn a_column_generated_from_a_tagged_one_is_tagged() {
        let mut snapshot = two_schemas();
        snapshot.made_of = vec![(column(1, 9, "email_lower"), (1, 2)), (column(3, 9, "next"), (3, 1))];
        let set = resolve(snapshot, &[mask(&["public.people.email"])]).unwrap();
        assert_eq!(set.masks(1, 9).len(), 1);
        assert!(set.masks(3, 9).is_empty());
        assert_eq!(set.exposure(None, "people"), tagged(&["email", "email_lower"]));
    }
}
