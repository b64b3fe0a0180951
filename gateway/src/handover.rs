//! One gateway takes over from another: a restart or an upgrade that no agent notices.
//!
//! The gateway that is replaced stops accepting, offers what it has at a socket in the runtime directory, and goes on with the
//! sessions that are open. The next one takes over the listeners and resolvers, so that what connects in between waits in the
//! kernel; the names that agents were told; and the recording (see [`crate::record::forward`]). Nothing is taken back: where a
//! step fails, sessions end and the next gateway starts as after a crash.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::admin;
use crate::dns::{self, Told};
use crate::engine::Engine;
use crate::ids::SessionId;
use crate::intercept::Doors;
use crate::packets;
use crate::record::forward::{Cancel, Order, Predecessor, Reading};
use crate::witness::{Namespace, Witness, own_cgroup};

/// The socket's name in the runtime directory.
const SOCKET: &str = "handover.sock";
/// Counts what [`Message`] and [`Order`] mean. Who speaks another one takes nothing over.
const PROTOCOL: u32 = 2;
/// How long the next gateway may take to come.
pub(crate) const SUCCESSOR_WITHIN: Duration = Duration::from_secs(30);
/// The other side may take so long for one message, which includes a reading of the configuration.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names or sessions in one message.
const CHUNK: usize = 256;
/// Replaced gateways that still have sessions. Of more, those that were replaced first end.
const MAX_PREDECESSORS: usize = 32;
/// Namespaces that a gateway takes over, which is more than the kernel half knows.
const MAX_NAMESPACES: usize = gateway_common::MAX_NETNS;
/// Sessions of one gateway that go on: those that were open when it was replaced, and those that were being admitted.
const MAX_SESSIONS: usize = 2 * crate::live::MAX_SESSIONS;

/// What the gateway that is replaced says, in this order. Descriptors come along.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Its doors.
    Doors,
    /// Its doors in the network namespace of this cookie.
    Namespace(u64),
    Names(Vec<Told>),
    /// Some of the sessions of the gateway whose stream of records comes next.
    Sessions(Vec<SessionId>),
    Records,
    End,
}

/// What the next gateway says.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
}

/// What a gateway leaves to the next one, but for the recording.
pub(crate) struct Estate {
    pub(crate) doors: [OwnedFd; Doors::COUNT],
    pub(crate) namespaces: Vec<(u64, [OwnedFd; Doors::COUNT])>,
}

/// The socket at which the next gateway finds this one.
pub(crate) struct Offer {
    /// It accepts sequenced packets' sockets as well as streams.
    socket: UnixListener,
    path: PathBuf,
}

/// The next gateway, which waits for what this one leaves.
pub(crate) struct Heir(OwnedFd);

impl Offer {
    /// On the runtime of this moment.
    pub(crate) fn open(runtime_dir: &Path) -> io::Result<Self> {
        let path = runtime_dir.join(SOCKET);
        // Nobody may connect before the mode is closed.
        let hidden = path.with_extension("new");
        remove(&hidden)?;
        let socket = seqpacket(SockFlag::SOCK_NONBLOCK)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(&hidden)?)?;
        std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
        listen(&socket, Backlog::new(1)?)?;
        std::fs::rename(&hidden, &path)?;
        Ok(Self { socket: UnixListener::from_std(socket.into())?, path })
    }

    /// The next gateway. May be dropped and called again.
    pub(crate) async fn next(&self, witness: &Witness) -> io::Result<Heir> {
        loop {
            let (accepted, _) = self.socket.accept().await?;
            let greeted = match accepted.into_std() {
                Ok(accepted) => greeted(accepted.into(), witness).await,
                Err(error) => Err(error),
            };
            match greeted {
                Ok(heir) => return Ok(heir),
                // The next gateway, of another version: it can begin when this one has ended, and not before.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(error),
                Err(error) => tracing::warn!(%error, "what asked to take over is no gateway that could"),
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::debug!(%error, "the offer's socket stays behind");
        }
    }
}

async fn greeted(socket: OwnedFd, witness: &Witness) -> io::Result<Heir> {
    // It has given its privileges up, and is the user that this process is.
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("it is the user {}", peer.uid())));
    }
    // An agent with capabilities may take any user. None is in this cgroup, by which the kernel half knows the gateway.
    let cgroup = admin::cgroup_of(&socket, witness).await?;
    if cgroup != own_cgroup()? {
        return Err(io::Error::other(format!("it is in the cgroup {cgroup}, and not in the gateway's")));
    }
    packets::set_blocking(&socket)?;
    packets::set_receive_timeout(&socket, PATIENCE)?;
    packets::set_send_timeout(&socket, PATIENCE)?;
    match packets::receive::<Hello>(socket.as_fd())? {
        Some((Hello { protocol: PROTOCOL }, _)) => Ok(Heir(socket)),
        Some((Hello { protocol }, _)) => {
            let what = format!("the next gateway speaks protocol {protocol}, and this one {PROTOCOL}");
            Err(io::Error::new(io::ErrorKind::Unsupported, what))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Heir {
    /// Hands over the doors and the names. Blocks.
    pub(crate) fn give(&self, estate: &Estate, names: &[Told]) -> io::Result<()> {
        self.send_with(&Message::Doors, &estate.doors.each_ref().map(AsFd::as_fd))?;
        for (cookie, doors) in &estate.namespaces {
            self.send_with(&Message::Namespace(*cookie), &doors.each_ref().map(AsFd::as_fd))?;
        }
        names.chunks(CHUNK).try_for_each(|names| self.send(&Message::Names(names.to_vec())))
    }

    /// Hands over the recording, which must be free by now, of this gateway's `sessions` and of those before it; returns the
    /// stream for this gateway's records. Blocks.
    pub(crate) fn give_recording(
        &self,
        sessions: &[SessionId],
        predecessors: &[Arc<Predecessor>],
    ) -> io::Result<UnixStream> {
        for predecessor in predecessors {
            let sessions: Vec<_> = predecessor.sessions().iter().copied().collect();
            self.give_records(&sessions, predecessor.stream())?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        self.give_records(sessions, &theirs)?;
        self.send(&Message::End)?;
        Ok(ours)
    }

    fn give_records(&self, sessions: &[SessionId], stream: &UnixStream) -> io::Result<()> {
        sessions.chunks(CHUNK).try_for_each(|some| self.send(&Message::Sessions(some.to_vec())))?;
        self.send_with(&Message::Records, &[stream.as_fd()])
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        packets::send(self.0.as_fd(), message, descriptors, true)
    }
}

/// What a gateway took over.
pub(crate) struct TakenOver {
    pub(crate) doors: Doors,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) names: Vec<Told>,
    pub(crate) predecessors: Vec<Predecessor>,
}

/// Takes over from the gateway that offers what it has, if there is one. Blocks; returns when the recording is free.
///
/// # Errors
/// The other gateway died half-way, or is of another version: start again, and there is nothing to take over any more.
pub(crate) fn take_over(runtime_dir: &Path) -> io::Result<Option<TakenOver>> {
    let socket = seqpacket(SockFlag::empty())?;
    // Before, since it is for connect as well: one that hangs accepts nobody.
    packets::set_send_timeout(&socket, PATIENCE)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(&runtime_dir.join(SOCKET))?) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
        connected => connected?,
    }
    packets::set_receive_timeout(&socket, PATIENCE)?;
    packets::send(socket.as_fd(), &Hello { protocol: PROTOCOL }, &[], true)?;
    let (mut doors, mut namespaces, mut names) = (None, Vec::new(), Vec::new());
    let (mut predecessors, mut sessions) = (Vec::new(), Vec::new());
    loop {
        let received = packets::receive::<Message>(socket.as_fd())?;
        let Some((message, descriptors)) = received else {
            return Err(io::Error::other("the gateway that was to be replaced went away"));
        };
        match message {
            Message::Doors => doors = Some(Doors::from_descriptors(all(descriptors)?)?),
            Message::Namespace(_) if namespaces.len() >= MAX_NAMESPACES => return Err(too_much()),
            Message::Namespace(cookie) => namespaces.push(Namespace::new(cookie, descriptors)?),
            Message::Names(_) if names.len() >= dns::MAX_TOLD => return Err(too_much()),
            Message::Names(some) => names.extend(some),
            Message::Sessions(_) if sessions.len() >= MAX_SESSIONS => return Err(too_much()),
            Message::Sessions(some) => sessions.extend(some),
            // The one that left, and those before it.
            Message::Records if predecessors.len() > MAX_PREDECESSORS => return Err(too_much()),
            Message::Records => {
                let [stream] = all(descriptors)?;
                predecessors.push(Predecessor::new(stream.into(), std::mem::take(&mut sessions))?);
            }
            Message::End => break,
        }
    }
    let doors = doors.ok_or_else(|| io::Error::other("the gateway that was to be replaced left no listener"))?;
    // The last is the one that left; the first was replaced first.
    let excess = predecessors.len().saturating_sub(MAX_PREDECESSORS);
    predecessors.drain(..excess);
    Ok(Some(TakenOver { doors, namespaces, names, predecessors }))
}

impl TakenOver {
    /// Where there is no other gateway.
    pub(crate) fn nothing(doors: Doors) -> Self {
        Self { doors, namespaces: Vec::new(), names: Vec::new(), predecessors: Vec::new() }
    }

    /// Sessions that go on elsewhere.
    pub(crate) fn living(&self) -> HashSet<SessionId> {
        self.predecessors.iter().flat_map(|predecessor| predecessor.sessions().clone()).collect()
    }
}

/// The gateways that this one replaced and that still have sessions. It writes their records.
#[derive(Default)]
pub(crate) struct Predecessors(Mutex<Vec<Listening>>);

struct Listening {
    predecessor: Arc<Predecessor>,
    thread: JoinHandle<Reading>,
}

impl Predecessors {
    /// Starts a thread for each.
    pub(crate) fn start(engine: &Arc<Engine>, predecessors: Vec<Predecessor>) -> io::Result<()> {
        for predecessor in predecessors.into_iter().map(Arc::new) {
            let (engine_of_thread, heard) = (Arc::clone(engine), Arc::clone(&predecessor));
            let thread = std::thread::Builder::new().name("predecessor".to_owned()).spawn(move || {
                let reading = heard.record(engine_of_thread.recorder());
                if reading == Reading::Ended {
                    ended(&engine_of_thread, &heard);
                }
                reading
            })?;
            engine.predecessors().listening().push(Listening { predecessor, thread });
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.listening().iter().filter(|one| !one.thread.is_finished()).count()
    }

    /// False if none of them has the session.
    pub(crate) fn kill(&self, session: SessionId, by: &str) -> bool {
        let listening = self.listening();
        let having = listening.iter().find(|one| one.is_alive() && one.predecessor.sessions().contains(&session));
        having.inspect(|one| one.predecessor.order(Order::Kill { session, by: by.to_owned() })).is_some()
    }

    /// Passes a client's wish on to all of them, since each knows its own keys only; false if there is none. Blocks.
    pub(crate) fn cancel(&self, wanted: &Cancel) -> bool {
        let listening = self.listening();
        let living = listening.iter().filter(|one| one.is_alive());
        living.inspect(|one| one.predecessor.order(Order::Cancel(wanted.clone()))).count() > 0
    }

    pub(crate) fn reload(&self) {
        self.listening().iter().filter(|one| one.is_alive()).for_each(|one| one.predecessor.order(Order::Reload));
    }

    /// Ends the threads between two records; what is left is for the next gateway. Blocks.
    pub(crate) fn pass_on(&self) -> Vec<Arc<Predecessor>> {
        let listening = std::mem::take(&mut *self.listening());
        for one in &listening {
            one.predecessor.pass_on();
        }
        let passed_on = listening.into_iter().filter_map(|one| {
            let reading = one.thread.join().unwrap_or(Reading::Ended);
            (reading == Reading::PassedOn).then_some(one.predecessor)
        });
        passed_on.collect()
    }

    fn listening(&self) -> MutexGuard<'_, Vec<Listening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it did not close itself is lost with it.
fn ended(engine: &Engine, predecessor: &Predecessor) {
    match engine.store().close_lost(&predecessor.sessions()) {
        Ok(0) => tracing::info!("a gateway that was replaced has served its last session"),
        Ok(lost) => tracing::error!(sessions = lost, "a gateway that was replaced was lost"),
        Err(error) => tracing::error!(%error, "sessions of a gateway that was replaced cannot be closed"),
    }
}

impl Listening {
    fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

fn all<const N: usize>(descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    descriptors.try_into().map_err(|_| io::Error::other("descriptors are missing"))
}

fn too_much() -> io::Error {
    io::Error::other("the gateway that was to be replaced says that it has more than it can have")
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_gateway_that_hangs_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let address = UnixAddr::new(&directory.path().join(SOCKET)).unwrap();
        let hanging = seqpacket(SockFlag::empty()).unwrap();
        bind(hanging.as_raw_fd(), &address).unwrap();
        listen(&hanging, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            let socket = seqpacket(SockFlag::SOCK_NONBLOCK).unwrap();
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Errno::EAGAIN);
        let (sender, taken_over) = std::sync::mpsc::channel();
        let begun = Instant::now();
        std::thread::spawn(move || sender.send(take_over(directory.path()).is_err()));
        assert_eq!(taken_over.recv_timeout(2 * PATIENCE), Ok(true));
        assert!(begun.elapsed() >= PATIENCE / 2);
        drop(hanging);
    }
}
