//! `cargo xtask lint`: clippy with warnings denied, on the workspace and on the eBPF crate.

use crate::{Result, paths, shell, toolchain};

pub(crate) fn run() -> Result {
    toolchain::ensure()?;
    shell::step("clippy: workspace", || {
        let words = ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        shell::run(&mut shell::cargo(words)?)
    })?;
    shell::step("clippy: gateway-ebpf", || {
        let words = [
            "clippy",
            "--locked",
            "-Zbuild-std=core",
            "--target",
            "bpfel-unknown-none",
            "--release",
            "--",
            "--deny",
            "warnings",
        ];
        let mut clippy = shell::cargo(words)?;
        // build-std is unstable: facts of the build are in ARCHITECTURE.md.
        clippy.current_dir(paths::root().join("gateway-ebpf")).env("RUSTC_BOOTSTRAP", "1");
        clippy.env("CARGO_TARGET_DIR", paths::target()?.join("ebpf-lint"));
        shell::run(&mut clippy)
    })
}
