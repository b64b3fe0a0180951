//! A server that lies. It has everything answered by a real one, message by message, and tampers with one message: so it gets
//! as far with the gateway as a real one does, and no further than the gateway lets it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use system_tests::Result;
use system_tests::ca::Leaf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Tag and length.
const HEADER: usize = 5;
/// The names of the gateway's own statements and portals begin so.
const PROBE: &[u8] = b"weir_probe\0";
/// Between two bytes of a server that takes its time.
const DRIP: Duration = Duration::from_secs(1);
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Which of the gateway's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// An agent's session.
    Session,
    /// The one that the catalog is read over.
    Catalog,
}

/// Where a conversation is, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The one byte that answers the request for TLS; it counts as a message.
    Encryption,
    /// A request for authentication, by its number.
    Login(u32),
    /// Behind the login, to the first readiness.
    Greeting,
    /// The gateway asks for itself.
    Probe,
    /// The client prepares and binds.
    Bound,
    /// A statement of the client's runs.
    Run,
}

/// What the gateway has asked for last.
#[derive(Clone, Copy, Debug)]
struct Asked {
    stage: Stage,
    /// The description was passed on: a statement may be sent to run before what prepares it is answered.
    is_described: bool,
}

impl Asked {
    /// What a message of this type answers.
    fn answered_by(&mut self, tag: u8) -> Stage {
        let stage = if self.stage == Stage::Run && !self.is_described { Stage::Bound } else { self.stage };
        self.is_described |= matches!(tag, b'T' | b'n') && stage == Stage::Bound;
        stage
    }
}

/// What becomes of the connection after the deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    Close,
    /// Nothing more is said, and all that comes is heard.
    Silence,
    /// Bytes without end.
    Flood,
    /// What the deed has left and all that follows is sent by single bytes.
    Drip,
}

/// One deed: at the `nth` message of this stage and type, `deed` says what is sent in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tamper {
    pub(crate) whose: Whose,
    pub(crate) stage: Stage,
    pub(crate) tag: u8,
    pub(crate) nth: usize,
    pub(crate) deed: fn(&[u8]) -> Vec<u8>,
    pub(crate) then: Then,
}

/// What the server has seen of the connection that it tampered with.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Deeds that were done.
    pub(crate) struck: usize,
    /// Whatever the gateway sent, decrypted.
    pub(crate) heard: Vec<u8>,
}

pub(crate) struct Hostile {
    port: u16,
    shared: Arc<Shared>,
    // Dropped with all its connections.
    _runtime: Runtime,
}

struct Shared {
    database: u16,
    armed: Mutex<Option<Tamper>>,
    seen: Mutex<Seen>,
    open: AtomicUsize,
}

impl Shared {
    fn armed(&self) -> MutexGuard<'_, Option<Tamper>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hostile {
    /// In front of the real server that lets the same login in over this port, without TLS.
    pub(crate) fn start(database: u16, certificate: &Leaf) -> Result<Self> {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes())
            .collect::<std::result::Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { database, armed: Mutex::default(), seen: Mutex::default(), open: AtomicUsize::new(0) });
        let served = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&served), acceptor.clone());
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    // A connection that is broken off, by whomever, is what this server is for.
                    drop(serve(gateway, &acceptor, &shared).await);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { port, shared, _runtime: runtime })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next connection of its kind meets with this.
    pub(crate) fn arm(&self, tamper: Tamper) {
        *self.shared.seen() = Seen::default();
        *self.shared.armed() = Some(tamper);
    }

    /// What was seen since it was armed. It is honest again.
    pub(crate) fn disarm(&self) -> Seen {
        *self.shared.armed() = None;
        std::mem::take(&mut *self.shared.seen())
    }

    /// How often the deed was done since it was armed.
    pub(crate) fn struck(&self) -> usize {
        self.shared.seen().struck
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

async fn serve(mut gateway: TcpStream, acceptor: &TlsAcceptor, shared: &Arc<Shared>) -> io::Result<()> {
    let mut request = TLS_REQUEST;
    gateway.read_exact(&mut request).await?;
    assert_eq!(request, TLS_REQUEST, "the gateway begins with TLS");
    let taken = shared.armed().take_if(|it| it.stage == Stage::Encryption);
    if let Some(tamper) = taken {
        shared.seen().struck += 1;
        gateway.write_all(&(tamper.deed)(b"S")).await?;
        return end(gateway, tamper.then, shared).await;
    }
    gateway.write_all(b"S").await?;
    let mut gateway = acceptor.accept(gateway).await?;

    let mut startup = vec![0; 4];
    gateway.read_exact(&mut startup).await?;
    startup.resize(length(&startup), 0);
    gateway.read_exact(&mut startup[4..]).await?;
    let is_catalog = startup.windows(12).any(|it| it == b"weir catalog");
    let whose = if is_catalog { Whose::Catalog } else { Whose::Session };
    let tamper = shared.armed().take_if(|it| it.whose == whose);
    let mut database = TcpStream::connect(("127.0.0.1", shared.database)).await?;
    database.write_all(&startup).await?;

    let asked = Arc::new(Mutex::new(Asked { stage: Stage::Probe, is_described: false }));
    let (from_gateway, to_gateway) = tokio::io::split(gateway);
    let (from_database, to_database) = database.into_split();
    let listening = listen(from_gateway, to_database, Arc::clone(&asked), tamper.map(|_| Arc::clone(shared)));
    let answering = answer(from_database, to_gateway, &asked, tamper, shared);
    tokio::select! {
        heard = listening => heard,
        answered = answering => answered,
    }
}

/// After a deed that ended the conversation in the clear.
async fn end(mut gateway: TcpStream, then: Then, shared: &Shared) -> io::Result<()> {
    if then == Then::Close {
        return Ok(());
    }
    let mut chunk = [0; 4096];
    loop {
        match gateway.read(&mut chunk).await? {
            0 => return Ok(()),
            read => shared.seen().heard.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Passes on what the gateway sends, and notes where the conversation is.
async fn listen(
    mut gateway: impl AsyncRead + Unpin,
    mut database: impl AsyncWrite + Unpin,
    asked: Arc<Mutex<Asked>>,
    noted: Option<Arc<Shared>>,
) -> io::Result<()> {
    loop {
        let message = message(&mut gateway).await?;
        if let Some(shared) = &noted {
            shared.seen().heard.extend_from_slice(&message);
        }
        let is_own = message[HEADER..].starts_with(PROBE);
        {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked = match message[0] {
                b'Q' | b'F' => Asked { stage: Stage::Run, is_described: true },
                b'E' if !is_own => Asked { stage: Stage::Run, ..*asked },
                b'P' if is_own => Asked { stage: Stage::Probe, is_described: false },
                b'P' => Asked { stage: Stage::Bound, is_described: false },
                _ => *asked,
            };
        }
        // The real server may have had enough of this conversation; the gateway is heard to its end.
        let _ = database.write_all(&message).await;
    }
}

/// Passes on what the real server answers, but for the one message.
async fn answer(
    mut database: impl AsyncRead + Unpin,
    mut gateway: impl AsyncWrite + Unpin,
    asked: &Mutex<Asked>,
    mut tamper: Option<Tamper>,
    shared: &Shared,
) -> io::Result<()> {
    let (mut is_ready, mut is_let_in, mut matched, mut drips) = (false, false, 0, false);
    loop {
        let message = message(&mut database).await?;
        let now = match message[0] {
            b'R' => Stage::Login(u32::try_from(length(&message[HEADER..])).unwrap_or(u32::MAX)),
            _ if is_ready => asked.lock().unwrap_or_else(PoisonError::into_inner).answered_by(message[0]),
            _ if is_let_in => Stage::Greeting,
            _ => Stage::Login(u32::MAX),
        };
        is_let_in |= now == Stage::Login(0);
        is_ready |= message[0] == b'Z';
        let strikes = tamper.is_some_and(|it| (it.stage, it.tag) == (now, message[0]));
        matched += usize::from(strikes);
        let tamper = match tamper {
            Some(_) if strikes => tamper.take_if(|it| it.nth == matched),
            _ => None,
        };
        let sent = tamper.map_or_else(|| message.clone(), |it| (it.deed)(&message));
        drips |= tamper.is_some_and(|it| it.then == Then::Drip);
        shared.seen().struck += usize::from(tamper.is_some());
        for piece in sent.chunks(if drips { 1 } else { usize::MAX }) {
            gateway.write_all(piece).await?;
            gateway.flush().await?;
            if drips {
                tokio::time::sleep(DRIP).await;
            }
        }
        match tamper.map_or(Then::GoOn, |it| it.then) {
            Then::GoOn | Then::Drip => {}
            Then::Close => return gateway.shutdown().await,
            // Until the gateway ends it.
            Then::Silence => std::future::pending().await,
            Then::Flood => loop {
                gateway.write_all(&[b'x'; 8 << 10]).await?;
            },
        }
    }
}

async fn message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    from.read_exact(&mut message).await?;
    message.resize(1 + length(&message[1..]), 0);
    from.read_exact(&mut message[HEADER..]).await?;
    Ok(message)
}

/// The number that this begins with.
fn length(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize)
}
