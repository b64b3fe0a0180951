//! Reading the catalog of one database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::code::{self, Body, CodeRow, Runs};
use super::known::{COMPARISONS, FunctionRow, KnownCode, OperatorRow};
use super::nearest::nearest;
use super::queries::{
    BEGIN, BODIES, BY_RULES, CASTS, CODE, COLUMNS, COMPOSITES, COMPUTED, CONFLICTING, COVERED_COLUMNS,
    DEFAULT_FUNCTIONS, EXTENSION_CASTS, FOREIGN_KEYS, FUNCTIONS, GENERATED, INHERITS, KIN_COLUMNS, KNOWN_FUNCTIONS,
    KNOWN_OPERATORS, OPAQUE, OPERATORS, PARTITION_KEYS, POLICIES, POLICY_CODE, RELATIONS, REWRITES, SEQUENCES,
    TAKE_ONE, TOGETHER, TYPE_CODE, UNIQUE, VALUE_READERS, VIEW_FUNCTIONS, WITHOUT_JIT,
};
use super::{COVERED, CatalogError, FIRST_USER_OID, MAX_CATALOG_ROWS, TaggedSet, UserFunction, VALUE_CATALOGS};
use crate::mask::MaskRule;
use crate::policy::Glob;
use crate::protocol::postgres::operation;

/// What [`load`] reads, before any thinking.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub relations: Vec<RelationRow>,
    /// Columns that some mask's pattern names, or that are called as a generated one.
    pub columns: Vec<ColumnRow>,
    /// What types these have.
    pub(crate) types: Vec<((u32, i16), ColumnType)>,
    /// (relation with a view definition or rule, relation it reads or writes)
    pub rewrites: Vec<(u32, u32)>,
    /// (relation with a row security policy, relation that the policy reads)
    pub(crate) policies: Vec<(u32, u32)>,
    /// Relations whose view definition or rule calls a function or an operator that did not come with the server, or one that
    /// did and is not known to be harmless; and those whose defaults call one that runs a text or reads files.
    pub(crate) opaque: Vec<u32>,
    /// (child, parent), of inheritance and of partitions.
    pub inherits: Vec<(u32, u32)>,
    /// Columns that show another one, as (relation, number): generated ones what they are computed from, and those with a row
    /// of a relation in them that ([`WHOLE_ROW`]).
    pub(crate) made_of: Vec<(ColumnRow, (u32, i16))>,
    pub(crate) functions: Vec<(String, UserFunction)>,
    /// Names of functions that can be called with one argument. None: nobody has asked.
    pub(crate) take_one: Option<HashSet<String>>,
    pub(crate) operators: Vec<String>,
    /// Types that a function of somebody's casts from or to.
    pub(crate) cast_types: Vec<String>,
    /// What runs when rows are written, of functions that did not come with the server or an extension.
    pub(crate) code: Vec<CodeRow>,
    /// These functions, and those that their texts name, by oid.
    pub(crate) bodies: HashMap<u32, Body>,
    pub(crate) known: Arc<KnownCode>,
    /// Columns of foreign keys, and those that they refer to.
    pub(crate) foreign_keys: Vec<(ColumnRow, ColumnRow)>,
    /// Columns of one relation that are in one constraint or index.
    pub(crate) together: Vec<(u32, Vec<i16>)>,
    pub(crate) conflicting: Vec<KeyRow>,
    pub(crate) by_rules: Vec<u32>,
    pub(crate) policy_code: Vec<(u32, u32)>,
    /// (type, its name, a function that a cast to it runs)
    pub(crate) type_code: Vec<(u32, String, u32)>,
    pub(crate) partition_keys: Vec<(u32, Vec<i16>)>,
    pub(crate) kin_columns: Vec<ColumnRow>,
    /// Columns that are computed when they are read.
    pub(crate) computed: Vec<(u32, i16)>,
    pub(crate) unique: Vec<UniqueRow>,
    /// Sequences, and columns that have their values of them.
    pub(crate) sequences: Vec<(u32, (u32, i16))>,
    /// Relations whose view definition or rule calls a function of sequences.
    pub(crate) by_sequences: Vec<u32>,
    /// Columns of the system's own that are covered ([`COVERED`](super::COVERED)).
    pub(crate) covered: Vec<(u32, i16)>,
    /// `server_version_num`; 0: of a server before PostgreSQL 11.
    pub(crate) version: i32,
}

/// A unique index of a plain table that has no children.
#[derive(Debug)]
pub(crate) struct UniqueRow {
    pub(crate) relation: u32,
    /// 0 stands for an expression.
    pub(crate) columns: Vec<i16>,
    /// A primary key's that holds at once, and that any plan may rest on.
    pub(crate) is_key: bool,
}

/// What may keep a row from being written because of another one, or for want of one.
#[derive(Debug)]
pub(crate) struct KeyRow {
    pub(crate) relation: u32,
    /// The columns themselves that it has.
    pub(crate) columns: Vec<i16>,
    /// Those in its expressions and its condition; [`WHOLE_ROW`]: any of them.
    pub(crate) computed: Vec<i16>,
    /// By its columns' values being equal.
    pub(crate) by_equality: bool,
    /// Never by a column or an expression that is NULL.
    pub(crate) is_strict: bool,
    pub(crate) by_expressions: bool,
}

/// Among the columns of a constraint: any change of a row may fail by it.
pub(crate) const ANY_CHANGE: i16 = i16::MIN;
/// In the place of a column's number: all of them.
pub(crate) const WHOLE_ROW: i16 = 0;

#[derive(Debug)]
pub struct RelationRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`
    pub kind: char,
    /// How many rows the server takes it to have; not what others add to it, such as partitions.
    pub rows: Option<u64>,
    /// `pg_class.relnatts`: the number of its last column.
    pub columns: i16,
}

#[derive(Clone, Debug)]
pub struct ColumnRow {
    pub relation: u32,
    pub number: i16,
    pub name: String,
}

/// `pg_attribute.atttypid` and `atttypmod`; of a domain those of the type that it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnType {
    pub(in crate::protocol::postgres) oid: u32,
    pub(in crate::protocol::postgres) modifier: i32,
}

/// Reads the catalog of the client's database and resolves the masks of this target in it. `counts`: rules ask how many rows tables have.
///
/// The queries are sent together and cost a few round trips; an ordinary role may run them, whatever its search path.
pub async fn load(
    client: &Client,
    masks: &[Arc<MaskRule>],
    target: &str,
    counts: bool,
) -> Result<TaggedSet, CatalogError> {
    let masks: Vec<Arc<MaskRule>> = masks.iter().filter(|it| concerns(it, target)).cloned().collect();
    let fetched_at = SystemTime::now();
    if masks.is_empty() && !counts {
        return Ok(TaggedSet::empty(fetched_at));
    }
    // Of one moment; and behind a pooler all of it goes to one server.
    client.batch_execute(BEGIN).await?;
    // So many queries at once are large.
    let snapshot = if masks.is_empty() { fetch_rows(client).await? } else { Box::pin(fetch(client, &masks)).await? };
    let set = understood(client, &snapshot, &masks, fetched_at).await?;
    client.batch_execute("COMMIT").await?;
    Ok(set)
}

async fn understood(
    client: &Client,
    snapshot: &Snapshot,
    masks: &[Arc<MaskRule>],
    fetched_at: SystemTime,
) -> Result<TaggedSet, CatalogError> {
    match TaggedSet::resolve(snapshot, masks, fetched_at) {
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
    let (catalogs, columns_of_these): (Vec<&str>, Vec<&str>) = COVERED.iter().copied().unzip();
    let value_catalogs: Vec<&str> = VALUE_CATALOGS.iter().copied().chain([super::SEQUENCES]).collect();
    let values: [&(dyn ToSql + Sync); 4] = [&FIRST_USER_OID, &value_catalogs, &catalogs, &columns_of_these];
    let covered: [&(dyn ToSql + Sync); 2] = [&catalogs, &columns_of_these];
    let harmless: Vec<&str> = operation::harmless_functions().collect();
    let by_name: [&(dyn ToSql + Sync); 2] = [&FIRST_USER_OID, &harmless];
    let comparisons: [&(dyn ToSql + Sync); 2] = [&FIRST_USER_OID, &COMPARISONS];
    let newest = client.query(WITHOUT_JIT, &[]).await?;
    let (
        relations,
        columns,
        rewrites,
        policies,
        opaque,
        view_functions,
        default_functions,
        value_readers,
        inherits,
        generated,
        composites,
        functions,
        operators,
        casts,
        code,
        known_functions,
        known_operators,
        extension_casts,
        foreign_keys,
        together,
        conflicting,
        by_rules,
        policy_code,
        type_code,
        partition_keys,
        kin_columns,
        computed,
        unique,
        sequences,
        covered,
        take_one,
    ) = tokio::try_join!(
        rows(client, "relations", RELATIONS, &[]),
        rows(client, "columns", COLUMNS, &named),
        rows(client, "view dependencies", REWRITES, &[]),
        rows(client, "row security policies", POLICIES, &[]),
        rows(client, "views with functions", OPAQUE, &users),
        rows(client, "functions in views", VIEW_FUNCTIONS, &users),
        rows(client, "functions in defaults", DEFAULT_FUNCTIONS, &users),
        rows(client, "views of system catalogs", VALUE_READERS, &values),
        rows(client, "inheritance links", INHERITS, &[]),
        rows(client, "generated columns", GENERATED, &[]),
        rows(client, "columns of composite types", COMPOSITES, &users),
        rows(client, "functions", FUNCTIONS, &users),
        rows(client, "operators", OPERATORS, &users),
        rows(client, "casts", CASTS, &users),
        rows(client, "functions of defaults and triggers", CODE, &users),
        rows(client, "known functions", KNOWN_FUNCTIONS, &by_name),
        rows(client, "known operators", KNOWN_OPERATORS, &comparisons),
        rows(client, "casts of extensions", EXTENSION_CASTS, &users),
        rows(client, "foreign keys", FOREIGN_KEYS, &[]),
        rows(client, "constraints and indexes", TOGETHER, &[]),
        rows(client, "keys", CONFLICTING, &[]),
        rows(client, "tables with rules", BY_RULES, &users),
        rows(client, "policies with functions", POLICY_CODE, &users),
        rows(client, "types with functions", TYPE_CODE, &users),
        rows(client, "partition keys", PARTITION_KEYS, &[]),
        rows(client, "columns of partitions", KIN_COLUMNS, &[]),
        rows(client, "columns that are computed when read", COMPUTED, &[]),
        rows(client, "unique indexes", UNIQUE, &users),
        rows(client, "sequences", SEQUENCES, &[]),
        rows(client, "columns of the catalog", COVERED_COLUMNS, &covered),
        rows(client, "functions of one argument", TAKE_ONE, &[]),
    )?;
    let known = KnownCode::new(
        &read(&known_functions, |row| {
            Ok(FunctionRow { oid: row.try_get(0)?, name: row.try_get(1)?, types: row.try_get(2)? })
        })?,
        &read(&known_operators, |row| {
            Ok(OperatorRow {
                oid: row.try_get(0)?,
                name: row.try_get(1)?,
                left: row.try_get(2)?,
                right: row.try_get(3)?,
            })
        })?,
        read(&extension_casts, |row| row.try_get(0))?,
    );
    let code = read(&code, |row| {
        let runs = match row.try_get::<_, &str>(2)? {
            "a" => Runs::TriggerAfter,
            "b" => Runs::TriggerBefore,
            _ => Runs::Value,
        };
        Ok(CodeRow { relation: row.try_get(0)?, function: row.try_get(1)?, runs })
    })?;
    let functions = read(&functions, user_function)?;
    let policy_code: Vec<(u32, u32)> = read(&policy_code, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let type_code: Vec<(u32, String, u32)> =
        read(&type_code, |row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))?;
    let of_policies = policy_code.iter().map(|(_, function)| *function);
    let of_types = type_code.iter().map(|(_, _, function)| *function);
    let run = code.iter().map(|it| it.function).chain(of_policies).chain(of_types).collect();
    let bodies = bodies(client, run, &functions).await?;
    let column = |row: &tokio_postgres::Row| -> Result<_, tokio_postgres::Error> {
        Ok(ColumnRow { relation: row.try_get(0)?, number: row.try_get(1)?, name: row.try_get(2)? })
    };
    let types = read(&columns, |row| {
        Ok(((row.try_get(0)?, row.try_get(1)?), ColumnType { oid: row.try_get(3)?, modifier: row.try_get(4)? }))
    })?;
    let generated = read(&generated, |row| Ok((column(row)?, (row.try_get(0)?, row.try_get(3)?))))?;
    let mut made_of = read(&composites, |row| Ok((column(row)?, (row.try_get(3)?, WHOLE_ROW))))?;
    made_of.extend(generated);
    let mut opaque: Vec<u32> = read(&opaque, |row| row.try_get(0))?;
    opaque.extend(read(&value_readers, |row| row.try_get::<_, u32>(0))?);
    let mut by_sequences = Vec::new();
    for (relation, function) in read(&view_functions, |row| Ok((row.try_get(0)?, row.try_get::<_, String>(1)?)))? {
        if operation::is_of_sequences(&function) {
            by_sequences.push(relation);
        }
        if !operation::is_harmless(&function) {
            opaque.push(relation);
        }
    }
    for (relation, function) in read(&default_functions, |row| Ok((row.try_get(0)?, row.try_get::<_, String>(1)?)))? {
        if operation::reads_beyond_arguments(&function) {
            opaque.push(relation);
        }
    }
    Ok(Snapshot {
        relations: read(&relations, relation_row)?,
        columns: read(&columns, column)?,
        types,
        rewrites: read(&rewrites, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        policies: read(&policies, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        opaque,
        inherits: read(&inherits, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        made_of,
        functions,
        take_one: Some(names_of(&take_one)?),
        operators: read(&operators, |row| row.try_get(0))?,
        cast_types: read(&casts, |row| row.try_get(0))?,
        code,
        bodies,
        known: Arc::new(known),
        foreign_keys: read(&foreign_keys, |row| {
            let other = ColumnRow { relation: row.try_get(3)?, number: row.try_get(4)?, name: row.try_get(5)? };
            Ok((column(row)?, other))
        })?,
        together: read(&together, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        conflicting: read(&conflicting, |row| {
            Ok(KeyRow {
                relation: row.try_get(0)?,
                columns: row.try_get(1)?,
                computed: row.try_get(2)?,
                by_equality: row.try_get(3)?,
                is_strict: row.try_get(4)?,
                by_expressions: row.try_get(5)?,
            })
        })?,
        by_rules: read(&by_rules, |row| row.try_get(0))?,
        policy_code,
        type_code,
        partition_keys: read(&partition_keys, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        kin_columns: read(&kin_columns, column)?,
        computed: read(&computed, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        unique: read(&unique, |row| {
            Ok(UniqueRow { relation: row.try_get(0)?, columns: row.try_get(1)?, is_key: row.try_get(2)? })
        })?,
        sequences: read(&sequences, |row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))))?,
        by_sequences,
        covered: read(&covered, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        version: newest.first().map_or(Ok(0), |row| row.try_get(1))?,
    })
}

/// What of a catalog rules ask for: how many rows there are, and what a name may call.
async fn fetch_rows(client: &Client) -> Result<Snapshot, CatalogError> {
    let users: [&(dyn ToSql + Sync); 1] = [&FIRST_USER_OID];
    let (relations, rewrites, inherits, functions, take_one) = tokio::try_join!(
        rows(client, "relations", RELATIONS, &[]),
        rows(client, "view dependencies", REWRITES, &[]),
        rows(client, "inheritance links", INHERITS, &[]),
        rows(client, "functions", FUNCTIONS, &users),
        rows(client, "functions of one argument", TAKE_ONE, &[]),
    )?;
    Ok(Snapshot {
        functions: read(&functions, user_function)?,
        take_one: Some(names_of(&take_one)?),
        relations: read(&relations, relation_row)?,
        rewrites: read(&rewrites, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        inherits: read(&inherits, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?,
        ..Snapshot::default()
    })
}

fn user_function(row: &tokio_postgres::Row) -> Result<(String, UserFunction), tokio_postgres::Error> {
    Ok((
        row.try_get(0)?,
        UserFunction { shadows: row.try_get(1)?, takes_row: row.try_get(2)?, planned: row.try_get(3)? },
    ))
}

fn names_of(rows: &[tokio_postgres::Row]) -> Result<HashSet<String>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

fn relation_row(row: &tokio_postgres::Row) -> Result<RelationRow, tokio_postgres::Error> {
    let (kind, rows): (String, f64) = (row.try_get(3)?, row.try_get(4)?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; more than there are is the most"
    )]
    let rows = (rows >= 0.0).then_some(rows as u64);
    let kind = kind.chars().next().unwrap_or(' ');
    let (schema, name, columns) = (row.try_get(1)?, row.try_get(2)?, row.try_get(5)?);
    Ok(RelationRow { oid: row.try_get(0)?, schema, name, kind, rows, columns })
}

/// Functions whose texts are read, of [`code::MAX_TEXT`] each.
const MAX_BODIES: usize = 5_000;

/// The functions that run when rows are written, and all that these can call by name.
async fn bodies(
    client: &Client,
    mut oids: Vec<u32>,
    functions: &[(String, UserFunction)],
) -> Result<HashMap<u32, Body>, CatalogError> {
    let mut callable: HashMap<String, Vec<String>> = HashMap::new();
    for (name, _) in functions.iter().filter(|(_, it)| it.shadows) {
        callable.entry(code::last_word(name)).or_default().push(name.clone());
    }
    let of_rows: HashSet<String> =
        functions.iter().filter(|(_, it)| it.takes_row).map(|(name, _)| code::last_word(name)).collect();
    let mut names: Vec<String> = Vec::new();
    let mut bodies = HashMap::new();
    let what = "functions behind defaults and triggers";
    while !oids.is_empty() || !names.is_empty() {
        let parameters: [&(dyn ToSql + Sync); 4] = [&FIRST_USER_OID, &oids, &names, &code::MAX_TEXT];
        let found = rows_up_to(MAX_BODIES, client, what, BODIES, &parameters).await?;
        (oids, names) = (Vec::new(), Vec::new());
        for row in &found {
            let (oid, name, text): (u32, String, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let body = Body::new(&name, text.as_deref(), &of_rows);
            names.extend(body.called().filter_map(|it| callable.remove(it)).flatten());
            bodies.insert(oid, body);
        }
        if bodies.len() > MAX_BODIES {
            return Err(CatalogError::TooLarge { what, most: MAX_BODIES });
        }
    }
    Ok(bodies)
}

/// The rows of one catalog query, or an error if there are more than anybody should hold.
async fn rows(
    client: &Client,
    what: &'static str,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, CatalogError> {
    rows_up_to(MAX_CATALOG_ROWS, client, what, query, parameters).await
}

async fn rows_up_to(
    most: usize,
    client: &Client,
    what: &'static str,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, CatalogError> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
    let mut all: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    all.extend(parameters);
    let rows = client.query(query, &all).await?;
    if rows.len() > most { Err(CatalogError::TooLarge { what, most }) } else { Ok(rows) }
}

fn read<T>(
    rows: &[tokio_postgres::Row],
    one: impl Fn(&tokio_postgres::Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, tokio_postgres::Error> {
    rows.iter().map(one).collect()
}
