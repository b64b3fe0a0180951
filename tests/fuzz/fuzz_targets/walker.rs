//! Any text is understood or refused, never a panic: the parser is C, and what it returns is walked node by node.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::catalog::TaggedSet;
use weir::protocol::postgres::operation::{Parsed, analyse_blocking};

static SET: LazyLock<TaggedSet> = LazyLock::new(|| TaggedSet::empty(SystemTime::UNIX_EPOCH));

fuzz_target!(|sql: &str| {
    let Parsed::Statements(statements) = analyse_blocking(sql, &SET) else { return };
    for statement in statements {
        // Rules judge actions: a statement without any would be judged by nobody.
        assert!(!statement.actions.is_empty(), "{sql:?}");
        assert!(sql.get(statement.text_range.clone()).is_some(), "{:?} is no part of {sql:?}", statement.text_range);
    }
});
