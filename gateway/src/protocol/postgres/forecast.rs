//! What the server expects of a statement: its EXPLAIN, in lines for people, and what it does to other tables by their keys. No I/O.
//!
//! Filters and other expressions are left out: they hold the statement's constants, which may be values of masked columns.

use std::collections::BTreeSet;

use serde_json::Value;

use super::operation::is_harmless;
use crate::approval::Forecast;
use crate::policy::{Access, Action, Kind, TableUse};

/// Lines of a plan, and its depth.
const MAX_LINES: usize = 40;
const MAX_DEPTH: usize = 20;
/// Tables whose cascades are looked for, and others that are told (the query brings a few more).
const MAX_TABLES: usize = 16;
const MAX_CASCADES: usize = 20;

/// What people are shown, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) forecast: Forecast,
    /// What is done to which relations: a view's own ones. As long as these are the same, so is what people were asked.
    relations: BTreeSet<[String; 3]>,
}

impl Expected {
    pub(super) fn is_about_the_same(&self, other: &Self) -> bool {
        self.relations == other.relations
    }
}

/// Fails where there is a function that is no extension's, and that the login's own roles have made: agents may have. Planning calls what
/// is said to be immutable or stable, by whatever name it is reached: an operator's, a view's, a default's.
pub(super) const MADE_BY_AGENTS: &str = "\
    SELECT 1 OPERATOR(pg_catalog./) (p.pronargs OPERATOR(pg_catalog.-) p.pronargs)
    FROM pg_catalog.pg_proc p
    WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
      AND p.prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.trigger'::pg_catalog.regtype
      AND pg_catalog.pg_has_role(SESSION_USER, p.proowner, 'MEMBER')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::\"char\")";

/// Whether a statement is one that EXPLAIN takes, and it names no functions but the server's own.
pub(super) fn is_explainable(actions: &[Action]) -> bool {
    use Kind::{Delete, Insert, Merge, Select, Update};
    let is_known = |name: &String| is_harmless(name.strip_prefix("pg_catalog.").unwrap_or(name));
    let takes = actions.first().is_some_and(|it| matches!(it.kind, Select | Insert | Update | Delete | Merge));
    takes && actions.iter().flat_map(|it| &it.functions).all(is_known)
}

/// Whether all that a statement does is to empty tables, of which there is no plan.
pub(super) fn is_truncate(actions: &[Action]) -> bool {
    !actions.is_empty() && actions.iter().all(|it| it.kind == Kind::Truncate)
}

/// The query by which the server tells what a statement does to other tables, and, of one that empties tables, how many rows these
/// have. None: it changes none that others could refer to.
pub(super) fn effects_query(actions: &[Action], text: &str) -> Option<String> {
    let begins = |action: &Action| match action.kind {
        Kind::Delete => Some('d'),
        Kind::Update => Some('u'),
        // A word of the grammar is written as it is, wherever else it may stand too.
        Kind::Truncate if text.to_ascii_uppercase().contains("CASCADE") => Some('t'),
        Kind::Truncate => Some('o'),
        _ => None,
    };
    let changed = actions.iter().filter_map(|it| Some((it, begins(it)?))).flat_map(|(action, begins)| {
        let written = action.tables.iter().filter(|it| it.access == Access::Write);
        written.map(move |it| format!("({}, '{begins}', {})", oid_of(it), columns(begins, it)))
    });
    let changed: Vec<String> = changed.take(MAX_TABLES).collect();
    (!changed.is_empty()).then(|| EFFECTS.replace("$CHANGED", &changed.join(", ")))
}

/// From what is changed to what that changes: `d` deletes rows, `u` changes the named columns (NULL: any), `t` empties a table and
/// all that refer to it, `o` it alone. What becomes of a table is so of its children. `what` is for people, NULL of what the statement
/// names itself, and empty of children. A table has as many rows as its partitions; where some were never counted, nobody knows. (Before
/// PostgreSQL 14 that looks like none.)
const EFFECTS: &str = "\
    WITH RECURSIVE hit (rel, op, keys, what) AS (
        SELECT s.rel, s.op, s.keys, NULL::pg_catalog.text
        FROM (VALUES $CHANGED) AS s (rel, op, keys)
        UNION
        SELECT n.rel, n.op, n.keys, n.what
        FROM hit, LATERAL (
            SELECT i.inhrelid, hit.op, hit.keys, CASE WHEN hit.what IS NOT NULL THEN '' END
            FROM pg_catalog.pg_inherits i
            WHERE i.inhparent OPERATOR(pg_catalog.=) hit.rel
            UNION ALL
            SELECT c.conrelid, f.op,
                   CASE WHEN f.op OPERATOR(pg_catalog.=) 'u' THEN
                       ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                             WHERE a.attrelid OPERATOR(pg_catalog.=) c.conrelid AND a.attnum OPERATOR(pg_catalog.=) ANY (c.conkey)) END,
                   f.what
            FROM pg_catalog.pg_constraint c
            JOIN (VALUES ('t', NULL, 't', 'empties '),
                         ('d', 'c', 'd', 'deletes rows of '), ('u', 'c', 'u', 'changes keys in '),
                         ('d', 'n', 'u', 'sets columns to NULL in '), ('u', 'n', 'u', 'sets columns to NULL in '),
                         ('d', 'd', 'u', 'sets columns to their defaults in '),
                         ('u', 'd', 'u', 'sets columns to their defaults in ')) AS f (cause, action, op, what)
              ON f.cause OPERATOR(pg_catalog.=) hit.op
             AND (f.action IS NULL
                  OR f.action OPERATOR(pg_catalog.=) CASE WHEN hit.op OPERATOR(pg_catalog.=) 'd' THEN c.confdeltype::pg_catalog.text
                                                          ELSE c.confupdtype::pg_catalog.text END)
            WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.confrelid OPERATOR(pg_catalog.=) hit.rel
              AND (hit.op OPERATOR(pg_catalog.<>) 'u' OR hit.keys IS NULL OR hit.keys OPERATOR(pg_catalog.&&)
                   ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                         WHERE a.attrelid OPERATOR(pg_catalog.=) hit.rel AND a.attnum OPERATOR(pg_catalog.=) ANY (c.confkey)))
        ) AS n (rel, op, keys, what)),
    counted (rel, rows) AS (
        SELECT c.oid,
               CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'p' THEN 0::pg_catalog.float8
                    WHEN c.reltuples OPERATOR(pg_catalog.>) 0::pg_catalog.float4
                         OR c.reltuples OPERATOR(pg_catalog.=) 0::pg_catalog.float4
                            AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 140000
                    THEN c.reltuples::pg_catalog.float8 END
        FROM pg_catalog.pg_class c),
    told (what) AS (
        SELECT DISTINCT h.what OPERATOR(pg_catalog.||) h.rel::pg_catalog.regclass::pg_catalog.text OPERATOR(pg_catalog.||)
               CASE WHEN k.rows OPERATOR(pg_catalog.=) 1::pg_catalog.float8 THEN ' (it has about 1 row)'
                    WHEN k.rows IS NOT NULL THEN pg_catalog.concat(' (it has about ', k.rows::pg_catalog.int8, ' rows)')
                    ELSE '' END
        FROM hit h,
             LATERAL (SELECT CASE WHEN pg_catalog.bool_and(c.rows IS NOT NULL) THEN pg_catalog.sum(c.rows) END
                      FROM counted c
                      WHERE c.rel OPERATOR(pg_catalog.=) h.rel
                         OR c.rel OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT p.relid::pg_catalog.oid
                                                                    FROM pg_catalog.pg_partition_tree(h.rel::pg_catalog.regclass) p))) AS k (rows)
        WHERE h.what OPERATOR(pg_catalog.<>) ''
          AND NOT (h.op OPERATOR(pg_catalog.=) 't'
                   AND h.rel OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT o.rel FROM hit o WHERE o.what IS NULL)))
          -- Keys of a partitioned table are its partitions' as well.
          AND NOT EXISTS (SELECT FROM hit o JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) o.rel
                          WHERE i.inhrelid OPERATOR(pg_catalog.=) h.rel AND o.what OPERATOR(pg_catalog.=) h.what)
        LIMIT 100)
    SELECT pg_catalog.json_build_object(
        'rows', (SELECT CASE WHEN pg_catalog.bool_and(c.rows IS NOT NULL) THEN pg_catalog.sum(c.rows)::pg_catalog.int8 END
                 FROM counted c
                 WHERE c.rel OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT h.rel FROM hit h WHERE h.what IS NULL))),
        'cascades', (SELECT pg_catalog.json_agg(t.what ORDER BY t.what) FROM told t))::pg_catalog.text";

fn oid_of(table: &TableUse) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let name = match &table.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(&table.name)),
        None => quoted(&table.name),
    };
    format!("pg_catalog.to_regclass({})::pg_catalog.oid", literal(&name))
}

/// The columns that a change of rows is about.
fn columns(begins: char, table: &TableUse) -> String {
    if begins != 'u' || table.columns.contains("*") {
        return "NULL::pg_catalog.name[]".to_owned();
    }
    let names: Vec<String> = table.columns.iter().map(|it| literal(it)).collect();
    format!("ARRAY[{}]::pg_catalog.name[]", names.join(", "))
}

/// Whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What [`effects_query`] brought of a statement without a plan.
pub(super) fn read_effects(effects: &[u8]) -> Option<Expected> {
    let effects: Value = serde_json::from_slice(effects).ok()?;
    let forecast = Forecast { rows: effects["rows"].as_u64(), plan: Vec::new(), cascades: cascades(&effects) };
    Some(Expected { forecast, relations: BTreeSet::new() })
}

fn cascades(effects: &Value) -> Vec<String> {
    let told = effects["cascades"].as_array().into_iter().flatten();
    let mut cascades: Vec<String> = told.filter_map(Value::as_str).map(str::to_owned).collect();
    if cascades.len() > MAX_CASCADES {
        cascades.truncate(MAX_CASCADES);
        cascades.push("does more to others (cut here)".to_owned());
    }
    cascades
}

/// What `EXPLAIN (VERBOSE, FORMAT JSON)` and [`effects_query`] brought; None: the first is none. A rule of the table's may make more
/// plans than one.
pub(super) fn read(plans: &[u8], effects: Option<&[u8]>) -> Option<Expected> {
    let explained: Value = serde_json::from_slice(plans).ok()?;
    let tops: Vec<&Value> = explained.as_array()?.iter().filter_map(|it| it.get("Plan")).collect();
    let (mut lines, mut changes, mut relations) = (Vec::new(), Vec::new(), BTreeSet::new());
    for top in &tops {
        put(top, 0, &mut lines, &mut changes);
        collect(top, &mut relations);
    }
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        lines.push("... (cut here)".to_owned());
    }
    let effects: Option<Value> = effects.and_then(|it| serde_json::from_slice(it).ok());
    let cascades = effects.as_ref().map(cascades).unwrap_or_default();
    let rows = match changes.as_slice() {
        [] => estimate(tops.first()?),
        changes => changes.iter().try_fold(0_u64, |sum, rows| Some(sum.saturating_add((*rows)?))),
    };
    Some(Expected { forecast: Forecast { rows, plan: lines, cascades }, relations })
}

/// The relations of a plan. (JSON that was read is some hundred levels deep at most.)
fn collect(plan: &Value, relations: &mut BTreeSet<[String; 3]>) {
    let word = |name: &str| plan.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if plan.get("Relation Name").is_some() {
        relations.insert([word("Operation"), word("Schema"), word("Relation Name")]);
    }
    plan.get("Plans").and_then(Value::as_array).into_iter().flatten().for_each(|it| collect(it, relations));
}

fn estimate(plan: &Value) -> Option<u64> {
    plan.get("Plan Rows").and_then(Value::as_u64)
}

/// Rows that a change of rows gets from below.
fn changed(plan: &Value) -> Option<u64> {
    let is_source =
        |plan: &&Value| matches!(plan.get("Parent Relationship").and_then(Value::as_str), Some("Outer" | "Member"));
    let sources = plan.get("Plans")?.as_array()?.iter().filter(is_source);
    sources.map(estimate).try_fold(0_u64, |sum, rows| Some(sum.saturating_add(rows?)))
}

/// One line for each node. What changes rows comes before all else, and is counted wherever it stands.
fn put(plan: &Value, depth: usize, lines: &mut Vec<String>, changes: &mut Vec<Option<u64>>) {
    if depth >= MAX_DEPTH {
        lines.push("  ".repeat(depth) + "... (cut here)");
        // What is below is not counted.
        changes.push(None);
        return;
    }
    let word = |name: &str| plan.get(name).and_then(Value::as_str);
    let mut line = "  ".repeat(depth);
    line.push_str(word("Operation").or(word("Node Type")).unwrap_or("?"));
    if let Some(relation) = word("Relation Name") {
        line.extend([" on ", &quoted(word("Schema").unwrap_or("?")), ".", &quoted(relation)]);
    }
    for (before, name) in [(" by index ", "Index Name"), (" of ", "CTE Name")] {
        if let Some(value) = word(name) {
            line.extend([before, &quoted(value)]);
        }
    }
    let is_change = word("Node Type") == Some("ModifyTable");
    if is_change {
        changes.push(changed(plan));
    } else if let Some(rows) = estimate(plan) {
        line.extend([", about ", &rows.to_string(), if rows == 1 { " row" } else { " rows" }]);
    }
    if is_change {
        let at = changes.len() - 1;
        lines.insert(at.min(lines.len()), line.trim_start().to_owned());
    } else {
        lines.push(line);
    }
    for child in plan.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        put(child, depth + 1, lines, changes);
    }
}

/// A name as SQL has it: with marks where it is not plain.
fn quoted(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.is_empty() && name.bytes().all(is_plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_without_its_expressions() {
        let plan = br#"[{"Plan": {"Node Type": "ModifyTable", "Operation": "Delete", "Schema": "public", "Relation Name": "orders", "Plan Rows": 0, "Plans": [
            {"Node Type": "Seq Scan", "Parent Relationship": "InitPlan", "Schema": "public", "Relation Name": "limits", "Plan Rows": 5},
            {"Node Type": "Index Scan", "Parent Relationship": "Outer", "Schema": "a b", "Relation Name": "orders", "Index Name": "by_ssn",
             "Index Cond": "(ssn = '900-11-1002')", "Plan Rows": 1}]}}]"#;
        let expected = read(plan, Some(br#"{"rows": 2, "cascades": ["deletes rows of notes"]}"#)).unwrap();
        let as_text = |it: &str| read(it.as_bytes(), None).unwrap();
        let plan = std::str::from_utf8(plan).unwrap();
        // By another way it is about the same, and not with another table.
        assert!(
            expected
                .is_about_the_same(&as_text(&plan.replace("Index Scan", "Seq Scan").replace("Rows\": 5", "Rows\": 7")))
        );
        assert!(!expected.is_about_the_same(&as_text(&plan.replace("\"Delete\"", "\"Update\""))));
        assert!(!expected.is_about_the_same(&as_text(&plan.replace("limits", "payments"))));
        let forecast = expected.forecast;
        assert_eq!(forecast.rows, Some(1));
        let lines = [
            "Delete on public.orders",
            "  Seq Scan on public.limits, about 5 rows",
            "  Index Scan on \"a b\".orders by index by_ssn, about 1 row",
        ];
        assert_eq!(forecast.plan, lines);
        assert_eq!(forecast.cascades, ["deletes rows of notes"]);
        assert_eq!(read(b"null", None), None);
        assert_eq!(
            read(b"[{\"Plan\": {\"Node Type\": \"Result\", \"Plan Rows\": 7}}]", Some(b"x")).unwrap().forecast.rows,
            Some(7)
        );
    }

    #[test]
    fn what_changes_rows_is_told_first_and_counted_wherever_it_stands() {
        let source =
            |rows: u32| format!(r#"{{"Node Type": "Result", "Parent Relationship": "Outer", "Plan Rows": {rows}}}"#);
        let change = |word: &str, rows: u32| {
            format!(
                r#"{{"Node Type": "ModifyTable", "Operation": "{word}", "Schema": "s", "Relation Name": "t", "Plans": [{}]}}"#,
                source(rows)
            )
        };
        let within = format!(r#"{{"Node Type": "Aggregate", "Plan Rows": 1, "Plans": [{}]}}"#, change("Delete", 1000));
        let plans = format!(r#"[{{"Plan": {within}}}, {{"Plan": {}}}]"#, change("Update", 7));
        let forecast = read(plans.as_bytes(), None).unwrap().forecast;
        assert_eq!(
            (forecast.rows, forecast.plan[0].as_str(), forecast.plan[1].as_str()),
            (Some(1007), "Delete on s.t", "Update on s.t")
        );
    }

    #[test]
    fn a_deep_plan_is_cut() {
        let deep =
            (0..100).fold("{}".to_owned(), |inner, _| format!("{{\"Node Type\": \"Append\", \"Plans\": [{inner}]}}"));
        // Deeper JSON is not read at all.
        assert!(
            read(format!("[{{\"Plan\": {deep}}}]").as_bytes(), None)
                .is_none_or(|it| it.forecast.plan.len() == MAX_DEPTH + 1)
        );
    }
}
