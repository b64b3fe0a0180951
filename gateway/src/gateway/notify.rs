//! What the service manager is told (`sd_notify(3)`): directly, or by way of the supervisor, which is the only process that it
//! listens to.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The other side may be so slow to hear of a change. A sign of life does not wait: the next one follows.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of one message.
const MAX_MESSAGE: usize = 1024;
const SIGN_OF_LIFE: &[u8] = b"WATCHDOG=1";

/// Tells the service manager how it goes, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// By the socket that the service manager named.
    pub(crate) fn of_service_manager() -> io::Result<Self> {
        std::env::var_os("NOTIFY_SOCKET").map(|address| connected(&address)).transpose().map(Self)
    }

    /// By the supervisor's socket.
    pub(crate) fn by(supervisor: UnixDatagram) -> Self {
        Self(Some(supervisor))
    }

    pub(crate) fn tell(&self, states: &[NotifyState<'_>]) {
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let message = lines.join("\n");
        self.send(message.as_bytes());
    }

    /// Passes on what the gateway says.
    pub(crate) fn pass_on(&self, gateway: &UnixDatagram) {
        let mut message = [0; MAX_MESSAGE];
        match gateway.recv(&mut message) {
            Ok(length) => self.send(&message[..length]),
            Err(error) => tracing::debug!(%error, "the gateway is not heard"),
        }
    }

    /// One datagram. Who is slow to take it must not stop what shares the thread: the resolver and the admin socket, or the
    /// supervisor's signals.
    fn send(&self, message: &[u8]) {
        let Some(socket) = &self.0 else { return };
        let sent = socket
            .set_nonblocking(message == SIGN_OF_LIFE)
            .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| socket.send(message));
        if let Err(error) = sent {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn connected(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_service_manager_that_does_not_listen_stops_nobody() {
        let (own, manager) = UnixDatagram::pair().unwrap();
        let notifier = Notifier::by(own);
        let begun = Instant::now();
        // Nobody reads: at some point there is no more room, and the sender must not wait for it.
        (0..10_000).for_each(|_| notifier.tell(&[NotifyState::Watchdog]));
        assert!(begun.elapsed() < Duration::from_secs(10));
        let mut message = [0; MAX_MESSAGE];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], SIGN_OF_LIFE);
    }

    #[test]
    fn the_supervisor_passes_on_what_the_gateway_says() {
        let (gateway, supervisors) = UnixDatagram::pair().unwrap();
        let (to_manager, manager) = UnixDatagram::pair().unwrap();
        Notifier::by(gateway).tell(&[NotifyState::Ready]);
        Notifier::by(to_manager).pass_on(&supervisors);
        let mut message = [0; MAX_MESSAGE];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
    }
}
