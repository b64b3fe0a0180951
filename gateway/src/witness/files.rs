//! Token files and held credentials: regular files, opened without following a link in any component, without blocking on
//! a FIFO, and never more than [`MAX_SECRET`] bytes of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use zeroize::Zeroizing;

use super::{CredentialName, WitnessConfig, WitnessError};
use crate::secret::Secret;

pub(super) const MAX_SECRET: usize = 64 * 1024;

/// Longest path that is compared with a template.
const MAX_PATH: usize = 4096;

/// A token file whose path matches a configured template.
pub(super) fn token(config: &WitnessConfig, path: &Path) -> Result<Secret, WitnessError> {
    let name = path.to_string_lossy();
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || name.len() > MAX_PATH || !config.token_files.iter().any(|template| matches(template, &name)) {
        return Err(WitnessError::NotConfigured(name.into_owned()));
    }
    let secret = read(path)?;
    let trimmed = secret.trim_ascii();
    if trimmed.is_empty() { Err(WitnessError::Empty(name.into_owned())) } else { Ok(Secret::new(trimmed.to_vec())) }
}

/// A held credential that the configuration names. One newline at the end is not part of it.
pub(super) fn credential(config: &WitnessConfig, name: &CredentialName) -> Result<Secret, WitnessError> {
    if !config.credentials.contains(name) {
        return Err(WitnessError::NotConfigured(match name {
            CredentialName::Credential(name) => format!("the credential {name:?}"),
            CredentialName::File(path) => path.display().to_string(),
        }));
    }
    let path = match name {
        CredentialName::Credential(name) => credentials_directory()?.join(plain_name(name)?),
        CredentialName::File(path) => path.clone(),
    };
    let file = open(&path)?;
    refuse_exposed(&file, &path, matches!(name, CredentialName::Credential(_)))?;
    let bytes = read_all(file, &path)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if bytes.is_empty() { Err(WitnessError::Empty(display(&path))) } else { Ok(Secret::new(bytes.to_vec())) }
}

fn credentials_directory() -> Result<PathBuf, WitnessError> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).ok_or_else(|| {
        WitnessError::Missing("$CREDENTIALS_DIRECTORY (LoadCredential= in the unit of weir.service sets it)".to_owned())
    })
}

fn plain_name(name: &str) -> Result<&str, WitnessError> {
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if plain { Ok(name) } else { Err(WitnessError::NotConfigured(format!("the credential {name:?}"))) }
}

/// Others must not be able to read it, nor anybody but root have written it. systemd gives its credentials' group bits to
/// the ACL mask, in a directory that only the service can enter.
fn refuse_exposed(file: &File, path: &Path, by_systemd: bool) -> Result<(), WitnessError> {
    let metadata = file.metadata().map_err(|error| failed(path, &error))?;
    let forbidden = if by_systemd { 0o007 } else { 0o077 };
    let owner = metadata.uid();
    if metadata.mode() & forbidden != 0 || (owner != 0 && owner != nix::unistd::geteuid().as_raw()) {
        return Err(WitnessError::Exposed { path: display(path), mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, WitnessError> {
    read_all(open(path)?, path)
}

/// Opens a regular file. It is looked at first, by a descriptor that cannot read, so that no device or FIFO is opened.
fn open(path: &Path) -> Result<File, WitnessError> {
    let found = find(path)?;
    if !found.metadata().map_err(|error| failed(path, &error))?.is_file() {
        return Err(WitnessError::NotRegular(display(path)));
    }
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|error| failed(path, &error))
}

/// Goes down the path one name at a time, so that a link anywhere in it is seen and not followed. openat2(2) does that in one
/// step, but the unit's RestrictSUIDSGID= takes it away: its arguments lie where a system call filter cannot look.
fn find(path: &Path) -> Result<File, WitnessError> {
    let mut found: Option<File> = None;
    for name in path.components().map(Component::as_os_str) {
        let at = found.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let next = openat(at, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::ENOENT | Errno::ENOTDIR => WitnessError::Missing(display(path)),
            error => failed(path, &error.into()),
        })?;
        let next = File::from(next);
        if next.metadata().map_err(|error| failed(path, &error))?.is_symlink() {
            return Err(WitnessError::Symlink(display(path)));
        }
        found = Some(next);
    }
    found.ok_or_else(|| WitnessError::Missing(display(path)))
}

fn read_all(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, WitnessError> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 2));
    file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(path, &error))?;
    if bytes.len() > MAX_SECRET {
        return Err(WitnessError::TooLarge { path: display(path), limit: MAX_SECRET });
    }
    Ok(bytes)
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn failed(path: &Path, error: &io::Error) -> WitnessError {
    WitnessError::Io { what: display(path), error: error.to_string() }
}

/// Whether a path is what a template makes of one word for each `%i` or `%u`. A word has letters, digits and `_.@:-`, and
/// never climbs: it is part of one component, and the component is neither `.` nor `..` (checked by the caller).
fn matches(template: &str, path: &str) -> bool {
    let Some((literal, rest)) =
        template.split_once("%i").into_iter().chain(template.split_once("%u")).min_by_key(|parts| parts.0.len())
    else {
        return template == path;
    };
    let Some(tail) = path.strip_prefix(literal) else { return false };
    let longest = tail.bytes().take_while(|&byte| is_word(byte)).count();
    (1..=longest).rev().any(|length| matches(rest, &tail[length..]))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.@:-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::witness::KernelConfig;

    fn config(templates: &[String], credentials: Vec<CredentialName>) -> WitnessConfig {
        WitnessConfig {
            kernel: KernelConfig {
                cgroup_mount: PathBuf::new(),
                attach: String::new(),
                agents: Vec::new(),
                agent_uids: Vec::new(),
                agent_names: [].into(),
                subuid: "/nowhere".into(),
                listen: Vec::new(),
                gateway_cgroup: None,
                port: 0,
                dns_port: 0,
                bpf_dir: PathBuf::new(),
                hold_without_gateway: false,
            },
            token_files: templates.to_vec(),
            token_variables: Vec::new(),
            credentials,
            containers: false,
        }
    }

    /// A directory that goes when the test ends.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-files-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        fn template(&self) -> String {
            format!("{}/%i.token", self.0.display())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn templates_match_one_word_and_nothing_that_climbs() {
        for (template, path, expected) in [
            ("/run/agents/%i.token", "/run/agents/a-1.token", true),
            ("/run/agents/%i.token", "/run/agents/.token", false),
            ("/run/agents/%i.token", "/run/agents/a/b.token", false),
            ("/run/agents/%i.token", "/run/agents/a.token.bak", false),
            ("/run/%u/%i", "/run/user/a.b", true),
            ("/run/%u/%i", "/run/user", false),
            ("/run/token", "/run/token", true),
            ("/run/token", "/run/tokens", false),
        ] {
            assert_eq!(matches(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn a_token_file_is_read_and_trimmed() {
        let directory = Directory::new("token");
        let path = directory.0.join("a.token");
        fs::write(&path, "  abc.def.ghi\n").unwrap();
        let config = config(&[directory.template()], Vec::new());
        assert_eq!(token(&config, &path).unwrap().expose(), b"abc.def.ghi");
        let elsewhere = directory.0.join("a.other");
        assert!(matches!(token(&config, &elsewhere), Err(WitnessError::NotConfigured(_))));
    }

    #[test]
    fn links_fifos_giants_and_nothing_are_told_apart() {
        let directory = Directory::new("bad");
        let config = config(&[directory.template(), format!("{}/link/%i.token", directory.0.display())], Vec::new());
        let at = |name: &str| directory.0.join(name);
        fs::write(at("real.token"), "x").unwrap();
        symlink(at("real.token"), at("link.token")).unwrap();
        assert!(matches!(token(&config, &at("link.token")), Err(WitnessError::Symlink(_))));
        symlink(&directory.0, at("link")).unwrap();
        assert!(matches!(token(&config, &at("link/real.token")), Err(WitnessError::Symlink(_))));
        nix::unistd::mkfifo(&at("fifo.token"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(token(&config, &at("fifo.token")), Err(WitnessError::NotRegular(_))));
        File::create(at("giant.token")).unwrap().set_len(1 << 30).unwrap();
        assert!(matches!(token(&config, &at("giant.token")), Err(WitnessError::TooLarge { .. })));
        assert!(matches!(token(&config, &at("none.token")), Err(WitnessError::Missing(_))));
        fs::write(at("empty.token"), "\n").unwrap();
        assert!(matches!(token(&config, &at("empty.token")), Err(WitnessError::Empty(_))));
    }

    #[test]
    fn a_credential_is_named_and_closed_to_others() {
        let directory = Directory::new("credential");
        let path = directory.0.join("password");
        fs::write(&path, "secret\n\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let name = CredentialName::File(path.clone());
        let named = config(&[], vec![name.clone()]);
        assert!(matches!(credential(&named, &name), Err(WitnessError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(credential(&named, &name).unwrap().expose(), b"secret\n");
        assert!(matches!(credential(&config(&[], Vec::new()), &name), Err(WitnessError::NotConfigured(_))));
    }
}
