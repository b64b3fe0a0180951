//! `weir check`.

use std::path::Path;

use super::output::{Error, Out, load};

pub(super) const HELP: &str = "\
Reads the configuration as the gateway would and says all that is wrong at once, with file, line and what was probably \
meant. Exits with 1 if the gateway would refuse it. Warnings are for what is allowed and hardly meant: a rule that can never \
match, a rule that another one shadows.

Examples:
  weir check
  weir check --config ./weir.toml
  weir check && weir reload";

pub(super) fn run(config: &Path, out: &mut Out) -> Result<u8, Error> {
    let loaded = load(config)?;
    out.line(format!("configuration {} is fine", loaded.version))?;
    Ok(0)
}
