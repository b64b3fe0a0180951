//! The socket's file: made before the privileges go, kept in step with the configured groups.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::acl;
use super::rights::Groups;
use crate::config::Config;

/// The socket's name in the runtime directory.
pub(super) const SOCKET: &str = "admin.sock";
/// After an accept error that would repeat at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The bound socket, before it is served.
#[derive(Debug)]
pub struct Listener {
    socket: StdListener,
    path: PathBuf,
    version: String,
}

impl Listener {
    /// Binds `admin.sock` in the runtime directory. If the caller is root, the gateway's user will own it.
    ///
    /// # Errors
    /// Another gateway answers there, or the directory cannot be written.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let path = config.gateway.runtime_dir.join(SOCKET);
        remove_stale(&path)?;
        // Nobody may connect before the access list is in place.
        let socket = bind_closed(&path)?;
        if nix::unistd::geteuid().is_root()
            && let Some(user) = nix::unistd::User::from_name(&config.gateway.user)?
        {
            std::os::unix::fs::chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        open_to_groups(&path, config);
        Ok(Self { socket, path, version: config.version.clone() })
    }

    /// Makes it usable on the runtime of this moment.
    pub(super) fn start(self) -> io::Result<Started> {
        self.socket.set_nonblocking(true)?;
        Ok(Started { socket: UnixListener::from_std(self.socket)?, path: self.path, version: self.version })
    }
}

pub(super) struct Started {
    socket: UnixListener,
    path: PathBuf,
    version: String,
}

impl Started {
    /// Lets the groups of this configuration in, if it is a new one.
    pub(super) fn follow(&mut self, config: &Config) {
        if self.version != config.version {
            open_to_groups(&self.path, config);
            self.version.clone_from(&config.version);
        }
    }

    /// The next connection. May be dropped and called again.
    pub(super) async fn accept(&self) -> UnixStream {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the admin socket");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A socket file that nobody answers at is what a dead gateway left.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other(format!("{} exists and is no socket", path.display())));
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another gateway answers at {}; stop it first", path.display()),
        )),
        Err(_) => std::fs::remove_file(path),
    }
}

/// Binds under a name that is out of reach, closes the mode, and moves the socket to its place.
fn bind_closed(path: &Path) -> io::Result<StdListener> {
    let hidden = path.with_extension("new");
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = StdListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    Ok(socket)
}

/// Groups that do not exist are left out: then only root is let in, which is what a machine without them wants.
fn open_to_groups(path: &Path, config: &Config) {
    let groups = Groups::resolve(&config.access);
    for name in &groups.missing {
        tracing::warn!(group = name, "a group of [access] does not exist on this host");
    }
    if let Err(error) = acl::allow(path, &groups.all()) {
        tracing::warn!(%error, path = %path.display(), "no access list on the admin socket: only root can connect");
    }
}
