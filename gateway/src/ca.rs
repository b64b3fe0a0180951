//! The gateway's own certificate authority. Clients of agents that ask for TLS get a certificate from it, and only
//! agents are told to trust it (`weir trust`), so that it is worth nothing anywhere else.
//!
//! Two files in the state directory: `ca.key` (0600) and `ca.pem`, which anybody may read. Everything about the
//! authority but its validity follows from the key, so that a certificate lost between the two writes of a first start
//! is simply made anew. Leaf certificates live in memory only.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);
const LEAF_LIFETIME: Duration = DAY.saturating_mul(30);
/// A cached leaf is replaced when it has less than this left.
const LEAF_RENEWAL: Duration = DAY.saturating_mul(10);
/// For clients whose clocks are behind.
const BACKDATED: Duration = DAY;
/// Leaves in memory; a name beyond these takes the place of another.
const MAX_LEAVES: usize = 1024;
/// A DNS name has no more characters (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_FILE: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} can be used by others than its owner: `chmod 600` it, and think of the CA as known to them",
        path.display())]
    Exposed { path: PathBuf },
    #[error("{} is missing, and {} is there: restore the key, or remove both for a new CA that agents must trust anew",
        key.display(), certificate.display())]
    KeyMissing { key: PathBuf, certificate: PathBuf },
    #[error("{} and {} do not belong together: restore the right pair, or remove both for a new CA", key.display(),
        certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("{} is damaged: restore it, or remove the CA's two files for a new one", path.display())]
    Damaged { path: PathBuf },
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("no certificate can bear the name {0:?}")]
    Name(String),
    #[error("a key cannot be used: {0}")]
    Key(#[from] rustls::Error),
}

/// The authority, and the leaves that it made.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_path: PathBuf,
    /// One key for all leaves: they differ by name only, and live in the same memory.
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn SigningKey>,
    leaves: Mutex<HashMap<String, Leaf>>,
}

struct Leaf {
    certified: Arc<CertifiedKey>,
    not_after: SystemTime,
}

impl Authority {
    /// Opens the authority in `directory` (`ca` below the state directory), making it at the first start.
    pub fn open(directory: &Path) -> Result<Self, CaError> {
        let key_path = directory.join("ca.key");
        let certificate_path = directory.join("ca.pem");
        fs::create_dir_all(directory).map_err(failed("make", directory))?;

        let key = match read_key(&key_path)? {
            Some(key) => key,
            None if certificate_path.exists() => {
                return Err(CaError::KeyMissing { key: key_path, certificate: certificate_path });
            }
            None => make_key(&key_path)?,
        };
        let certificate = match read_certificate(&certificate_path)? {
            Some(certificate) => certificate,
            None => make_certificate(&certificate_path, &key)?,
        };
        if !belongs(&certificate, &key) {
            return Err(CaError::Mismatch { key: key_path, certificate: certificate_path });
        }

        let issuer = Issuer::new(authority_params(&key), key);
        let leaf_key = KeyPair::generate()?;
        let leaf_signer = crate::tls::provider()
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()))?;
        Ok(Self { issuer, certificate, certificate_path, leaf_key, leaf_signer, leaves: Mutex::default() })
    }

    /// The file with the CA's certificate: what agents are told to trust.
    pub fn certificate_path(&self) -> &Path {
        &self.certificate_path
    }

    /// Puts the certificate where agents may read it: the state directory is closed to them.
    pub fn publish(&self, path: &Path) -> Result<(), CaError> {
        let pem = fs::read(&self.certificate_path).map_err(failed("read", &self.certificate_path))?;
        write_durably(path, 0o644, &pem)
    }

    /// A certificate for a DNS name or an address, made now or taken from memory.
    pub fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, CaError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let now = SystemTime::now();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(&name)
            && leaf.not_after > now + LEAF_RENEWAL
        {
            return Ok(Arc::clone(&leaf.certified));
        }
        let leaf = self.make_leaf(&name, now)?;
        let certified = Arc::clone(&leaf.certified);
        if leaves.len() >= MAX_LEAVES {
            forget_oldest(&mut leaves);
        }
        leaves.insert(name, leaf);
        Ok(certified)
    }

    fn make_leaf(&self, name: &str, now: SystemTime) -> Result<Leaf, CaError> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(|c: char| c.is_control() || c == '*') {
            return Err(CaError::Name(name.to_owned()));
        }
        let not_after = now + LEAF_LIFETIME;
        let mut params = CertificateParams::new([name.to_owned()])?;
        // The name is in the alternative names; a common name has room for 64 characters only.
        params.distinguished_name = DistinguishedName::new();
        (params.not_before, params.not_after) = ((now - BACKDATED).into(), not_after.into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        let chain = vec![certificate.into(), self.certificate.clone()];
        let certified = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.leaf_signer)));
        Ok(Leaf { certified, not_after })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate_path).finish_non_exhaustive()
    }
}

/// Picks the certificate of a handshake: by SNI, or for what the client connected to.
#[derive(Debug)]
pub struct Resolver {
    authority: Arc<Authority>,
    fallback: String,
}

impl Resolver {
    pub fn new(authority: Arc<Authority>, fallback: &str) -> Self {
        Self { authority, fallback: fallback.to_owned() }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(&self.fallback);
        self.authority
            .leaf(name)
            .inspect_err(|error| tracing::warn!(%error, "a client's TLS handshake fails: no certificate"))
            .ok()
    }
}

/// Everything about the authority but its validity, from its key.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weir");
    name.push(DnType::CommonName, common_name(key));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Names differ from machine to machine, so that trust stores and people can tell CAs apart.
fn common_name(key: &KeyPair) -> String {
    use std::fmt::Write;
    let digest = Sha256::digest(key.der_bytes());
    digest[..8].iter().fold("Weir CA ".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn forget_oldest(leaves: &mut HashMap<String, Leaf>) {
    let oldest = leaves.iter().min_by_key(|(_, leaf)| leaf.not_after).map(|(name, _)| name.clone());
    if let Some(name) = oldest {
        leaves.remove(&name);
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { what, path, source }
}

fn read_key(path: &Path) -> Result<Option<KeyPair>, CaError> {
    let Some((file, mode)) = open_existing(path)? else { return Ok(None) };
    if mode & 0o077 != 0 {
        return Err(CaError::Exposed { path: path.to_owned() });
    }
    let pem = Zeroizing::new(read_text(file, path)?);
    KeyPair::from_pem(&pem).map(Some).map_err(|_| CaError::Damaged { path: path.to_owned() })
}

fn make_key(path: &Path) -> Result<KeyPair, CaError> {
    let key = KeyPair::generate()?;
    write_durably(path, 0o600, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

fn read_certificate(path: &Path) -> Result<Option<CertificateDer<'static>>, CaError> {
    let Some((file, _)) = open_existing(path)? else { return Ok(None) };
    let pem = read_text(file, path)?;
    CertificateDer::from_pem_slice(pem.as_bytes()).map(Some).map_err(|_| CaError::Damaged { path: path.to_owned() })
}

fn make_certificate(path: &Path, key: &KeyPair) -> Result<CertificateDer<'static>, CaError> {
    let now = SystemTime::now();
    let mut params = authority_params(key);
    (params.not_before, params.not_after) = ((now - BACKDATED).into(), (now + AUTHORITY_LIFETIME).into());
    let certificate = params.self_signed(key)?;
    write_durably(path, 0o644, certificate.pem().as_bytes())?;
    Ok(certificate.into())
}

/// Whether the certificate is of this key and bears the name that leaves will call their issuer.
fn belongs(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let named = parsed.subject().iter_common_name().any(|name| name.as_str() == Ok(common_name(key).as_str()));
    named && parsed.public_key().raw == key.subject_public_key_info()
}

/// The file and its permission bits; `None` where there is no such file. A link is not followed.
fn open_existing(path: &Path) -> Result<Option<(File, u32)>, CaError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let metadata = file.metadata().map_err(failed("read", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(CaError::Damaged { path: path.to_owned() });
    }
    Ok(Some((file, metadata.mode())))
}

fn read_text(file: File, path: &Path) -> Result<String, CaError> {
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(text)
}

/// Whole or not at all, also across a power failure.
fn write_durably(path: &Path, mode: u32, content: &[u8]) -> Result<(), CaError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?; // whatever the umask says
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory of a test's own, gone with it.
    pub(crate) fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn agents_can_read_the_certificate_and_nothing_else() {
        let (state, runtime) = (scratch(), scratch());
        let authority = Authority::open(state.path()).unwrap();
        let published = runtime.path().join("ca.pem");
        authority.publish(&published).unwrap();
        authority.publish(&published).unwrap(); // again, at the next start
        assert_eq!(fs::read(&published).unwrap(), fs::read(authority.certificate_path()).unwrap());
        assert_eq!(fs::metadata(&published).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 1, "no key, no left-over");
    }

    #[test]
    fn it_outlives_a_restart() {
        let directory = scratch();
        let first = Authority::open(&directory.path().join("state/ca")).unwrap();
        let again = Authority::open(&directory.path().join("state/ca")).unwrap();
        assert_eq!(first.certificate, again.certificate);
        let mode =
            |name| fs::metadata(directory.path().join("state/ca").join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("ca.pem")), (0o600, 0o644));
    }

    #[test]
    fn a_certificate_that_was_never_written_is_made_anew() {
        let directory = scratch();
        let path = Authority::open(directory.path()).unwrap().certificate_path().to_owned();
        fs::remove_file(&path).unwrap();
        Authority::open(directory.path()).unwrap().leaf("db.internal").unwrap();
        assert!(path.exists());
    }

    #[test]
    fn keys_that_are_lost_exposed_swapped_or_broken_are_refused() {
        let directory = scratch();
        let other = scratch();
        let (key, stranger) = (directory.path().join("ca.key"), other.path().join("ca.key"));
        let open = || Authority::open(directory.path()).unwrap_err();
        Authority::open(directory.path()).unwrap();
        Authority::open(other.path()).unwrap();

        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open(), CaError::Exposed { .. }));
        fs::remove_file(&key).unwrap();
        assert!(matches!(open(), CaError::KeyMissing { .. }));
        std::os::unix::fs::symlink(&stranger, &key).unwrap();
        assert!(matches!(open(), CaError::File { .. }));
        fs::remove_file(&key).unwrap();
        fs::copy(&stranger, &key).unwrap();
        assert!(matches!(open(), CaError::Mismatch { .. }));
        fs::write(&key, "nonsense").unwrap();
        assert!(matches!(open(), CaError::Damaged { .. }));
    }

    #[test]
    fn leaves_are_kept_and_their_number_is_bounded() {
        let directory = scratch();
        let authority = Authority::open(directory.path()).unwrap();
        let leaf = authority.leaf("DB.internal.").unwrap();
        assert!(Arc::ptr_eq(&leaf, &authority.leaf("db.internal").unwrap()));
        for n in 0..=MAX_LEAVES {
            authority.leaf(&format!("n{n}.internal")).unwrap();
        }
        assert_eq!(authority.leaves.lock().unwrap().len(), MAX_LEAVES);
    }

    #[test]
    fn what_is_no_name_gets_no_certificate() {
        let directory = scratch();
        let authority = Authority::open(directory.path()).unwrap();
        for name in ["", ".", "*.internal", "a\nb", "n\u{e4}me", &"x".repeat(300)] {
            assert!(authority.leaf(name).is_err(), "{name:?}");
        }
    }
}
