//! `cargo xtask fuzz [NAME]`: cargo-fuzz with the compiler at hand. Without a sanitizer: what is ours is safe Rust, where panics, overflows
//! and time are what there is to find, and the C of libpg_query, which `walker` calls, would not be instrumented by one either.
//!
//! Inputs to begin with are in `tests/fuzz/seeds`, one a line: `NAME.txt` has them as they are, `NAME.hex` in hexadecimal. What
//! is found on the way stays in the cache, and so does what crashes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, paths, setup, shell};

const CARGO_FUZZ: (&str, &str) = ("cargo-fuzz", "0.13.2");
const DIRECTORY: &str = "tests/fuzz";
/// How long each target runs in CI.
const CI_SECONDS: u32 = 60;
/// Targets that run side by side: each keeps one core busy.
const AT_ONCE: usize = 2;
/// An input that takes as long is a finding: everything here has bounds.
const MAX_SECONDS_EACH: u32 = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target's name, a file of `tests/fuzz/fuzz_targets`; without one, each of them
    name: Option<String>,
    /// How long to look for crashes, in each target
    #[arg(long, default_value_t = CI_SECONDS)]
    seconds: u32,
}

impl Args {
    pub(crate) fn ci() -> Self {
        Self { name: None, seconds: CI_SECONDS }
    }
}

pub(crate) fn run(args: &Args) -> Result {
    setup::run(setup::Scope::Build)?;
    setup::cargo_tool(CARGO_FUZZ)?;
    let targets = targets()?;
    let chosen: Vec<&String> = targets.iter().filter(|it| args.name.as_ref().is_none_or(|name| name == *it)).collect();
    if chosen.is_empty() {
        return Err(format!("no such fuzz target; there are: {}", targets.join(", ")));
    }
    // All at once: cargo builds what they share once, and links in parallel.
    let name = args.name.as_deref();
    shell::step("build the fuzz targets", || shell::run(cargo_fuzz("build")?.args(name)))?;
    chosen.chunks(AT_ONCE).try_for_each(|some| {
        std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|target| scope.spawn(|| run_one(target, args.seconds))).collect();
            let ended =
                running.into_iter().map(|it| it.join().map_err(|_| "a fuzz target's thread died".to_owned())?);
            ended.collect::<Result<Vec<()>>>().map(drop)
        })
    })
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let directory = paths::root().join(DIRECTORY).join("fuzz_targets");
    let entries = fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.path().file_stem()?.to_str().map(str::to_owned)).collect();
    names.sort_unstable();
    Ok(names)
}

fn cargo_fuzz(task: &str) -> Result<std::process::Command> {
    // In one codegen unit, which is cargo-fuzz's way, the gateway is compiled by one processor, and for minutes.
    let mut fuzz =
        shell::cargo(["fuzz", task, "--fuzz-dir", DIRECTORY, "--codegen-units", "16", "--sanitizer", "none"])?;
    fuzz.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", paths::target()?.join("fuzz"));
    // What the workspace's release does to be fast takes most of the time to build, and finds no crash.
    fuzz.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    Ok(fuzz)
}

fn run_one(target: &str, seconds: u32) -> Result {
    let (corpus, seeds, crashes) =
        (directory(target, "")?, directory(target, "-seeds")?, directory(target, "-crashes")?);
    lay_out(target, &seeds)?;
    let mut fuzz = cargo_fuzz("run")?;
    // What is new goes to the first directory.
    fuzz.arg(target).arg(&corpus).arg(&seeds).arg("--");
    fuzz.args([format!("-max_total_time={seconds}"), format!("-timeout={MAX_SECONDS_EACH}")]);
    fuzz.arg(format!("-artifact_prefix={}/", crashes.display())).args(["-verbosity=0", "-print_final_stats=1"]);
    shell::step(&format!("fuzz {target} for {seconds} s"), || shell::run(&mut fuzz))
}

/// A directory of the target's in the cache.
fn directory(target: &str, what: &str) -> Result<PathBuf> {
    let directory = paths::cache()?.join("fuzz").join(format!("{target}{what}"));
    fs::create_dir_all(&directory).map_err(|e| format!("cannot create {}: {e}", directory.display()))?;
    Ok(directory)
}

/// Writes each kept input to a file, as libFuzzer wants it.
fn lay_out(target: &str, directory: &Path) -> Result {
    let seeds = paths::root().join(DIRECTORY).join("seeds");
    let read = |extension: &str| fs::read_to_string(seeds.join(format!("{target}.{extension}"))).unwrap_or_default();
    let (texts, numbers) = (read("txt"), read("hex"));
    let mut inputs: Vec<Vec<u8>> = texts.lines().map(|line| line.as_bytes().to_vec()).collect();
    for line in numbers.lines() {
        inputs.push(bytes(line).ok_or_else(|| format!("{target}.hex: {line:?} is not hexadecimal"))?);
    }
    for (index, input) in inputs.iter().enumerate() {
        let path = directory.join(index.to_string());
        fs::write(&path, input).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_inputs_are_read() {
        assert_eq!(bytes("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(bytes("0g"), None);
        assert_eq!(bytes(""), Some(Vec::new()));
    }

    #[test]
    fn seeds_are_of_targets() {
        let targets = targets().unwrap();
        for entry in fs::read_dir(paths::root().join(DIRECTORY).join("seeds")).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(targets.contains(&name), "{name}");
        }
    }
}
