//! `weir verify`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Colour, Error, Out, clean, load};
use crate::record::verify::{self, Verdict};

pub(super) const HELP: &str = "\
Works from the files alone, on any host: the gateway need not run. Exit codes: 0 anchored and whole, 10 whole but without an \
outside anchor, 11 an unanchored tail, 12 gaps that are accounted for, 20 altered, 21 truncated or forked, 22 a wrong key.

Examples:
  weir verify
  weir verify --dir /mnt/evidence/recordings
  weir verify --json | jq .records";

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The recordings; without it, where the configuration says.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(self, config: &Path, out: &mut Out) -> Result<u8, Error> {
        let directory = match self.dir {
            Some(directory) => directory,
            None => load(config)?.recording.directory,
        };
        let report = verify::verify(&directory).map_err(Error::other)?;
        let code = report.verdict.exit_code();
        if out.json {
            out.json(&report)?;
            return Ok(code);
        }
        let (colour, verdict) = match report.verdict {
            Verdict::SelfConsistent => {
                (Colour::Green, "whole in itself; no anchor outside this host vouches for it yet")
            }
            Verdict::Deleted => (Colour::Green, "whole, but for segments whose deletion is recorded"),
            Verdict::Altered => (Colour::Red, "ALTERED"),
            Verdict::Truncated => (Colour::Red, "TRUNCATED, or mixed of two logs"),
        };
        out.fields(&[
            ("verdict", format!("{} (exit code {code})", out.paint(colour, verdict))),
            ("directory", directory.display().to_string()),
            ("segments", report.segments.to_string()),
            ("records", report.records.to_string()),
            ("last hash", report.last_hash.clone()),
        ])?;
        for finding in report.findings.iter().chain(&report.notes) {
            out.line(format!("  {}", clean(finding)))?;
        }
        Ok(code)
    }
}
