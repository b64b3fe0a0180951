//! Every developer task, as `cargo xtask TASK`: one variant here, one file beside this one.
//!
//! Needs only `rustup` and a C linker to be built itself (`apt-get install build-essential`); `cargo xtask setup`
//! brings the rest. Build output and caches live outside the clone, see [`paths`].

mod apt;
mod beside;
mod botocore;
mod build;
mod ci;
mod clean_kernel;
mod clients;
mod corpus;
mod demo;
mod deny;
mod fmt;
mod fuzz;
mod lint;
mod package;
mod paths;
mod rust_src;
mod sbom;
mod servers;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod vm_image;
mod vm_kernel;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

/// A task's result; the error is the sentence that the developer reads.
type Result<T = ()> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every developer task of Weir")]
enum Task {
    /// Install what building and testing need; does nothing where it is all there
    Setup,
    /// Build the `weir` binary with its eBPF programs
    Build(build::Args),
    /// The Debian package and the static tarball, reproducible, with SBOM and checksums
    Package(package::Args),
    /// The main job for real, told as a story
    Demo(demo::DemoArgs),
    /// Figures side by side with what else one would use, as a table and JSON
    Bench(demo::BenchArgs),
    /// Run test suites (all, if none is named), set-up included
    Test(test::Args),
    /// Format every crate
    Fmt(fmt::Args),
    /// clippy on every crate, warnings denied
    Lint,
    /// The project's conventions, as checks
    Tidy,
    /// cargo-deny: licences, bans, sources, advisories
    Deny,
    /// Everything that a change must pass
    Ci,
    /// Run a fuzz target for a while, or each of them
    Fuzz(fuzz::Args),
    /// Remove pins, cgroups and processes that killed test runs left behind
    CleanKernel,
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup => setup::run(setup::Scope::Test),
        Task::Build(args) => build::run(&args),
        Task::Package(args) => package::run(&args),
        Task::Demo(args) => demo::demo(&args),
        Task::Bench(args) => demo::bench(&args),
        Task::Test(args) => test::run(&args, &package::Packages::when_asked_for()),
        Task::Fmt(args) => fmt::run(&args),
        Task::Lint => lint::run(),
        Task::Tidy => tidy::run(),
        Task::Deny => deny::run(),
        Task::Ci => ci::run(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::CleanKernel => clean_kernel::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
