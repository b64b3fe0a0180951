//! What the system tests, the benchmark and the demo share: a place on the real kernel in which a gateway, agents and
//! servers run for real, and which is gone afterwards whatever happened.
//!
//! ```no_run
//! # fn main() -> system_tests::Result {
//! use system_tests::{env::Env, postgres::Postgres};
//!
//! let env = Env::new()?; // own cgroups, directories, ports
//! let database = Postgres::start(&env)?; // own server, own CA, fake data
//! env.hosts(&[(system_tests::postgres::NAME, database.address())])?;
//! env.configure("# targets, rules, masks")?;
//! let gateway = env.serve()?; // ready when this returns
//! let reply = env.agent("psql").arg("--version").run()?; // in an agent's cgroup, as the agent's user
//! assert!(reply.success());
//! drop(gateway);
//! # Ok(())
//! # }
//! ```
//!
//! Fixtures return errors that say what is missing; tests unwrap them. Nothing here skips.

pub mod ca;
pub mod env;
pub mod issuer;
pub mod postgres;
pub mod process;
pub mod shop;

/// A fixture's result; the error is a sentence for whoever runs the tests.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
