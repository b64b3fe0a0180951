//! A configuration of any bytes is taken or refused with reasons that name a place in the file.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use weir::config::{Source, parse};

fuzz_target!(|text: &str| {
    let source = Source { path: PathBuf::from("weir.toml"), text: text.to_owned() };
    // The end of a text that ends with a line's end is on a line of its own.
    let lines = text.matches('\n').count() + 1;
    if let Err(errors) = parse(&[source], &|_| Some(1000)) {
        assert!(!errors.problems.is_empty(), "refused without a reason");
        for problem in &errors.problems {
            assert!(problem.line <= lines, "line {} of {lines}: {}", problem.line, problem.message);
        }
    }
});
