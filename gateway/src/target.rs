//! Targets: what agents connect to, and how the gateway reaches and logs in to it.

use std::net::SocketAddr;
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
    pub resolve: Vec<std::net::IpAddr>,
    /// Databases that sessions may name; empty: any.
    pub databases: Vec<String>,
    pub tls: TlsMode,
    pub login: Option<Login>,
    /// SNI names that a pass-through target accepts (`*.example.com` matches one label); empty: its own names.
    pub server_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Postgres,
    TlsPassthrough,
}

impl Target {
    /// Whether the name, lower case and without a trailing dot, is one of the target's.
    pub fn has_name(&self, name: &str) -> bool {
        self.address.iter().any(|address| matches!(&address.host, Host::Name(own) if own == name))
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
    Network(std::net::IpAddr, u8),
}

#[derive(Clone, Debug)]
pub enum TlsMode {
    /// Certificate and name are verified against these trust anchors (PEM file), or the system's.
    VerifyFull { ca: Option<PathBuf>, server_name: Option<String> },
    /// The chain is verified, the name is not.
    VerifyCa { ca: Option<PathBuf>, insecure: String },
    /// No TLS at all, and why.
    Disable { insecure: String },
}

#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: CredentialSource,
}

/// Where a held credential comes from. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A systemd credential by name.
    Credential(String),
    /// A file that only root and the gateway's user can read.
    File(PathBuf),
}
