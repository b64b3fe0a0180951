//! A task that goes on beside others with what they leave of the processors: most test suites wait for something most of the time.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;

use crate::{Result, paths, shell};

/// How long one may take before it is killed and counted as failed.
const LIMITED: [&str; 2] = ["--kill-after=10", "60m"];

/// `cargo xtask TASK`, in the background. Without [`Beside::finish`] it ends with this value.
pub(crate) struct Beside {
    what: String,
    child: Child,
    /// What it prints, which is shown when it has ended: not in between what others print.
    log: PathBuf,
}

impl Beside {
    pub(crate) fn start(task: &[&str]) -> Result<Self> {
        let what = task.join(" ");
        let log = paths::cache()?.join(format!("{}.log", task.concat()));
        let at_log = |e: std::io::Error| format!("{}: {e}", log.display());
        let file = File::create(&log).map_err(at_log)?;
        let this = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        println!("==> {what}: begins beside what follows, see {}", log.display());
        // Scheduled when nobody else wants a processor (sched(7), SCHED_IDLE). `timeout` passes what it is sent on to all of it.
        let mut command = shell::command("timeout", LIMITED);
        command.args(["chrt", "--idle", "0"]).arg(this).args(task);
        command.stdout(file.try_clone().map_err(at_log)?).stderr(file);
        let child = command.spawn().map_err(|e| format!("cannot start {what}: {e}"))?;
        Ok(Self { what, child, log })
    }

    /// Waits for its end, and shows what it printed.
    pub(crate) fn finish(mut self) -> Result {
        let waited = shell::step(&format!("{}: the rest of it", self.what), || {
            self.child.wait().map_err(|e| format!("{}: {e}", self.what))
        });
        let printed = fs::read(&self.log).map_err(|e| format!("{}: {e}", self.log.display()))?;
        print!("{}", String::from_utf8_lossy(&printed));
        let status = waited?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", self.what)) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            shell::succeeds(&mut shell::command("kill", [self.child.id().to_string()]));
            let _ = self.child.wait();
        }
    }
}
