//! Clients of databases and the test suites that their authors wrote for them, from PyPI: what judges whether the gateway can
//! be noticed. Installed into the cache once for each list of versions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::{Result, paths, shell};

/// What the suites run with.
const INSTALLED: &[&str] = &[
    "asyncpg==0.32.0",
    "greenlet==3.1.1",
    "psycopg2-binary==2.9.10",
    "pytest==8.3.4",
    "pytest-timeout==2.3.1",
    "typing-extensions==4.12.2",
];
/// Whose suites are in the source package, and nowhere else; and what is taken out of it. The package itself would be taken for the
/// installed one: SQLAlchemy is not installed, since its tests want it beside them.
const SOURCES: &[(&str, &str, &[&str])] = &[
    ("asyncpg", "0.32.0", &["*/test*", "*/setup.cfg"]),
    ("psycopg2", "2.9.10", &["*/test*", "*/setup.cfg"]),
    ("sqlalchemy", "2.0.46", &["*/test/*", "*/setup.cfg", "*/lib/sqlalchemy/*"]),
];

/// A directory with `site`, for `PYTHONPATH`, and `src`, with a directory `NAME-VERSION` for each source package.
pub(crate) fn ensure() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (INSTALLED, SOURCES).hash(&mut hasher);
    let ready = paths::cache()?.join(format!("clients-{:016x}", hasher.finish()));
    if ready.exists() {
        return Ok(ready);
    }
    let incoming = ready.with_extension("incoming");
    let made = |e: std::io::Error| format!("{}: {e}", incoming.display());
    if incoming.exists() {
        std::fs::remove_dir_all(&incoming).map_err(made)?;
    }
    let (site, archives, sources) = (incoming.join("site"), incoming.join("archives"), incoming.join("src"));
    for directory in [&site, &archives, &sources] {
        std::fs::create_dir_all(directory).map_err(made)?;
    }
    shell::step(&format!("pip install {}", INSTALLED.join(" ")), || {
        shell::run(pip(&["install", "--target"], &site).args(INSTALLED))
    })?;
    for (name, version, extracted) in SOURCES {
        let package = format!("{name}=={version}");
        shell::step(&format!("pip download {package}"), || {
            // Only this one from source: not what its metadata are made with.
            let words = ["download", "--no-deps", "--no-binary", name, "--dest"];
            shell::run(pip(&words, &archives).arg(&package))
        })?;
        let mut tar = shell::command("tar", ["--extract", "--file"]);
        tar.arg(archives.join(format!("{name}-{version}.tar.gz"))).arg("--directory").arg(&sources);
        shell::run(tar.arg("--wildcards").args(*extracted))?;
    }
    std::fs::rename(&incoming, &ready).map_err(made)?;
    Ok(ready)
}

/// The server's own Python, which the clients run with too.
fn pip(words: &[&str], directory: &Path) -> std::process::Command {
    let mut pip = shell::command("/usr/bin/python3", ["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    pip.args(words).arg(directory);
    pip
}
