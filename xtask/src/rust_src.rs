//! The standard library's sources, which `-Z build-std=core` compiles for the eBPF target.
//!
//! They must be of the compiler's very version. rustup brings them; where only Debian's mirrors are reachable, the same
//! sources come from Debian's `rust-src` package, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, paths, shell};

/// The suite of Debian that has the newest compilers for its stable release.
const SUITE: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub(crate) fn ensure() -> Result {
    let sources = PathBuf::from(shell::output(&mut rustc(["--print", "sysroot"]))?.trim()).join("lib/rustlib/src/rust");
    if present(&sources) {
        return Ok(());
    }
    shell::step("rust-src, by rustup", || {
        // Where rustup cannot download, Debian is next: its own error would only alarm.
        shell::succeeds(&mut shell::command("timeout", ["120", "rustup", "component", "add", "rust-src"]));
        Ok(())
    })?;
    if present(&sources) {
        return Ok(());
    }
    shell::step("rust-src, from Debian's package", || from_debian(&sources))?;
    if present(&sources) {
        return Ok(());
    }
    Err(format!("no rust-src in {} and none to be had: run `rustup component add rust-src`", sources.display()))
}

fn present(sources: &Path) -> bool {
    sources.join("library/core/src/lib.rs").exists()
}

fn rustc<const N: usize>(args: [&str; N]) -> std::process::Command {
    shell::command("rustc", args)
}

fn from_debian(sources: &Path) -> Result {
    let details = shell::output(&mut rustc(["--version", "--verbose"]))?;
    let release = details.lines().find_map(|line| line.strip_prefix("release: ")).ok_or("rustc names no release")?;
    let apt = PrivateApt::new(&paths::cache()?.join("rust-src"))?;
    shell::output(&mut apt.command("apt-get", ["update"]))?;
    let versions = shell::output(&mut apt.command("apt-cache", ["madison", "rust-src"]))?;
    let version = versions
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| version.strip_prefix(release).is_some_and(|rest| rest.starts_with('+')))
        .ok_or_else(|| format!("Debian's {SUITE} has no rust-src of rustc {release}"))?;
    shell::output(apt.command("apt-get", ["download", &format!("rust-src={version}")]).current_dir(&apt.dir))?;
    let package = fs::read_dir(&apt.dir)
        .map_err(|e| format!("{}: {e}", apt.dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get download left no package")?;
    let unpacked = apt.dir.join("unpacked");
    shell::run(shell::command("dpkg", ["-x"]).arg(&package).arg(&unpacked))?;
    fs::create_dir_all(sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let tree = unpacked.join("usr/src").join(format!("rustc-{release}"));
    shell::run(shell::command("cp", ["-a"]).arg(tree.join(".")).arg(sources))?;
    fs::remove_dir_all(&apt.dir).map_err(|e| format!("{}: {e}", apt.dir.display()))
}

/// An apt with lists, cache and sources of its own, so that the machine's are left as they are. The mirror is the one
/// the machine uses.
struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path) -> Result<Self> {
        let io = |e: std::io::Error| format!("{}: {e}", dir.display());
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(io)?;
        }
        fs::create_dir_all(dir.join("lists/partial")).map_err(io)?;
        fs::create_dir_all(dir.join("cache/archives/partial")).map_err(io)?;
        let source = format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", debian_mirror()?);
        fs::write(dir.join("sources.list"), source).map_err(io)?;
        Ok(Self { dir: dir.to_path_buf() })
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
