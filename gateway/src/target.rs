//! Targets: what agents connect to, and how the gateway reaches and logs in to it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One `[[target]]`.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    pub protocol: Protocol,
    /// What agents connect to.
    pub address: Vec<Address>,
    /// What its names resolve to for agents; empty: what this host's resolver says.
    pub resolve: Vec<IpAddr>,
    /// Where its names may resolve to; empty: public addresses, and private ones if it [is verified](Self::is_verified).
    pub resolve_within: Vec<Network>,
    /// Databases that sessions may name; empty: any.
    pub databases: Vec<String>,
    /// Sessions that no rule lets write are told to be read-only.
    pub read_only_sessions: bool,
    /// What a pooler before the server does with sessions; None: each session finds out whether there is one, which is not trusted with
    /// more than transactions.
    pub pool_mode: Option<PoolMode>,
    pub tls: TlsMode,
    pub login: Option<Login>,
    /// SNI names that a pass-through target accepts (`*.example.com` matches one label); empty: its own names.
    pub server_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Postgres,
    TlsPassthrough,
}

/// For how long a client has one connection of the server's (pgbouncer's words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolMode {
    Session,
    Transaction,
}

impl Target {
    /// Whether the gateway itself logs in there, and proves before it does that it speaks with the server of the name.
    pub fn is_verified(&self) -> bool {
        self.login.is_some() && matches!(self.tls, TlsMode::VerifyFull { .. })
    }

    /// Whether sessions that began under this section may go on under another one: it says the same, but for how names resolve, and
    /// for addresses that came to be.
    pub fn is_still(&self, new: &Self) -> bool {
        let Self {
            name,
            protocol,
            address,
            resolve: _,
            resolve_within: _,
            databases,
            read_only_sessions,
            pool_mode,
            tls,
            login,
            server_names,
        } = new;
        self.name == *name
            && self.protocol == *protocol
            && self.address.iter().all(|it| address.contains(it))
            && self.databases == *databases
            && self.read_only_sessions == *read_only_sessions
            && self.pool_mode == *pool_mode
            && self.tls == *tls
            && self.login == *login
            && self.server_names == *server_names
    }

    /// Whether the name, lower case and without a trailing dot, is one of the target's.
    pub fn has_name(&self, name: &str) -> bool {
        self.address.iter().any(|address| matches!(&address.host, Host::Name(own) if own == name))
    }

    /// Whether agents reach the target at `destination`: by one of these names (lower case, without a trailing dot) that
    /// resolved to it, or by its address.
    pub fn is_at(&self, destination: SocketAddr, names: &[String]) -> bool {
        self.address.iter().any(|address| {
            let host = match &address.host {
                Host::Name(name) => names.contains(name),
                network @ Host::Network(..) => network.contains(destination.ip()),
            };
            host && address.port == destination.port()
        })
    }
}

impl Protocol {
    /// The word that configuration uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::TlsPassthrough => "tls-passthrough",
        }
    }

    /// The service's name in SRV records (RFC 2782), as IANA registered it: the only one that agents may ask for, since
    /// labels of their choice would carry data to the name's owner.
    pub const fn service(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::TlsPassthrough => "https",
        }
    }

    /// Whether the gateway logs in to the target with a credential that it holds.
    pub const fn logs_in(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::TlsPassthrough => false,
        }
    }

    /// Whether what agents and the target say to each other is passed on unread.
    pub const fn is_opaque(self) -> bool {
        match self {
            Self::Postgres => false,
            Self::TlsPassthrough => true,
        }
    }

    /// What usually listens on a port.
    pub const fn at_port(port: u16) -> Option<Self> {
        match port {
            5432 => Some(Self::Postgres),
            443 => Some(Self::TlsPassthrough),
            _ => None,
        }
    }
}

/// Where a target really is, for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub address: SocketAddr,
    /// The name that the agent looked up, if it used one.
    pub server_name: Option<String>,
}

/// An address as configured, with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Lower case, without a trailing dot.
    Name(String),
    /// Network and prefix length; a single address has the full length.
    Network(IpAddr, u8),
}

impl Host {
    /// Whether the network has this address. Names have none.
    fn contains(&self, ip: IpAddr) -> bool {
        matches!(*self, Self::Network(first, prefix) if Network { first, prefix }.contains(ip))
    }
}

/// A network, or with the full length a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub first: IpAddr,
    pub prefix: u8,
}

impl Network {
    /// Whether it has this address; an IPv4 address in IPv6 clothes is an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let Self { first, prefix } = *self;
        let ip = ip.to_canonical();
        first.is_ipv4() == ip.is_ipv4() && first_of_network(ip, prefix) == first_of_network(first, prefix)
    }

    pub fn is_single(&self) -> bool {
        self.prefix == full_length(self.first)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Certificate and name are verified against these trust anchors (PEM file), or the system's.
    VerifyFull { ca: Option<PathBuf>, server_name: Option<String> },
    /// The chain is verified, the name is not.
    VerifyCa { ca: Option<PathBuf>, insecure: String },
    /// No TLS at all, and why.
    Disable { insecure: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub proof: Proof,
}

/// What proves to the target that the gateway may log in as the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    Password(CredentialSource),
    /// A token that is made for each login, see [`crate::rds_iam`]. The target is [verified](Target::is_verified), and by name.
    RdsIam(RdsIam),
}

/// Where tokens are good, and who signs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdsIam {
    pub region: String,
    pub keys: AwsKeys,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwsKeys {
    Held {
        access_key_id: String,
        secret_access_key: CredentialSource,
        /// What temporary keys come with.
        session_token: Option<CredentialSource>,
    },
    /// Those of the role of the EC2 instance that this host is, from its metadata service.
    InstanceRole { metadata_service: SocketAddr },
}

impl Login {
    /// All that is read for it.
    pub fn credentials(&self) -> impl Iterator<Item = &CredentialSource> {
        let sources = match &self.proof {
            Proof::Password(password) => [Some(password), None],
            Proof::RdsIam(RdsIam { keys: AwsKeys::Held { secret_access_key, session_token, .. }, .. }) => {
                [Some(secret_access_key), session_token.as_ref()]
            }
            Proof::RdsIam(RdsIam { keys: AwsKeys::InstanceRole { .. }, .. }) => [None, None],
        };
        sources.into_iter().flatten()
    }

    /// Where its keys are from, if they are those of the instance's role.
    pub fn metadata_service(&self) -> Option<SocketAddr> {
        match self.proof {
            Proof::RdsIam(RdsIam { keys: AwsKeys::InstanceRole { metadata_service }, .. }) => Some(metadata_service),
            _ => None,
        }
    }
}

/// Where a held credential comes from. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A systemd credential by name.
    Credential(String),
    /// A file that only root and the gateway's user can read.
    File(PathBuf),
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "the credential {name:?}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The prefix of a single address.
pub(crate) fn full_length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The network's address: the bits behind the prefix are 0.
pub(crate) fn first_of_network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}
