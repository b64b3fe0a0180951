//! Asks the host's recursive resolvers, and /etc/hosts before them. Names are asked for as they are, never with a search
//! domain behind them; answers, negative ones too, are kept as long as their TTL says.
//!
//! Not getaddrinfo: it blocks a thread, adds search domains, and tells no TTL.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::runtime::Handle;

use super::message::Family;

/// A client waits no longer for an answer: its own patience is about 5 s.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long all servers together have for one attempt, and attempts after the first.
const ATTEMPT: Duration = Duration::from_millis(1500);
const RETRIES: usize = 1;
/// CNAMEs that are followed.
const MAX_CHAIN: usize = 8;
/// Answers that are kept. The configuration bounds the names that are asked for, unless it only observes.
const MAX_KEPT: u64 = 8192;
/// How long answers are kept. At least that long even with a TTL of 0, so that agents that ask at the same time share one.
const MIN_KEPT: Duration = Duration::from_secs(1);
const MAX_KEPT_FOR: Duration = Duration::from_hours(1);
const MAX_DENIAL_KEPT_FOR: Duration = Duration::from_mins(1);
/// The most that agents are told, in seconds, so that a changed configuration is soon asked for again.
const MAX_TTL: u32 = 300;
/// What agents are told of addresses that files or the configuration fix.
pub(super) const FIXED_TTL: u32 = 30;
/// Bytes read of /etc/hosts and /etc/resolv.conf, and servers taken from the latter, as resolv.conf(5) has it.
const MAX_FILE: u64 = 4 << 20;
const MAX_SERVERS: usize = 3;
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a name comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// `ttl` in seconds; `fixed` on this host, by its administrator.
    Records {
        records: Vec<T>,
        ttl: u32,
        fixed: bool,
    },
    /// The name exists, and has no such record.
    Nothing,
    NoName,
}

/// Resolves names.
pub(super) struct Upstream {
    /// Where the queries run, whoever asks: connections to servers outlive the shard that needed them first.
    runtime: Handle,
    hosts: Watched<Arc<Hosts>>,
    resolver: Resolvers,
}

enum Resolvers {
    Configured(TokioResolver),
    System(Watched<TokioResolver>),
}

impl Upstream {
    /// With these servers; none: those of /etc/resolv.conf.
    pub(super) fn new(servers: &[SocketAddr], runtime: Handle) -> Self {
        let resolver = if servers.is_empty() {
            Resolvers::System(Watched::new(RESOLV_CONF))
        } else {
            Resolvers::Configured(resolver(servers.iter().copied()))
        };
        Self { runtime, hosts: Watched::new(HOSTS), resolver }
    }

    /// The addresses of a name, of one family.
    pub(super) async fn addresses(&self, name: &str, family: Family) -> Result<Found<IpAddr>, String> {
        let name = absolute(name)?;
        if let Some(records) = self.in_hosts_file(&name) {
            let records: Vec<IpAddr> = records.into_iter().filter(|&address| family.holds(address)).collect();
            // A name that stands there is there as a whole: the other family is not looked for elsewhere.
            let is_missing = records.is_empty();
            return Ok(if is_missing {
                Found::Nothing
            } else {
                Found::Records { records, ttl: FIXED_TTL, fixed: true }
            });
        }
        let found = self.look_up(name, family.record_type()).await?;
        Ok(found.map(|record| record.data.ip_addr()))
    }

    /// The SRV records of a name.
    pub(super) async fn services(&self, name: &str) -> Result<Found<SRV>, String> {
        let found = self.look_up(absolute(name)?, RecordType::SRV).await?;
        Ok(found.map(|record| match &record.data {
            RData::SRV(service) => Some(service.clone()),
            _ => None,
        }))
    }

    fn in_hosts_file(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let hosts = self.hosts.get(|file| {
            let mut hosts = Hosts::default();
            hosts.read_hosts_conf(file)?;
            Ok(Arc::new(hosts))
        });
        let hosts = hosts.inspect_err(|error| tracing::debug!(%error, "/etc/hosts cannot be read")).ok()?;
        let of_type = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let (v4, v6) = (of_type(RecordType::A), of_type(RecordType::AAAA));
        if v4.is_none() && v6.is_none() {
            return None;
        }
        let lookups = v4.into_iter().chain(v6);
        Some(lookups.flat_map(|it| it.answers().to_vec()).filter_map(|record| record.data.ip_addr()).collect())
    }

    async fn look_up(&self, name: Name, kind: RecordType) -> Result<Found<Record>, String> {
        let resolver = match &self.resolver {
            Resolvers::Configured(resolver) => resolver.clone(),
            Resolvers::System(watched) => {
                watched.get(system_resolver).map_err(|error| format!("{RESOLV_CONF}: {error}"))?
            }
        };
        let asked = name.clone();
        let query = self.runtime.spawn(async move { resolver.lookup(asked, kind).await });
        let answer = tokio::time::timeout(TIMEOUT, query).await.map_err(|_| "no answer in time".to_owned())?;
        match answer.map_err(|error| error.to_string())? {
            Ok(lookup) => Ok(end_of_chain(&name, kind, &lookup)),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Ok(Found::NoName),
                ResponseCode::NoError => Ok(Found::Nothing),
                code => Err(code.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

impl<T> Found<T> {
    fn map<U>(self, change: impl FnMut(&T) -> Option<U>) -> Found<U> {
        match self {
            Self::Records { records, ttl, fixed } => {
                Found::Records { records: records.iter().filter_map(change).collect(), ttl, fixed }
            }
            Self::Nothing => Found::Nothing,
            Self::NoName => Found::NoName,
        }
    }
}

/// The records at the end of the chain that begins with this name; whatever else the answer has is no part of it.
fn end_of_chain(name: &Name, kind: RecordType, lookup: &Lookup) -> Found<Record> {
    let (mut owner, mut ttl) = (name.clone(), MAX_TTL);
    for _ in 0..=MAX_CHAIN {
        let records: Vec<Record> = lookup
            .answers()
            .iter()
            .filter(|record| record.name == owner && record.record_type() == kind)
            .cloned()
            .collect();
        if let Some(least) = records.iter().map(|record| record.ttl).min() {
            return Found::Records { records, ttl: ttl.min(least), fixed: false };
        }
        let next = lookup.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(next) if record.name == owner => Some((next.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((next, least)) = next else { break };
        (owner, ttl) = (next, ttl.min(least));
    }
    Found::Nothing
}

fn absolute(name: &str) -> Result<Name, String> {
    Name::from_ascii(format!("{name}.")).map_err(|error| error.to_string())
}

fn system_resolver(file: io::Take<File>) -> io::Result<TokioResolver> {
    Ok(resolver(servers_of(&io::read_to_string(file)?).into_iter().map(|ip| SocketAddr::new(ip, 53))))
}

/// The servers of a resolv.conf(5); where it names none, this host's own.
fn servers_of(resolv_conf: &str) -> Vec<IpAddr> {
    let named = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|&word| word == "nameserver").and(words.next())?;
        let parsed = address.parse();
        if parsed.is_err() {
            // With a zone, perhaps: link-local servers are reached by interface, which is not supported.
            tracing::warn!(address, "a nameserver of {RESOLV_CONF} is passed over");
        }
        parsed.ok()
    });
    let servers: Vec<IpAddr> = named.take(MAX_SERVERS).collect();
    if servers.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { servers }
}

fn resolver(servers: impl Iterator<Item = SocketAddr>) -> TokioResolver {
    let servers = servers.map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut config.connections {
            connection.port = server.port();
        }
        config
    });
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT;
    options.attempts = RETRIES;
    options.cache_size = MAX_KEPT;
    options.positive_min_ttl = Some(MIN_KEPT);
    options.positive_max_ttl = Some(MAX_KEPT_FOR);
    options.negative_min_ttl = Some(MIN_KEPT);
    options.negative_max_ttl = Some(MAX_DENIAL_KEPT_FOR);
    // The chain is followed here, so that nothing beside it counts.
    options.preserve_intermediates = true;
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    builder.build().expect("without TLS there is nothing that can fail")
}

/// Whether an address is one of this host's: what it would connect to from that very address. No packet is sent.
pub(super) fn is_own(address: IpAddr) -> bool {
    // Any port: nothing is ever sent to it.
    const DISCARD: u16 = 9;
    let from: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let local = UdpSocket::bind(from).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    });
    // Where there is no way to it, nobody will connect to it either.
    local.is_ok_and(|local| local.ip() == address)
}

/// What was made of a file, made again when the file has changed.
struct Watched<T> {
    path: PathBuf,
    made: Mutex<Option<(Stamp, T)>>,
}

/// Device, inode, size, and time of change: what tells one version of a file from another.
type Stamp = (u64, u64, u64, i64, i64);

impl<T: Clone> Watched<T> {
    fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), made: Mutex::new(None) }
    }

    fn get(&self, make: impl FnOnce(io::Take<File>) -> io::Result<T>) -> io::Result<T> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&std::fs::metadata(&self.path)?);
        if let Some((of, value)) = &*made
            && *of == stamp
        {
            return Ok(value.clone());
        }
        let file = File::open(&self.path)?;
        let stamp = self::stamp(&file.metadata()?);
        let value = make(file.take(MAX_FILE))?;
        *made = Some((stamp, value.clone()));
        Ok(value)
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        absolute(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn cname(owner: &str, ttl: u32, to: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
    }

    /// The last octets of the addresses, and the TTL.
    fn end(records: Vec<Record>) -> Option<(Vec<u8>, u32)> {
        let query = Query::query(name("db.internal"), RecordType::A);
        match end_of_chain(&name("DB.internal"), RecordType::A, &Lookup::new_with_max_ttl(query, records)) {
            Found::Records { records, ttl, fixed: false } => {
                let last = |record: &Record| match record.data.ip_addr() {
                    Some(IpAddr::V4(address)) => address.octets()[3],
                    other => panic!("{other:?}"),
                };
                Some((records.iter().map(last).collect(), ttl))
            }
            _ => None,
        }
    }

    #[test]
    fn the_chain_is_followed_and_nothing_beside_it() {
        assert_eq!(end(vec![a("db.internal", 60, 1), a("db.internal", 50, 2)]), Some((vec![1, 2], 50)));
        let chain = || vec![cname("db.internal", 20, "x.example"), cname("x.example", 90, "y.example")];
        assert_eq!(end([chain(), vec![a("y.example", 60, 1)]].concat()), Some((vec![1], 20)));
        assert_eq!(end([vec![a("y.example", 60, 1)], chain()].concat()), Some((vec![1], 20)), "in any order");
        assert_eq!(end(vec![a("db.internal", 100_000, 1)]), Some((vec![1], MAX_TTL)));
        assert_eq!(end(vec![a("evil.example", 60, 1)]), None);
        assert_eq!(end([chain(), vec![a("x.example", 60, 1)]].concat()).map(|it| it.0), Some(vec![1]));
        assert_eq!(end([chain(), vec![a("z.example", 60, 1)]].concat()), None);
        assert_eq!(end(vec![cname("db.internal", 20, "db.internal")]), None, "a circle");
        let long = (0..20).map(|n| cname(&format!("n{n}"), 20, &format!("n{}", n + 1)));
        let long = [vec![cname("db.internal", 20, "n0"), a("n20", 60, 1)], long.collect()].concat();
        assert_eq!(end(long), None, "too long");
    }

    #[test]
    fn servers_are_read_as_glibc_reads_them() {
        let servers = |text: &str| servers_of(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            servers("# nameserver 192.0.2.9\nsearch a.b\n nameserver\t192.0.2.1 x\nnameserver ::1\n"),
            ["192.0.2.1", "::1"]
        );
        assert_eq!(servers("nameserver fe80::1%eth0\nnameserver 192.0.2.1\n"), ["192.0.2.1"]);
        assert_eq!(servers("nameservers 192.0.2.1\n"), ["127.0.0.1"]);
        assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(5)).len(), MAX_SERVERS);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("weir-watched-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let watched = Watched::new(&path);
        let read = || watched.get(io::read_to_string);
        assert_eq!(read().unwrap(), "one");
        assert_eq!(watched.get(|_| Ok("made again".to_owned())).unwrap(), "one");
        std::fs::write(&path, "other").unwrap();
        assert_eq!(read().unwrap(), "other");
        std::fs::remove_file(&path).unwrap();
        assert!(read().is_err());
    }

    #[test]
    fn this_hosts_addresses_are_known_as_such() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.77".parse().unwrap()));
    }
}
