//! What the system tests, the benchmark and the demo share: a place on the real kernel in which a gateway, agents and
//! servers run for real, and which is gone afterwards whatever happened.
//!
//! ```no_run
//! # fn main() -> system_tests::Result {
//! use system_tests::shop::Shop;
//!
//! let shop = Shop::new()?; // cgroups, directories, ports, PostgreSQL, issuer, configuration: all its own
//! let gateway = shop.serve()?; // ready when this returns
//! let rows = shop.psql("SELECT name FROM customers").run()?; // in an agent's cgroup, as the agent's user
//! assert!(rows.success());
//! let listed = shop.env.weir(["sessions", "list", "--json"])?; // as the administrator
//! gateway.kill()?; // SIGKILL to all of it
//! assert!(!shop.psql("SELECT 1").run()?.success());
//! # Ok(())
//! # }
//! ```
//!
//! Fixtures return errors that say what is missing; tests unwrap them. Nothing here skips.

pub mod ca;
pub mod canary;
pub mod cgroup;
pub mod env;
pub mod issuer;
pub mod lineage;
pub mod machine;
pub mod named;
pub mod outside;
pub mod packages;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod rds;
pub mod recording;
pub mod sabotage;
pub mod shop;
pub mod storm;
pub mod vm;

/// A fixture's result; the error is a sentence for whoever runs the tests.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
