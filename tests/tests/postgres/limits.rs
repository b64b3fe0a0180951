//! Who takes more than policy lets them.

use super::{POLICY, World};

const LIMITS: &str = "
[[limit]]
name  = \"a page\"
agents = [\"coder\"]
rows  = 1000
bytes = \"64K\"

[[limit]]
name         = \"a day's work\"
session_rows = 3000
";

/// Prints errors, and then how many rows came, and what ended them.
const ROWS: &str = r#"
def rows(s, stream, data, last=b"Z"):
    s.sendall(data)
    seen = until(stream, last)
    errors(seen)
    print(sum(tag in (b"D", b"d") for tag, _ in seen), [body for tag, body in seen if tag in b"CZ"])
def extended(sql, end=sync):
    return parse(b"", sql) + bind(b"", b"") + execute(b"") + end
"#;

#[test]
fn who_takes_too_much_is_stopped() {
    let policy = POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]");
    let world = World::with(&format!("{policy}{LIMITS}"));
    let said = world
        .shop
        .raw(&format!(
            r#"{ROWS}
s, stream = session()
rows(s, stream, query(b"SELECT generate_series(1, 1000)"))
# Endless: it ends since the target is told.
rows(s, stream, query(b"SELECT generate_series(1, 1000000000); DELETE FROM payments WHERE id = 1"))
rows(s, stream, query(b"SELECT 'goes on'"))
s.sendall(query(b"BEGIN"))
until(stream, b"Z")
rows(s, stream, parse(b"", b"SELECT repeat('x', 1000), generate_series(1, 100000000)") + bind(b"", b"") + execute(b"") + sync)
rows(s, stream, query(b"ROLLBACK"))
rows(s, stream, query(b"COPY (SELECT generate_series(1, 100000000)) TO STDOUT"))
rows(s, stream, query(b"SELECT generate_series(1, 100)"))
t, other = session()
rows(t, other, query(b"SELECT 'another session'"))
"#
        ))
        .unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("1000 [b'SELECT 1000"), "{said}");
    assert!(lines[1].contains("42501") && lines[1].contains("1000 rows (limit \"a page\")"), "{said}");
    assert_eq!((lines[2], lines[3]), ("1000 [b'I']", "1 [b'SELECT 1\\x00', b'I']"), "{said}");
    assert!(
        lines[4].contains("65536 bytes") && lines[5].ends_with("[b'E']") && lines[6].contains("ROLLBACK"),
        "{said}"
    );
    let count = |line: &str| line.split(' ').next().unwrap().parse::<u32>().unwrap();
    assert!((1..100).contains(&count(lines[5])), "{said}");
    assert!(lines[7].contains("one session may take 3000 rows"), "{said}");
    // Its result was there before the target could be told: that it was done is not told either.
    assert!(lines[9].starts_with("ERROR 42501") && lines[9].contains("one session may take 3000 rows"), "{said}");
    assert_eq!(lines[10], "0 [b'I']", "{said}");
    assert!(said.ends_with("1 [b'SELECT 1\\x00', b'I']\n"), "{said}");
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments").unwrap(), "3", "what follows does not run");
    let recorded = world.recorded();
    assert!(recorded.contains("limit \"a page\""), "{recorded}");
}

/// What is no row may be made of some.
#[test]
fn errors_and_notices_count_for_a_limit() {
    let unmasked =
        POLICY.split("[[mask]]").next().unwrap().replace("\"show\"]", "\"show\", \"do\", \"call\", \"function_call\"]");
    let world = World::with(&format!("{unmasked}[[limit]]\nname = \"little\"\nbytes = \"2K\"\n"));
    let said = world.raw(
        r#"
s, stream = session()
for sql in (b"SELECT (json_agg(g)::text)::int FROM generate_series(1, 100000) g", b"SELECT 'a short one'::int",
            b"DO $$ BEGIN FOR n IN 1..100 LOOP RAISE NOTICE '%', repeat('x', 100); END LOOP; END $$"):
    s.sendall(query(sql))
    seen = until(stream, b"Z")
    errors(seen)
    print(sum(len(body) for _, body in seen) < 5000, sum(tag == b"N" for tag, _ in seen))
# Its code was done before it could be stopped, which ended the session.
s, stream = session()
s.sendall(query(b"SELECT lo_from_bytea(7, repeat('x', 3000)::bytea)"))
errors(until(stream, b"Z"))
s.sendall(msg(b"F", struct.pack(">IHHHII", 3458, 1, 1, 1, 4, 7) + struct.pack(">H", 1)))
print([(tag, body[:200]) for tag, body in stream if tag in b"VE"])
"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("42501") && lines[0].contains("2048 bytes (limit \"little\")"), "{said}");
    assert_eq!((lines[1], lines[3]), ("True 0", "True 0"), "{said}");
    assert!(lines[2].contains("22P02") && lines[2].contains("a short one"), "{said}");
    assert!(lines[4].starts_with("FATAL") && lines[4].contains("limit \"little\""), "{said}");
    assert!(lines[5].starts_with("True "), "{said}");
    assert!(lines.last().is_some_and(|it| it.contains("b'E'") && it.contains("little")), "{said}");
    assert!(!said.contains("b'V'"), "{said}");
}

/// The target is done before it can be told to stop: what is told of the statement is made true.
#[test]
fn who_takes_a_little_too_much_is_told_so_and_goes_on() {
    let world = World::with(&format!("{}{LIMITS}", POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]")));
    world.shop.postgres.sql("CREATE SEQUENCE spare; GRANT ALL ON SEQUENCE spare TO orders_rw").unwrap();
    let said = world.raw(&format!(
        r#"{ROWS}
over = b"SELECT generate_series(1, 1001)"
def insert(first):
    return b"INSERT INTO payments (id, order_id, card_number) SELECT %d + generate_series(1, 1001), 1, 'none' RETURNING id" % first
def scene(*requests):
    s, stream = session()
    for request in requests:
        rows(s, stream, *request)
    rows(s, stream, query(b"SELECT 'goes on'"))
    print("--")
# Outside of a transaction.
scene([query(over)])
scene([extended(over)])
scene([query(b"COPY (" + over + b") TO STDOUT")])
scene([extended(b"COPY (" + over + b") TO STDOUT")])
# In one that has done something before.
work = [query(b"BEGIN; DELETE FROM payments WHERE id = 1")]
scene(work, [query(over)], [query(b"COMMIT")])
scene(work, [extended(over)], [query(b"COMMIT")])
scene(work, [extended(over, msg(b"H")), b"E"], [sync], [query(b"COMMIT")])
# A batch that is not over has not done what it did.
scene([extended(b"DELETE FROM payments WHERE id = 1", b"") + extended(over, msg(b"H")), b"E"], [sync])
scene([extended(insert(100), msg(b"H")), b"E"], [sync])
# What cannot be undone any more must not be told.
scene([query(insert(100))])
scene([extended(insert(5000))])
scene([query(over + b"; SELECT 1")])
delete = extended(b"DELETE FROM payments WHERE id = 2", b"")
scene([delete + extended(over)])
scene([delete + msg(b"H"), b"C"], [query(over)])
scene([query(b"SELECT pg_catalog.nextval('spare') FROM generate_series(1, 1001)")])
scene([extended(over, b"") + extended(b"SELECT 1")])
"#
    ));
    let scenes: Vec<&str> = said.split("--\n").collect();
    let goes_on = "1 [b'SELECT 1\\x00', b'I']\n";
    for scene in &scenes[..4] {
        assert!(
            scene.starts_with("ERROR 42501") && scene.ends_with(&format!("1000 [b'I']\n{goes_on}")),
            "{scene}{said}"
        );
    }
    for scene in &scenes[4..7] {
        assert!(scene.contains("ERROR 42501") && scene.contains("[b'E']\n"), "{scene}{said}");
        assert!(scene.ends_with(&format!("0 [b'ROLLBACK\\x00', b'I']\n{goes_on}")), "{scene}{said}");
    }
    for (scene, done) in scenes[7..9].iter().zip(["b'DELETE 1\\x00'", ""]) {
        assert!(scene.starts_with("ERROR 42501"), "{scene}{said}");
        assert!(scene.ends_with(&format!("1000 [{done}]\n0 [b'I']\n{goes_on}")), "{scene}{said}");
    }
    for scene in &scenes[9..16] {
        assert!(scene.contains("FATAL") && scene.ends_with("0 []\n"), "{scene}{said}");
    }
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM payments WHERE id = 1").unwrap(), "1", "{said}");
}

/// What looks like the beginning of a row within one is none, wherever the row is cut as it passes.
#[test]
fn a_large_row_counts_as_one() {
    let unmasked = POLICY.split("[[mask]]").next().unwrap();
    let world = World::with(&format!("{unmasked}[[limit]]\nname = \"much\"\nrows = 1\nbytes = \"64M\"\n"));
    let said = world.raw(
        r#"
s, stream = session()
for _ in range(4):
    s.sendall(query(b"SELECT repeat('D!!!', 3000000)"))
    seen = until(stream, b"Z")
    errors(seen)
    print([(tag, len(body)) for tag, body in seen if tag != b"T"])
"#,
    );
    assert_eq!(said, "[(b'D', 12000006), (b'C', 9), (b'Z', 1)]\n".repeat(4));
}

/// A limit in bytes tells nothing of how long a masked value is: what is left of it counts.
#[test]
fn masked_values_count_as_they_are_shown() {
    let redacted = POLICY.replace("with    = { partial = { keep_last = 4 } }", "with    = \"redact\"");
    assert_ne!(redacted, POLICY);
    let world = World::with(&format!("{redacted}[[limit]]\nname = \"little\"\nbytes = \"1K\"\n"));
    world.shop.postgres.sql("UPDATE customers SET email = repeat('e', 100000) WHERE id = 1").unwrap();
    let said = world.raw(
        r#"
s, stream = session()
show(s, stream, b"SELECT email FROM customers ORDER BY id")
show(s, stream, b"SELECT repeat('x', 2000), email FROM customers ORDER BY id")
"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("SELECT 3") && lines[0].matches("***").count() == 3, "{said}");
    assert!(lines[1].contains("ERROR 42501") && lines[1].contains("1024 bytes"), "{said}");
}
