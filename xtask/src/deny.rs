//! `cargo xtask deny`: cargo-deny over the lock files of what is shipped.
//!
//! Licences, bans and sources need nothing but the lock file. Advisories need the advisory database, which is fetched
//! over the network; where it cannot be had, the task says that it was not checked and goes on.

use crate::{Result, paths, setup, shell};

const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

pub(crate) fn run() -> Result {
    setup::cargo_tool(CARGO_DENY)?;
    let advisories = fetched_advisories();
    for dir in [".", "gateway-ebpf"] {
        let manifest = paths::root().join(dir).join("Cargo.toml");
        println!("    {dir}");
        let mut checks = vec!["bans", "licenses", "sources"];
        if advisories {
            checks.push("advisories");
        }
        let manifest = manifest.to_string_lossy();
        let words = ["deny", "--manifest-path", &manifest, "--config", "deny.toml", "check", "--hide-inclusion-graph"];
        let mut deny = shell::cargo(words)?;
        shell::run(deny.args(checks))?;
    }
    if !advisories {
        println!("    ADVISORIES WERE NOT CHECKED: the advisory database cannot be fetched from here.");
    }
    Ok(())
}

/// Tries once, with a limit: a machine behind a closed network answers at once or never.
fn fetched_advisories() -> bool {
    shell::succeeds(&mut shell::command("timeout", ["60", &shell::cargo_program(), "deny", "fetch", "db"]))
}
