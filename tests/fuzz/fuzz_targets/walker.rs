//! Any text is understood or refused, never a panic: the parser is C, and what it returns is walked node by node. What is found within a
//! text is a part of it, or a statement of its own.
#![no_main]

#[path = "../shop.rs"]
mod shop;

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use weir::policy::Action;
use weir::protocol::postgres::catalog::TaggedSet;
use weir::protocol::postgres::operation::{Class, Parsed, Query, Statement, analyse_blocking};

static NOTHING: LazyLock<TaggedSet> = LazyLock::new(|| TaggedSet::empty(SystemTime::UNIX_EPOCH));
static SHOP: LazyLock<TaggedSet> =
    LazyLock::new(|| shop::shop(&["public.customers.ssn", "public.customers.email", "public.people.email"]));

/// A value that stands in strings of the seeds.
const VALUE: &str = "900-11-1002";

fuzz_target!(|sql: &str| {
    let (plain, masked) = (analyse_blocking(sql, &NOTHING), analyse_blocking(sql, &SHOP));
    // In a name it may be told.
    let hides = sql.contains(VALUE) && !sql.contains('"');
    for reason in plain.refusal().into_iter().chain(masked.refusal()) {
        assert!(!hides || !reason.contains(VALUE), "{reason}");
    }
    let (Parsed::Statements(plain), Parsed::Statements(masked)) = (plain, masked) else { return };
    assert_eq!(plain.len(), masked.len(), "{sql:?}");
    for (plain, masked) in plain.iter().zip(&masked) {
        // Rules judge actions: a statement without any would be judged by nobody. What they are is up to the text, but for where a
        // table without its schema may be.
        assert!(!masked.actions.is_empty(), "{sql:?}");
        assert_eq!(by_the_text(plain), by_the_text(masked), "{sql:?}");
        assert!(sql.get(masked.text_range.clone()).is_some(), "{:?} is no part of {sql:?}", masked.text_range);
        inner(sql, masked);
    }
});

fn by_the_text(statement: &Statement) -> Vec<Action> {
    let mut actions = statement.actions.clone();
    actions.iter_mut().flat_map(|action| &mut action.tables).for_each(|table| table.schemas.clear());
    actions
}

fn inner(sql: &str, statement: &Statement) {
    let Class::Traced { query, .. } = &statement.class else { return };
    let text = match query {
        Query::Itself => return,
        Query::Made(range) | Query::Planned { range, .. } | Query::Kept(range) => {
            let all = &statement.text_range;
            assert!(all.start <= range.start && range.end <= all.end, "{range:?} is not within {all:?} of {sql:?}");
            sql.get(range.clone()).unwrap_or_else(|| panic!("{range:?} is no part of {sql:?}"))
        }
        Query::Sampled(sample) => &sample.text,
        Query::Copied { query, .. } => query,
        Query::Taken { insert, .. } => insert,
    };
    let understood = analyse_blocking(text, &SHOP);
    let Parsed::Statements(statements) = &understood else { panic!("{text:?} of {sql:?} is {understood:?}") };
    let [one] = statements.as_slice() else { panic!("{text:?} of {sql:?} is more than one statement") };
    // What is asked about must touch what the statement does.
    assert_ne!(one.class, Class::Untouched, "{text:?} of {sql:?}");
}
