//! TLS, set up once for everybody who speaks it: towards targets and the issuer as a client, towards agents' clients
//! as a server that holds certificates of the gateway's own authority (see [`crate::ca`]).
//!
//! There is one cryptographic provider (aws-lc-rs). A configuration is built when the gateway's configuration is
//! loaded, so that a missing or broken trust anchor is found then, not at an agent's first connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::ca::{Authority, Resolver};
use crate::target::TlsMode;

/// A file of trust anchors may not be larger: the system's own bundle has about 250 KiB.
const MAX_ANCHORS: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the trust anchors {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the trust anchors {} are larger than {MAX_ANCHORS} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} holds no usable CA certificate (PEM)", path.display())]
    NoAnchors { path: PathBuf },
    #[error("the system has no trust anchors: install ca-certificates, or name a file with `ca`")]
    NoSystemAnchors,
    #[error("{0:?} is neither a DNS name nor an address")]
    ServerName(String),
    #[error("the certificate has no channel binding: {0}")]
    ChannelBinding(&'static str),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// The process's cryptographic provider. The first call makes it the default too, for libraries that ask for that.
pub fn provider() -> Arc<CryptoProvider> {
    // A default that is there already can only be this one: nothing else in the gateway installs any.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// How to speak TLS to a target; `None` where its configuration says not to. `alpn` is what the peer is asked to speak
/// inside (RFC 7301), if its protocol has a name there.
pub fn client_config(mode: &TlsMode, alpn: Option<&[u8]>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let (ca, check_name) = match mode {
        TlsMode::VerifyFull { ca, .. } => (ca, true),
        TlsMode::VerifyCa { ca, .. } => (ca, false),
        TlsMode::Disable { .. } => return Ok(None),
    };
    let mut config = verifying_client(ca.as_deref(), check_name)?;
    config.alpn_protocols.extend(alpn.map(<[u8]>::to_vec));
    Ok(Some(Arc::new(config)))
}

/// A client that verifies chain and name against the anchors in `ca`, or the system's.
pub fn https_client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(Arc::new(verifying_client(ca, true)?))
}

/// The name that a target's certificate must bear: the configured one, else the one it is reached by.
pub fn server_name(mode: &TlsMode, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = match mode {
        TlsMode::VerifyFull { server_name: Some(name), .. } => name,
        _ => host,
    };
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

/// The gateway as a TLS server: it shows a certificate for the name that the client asks for, or for `fallback` (what
/// it connected to) if the client names nothing.
pub fn server_config(authority: &Arc<Authority>, fallback: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = Resolver::new(Arc::clone(authority), fallback);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    Ok(Arc::new(config))
}

/// The channel binding `tls-server-end-point` of a server's certificate (RFC 5929, section 4.1): the certificate's
/// digest by the hash of its own signature algorithm, SHA-256 where that is MD5 or SHA-1. SCRAM-SHA-256-PLUS wants it.
pub fn server_end_point(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, TlsError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| TlsError::ChannelBinding("it cannot be parsed"))?;
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    Ok(match oid.as_str() {
        // md5WithRSA, sha1WithRSA, ecdsa-with-SHA1; sha256WithRSA, ecdsa-with-SHA256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        // sha384WithRSA, ecdsa-with-SHA384.
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        // sha512WithRSA, ecdsa-with-SHA512.
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        _ => return Err(TlsError::ChannelBinding("its signature algorithm names no single hash")),
    })
}

/// The trust anchors in a PEM file. Anything in it that is not a CA certificate is an error, so that a typo is not
/// trust lost unnoticed.
pub fn anchors_from_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_ANCHORS {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    let pem = std::fs::read(path).map_err(read)?;
    let mut anchors = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().is_some_and(|certificate| anchors.add(certificate).is_ok());
        if !added {
            return Err(TlsError::NoAnchors { path: path.to_owned() });
        }
    }
    if anchors.is_empty() {
        return Err(TlsError::NoAnchors { path: path.to_owned() });
    }
    Ok(anchors)
}

/// The anchors that the machine trusts. Single ones that cannot be parsed are left out, as everybody does: bundles
/// hold some.
fn system_anchors() -> Result<RootCertStore, TlsError> {
    let mut anchors = RootCertStore::empty();
    anchors.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if anchors.is_empty() { Err(TlsError::NoSystemAnchors) } else { Ok(anchors) }
}

fn verifying_client(ca: Option<&Path>, check_name: bool) -> Result<ClientConfig, TlsError> {
    let anchors = Arc::new(ca.map_or_else(system_anchors, anchors_from_file)?);
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let webpki = WebPkiServerVerifier::builder_with_provider(anchors, provider()).build()?;
    Ok(if check_name {
        builder.with_webpki_verifier(webpki).with_no_client_auth()
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(webpki))).with_no_client_auth()
    })
}

/// Verifies everything that webpki verifies, the name aside: libpq's `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is the last thing that webpki checks: who gets here has a good chain.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.0.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::ca::tests::scratch;

    /// Shakes hands in memory; the server's name for itself and a byte from it, or why not.
    async fn shake(
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Vec<u8>, std::io::Error> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let serve = async {
            let mut stream = TlsAcceptor::from(server).accept(far).await?;
            stream.write_all(b"!").await?;
            stream.shutdown().await
        };
        let ask = async {
            let mut stream = TlsConnector::from(client).connect(name, near).await?;
            stream.read_u8().await?;
            let (_, session) = stream.get_ref();
            Ok(session.peer_certificates().and_then(<[_]>::first).map(|c| c.to_vec()).unwrap_or_default())
        };
        let (_, asked) = tokio::join!(serve, ask);
        asked
    }

    fn full(ca: &Path, name: Option<&str>) -> TlsMode {
        TlsMode::VerifyFull { ca: Some(ca.to_owned()), server_name: name.map(str::to_owned) }
    }

    fn chain_only(ca: &Path) -> TlsMode {
        TlsMode::VerifyCa { ca: Some(ca.to_owned()), insecure: "test".to_owned() }
    }

    async fn reach(authority: &Arc<Authority>, asked: &str, mode: &TlsMode) -> Result<Vec<u8>, std::io::Error> {
        let server = server_config(authority, "127.0.0.1").unwrap();
        let client = client_config(mode, Some(b"postgresql")).unwrap().unwrap();
        shake(server, client, server_name(mode, asked).unwrap()).await
    }

    #[tokio::test]
    async fn names_and_addresses_are_served_and_verified() {
        let directory = scratch();
        let authority = Arc::new(Authority::open(directory.path()).unwrap());
        let ca = authority.certificate_path();
        assert!(reach(&authority, "db.internal", &full(ca, None)).await.is_ok());
        // No SNI goes with an address: the fallback is shown.
        assert!(reach(&authority, "127.0.0.1", &full(ca, None)).await.is_ok());
        assert!(reach(&authority, "127.0.0.2", &full(ca, None)).await.is_err());
        assert!(reach(&authority, "127.0.0.2", &full(ca, Some("db.internal"))).await.is_ok());
    }

    #[tokio::test]
    async fn verify_ca_forgives_the_name_and_nothing_else() {
        let (ours, theirs) = (scratch(), scratch());
        let authority = Arc::new(Authority::open(ours.path()).unwrap());
        let stranger = Authority::open(theirs.path()).unwrap();
        assert!(reach(&authority, "127.0.0.2", &chain_only(authority.certificate_path())).await.is_ok());
        assert!(reach(&authority, "127.0.0.1", &chain_only(stranger.certificate_path())).await.is_err());
        assert!(reach(&authority, "db.internal", &full(stranger.certificate_path(), None)).await.is_err());
    }

    #[test]
    fn no_tls_is_only_by_name() {
        let mode = TlsMode::Disable { insecure: "test".to_owned() };
        assert!(client_config(&mode, None).unwrap().is_none());
    }

    #[test]
    fn broken_anchors_are_found_at_load() {
        let directory = scratch();
        let file = directory.path().join("anchors.pem");
        let load = || client_config(&full(&file, None), None).unwrap_err().to_string();
        assert!(load().contains("cannot read"));
        std::fs::write(&file, "no certificate here").unwrap();
        assert!(load().contains("no usable CA certificate"));
        let good = std::fs::read_to_string(Authority::open(directory.path()).unwrap().certificate_path()).unwrap();
        std::fs::write(&file, format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).unwrap();
        assert!(load().contains("no usable CA certificate"));
    }

    #[tokio::test]
    async fn the_channel_binding_is_the_certificates_digest() {
        let directory = scratch();
        let authority = Arc::new(Authority::open(directory.path()).unwrap());
        let shown = reach(&authority, "db.internal", &full(authority.certificate_path(), None)).await.unwrap();
        let binding = server_end_point(&CertificateDer::from(shown.clone())).unwrap();
        assert_eq!(binding, Sha256::digest(&shown).to_vec());
        assert!(server_end_point(&CertificateDer::from(b"nonsense".to_vec())).is_err());
    }
}
