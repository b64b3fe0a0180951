//! `cargo xtask ci`: everything that a change must pass, cheapest first.

use crate::package::Packages;
use crate::{Result, deny, fmt, fuzz, lint, paths, setup, shell, test, tidy};

/// What a run takes from nothing: five sets of build output, servers and clients of others, a disk image. In bytes.
const SPACE: u64 = 25 << 30;

pub(crate) fn run() -> Result {
    shell::step("disk space", make_room)?;
    setup::run(setup::Scope::Test)?;
    shell::step("rustfmt", || fmt::run(&fmt::Args { check: true }))?;
    shell::step("tidy", tidy::run)?;
    shell::step("cargo-deny", deny::run)?;
    lint::run()?;
    fuzz::run(&fuzz::Args::ci())?;
    let packages = Packages::begin()?;
    test::run(&test::Args::all(), &packages)
}

/// What earlier runs built is given up when the disk is short: it is dear to have, and a full disk breaks the run midway.
fn make_room() -> Result {
    let target = paths::target()?;
    if free()? < SPACE && target.exists() {
        println!("    less than {} GB are free: what earlier runs built goes", SPACE >> 30);
        std::fs::remove_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
    }
    let free = free()?;
    println!("    {} GB free", free >> 30);
    if free < SPACE {
        println!("    that may be too little: a run from nothing takes {} GB (WEIR_CACHE says where)", SPACE >> 30);
    }
    Ok(())
}

/// Bytes that may be written where the build output goes.
fn free() -> Result<u64> {
    let cache = paths::cache()?;
    let said = shell::output(shell::command("df", ["--output=avail", "--block-size=1"]).arg(&cache))?;
    said.lines().last().and_then(|bytes| bytes.trim().parse().ok()).ok_or(format!("df says {said}"))
}
