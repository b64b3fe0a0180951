//! The compiler. The eBPF half needs this very line: [`bpf-linker`](crate::setup) links with the compiler's own LLVM, and
//! `-Z build-std` is unstable. A machine whose default is another gets this one beside it, for these tasks only.
//!
//! A `rust-toolchain.toml` would do the same, but stops every cargo call on a machine that has the compiler under another
//! name and cannot download.

use crate::{Result, shell};

const LINE: &str = "1.95.";
const TOOLCHAIN: &str = "1.95.0";

/// Makes the tasks that follow use the right compiler, and installs it if need be.
pub(crate) fn ensure() -> Result {
    if is_right(&shell::output(&mut shell::command("rustc", ["--version"]))?) {
        return Ok(());
    }
    let has_it = || shell::output(&mut shell::command("rustup", ["run", TOOLCHAIN, "rustc", "--version"]));
    if !has_it().is_ok_and(|version| is_right(&version)) {
        shell::step(&format!("rustup toolchain install {TOOLCHAIN}"), || {
            let words = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--component", "clippy,rustfmt"];
            shell::run(&mut shell::command("rustup", words))
        })?;
    }
    shell::use_toolchain(TOOLCHAIN);
    Ok(())
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`
fn is_right(version: &str) -> bool {
    version.strip_prefix("rustc ").is_some_and(|rest| rest.starts_with(LINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_line_is_right() {
        assert!(is_right("rustc 1.95.0 (59807616e 2026-04-14)"));
        assert!(!is_right("rustc 1.96.0-nightly (59807616e 2026-04-14)"));
        assert!(!is_right("rustc 1.9.5"));
    }
}
