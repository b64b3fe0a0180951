//! Running other programs: with a progress line, as root where needed, and with errors that name the command.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::{Result, paths};

/// Whether an automatic run asks: no questions, nothing missing.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

static TOOLCHAIN: OnceLock<&str> = OnceLock::new();

/// From here on, cargo and rustc are of this toolchain of rustup's.
pub(crate) fn use_toolchain(name: &'static str) {
    TOOLCHAIN.get_or_init(|| name);
}

/// A command in the clone's root that does not inherit this task's cargo environment.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(paths::root()).stdin(Stdio::null());
    // Set by `cargo run` for this process; a nested cargo or build script must not mistake them for its own.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    if let Some(name) = TOOLCHAIN.get() {
        command.env("RUSTUP_TOOLCHAIN", name);
    }
    command
}

/// `cargo` with the output directory outside the clone.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let mut command = command(&cargo_program(), args);
    command.env("CARGO_TARGET_DIR", paths::target()?);
    Ok(command)
}

/// The cargo that runs this task; another toolchain's is found by rustup.
pub(crate) fn cargo_program() -> String {
    let own = std::env::var("CARGO").ok().filter(|_| TOOLCHAIN.get().is_none());
    own.unwrap_or_else(|| "cargo".to_owned())
}

/// A command that runs as root: as it is, or through sudo.
pub(crate) fn as_root<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    if is_root() {
        return command(program, args);
    }
    let mut sudo = command("sudo", if in_ci() { vec!["-n"] } else { vec![] });
    sudo.arg("--").arg(program).args(args).stdin(Stdio::inherit());
    sudo
}

pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is this process's effective user.
    std::fs::metadata("/proc/self").is_ok_and(|proc| proc.uid() == 0)
}

/// Runs with its output shown; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{status}: {}", shown(command))) }
}

/// Runs and returns what it printed; standard error is shown only in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
    if !out.status.success() {
        let reason = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{}: {}: {}", out.status, shown(command), reason.trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether it starts and exits with 0; says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A long step: says that it starts, how long it took, and how busy the processors were.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let watch = Watch::start();
    let done = work()?;
    println!("    done in {watch}");
    Ok(done)
}

/// How long something takes, and how much of the machine's processors is used meanwhile, by whomever: a long step that leaves them
/// idle waits for something.
pub(crate) struct Watch {
    start: Instant,
    processors: Option<Processors>,
}

/// Ticks since the machine started, over all processors (proc_stat(5)).
struct Processors {
    idle: u64,
    all: u64,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), processors: Processors::now() }
    }

    /// Percent of all processors.
    fn busy(&self) -> Option<u64> {
        let (before, now) = (self.processors.as_ref()?, Processors::now()?);
        let all = now.all.checked_sub(before.all).filter(|ticks| *ticks > 0)?;
        Some(all.saturating_sub(now.idle.saturating_sub(before.idle)) * 100 / all)
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.start.elapsed().as_secs_f32())?;
        self.busy().map_or(Ok(()), |percent| write!(f, ", processors {percent} % busy"))
    }
}

impl Processors {
    fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn read(stat: &str) -> Option<Self> {
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows counts twice.
        let ticks: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, all: ticks.iter().sum() })
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_told_from_work() {
        let read = Processors::read("cpu  10 1 5 70 8 1 2 3 50 0\ncpu0 1 1 1 1\n").map(|it| (it.idle, it.all));
        assert_eq!(read, Some((78, 100)));
        assert!(Processors::read("").is_none());
    }
}
