#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::{catalog::TaggedSet, operation::analyse_blocking};

fuzz_target!(|sql: &str| {
    analyse_blocking(sql, &TaggedSet::empty(SystemTime::UNIX_EPOCH));
});
