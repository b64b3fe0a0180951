//! Patterns for names: `*` within a part, parts split by dots.

use std::fmt;
use std::str::FromStr;

use super::TableUse;

/// A pattern for one name: `*` stands for any letters, also none. Compared exactly as the server stores the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    Any,
    Literal(Box<str>),
    Wild(Box<str>),
}

/// `schema.table`, or `table` in any schema.
///
/// Where a statement leaves a table's schema to the search path, a rule that denies or holds takes it to mean any schema.
/// A rule that allows takes it to mean `public`: it fits patterns without a schema, with the schema `*`, and with the schema
/// `public`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    schema: Option<Glob>,
    table: Glob,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no table pattern: write \"schema.table\" or \"table\", `*` for any part of a name")]
pub struct InvalidPattern(String);

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

impl TablePattern {
    /// Whether the table could be one of these.
    pub(super) fn may_mean(&self, table: &TableUse) -> bool {
        let schema = match (&self.schema, &table.schema) {
            (Some(pattern), Some(schema)) => pattern.matches(schema),
            (None, _) | (_, None) => true,
        };
        schema && self.table.matches(&table.name)
    }

    /// Whether the table is one of these.
    pub(super) fn covers(&self, table: &TableUse) -> bool {
        let schema = match (&self.schema, &table.schema) {
            (None, _) => true,
            (Some(pattern), Some(schema)) => pattern.matches(schema),
            (Some(pattern), None) => pattern.matches("public"),
        };
        schema && self.table.matches(&table.name)
    }

    pub(super) fn includes(&self, other: &TablePattern) -> bool {
        let any = Glob::Any;
        self.schema.as_ref().unwrap_or(&any).includes(other.schema.as_ref().unwrap_or(&any))
            && self.table.includes(&other.table)
    }
}

impl FromStr for TablePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty() || part.trim() != *part) {
            return Err(InvalidPattern(text.to_owned()));
        }
        let table = Glob::new(parts.pop().unwrap_or_default());
        Ok(Self { schema: parts.pop().map(Glob::new), table })
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

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        write!(f, "{}", self.table)
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
    use crate::policy::Access;

    fn table(schema: Option<&str>, name: &str) -> TableUse {
        TableUse {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            access: Access::Read,
            columns: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", ".", "a.", ".b", "a.b.c", " a", "a. b"] {
            assert!(text.parse::<TablePattern>().is_err(), "{text:?}");
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
            let (pattern, table) = (pattern.parse::<TablePattern>().unwrap(), table(schema, "orders"));
            assert_eq!(pattern.may_mean(&table), may_mean, "{pattern} {table}");
            assert_eq!(pattern.covers(&table), covers, "{pattern} {table}");
        }
    }
}
