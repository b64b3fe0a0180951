//! Debian's packages of any suite, fetched and unpacked without being installed: rust-src of the very compiler, kernels for
//! the virtual machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, shell};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt with lists, cache and sources of its own, so that the machine's are left as they are. The mirror is the one
/// the machine uses.
pub(crate) struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    /// Knows the packages of these suites.
    pub(crate) fn new(dir: &Path, suites: &[&str]) -> Result<Self> {
        let io = |e: std::io::Error| format!("{}: {e}", dir.display());
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(io)?;
        }
        fs::create_dir_all(dir.join("lists/partial")).map_err(io)?;
        fs::create_dir_all(dir.join("cache/archives/partial")).map_err(io)?;
        let mirror = debian_mirror()?;
        let sources = suites.iter().map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(dir.join("sources.list"), sources.collect::<String>()).map_err(io)?;
        let apt = Self { dir: dir.to_path_buf() };
        shell::output(&mut apt.command("apt-get", ["update"]))?;
        Ok(apt)
    }

    /// The versions of a package, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = shell::output(&mut self.command("apt-cache", ["madison", package]))?;
        Ok(table.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect())
    }

    /// The names of the packages that `NAME` or `NAME=VERSION` depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let record = shell::output(&mut self.command("apt-cache", ["show", package]))?;
        let names = record.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let names = names.split([',', '|']).filter_map(|name| name.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages (`NAME` or `NAME=VERSION`), and unpacks them all into one directory, which it returns.
    pub(crate) fn unpack(&self, packages: &[String]) -> Result<PathBuf> {
        let (archives, unpacked) = (self.dir.join("archives"), self.dir.join("unpacked"));
        fs::create_dir_all(&archives).map_err(|e| format!("{}: {e}", archives.display()))?;
        let mut download = self.command("apt-get", ["download"]);
        shell::output(download.args(packages).current_dir(&archives))?;
        let found = fs::read_dir(&archives).map_err(|e| format!("{}: {e}", archives.display()))?;
        for package in found.flatten() {
            shell::run(shell::command("dpkg", ["-x"]).arg(package.path()).arg(&unpacked))?;
        }
        Ok(unpacked)
    }

    pub(crate) fn remove(self) -> Result {
        fs::remove_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))
    }

    fn command<const N: usize>(&self, program: &str, args: [&str; N]) -> std::process::Command {
        let mut command = shell::command(program, ["-q"]);
        for (option, value) in [
            ("Dir::Etc::SourceList", self.dir.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", self.dir.join("lists")),
            ("Dir::Cache", self.dir.join("cache")),
            // The directory is this user's; apt's own user may not be able to enter it.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        command.args(args);
        command
    }
}

/// The mirror of Debian's main archive that this machine's apt uses.
pub(crate) fn debian_mirror() -> Result<String> {
    let query = ["indextargets", "--format", "$(ORIGIN)|$(SUITE)|$(REPO_URI)", "Created-By: Packages"];
    let targets = shell::output(&mut shell::command("apt-get", query))?;
    let found = targets.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (origin, suite, uri) = (fields.next()?, fields.next()?, fields.next()?);
        (origin == "Debian" && !suite.contains("security")).then(|| uri.trim_end_matches('/').to_owned())
    });
    found.ok_or_else(|| "apt's sources name no Debian archive (is `apt-get update` still to be run?)".to_owned())
}
