//! Patterns for names: `*` within a part, parts split by dots.

use std::fmt;
use std::str::FromStr;

use super::{Access, TableUse};

/// A pattern for one name: `*` stands for any letters, also none. Compared exactly as the server stores the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    Any,
    Literal(Box<str>),
    Wild(Box<str>),
}

/// A table or a function: `schema.name`, or `name` in any schema.
///
/// Where a statement leaves the schema to the search path, a rule that denies or holds takes it to mean any schema. A rule that allows
/// takes a table to be each one of that name that the target's catalog knows, whatever the search path; one that it does not know, and
/// a function, to be of `public`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    schema: Option<Glob>,
    name: Glob,
}

/// `schema.table.column`, `table.column` in any schema, or `column` of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPattern {
    table: NamePattern,
    column: Glob,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: write {form}, `*` for any part of a name")]
pub struct InvalidPattern {
    text: String,
    form: &'static str,
}

impl Glob {
    pub fn new(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            _ if text.contains('*') => Self::Wild(text.into()),
            _ => Self::Literal(text.into()),
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => **literal == *name,
            Self::Wild(pattern) => wild(pattern.as_bytes(), name.as_bytes()),
        }
    }

    /// Whether all that `other` matches is matched too, as far as is easy to tell.
    fn includes(&self, other: &Glob) -> bool {
        match other {
            Self::Literal(literal) => self.matches(literal),
            Self::Any | Self::Wild(_) => *self == Self::Any || self == other,
        }
    }
}

impl NamePattern {
    /// Whether it could be one of these.
    pub(super) fn may_be(&self, schema: Option<&str>, name: &str) -> bool {
        let of_schema = match (&self.schema, schema) {
            (Some(pattern), Some(schema)) => pattern.matches(schema),
            (None, _) | (_, None) => true,
        };
        of_schema && self.name.matches(name)
    }

    /// Whether it is one of these.
    pub(super) fn is(&self, schema: Option<&str>, name: &str) -> bool {
        let of_schema = self.schema.as_ref().is_none_or(|it| it.matches(schema.unwrap_or("public")));
        of_schema && self.name.matches(name)
    }

    /// Whether it is up to the schema what fits.
    pub(super) fn names_a_schema(&self) -> bool {
        self.schema.as_ref().is_some_and(|it| *it != Glob::Any)
    }

    pub(super) fn includes(&self, other: &NamePattern) -> bool {
        let any = Glob::Any;
        self.schema.as_ref().unwrap_or(&any).includes(other.schema.as_ref().unwrap_or(&any))
            && self.name.includes(&other.name)
    }
}

impl ColumnPattern {
    /// Whether a column that is used of the table could be one of these.
    pub(super) fn may_mean(&self, table: &TableUse) -> bool {
        let is_one = |column: &String| column == ALL || self.column.matches(column);
        self.table.may_be(table.schema.as_deref(), &table.name)
            && (table.columns.iter().any(is_one) || takes_all(table))
    }

    /// Whether each column that is used of the table is one of some pattern's.
    pub(super) fn cover(patterns: &[Self], table: &TableUse) -> bool {
        table.candidates().all(|schema| Self::cover_in(schema, patterns, table))
    }

    fn cover_in(schema: &str, patterns: &[Self], table: &TableUse) -> bool {
        let of_table = || patterns.iter().filter(|it| it.table.is(Some(schema), &table.name));
        let has = |column: &str| {
            of_table().any(|it| if column == ALL { it.column == Glob::Any } else { it.column.matches(column) })
        };
        of_table().next().is_some() && table.columns.iter().all(|it| has(it)) && (!takes_all(table) || has(ALL))
    }

    pub(super) fn names_a_schema(&self) -> bool {
        self.table.names_a_schema()
    }

    pub(super) fn includes(&self, other: &Self) -> bool {
        self.table.includes(&other.table) && self.column.includes(&other.column)
    }
}

/// Of a statement that names no columns: all of them.
const ALL: &str = "*";

/// What writes to a table and names no column does so to all: it removes rows, or the table.
fn takes_all(table: &TableUse) -> bool {
    table.access == Access::Write && table.columns.is_empty()
}

/// The parts of a pattern, of which there may be so many.
fn parts<'t>(text: &'t str, most: usize, form: &'static str) -> Result<Vec<&'t str>, InvalidPattern> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > most || parts.iter().any(|part| part.is_empty() || part.trim() != *part) {
        return Err(InvalidPattern { text: text.to_owned(), form });
    }
    Ok(parts)
}

impl FromStr for NamePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut parts = parts(text, 2, "\"schema.name\" or \"name\"")?;
        let name = Glob::new(parts.pop().unwrap_or_default());
        Ok(Self { schema: parts.pop().map(Glob::new), name })
    }
}

impl FromStr for ColumnPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut parts = parts(text, 3, "\"schema.table.column\", \"table.column\" or \"column\"")?;
        let column = Glob::new(parts.pop().unwrap_or_default());
        let name = Glob::new(parts.pop().unwrap_or(ALL));
        Ok(Self { table: NamePattern { schema: parts.pop().map(Glob::new), name }, column })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Literal(text) | Self::Wild(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        write!(f, "{}", self.name)
    }
}

impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

/// Greedy, with one place to go back to: at most `pattern.len() * name.len()` steps, no recursion.
fn wild(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, from)) = retry else { return false };
                retry = Some((after_star, from + 1));
                p = after_star;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(access: Access, columns: &[&str]) -> TableUse {
        let columns = columns.iter().map(|it| (*it).to_owned()).collect();
        TableUse {
            schema: Some("public".to_owned()),
            name: "orders".to_owned(),
            access,
            columns,
            rows: None,
            schemas: Vec::new(),
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", ".", "a.", ".b", "a.b.c", " a", "a. b"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn wildcards_match_what_they_say() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*", "b", false),
            ("a*", "a", true),
            ("*_log", "audit_log", true),
            ("*_log", "audit_logs", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a**", "abc", true),
            ("a*a", "a", false),
            ("orders", "Orders", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_schema_left_open_is_taken_against_the_one_who_asks() {
        // pattern, schema of the use, may_mean, covers
        for (pattern, schema, may_mean, covers) in [
            ("secret.orders", None, true, false),
            ("secret.orders", Some("public"), false, false),
            ("public.orders", None, true, true),
            ("pub*.orders", None, true, true),
            ("*.orders", None, true, true),
            ("orders", None, true, true),
            ("orders", Some("secret"), true, true),
            ("public.orders", Some("public"), true, true),
            ("public.customers", None, false, false),
        ] {
            let pattern = pattern.parse::<NamePattern>().unwrap();
            assert_eq!(pattern.may_be(schema, "orders"), may_mean, "{pattern} {schema:?}");
            assert_eq!(pattern.is(schema, "orders"), covers, "{pattern} {schema:?}");
        }
    }

    #[test]
    fn columns_are_any_of_some_or_all_of_some() {
        let (read, written) = (Access::Read, Access::Write);
        // patterns, use, one may be meant, all are covered
        for (patterns, used, may_mean, covered) in [
            (&["public.orders.total"][..], table(read, &["total"]), true, true),
            (&["orders.total"], table(read, &["total", "note"]), true, false),
            (&["total", "orders.note"], table(read, &["total", "note"]), true, true),
            (&["customers.total"], table(read, &["total"]), false, false),
            (&["orders.total"], table(read, &["*"]), true, false),
            (&["orders.*"], table(read, &["*"]), true, true),
            (&["orders.total"], table(read, &[]), false, true),
            (&["customers.total"], table(read, &[]), false, false),
            (&["orders.total"], table(written, &[]), true, false),
            (&["orders.*"], table(written, &[]), true, true),
        ] {
            let parsed: Vec<ColumnPattern> = patterns.iter().map(|it| it.parse().unwrap()).collect();
            assert_eq!(parsed.iter().any(|it| it.may_mean(&used)), may_mean, "{patterns:?} {used:?}");
            assert_eq!(ColumnPattern::cover(&parsed, &used), covered, "{patterns:?} {used:?}");
        }
        for text in ["a.b.c.d", "a..b", ""] {
            assert!(text.parse::<ColumnPattern>().is_err(), "{text:?}");
        }
    }
}
