//! Which columns of a target's database are tagged, and what else shows their values.
//!
//! A mask names columns by pattern; a result names them by (relation oid, column number); a statement names relations in
//! its own words. [`TaggedSet`] is one database's catalog read once and put in a form that answers all three, and that
//! errs on one side: a relation that only might show tagged data (a view over a tagged table, a statistics catalog) counts
//! as derived from it. [`load`] reads it with any ordinary role; [`TaggedSet::resolve`] does the thinking, and is pure.

mod code;
mod known;
mod nearest;
mod news;
mod queries;
mod read;
mod resolve;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use super::wire::Column;
use crate::mask::MaskRule;

pub(crate) use known::KnownCode;
pub(super) use known::Maker;
pub(super) use read::ColumnType;
#[cfg(test)]
pub(crate) use read::UniqueRow;
pub use read::load;
pub use read::{ColumnRow, RelationRow, Snapshot};

/// More rows than this in any one catalog query deny the target, with an error that says so.
const MAX_CATALOG_ROWS: usize = 500_000;

/// Objects below this oid came with the server (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// System relations that hold values of user columns or texts of other sessions' statements, that count the bytes or the pages which
/// these take, or what was read for them, or that show where rows lie: what a statement looks up only where a masked value says so,
/// and whether a longer row still fits its page, would be seen there.
const VALUE_CATALOGS: &[&str] = &[
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_cursors",
    "pg_largeobject",
    "pg_locks",
    "pg_prepared_statements",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_shmem_allocations",
    "pg_stat_activity",
    "pg_stat_all_indexes",
    "pg_stat_all_tables",
    "pg_stat_archiver",
    "pg_stat_bgwriter",
    "pg_stat_checkpointer",
    "pg_stat_database",
    "pg_stat_io",
    "pg_stat_progress_analyze",
    "pg_stat_progress_basebackup",
    "pg_stat_progress_cluster",
    "pg_stat_progress_copy",
    "pg_stat_progress_create_index",
    "pg_stat_progress_vacuum",
    "pg_stat_recovery_prefetch",
    "pg_stat_replication",
    "pg_stat_replication_slots",
    "pg_stat_slru",
    "pg_stat_statements",
    "pg_stat_statements_info",
    "pg_stat_subscription",
    "pg_stat_sys_indexes",
    "pg_stat_sys_tables",
    "pg_stat_user_functions",
    "pg_stat_user_indexes",
    "pg_stat_user_tables",
    "pg_stat_wal",
    "pg_stat_wal_receiver",
    "pg_stat_xact_all_tables",
    "pg_stat_xact_sys_tables",
    "pg_stat_xact_user_functions",
    "pg_stat_xact_user_tables",
    "pg_statio_all_indexes",
    "pg_statio_all_sequences",
    "pg_statio_all_tables",
    "pg_statio_sys_indexes",
    "pg_statio_sys_sequences",
    "pg_statio_sys_tables",
    "pg_statio_user_indexes",
    "pg_statio_user_sequences",
    "pg_statio_user_tables",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
];

/// Catalogs that clients read to look around, and the one column of each that is covered: with the values of rows that are older
/// than their column, and with another server's password.
pub(super) const COVERED: &[(&str, &str)] = &[("pg_attribute", "attmissingval"), ("pg_subscription", "subconninfo")];

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
    #[error("the database's catalog has more than {most} {what}")]
    TooLarge { what: &'static str, most: usize },
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
    /// What tagged columns are called.
    tagged_columns: HashSet<String>,
    functions: HashMap<String, UserFunction>,
    /// Names of functions that can be called with one argument. None: nobody has asked.
    take_one: Option<HashSet<String>>,
    operators: HashSet<String>,
    cast_types: HashSet<String>,
    /// Types that a cast to them reads tagged data for, by a domain's check.
    reading_types: HashSet<u32>,
    /// Of tagged columns, as far as these were asked for.
    types: HashMap<(u32, i16), ColumnType>,
    /// Tagged columns as people call them.
    names: HashMap<(u32, i16), String>,
    /// Relations that show tagged values under names of their own, by oid.
    derived: HashSet<u32>,
    /// All relations that there were, and the number of the last column of each.
    known: HashMap<u32, i16>,
    /// What masks call columns. (`*` is a name that says nothing, and so it stands for none.)
    masked_names: HashSet<String>,
    /// Columns that are called so, masked or not, and how.
    called_so: HashMap<(u32, i16), String>,
    /// Relations of whose name there is another one that is masked more.
    masked_less: HashSet<u32>,
    tagged: HashSet<u32>,
    referred_to: HashSet<u32>,
    /// Parents, at whatever distance, of relations with tagged columns, and what these are called.
    above: HashMap<u32, HashSet<String>>,
    computed: HashSet<(u32, i16)>,
    constrained: HashSet<(u32, i16)>,
    conflicts: HashMap<(u32, i16), Conflict>,
    /// Of relations with tagged columns; see [`TaggedSet::key`].
    keys: HashMap<u32, Vec<i16>>,
    code: Arc<KnownCode>,
    has_hidden_sequences: bool,
    /// `server_version_num`; 0: of a server before PostgreSQL 11.
    version: i32,
    fetched_at: SystemTime,
}

#[derive(Debug)]
struct Relation {
    schema: String,
    exposure: Exposure,
    /// A row security policy reads tagged data when it is used, or a child of it has tagged data of its own.
    guarded: bool,
    /// A key has a tagged column of it, or a constraint or an index both tagged and other ones, or a hash is shown of one.
    mixed: bool,
    /// How many rows it shows, by the server's estimate, if all of it are known.
    rows: Option<u64>,
}

/// What may keep a row from being written because of the value that a column of it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Conflict {
    Never,
    /// A row with the same value, or that there is none.
    ByEquality,
    Otherwise,
}

/// What a relation's name may stand for; see [`TaggedSet::named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It, or another one that is tagged like it or not at all.
    Itself,
    /// It was made after the catalog was read.
    Unknown,
    /// Another one of its name is masked more.
    LikeAMaskedOne,
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
    /// It is said to be immutable or stable: planning may call it, when values are bound.
    pub planned: bool,
}

impl TaggedSet {
    /// The set of a target without column masks: nothing is tagged, every statement is as free as its rules let it be.
    pub fn empty(fetched_at: SystemTime) -> Self {
        Self {
            masks: HashMap::new(),
            relations: HashMap::new(),
            ordinary: HashSet::new(),
            tagged_columns: HashSet::new(),
            functions: HashMap::new(),
            take_one: None,
            operators: HashSet::new(),
            cast_types: HashSet::new(),
            reading_types: HashSet::new(),
            types: HashMap::new(),
            names: HashMap::new(),
            derived: HashSet::new(),
            known: HashMap::new(),
            masked_names: HashSet::new(),
            called_so: HashMap::new(),
            masked_less: HashSet::new(),
            tagged: HashSet::new(),
            referred_to: HashSet::new(),
            above: HashMap::new(),
            computed: HashSet::new(),
            constrained: HashSet::new(),
            conflicts: HashMap::new(),
            keys: HashMap::new(),
            code: Arc::default(),
            has_hidden_sequences: false,
            version: 0,
            fetched_at,
        }
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

    /// The tagged columns of a relation.
    pub(super) fn tagged_of(&self, relation: u32) -> BTreeSet<(u32, i16)> {
        self.masks.keys().copied().filter(|it| it.0 == relation).collect()
    }

    /// A tagged column's table and name, for people.
    pub(super) fn column_name(&self, column: (u32, i16)) -> &str {
        self.names.get(&column).map_or("a column", String::as_str)
    }

    /// The type of a tagged column, if it is known.
    pub(super) fn column_type(&self, column: (u32, i16)) -> Option<ColumnType> {
        self.types.get(&column).copied()
    }

    /// Tagged columns that rows may be looked up by: each mask of the column says how often.
    pub(super) fn may_be_looked_up(&self, (relation, column): (u32, i16)) -> bool {
        let masks = self.masks(relation, column);
        !masks.is_empty() && masks.iter().all(|it| it.lookups_per_minute.is_some())
    }

    /// True for a relation that shows values of tagged columns under other names, and that is no view which the server expands.
    pub(super) fn is_derived(&self, relation: u32) -> bool {
        self.derived.contains(&relation)
    }

    /// True for a relation that has tagged columns.
    pub(super) fn has_tagged(&self, relation: u32) -> bool {
        self.tagged.contains(&relation)
    }

    /// True for a relation by whose name rows with tagged columns may be read that are not its own.
    pub(super) fn is_above_tagged(&self, relation: u32) -> bool {
        self.above.contains_key(&relation)
    }

    /// True for a column that has no mask, and the name of one that has in a child of its relation: it was made after the catalog was read,
    /// and is the child's.
    pub(super) fn is_news(&self, (relation, column): (u32, i16), name: &str) -> bool {
        let tagged = self.above.get(&relation);
        tagged.is_some_and(|it| it.contains(name)) && self.masks(relation, column).is_empty()
    }

    /// False for a column that was made after the catalog was read, be it with its relation.
    pub(super) fn has_column(&self, (relation, column): (u32, i16)) -> bool {
        self.is_empty() || relation < FIRST_USER_OID || self.known.get(&relation).is_some_and(|last| column <= *last)
    }

    /// True for a column of a result of which this may not be up to date: it was made since, or has no mask, and a name by which it could
    /// have one, and had another name. (That may be another one's, or nobody's.)
    pub(super) fn doubts(&self, column: &Column) -> bool {
        let origin = (column.table, column.attribute);
        let is_named = || {
            self.masks(column.table, column.attribute).is_empty()
                && std::str::from_utf8(&column.name)
                    .is_ok_and(|it| self.masked_names.contains(it) && !self.was_called(origin, it))
        };
        !self.is_empty() && (!self.has_column(origin) || is_named())
    }

    /// Whether a newer reading has nothing to say against showing a column of a result as it is, which this one doubts. `own`: the session
    /// may see what is not committed.
    pub(super) fn is_settled_by(&self, newer: &Self, column: &Column, own: bool) -> bool {
        if column.table == 0 {
            // From where it comes nobody has said.
            return newer.masks.keys().all(|it| self.masks.contains_key(it));
        }
        let masks = |set: &Self| set.masks(column.table, column.attribute).len();
        masks(newer) <= masks(self) && (own || newer.has_column((column.table, column.attribute)))
    }

    /// True for a relation with a tagged column that foreign keys refer to.
    pub(super) fn is_referred_to(&self, relation: u32) -> bool {
        self.referred_to.contains(&relation)
    }

    /// True for a column that the server computes when it is read, by an expression that may fail.
    pub(super) fn is_computed_when_read(&self, column: (u32, i16)) -> bool {
        self.computed.contains(&column)
    }

    /// What the name of a relation may stand for, where no schema is written before it.
    pub(super) fn named(&self, oid: u32) -> Named {
        if oid < FIRST_USER_OID {
            return Named::Itself;
        }
        match (self.known.contains_key(&oid), self.masked_less.contains(&oid)) {
            (false, _) => Named::Unknown,
            (true, true) => Named::LikeAMaskedOne,
            (true, false) => Named::Itself,
        }
    }

    /// True for a column that is in a constraint or an index with a tagged one.
    pub(super) fn shares_a_constraint(&self, relation: u32, column: i16) -> bool {
        self.constrained.contains(&(relation, column)) || self.constrained.contains(&(relation, read::WHOLE_ROW))
    }

    /// True for a relation of which no row can be written without telling of tagged values.
    pub(super) fn conflicts_anyhow(&self, relation: u32) -> bool {
        self.conflicts.contains_key(&(relation, read::WHOLE_ROW))
    }

    /// What may be in the way of a row with some value in this column, if that is up to tagged values.
    pub(super) fn conflict(&self, (relation, column): (u32, i16)) -> Conflict {
        self.conflicts.get(&(relation, column)).copied().unwrap_or(Conflict::Never)
    }

    /// The columns of a relation's primary key, if the server goes by it, and by nothing tagged, where GROUP BY names all of it.
    pub(super) fn key(&self, relation: u32) -> Option<&[i16]> {
        self.keys.get(&relation).map(Vec::as_slice)
    }

    /// True if there are sequences that give values to tagged columns. As relations they are derived.
    pub(super) fn has_hidden_sequences(&self) -> bool {
        self.has_hidden_sequences
    }

    /// True where EXPLAIN ANALYZE counts buffers without being told to: from PostgreSQL 18 on.
    pub(super) fn counts_buffers(&self) -> bool {
        self.version >= 180_000
    }

    /// True where an UPDATE reads all columns of a row, to write it anew, and its plan says how wide they are: before PostgreSQL 14.
    pub(super) fn reads_rows_to_update(&self) -> bool {
        self.version < 140_000
    }

    /// Functions, operators and casts by oid.
    pub(super) fn code(&self) -> &KnownCode {
        &self.code
    }

    /// True if the oid is a table's whose columns the server names as themselves: a plain or a partitioned table.
    pub fn is_ordinary(&self, relation: u32) -> bool {
        self.ordinary.contains(&relation)
    }

    /// True if some tagged column has this name, whatever its table.
    pub fn is_tagged_column_name(&self, name: &str) -> bool {
        self.tagged_columns.contains(name)
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

    /// True if using the relation, as a statement names it, may run a row security policy that reads tagged data, or write
    /// to a child that has some: that is a part of the statement then, and so are its errors.
    pub fn is_guarded(&self, schema: Option<&str>, name: &str) -> bool {
        let mut named = self.relations.get(name).into_iter().flatten();
        named.any(|it| it.guarded && schema.is_none_or(|schema| stands_for(schema, &it.schema)))
    }

    /// True for a relation of which a key has a tagged column, or a constraint or an index both tagged and other ones, or that has a
    /// column of which a hash is shown.
    pub fn is_mixed(&self, schema: Option<&str>, name: &str) -> bool {
        let mut named = self.relations.get(name).into_iter().flatten();
        named.any(|it| it.mixed && schema.is_none_or(|schema| stands_for(schema, &it.schema)))
    }

    /// How many rows a relation has, as a statement names it: the most that one of this name has. None: that is not known.
    pub fn rows(&self, schema: Option<&str>, name: &str) -> Option<u64> {
        let named = self.relations.get(name).into_iter().flatten();
        let mut named = named.filter(|it| schema.is_none_or(|schema| stands_for(schema, &it.schema))).peekable();
        named.peek()?;
        named.try_fold(0, |most: u64, it| Some(most.max(it.rows?)))
    }

    /// The schemas that have a relation of this name. Those of sessions do not count, nor, beside others, that of views which show anybody
    /// what names there are, and are called `tables`, `parameters` or `triggers`.
    pub fn schemas_of(&self, name: &str) -> Vec<String> {
        let named = self.relations.get(name).into_iter().flatten().map(|it| it.schema.clone());
        let mut schemas: Vec<String> = named.filter(|it| !it.starts_with("pg_temp_")).collect();
        if schemas.len() > 1 {
            schemas.retain(|it| it != "information_schema");
        }
        schemas.sort_unstable();
        schemas
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

    /// True if there may be a function of that name, the server's own included, that can be called with one argument: `value.name` calls
    /// it, too.
    pub fn may_take_one(&self, name: &str) -> bool {
        self.take_one.as_ref().is_none_or(|it| it.contains(name))
    }

    /// True if somebody defined a cast from or to a type of that name by a function: casting may run any code.
    pub fn is_cast_by_code(&self, type_name: &str) -> bool {
        self.cast_types.contains(type_name)
    }

    /// True for a type to which a cast reads tagged data.
    pub(super) fn is_cast_by_reading(&self, type_oid: u32) -> bool {
        self.reading_types.contains(&type_oid)
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

/// The view of all sequences, with what each has given last.
const SEQUENCES: &str = "pg_sequences";

fn is_value_catalog(schema: &str, name: &str) -> bool {
    // Extensions put theirs into any schema.
    VALUE_CATALOGS.contains(&name) && (is_system_schema(schema) || name.starts_with("pg_stat_statements"))
}

#[cfg(test)]
mod tests;
