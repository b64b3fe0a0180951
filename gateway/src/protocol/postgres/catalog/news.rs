//! Columns that came to be called what masks call columns since the catalog was read: somebody has added or renamed them. Whether there
//! are any among the relations of a statement is asked each time before it runs, if it could reach one.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{CatalogError, Exposure, MAX_CATALOG_ROWS, Relation, TaggedSet, stands_for};
use crate::policy::{Access, TableUse};
use crate::protocol::postgres::operation::Statement;

/// In whatever schema: the search path is the session's own.
const CALLED_SO: &str = "\
    SELECT a.attrelid, a.attnum, a.attname::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
    WHERE c.relname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[])
      AND a.attname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[])
      AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f']::\"char\"[])
      AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
    LIMIT $3";

impl TaggedSet {
    /// The relations in which these statements could reach a column that this catalog does not know to be called what a mask calls columns: by
    /// such a name, or, where all columns are read, by its place or with its row. (What is shown as it is has its name in the description.)
    pub(in crate::protocol::postgres) fn reached(&self, statements: &[Statement]) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let used = statements.iter().flat_map(|it| &it.actions).flat_map(|it| &it.tables);
        let named = used.filter(|it| self.reaches(it)).map(|it| &it.name);
        let mut names: Vec<String> =
            statements.iter().flat_map(|it| &it.all_columns.by_place).chain(named).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn reaches(&self, used: &TableUse) -> bool {
        if used.access == Access::Write || matches!(used.schema.as_deref(), Some("pg_catalog" | "information_schema")) {
            return false;
        }
        let schema = used.schema.as_deref();
        let named = || {
            let all = self.relations.get(&used.name).into_iter().flatten();
            all.filter(|it| schema.is_none_or(|schema| stands_for(schema, &it.schema)))
        };
        let has =
            |it: &Relation, column: &str| matches!(&it.exposure, Exposure::Tagged(names) if names.contains(column));
        // Whichever of that name it is.
        let is_known = |column: &str| named().next().is_some() && named().all(|it| has(it, column));
        used.columns.iter().any(|it| self.masked_names.contains(it) && !is_known(it))
    }

    /// True for what masks call columns.
    pub(in crate::protocol::postgres) fn is_masked_name(&self, name: &str) -> bool {
        self.masked_names.contains(name)
    }

    /// True if a column had this name, by which it could have a mask, when the catalog was read.
    pub(super) fn was_called(&self, column: (u32, i16), name: &str) -> bool {
        self.called_so.get(&column).is_some_and(|it| it == name)
    }

    /// Whether one of these relations has such a column by now.
    pub(in crate::protocol::postgres) async fn has_news(
        &self,
        client: &Client,
        relations: &[String],
    ) -> Result<bool, CatalogError> {
        let names: Vec<&str> = self.masked_names.iter().map(String::as_str).collect();
        let limit = i64::try_from(MAX_CATALOG_ROWS).unwrap_or(i64::MAX).saturating_add(1);
        // Not prepared, so that it takes one way there and back, and any server behind a pooler.
        let rows = client
            .query_typed(CALLED_SO, &[(&relations, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY), (&limit, Type::INT8)])
            .await?;
        if rows.len() > MAX_CATALOG_ROWS {
            return Err(CatalogError::TooLarge { what: "columns", most: MAX_CATALOG_ROWS });
        }
        for row in rows {
            if !self.was_called((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
