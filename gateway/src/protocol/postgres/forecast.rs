//! What the server expects of a statement: its EXPLAIN, in lines for people, and what a DELETE does to other tables. No I/O.
//!
//! Filters and other expressions are left out: they hold the statement's constants, which may be values of masked columns.

use serde_json::Value;

use crate::approval::Forecast;
use crate::policy::{Access, Action, Kind};

/// Lines of a plan, and its depth.
const MAX_LINES: usize = 40;
const MAX_DEPTH: usize = 20;
/// Tables whose cascades are looked for, and others that are told.
const MAX_TABLES: usize = 16;
const MAX_CASCADES: usize = 20;

/// Statements that EXPLAIN takes.
pub(super) fn is_explainable(kind: Kind) -> bool {
    matches!(kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge)
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

/// What `EXPLAIN (FORMAT JSON)` and [`cascades_query`] brought; None: the first is none.
pub(super) fn read(plan: &[u8], cascades: Option<&[u8]>) -> Option<Forecast> {
    let explained: Value = serde_json::from_slice(plan).ok()?;
    let top = explained.get(0)?.get("Plan")?;
    let mut lines = Vec::new();
    put(top, 0, &mut lines);
    let cascades: Option<Vec<String>> = cascades.and_then(|it| serde_json::from_slice(it).ok());
    let mut cascades = cascades.unwrap_or_default();
    cascades.truncate(MAX_CASCADES);
    Some(Forecast { rows: touched(top), plan: lines, cascades })
}

/// Rows that a plan gives back, or changes.
fn touched(top: &Value) -> Option<u64> {
    let rows = |plan: &Value| plan.get("Plan Rows").and_then(Value::as_u64);
    if top.get("Node Type").and_then(Value::as_str) != Some("ModifyTable") {
        return rows(top);
    }
    let is_source =
        |plan: &&Value| matches!(plan.get("Parent Relationship").and_then(Value::as_str), Some("Outer" | "Member"));
    let sources = top.get("Plans")?.as_array()?.iter().filter(is_source);
    sources.map(rows).try_fold(0_u64, |sum, rows| Some(sum.saturating_add(rows?)))
}

fn put(plan: &Value, depth: usize, lines: &mut Vec<String>) {
    if lines.len() >= MAX_LINES || depth >= MAX_DEPTH {
        return;
    }
    let word = |name: &str| plan.get(name).and_then(Value::as_str);
    let mut line = "  ".repeat(depth);
    line.push_str(word("Operation").or(word("Node Type")).unwrap_or("?"));
    for (before, name) in [(" on ", "Relation Name"), (" by index ", "Index Name"), (" of ", "CTE Name")] {
        if let Some(value) = word(name) {
            line.push_str(before);
            line.push_str(value);
        }
    }
    if let Some(rows) = plan.get("Plan Rows").and_then(Value::as_u64).filter(|_| word("Operation").is_none()) {
        line.extend([", about ", &rows.to_string(), if rows == 1 { " row" } else { " rows" }]);
    }
    lines.push(line);
    for child in plan.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        put(child, depth + 1, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_without_its_expressions() {
        let plan = br#"[{"Plan": {"Node Type": "ModifyTable", "Operation": "Delete", "Relation Name": "orders", "Plan Rows": 0, "Plans": [
            {"Node Type": "Seq Scan", "Parent Relationship": "InitPlan", "Relation Name": "limits", "Plan Rows": 5},
            {"Node Type": "Index Scan", "Parent Relationship": "Outer", "Relation Name": "orders", "Index Name": "by_ssn",
             "Index Cond": "(ssn = '900-11-1002')", "Plan Rows": 1}]}}]"#;
        let forecast = read(plan, Some(br#"["deletes rows of notes"]"#)).unwrap();
        assert_eq!(forecast.rows, Some(1));
        let lines = [
            "Delete on orders",
            "  Seq Scan on limits, about 5 rows",
            "  Index Scan on orders by index by_ssn, about 1 row",
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
    fn a_deep_plan_is_cut() {
        let deep =
            (0..100).fold("{}".to_owned(), |inner, _| format!("{{\"Node Type\": \"Append\", \"Plans\": [{inner}]}}"));
        // Deeper JSON is not read at all.
        assert!(read(format!("[{{\"Plan\": {deep}}}]").as_bytes(), None).is_none_or(|it| it.plan.len() == MAX_DEPTH));
    }
}
