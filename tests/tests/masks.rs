//! Masks that keep a key: hashes under which equal values look alike, seen by unmodified clients in both formats.

#[path = "masks/together.rs"]
mod together;

use system_tests::env::Gateway;
use system_tests::process::Finished;
use system_tests::shop::{POLICY, Shop};

/// What masks the columns of this suite.
const HASH: &str = "

[[mask]]
name    = \"pseudonyms\"
targets = [\"orders\"]
columns = [\"public.people.*\", \"public.visits.who\", \"public.seen.who\", \"public.made.who\", \"public.joined.who\"]
with    = { hash = { key = { credential = \"mask-key\" } } }
";
const KEY: &str = "0d4f7bcb6f3a4d51a25b1d0d3c1e8f77";
const OTHER_KEY: &str = "f00dfacef00dfacef00dfacef00dface";

/// A column of each type; the first two rows are equal, the last has nothing.
const TABLES: &str = "
CREATE TABLE people (
    number integer, small smallint, big bigint, amount numeric(6, 2), free numeric, who uuid, name text,
    code varchar(8), fixed char(5), letter \"char\", document jsonb, plain json, bytes bytea, born date, member boolean
);
INSERT INTO people
    SELECT 7, -7, 7000000000, 12.50, 0.00005, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'Ada', 'ada', 'ada', 'a', '{\"a\": 1}',
        '{\"a\": 1}', '\\x00ff', '2021-03-04', true FROM generate_series(1, 2);
INSERT INTO people VALUES
    (8, 8, 8, 8, 8, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'Bo', 'bo', 'bo', 'b', '8', '8', '\\x08', '2022-03-04', false),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE visits (who text, place text);
INSERT INTO visits VALUES ('Ada', 'Lagos'), ('Cy', 'Oslo');
CREATE TABLE guesses (guess text);
CREATE VIEW seen AS SELECT guess AS who FROM guesses;
CREATE TABLE made (guess text, who text GENERATED ALWAYS AS (guess || '') STORED);
CREATE TABLE joined (note text, who text DEFAULT current_setting('app.who', true));
GRANT ALL ON people, visits, guesses, seen, made, joined TO PUBLIC;
";

struct World {
    gateway: Gateway,
    shop: Shop,
}

impl World {
    fn new() -> Self {
        let shop = Shop::new().unwrap();
        shop.postgres.sql(TABLES).unwrap();
        shop.env.set_credential("mask-key", KEY).unwrap();
        shop.configure(&(POLICY.to_owned() + HASH)).unwrap();
        let gateway = shop.serve().unwrap();
        Self { gateway, shop }
    }

    fn psql(&self, sql: &str) -> Finished {
        self.shop.psql(sql).args(["--tuples-only", "--no-align"]).run().unwrap()
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let shown = self.psql(sql).expect_success().unwrap();
        shown.lines().map(str::to_owned).collect()
    }
}

/// Reads the table in one format, and says what it sees: columns of which the first two rows are equal, the third is not, and
/// the last has none; columns that are NULL altogether; and the values, of types that the client takes from the server.
const READ: &str = r#"
import psycopg, sys
with psycopg.connect("") as c:
    cursor = c.cursor(binary=sys.argv[1] == "binary")
    cursor.execute("SELECT * FROM people")
    names = [column.name for column in cursor.description]
    columns = list(zip(*cursor.fetchall()))
hashed = [n for n, (a, b, x, none) in zip(names, columns) if a == b and none is None and len({str(a), str(x), "None"}) == 3]
nothing = [n for n, column in zip(names, columns) if set(column) == {None}]
print(*hashed)
print(*nothing)
for name, column in zip(names, columns):
    print(name, type(column[0]).__name__, *column)
"#;

#[test]
fn equal_values_look_alike_in_every_type_and_in_both_formats() {
    let world = World::new();
    let read = |format: &str| {
        let client = world.shop.client("/usr/bin/python3").args(["-c", READ, format]);
        client.run().unwrap().expect_success().unwrap()
    };
    let (text, binary) = (read("text"), read("binary"));
    assert_eq!(text, binary);
    let mut lines = text.lines();
    let hashed = "number small big amount free who name code fixed document plain bytes";
    // One letter has room for 32 hashes only, which may be equal.
    let shown = lines.next().unwrap().replace(" letter", "");
    assert_eq!((shown.as_str(), lines.next()), (hashed, Some("born member")), "{text}");
    let types: Vec<(&str, &str)> = lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?))
        })
        .collect();
    for expected in [("number", "int"), ("amount", "Decimal"), ("who", "UUID"), ("document", "str"), ("bytes", "bytes")]
    {
        assert!(types.contains(&expected), "{types:?}");
    }
    for secret in ["Ada", "a0eebc99", "7000000000", "12.50", "2021"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn a_hash_is_the_same_in_every_session_and_table_and_tells_nothing_more() {
    let world = World::new();
    let names = world.rows("SELECT name FROM people");
    assert_eq!((names[0].len(), &names[0]), (26, &names[1]));
    assert_eq!(world.rows("SELECT name AS x FROM people LIMIT 1"), [names[0].clone()]);
    assert_eq!(world.rows("SELECT who, place FROM visits LIMIT 1"), [format!("{}|Lagos", names[0])]);
    // What NULL looks like anybody can have, and so it looks like nothing.
    assert_eq!(world.rows("SELECT name FROM (SELECT) one LEFT JOIN people ON false"), [""]);
    assert_eq!(names[3], "");
    let bounded = world.rows("SELECT length(place), code, fixed, letter FROM people, visits LIMIT 1");
    let widths: Vec<usize> = bounded[0].split('|').skip(1).map(str::len).collect();
    assert_eq!(widths, [8, 5, 1], "{bounded:?}");
    // What is computed shows nothing, not even what is equal.
    assert_eq!(world.rows("SELECT upper(name) FROM people"), ["***"; 4]);
    assert_eq!(world.rows("SELECT length(name) FROM people"), [""; 4]);
    // And nothing is chosen by one.
    for sql in [
        "SELECT name FROM people GROUP BY name",
        "SELECT 1 FROM people WHERE name = 'Ada'",
        "SELECT 1 FROM people ORDER BY name",
    ] {
        let refused = world.psql(sql);
        assert!(refused.stderr.contains("denied by policy"), "{sql}: {refused:?}");
    }
    let shown =
        world.shop.env.weir(["explain", "--target", "orders", "--agent", "coder", "SELECT name FROM people"]).unwrap();
    assert!(shown.stdout.contains("pseudonyms") && !shown.stdout.contains(KEY), "{}", shown.stdout);
}

/// Or its hashes would tell which value each of them stands for.
#[test]
fn nobody_writes_values_of_their_own_where_hashes_are_shown() {
    let world = World::new();
    let denied = world.psql("INSERT INTO visits (who, place) VALUES ('Ada', 'here') RETURNING who");
    let of_a_hash = "(by its default, if not itself), of which a hash is shown";
    assert!(denied.stderr.contains(&format!("visits.who {of_a_hash}")), "{denied:?}");
    world.psql("INSERT INTO visits (place) VALUES ('here')").expect_success().unwrap();
    for values in ["(note) VALUES ('n')", "DEFAULT VALUES", "(note) VALUES ('n'), ('m')"] {
        let denied = world.psql(&format!("INSERT INTO joined {values}"));
        assert!(denied.stderr.contains(&format!("joined.who {of_a_hash}")), "{values}: {denied:?}");
    }
    world.psql("INSERT INTO joined VALUES ('n', NULL)").expect_success().unwrap();
    // Nor does a guess get a hash by way of a column that shows what is written to another one.
    for (table, shown) in [("guesses", "seen"), ("made", "made")] {
        world.psql(&format!("INSERT INTO {table} (guess) VALUES ('Ada')")).expect_success().unwrap();
        assert_eq!(world.rows(&format!("SELECT who FROM {shown}")), ["***"], "{shown}");
    }
}

#[test]
fn without_its_key_a_target_is_closed_and_another_key_gives_other_hashes() {
    let world = World::new();
    let names = world.rows("SELECT name FROM people");
    world.shop.env.set_credential("mask-key", OTHER_KEY).unwrap();
    let others = world.rows("SELECT name FROM people");
    assert_eq!((others[0].len(), &others[0]), (26, &others[1]));
    assert!(names[..3].iter().all(|name| !others.contains(name)), "{names:?} {others:?}");
    // A key that can be guessed, none at all, and then the first one again.
    world.shop.env.set_credential("mask-key", "hunter2").unwrap();
    let weak = world.psql("SELECT id FROM orders");
    assert!(!weak.success() && weak.stderr.contains("has 7 bytes"), "{weak:?}");
    std::fs::remove_file(world.shop.env.dir().join("credentials/mask-key")).unwrap();
    let missing = world.psql("SELECT id FROM orders");
    assert!(!missing.success() && missing.stderr.contains("mask-key does not exist"), "{missing:?}");
    world.shop.env.set_credential("mask-key", KEY).unwrap();
    assert_eq!(world.rows("SELECT name FROM people"), names);
    let denials = world.shop.env.weir(["denials"]).unwrap().expect_success().unwrap();
    let log = world.shop.env.log();
    assert!(denials.contains("mask"), "{denials}");
    for text in [&denials, &log, &weak.stderr] {
        assert!(!text.contains(KEY) && !text.contains("hunter2"), "{text}");
    }
    world.gateway.stop().unwrap();
}
