//! The resolver that agents get, whatever resolver they ask: the kernel half sends their port 53 here.
//!
//! It answers A and AAAA for names that targets have, and refuses everything else, so that nothing leaves by way of
//! names. What it told an agent it remembers, because a connection arrives with an address only and targets have
//! names.
//!
//! `message` reads and writes DNS, `memory` remembers (both without I/O), `lookup` asks the host's resolver; here are
//! the decision and the two drivers, UDP and TCP.

mod lookup;
mod memory;
mod message;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};

use self::lookup::Lookup;
pub use self::memory::AgentKey;
use self::memory::Memory;
use self::message::{Question, Unanswerable};
use crate::config::Config;
use crate::intercept::{DnsPeer, DnsSocket, Interceptor};
use crate::origin::Origin;
use crate::target::Host;

/// A longer query is cut, and a cut query is malformed. Stub resolvers ask one name, with few options.
const MAX_QUERY: usize = 4096;
/// Queries that wait for the host's resolver at the same time; one more gets "try again".
const MAX_WAITING: usize = 512;
/// TCP connections at the same time, queries on each, and how long one may be silent.
const MAX_CONNECTIONS: usize = 64;
const MAX_PIPELINED: usize = 64;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Refused queries that wait to be told of.
const MAX_REFUSALS: usize = 256;
/// How long the driver rests when the socket itself fails.
const PAUSE: Duration = Duration::from_millis(100);

/// The resolver. Cheap to clone.
#[derive(Clone)]
pub struct Dns(Arc<Shared>);

struct Shared {
    names: ArcSwap<Names>,
    memory: Mutex<Memory>,
    lookup: Lookup,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    refusals: Mutex<VecDeque<RefusedQuery>>,
    refused: Notify,
}

/// The names that targets have, and the addresses that the configuration fixes for them (none: look them up).
type Names = HashMap<String, Vec<IpAddr>>;

/// A query that was refused: an agent tried a name that no target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedQuery {
    /// Its `destination` is the resolver that the agent asked.
    pub origin: Origin,
    /// At most 255 characters, others than letters and digits escaped as in zone files.
    pub name: String,
    /// Type of record, such as `A` or `TXT`.
    pub kind: String,
    /// How many of this agent's refused queries were passed over before this one.
    pub passed_over: u32,
}

/// What a query comes to before anybody has to wait.
enum Step {
    Ignore,
    Send(Vec<u8>),
    LookUp { question: Question, name: String },
}

impl Dns {
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Shared {
            names: ArcSwap::from_pointee(names(config)),
            memory: Mutex::default(),
            lookup: Lookup::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            refusals: Mutex::default(),
            refused: Notify::new(),
        }))
    }

    /// Takes up a new configuration. What agents were told stays remembered.
    pub fn reload(&self, config: &Config) {
        self.0.names.store(Arc::new(names(config)));
        self.0.lookup.clear();
    }

    /// The names that this agent looked up and was given `address` for.
    pub fn names_for(&self, agent: AgentKey, address: IpAddr) -> Vec<String> {
        lock(&self.0.memory).names_for(agent, address, Instant::now())
    }

    /// The next refused query to be recorded: at most 20 a minute of each agent, the others are counted. For one
    /// reader.
    pub async fn next_refusal(&self) -> RefusedQuery {
        loop {
            let woken = self.0.refused.notified();
            if let Some(refusal) = lock(&self.0.refusals).pop_front() {
                return refusal;
            }
            woken.await;
        }
    }

    /// Answers what comes by UDP, for as long as it is polled.
    pub async fn serve_udp(&self, socket: DnsSocket, interceptor: Interceptor) {
        let socket = Arc::new(socket);
        let mut query = vec![0; MAX_QUERY];
        loop {
            let (length, peer) = match socket.recv(&mut query).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "the resolver cannot receive");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            match interceptor.dns_origin(peer.source, peer.local) {
                Ok(origin) => self.answer_datagram(&query[..length], &origin, &socket, peer).await,
                Err(error) => tracing::debug!(source = %peer.source, %error, "a query that no agent sent is ignored"),
            }
        }
    }

    async fn answer_datagram(&self, query: &[u8], origin: &Origin, socket: &Arc<DnsSocket>, peer: DnsPeer) {
        match self.step(query, origin) {
            Step::Ignore => {}
            Step::Send(answer) => send(socket, &answer, peer).await,
            Step::LookUp { question, name } => match Arc::clone(&self.0.waiting).try_acquire_owned() {
                Ok(permit) => {
                    let (dns, agent, socket) = (self.clone(), agent_key(origin), Arc::clone(socket));
                    tokio::spawn(async move {
                        let answer = dns.look_up(&question, &name, agent).await;
                        send(&socket, &answer, peer).await;
                        drop(permit);
                    });
                }
                Err(_) => send(socket, &question.fail(), peer).await,
            },
        }
    }

    /// Answers the queries of one TCP connection, in order.
    pub async fn serve_tcp(&self, stream: impl AsyncRead + AsyncWrite + Unpin, origin: &Origin) {
        let Ok(_permit) = self.0.connections.try_acquire() else { return };
        if let Err(error) = self.converse(stream, origin).await {
            tracing::debug!(%error, "a TCP connection to the resolver ended");
        }
    }

    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, origin: &Origin) -> io::Result<()> {
        for _ in 0..MAX_PIPELINED {
            let query = tokio::time::timeout(TCP_IDLE, read_query(&mut stream)).await??;
            let answer = match self.step(&query, origin) {
                Step::Ignore => break,
                Step::Send(answer) => answer,
                Step::LookUp { question, name } => self.look_up(&question, &name, agent_key(origin)).await,
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
        }
        stream.shutdown().await
    }

    /// The decision on a query.
    fn step(&self, query: &[u8], origin: &Origin) -> Step {
        let question = match Question::read(query) {
            Ok(question) => question,
            Err(Unanswerable::Ignore) => return Step::Ignore,
            Err(Unanswerable::Error(answer)) => return Step::Send(answer),
        };
        let name = question.name();
        let names = self.0.names.load();
        match (names.get(&name), question.family()) {
            (Some(fixed), Some(_)) if fixed.is_empty() => Step::LookUp { question, name },
            (Some(fixed), Some(_)) => Step::Send(self.tell(&question, &name, agent_key(origin), fixed)),
            _ => {
                self.record_refusal(&question, name, origin);
                Step::Send(question.refuse())
            }
        }
    }

    async fn look_up(&self, question: &Question, name: &str, agent: AgentKey) -> Vec<u8> {
        match self.0.lookup.addresses(name).await {
            Some(addresses) => self.tell(question, name, agent, &addresses),
            None => question.fail(),
        }
    }

    /// Makes the answer, and remembers it before it is sent: the agent may connect at once.
    fn tell(&self, question: &Question, name: &str, agent: AgentKey, addresses: &[IpAddr]) -> Vec<u8> {
        let (answer, given) = question.answer(addresses);
        lock(&self.0.memory).remember(agent, name, &given, Instant::now());
        answer
    }

    fn record_refusal(&self, question: &Question, name: String, origin: &Origin) {
        let Some(passed_over) = lock(&self.0.memory).refused(agent_key(origin), Instant::now()) else { return };
        let mut refusals = lock(&self.0.refusals);
        if refusals.len() < MAX_REFUSALS {
            refusals.push_back(RefusedQuery { origin: origin.clone(), name, kind: question.kind(), passed_over });
            self.0.refused.notify_one();
        }
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("names", &self.0.names.load()).finish_non_exhaustive()
    }
}

fn names(config: &Config) -> Names {
    let mut names = Names::new();
    for target in &config.targets {
        for address in &target.address {
            if let Host::Name(name) = &address.host {
                names.entry(name.clone()).or_default().extend(&target.resolve);
            }
        }
    }
    names
}

pub fn agent_key(origin: &Origin) -> AgentKey {
    (origin.cgroup_id, origin.uid)
}

async fn read_query(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the query is too long"));
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

async fn send(socket: &DnsSocket, answer: &[u8], peer: DnsPeer) {
    if let Err(error) = socket.send(answer, peer).await {
        tracing::debug!(source = %peer.source, %error, "an answer could not be sent");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::RecordType;

    use super::message::tests::{outcome, query};
    use super::*;
    use crate::identity::tests::{config, identity_config, origin};
    use crate::target::{Address, Protocol, Target, TlsMode};

    fn target(name: &str, resolve: &[&str]) -> Arc<Target> {
        Arc::new(Target {
            name: name.to_owned(),
            protocol: Protocol::Postgres,
            address: vec![Address { host: Host::Name(name.to_owned()), port: 5432 }],
            resolve: resolve.iter().map(|address| address.parse().unwrap()).collect(),
            databases: Vec::new(),
            tls: TlsMode::Disable { insecure: "test".to_owned() },
            login: None,
            server_names: Vec::new(),
        })
    }

    fn dns(targets: Vec<Arc<Target>>) -> Dns {
        let mut config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        config.targets = targets;
        Dns::new(&config)
    }

    /// One query over TCP, on a connection of its own.
    async fn ask(dns: &Dns, query: &[u8]) -> Option<Vec<u8>> {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let client = async {
            near.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
            near.write_all(query).await.unwrap();
            near.shutdown().await.unwrap();
            let length = near.read_u16().await.ok()?;
            let mut answer = vec![0; usize::from(length)];
            near.read_exact(&mut answer).await.unwrap();
            Some(answer)
        };
        let origin = origin(1001);
        tokio::join!(dns.serve_tcp(far, &origin), client).1
    }

    #[tokio::test]
    async fn targets_names_are_answered_and_remembered() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7", "2001:db8::7"])]);
        let address = "192.0.2.7".parse().unwrap();
        let key = agent_key(&origin(1001));
        assert!(dns.names_for(key, address).is_empty());
        let answer = ask(&dns, &query("DB.internal", RecordType::A)).await.unwrap();
        assert_eq!(outcome(&answer), (ResponseCode::NoError, vec![address]));
        assert_eq!(dns.names_for(key, address), ["db.internal"]);
        // The other family was not asked for, so nothing is known of it.
        assert!(dns.names_for(key, "2001:db8::7".parse().unwrap()).is_empty());
    }

    #[tokio::test]
    async fn the_hosts_own_resolver_knows_the_rest() {
        let dns = dns(vec![target("localhost", &[]), target("does-not-exist.invalid", &[])]);
        let (code, addresses) = outcome(&ask(&dns, &query("localhost", RecordType::A)).await.unwrap());
        assert_eq!((code, addresses.contains(&"127.0.0.1".parse().unwrap())), (ResponseCode::NoError, true));
        let (code, _) = outcome(&ask(&dns, &query("does-not-exist.invalid", RecordType::A)).await.unwrap());
        assert_eq!(code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn everything_else_is_refused_and_told() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7"])]);
        for (name, kind) in [
            ("exfiltrated-data.evil.example", RecordType::A),
            ("sub.db.internal", RecordType::A),
            ("internal", RecordType::A),
            ("db.internal", RecordType::TXT),
            (".", RecordType::NS),
        ] {
            let (code, _) = outcome(&ask(&dns, &query(name, kind)).await.unwrap());
            assert_eq!(code, ResponseCode::Refused, "{name} {kind}");
            let refusal = dns.next_refusal().await;
            assert_eq!((refusal.name.as_str(), refusal.kind), (name, kind.to_string()));
        }
    }

    #[tokio::test]
    async fn a_reload_changes_the_names_and_keeps_the_memory() {
        let dns = dns(vec![target("old.internal", &["192.0.2.7"])]);
        ask(&dns, &query("old.internal", RecordType::A)).await.unwrap();
        let mut config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        config.targets = vec![target("new.internal", &["192.0.2.8"])];
        dns.reload(&config);
        let code = |answer: Option<Vec<u8>>| outcome(&answer.unwrap()).0;
        assert_eq!(code(ask(&dns, &query("old.internal", RecordType::A)).await), ResponseCode::Refused);
        assert_eq!(code(ask(&dns, &query("new.internal", RecordType::A)).await), ResponseCode::NoError);
        assert_eq!(dns.names_for(agent_key(&origin(1001)), "192.0.2.7".parse().unwrap()), ["old.internal"]);
    }

    #[tokio::test]
    async fn what_is_no_query_ends_the_connection() {
        let dns = dns(Vec::new());
        assert_eq!(ask(&dns, b"").await, None);
        assert_eq!(ask(&dns, b"short").await, None);
        assert_eq!(ask(&dns, &[0; MAX_QUERY + 1]).await, None);
    }

    #[tokio::test]
    async fn queries_on_one_connection_are_answered_in_order() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7"])]);
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let client = async {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
                let query = query("db.internal", kind);
                near.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), query.as_slice()].concat())
                    .await
                    .unwrap();
            }
            near.shutdown().await.unwrap();
            let mut codes = Vec::new();
            while let Ok(length) = near.read_u16().await {
                let mut answer = vec![0; usize::from(length)];
                near.read_exact(&mut answer).await.unwrap();
                codes.push(outcome(&answer).0);
            }
            codes
        };
        let origin = origin(1001);
        let ((), codes) = tokio::join!(dns.serve_tcp(far, &origin), client);
        assert_eq!(codes, [ResponseCode::NoError, ResponseCode::NoError, ResponseCode::Refused]);
    }
}
