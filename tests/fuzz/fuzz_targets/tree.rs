//! What a target prints of a statement is read or refused, whatever it is: no panic, and no stack that ends.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::catalog::TaggedSet;
use weir::protocol::postgres::lineage;

static SET: LazyLock<TaggedSet> = LazyLock::new(|| TaggedSet::empty(SystemTime::UNIX_EPOCH));

fuzz_target!(|printed: &str| {
    // Also as the one query of a list, which is where a walk begins.
    for text in [printed.to_owned(), format!("({{QUERY {printed}}})"), format!("({{QUERY :commandType 1 {printed}}})")]
    {
        let _ = lineage::is_traced(&text, &SET);
    }
});
