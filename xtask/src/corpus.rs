//! What labelled sentences are made with, to measure detectors: Faker, and the templates with which Microsoft measures Presidio.
//! Installed into the cache once for each list of versions.

use std::path::PathBuf;

use crate::{Result, paths, shell};

/// Without what they need: presidio-evaluator wants spaCy, transformers and scikit-learn, gigabytes, to run recognisers of
/// which nothing is run here. Its templates and Faker need nothing else.
const INSTALLED: &[&str] = &["faker==40.63.0", "presidio-evaluator==0.3.2"];

/// A directory for `PYTHONPATH`.
pub(crate) fn ensure() -> Result<PathBuf> {
    paths::made_once("corpus", INSTALLED, |incoming| {
        shell::step(&format!("pip install --no-deps {}", INSTALLED.join(" ")), || {
            let words = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--target"];
            shell::run(shell::command("/usr/bin/python3", words).arg(incoming).args(INSTALLED))
        })
    })
}
