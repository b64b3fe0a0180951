//! `cargo xtask fuzz NAME`: cargo-fuzz with the compiler at hand; the sanitizer's runtime comes with stable Rust too.

use crate::{Result, paths, setup, shell};

const CARGO_FUZZ: (&str, &str) = ("cargo-fuzz", "0.13.2");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target's name, a file of `tests/fuzz/fuzz_targets`
    name: String,
    /// How long to look for crashes
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result {
    setup::run(setup::Scope::Build)?;
    setup::cargo_tool(CARGO_FUZZ)?;
    let corpus = paths::cache()?.join("fuzz").join(&args.name);
    std::fs::create_dir_all(&corpus).map_err(|e| format!("cannot create {}: {e}", corpus.display()))?;
    let limit = format!("-max_total_time={}", args.seconds);
    let mut fuzz = shell::cargo(["fuzz", "run", "--fuzz-dir", "tests/fuzz", &args.name])?;
    fuzz.arg(&corpus).args(["--", &limit]);
    fuzz.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", paths::target()?.join("fuzz"));
    // The workspace's optimisation at link time takes minutes, and finds no crash.
    fuzz.env("CARGO_PROFILE_RELEASE_LTO", "off");
    shell::step(&format!("fuzz {} for {} s", args.name, args.seconds), || shell::run(&mut fuzz))
}
