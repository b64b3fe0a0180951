//! Functions that the database itself runs for a row that is written, and what they read, as far as their texts say.
//!
//! Nothing in the catalog tells which tables a function reads. Its text names them, if whoever wrote it does not hide them:
//! agents do not write functions that the gateway does not see. So a function counts as a reader of a tagged table where it
//! names the table and one of the tagged columns, or the table and something that takes rows whole: a star, a word such as
//! `to_json`, or the table's name, or its alias, where a value is.

use std::collections::{BTreeSet, HashMap, HashSet};

/// A function's text is read up to here; a longer one may read anything.
pub(super) const MAX_TEXT: i32 = 32 * 1024;

/// A function that runs when a row of the relation is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeRow {
    pub(crate) relation: u32,
    pub(crate) function: u32,
    pub(crate) runs: Runs,
}

/// As what a function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// A default, a check, a generated column: it chooses what is in the row.
    Value,
    /// A trigger before the row, which may do so, too.
    TriggerBefore,
    /// It may put what it reads anywhere else.
    TriggerAfter,
}

/// A function's text, as the words that are in it.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// As in [`Body::called`].
    name: String,
    /// None: it is not known what is in it.
    words: Option<HashSet<String>>,
    /// Those that may be other functions: with an argument list after them, or a dot before that of a function of rows.
    called: HashSet<String>,
    /// Those that stand where a value may, of an alias the relation's name: rows may be among them.
    values: HashSet<String>,
    takes_rows: bool,
    /// It may put a value where the session reads it.
    keeps: bool,
}

/// Functions by which values come to be where the session that has called them can read them, or where others can.
const KEEPERS: &[&str] = &["set_config", "setval"];

impl Body {
    /// Of a function by its definition; without one, or with one that is too long, it may read anything. `of_rows`: the
    /// functions that can be called as `t.f`.
    pub(crate) fn new(name: &str, definition: Option<&str>, of_rows: &HashSet<String>) -> Self {
        let words: Option<HashSet<String>> = definition.map(|it| words(it).collect());
        let whole = |word: &String| ["json", "record", "row", "hstore", "xml"].iter().any(|it| word.contains(it));
        let takes_rows = definition.is_some_and(|it| it.contains('*')) || words.iter().flatten().any(whole);
        let called = definition.map(|it| called(it, of_rows)).unwrap_or_default();
        let values = definition.map(values).unwrap_or_default();
        let by_text = definition.is_some_and(has_set_in_a_string);
        let keeps = by_text || words.iter().flatten().any(|it| KEEPERS.contains(&it.as_str()));
        Self { name: last_word(name), words, called, values, takes_rows, keeps }
    }

    /// Whether a trigger may read these columns of the row that it runs for.
    pub(super) fn reads_own(&self, columns: &BTreeSet<String>) -> bool {
        self.takes_rows || columns.iter().any(|it| self.mentions(it))
    }

    /// What it may call, by name.
    pub(super) fn called(&self) -> impl Iterator<Item = &str> {
        self.called.iter().map(String::as_str)
    }

    fn mentions(&self, name: &str) -> bool {
        let Some(known) = &self.words else { return true };
        words(name).all(|word| known.contains(&word))
    }

    /// Whether a row of a relation that it mentions may be among its values. A name of several words is not followed.
    fn takes_row_of(&self, relation: &str) -> bool {
        let mut words = words(relation);
        let name = words.next().filter(|_| words.next().is_none());
        self.takes_rows || name.is_none_or(|it| self.values.contains(&it))
    }

    fn reads(&self, sensitive: &Sensitive<'_>) -> bool {
        let tagged = sensitive.tagged.iter().any(|(relation, columns)| {
            self.mentions(relation)
                && (self.takes_row_of(relation) || columns.iter().any(|column| self.mentions(column)))
        });
        tagged || self.words.is_none() || sensitive.derived.iter().any(|relation| self.mentions(relation))
    }
}

/// Whether a string in it begins as a SET does, which runs by EXECUTE.
fn has_set_in_a_string(text: &str) -> bool {
    let begins = |it: &str| {
        let it = it.trim_start();
        it.get(..3).is_some_and(|it| it.eq_ignore_ascii_case("set")) && it[3..].starts_with(char::is_whitespace)
    };
    // Before its body stand the settings that a function itself runs under, which go with it.
    let body = text.split_once("AS $").map_or(text, |(_, body)| body);
    body.split(['\'', '$']).skip(1).any(begins)
}

/// The words of a text as an unquoted name would be compared. A quoted name may be several, and so is one with a `$`, which
/// also stands around texts.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c| !is_in_word(c)).filter(|it| !it.is_empty()).map(str::to_lowercase)
}

/// The words that stand before an argument list, and those of `of_rows` that stand after a dot.
fn called(text: &str, of_rows: &HashSet<String>) -> HashSet<String> {
    let before = text.split('(').map(|it| last_word(it.trim_end().trim_end_matches('"')));
    let after = text.split('.').skip(1).filter_map(|it| words(it).next()).filter(|it| of_rows.contains(it));
    before.filter(|it| !it.is_empty()).chain(after).collect()
}

/// Words behind which a relation's name is expected, and those that can follow one without being its alias.
const BEFORE_RELATION: &[&str] = &["from", "into", "join", "only", "update"];
const NO_ALIAS: &[&str] = &[
    "and",
    "cross",
    "default",
    "end",
    "except",
    "fetch",
    "for",
    "full",
    "group",
    "having",
    "inner",
    "intersect",
    "into",
    "join",
    "left",
    "limit",
    "loop",
    "natural",
    "offset",
    "on",
    "or",
    "order",
    "overriding",
    "returning",
    "right",
    "select",
    "set",
    "tablesample",
    "then",
    "union",
    "using",
    "values",
    "where",
    "window",
];

/// The words of a text that may stand for values, which rows are too: all but those that a dot follows, and the names and
/// aliases of relations where they are read or written. An alias stands for its relation, and columns that get other names
/// are as good as a row.
fn values(text: &str) -> HashSet<String> {
    let parts: Vec<(String, &str)> = with_gaps(text).collect();
    let is = |at: usize, among: &[&str]| parts.get(at).is_some_and(|(word, _)| among.contains(&word.as_str()));
    let dotted = |at: usize| parts.get(at).is_some_and(|(_, gap)| gap.trim_matches(is_space).starts_with('.'));
    let joined = |at: usize| parts.get(at).is_some_and(|(_, gap)| gap.trim_matches(is_space).is_empty());
    let (mut values, mut aliases) = (HashSet::new(), Vec::new());
    let mut at = 0;
    while let Some((word, _)) = parts.get(at) {
        if !dotted(at) {
            values.insert(word.clone());
        }
        at += 1;
        if !BEFORE_RELATION.contains(&word.as_str()) || is(at, BEFORE_RELATION) || !joined(at - 1) {
            continue;
        }
        while dotted(at) {
            at += 1;
        }
        let Some((relation, _)) = parts.get(at) else { break };
        let mut alias = at + 1;
        if joined(at) && is(alias, &["as"]) {
            alias += 1;
        }
        let follows = joined(at) && joined(alias - 1) && !is(alias, NO_ALIAS);
        at = alias;
        if let Some((name, gap)) = parts.get(alias).filter(|_| follows) {
            aliases.push((relation, if gap.trim_matches(is_space).starts_with('(') { relation } else { name }));
            at += 1;
        }
    }
    // Of an alias that is no value the relation is none either.
    for (relation, alias) in aliases {
        if relation == alias || values.contains(alias) {
            values.insert(relation.clone());
        }
    }
    values
}

/// White space, and what may stand around a name.
fn is_space(c: char) -> bool {
    c.is_whitespace() || c == '"'
}

/// The words of a text, each with what is between it and the next one.
fn with_gaps(text: &str) -> impl Iterator<Item = (String, &str)> {
    let mut rest = text.trim_start_matches(|c| !is_in_word(c));
    std::iter::from_fn(move || {
        let end = rest.find(|c| !is_in_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let gap = behind.find(is_in_word).unwrap_or(behind.len());
        rest = &behind[gap..];
        (!word.is_empty()).then(|| (word.to_lowercase(), &behind[..gap]))
    })
}

/// The word that the text ends with, if it does.
pub(super) fn last_word(text: &str) -> String {
    text.rsplit(|c| !is_in_word(c)).next().unwrap_or_default().to_lowercase()
}

fn is_in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || !c.is_ascii() || c == '_'
}

/// The relations that nobody may read unseen, by name.
pub(super) struct Sensitive<'a> {
    pub(super) tagged: Vec<(&'a str, &'a BTreeSet<String>)>,
    pub(super) derived: Vec<&'a str>,
}

/// The functions that read one of the relations, or use one that does.
pub(super) fn readers(bodies: &HashMap<u32, Body>, sensitive: &Sensitive<'_>) -> HashSet<u32> {
    with_callers(bodies, |it| it.reads(sensitive))
}

/// The functions that may put values where the session reads them, or use one that does.
pub(super) fn keepers(bodies: &HashMap<u32, Body>) -> HashSet<u32> {
    with_callers(bodies, |it| it.keeps)
}

fn with_callers(bodies: &HashMap<u32, Body>, is_one: impl Fn(&Body) -> bool) -> HashSet<u32> {
    let mut found: HashSet<u32> = bodies.iter().filter(|(_, it)| is_one(it)).map(|(oid, _)| *oid).collect();
    let mut todo: Vec<u32> = found.iter().copied().collect();
    while let Some(name) = todo.pop().and_then(|it| bodies.get(&it)).map(|it| &it.name) {
        for (oid, body) in bodies {
            if body.called.contains(name) && found.insert(*oid) {
                todo.push(*oid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(definitions: &[(&str, &str)]) -> Vec<u32> {
        let columns = BTreeSet::from(["ssn".to_owned()]);
        let sensitive = Sensitive { tagged: vec![("customers", &columns)], derived: vec!["Odd View"] };
        let of_rows = HashSet::from(["look".to_owned()]);
        let bodies =
            definitions.iter().zip(1..).map(|((name, text), oid)| (oid, Body::new(name, Some(*text), &of_rows)));
        let mut readers: Vec<u32> = readers(&bodies.collect(), &sensitive).into_iter().collect();
        readers.sort_unstable();
        readers
    }

    #[test]
    fn a_text_that_names_a_tagged_column_reads_it() {
        let said = reads(&[
            ("a", "$function$SELECT ssn FROM public.customers$function$"),
            ("b", "SELECT credit FROM customers WHERE id = $1"),
            ("c", "SELECT SSN FROM \"Customers\""),
            ("d", "SELECT to_jsonb(c) FROM customers c"),
            ("e", "SELECT ssn FROM customers_old"),
            ("f", "SELECT v FROM \"Odd View\""),
            ("g", "SELECT * FROM orders"),
        ]);
        assert_eq!(said, [1, 3, 4, 6]);
    }

    #[test]
    fn a_row_is_a_value_by_the_name_of_its_table_or_by_an_alias() {
        for whole in [
            "SELECT c::text FROM customers c",
            "SELECT concat(customers) FROM public.customers",
            "SELECT k.v FROM customers AS k(i, n, e, v)",
            "SELECT t::text FROM (TABLE \"customers\") t",
            "DECLARE c customers; BEGIN",
            "SELECT o.id, c FROM orders o LEFT JOIN public.\"customers\" AS c ON true",
            "SELECT table_to_xml('customers')",
            "UPDATE customers AS c SET name = c",
        ] {
            assert_eq!(reads(&[("f", whole)]), [1], "{whole}");
        }
        for part in [
            "SELECT c.name FROM customers c WHERE c.id = i",
            "SELECT name FROM public.customers WHERE id = 1",
            "INSERT INTO customers (name) VALUES (x)",
            "UPDATE customers SET name = 'x' FROM orders o WHERE o.id = customers.id",
            "DELETE FROM ONLY customers USING orders o",
            "SELECT customers.name FROM orders o JOIN customers USING (id) JOIN log l ON l.id = o.id",
        ] {
            assert_eq!(reads(&[("f", part)]), [0; 0], "{part}");
        }
    }

    #[test]
    fn a_function_of_a_row_is_called_by_a_dot() {
        assert_eq!(reads(&[("f", "SELECT o.look FROM orders o"), ("look", "SELECT min(ssn) FROM customers")]), [1, 2]);
    }

    #[test]
    fn what_uses_a_reader_is_one() {
        let said = reads(&[
            ("a", "SELECT ssn FROM customers"),
            ("b", "BEGIN RETURN c(); END"),
            ("c", "SELECT A()"),
            ("d", ""),
        ]);
        assert_eq!(said, [1, 2, 3]);
    }

    #[test]
    fn what_sets_something_keeps_values() {
        let of_rows = HashSet::new();
        let bodies = [
            ("a", "SELECT set_config('app.x', $1, false)"),
            ("b", "BEGIN EXECUTE format('SET app.x = %L', v); END"),
            ("c", "BEGIN EXECUTE $q$ set app.x = 1 $q$; END"),
            ("d", "BEGIN PERFORM a(v); END"),
            ("e", "UPDATE t SET x = 'set'; SELECT current_setting('app.x'), 'settled'"),
            ("f", "CREATE FUNCTION f() SET search_path TO 'public' SET work_mem TO '5MB' AS $$ SELECT 1 $$"),
        ];
        let bodies = bodies.iter().zip(1..).map(|((name, text), oid)| (oid, Body::new(name, Some(*text), &of_rows)));
        let mut keepers: Vec<u32> = keepers(&bodies.collect()).into_iter().collect();
        keepers.sort_unstable();
        assert_eq!(keepers, [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_not_known_may_read_anything() {
        let columns = BTreeSet::new();
        let sensitive = Sensitive { tagged: vec![("customers", &columns)], derived: Vec::new() };
        assert_eq!(
            readers(&HashMap::from([(1, Body::new("a", None, &HashSet::new()))]), &sensitive),
            HashSet::from([1])
        );
    }
}
