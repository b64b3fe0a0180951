//! Clients whose packages bring no suite: a program for each uses it for all that it can, straight at a server and through the
//! gateway before the very same one. What it writes down must be the same, line by line.

use std::fs;
use std::path::Path;
use std::time::Duration;

use system_tests::env::Place;

use crate::programs::World;

/// One run of one program.
const LIMIT: Duration = Duration::from_mins(2);
/// How many lines of a complaint are shown.
const SHOWN: usize = 20;
/// A program's last line.
const END: &str = "# end";

const NO_SUCH_NAME: &str =
    "the gateway, which knows of no such name, answers for the server: without the place in its source";
/// Lines that may end in another way through the gateway, by what they begin with, and why that is right.
const DIFFERENT: &[(&str, &str)] = &[
    ("no such database", "what a target says before a session is there, the gateway says in its own words"),
    ("a plan that is gone", NO_SUCH_NAME),
    ("    B\tNN\tErrorResponse\t S \"ERROR\" V \"ERROR\" C \"26000\" M \"prepared statement", NO_SUCH_NAME),
    ("    B\tNN\tErrorResponse\t S \"ERROR\" V \"ERROR\" C \"34000\" M \"portal", NO_SUCH_NAME),
];

#[test]
fn node_postgres() {
    let world = World::new();
    let clients = super::staged(&world.shop.env, &["node"]);
    let script = world.file("transcript.js");
    fs::write(&script, include_str!("node.js")).unwrap();
    same(&world, "node", 1000, |node| node.env("NODE_PATH", clients.join("node")).args(["--no-deprecation", &script]));
}

#[test]
fn pgjdbc() {
    let world = World::new();
    let driver = super::staged(&world.shop.env, &["pgjdbc.jar"]).join("pgjdbc.jar");
    let script = world.file("Transcript.java");
    fs::write(&script, include_str!("Transcript.java")).unwrap();
    same(&world, "java", 2500, |java| java.args(["-Dfile.encoding=UTF-8", "-cp"]).arg(&driver).arg(&script));
}

/// psycopg 3: its Python with Debian's libpq and its C with libpq 18, the half that waits and the one that does not. Its suite is in no
/// package. Messages are compared one by one, since libpq writes them down.
#[test]
fn psycopg() {
    let world = World::new();
    let site = super::staged(&world.shop.env, &["site"]).join("site");
    let script = world.file("transcript.py");
    fs::write(&script, include_str!("transcript.py")).unwrap();
    // Once for all runs, since types are known by number.
    let types = "CREATE EXTENSION hstore; CREATE SCHEMA transcript; CREATE TYPE transcript.mood AS ENUM ('sad', 'ok');
        CREATE TYPE transcript.pair AS (a int, b text);
        CREATE PROCEDURE transcript.twice(INOUT n int) LANGUAGE plpgsql AS $$BEGIN COMMIT; n := n * 2; END$$";
    world.shop.postgres.sql(types).unwrap();
    for implementation in ["python", "binary"] {
        for half in ["async", "sync"] {
            same(&world, super::PYTHON, 7000, |python| {
                python.env("PSYCOPG_IMPL", implementation).env("PYTHONPATH", &site).args([&script, half])
            });
        }
    }
}

/// Runs a program both ways; fewer lines than `least` would mean that it did not do much.
fn same<'a>(world: &'a World, program: &str, least: usize, told: impl Fn(Place<'a>) -> Place<'a>) {
    let [straight, through] =
        [("straight", world.straight(program)), ("through", world.through(program))].map(|(way, place)| {
            let finished = told(place).start().unwrap().finish(LIMIT).unwrap();
            if let Some(log) = std::env::var_os("WEIR_CLIENTS_LOG") {
                let name = Path::new(program).file_name().unwrap_or_default().display();
                fs::write(Path::new(&log).join(format!("{name}-{way}.log")), &finished.stdout).unwrap();
            }
            finished
        });
    assert!(straight.success() && straight.stdout.ends_with(&format!("{END}\n")), "{straight:?}");
    let (one, two): (Vec<&str>, Vec<&str>) = (straight.stdout.lines().collect(), through.stdout.lines().collect());
    assert!(one.len() >= least, "only {} lines", one.len());
    println!("{program}: {} lines", one.len());
    let missing = "(nothing)";
    let line = |lines: &[&str], number: usize| (*lines.get(number).unwrap_or(&missing)).to_owned();
    let complaints: Vec<String> = (0..one.len().max(two.len()))
        .map(|number| (line(&one, number), line(&two, number)))
        .filter(|(one, two)| one != two && !is_known(one, two))
        .map(|(one, two)| format!("straight: {one}\n through: {two}"))
        .take(SHOWN)
        .collect();
    assert!(complaints.is_empty(), "{}\n{}\n{}", complaints.join("\n"), through.stderr, world.shop.env.log());
    assert_eq!((through.code, through.stderr), (straight.code, straight.stderr));
}

/// Whether this line is expected to differ; what kind of line it is, is the same.
fn is_known(one: &str, two: &str) -> bool {
    let known = DIFFERENT.iter().find(|(start, _)| one.starts_with(start) && two.starts_with(start));
    if let Some((_, why)) = known {
        println!("    {one}\n    through the gateway: {two}\n    {why}");
    }
    known.is_some()
}
