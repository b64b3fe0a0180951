//! Child processes that cannot outlive the test, conditions to wait for, and output to look at while it grows.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Result;

/// How long a command of a test may take, where the test does not say.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// Polls until the condition holds; the error says what was waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Starts a command from a thread that lives as long as this process. The kernel's parent-death signal, which every
/// fixture sets on its processes, is tied to the thread that started them, and a test's thread ends with the test.
pub fn spawn(command: Command) -> Result<Child> {
    type Request = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // Whoever asked may be gone; the child then ends with the handle that is dropped here.
                drop(reply.send(command.spawn()));
            }
        });
        Mutex::new(sender)
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let (reply, answer) = channel();
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply))?;
    answer.recv()?.map_err(|e| format!("cannot start {program}: {e}").into())
}

/// What a command came to.
#[derive(Debug)]
pub struct Finished {
    /// None: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that must have succeeded.
    pub fn expect_success(self) -> Result<String> {
        if self.success() {
            Ok(self.stdout)
        } else {
            Err(format!("exit code {:?}: {}{}", self.code, self.stdout, self.stderr).into())
        }
    }
}

/// A running command whose output is collected. Killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    /// Starts a command with all three standard streams connected to this.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command)?;
        let stdout = Collected::from(child.stdout.take().ok_or("no standard output")?);
        let stderr = Collected::from(child.stderr.take().ok_or("no standard error")?);
        Ok(Self { stdin: child.stdin.take(), child, stdout, stderr })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Types `text` into it.
    pub fn write(&mut self, text: &str) -> Result {
        let stdin = self.stdin.as_mut().ok_or("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has printed `text` on either stream.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result {
        wait_until(&format!("output {text:?}"), limit, || self.stdout().contains(text) || self.stderr().contains(text))
            .map_err(|e| format!("{e}\nstdout: {}\nstderr: {}", self.stdout(), self.stderr()).into())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its input and waits for its end; past the limit it is killed, which is an error.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        self.close_stdin();
        let ended = wait_until("the command's end", limit, || !self.is_running());
        if let Err(late) = ended {
            return Err(format!("{late}\nstdout: {}\nstderr: {}", self.stdout(), self.stderr()).into());
        }
        let code = self.child.wait()?.code();
        Ok(Finished { code, stdout: self.stdout.last(), stderr: self.stderr.last() })
    }

    pub fn kill(&mut self) {
        // Errors here mean that it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bytes that a thread reads off a pipe.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = vec![0; 16 << 10];
            while let Ok(read @ 1..) = pipe.read(&mut chunk) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..read]);
            }
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// All of it, after the process ended. A grandchild may hold the pipe open: then what is there by now.
    fn last(&self) -> String {
        drop(wait_until("end of output", Duration::from_secs(1), || self.reader.is_finished()));
        self.text()
    }
}
