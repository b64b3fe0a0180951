//! sqllogictest's engines for PostgreSQL, simple and extended, which are tokio-postgres: what it writes down as a script's results
//! is the same both ways, byte by byte, for its own scripts and for one of ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use system_tests::env::Place;
use system_tests::postgres::{NAME, ROLE};

use super::programs::World;
use super::staged;

/// One run of one script.
const LIMIT: Duration = Duration::from_mins(1);
const STATEMENTS: &str = include_str!("statements.sql");
/// Each engine, and its own script.
const ENGINES: [(&str, &str); 2] =
    [("postgres", "postgres_simple_test.slt"), ("postgres-extended", "postgres_extended_test.slt")];
/// Every run has it for itself.
const DATABASE: &str = "sheet";

#[test]
fn sqllogictest() {
    let world = World::new();
    let directory = staged(&world.shop.env, &["sqllogictest"]).join("sqllogictest");
    let program = directory.join("sqllogictest").display().to_string();
    // It speaks no TLS, and the server takes none without it but on its socket.
    let socket = world.shop.postgres.socket_dir().display().to_string();
    let straight = || world.shop.env.bystander(&program).args(["--host", &socket]);
    let through = || world.shop.env.agent(&program).args(["--host", NAME]);
    let statements = STATEMENTS.lines().filter(|line| !line.is_empty() && !line.starts_with("--"));
    // Whether there are rows, a number of rows or an error, is to be seen.
    let blank: Vec<String> = statements.map(|statement| format!("query ?\n{statement}\n----\n\n")).collect();
    let blank = blank.concat();
    for (engine, own) in ENGINES {
        let own = fs::read_to_string(directory.join(own)).unwrap();
        for script in [&own, &blank] {
            let [filled, filled_through] = [straight(), through()].map(|place| run(&world, place, engine, script));
            let begun = |with: &str| filled.lines().filter(|line| line.starts_with(with)).count();
            let (answers, counts, errors) = (begun("query "), begun("statement "), begun("query error"));
            println!(
                "{engine}: {answers} queries, {errors} of them with an error, and {counts} statements without rows"
            );
            assert!(script == &own || (answers > 90 && counts > 40 && errors > 30), "{filled}");
            let pairs = filled.lines().zip(filled_through.lines());
            let differing: Vec<_> = pairs.filter(|(one, two)| one != two).collect();
            assert!(filled == filled_through, "{engine}: straight, then through the gateway: {differing:#?}");
        }
    }
}

/// Runs a script in a fresh database; what the script is then, with all results as they came.
fn run(world: &World, place: Place<'_>, engine: &str, script: &str) -> String {
    let server = &world.shop.postgres;
    server.sql(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).unwrap();
    // The same name each time: it may be in what is written down.
    let path = world.file("script.slt");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let place =
        place.args(["--port", &server.port().to_string(), "--db", DATABASE, "--user", ROLE, "--engine", engine]);
    let finished = place.arg("--override").arg(&path).start().unwrap().finish(LIMIT).unwrap();
    assert!(finished.success(), "{engine}: {finished:?}\n{}", world.shop.env.log());
    server.sql(&format!("DROP DATABASE {DATABASE} WITH (FORCE)")).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    after
}
