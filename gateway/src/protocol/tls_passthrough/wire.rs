//! The first message of a TLS client, read without any I/O: which name it asks for.
//!
//! RFC 8446, sections 4.1.2 and 5.1, and RFC 6066, section 3; the same bytes in TLS 1.0 to 1.3. Whatever a lenient
//! server might make of bytes that break the format, here they are malformed: two readings of one name are how filters
//! are passed.

/// The message may not be longer. Post-quantum key shares and tickets bring it to 2 or 3 KiB.
const MAX_MESSAGE: usize = 16 << 10;
/// Bytes taken for it in all: a message cut into tiny records costs more than itself.
const MAX_BYTES: usize = 24 << 10;
/// RFC 8446, section 5.1.
const MAX_RECORD: usize = 1 << 14;
/// RFC 1035, section 2.3.4, as text.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Protocols kept of what the client offers by ALPN.
const MAX_PROTOCOLS: usize = 8;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const HOST_NAME: u8 = 0;

/// What the gateway goes by, and what it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case. `None`: the client sent none.
    pub server_name: Option<String>,
    /// What the client would speak inside, printable names only.
    pub protocols: Vec<String>,
    /// The client sent an encrypted hello, or the grease that looks like one: `server_name` is the outer name.
    pub encrypted: bool,
}

/// The bytes are no TLS client's. Where there is more to come, [`HelloReader::feed`] says so instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no TLS handshake: {0}")]
pub struct Malformed(&'static str);

/// Takes the client's bytes in any pieces until the message is whole.
#[derive(Debug, Default)]
pub struct HelloReader {
    header: Vec<u8>,
    record_left: usize,
    message: Vec<u8>,
    taken: usize,
}

impl HelloReader {
    /// Takes the next bytes; the message when it is whole. Bytes after it are not looked at.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<ClientHello>, Malformed> {
        while !bytes.is_empty() {
            let take = if self.record_left == 0 { 5 - self.header.len() } else { self.record_left };
            let (piece, rest) = bytes.split_at(take.min(bytes.len()));
            bytes = rest;
            self.taken += piece.len();
            if self.taken > MAX_BYTES {
                return Err(Malformed("the ClientHello is too long"));
            }
            if self.record_left == 0 {
                self.header.extend_from_slice(piece);
                check_header(&self.header)?;
                if let [.., high, low] = *self.header
                    && self.header.len() == 5
                {
                    self.record_left = usize::from(u16::from_be_bytes([high, low]));
                    self.header.clear();
                }
            } else {
                self.record_left -= piece.len();
                self.message.extend_from_slice(piece);
                if let Some(hello) = self.whole()? {
                    return Ok(Some(hello));
                }
            }
        }
        Ok(None)
    }

    fn whole(&self) -> Result<Option<ClientHello>, Malformed> {
        if self.message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Malformed("the first message is not a ClientHello"));
        }
        let [_, a, b, c, body @ ..] = self.message.as_slice() else { return Ok(None) };
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if length > MAX_MESSAGE {
            return Err(Malformed("the ClientHello is too long"));
        }
        if body.len() < length {
            return Ok(None);
        }
        // Nothing may follow before the server has spoken.
        if body.len() > length || self.record_left > 0 {
            return Err(Malformed("something follows the ClientHello in its record"));
        }
        parse_hello(Reader(body)).map(Some)
    }
}

/// A record's header, as far as it is there: told early, so that other protocols are not waited for.
fn check_header(header: &[u8]) -> Result<(), Malformed> {
    if header.first().is_some_and(|&kind| kind != HANDSHAKE) {
        return Err(Malformed("the first byte is not a handshake record's"));
    }
    if header.get(1).is_some_and(|&major| major != 3) {
        return Err(Malformed("the record's version is unknown"));
    }
    match header {
        [_, _, _, high, low] => match usize::from(u16::from_be_bytes([*high, *low])) {
            1..=MAX_RECORD => Ok(()),
            _ => Err(Malformed("the record's length is impossible")),
        },
        _ => Ok(()),
    }
}

fn parse_hello(mut body: Reader<'_>) -> Result<ClientHello, Malformed> {
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let suites = body.vector16()?;
    let compressions = body.vector8()?;
    if session.0.len() > 32 || suites.0.is_empty() || !suites.0.len().is_multiple_of(2) || compressions.0.is_empty() {
        return Err(Malformed("the ClientHello's fixed part is wrong"));
    }
    let mut hello = ClientHello { server_name: None, protocols: Vec::new(), encrypted: false };
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = body.vector16()?;
    body.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        if seen.contains(&kind) {
            return Err(Malformed("an extension is there twice"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(parse_server_name(data)?),
            ALPN => hello.protocols = parse_protocols(data)?,
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// Exactly one name, a host's, in the form in which it is compared.
fn parse_server_name(mut data: Reader<'_>) -> Result<String, Malformed> {
    let mut names = data.vector16()?;
    data.end()?;
    let kind = names.u8()?;
    let name = names.vector16()?.0;
    names.end()?;
    if kind != HOST_NAME || !is_host_name(name) {
        return Err(Malformed("the server name is not one host's"));
    }
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Letters, digits, hyphens and underscores in labels; no address, no trailing dot.
fn is_host_name(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = name.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    name.len() <= MAX_NAME && name.split(|&byte| byte == b'.').all(is_label) && !last.iter().all(u8::is_ascii_digit)
}

fn parse_protocols(mut data: Reader<'_>) -> Result<Vec<String>, Malformed> {
    let mut list = data.vector16()?;
    data.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?.0;
        // Grease is not printable, and says nothing.
        if protocols.len() < MAX_PROTOCOLS && !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
            protocols.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(protocols)
}

/// What is left of a vector.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a length is wrong"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<Self, Malformed> {
        let length = usize::from(self.u8()?);
        self.take(length).map(Self)
    }

    fn vector16(&mut self) -> Result<Self, Malformed> {
        let length = usize::from(self.u16()?);
        self.take(length).map(Self)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("a length is wrong")) }
    }
}

/// Why a handshake ends here, in TLS's own words (RFC 8446, section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    AccessDenied = 49,
    DecodeError = 50,
    InternalError = 80,
    MissingExtension = 109,
    UnrecognizedName = 112,
}

impl Alert {
    /// A fatal alert as a plaintext record, which every version understands as the answer to a `ClientHello`.
    pub fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls says first to `name`.
    pub(in crate::protocol::tls_passthrough) fn rustls_hello(name: &str) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    fn vector16(content: &[u8]) -> Vec<u8> {
        [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes(), vector16(data).as_slice()].concat()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[HOST_NAME], vector16(name).as_slice()].concat()))
    }

    /// A ClientHello with these extensions, as one message.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let body = [&[3, 3][..], &[0; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector16(extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    /// Cut into records of at most `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|piece| [&[HANDSHAKE, 3, 1], vector16(piece).as_slice()].concat()).collect()
    }

    fn read(bytes: &[u8]) -> Result<Option<ClientHello>, Malformed> {
        HelloReader::default().feed(bytes)
    }

    fn name_in(extensions: &[u8]) -> Result<Option<String>, Malformed> {
        read(&records(&message(extensions), MAX_RECORD)).map(|hello| hello.unwrap().server_name)
    }

    #[test]
    fn a_real_clients_name_is_read() {
        let hello = read(&rustls_hello("Api.Example.com")).unwrap().unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("api.example.com"));
        assert_eq!(hello.protocols, ["h2", "http/1.1"]);
        assert!(!hello.encrypted);
        assert_eq!(read(&rustls_hello("192.0.2.1")).unwrap().unwrap().server_name, None);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_arrive() {
        let bytes = rustls_hello("api.example.com");
        let whole = read(&bytes).unwrap();
        for at in 0..bytes.len() {
            let mut reader = HelloReader::default();
            assert_eq!(reader.feed(&bytes[..at]).unwrap(), None);
            assert_eq!(reader.feed(&bytes[at..]).unwrap(), whole);
        }
        let mut reader = HelloReader::default();
        let (last, first) = bytes.split_last().unwrap();
        assert!(first.iter().all(|byte| reader.feed(&[*byte]).unwrap().is_none()));
        assert_eq!(reader.feed(&[*last]).unwrap(), whole);
    }

    #[test]
    fn the_message_may_be_spread_over_records() {
        let message = message(&server_name(b"api.example.com"));
        for size in 1..=message.len() {
            let hello = read(&records(&message, size)).unwrap().unwrap();
            assert_eq!(hello.server_name.as_deref(), Some("api.example.com"));
        }
    }

    #[test]
    fn an_encrypted_hello_is_noticed() {
        let extensions = [server_name(b"outer.example"), extension(ENCRYPTED_CLIENT_HELLO, &[0; 8])].concat();
        let hello = read(&records(&message(&extensions), MAX_RECORD)).unwrap().unwrap();
        assert!(hello.encrypted && hello.server_name.as_deref() == Some("outer.example"));
    }

    #[test]
    fn a_name_is_one_hosts_name_or_malformed() {
        assert_eq!(name_in(&[]).unwrap(), None);
        assert_eq!(name_in(&server_name(b"_x.a-b.example1")).unwrap().unwrap(), "_x.a-b.example1");
        let long = "x".repeat(64);
        for name in
            ["", ".", "a.", ".a", "a..b", "192.0.2.1", "a.7", "a b", "a\0b", "\u{e4}.example", "*.example.com", &long]
        {
            assert!(name_in(&server_name(name.as_bytes())).is_err(), "{name:?}");
        }
        let one = server_name(b"a.example");
        assert!(name_in(&[one.clone(), one].concat()).is_err());
        let entry = |name: &[u8]| [&[HOST_NAME], vector16(name).as_slice()].concat();
        let two = vector16(&[entry(b"a.example"), entry(b"b.example")].concat());
        assert!(name_in(&extension(SERVER_NAME, &two)).is_err());
        assert!(name_in(&extension(SERVER_NAME, &[])).is_err());
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"SSH-2.0-x", &[0, 0, 0, 8, 4, 210, 22, 47], &[22, 2], &[0x80, 46, 1]] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        let good = message(&server_name(b"api.example.com"));
        // A byte more than the message says, and a second message after it.
        assert!(read(&records(&[&good[..], &[0]].concat(), MAX_RECORD)).is_err());
        for at in 1..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                // Whatever it is, it is said without a panic; and never a name that is not there.
                if let Ok(Some(hello)) = read(&records(&bad, MAX_RECORD)) {
                    assert!(hello.server_name.is_none_or(|name| name.len() == 15), "{at}");
                }
            }
        }
        assert!(read(&[HANDSHAKE, 3, 1, 0, 0]).is_err());
        assert!(read(&[HANDSHAKE, 3, 1, 0x40, 1]).is_err());
    }

    #[test]
    fn damage_is_read_the_same_however_it_arrives() {
        let good = rustls_hello("api.example.com");
        let mut state = 0x9e37_79b9_u32;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize % below
        };
        for _ in 0..5_000 {
            let mut bytes = good.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len().min(200));
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
            let whole = read(&bytes).ok();
            let mut reader = HelloReader::default();
            let size = 1 + random(64);
            let mut pieces = bytes.chunks(size).map(|piece| reader.feed(piece).ok());
            assert_eq!(whole, pieces.find(|read| *read != Some(None)).unwrap_or(Some(None)), "{bytes:?}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        assert!(read(&records(&[CLIENT_HELLO, 0, 0x40, 1], 4)).is_err());
        let endless = records(&[&[CLIENT_HELLO, 0, 0x40, 0][..], &vec![0; MAX_MESSAGE]].concat(), 1);
        assert_eq!(read(&endless), Err(Malformed("the ClientHello is too long")));
        let largest = message(&extension(21, &vec![0; MAX_MESSAGE - 60]));
        assert!(read(&records(&largest, MAX_RECORD)).unwrap().is_some());
    }
}
