//! What a target prints of a statement is read or refused, whatever it is: no panic, and no stack that ends. And what more is masked
//! takes nothing from what is known of the rest.
#![no_main]

#[path = "../shop.rs"]
mod shop;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::catalog::TaggedSet;
use weir::protocol::postgres::lineage;

static ONE: LazyLock<TaggedSet> = LazyLock::new(|| shop::shop(&["public.customers.ssn"]));
static BOTH: LazyLock<TaggedSet> = LazyLock::new(|| shop::shop(&["public.customers.ssn", "public.customers.email"]));

fuzz_target!(|printed: &str| {
    // Also as the one query of a list, which is where a walk begins.
    for text in [printed.to_owned(), format!("({{QUERY {printed}}})"), format!("({{QUERY :commandType 1 {printed}}})")]
    {
        let one = lineage::sources(&text, &ONE);
        let Some(both) = lineage::sources(&text, &BOTH) else { continue };
        let known = both.iter().flatten().all(|it| [shop::SSN, shop::EMAIL].contains(it));
        assert!(known, "{both:?} has columns that are not masked");
        let rest: Vec<BTreeSet<_>> =
            both.iter().map(|it| it.iter().copied().filter(|it| *it == shop::SSN).collect()).collect();
        assert_eq!(one, Some(rest), "with more masked it is {both:?}");
    }
});
