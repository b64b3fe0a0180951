//! What the target is asked for its catalog. Each names schemas of all that it calls: a login's search path is anybody's.

/// The server expects more of these queries than there is, and would compile what runs for milliseconds for ten times as long.
/// (Servers before PostgreSQL 11 have no such setting.) And which version this one is.
pub(super) const WITHOUT_JIT: &str = "\
    SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.current_setting('server_version_num')::pg_catalog.int4
    WHERE pg_catalog.current_setting('jit', true) IS NOT NULL";

pub(super) const RELATIONS: &str = "\
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

pub(super) const COLUMNS: &str = "\
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

pub(super) const REWRITES: &str = "\
    SELECT DISTINCT r.ev_class, d.refobjid
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class
    LIMIT $1";

pub(super) const POLICIES: &str = "\
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

pub(super) const OPAQUE: &str = "\
    SELECT DISTINCT r.ev_class
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      AND d.refclassid OPERATOR(pg_catalog.=) ANY
          (ARRAY['pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass]::oid[])
      AND d.refobjid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

/// The server's own functions in views and rules. Dependencies on these are not kept (they are pinned), so they are taken out
/// of the stored trees.
pub(super) const VIEW_FUNCTIONS: &str = "\
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
pub(super) const DEFAULT_FUNCTIONS: &str = "\
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
pub(super) const VALUE_READERS: &str = "\
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

pub(super) const INHERITS: &str = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits LIMIT $1";

/// What depends on the columns is the default, or, before PostgreSQL 15, the generated column itself.
pub(super) const GENERATED: &str = "\
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
pub(super) const COMPOSITES: &str = "\
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

pub(super) const FUNCTIONS: &str = "\
    SELECT p.proname::text,
           NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'),
           COALESCE(t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'd', 'p']::\"char\"[]), false),
           p.provolatile OPERATOR(pg_catalog.<>) 'v'::\"char\"
    FROM pg_catalog.pg_proc p LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]
    WHERE p.oid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

pub(super) const TAKE_ONE: &str = "\
    SELECT DISTINCT p.proname::text FROM pg_catalog.pg_proc p
    WHERE p.pronargs OPERATOR(pg_catalog.>=) 1::int2
      AND (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults) OPERATOR(pg_catalog.<=) 1
    LIMIT $1";

pub(super) const OPERATORS: &str = "\
    SELECT DISTINCT o.oprname::text
    FROM pg_catalog.pg_operator o
    WHERE o.oid OPERATOR(pg_catalog.>=) $2
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

/// Types that somebody's function casts from or to, and all that are cast to part by part: domains, arrays and rows.
pub(super) const CASTS: &str = "\
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
pub(super) const TYPE_CODE: &str = concat!(
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
pub(super) const CODE: &str = concat!(
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
pub(super) const KNOWN_FUNCTIONS: &str = "\
    SELECT p.oid, p.proname::text, ARRAY(SELECT pg_catalog.unnest(p.proargtypes))
    FROM pg_catalog.pg_proc p
    WHERE p.proname OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[]::pg_catalog.name[])
      AND (p.oid OPERATOR(pg_catalog.<) $2
           OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'))
    LIMIT $1";

/// Operators of the server's own that have one of these names, and all of extensions.
pub(super) const KNOWN_OPERATORS: &str = "\
    SELECT o.oid, o.oprname::text, o.oprleft, o.oprright
    FROM pg_catalog.pg_operator o
    WHERE (o.oid OPERATOR(pg_catalog.<) $2
           AND o.oprname OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[]::pg_catalog.name[]))
       OR (o.oid OPERATOR(pg_catalog.>=) $2
           AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                         AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'))
    LIMIT $1";

pub(super) const FOREIGN_KEYS: &str = "\
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
pub(super) const TOGETHER: &str = "\
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
pub(super) const CONFLICTING: &str = "\
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
pub(super) const BY_RULES: &str = "\
    SELECT c.oid FROM pg_catalog.pg_class c
    WHERE c.oid OPERATOR(pg_catalog.>=) $2 AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::\"char\"[])
      AND (c.relhasrules OR c.relrowsecurity)
    LIMIT $1";

/// Tables with row security policies, and the functions that these call, by operators and by casts to domains, too, of those that did not come
/// with the server.
pub(super) const POLICY_CODE: &str = concat!(
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
pub(super) const PARTITION_KEYS: &str = "\
    SELECT p.partrelid,
           p.partattrs::int2[] OPERATOR(pg_catalog.||)
               ARRAY(SELECT m[1]::int2
                     FROM pg_catalog.regexp_matches(p.partexprs::text, ':varattno (-?[0-9]+) ', 'g') AS f(m))
    FROM pg_catalog.pg_partitioned_table p
    LIMIT $1";

/// All columns of tables that are parents or children, whose numbers may differ.
pub(super) const KIN_COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text
    FROM pg_catalog.pg_attribute a
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND (EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) a.attrelid)
           OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) a.attrelid))
    LIMIT $1";

/// Unique indexes, without the columns that they merely carry along. Rows of a table's children are in none of its own. A key whose
/// index is not yet good for every snapshot (`indcheckxmin`) does not count: a planner may not know of it.
pub(super) const UNIQUE: &str = "\
    SELECT i.indrelid, (i.indkey::int2[])[0:i.indnkeyatts::int4 OPERATOR(pg_catalog.-) 1],
           i.indisprimary AND i.indimmediate AND i.indisvalid AND i.indisready AND NOT i.indcheckxmin
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indrelid
    WHERE i.indisunique AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relhassubclass
      AND c.oid OPERATOR(pg_catalog.>=) $2
    LIMIT $1";

pub(super) const COVERED_COLUMNS: &str = "\
    SELECT a.attrelid, a.attnum
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) AS k(catalog, covered)
      ON c.relname::text OPERATOR(pg_catalog.=) k.catalog AND a.attname::text OPERATOR(pg_catalog.=) k.covered
    WHERE c.relnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
    LIMIT $1";

/// By ownership, which an identity column has too, and by a default's expression, of a domain's too. A default that takes a
/// sequence by a text that it computes is not known.
pub(super) const SEQUENCES: &str = "\
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
pub(super) const COMPUTED: &str = "\
    SELECT a.attrelid, a.attnum FROM pg_catalog.pg_attribute a WHERE a.attgenerated OPERATOR(pg_catalog.=) 'v' LIMIT $1";

/// Functions by which extensions cast.
pub(super) const EXTENSION_CASTS: &str = "\
    SELECT DISTINCT c.castfunc
    FROM pg_catalog.pg_cast c
    WHERE c.castfunc OPERATOR(pg_catalog.>=) $2
      AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    LIMIT $1";

/// The texts of functions, by oid or by name. Those in machine code have none.
pub(super) const BODIES: &str = "\
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
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '15s'";
