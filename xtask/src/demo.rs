//! `cargo xtask demo` and `cargo xtask bench`: set-up, build, then a program of the `system-tests` crate as root, on the
//! `weir` that was just built.

use std::process::Stdio;

use crate::{Result, clean_kernel, paths, setup, shell};

#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Leave it running at the end, and print the commands to try
    #[arg(long)]
    keep: bool,
}

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Alternating rounds; at least 5 for figures to be told
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Only rows that have this in their name; one that does not exist lists them
    #[arg(long)]
    row: Option<String>,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<String>,
}

pub(crate) fn demo(args: &DemoArgs) -> Result {
    let words: &[&str] = if args.keep { &["--keep"] } else { &[] };
    run("demo", "debug", words)
}

pub(crate) fn bench(args: &BenchArgs) -> Result {
    let mut words =
        vec!["--rounds".to_owned(), args.rounds.to_string(), "--seconds".to_owned(), args.seconds.to_string()];
    if let Some(row) = &args.row {
        words.extend(["--row".to_owned(), row.clone()]);
    }
    if let Some(file) = &args.json {
        let file = std::path::absolute(file).map_err(|error| format!("{file}: {error}"))?;
        words.extend(["--json".to_owned(), file.display().to_string()]);
    }
    run("bench", "release", &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Builds the program and `weir` in a profile and runs the program, with the terminal as its input.
fn run(program: &str, profile: &str, words: &[&str]) -> Result {
    setup::run(setup::Scope::Test)?;
    clean_kernel::run()?;
    let mut build = vec!["build", "--locked", "--package", "weir", "--package", "system-tests", "--bins"];
    if profile == "release" {
        build.push("--release");
    }
    shell::step("build", || shell::run(&mut shell::cargo(&build)?))?;
    let built = paths::target()?.join(profile);
    let environment =
        [format!("WEIR_BIN={}", built.join("weir").display()), format!("WEIR_CACHE={}", paths::cache()?.display())];
    let mut command = shell::as_root("env", environment);
    command.arg(built.join(program)).args(words).stdin(Stdio::inherit());
    let told = shell::run(&mut command);
    clean_kernel::run()?;
    told
}
