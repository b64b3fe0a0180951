//! Servers of other versions than Debian's: the tree that tells where a result comes from differs from version to version, and so
//! do the catalogs.

#[path = "postgres_versions/startup.rs"]
mod startup;

use std::process::Command;

use system_tests::env::Env;
use system_tests::lineage;
use system_tests::postgres::{Options, Postgres};
use system_tests::shop::Shop;

fn shop(version: &'static str) -> Shop {
    let env = Env::new().unwrap();
    let options = Options { version: Some(version), ..Options::default() };
    let postgres = Postgres::start_with(&env, options).unwrap();
    Shop::with(env, postgres).unwrap()
}

/// The corpus of disguises, and, first of all, that it is the server that it is said to be.
fn holds(version: &'static str) {
    let shop = shop(version);
    let number: u32 = shop.postgres.sql("SHOW server_version_num").unwrap().parse().unwrap();
    assert_eq!((number / 10_000).to_string(), version);
    lineage::hold(&shop).unwrap();
    let gateway = shop.serve().unwrap();
    for sql in ["\\d customers", "\\d+", "\\df", "SELECT name FROM customers WHERE id = 1"] {
        shop.psql(sql).run().unwrap().expect_success().unwrap();
    }
    // The newest counts buffers by itself, and what is planned by the catalogs tells of what lies in them.
    let said = shop.psql("EXPLAIN ANALYZE SELECT 1 FROM payments").run().unwrap();
    assert_eq!(said.stderr.contains("BUFFERS OFF"), version == "18", "{said:?}");
    drop(gateway);
}

#[test]
fn postgresql_13() {
    holds("13");
}

#[test]
fn postgresql_14() {
    holds("14");
}

#[test]
fn postgresql_16() {
    holds("16");
}

#[test]
fn postgresql_17() {
    holds("17");
}

#[test]
fn postgresql_18() {
    holds("18");
}

/// Debian's is the one that every other suite runs with.
#[test]
fn debians_own_is_15() {
    let version = Command::new("/usr/lib/postgresql/15/bin/postgres").arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains(" 15."));
}
