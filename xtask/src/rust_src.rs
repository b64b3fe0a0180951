//! The standard library's sources, which `-Z build-std=core` compiles for the eBPF target.
//!
//! They must be of the compiler's very version. rustup brings them; where only Debian's mirrors are reachable, the same
//! sources come from Debian's `rust-src` package, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::PrivateApt;
use crate::{Result, paths, shell};

/// The suite of Debian that has the newest compilers for its stable release.
const SUITE: &str = "trixie-backports";

pub(crate) fn ensure() -> Result {
    let sources = PathBuf::from(shell::output(&mut rustc(["--print", "sysroot"]))?.trim()).join("lib/rustlib/src/rust");
    if present(&sources) {
        return Ok(());
    }
    shell::step("rust-src, by rustup", || {
        // Where rustup cannot download, Debian is next: its own error would only alarm.
        shell::succeeds(&mut shell::command("timeout", ["120", "rustup", "component", "add", "rust-src"]));
        Ok(())
    })?;
    if present(&sources) {
        return Ok(());
    }
    shell::step("rust-src, from Debian's package", || from_debian(&sources))?;
    if present(&sources) {
        return Ok(());
    }
    Err(format!("no rust-src in {} and none to be had: run `rustup component add rust-src`", sources.display()))
}

fn present(sources: &Path) -> bool {
    sources.join("library/core/src/lib.rs").exists()
}

fn rustc<const N: usize>(args: [&str; N]) -> std::process::Command {
    shell::command("rustc", args)
}

fn from_debian(sources: &Path) -> Result {
    let details = shell::output(&mut rustc(["--version", "--verbose"]))?;
    let release = details.lines().find_map(|line| line.strip_prefix("release: ")).ok_or("rustc names no release")?;
    let apt = PrivateApt::new(&paths::cache()?.join("rust-src"), &[SUITE])?;
    let versions = apt.versions("rust-src")?;
    let version = versions
        .iter()
        .find(|version| version.strip_prefix(release).is_some_and(|rest| rest.starts_with('+')))
        .ok_or_else(|| format!("Debian's {SUITE} has no rust-src of rustc {release}"))?;
    let unpacked = apt.unpack(&[format!("rust-src={version}")])?;
    fs::create_dir_all(sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let tree = unpacked.join("usr/src").join(format!("rustc-{release}"));
    shell::run(shell::command("cp", ["-a"]).arg(tree.join(".")).arg(sources))?;
    apt.remove()
}
