//! The gateway's end of the socket pair: starts the child, and matches answers to questions. A thread of its own reads the
//! answers, so that questions may come from any runtime.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::kernel::at;
use super::wire::{self, Answer, Question, Reply, Request};
use super::{TIMEOUT, WitnessConfig, WitnessError, WitnessProcess};
use crate::intercept::Interceptor;
use crate::packets;

/// Questions without an answer; more wait, and time out with the rest.
const MAX_IN_FLIGHT: usize = 64;
/// Loading and attaching may take that long on a slow machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// An answer and the descriptors that came with it.
type Answered = Result<(Answer, Vec<OwnedFd>), WitnessError>;
type Waiting = HashMap<u64, oneshot::Sender<Answered>>;

#[derive(Debug)]
pub(super) struct Shared {
    socket: OwnedFd,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    permits: Semaphore,
    lost: watch::Sender<bool>,
    cgroups_changed: Notify,
}

pub(super) fn spawn(
    mut command: Command,
    config: &WitnessConfig,
    path: Option<PathBuf>,
) -> Result<WitnessProcess, WitnessError> {
    let (ours, theirs) = packets::pair().map_err(at("the socket pair"))?;
    let child = command.stdin(Stdio::from(theirs)).spawn().map_err(at("starting the witness"))?;
    // Without the command's copy of the child's end, its death is an end of file here.
    drop(command);
    let request = Request { id: 0, question: Question::Configure { config: config.clone(), path } };
    packets::send(ours.as_fd(), &request, &[], true).map_err(at("the witness"))?;
    packets::set_receive_timeout(&ours, START_TIMEOUT).map_err(at("the witness"))?;
    let received = packets::receive::<Reply>(ours.as_fd()).map_err(at("the witness"))?;
    let Some((Reply { answer, .. }, descriptors)) = received else { return Err(WitnessError::Lost) };
    let Answer::Ready(report) = answer? else { return Err(WitnessError::Lost) };
    packets::set_receive_timeout(&ours, Duration::ZERO).map_err(at("the witness"))?;
    let descriptors = <[OwnedFd; wire::DESCRIPTORS]>::try_from(descriptors).map_err(|_| WitnessError::Lost)?;
    let interceptor = Interceptor::new(descriptors).map_err(at("the witness's maps"))?;
    Ok(WitnessProcess { socket: ours, interceptor, report, pid: child.id() })
}

/// Starts the thread that reads answers. It ends when the witness does.
pub(super) fn start(socket: OwnedFd) -> io::Result<Arc<Shared>> {
    let reader = socket.try_clone()?;
    let shared = Arc::new(Shared {
        socket,
        waiting: Mutex::default(),
        next: AtomicU64::new(1),
        permits: Semaphore::new(MAX_IN_FLIGHT),
        lost: watch::Sender::new(false),
        cgroups_changed: Notify::new(),
    });
    let weak = Arc::downgrade(&shared);
    std::thread::Builder::new().name("witness-answers".to_owned()).spawn(move || {
        while let Ok(Some((Reply { id, answer }, descriptors))) = packets::receive::<Reply>(reader.as_fd()) {
            let Some(shared) = weak.upgrade() else { return };
            if id == wire::UNASKED {
                shared.cgroups_changed.notify_one();
            } else if let Some(asker) = shared.waiting().remove(&id) {
                // An asker that gave up is no fault.
                let _ = asker.send(answer.map(|answer| (answer, descriptors)));
            }
        }
        if let Some(shared) = weak.upgrade() {
            shared.lost.send_replace(true);
            shared.waiting().clear();
        }
    })?;
    Ok(shared)
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Ends the reading thread, and with its copy of the descriptor the witness.
        let _ =
            nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.socket), nix::sys::socket::Shutdown::Both);
    }
}

impl Shared {
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, WitnessError> {
        self.ask_for_descriptors(question).await.map(|(answer, _)| answer)
    }

    pub(super) async fn ask_for_descriptors(&self, question: Question) -> Answered {
        tokio::time::timeout(TIMEOUT, self.ask_without_limit(question)).await.unwrap_or(Err(WitnessError::Timeout))
    }

    async fn ask_without_limit(&self, question: Question) -> Answered {
        let _permit = self.permits.acquire().await.map_err(|_| WitnessError::Lost)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        self.waiting().insert(id, asker);
        let _forget = Forget { shared: self, id };
        if *self.lost.borrow() {
            return Err(WitnessError::Lost);
        }
        packets::send(self.socket.as_fd(), &Request { id, question }, &[], false).map_err(|error| {
            match error.kind() {
                io::ErrorKind::WouldBlock => WitnessError::Busy,
                io::ErrorKind::InvalidInput => at("a question to the witness")(error),
                _ => WitnessError::Lost,
            }
        })?;
        answer.await.map_err(|_| WitnessError::Lost)?
    }

    pub(super) async fn lost(&self) {
        // The sender lives in `self`, so that this cannot fail.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    pub(super) async fn cgroups_changed(&self) {
        self.cgroups_changed.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the question off the list, whether it was answered, timed out or cancelled.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.id);
    }
}
