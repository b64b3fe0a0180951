//! The `weir` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir::cli::run(std::env::args_os())
}
