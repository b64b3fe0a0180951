//! `cargo xtask build`: the `weir` binary; its build script compiles the eBPF programs into it.

use crate::{Result, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as packaged
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result {
    setup::run(setup::Scope::Build)?;
    let mut words = vec!["build", "--locked", "--package", "weir"];
    if args.release {
        words.push("--release");
    }
    shell::step("cargo build", || shell::run(&mut shell::cargo(&words)?))
}
