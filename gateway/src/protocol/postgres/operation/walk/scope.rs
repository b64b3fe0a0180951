//! The names in scope where the walk is: what each query level has in its FROM list, and the CTEs.
//!
//! Items of all levels lie in one list, innermost last, and are found by name. What is looked up is remembered for as long as
//! the items are the same, so that a statement with many columns and many tables costs their sum and not their product.

use std::collections::{HashMap, HashSet};

use crate::protocol::postgres::catalog::Exposure;

/// One item of a FROM list, or the target of a write.
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) source: Source,
}

pub(super) enum Source {
    Table {
        /// Index of the action and of the table in it.
        at: (usize, usize),
        exposure: Exposure,
        /// Its columns have their own names here.
        bare: bool,
    },
    /// Functions, with the columns that are named for them: what they give may be one value, and no row.
    Function { columns: Vec<String> },
    /// A subquery, a CTE, a join: its columns come from anywhere.
    Other,
}

/// Which items a column may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of<'a> {
    /// Any item in scope.
    Any,
    /// Those of the innermost query.
    Innermost,
    /// All of that name, of whatever query: an inner one may be hidden, by the alias of a join or since a schema is written.
    Named(&'a str),
}

/// All that is in scope.
#[derive(Default)]
pub(super) struct Scopes<'a> {
    levels: Vec<Level>,
    items: Vec<Item<'a>>,
    by_name: HashMap<&'a str, Vec<usize>>,
    ctes: Vec<&'a str>,
    cte_count: HashMap<&'a str, usize>,
    /// Numbers the levels that there ever were.
    opened: usize,
    /// What was asked before, and under which state; see [`Scopes::is_news`].
    asked: HashSet<(State, bool, Of<'a>, &'a str)>,
}

/// One query level: where its items and CTEs begin.
struct Level {
    number: usize,
    items: usize,
    ctes: usize,
}

/// Tells one set of items in scope from all others: only the innermost level's change, and they only ever come and go at
/// the end.
type State = (usize, usize);

impl<'a> Scopes<'a> {
    pub(super) fn open(&mut self) {
        self.opened += 1;
        self.levels.push(Level { number: self.opened, items: self.items.len(), ctes: self.ctes.len() });
    }

    pub(super) fn close(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        self.hide(level.items);
        for name in self.ctes.drain(level.ctes..) {
            if let Some(count) = self.cte_count.get_mut(name) {
                *count -= 1;
            }
        }
    }

    /// True outside of all queries.
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Adds an item to the innermost query.
    pub(super) fn add(&mut self, item: Item<'a>) {
        if !self.levels.is_empty() {
            self.by_name.entry(item.name).or_default().push(self.items.len());
            self.items.push(item);
        }
    }

    /// How many items there are, for [`Scopes::hide`].
    pub(super) fn mark(&self) -> usize {
        self.items.len()
    }

    /// Takes the items since the mark away; the caller may add them again.
    pub(super) fn hide(&mut self, mark: usize) -> Vec<Item<'a>> {
        let hidden = self.items.split_off(mark.min(self.items.len()));
        for item in &hidden {
            if let Some(places) = self.by_name.get_mut(item.name) {
                places.pop();
            }
        }
        hidden
    }

    pub(super) fn add_cte(&mut self, name: &'a str) {
        if !self.levels.is_empty() {
            self.ctes.push(name);
            *self.cte_count.entry(name).or_default() += 1;
        }
    }

    pub(super) fn has_cte(&self, name: &str) -> bool {
        self.cte_count.get(name).is_some_and(|count| *count > 0)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|places| !places.is_empty())
    }

    /// The items that a column may be of.
    pub(super) fn of(&self, of: Of<'_>) -> impl Iterator<Item = &Item<'a>> {
        let (run, places): (&[Item<'a>], &[usize]) = match of {
            Of::Any => (&self.items, &[]),
            Of::Innermost => (&self.items[self.levels.last().map_or(0, |it| it.items)..], &[]),
            Of::Named(name) => (&[], self.places(name)),
        };
        run.iter().chain(places.iter().filter_map(|at| self.items.get(*at)))
    }

    fn places(&self, name: &str) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// False if this column was asked about before with the same items in scope, for a value that is stored or for one that is
    /// not: then there is nothing more to note.
    pub(super) fn is_news(&mut self, storing: bool, of: Of<'a>, column: &'a str) -> bool {
        let state = (self.levels.last().map_or(0, |it| it.number), self.items.len());
        self.asked.insert((state, storing, of, column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item<'_> {
        Item { name, source: Source::Other }
    }

    fn names<'a>(scopes: &Scopes<'a>, of: Of<'_>) -> Vec<&'a str> {
        scopes.of(of).map(|it| it.name).collect()
    }

    #[test]
    fn items_are_found_by_name_and_by_level() {
        let mut scopes = Scopes::default();
        scopes.add(item("outside of all queries"));
        assert!(scopes.is_empty() && scopes.mark() == 0);
        scopes.open();
        for name in ["a", "b"] {
            scopes.add(item(name));
        }
        scopes.open();
        assert_eq!(names(&scopes, Of::Named("a")), ["a"], "of the query around it");
        for name in ["a", "c", "a"] {
            scopes.add(item(name));
        }
        scopes.open();
        assert_eq!(names(&scopes, Of::Innermost), [""; 0]);
        assert_eq!(names(&scopes, Of::Any), ["a", "b", "a", "c", "a"]);
        assert_eq!(names(&scopes, Of::Named("a")).len(), 3);
        assert_eq!(names(&scopes, Of::Named("nosuch")), [""; 0]);
        scopes.close();
        assert_eq!(names(&scopes, Of::Innermost), ["a", "c", "a"]);
        scopes.close();
        assert_eq!((names(&scopes, Of::Named("a")), scopes.has("c")), (vec!["a"], false));
    }

    #[test]
    fn what_was_asked_is_news_again_when_the_items_are_others() {
        let mut scopes = Scopes::default();
        scopes.open();
        let before = scopes.mark();
        scopes.add(item("t"));
        assert!(scopes.is_news(false, Of::Any, "a"));
        assert!(!scopes.is_news(false, Of::Any, "a"));
        assert!(scopes.is_news(true, Of::Any, "a") && scopes.is_news(false, Of::Named("t"), "a"));
        // In two subqueries that look the same, and not in the query around them once they are closed.
        for _ in 0..2 {
            scopes.open();
            scopes.add(item("u"));
            assert!(scopes.is_news(false, Of::Any, "a"));
            scopes.close();
        }
        assert!(!scopes.is_news(false, Of::Any, "a"));
        let hidden = scopes.hide(before);
        assert!(scopes.is_news(false, Of::Any, "a"));
        for item in hidden {
            scopes.add(item);
        }
        assert!(!scopes.is_news(false, Of::Any, "a"));
    }

    #[test]
    fn a_cte_is_known_where_it_was_named() {
        let mut scopes = Scopes::default();
        scopes.open();
        scopes.add_cte("w");
        scopes.open();
        scopes.add_cte("w");
        assert!(scopes.has_cte("w"));
        scopes.close();
        assert!(scopes.has_cte("w"));
        scopes.close();
        assert!(!scopes.has_cte("w"));
    }
}
