//! What somebody may have meant by a pattern that names no column.

use tokio_postgres::Client;

use super::CatalogError;

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

/// The column of the database that looks most like a pattern which names none, as a pattern.
pub(super) async fn nearest(client: &Client, pattern: &str) -> Result<Option<String>, CatalogError> {
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
