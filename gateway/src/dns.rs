//! The resolver that agents get, whatever resolver they ask: the kernel half sends their port 53 here.
//!
//! It answers for names of targets that policy lets the agent connect to, and refuses everything else, so that nothing
//! leaves by way of names: of what is not the agent's to ask, no server outside ever hears. What it told an agent it
//! remembers, because a connection arrives with an address only and targets have names.
//!
//! `message` reads and writes DNS, `names` decides, `rebinding` judges what names resolve to, `memory` remembers, `limits`
//! limits (all without I/O), `upstream` asks the host's resolvers; here are the path of a query and the two drivers, UDP
//! and TCP.
//!
//! How a refusal reads was measured: at REFUSED, glibc 2.36, musl 1.2.3 and c-ares 1.18 give up their search list, and do
//! not find the name that a later domain of the list, or none, would have led to; at SERVFAIL glibc goes on, the others do
//! not; at NXDOMAIN all do. So NXDOMAIN is what candidates of a search list get, and REFUSED, which is the truth, everything
//! else (suite `dns` shows that these three find their names).

mod limits;
mod memory;
pub mod message;
mod names;
mod preview;
mod rebinding;
mod upstream;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use self::limits::{Holder, Kind, Limits};
pub use self::memory::AgentKey;
use self::memory::Memory;
pub(crate) use self::memory::{MAX_TOLD, Told};
use self::message::{Question, Transport, Unanswerable, Wanted};
use self::names::{Asked, Judgement, Names};
pub(crate) use self::preview::preview;
use self::rebinding::NOBODY;
use self::upstream::{FIXED_TTL, Found, Upstream};
use crate::config::Config;
use crate::identity;
use crate::intercept::{DnsPeer, DnsSocket, Interceptor};
use crate::origin::{Evidence, Origin};
use crate::witness::{Witness, WitnessError};

/// A longer query is cut, and a cut query is malformed. Stub resolvers ask one name, with few options.
const MAX_QUERY: usize = 4096;
/// Queries by UDP that are being answered at the same time; one more gets "try again".
const MAX_ANSWERING: usize = 1024;
/// TCP connections at the same time, queries on each, and how long one may be silent.
const MAX_CONNECTIONS: usize = 256;
const MAX_PIPELINED: usize = 64;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Refused queries that wait to be recorded.
const MAX_REFUSALS: usize = 256;
/// Askers whose agent is known; one more, and all are asked for anew.
const MAX_ASKERS: usize = 4096;
/// How long the driver rests when the socket itself fails.
const PAUSE: Duration = Duration::from_millis(100);

/// The resolver. Cheap to clone.
#[derive(Clone)]
pub struct Dns(Arc<Shared>);

struct Shared {
    current: ArcSwap<Current>,
    runtime: Handle,
    memory: Mutex<Memory>,
    limits: Mutex<Limits>,
    answering: Arc<Semaphore>,
    connections: Semaphore,
    refusals: Mutex<VecDeque<RefusedQuery>>,
    refused: Notify,
}

/// What belongs to one configuration and goes with it.
struct Current {
    names: Names,
    upstream: Upstream,
    askers: Mutex<HashMap<AgentKey, Arc<Asker>>>,
}

/// Who asks.
#[derive(Debug)]
struct Asker {
    /// The agent's name, or why it is none.
    agent: Result<String, String>,
    holder: Holder,
}

/// A query that was refused: an agent tried what is not its to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedQuery {
    /// Its `destination` is the resolver that the agent asked.
    pub origin: Origin,
    /// At most 255 octets, others than letters and digits escaped as in zone files.
    pub name: String,
    /// Type of record, such as `A` or `TXT`.
    pub kind: String,
    pub reason: String,
    /// It was answered all the same: policy says to observe only.
    pub observed: bool,
    /// How many of this agent's refused queries were passed over before this one.
    pub passed_over: u32,
}

/// Says where an origin sits, and can do nothing else. The witness is one.
pub trait EvidenceReader: Clone + Send + Sync + 'static {
    fn evidence(&self, origin: &Origin) -> impl Future<Output = Result<Evidence, WitnessError>> + Send;
}

impl EvidenceReader for Witness {
    async fn evidence(&self, origin: &Origin) -> Result<Evidence, WitnessError> {
        Self::evidence(self, origin).await
    }
}

/// A query on its way to its answer.
struct Query<'a> {
    question: &'a Question,
    origin: &'a Origin,
    transport: Transport,
    current: &'a Current,
    asker: &'a Asker,
}

impl Dns {
    /// Queries to servers outside run on the runtime that this is called in.
    pub fn new(config: Arc<Config>) -> Self {
        let runtime = Handle::current();
        Self(Arc::new(Shared {
            current: ArcSwap::from_pointee(Current::new(config, &runtime)),
            runtime,
            memory: Mutex::default(),
            limits: Mutex::default(),
            answering: Arc::new(Semaphore::new(MAX_ANSWERING)),
            connections: Semaphore::new(MAX_CONNECTIONS),
            refusals: Mutex::default(),
            refused: Notify::new(),
        }))
    }

    /// Takes up a new configuration. What agents were told stays remembered where it still means the same; what servers
    /// answered is forgotten.
    pub fn reload(&self, config: Arc<Config>) {
        let new = Arc::new(Current::new(config, &self.0.runtime));
        let old = self.0.current.swap(Arc::clone(&new));
        // Nobody's address stood for "no"; under another policy it may have to be another one.
        lock(&self.0.memory).retain(|name, address| address != NOBODY && old.names.agrees_on(name, &new.names));
    }

    /// The names that this agent looked up and was given `address` for.
    pub fn names_for(&self, agent: AgentKey, address: IpAddr) -> Vec<String> {
        lock(&self.0.memory).names_for(agent, address, Instant::now())
    }

    /// What agents were told, for the gateway that takes over.
    pub(crate) fn told(&self) -> Vec<Told> {
        lock(&self.0.memory).told(Instant::now())
    }

    /// What agents were told by the gateway that this one replaces.
    pub(crate) fn take_over(&self, told: Vec<Told>) {
        lock(&self.0.memory).take_over(told, Instant::now());
    }

    /// The next refused query to be recorded: a bounded number a minute of each agent, the others are counted. For one
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
    pub async fn serve_udp(&self, socket: DnsSocket, interceptor: Interceptor, evidence: impl EvidenceReader) {
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
            match interceptor.dns_origin(peer) {
                Ok(origin) => self.answer_datagram(&query[..length], origin, &socket, peer, &evidence).await,
                Err(error) => tracing::debug!(source = %peer.source, %error, "a query that no agent sent is ignored"),
            }
        }
    }

    async fn answer_datagram(
        &self,
        query: &[u8],
        origin: Origin,
        socket: &Arc<DnsSocket>,
        peer: DnsPeer,
        evidence: &impl EvidenceReader,
    ) {
        let question = match Question::read(query) {
            Ok(question) => question,
            Err(Unanswerable::Ignore) => return,
            Err(Unanswerable::Error(answer)) => return send(socket, &answer, peer).await,
        };
        let Ok(permit) = Arc::clone(&self.0.answering).try_acquire_owned() else {
            return send(socket, &question.fail(), peer).await;
        };
        let (dns, socket, evidence) = (self.clone(), Arc::clone(socket), evidence.clone());
        tokio::spawn(async move {
            let answer = dns.answer(&question, &origin, Transport::Udp, &evidence).await;
            send(&socket, &answer, peer).await;
            drop(permit);
        });
    }

    /// Answers the queries of one TCP connection, in order.
    pub async fn serve_tcp(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        origin: &Origin,
        evidence: &impl EvidenceReader,
    ) {
        let Ok(_permit) = self.0.connections.try_acquire() else { return };
        // Who is nobody is told so, query by query.
        let asker = self.0.current.load_full().asker(origin, evidence).await;
        let holder = asker.map_or_else(|_| Asker::unknown(origin, String::new()).holder, |asker| asker.holder.clone());
        let Some(_used) = self.take(&holder, Kind::Connection) else {
            return tracing::info!(?holder, "an agent has too many TCP connections to the resolver");
        };
        if let Err(error) = self.converse(stream, origin, evidence).await {
            tracing::debug!(%error, "a TCP connection to the resolver ended");
        }
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        origin: &Origin,
        evidence: &impl EvidenceReader,
    ) -> io::Result<()> {
        for _ in 0..MAX_PIPELINED {
            let query = tokio::time::timeout(TCP_IDLE, read_query(&mut stream)).await??;
            let answer = match Question::read(&query) {
                Ok(question) => self.answer(&question, origin, Transport::Tcp, evidence).await,
                Err(Unanswerable::Error(answer)) => answer,
                Err(Unanswerable::Ignore) => break,
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
        }
        stream.shutdown().await
    }

    /// The path of a query: who asks, whether so often, whether that; then the answer.
    async fn answer(
        &self,
        question: &Question,
        origin: &Origin,
        transport: Transport,
        evidence: &impl EvidenceReader,
    ) -> Vec<u8> {
        let current = self.0.current.load_full();
        let asker = match current.asker(origin, evidence).await {
            Ok(asker) => asker,
            Err(error) => {
                let unknown = Asker::unknown(origin, format!("nobody knows who asks: {error}"));
                let query = Query { question, origin, transport, current: &current, asker: &unknown };
                return self.refuse(&query, unknown.agent().unwrap_or_else(|why| why).to_owned(), Question::fail);
            }
        };
        let query = Query { question, origin, transport, current: &current, asker: &asker };
        if !lock(&self.0.limits).query(&asker.holder, Instant::now()) {
            return self.refuse(&query, "too many queries".to_owned(), Question::fail);
        }
        match current.names.judge(asker.agent(), question) {
            Judgement::Address(asked) => self.tell_addresses(&query, &asked).await,
            Judgement::Service => self.tell_services(&query).await,
            Judgement::Decline(name, why) => {
                self.record(&query, why, false);
                self.tell(&query, &name, &[NOBODY.into()], FIXED_TTL)
            }
            Judgement::Empty => question.addresses(&[], FIXED_TTL, transport).0,
            Judgement::Refuse(why) if current.names.is_candidate(question) => {
                self.refuse(&query, why, Question::no_name)
            }
            Judgement::Refuse(why) => self.refuse(&query, why, Question::refuse),
        }
    }

    async fn tell_addresses(&self, query: &Query<'_>, asked: &Asked) -> Vec<u8> {
        let (Wanted::Address(family), _) = query.question.wanted() else { return query.question.refuse() };
        if let Some(why) = &asked.observed {
            self.record(query, why.clone(), true);
        }
        let fixed = asked.fixed();
        if !fixed.is_empty() {
            return self.tell(query, &asked.name, &fixed, FIXED_TTL);
        }
        let Some(_used) = self.take(&query.asker.holder, Kind::Waiting) else {
            return self.refuse(query, "too many queries wait for an answer".to_owned(), Question::fail);
        };
        match query.current.upstream.addresses(&asked.name, family).await {
            Ok(Found::Records { records, ttl, fixed: true }) => self.tell(query, &asked.name, &records, ttl),
            Ok(Found::Records { records, ttl, fixed: false }) => self.tell_judged(query, asked, &records, ttl),
            Ok(Found::Nothing) => self.tell(query, &asked.name, &[], FIXED_TTL),
            Ok(Found::NoName) => query.question.no_name(),
            Err(error) => {
                tracing::debug!(name = %asked.name, error, "a target's name cannot be resolved");
                query.question.fail()
            }
        }
    }

    /// Tells those addresses that the name may have. If it has none of these, it is refused.
    fn tell_judged(&self, query: &Query<'_>, asked: &Asked, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
        let names = &query.current.names;
        let all_the_same = names.tells_all_the_same(asked);
        let (mut told, mut objection) = (Vec::new(), None);
        for &address in addresses.iter().take(message::MAX_RECORDS) {
            match names.objection(asked, address, upstream::is_own(address)) {
                None => told.push(address),
                Some(why) => {
                    objection = objection.or_else(|| Some(format!("it resolves to {address}, {why}")));
                    if all_the_same {
                        told.push(address);
                    }
                }
            }
        }
        match objection {
            Some(why) if told.is_empty() => self.refuse(query, why, Question::refuse),
            Some(why) => {
                self.record(query, why, all_the_same);
                self.tell(query, &asked.name, &told, ttl)
            }
            None => self.tell(query, &asked.name, &told, ttl),
        }
    }

    async fn tell_services(&self, query: &Query<'_>) -> Vec<u8> {
        let Some(_used) = self.take(&query.asker.holder, Kind::Waiting) else {
            return self.refuse(query, "too many queries wait for an answer".to_owned(), Question::fail);
        };
        let name = query.question.name();
        let (services, ttl) = match query.current.upstream.services(&name).await {
            Ok(Found::Records { records, ttl, .. }) => (records, ttl),
            Ok(Found::Nothing) => (Vec::new(), FIXED_TTL),
            Ok(Found::NoName) => return query.question.no_name(),
            Err(error) => {
                tracing::debug!(name, error, "a target's service cannot be looked up");
                return query.question.fail();
            }
        };
        let may_be_told = |host: &str, port| query.current.names.may_be_told(query.asker.agent(), host, port);
        let (mut told, mut objection) = (Vec::new(), None);
        for service in services {
            let host = service.target.to_ascii().to_ascii_lowercase();
            let host = host.trim_end_matches('.');
            if may_be_told(host, service.port) {
                told.push(service);
            } else {
                let why = format!("it leads to {host}:{}, where this agent has no target", service.port);
                objection.get_or_insert(why);
            }
        }
        match objection {
            Some(why) if told.is_empty() => return self.refuse(query, why, Question::refuse),
            Some(why) => self.record(query, why, false),
            None => {}
        }
        query.question.services(&told, ttl, query.transport)
    }

    /// Makes the answer, and remembers it before it is sent: the agent may connect at once.
    fn tell(&self, query: &Query<'_>, name: &Arc<str>, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
        let (answer, given) = query.question.addresses(addresses, ttl, query.transport);
        let (agent, ttl) = (agent_key(query.origin), Duration::from_secs(ttl.into()));
        lock(&self.0.memory).remember(agent, name, &given, ttl, Instant::now());
        answer
    }

    fn refuse(&self, query: &Query<'_>, why: String, answer: impl Fn(&Question) -> Vec<u8>) -> Vec<u8> {
        self.record(query, why, false);
        answer(query.question)
    }

    fn record(&self, query: &Query<'_>, reason: String, observed: bool) {
        let Some(passed_over) = lock(&self.0.limits).refused(&query.asker.holder, Instant::now()) else { return };
        let refused = RefusedQuery {
            origin: query.origin.clone(),
            name: query.question.name(),
            kind: query.question.kind(),
            reason,
            observed,
            passed_over,
        };
        let mut refusals = lock(&self.0.refusals);
        if refusals.len() < MAX_REFUSALS {
            refusals.push_back(refused);
            self.0.refused.notify_one();
        } else {
            tracing::warn!("a refused query is not recorded: too many wait to be");
        }
    }

    /// One of what an agent may have a limited number of, if it may.
    fn take(&self, holder: &Holder, kind: Kind) -> Option<Used<'_>> {
        let may = lock(&self.0.limits).take(holder, kind, Instant::now());
        may.then(|| Used { limits: &self.0.limits, holder: holder.clone(), kind })
    }
}

impl Current {
    fn new(config: Arc<Config>, runtime: &Handle) -> Self {
        let upstream = Upstream::new(&config.dns_servers, runtime.clone());
        Self { names: Names::new(config), upstream, askers: Mutex::default() }
    }

    /// Who asks. A cgroup's id is never used again, so the witness is asked once for each.
    async fn asker(&self, origin: &Origin, evidence: &impl EvidenceReader) -> Result<Arc<Asker>, WitnessError> {
        let key = agent_key(origin);
        if let Some(asker) = lock(&self.askers).get(&key) {
            return Ok(Arc::clone(asker));
        }
        let evidence = evidence.evidence(origin).await?;
        let asker = Arc::new(match identity::agent_and_scope(self.names.config(), origin, &evidence) {
            Ok((agent, scope)) => Asker { agent: Ok(agent), holder: (scope.into(), origin.uid) },
            Err(why) => Asker::unknown(origin, why.to_string()),
        });
        let mut askers = lock(&self.askers);
        if askers.len() >= MAX_ASKERS {
            askers.clear();
        }
        askers.insert(key, Arc::clone(&asker));
        Ok(asker)
    }
}

impl Asker {
    /// All that are no agents of a user share limits: they get nothing anyhow.
    fn unknown(origin: &Origin, why: String) -> Self {
        Self { agent: Err(why), holder: ("".into(), origin.uid) }
    }

    fn agent(&self) -> Result<&str, &str> {
        self.agent.as_deref().map_err(String::as_str)
    }
}

/// Gives back what was taken.
struct Used<'a> {
    limits: &'a Mutex<Limits>,
    holder: Holder,
    kind: Kind,
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        lock(self.limits).give_back(&self.holder, self.kind);
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
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
    use super::names::tests::{configured, rule, target};
    use super::*;
    use crate::config::AgentMatch;
    use crate::identity::tests::{agent, evidence, origin};
    use crate::target::Target;

    /// Knows where every origin sits.
    #[derive(Clone)]
    struct Sits(&'static str);

    impl EvidenceReader for Sits {
        async fn evidence(&self, origin: &Origin) -> Result<Evidence, WitnessError> {
            if self.0.is_empty() { Err(WitnessError::Gone { pid: origin.pid }) } else { Ok(evidence(self.0)) }
        }
    }

    const CODER: Sits = Sits("/agents.slice/coder@a.service");

    fn config(targets: Vec<Target>) -> Arc<Config> {
        let mut config = configured(targets, vec![rule(&["coder"], &[])]);
        config.agents = vec![agent("coder", AgentMatch::Unit("coder@*.service".to_owned()))];
        Arc::new(config)
    }

    fn dns(targets: Vec<Target>) -> Dns {
        Dns::new(config(targets))
    }

    /// One query over TCP, on a connection of its own.
    async fn ask_from(dns: &Dns, sits: Sits, query: &[u8]) -> Option<Vec<u8>> {
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
        tokio::join!(dns.serve_tcp(far, &origin, &sits), client).1
    }

    async fn ask(dns: &Dns, query: &[u8]) -> Option<Vec<u8>> {
        ask_from(dns, CODER, query).await
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
    async fn everything_else_is_refused_and_told() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7"])]);
        for (name, kind, code) in [
            ("exfiltrated-data.evil.example", RecordType::A, ResponseCode::Refused),
            ("sub.db.internal", RecordType::A, ResponseCode::Refused),
            ("internal", RecordType::A, ResponseCode::Refused),
            ("db.corp.example", RecordType::A, ResponseCode::NXDomain),
            ("db.internal", RecordType::TXT, ResponseCode::Refused),
            (".", RecordType::NS, ResponseCode::Refused),
        ] {
            let (got, addresses) = outcome(&ask(&dns, &query(name, kind)).await.unwrap());
            assert_eq!((got, addresses), (code, vec![]), "{name} {kind}");
            let refusal = dns.next_refusal().await;
            assert_eq!((refusal.name.as_str(), refusal.kind), (name, kind.to_string()));
            assert!(!refusal.observed && !refusal.reason.is_empty());
        }
    }

    #[tokio::test]
    async fn who_is_no_agent_learns_nothing() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7"])]);
        let ask = async |sits| outcome(&ask_from(&dns, sits, &query("db.internal", RecordType::A)).await.unwrap());
        let nobodys = (ResponseCode::NoError, vec![NOBODY.into()]);
        assert_eq!(ask(Sits("/agents.slice/other.service")).await, nobodys);
        assert!(dns.next_refusal().await.reason.contains("no agent is configured"));
        let dns = self::dns(vec![target("db.internal", &["192.0.2.7"])]);
        let gone = ask_from(&dns, Sits(""), &query("db.internal", RecordType::A)).await.unwrap();
        assert_eq!(outcome(&gone), (ResponseCode::ServFail, vec![]));
        assert!(dns.next_refusal().await.reason.contains("nobody knows who asks"));
    }

    #[tokio::test]
    async fn too_many_queries_are_refused_and_told() {
        let dns = dns(vec![target("db.internal", &["192.0.2.7"])]);
        let question = message::tests::question("db.internal", RecordType::A);
        let mut codes = HashMap::new();
        for _ in 0..3000 {
            let answer = dns.answer(&question, &origin(1001), Transport::Udp, &CODER).await;
            *codes.entry(outcome(&answer).0).or_insert(0) += 1;
        }
        assert!(codes[&ResponseCode::NoError] >= 1000 && codes[&ResponseCode::ServFail] > 1000, "{codes:?}");
        assert_eq!(dns.next_refusal().await.reason, "too many queries");
        // Another agent is not concerned.
        let other = Origin { cgroup_id: 43, ..origin(1002) };
        assert_eq!(outcome(&dns.answer(&question, &other, Transport::Udp, &CODER).await).0, ResponseCode::NoError);
    }

    #[tokio::test]
    async fn a_reload_changes_the_names_and_keeps_what_means_the_same() {
        let dns = dns(vec![target("old.internal", &["192.0.2.7"]), target("db.internal", &["192.0.2.9"])]);
        for name in ["old.internal", "db.internal"] {
            ask(&dns, &query(name, RecordType::A)).await.unwrap();
        }
        dns.reload(config(vec![target("new.internal", &["192.0.2.8"]), target("db.internal", &["192.0.2.9"])]));
        let code = |answer: Option<Vec<u8>>| outcome(&answer.unwrap()).0;
        assert_eq!(code(ask(&dns, &query("old.internal", RecordType::A)).await), ResponseCode::Refused);
        assert_eq!(code(ask(&dns, &query("new.internal", RecordType::A)).await), ResponseCode::NoError);
        let names = |address: &str| dns.names_for(agent_key(&origin(1001)), address.parse().unwrap());
        assert_eq!(names("192.0.2.9"), ["db.internal"]);
        assert!(names("192.0.2.7").is_empty());
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
        let ((), codes) = tokio::join!(dns.serve_tcp(far, &origin, &CODER), client);
        assert_eq!(codes, [ResponseCode::NoError, ResponseCode::NoError, ResponseCode::Refused]);
    }
}
