//! The packages that `cargo xtask test` had made for the suites that install or read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The directory with the Debian package, the static tarball, the bill of materials and their checksums.
pub struct Packages {
    dir: PathBuf,
    debian: PathBuf,
    tarball: PathBuf,
    bill: PathBuf,
}

impl Packages {
    pub fn of_this_run() -> Result<Self> {
        let dir = std::env::var_os("WEIR_PACKAGES").map(PathBuf::from);
        let dir = dir.ok_or("no packages: run `cargo xtask test package`, or set WEIR_PACKAGES")?;
        let paths: Vec<PathBuf> =
            fs::read_dir(&dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
        let ending = |ending: &str| {
            let found = paths.iter().find(|path| path.to_string_lossy().ends_with(ending)).cloned();
            found.ok_or_else(|| format!("no *{ending} in {}", dir.display()))
        };
        let (debian, tarball, bill) = (ending(".deb")?, ending("-static.tar.gz")?, ending(".cdx.json")?);
        Ok(Self { dir, debian, tarball, bill })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn debian(&self) -> &Path {
        &self.debian
    }

    pub fn tarball(&self) -> &Path {
        &self.tarball
    }

    pub fn bill(&self) -> &Path {
        &self.bill
    }

    /// The name of the one directory in the tarball.
    pub fn tree_name(&self) -> String {
        let name = self.tarball.file_name().unwrap_or_default().to_string_lossy();
        name.trim_end_matches(".tar.gz").to_owned()
    }

    /// Unpacks the tarball into a new directory; the tree in it.
    pub fn unpack(&self, to: &Path) -> Result<PathBuf> {
        fs::create_dir_all(to)?;
        run(Command::new("tar").arg("-xf").arg(&self.tarball).arg("-C").arg(to))?;
        Ok(to.join(self.tree_name()))
    }

    /// The Debian package again, under a later version: what it is upgraded to.
    pub fn later_debian(&self, work: &Path, to: &Path) -> Result {
        run(Command::new("dpkg-deb").arg("--raw-extract").arg(&self.debian).arg(work))?;
        let control = work.join("DEBIAN/control");
        let text = fs::read_to_string(&control)?;
        let later: Vec<String> = text
            .lines()
            .map(|line| if line.starts_with("Version: ") { format!("{line}+later") } else { line.to_owned() })
            .collect();
        fs::write(&control, later.join("\n") + "\n")?;
        // Quick to pack and, on an emulated machine, to unpack.
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(work).arg(to))
    }
}

fn run(command: &mut Command) -> Result {
    let out = command.output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)).into())
}
