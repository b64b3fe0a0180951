//! `cargo xtask ci`: everything that a change must pass, cheapest first.

use crate::{Result, deny, fmt, fuzz, lint, setup, shell, test, tidy};

pub(crate) fn run() -> Result {
    setup::run(setup::Scope::Test)?;
    shell::step("rustfmt", || fmt::run(&fmt::Args { check: true }))?;
    shell::step("tidy", tidy::run)?;
    shell::step("cargo-deny", deny::run)?;
    lint::run()?;
    fuzz::run(&fuzz::Args::ci())?;
    test::run(&test::Args::all())
}
