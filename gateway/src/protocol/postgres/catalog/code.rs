//! Functions that the database itself runs for a row that is written, and what they read, as far as their texts say.
//!
//! Nothing in the catalog tells which tables a function reads. Its text names them, if whoever wrote it does not hide them:
//! agents do not write functions that the gateway does not see. So a function counts as a reader of a tagged table where it
//! names the table and one of the tagged columns, or the table and something that takes rows whole.

use std::collections::{BTreeSet, HashMap, HashSet};

/// A function's text is read up to here; a longer one may read anything.
pub(super) const MAX_TEXT: i32 = 32 * 1024;

/// A function that runs when a row of the relation is written and that can choose what is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeRow {
    pub(crate) relation: u32,
    pub(crate) function: u32,
    /// A trigger's; otherwise a default's or a generated column's.
    pub(crate) by_trigger: bool,
}

/// A function's text, as the words that are in it.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// As in [`Body::called`].
    name: String,
    /// None: it is not known what is in it.
    words: Option<HashSet<String>>,
    /// Those with an argument list after them: other functions may be among them.
    called: HashSet<String>,
    takes_rows: bool,
}

impl Body {
    /// Of a function by its definition; without one, or with one that is too long, it may read anything.
    pub(crate) fn new(name: &str, definition: Option<&str>) -> Self {
        let words: Option<HashSet<String>> = definition.map(|it| words(it).collect());
        let whole = |word: &String| ["json", "record", "row", "hstore"].iter().any(|it| word.contains(it));
        let takes_rows = definition.is_some_and(|it| it.contains('*')) || words.iter().flatten().any(whole);
        let called = definition.map(called).unwrap_or_default();
        Self { name: last_word(name), words, called, takes_rows }
    }

    /// What it may call, by name.
    pub(super) fn called(&self) -> impl Iterator<Item = &str> {
        self.called.iter().map(String::as_str)
    }

    fn mentions(&self, name: &str) -> bool {
        let Some(known) = &self.words else { return true };
        words(name).all(|word| known.contains(&word))
    }

    fn reads(&self, sensitive: &Sensitive<'_>) -> bool {
        let tagged = sensitive.tagged.iter().any(|(relation, columns)| {
            self.mentions(relation) && (self.takes_rows || columns.iter().any(|column| self.mentions(column)))
        });
        tagged || self.words.is_none() || sensitive.derived.iter().any(|relation| self.mentions(relation))
    }
}

/// The words of a text as an unquoted name would be compared. A quoted name may be several, and so is one with a `$`, which
/// also stands around texts.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c| !is_in_word(c)).filter(|it| !it.is_empty()).map(str::to_lowercase)
}

/// The words that stand before an argument list.
fn called(text: &str) -> HashSet<String> {
    let before = text.split('(').map(|it| last_word(it.trim_end().trim_end_matches('"')));
    before.filter(|it| !it.is_empty()).collect()
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
    let mut readers: HashSet<u32> = bodies.iter().filter(|(_, it)| it.reads(sensitive)).map(|(oid, _)| *oid).collect();
    let mut todo: Vec<u32> = readers.iter().copied().collect();
    while let Some(name) = todo.pop().and_then(|it| bodies.get(&it)).map(|it| &it.name) {
        for (oid, body) in bodies {
            if body.called.contains(name) && readers.insert(*oid) {
                todo.push(*oid);
            }
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(definitions: &[(&str, &str)]) -> Vec<u32> {
        let columns = BTreeSet::from(["ssn".to_owned()]);
        let sensitive = Sensitive { tagged: vec![("customers", &columns)], derived: vec!["Odd View"] };
        let bodies = definitions.iter().zip(1..).map(|((name, text), oid)| (oid, Body::new(name, Some(*text))));
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
    fn what_is_not_known_may_read_anything() {
        let columns = BTreeSet::new();
        let sensitive = Sensitive { tagged: vec![("customers", &columns)], derived: Vec::new() };
        assert_eq!(readers(&HashMap::from([(1, Body::new("a", None))]), &sensitive), HashSet::from([1]));
    }
}
