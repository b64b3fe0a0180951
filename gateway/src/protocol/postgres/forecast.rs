//! What the server expects of a statement: its EXPLAIN, in lines for people, and what a DELETE does to other tables. No I/O.
//!
//! Filters and other expressions are left out: they hold the statement's constants, which may be values of masked columns.

use serde_json::Value;

use super::operation::is_harmless;
use crate::approval::Forecast;
use crate::policy::{Access, Action, Kind};

/// Lines of a plan, and its depth.
const MAX_LINES: usize = 40;
const MAX_DEPTH: usize = 20;
/// Tables whose cascades are looked for, and others that are told.
const MAX_TABLES: usize = 16;
const MAX_CASCADES: usize = 20;

/// Whether a statement is one that EXPLAIN takes, and planning it runs nothing but the server's own functions: those that are
/// said to be immutable or stable are called.
pub(super) fn is_explainable(actions: &[Action]) -> bool {
    use Kind::{Delete, Insert, Merge, Select, Update};
    let is_known = |name: &String| is_harmless(name.strip_prefix("pg_catalog.").unwrap_or(name));
    let takes = actions.first().is_some_and(|it| matches!(it.kind, Select | Insert | Update | Delete | Merge));
    takes && actions.iter().flat_map(|it| &it.functions).all(is_known)
}

/// The query by which the server tells what deleting rows does to other tables. None: nothing is deleted.
pub(super) fn cascades_query(actions: &[Action]) -> Option<String> {
    let deleting = actions.iter().filter(|it| it.kind == Kind::Delete);
    let tables = deleting.flat_map(|it| &it.tables).filter(|it| it.access == Access::Write).take(MAX_TABLES);
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let regclass = |table: &crate::policy::TableUse| {
        let name = match &table.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&table.name)),
            None => quoted(&table.name),
        };
        format!("pg_catalog.to_regclass('{}')", name.replace('\'', "''"))
    };
    let tables: Vec<String> = tables.map(regclass).collect();
    if tables.is_empty() {
        return None;
    }
    let key = "c.contype OPERATOR(pg_catalog.=) 'f' AND c.confdeltype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']::\"char\"[])";
    Some(format!(
        "WITH RECURSIVE hit (rel, what, depth) AS (
             SELECT c.conrelid, c.confdeltype, 1 FROM pg_catalog.pg_constraint c
             WHERE {key} AND c.confrelid OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.oid[])
             UNION
             SELECT c.conrelid, c.confdeltype, hit.depth OPERATOR(pg_catalog.+) 1 FROM hit, pg_catalog.pg_constraint c
             WHERE c.confrelid OPERATOR(pg_catalog.=) hit.rel AND hit.what OPERATOR(pg_catalog.=) 'c' AND {key}
                 AND hit.depth OPERATOR(pg_catalog.<) 5)
         SELECT pg_catalog.json_agg(DISTINCT CASE hit.what WHEN 'c' THEN 'deletes rows of ' WHEN 'n' THEN 'sets columns to NULL in '
             ELSE 'sets columns to their defaults in ' END OPERATOR(pg_catalog.||) hit.rel::pg_catalog.regclass::text)::text FROM hit",
        tables.join(", ")
    ))
}

/// What `EXPLAIN (VERBOSE, FORMAT JSON)` and [`cascades_query`] brought; None: the first is none. A rule of the table's may make more
/// plans than one.
pub(super) fn read(plans: &[u8], cascades: Option<&[u8]>) -> Option<Forecast> {
    let explained: Value = serde_json::from_slice(plans).ok()?;
    let tops: Vec<&Value> = explained.as_array()?.iter().filter_map(|it| it.get("Plan")).collect();
    let (mut lines, mut changes) = (Vec::new(), Vec::new());
    for top in &tops {
        put(top, 0, &mut lines, &mut changes);
    }
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        lines.push("... (cut here)".to_owned());
    }
    let cascades: Option<Vec<String>> = cascades.and_then(|it| serde_json::from_slice(it).ok());
    let mut cascades = cascades.unwrap_or_default();
    if cascades.len() > MAX_CASCADES {
        cascades.truncate(MAX_CASCADES);
        cascades.push("does more to others (cut here)".to_owned());
    }
    let rows = match changes.as_slice() {
        [] => estimate(tops.first()?),
        changes => changes.iter().try_fold(0_u64, |sum, rows| Some(sum.saturating_add((*rows)?))),
    };
    Some(Forecast { rows, plan: lines, cascades })
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
        let forecast = read(plan, Some(br#"["deletes rows of notes"]"#)).unwrap();
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
            read(b"[{\"Plan\": {\"Node Type\": \"Result\", \"Plan Rows\": 7}}]", Some(b"x")).unwrap().rows,
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
        let forecast = read(plans.as_bytes(), None).unwrap();
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
            read(format!("[{{\"Plan\": {deep}}}]").as_bytes(), None).is_none_or(|it| it.plan.len() == MAX_DEPTH + 1)
        );
    }
}
