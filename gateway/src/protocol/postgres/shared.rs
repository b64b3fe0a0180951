//! What the sessions of all PostgreSQL targets share: the catalog of each server's database (which columns are tagged) and what
//! is known of statements under it, and the keys by which running statements are cancelled.
//!
//! A catalog is read over a connection of the gateway's own, with the held login. It is read again when it is older than
//! [`REFRESH_AFTER`], while sessions go on with the one at hand; one older than [`MAX_AGE`] serves nobody: statements are denied
//! until it can be read again.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::future::poll_fn;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use super::NotServed;
use super::cancel::Keys;
use super::catalog::{self, CatalogError, TaggedSet};
use super::lookups::Lookups;
use super::operation::{Analyser, Parsed};
use super::reply::Doubt;
use super::statement::Lifetime;
use super::stream::Stream;
use super::upstream::{self, Endpoint, Login, Proof, Upstream};
use super::wire::{self, Room};
use crate::engine::Engine;
use crate::mask::MaskRule;
use crate::protocol::StateError;
use crate::rds_iam::Signer;
use crate::session::Session;
use crate::target::{self, Host, PoolMode, Target};
use crate::tls::{self, TlsError};

/// An older catalog is read again, in the background.
const REFRESH_AFTER: Duration = Duration::from_secs(30);
/// An older catalog is not used.
const MAX_AGE: Duration = Duration::from_mins(2);
/// A catalog must have been read by then.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// A catalog that could not be read is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// A failure that nobody met for so long is no news: nobody may have tried since it was repaired.
const PROBLEM_AGE: Duration = Duration::from_mins(10);
/// Bytes that a reading of a catalog may take, whatever the target sends: far more than the rows that are asked for have.
const MAX_CATALOG_BYTES: usize = 256 << 20;
/// Between the beginnings of two readings of one catalog. Who needs a newer one sooner waits, and shares it with all who do.
const READ_EVERY: Duration = Duration::from_millis(250);
/// How long a connection for questions about columns is kept when nobody asks any more.
const ASKS_FOR: Duration = Duration::from_secs(30);
/// Databases whose catalogs are held, each server's for itself; there is no use for more than a host's targets have.
const MAX_CATALOGS: usize = 256;
/// Statements that are remembered under one catalog, and how much memory they may take: twice this at most.
const REMEMBERED: usize = 2_000;
const REMEMBERED_BYTES: usize = 4 << 20;
/// Descriptions of results that are remembered for their names.
const MAX_VOUCHED: usize = 2_000;
const PARSER_THREADS: usize = 2;

/// What the sessions of PostgreSQL targets share.
pub struct State {
    pub(super) analyser: Analyser,
    pub(super) keys: Arc<Keys>,
    /// For large messages of clients.
    pub(super) room: Arc<Room>,
    pub(super) lookups: Lookups,
    /// Held by the one who has a target explain something.
    pub(super) explaining: tokio::sync::Mutex<()>,
    catalogs: Mutex<HashMap<Place, Arc<Slot>>>,
}

/// Where a catalog is from. A target may have several servers, and the same table another number on each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    target: String,
    address: SocketAddr,
    database: String,
}

/// A catalog as it was at one time, and what is known of statements under it.
pub(super) struct Catalog {
    pub(super) set: Arc<TaggedSet>,
    read_at: Instant,
    masks_version: u64,
    /// It says how many rows tables have.
    has_counts: bool,
    known: Mutex<Remembered<Arc<str>, Arc<Parsed>>>,
    /// Descriptions with names that masked columns could have, of which a reading has said that they are nobody's: passed on from
    /// reading to reading.
    vouched: Arc<Mutex<HashSet<Arc<[u8]>>>>,
}

/// The place of one database's catalog.
#[derive(Default)]
struct Slot {
    current: Mutex<Current>,
    /// When it was last begun to be read. Held by whoever reads the catalog; others wait for the result.
    reading: tokio::sync::Mutex<Option<Instant>>,
    /// Whom all sessions ask about columns. Held while there is none yet.
    asker: tokio::sync::Mutex<Option<Arc<Asker>>>,
    /// Whether a pooler answered, and when that was asked.
    pooled: Mutex<Option<(Instant, bool)>>,
}

/// A connection of the gateway's own, for small questions.
struct Asker {
    own: OwnClient,
    asked: Mutex<Instant>,
}

/// What was read last, and why the last reading failed, if it did: what is at hand serves on for as long as it may, whoever asked for a
/// newer one.
#[derive(Default)]
struct Current {
    read: Option<Arc<Catalog>>,
    failure: Option<Failure>,
}

/// Why a catalog could not be read, when, and for which masks: a typo in other masks than a session's is nothing to it.
struct Failure {
    why: Arc<str>,
    when: Instant,
    masks_version: u64,
}

/// How old a catalog a session can do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As old as any is used.
    Usual,
    /// Something is missing in the one at hand, or may have changed: only one that was begun to be read after this will do.
    AsNewAs(Instant),
}

impl State {
    pub(in crate::protocol) fn new(config: &crate::config::Config) -> Result<Self, StateError> {
        for target in &config.targets {
            tls::client_config(&target.tls, Some(super::startup::ALPN))?;
        }
        Ok(Self {
            analyser: Analyser::new(PARSER_THREADS)?,
            keys: Arc::default(),
            room: Arc::new(Room::new(wire::MAX_HELD_BY_ALL)),
            lookups: Lookups::default(),
            explaining: tokio::sync::Mutex::default(),
            catalogs: Mutex::default(),
        })
    }

    /// The catalog of the session's database. An error says why there is none, for people.
    pub(super) async fn catalog(
        &self,
        session: &Session,
        way: &Way,
        freshness: Freshness,
    ) -> Result<Arc<Catalog>, Arc<str>> {
        // What it would read under its old masks is good for nobody.
        if !session.masks_are_current() {
            return Err("the policy's masks changed; connect again".into());
        }
        let slot = self.slot(session, way)?;
        let masks_version = session.masks_version();
        let counts = session.asks_of_catalog();
        let usable = || slot.usable(masks_version, freshness, counts);
        if let Some(catalog) = usable()? {
            if catalog.read_at.elapsed() > REFRESH_AFTER {
                slot.refresh_in_background(session, way);
            }
            return Ok(catalog);
        }
        let mut reading = slot.reading.lock().await;
        // Somebody else may have read it meanwhile.
        if let Some(catalog) = usable()? {
            return Ok(catalog);
        }
        // Whoever comes to wait meanwhile is served by this reading too: nobody waits for more than two.
        if let Some(begun) = *reading {
            tokio::time::sleep_until((begun + READ_EVERY).into()).await;
        }
        *reading = Some(Instant::now());
        let masks = session.masker().rules().to_vec();
        let wanted = Wanted { masks: &masks, target: &session.target.name, counts };
        let read = load(way, wanted, masks_version).await;
        drop(reading);
        slot.set(read, masks_version)
    }

    /// Whether one of these relations has a column that came to be called what masks call columns since the catalog was read. The error
    /// says why that cannot be told.
    pub(super) async fn has_news(
        &self,
        session: &Session,
        way: &Way,
        set: &TaggedSet,
        relations: &[String],
    ) -> Result<bool, String> {
        let slot = self.slot(session, way).map_err(|why| why.to_string())?;
        let ask = async {
            let asker = slot.asker(way).await?;
            match set.has_news(&asker.own.client, relations).await {
                // One that was kept may be closed since: by a timeout of the server's, or with the server.
                Err(CatalogError::Query(error)) if error.is_closed() => {
                    slot.let_go(&asker).await;
                    let asker = slot.asker(way).await?;
                    set.has_news(&asker.own.client, relations).await.map_err(told)
                }
                answer => answer.map_err(told),
            }
        };
        tokio::time::timeout(LOAD_TIMEOUT, ask)
            .await
            .map_err(|_elapsed| "the target did not tell in time what columns there are".to_owned())?
    }

    /// Databases that are denied since their catalogs could not be read, and why. For people.
    pub(in crate::protocol) fn problems(&self) -> Vec<String> {
        let catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |(place, slot): (&Place, &Arc<Slot>)| {
            let current = slot.current();
            let Failure { why, masks_version, .. } =
                current.failure.as_ref().filter(|failure| failure.when.elapsed() < PROBLEM_AGE)?;
            if current.read.as_ref().is_some_and(|read| read.serves(*masks_version, Freshness::Usual)) {
                return None;
            }
            let Place { target, address, database } = place;
            Some(format!("target {target:?}, database {database:?} at {address} is denied: {why}"))
        };
        let mut problems: Vec<String> = catalogs.iter().filter_map(problem).collect();
        problems.sort_unstable();
        problems
    }

    /// Where sessions have found a database of a target.
    pub(super) fn address_of(&self, target: &str, database: &str) -> Option<SocketAddr> {
        let catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        catalogs.keys().find(|it| it.target == target && it.database == database).map(|it| it.address)
    }

    /// How long the target keeps what a session has named, as it is configured, or as the target itself shows now and then.
    pub(super) async fn lifetime(
        &self,
        session: &Session,
        way: &Way,
        upstream: &mut Upstream,
    ) -> Result<Lifetime, NotServed> {
        match session.target.pool_mode {
            Some(PoolMode::Session) => return Ok(Lifetime::Session),
            Some(PoolMode::Transaction) => return Ok(Lifetime::Transaction),
            None => {}
        }
        let slot = self.slot(session, way).map_err(|why| NotServed::Unfit(why.to_string()))?;
        let known = *slot.pooled.lock().unwrap_or_else(PoisonError::into_inner);
        let is_pooled = if let Some((_, known)) = known.filter(|(asked, _)| asked.elapsed() < REFRESH_AFTER) {
            known
        } else {
            let found = upstream::is_pooled(upstream).await?;
            *slot.pooled.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
            found
        };
        Ok(if is_pooled { Lifetime::Transaction } else { Lifetime::Session })
    }

    fn slot(&self, session: &Session, way: &Way) -> Result<Arc<Slot>, Arc<str>> {
        let mut catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        let target = session.target.name.clone();
        let place = Place { target, address: way.endpoint.address, database: way.database.clone() };
        if catalogs.len() >= MAX_CATALOGS && !catalogs.contains_key(&place) {
            let idle = catalogs.iter().find(|(_, slot)| Arc::strong_count(slot) == 1).map(|(place, _)| place.clone());
            let Some(idle) = idle else { return Err("too many databases are in use at once".into()) };
            catalogs.remove(&idle);
        }
        Ok(Arc::clone(catalogs.entry(place).or_default()))
    }
}

impl Catalog {
    /// In the place of one that cannot be had: it understands nothing.
    pub(super) fn unknown() -> Self {
        let set = Arc::new(TaggedSet::empty(std::time::SystemTime::now()));
        Self {
            set,
            read_at: Instant::now(),
            masks_version: 0,
            has_counts: false,
            known: Mutex::default(),
            vouched: Arc::default(),
        }
    }

    /// What a text does, from memory or by reading it.
    pub(super) async fn understand(&self, analyser: &Analyser, text: &Arc<str>) -> Arc<Parsed> {
        if let Some(parsed) = self.known().get(text) {
            return parsed;
        }
        match analyser.analyse(text, &self.set).await {
            Ok(parsed) => {
                self.known().put(Arc::clone(text), Arc::clone(&parsed), text.len() + parsed.size());
                parsed
            }
            Err(given_up) => given_up,
        }
    }

    /// Whether somebody was shown a result of this description, which is doubted for its names alone, after a reading.
    pub(super) fn has_vouched(&self, doubt: &Doubt) -> bool {
        let vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.key.as_ref().is_some_and(|it| vouched.contains(it))
    }

    pub(super) fn vouch(&self, doubt: &Doubt) {
        let Some(key) = &doubt.key else { return };
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if vouched.len() >= MAX_VOUCHED {
            vouched.clear();
        }
        vouched.insert(Arc::clone(key));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Remembered<Arc<str>, Arc<Parsed>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can be used without asking for a newer one.
    pub(super) fn is_fresh(&self) -> bool {
        self.read_at.elapsed() < REFRESH_AFTER
    }

    /// Whether it says what rules ask of this session's tables, also if these are newer than it is.
    pub(super) fn answers(&self, session: &Session) -> bool {
        self.has_counts || !session.asks_of_catalog()
    }

    fn serves(&self, masks_version: u64, freshness: Freshness) -> bool {
        let is_new_enough = match freshness {
            Freshness::Usual => true,
            Freshness::AsNewAs(time) => self.read_at >= time,
        };
        // Where no mask names a column there is nothing to read, whatever was changed.
        self.masks_version == masks_version
            && (self.set.is_empty() || self.read_at.elapsed() < MAX_AGE && is_new_enough)
    }
}

impl Slot {
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `counts`: rules ask for what it may not have been asked for.
    fn usable(&self, masks_version: u64, freshness: Freshness, counts: bool) -> Result<Option<Arc<Catalog>>, Arc<str>> {
        let current = self.current();
        let serves = |read: &&Arc<Catalog>| read.serves(masks_version, freshness) && (read.has_counts || !counts);
        if let Some(catalog) = current.read.as_ref().filter(serves) {
            return Ok(Some(Arc::clone(catalog)));
        }
        let is_recent = |it: &&Failure| it.masks_version == masks_version && it.when.elapsed() < RETRY_AFTER;
        current.failure.as_ref().filter(is_recent).map_or(Ok(None), |failure| Err(Arc::clone(&failure.why)))
    }

    /// Takes in what was read under the masks of that number. What a session that began before a reload has still read is
    /// its own: it never takes the place of what the new masks gave.
    fn set(&self, read: Result<Catalog, String>, masks_version: u64) -> Result<Arc<Catalog>, Arc<str>> {
        let mut current = self.current();
        let known = current.read.as_ref().filter(|known| known.masks_version == masks_version);
        let vouched = known.map(|known| Arc::clone(&known.vouched));
        let keep = |read: Catalog| Catalog { vouched: vouched.unwrap_or_default(), ..read };
        let read = read.map(|it| Arc::new(keep(it))).map_err(Arc::from);
        let of_failure = current.failure.as_ref().map_or(0, |failure| failure.masks_version);
        let newest = current.read.as_ref().map_or(0, |read| read.masks_version).max(of_failure);
        if masks_version >= newest {
            match &read {
                Ok(catalog) => *current = Current { read: Some(Arc::clone(catalog)), failure: None },
                Err(why) => {
                    current.failure = Some(Failure { why: Arc::clone(why), when: Instant::now(), masks_version });
                }
            }
        }
        read
    }

    /// Whom to ask: the one at hand, or a new one.
    async fn asker(self: &Arc<Self>, way: &Way) -> Result<Arc<Asker>, String> {
        let mut current = self.asker.lock().await;
        if let Some(asker) = current.as_ref().filter(|it| !it.own.client.is_closed()) {
            *asker.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Ok(Arc::clone(asker));
        }
        let own = OwnClient::connect(way, "weir columns", |_| {}).await?;
        let asker = Arc::new(Asker { own, asked: Mutex::new(Instant::now()) });
        *current = Some(Arc::clone(&asker));
        let (slot, known) = (Arc::downgrade(self), Arc::downgrade(&asker));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ASKS_FOR).await;
                let (Some(slot), Some(asker)) = (slot.upgrade(), known.upgrade()) else { return };
                if asker.asked.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= ASKS_FOR {
                    return slot.let_go(&asker).await;
                }
            }
        });
        Ok(asker)
    }

    async fn let_go(&self, asker: &Arc<Asker>) {
        let mut current = self.asker.lock().await;
        if current.as_ref().is_some_and(|it| Arc::ptr_eq(it, asker)) {
            *current = None;
        }
    }

    fn refresh_in_background(self: &Arc<Self>, session: &Session, way: &Way) {
        let slot = Arc::clone(self);
        let (way, masks) = (way.clone(), session.masker().rules().to_vec());
        let (target, masks_version) = (session.target.name.clone(), session.masks_version());
        let counts = session.asks_of_catalog();
        tokio::spawn(async move {
            let Ok(mut reading) = slot.reading.try_lock() else { return };
            // One that cannot be read is not tried by each statement.
            if reading.is_some_and(|begun| begun.elapsed() < RETRY_AFTER) {
                return;
            }
            *reading = Some(Instant::now());
            let read = load(&way, Wanted { masks: &masks, target: &target, counts }, masks_version).await;
            if let Err(why) = slot.set(read, masks_version) {
                let until = "the target's catalog cannot be read again; it is denied when the one at hand is too old";
                tracing::warn!(%target, database = %way.database, %why, "{until}");
            }
        });
    }
}

/// How to reach a target's database as the gateway.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) endpoint: Endpoint,
    pub(super) user: String,
    pub(super) proof: Proof,
    pub(super) database: String,
}

impl Way {
    /// Reads a password; keys are read when a token is made.
    pub(super) async fn new(
        engine: &Engine,
        target: &Target,
        upstream: &crate::target::Upstream,
        database: String,
    ) -> Result<Self, NotServed> {
        let Some(login) = &target.login else { return Err(NotServed::NoLogin(target.name.clone())) };
        let endpoint = Self::endpoint(target, upstream)?;
        let proof = match &login.proof {
            target::Proof::Password(password) => Proof::Password(engine.witness().credential(password).await?),
            target::Proof::RdsIam(iam) => {
                // The very name that the target's certificate is held to: nobody else gets the token.
                let Some((_, ServerName::DnsName(host))) = endpoint.tls.as_ref().filter(|_| target.is_verified())
                else {
                    return Err(NotServed::Unverified);
                };
                let instance = (host.as_ref(), endpoint.address.port());
                Proof::RdsIam(Arc::new(Signer::new(engine, iam, instance, &login.user)))
            }
        };
        Ok(Self { endpoint, user: login.user.clone(), proof, database })
    }

    fn endpoint(target: &Target, upstream: &crate::target::Upstream) -> Result<Endpoint, TlsError> {
        let address = upstream.address;
        let tls = match tls::client_config(&target.tls, Some(super::startup::ALPN))? {
            None => None,
            Some(config) => {
                // An agent that connects by address gets the target's name checked all the same.
                let configured = || {
                    target
                        .address
                        .iter()
                        .find_map(|it| if let Host::Name(name) = &it.host { Some(name.clone()) } else { None })
                };
                let name = upstream.server_name.clone().or_else(configured);
                let name = name.unwrap_or_else(|| address.ip().to_string());
                let name: ServerName<'static> = tls::server_name(&target.tls, &name)?;
                Some((config, name))
            }
        };
        Ok(Endpoint { address, tls })
    }

    /// `minor` is the version of the protocol that is asked for.
    pub(super) fn login<'a>(&'a self, settings: &'a [(String, String)], minor: u16) -> Login<'a> {
        Login { user: &self.user, proof: &self.proof, database: &self.database, settings, minor }
    }
}

/// What is to be known of a target's catalog.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) masks: &'a [Arc<MaskRule>],
    pub(super) target: &'a str,
    /// How many rows tables have.
    pub(super) counts: bool,
}

pub(super) async fn load(way: &Way, wanted: Wanted<'_>, masks_version: u64) -> Result<Catalog, String> {
    let read_at = Instant::now();
    let has_counts = wanted.counts || wanted.masks.iter().any(|mask| !mask.columns.is_empty());
    let set = if has_counts {
        let reading = read_catalog(way, wanted);
        tokio::time::timeout(LOAD_TIMEOUT, reading)
            .await
            .map_err(|_elapsed| "the target's catalog could not be read in time".to_owned())??
    } else {
        TaggedSet::empty(std::time::SystemTime::now())
    };
    Ok(Catalog {
        set: Arc::new(set),
        read_at,
        masks_version,
        has_counts,
        known: Mutex::default(),
        vouched: Arc::default(),
    })
}

async fn read_catalog(way: &Way, Wanted { masks, target, counts }: Wanted<'_>) -> Result<TaggedSet, String> {
    let mut own = OwnClient::connect(way, "weir catalog", |_| {}).await?;
    match catalog::load(&own.client, masks, target, counts).await {
        // What broke the connection is told where it is driven.
        Err(CatalogError::Query(error)) if error.is_closed() => {
            let broken = (&mut own.connection).await.ok().flatten();
            Err(unread(&broken.unwrap_or(error)))
        }
        set => set.map_err(told),
    }
}

/// A client on a connection of the gateway's own, with the held login. It ends when it is dropped.
pub(super) struct OwnClient {
    pub(super) client: tokio_postgres::Client,
    /// The target's `server_encoding`.
    pub(super) encoding: Option<String>,
    /// What broke it, if anything did. It is ended with this, however long an answer is waited for.
    connection: JoinHandle<Option<tokio_postgres::Error>>,
}

impl OwnClient {
    /// `hears` gets what the target says beside its answers. The error is for people.
    pub(super) async fn connect(
        way: &Way,
        name: &str,
        mut hears: impl FnMut(&tokio_postgres::error::DbError) + Send + 'static,
    ) -> Result<Self, String> {
        let settings = [("application_name".to_owned(), name.to_owned())];
        let upstream =
            upstream::connect(&way.endpoint, &way.login(&settings, 0)).await.map_err(|error| error.told())?;
        let encoding = upstream.parameters.iter().find(|(name, _)| name == "server_encoding");
        let encoding = encoding.map(|(_, value)| value.clone());
        let mut config = tokio_postgres::Config::new();
        config.user(&way.user).ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, mut connection) =
            config.connect_raw(Opened::new(upstream), NoTls).await.map_err(|error| unread(&error))?;
        let connection = tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(tokio_postgres::AsyncMessage::Notice(notice))) => hears(&notice),
                    Some(Ok(_)) => {}
                    Some(Err(broken)) => return Some(broken),
                    None => return None,
                }
            }
        });
        Ok(Self { client, encoding, connection })
    }
}

impl Drop for OwnClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn told(error: CatalogError) -> String {
    match error {
        CatalogError::Query(error) => unread(&error),
        error => error.to_string(),
    }
}

/// Why a catalog could not be read. The target's own text stays out of it, since clients are told: it may say anything.
fn unread(error: &tokio_postgres::Error) -> String {
    const UNREAD: &str = "the database's catalog could not be read";
    if let Some(code) = error.code() {
        let code = if wire::is_sqlstate(code.code()) { code.code() } else { "XX000" };
        return format!("{UNREAD}: the target's error {code}");
    }
    let causes = std::iter::successors(Some(error as &dyn Error), |it| (*it).source());
    causes.fold(UNREAD.to_owned(), |told, it| format!("{told}: {it}"))
}

/// A session that is logged in already, for a library that wants to log in itself: its start-up packet is swallowed, and it
/// is told that all went well. So there is one way in, [`upstream::connect`], and it gives no password away.
struct Opened {
    stream: Stream,
    /// Bytes that may still come: the library holds whole messages, and takes their lengths for granted.
    left: usize,
    /// What the library has still to read before the stream.
    greeting: Vec<u8>,
    /// Of its start-up packet: the bytes of the length, and then how many bytes are to come.
    packet: Packet,
}

enum Packet {
    Length(Vec<u8>),
    Body(usize),
}

impl Opened {
    fn new(upstream: Upstream) -> Self {
        let mut greeting = Vec::new();
        wire::authentication_ok(&mut greeting);
        for (name, value) in &upstream.parameters {
            wire::parameter_status(&mut greeting, name, value);
        }
        wire::ready_for_query(&mut greeting, wire::TransactionState::Idle);
        Self { stream: upstream.stream, left: MAX_CATALOG_BYTES, greeting, packet: Packet::Length(Vec::new()) }
    }

    /// How many of these bytes are still of the start-up packet.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        match &mut self.packet {
            Packet::Length(length) => {
                let taken = bytes.len().min(4 - length.len());
                length.extend_from_slice(&bytes[..taken]);
                if let Ok(length) = <[u8; 4]>::try_from(&length[..]) {
                    self.packet = Packet::Body((u32::from_be_bytes(length) as usize).saturating_sub(4));
                }
                taken
            }
            Packet::Body(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                taken
            }
        }
    }

    fn is_greeted(&self) -> bool {
        self.greeting.is_empty() && matches!(self.packet, Packet::Body(0))
    }
}

impl AsyncRead for Opened {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_greeted() || this.greeting.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            this.left = this.left.checked_sub(read).ok_or_else(too_large)?;
            return Poll::Ready(Ok(()));
        }
        let now = this.greeting.len().min(buf.remaining());
        buf.put_slice(&this.greeting[..now]);
        this.greeting.drain(..now);
        Poll::Ready(Ok(()))
    }
}

fn too_large() -> io::Error {
    io::Error::other(format!("the target has sent more than {} MiB", MAX_CATALOG_BYTES >> 20))
}

impl AsyncWrite for Opened {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.swallow(buf) {
            0 => Pin::new(&mut this.stream).poll_write(cx, buf),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A bounded memory that forgets what was not asked for lately: two halves, of which the older is dropped when the newer is
/// full.
pub(super) struct Remembered<K, V> {
    newer: HashMap<K, (V, usize)>,
    older: HashMap<K, (V, usize)>,
    bytes: usize,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { newer: HashMap::new(), older: HashMap::new(), bytes: 0 }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Remembered<K, V> {
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Some((value, _)) = self.newer.get(key) {
            return Some(value.clone());
        }
        let (key, (value, size)) = self.older.remove_entry(key)?;
        self.put(key, value.clone(), size);
        Some(value)
    }

    /// `size`: bytes that the entry costs. What costs more than there is for all is not remembered.
    pub(super) fn put(&mut self, key: K, value: V, size: usize) {
        if size > REMEMBERED_BYTES {
            return;
        }
        if self.newer.len() >= REMEMBERED || self.bytes + size > REMEMBERED_BYTES {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
        self.bytes += size;
        self.newer.insert(key, (value, size));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{ColumnPattern, MaskKind};
    use crate::protocol::postgres::catalog::{ColumnRow, RelationRow, Snapshot};

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let mut memory = Remembered::default();
        memory.put(0, "zero", 10);
        for key in 1..10 * REMEMBERED {
            memory.put(key, "other", 10);
            assert_eq!(memory.get(&0), Some("zero"));
            assert!(memory.newer.len() + memory.older.len() <= 2 * REMEMBERED);
        }
        assert_eq!(memory.get(&1), None);
    }

    fn catalog(masks_version: u64, read_at: Instant) -> Catalog {
        let set = Arc::new(TaggedSet::empty(std::time::SystemTime::UNIX_EPOCH));
        Catalog { set, read_at, masks_version, has_counts: true, known: Mutex::default(), vouched: Arc::default() }
    }

    fn tagged() -> TaggedSet {
        let relation = RelationRow {
            oid: 1,
            schema: "public".to_owned(),
            name: "customers".to_owned(),
            kind: 'r',
            rows: None,
            columns: 1,
        };
        let columns = vec![ColumnRow { relation: 1, number: 1, name: "ssn".to_owned() }];
        let snapshot = Snapshot { relations: vec![relation], columns, ..Snapshot::default() };
        let pattern = ColumnPattern { schema: None, table: None, column: "ssn".to_owned() };
        let mask = MaskRule {
            name: "PII".to_owned(),
            targets: Vec::new(),
            columns: vec![pattern],
            detectors: Vec::new(),
            with: MaskKind::Redact,
            lookups_per_minute: None,
        };
        TaggedSet::resolve(&snapshot, &[Arc::new(mask)], std::time::SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_catalog_that_was_begun_to_be_read_before_a_change_does_not_serve_after_it() {
        let read_at = Instant::now();
        let nothing = catalog(1, read_at);
        let catalog = Catalog { set: Arc::new(tagged()), ..catalog(1, read_at) };
        let later = Freshness::AsNewAs(read_at + Duration::from_nanos(1));
        assert!(nothing.serves(1, later) && !nothing.serves(2, later), "no column is masked, whatever was changed");
        assert!(catalog.serves(1, Freshness::Usual));
        assert!(catalog.serves(1, Freshness::AsNewAs(read_at)));
        assert!(!catalog.serves(1, later));
    }

    #[test]
    fn what_cannot_be_read_again_serves_for_as_long_as_it_may() {
        let slot = Slot::default();
        let again = || slot.set(Err("expired keys".to_owned()), 2);
        let usable = || slot.usable(2, Freshness::Usual, false);
        let set = || Arc::new(tagged());
        assert!(slot.set(Ok(Catalog { set: set(), ..catalog(2, Instant::now()) }), 2).is_ok());
        assert!(again().is_err() && usable().is_ok_and(|it| it.is_some()));
        assert!(slot.usable(2, Freshness::AsNewAs(Instant::now()), false).is_err(), "and is not tried again at once");
        let old = Instant::now().checked_sub(MAX_AGE).unwrap();
        assert!(slot.set(Ok(Catalog { set: set(), ..catalog(2, old) }), 2).is_ok());
        assert!(again().is_err() && usable().is_err());
        assert!(slot.set(Ok(catalog(2, Instant::now())), 2).is_ok() && usable().is_ok_and(|it| it.is_some()));
    }

    #[test]
    fn what_was_read_under_older_masks_never_takes_the_place_of_newer() {
        let slot = Slot::default();
        let now = Instant::now();
        let is_newer = || slot.usable(2, Freshness::Usual, false).is_ok_and(|it| it.is_some());
        assert!(slot.set(Ok(catalog(2, now)), 2).is_ok());
        assert!(slot.set(Ok(catalog(1, now)), 1).is_ok_and(|it| it.masks_version == 1), "its own reader has it");
        assert!(is_newer());
        assert!(slot.set(Err("an old typo".to_owned()), 1).is_err());
        assert!(is_newer());
        assert!(slot.set(Err("a typo".to_owned()), 3).is_err());
        assert!(slot.usable(3, Freshness::Usual, false).is_err() && is_newer());
        // The next masks may have put it right.
        assert!(slot.usable(4, Freshness::Usual, false).is_ok_and(|it| it.is_none()));
    }
}
