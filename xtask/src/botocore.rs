//! botocore, AWS's library for Python: what judges whether tokens of AWS IAM are as AWS makes them. Installed into the cache once for
//! each list of versions.

use std::path::{Path, PathBuf};

use crate::{Result, clients, paths, shell};

/// With what it needs.
const INSTALLED: &[&str] =
    &["botocore==1.44.8", "jmespath==1.1.0", "python-dateutil==2.9.0.post0", "six==1.17.0", "urllib3==2.8.0"];
/// The only service of the 400 that it knows which is asked about here.
const SERVICE: &str = "rds";

/// A directory for `PYTHONPATH`.
pub(crate) fn ensure() -> Result<PathBuf> {
    paths::made_once("botocore", (INSTALLED, SERVICE), |incoming| {
        shell::step(&format!("pip install {}", INSTALLED.join(" ")), || {
            shell::run(clients::pip(&["install", "--no-deps", "--target"], incoming).args(INSTALLED))
        })?;
        let data = incoming.join("botocore/data");
        let services = std::fs::read_dir(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        services
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_other_service(path))
            .try_for_each(|path| std::fs::remove_dir_all(&path).map_err(|e| format!("{}: {e}", path.display())))
    })
}

/// What is true of all services is in files.
fn is_other_service(path: &Path) -> bool {
    path.is_dir() && path.file_name().is_some_and(|name| name != SERVICE)
}
