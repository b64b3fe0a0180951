//! `cargo xtask fmt`: rustfmt over the workspace and the crates that stand outside it.

use crate::{Result, paths, shell, toolchain};

/// Crates with manifests of their own: another target, another tool.
pub(crate) const OUTSIDE: [&str; 2] = ["gateway-ebpf", "tests/fuzz"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is not formatted
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run(args: &Args) -> Result {
    toolchain::ensure()?;
    shell::run(&mut shell::cargo(words("Cargo.toml", args))?)?;
    for dir in OUTSIDE {
        let manifest = format!("{dir}/Cargo.toml");
        if paths::root().join(&manifest).exists() {
            shell::run(&mut shell::cargo(words(&manifest, args))?)?;
        }
    }
    Ok(())
}

fn words<'a>(manifest: &'a str, args: &Args) -> Vec<&'a str> {
    let mut words = vec!["fmt", "--all", "--manifest-path", manifest];
    if args.check {
        words.push("--check");
    }
    words
}
