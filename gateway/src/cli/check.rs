//! `weir check`.

use std::path::Path;

use super::output::{Colour, Error, Out, clean, clean_lines, plural};
use crate::config;

pub(super) const HELP: &str = "\
Reads the configuration as the gateway would and says all that is wrong at once, with file, line and what was probably \
meant. Exits with 1 if the gateway would refuse it. Warnings are for what is allowed and hardly meant: a rule that can never \
match, a rule that another one shadows.

Examples:
  weir check
  weir check --config ./weir.toml
  weir check && weir reload
  weir check --json | jq -r '.errors[] | \"\\(.file):\\(.line) \\(.message)\"'";

pub(super) fn run(config: &Path, out: &mut Out) -> Result<u8, Error> {
    let checked = config::check(config);
    if out.json {
        let (version, errors, warnings) = match &checked {
            Ok((config, warnings)) => (Some(&config.version), &[][..], warnings.as_slice()),
            Err(errors) => (None, errors.problems.as_slice(), &[][..]),
        };
        out.json(&serde_json::json!({ "version": version, "errors": errors, "warnings": warnings }))?;
        return Ok(u8::from(checked.is_err()));
    }
    match checked {
        Ok((config, warnings)) => {
            for warning in &warnings {
                out.line(format!("{} {}", out.paint(Colour::Yellow, "warning:"), clean(warning)))?;
            }
            out.line(format!(
                "configuration {} is fine: {}, {}, {}, {}",
                config.version,
                plural(config.agents.len() as u64, "agent"),
                plural(config.targets.len() as u64, "target"),
                plural(config.policy.rules.len() as u64, "rule"),
                plural(config.masks.len() as u64, "mask")
            ))?;
            Ok(0)
        }
        Err(errors) => {
            out.line(clean_lines(&errors.to_string()))?;
            let count = plural(errors.problems.len() as u64, "error");
            out.line(out.paint(Colour::Red, format!("{count}: the gateway would refuse this")))?;
            Ok(1)
        }
    }
}
