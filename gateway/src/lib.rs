//! Weir's user-space half: one library, used by the `weir` binary and by the system tests.
//!
//! The life of a connection reads in [`accept`]; ARCHITECTURE.md is the map.

pub mod accept;
pub mod admin;
pub mod admission;
pub mod approval;
pub mod ca;
pub mod cli;
pub mod config;
pub mod dns;
pub mod engine;
pub mod gateway;
pub(crate) mod handover;
pub(crate) mod http;
pub mod identity;
pub mod ids;
pub mod intercept;
pub mod limit;
pub mod live;
pub mod mask;
pub(crate) mod namespaces;
pub mod origin;
pub(crate) mod packets;
pub mod policy;
pub mod protocol;
pub mod rds_iam;
pub mod record;
pub mod secret;
pub mod session;
pub(crate) mod shards;
pub mod show;
pub mod splice;
pub(crate) mod supervise;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod verdicts;
pub mod witness;
