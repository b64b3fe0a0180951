//! Reading the catalog of one database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::code::{self, Body, CodeRow, Runs};
use super::known::{COMPARISONS, FunctionRow, KnownCode, OperatorRow};
use super::nearest::nearest;
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

/// The server expects more of these queries than there is, and would compile what runs for milliseconds for ten times as long.
/// (Servers before PostgreSQL 11 have no such setting.) And which version this one is.
const WITHOUT_JIT: &str = "\
    SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.current_setting('server_version_num')::pg_catalog.int4
    WHERE pg_catalog.current_setting('jit', true) IS NOT NULL";

const RELATIONS: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
           CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 1::pg_catalog.float8
                -- Before 14 there is no telling what is empty from what was never looked at.
                WHEN c.reltuples OPERATOR(pg_catalog.>) 0
                     OR pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 140000
                THEN c.reltuples::pg_catalog.float8
                ELSE -1::pg_catalog.float8 END,
           c.relnatts
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S']::\"char\"[])
    LIMIT $1";

const COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text,
           CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
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

/// Behind `u`, which has `refclassid` and `refobjid` of what something depends on: `f`, the functions among it and those of its operators, that
/// did not come with the server.
macro_rules! functions_of_u {
    () => {
        "
    LEFT JOIN pg_catalog.pg_operator o
      ON u.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
     AND o.oid OPERATOR(pg_catalog.=) u.refobjid
    JOIN pg_catalog.pg_proc f
      ON f.oid OPERATOR(pg_catalog.=) CASE
             WHEN u.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass THEN u.refobjid
             ELSE o.oprcode::pg_catalog.oid END
     AND f.oid OPERATOR(pg_catalog.>=) $2
    "
    };
}

/// `code_of_types`: domains whose checks use functions or operators that did not come with the server, and all types that have one of these
/// domains in them, each with what is used. A cast to one runs that.
macro_rules! code_of_types {
    () => {
        "\
    WITH RECURSIVE checks AS (
        SELECT k.contypid AS type, d.refclassid, d.refobjid
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) k.oid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
          AND k.contypid OPERATOR(pg_catalog.<>) 0
          AND d.refclassid OPERATOR(pg_catalog.=) ANY
              (ARRAY['pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass]::oid[])
          AND d.refobjid OPERATOR(pg_catalog.>=) $2),
    holding (type, checked) AS (
        SELECT type, type FROM checks
        UNION
        SELECT w.whole, h.checked
        FROM holding h
        JOIN (SELECT t.oid AS whole, t.typelem AS part FROM pg_catalog.pg_type t
              UNION ALL
              SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t
              UNION ALL
              SELECT r.rngtypid, r.rngsubtype FROM pg_catalog.pg_range r
              UNION ALL
              SELECT t.oid, a.atttypid
              FROM pg_catalog.pg_type t
              JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) t.typrelid
              WHERE t.typrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0) w
          ON w.part OPERATOR(pg_catalog.=) h.type),
    code_of_types AS (
        SELECT DISTINCT h.type, c.refclassid, c.refobjid
        FROM holding h JOIN checks c ON c.type OPERATOR(pg_catalog.=) h.checked)"
    };
}

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

/// The same of defaults and generated columns, a domain's too.
const DEFAULT_FUNCTIONS: &str = "\
    SELECT DISTINCT v.relation, p.proname::text
    FROM (SELECT d.relation, pg_catalog.substring(f.part, '^[0-9]+') AS number
          FROM (SELECT e.adrelid AS relation, e.adbin::text AS tree FROM pg_catalog.pg_attrdef e
                UNION ALL
                SELECT a.attrelid, t.typdefaultbin::text
                FROM pg_catalog.pg_attribute a
                JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
                WHERE t.typdefaultbin IS NOT NULL) d,
               pg_catalog.unnest(pg_catalog.string_to_array(d.tree, ':funcid ')) AS f(part)
          WHERE d.relation OPERATOR(pg_catalog.>=) $2) v
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) v.number::pg_catalog.oid
    WHERE p.oid OPERATOR(pg_catalog.<) $2
    LIMIT $1";

/// Views and rules that read a system catalog with values of user columns: on most of these no dependency is kept either. Of
/// catalogs with one such column only that, or whole rows.
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
               JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
               JOIN ROWS FROM (pg_catalog.unnest($4::text[]), pg_catalog.unnest($5::text[])) AS k(catalog, covered)
                 ON c.relname::text OPERATOR(pg_catalog.=) k.catalog AND a.attname::text OPERATOR(pg_catalog.=) k.covered
          WHERE c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace) v
      ON pg_catalog.strpos(r.tree, pg_catalog.concat(' :relid ', v.oid, ' ')) OPERATOR(pg_catalog.>) 0
     AND (v.attnum IS NULL
          OR pg_catalog.strpos(r.tree, pg_catalog.concat(' :varattno ', v.attnum, ' ')) OPERATOR(pg_catalog.>) 0)
    LIMIT $1";

const INHERITS: &str = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits LIMIT $1";

/// What depends on the columns is the default, or, before PostgreSQL 15, the generated column itself.
const GENERATED: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text, d.refobjsubid::int2
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_attrdef e
      ON e.adrelid OPERATOR(pg_catalog.=) a.attrelid AND e.adnum OPERATOR(pg_catalog.=) a.attnum
    JOIN pg_catalog.pg_depend d
      ON (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
          AND d.objid OPERATOR(pg_catalog.=) e.oid
          OR d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.objid OPERATOR(pg_catalog.=) a.attrelid AND d.objsubid OPERATOR(pg_catalog.=) a.attnum)
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid OPERATOR(pg_catalog.=) a.attrelid
    WHERE a.attgenerated OPERATOR(pg_catalog.<>) '' AND d.refobjsubid OPERATOR(pg_catalog.>) 0
      AND d.refobjsubid OPERATOR(pg_catalog.<>) a.attnum
    LIMIT $1";

/// Columns with a relation's row type in their own, at whatever depth of arrays, domains and ranges. (Servers before
/// PostgreSQL 14 have no multiranges, nor the column that tells of them.)
const COMPOSITES: &str = "\
    WITH RECURSIVE parts (whole, part) AS (
        SELECT t.oid, t.typelem FROM pg_catalog.pg_type t WHERE t.typelem OPERATOR(pg_catalog.<>) 0
        UNION ALL
        SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.typbasetype OPERATOR(pg_catalog.<>) 0
        UNION ALL
        SELECT r.rngtypid, r.rngsubtype FROM pg_catalog.pg_range r
        UNION ALL
        SELECT (pg_catalog.to_jsonb(r) OPERATOR(pg_catalog.->>) 'rngmultitypid')::pg_catalog.oid, r.rngtypid
        FROM pg_catalog.pg_range r),
    held (type, part) AS (
        SELECT DISTINCT a.atttypid, a.atttypid FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
        UNION
        SELECT h.type, p.part FROM held h JOIN parts p ON p.whole OPERATOR(pg_catalog.=) h.part)
    SELECT DISTINCT a.attrelid, a.attnum, a.attname::text, c.typrelid
    FROM pg_catalog.pg_attribute a
    JOIN held h ON h.type OPERATOR(pg_catalog.=) a.atttypid
    JOIN pg_catalog.pg_type c ON c.oid OPERATOR(pg_catalog.=) h.part
    WHERE a.attrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND c.typrelid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

const FUNCTIONS: &str = "\
    SELECT p.proname::text,
           NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'),
           COALESCE(t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'd', 'p']::\"char\"[]), false),
           p.provolatile OPERATOR(pg_catalog.<>) 'v'::\"char\"
    FROM pg_catalog.pg_proc p LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]
    WHERE p.oid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

const TAKE_ONE: &str = "\
    SELECT DISTINCT p.proname::text FROM pg_catalog.pg_proc p
    WHERE p.pronargs OPERATOR(pg_catalog.>=) 1::int2
      AND (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults) OPERATOR(pg_catalog.<=) 1
    LIMIT $1";

const OPERATORS: &str = "\
    SELECT DISTINCT o.oprname::text
    FROM pg_catalog.pg_operator o
    WHERE o.oid OPERATOR(pg_catalog.>=) $2
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

/// Types that somebody's function casts from or to, and all that are cast to part by part: domains, arrays and rows.
const CASTS: &str = "\
    WITH RECURSIVE casts AS (
        SELECT c.castsource, c.casttarget FROM pg_catalog.pg_cast c
        WHERE c.castfunc OPERATOR(pg_catalog.>=) $2
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass
                            AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')),
    targets (oid) AS (
        SELECT casttarget FROM casts
        UNION
        SELECT w.whole
        FROM targets p
        JOIN (SELECT t.oid AS whole, t.typelem AS part FROM pg_catalog.pg_type t
              UNION ALL
              SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t
              UNION ALL
              SELECT t.oid, a.atttypid
              FROM pg_catalog.pg_type t
              JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) t.typrelid
              WHERE t.typrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0) w
          ON w.part OPERATOR(pg_catalog.=) p.oid)
    SELECT DISTINCT t.typname::text
    FROM pg_catalog.pg_type t
    JOIN (SELECT oid FROM targets UNION SELECT castsource FROM casts) c ON c.oid OPERATOR(pg_catalog.=) t.oid
    LIMIT $1";

/// Types of which a cast to them runs functions, by a domain's check.
const TYPE_CODE: &str = concat!(
    code_of_types!(),
    "
    SELECT DISTINCT t.oid, t.typname::text, f.oid
    FROM code_of_types u JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) u.type",
    functions_of_u!(),
    "LIMIT $1"
);

/// Functions of defaults, checks and generated columns (a domain's too, and those behind operators; `v`), and of triggers that come before
/// the row is written (`b`), with their conditions: these choose what is in it; and of those that come after it (`a`). (Before PostgreSQL 15 it is the generated column itself that
/// depends.)
const CODE: &str = concat!(
    code_of_types!(),
    ",
    uses AS (
        SELECT e.adrelid AS relation, 'v'::text AS runs, d.refclassid, d.refobjid
        FROM pg_catalog.pg_attrdef e JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) e.oid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
        UNION ALL
        SELECT a.attrelid, 'v', d.refclassid, d.refobjid
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) a.atttypid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
          AND EXISTS (SELECT FROM pg_catalog.pg_type t
                      WHERE t.oid OPERATOR(pg_catalog.=) a.atttypid AND t.typtype OPERATOR(pg_catalog.=) 'd')
        UNION ALL
        SELECT a.attrelid, 'v', d.refclassid, d.refobjid
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_depend d
          ON d.objid OPERATOR(pg_catalog.=) a.attrelid AND d.objsubid OPERATOR(pg_catalog.=) a.attnum
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          AND a.attgenerated OPERATOR(pg_catalog.<>) ''
        UNION ALL
        SELECT a.attrelid, 'v', c.refclassid, c.refobjid
        FROM pg_catalog.pg_attribute a JOIN code_of_types c ON c.type OPERATOR(pg_catalog.=) a.atttypid
        WHERE a.attrelid OPERATOR(pg_catalog.>=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0
        UNION ALL
        SELECT k.conrelid, 'v', d.refclassid, d.refobjid
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) k.oid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
          AND k.contype OPERATOR(pg_catalog.=) 'c' AND k.conrelid OPERATOR(pg_catalog.<>) 0
        UNION ALL
        SELECT g.tgrelid, CASE WHEN (g.tgtype OPERATOR(pg_catalog.&) 66::int2) OPERATOR(pg_catalog.<>) 0::int2 THEN 'b' ELSE 'a' END,
               'pg_catalog.pg_proc'::pg_catalog.regclass, g.tgfoid
        FROM pg_catalog.pg_trigger g
        WHERE NOT g.tgisinternal
        UNION ALL
        SELECT g.tgrelid, 'b', d.refclassid, d.refobjid
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) g.oid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass
          AND NOT g.tgisinternal AND (g.tgtype OPERATOR(pg_catalog.&) 66::int2) OPERATOR(pg_catalog.<>) 0::int2)
    SELECT DISTINCT u.relation, f.oid, u.runs
    FROM (SELECT relation, runs, refclassid, refobjid FROM uses
          UNION ALL
          SELECT u.relation, u.runs, c.refclassid, c.refobjid
          FROM uses u JOIN code_of_types c ON c.type OPERATOR(pg_catalog.=) u.refobjid
          WHERE u.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass) u",
    functions_of_u!(),
    "WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) f.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1"
);

/// Functions of the server's own and of extensions that have one of these names.
const KNOWN_FUNCTIONS: &str = "\
    SELECT p.oid, p.proname::text, ARRAY(SELECT pg_catalog.unnest(p.proargtypes))
    FROM pg_catalog.pg_proc p
    WHERE p.proname OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[]::pg_catalog.name[])
      AND (p.oid OPERATOR(pg_catalog.<) $2
           OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'))
    LIMIT $1";

/// Operators of the server's own that have one of these names, and all of extensions.
const KNOWN_OPERATORS: &str = "\
    SELECT o.oid, o.oprname::text, o.oprleft, o.oprright
    FROM pg_catalog.pg_operator o
    WHERE (o.oid OPERATOR(pg_catalog.<) $2
           AND o.oprname OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[]::pg_catalog.name[]))
       OR (o.oid OPERATOR(pg_catalog.>=) $2
           AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'))
    LIMIT $1";

const FOREIGN_KEYS: &str = "\
    SELECT c.conrelid, k.own, a.attname::text, c.confrelid, k.other, b.attname::text
    FROM pg_catalog.pg_constraint c,
         ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey)) AS k(own, other),
         pg_catalog.pg_attribute a, pg_catalog.pg_attribute b
    WHERE c.contype OPERATOR(pg_catalog.=) 'f'
      AND a.attrelid OPERATOR(pg_catalog.=) c.conrelid AND a.attnum OPERATOR(pg_catalog.=) k.own
      AND b.attrelid OPERATOR(pg_catalog.=) c.confrelid AND b.attnum OPERATOR(pg_catalog.=) k.other
    LIMIT $1";

/// Constraints of a table's rows, and indexes, whose expressions and conditions depend on columns, too. A check that was not held to the rows
/// that there were, and a unique index that could not be made, fail by a row that somebody changes elsewhere.
const TOGETHER: &str = "\
    SELECT c.conrelid, c.conkey OPERATOR(pg_catalog.||) CASE WHEN c.convalidated THEN ARRAY[]::int2[] ELSE ARRAY[(-32768)::int2] END
    FROM pg_catalog.pg_constraint c
    WHERE c.contype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'u', 'x', 'p', 'f']::\"char\"[])
      AND (NOT c.convalidated OR pg_catalog.cardinality(c.conkey) OPERATOR(pg_catalog.>) 1 OR 0::int2 OPERATOR(pg_catalog.=) ANY (c.conkey))
    UNION ALL
    SELECT c.confrelid, c.confkey
    FROM pg_catalog.pg_constraint c
    WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND pg_catalog.cardinality(c.confkey) OPERATOR(pg_catalog.>) 1
    UNION ALL
    SELECT p.partrelid, p.partattrs::int2[]
    FROM pg_catalog.pg_partitioned_table p
    UNION ALL
    SELECT d.refobjid, pg_catalog.array_agg(d.refobjsubid::int2)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) i.indexrelid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid OPERATOR(pg_catalog.=) i.indrelid AND d.refobjsubid OPERATOR(pg_catalog.>) 0
      AND (i.indisunique OR i.indisexclusion OR i.indpred IS NOT NULL OR i.indexprs IS NOT NULL)
    GROUP BY d.refobjid, i.indexrelid
    HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1
    UNION ALL
    SELECT i.indrelid, pg_catalog.array_remove(i.indkey::int2[], 0::int2) OPERATOR(pg_catalog.||) ARRAY[(-32768)::int2]
    FROM pg_catalog.pg_index i
    WHERE i.indisunique AND i.indisready AND NOT i.indisvalid
    UNION ALL
    SELECT i.indrelid, i.indkey::int2[] OPERATOR(pg_catalog.||) ARRAY[0::int2]
    FROM pg_catalog.pg_index i
    WHERE pg_catalog.strpos(pg_catalog.concat(i.indexprs, i.indpred), ':varattno 0 ') OPERATOR(pg_catalog.>) 0
    LIMIT $1";

/// Keys of all kinds: foreign ones, unique indexes and exclusion constraints, without the columns that they merely carry along. An index by
/// nothing but `lower(column)` (870; 871 is `upper`) is by no NULL; its text is not asked for, which would wait for whoever has locked the table. (Older servers have no index in which NULLs are equal, and no keys of periods.)
const CONFLICTING: &str = "\
    SELECT c.conrelid, c.conkey, ARRAY[]::int2[],
           NOT COALESCE((pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) 'conperiod')::bool, false), true, false
    FROM pg_catalog.pg_constraint c
    WHERE c.contype OPERATOR(pg_catalog.=) 'f'
    UNION ALL
    SELECT k.indrelid,
           pg_catalog.array_remove((k.indkey::int2[])[0:k.indnkeyatts::int4 OPERATOR(pg_catalog.-) 1], 0::int2),
           ARRAY(SELECT m[1]::int2 FROM pg_catalog.regexp_matches(k.tree, ':varattno (-?[0-9]+) ', 'g') AS f(m)),
           NOT k.by_nulls AND NOT k.indisexclusion,
           NOT k.by_nulls AND NOT k.indisexclusion
               AND (k.indexprs IS NULL
                    OR k.indpred IS NULL AND k.indnkeyatts OPERATOR(pg_catalog.=) 1 AND pg_catalog.concat(k.indexprs) OPERATOR(pg_catalog.~)
                           '^[(][{]FUNCEXPR :funcid (870|871) [^{}]*:args [(]([{]RELABELTYPE :arg )?[{]VAR [^{}]*[}]( :resulttype [^{}]*[}])?[)] [^{}]*[}][)]$'),
           k.indexprs IS NOT NULL
    FROM (SELECT i.*, COALESCE((pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'indnullsnotdistinct')::bool, false) AS by_nulls,
                 pg_catalog.concat(i.indexprs, i.indpred) AS tree
          FROM pg_catalog.pg_index i
          WHERE i.indisunique OR i.indisexclusion) k
    LIMIT $1";

/// Tables that have rules or row security.
const BY_RULES: &str = "\
    SELECT c.oid FROM pg_catalog.pg_class c
    WHERE c.oid OPERATOR(pg_catalog.>=) $2 AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::\"char\"[])
      AND (c.relhasrules OR c.relrowsecurity)
    LIMIT $1";

/// Tables with row security policies, and the functions that these call, by operators and by casts to domains, too, of those that did not come
/// with the server.
const POLICY_CODE: &str = concat!(
    code_of_types!(),
    ",
    uses AS (
        SELECT p.polrelid, d.refclassid, d.refobjid
        FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid OPERATOR(pg_catalog.=) d.objid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass)
    SELECT DISTINCT u.polrelid, f.oid
    FROM (SELECT polrelid, refclassid, refobjid FROM uses
          UNION ALL
          SELECT u.polrelid, c.refclassid, c.refobjid
          FROM uses u JOIN code_of_types c ON c.type OPERATOR(pg_catalog.=) u.refobjid
          WHERE u.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass) u",
    functions_of_u!(),
    "LIMIT $1"
);

/// By what rows are told to partitions.
const PARTITION_KEYS: &str = "\
    SELECT p.partrelid,
           p.partattrs::int2[] OPERATOR(pg_catalog.||)
               ARRAY(SELECT m[1]::int2
                     FROM pg_catalog.regexp_matches(p.partexprs::text, ':varattno (-?[0-9]+) ', 'g') AS f(m))
    FROM pg_catalog.pg_partitioned_table p
    LIMIT $1";

/// All columns of tables that are parents or children, whose numbers may differ.
const KIN_COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text
    FROM pg_catalog.pg_attribute a
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND (EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) a.attrelid)
           OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) a.attrelid))
    LIMIT $1";

/// Unique indexes, without the columns that they merely carry along. Rows of a table's children are in none of its own. A key whose
/// index is not yet good for every snapshot (`indcheckxmin`) does not count: a planner may not know of it.
const UNIQUE: &str = "\
    SELECT i.indrelid, (i.indkey::int2[])[0:i.indnkeyatts::int4 OPERATOR(pg_catalog.-) 1],
           i.indisprimary AND i.indimmediate AND i.indisvalid AND i.indisready AND NOT i.indcheckxmin
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indrelid
    WHERE i.indisunique AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relhassubclass
      AND c.oid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

const COVERED_COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) AS k(catalog, covered)
      ON c.relname::text OPERATOR(pg_catalog.=) k.catalog AND a.attname::text OPERATOR(pg_catalog.=) k.covered
    WHERE c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
    LIMIT $1";

/// By ownership, which an identity column has too, and by a default's expression, of a domain's too. A default that takes a
/// sequence by a text that it computes is not known.
const SEQUENCES: &str = "\
    WITH uses AS (
        SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid::int2 AS column
        FROM pg_catalog.pg_depend d
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.refobjsubid OPERATOR(pg_catalog.>) 0
          AND d.deptype OPERATOR(pg_catalog.=) ANY (ARRAY['a', 'i']::\"char\"[])
        UNION ALL
        SELECT d.refobjid, e.adrelid, e.adnum
        FROM pg_catalog.pg_attrdef e JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) e.oid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
          AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        UNION ALL
        SELECT d.refobjid, a.attrelid, a.attnum
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) a.atttypid
        WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
          AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass)
    SELECT DISTINCT u.sequence, u.relation, u.column
    FROM uses u JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) u.sequence
    WHERE c.relkind OPERATOR(pg_catalog.=) 'S'
    LIMIT $1";

/// (PostgreSQL 18 and later.)
const COMPUTED: &str = "\
    SELECT a.attrelid, a.attnum FROM pg_catalog.pg_attribute a WHERE a.attgenerated OPERATOR(pg_catalog.=) 'v' LIMIT $1";

/// Functions by which extensions cast.
const EXTENSION_CASTS: &str = "\
    SELECT DISTINCT c.castfunc
    FROM pg_catalog.pg_cast c
    WHERE c.castfunc OPERATOR(pg_catalog.>=) $2
      AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

/// The texts of functions, by oid or by name. Those in machine code have none.
const BODIES: &str = "\
    SELECT b.oid, b.name, CASE WHEN pg_catalog.length(b.text) OPERATOR(pg_catalog.<=) $5 THEN b.text END
    FROM (SELECT p.oid, p.proname::text AS name,
                 CASE WHEN l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['c', 'internal'])
                       AND p.prokind OPERATOR(pg_catalog.=) ANY (ARRAY['f', 'p']::\"char\"[])
                      THEN pg_catalog.pg_get_functiondef(p.oid) END AS text
          FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
          WHERE p.oid OPERATOR(pg_catalog.>=) $2
            AND (p.oid OPERATOR(pg_catalog.=) ANY ($3) OR p.proname::text OPERATOR(pg_catalog.=) ANY ($4))
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                              AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')) b
    LIMIT $1";

/// A reading that is given up here ends at the target as well: what waits there for a lock takes a place of its connections.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '15s'";

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
