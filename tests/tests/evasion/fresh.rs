//! Columns that others add, or rename to a masked one's name, while the catalog that is known is older, in what does not show them bare:
//! nothing is told of them from the first statement on.

use system_tests::process::PATIENCE;
use system_tests::shop::POLICY;

use super::World;

/// Ways to a column `email`, the third and last of table `t`. The first word says what comes of it: `covered`, `refused` or `stopped`.
const WAYS: &[&str] = &[
    "covered SELECT upper(email) AS x FROM t",
    "covered SELECT upper(email) AS email FROM t",
    "covered SELECT email FROM t",
    "covered SELECT email AS x FROM t",
    "refused SELECT id FROM t WHERE email LIKE 'eve%'",
    "refused SELECT count(*) FROM t GROUP BY email",
    "covered SELECT row_to_json(o) FROM t o",
    "covered SELECT o FROM t o",
    "refused SELECT upper(email(o)) FROM t o",
    "covered SELECT upper(f) FROM t AS o(a, b, f)",
    "covered SELECT upper(f) FROM (SELECT * FROM t UNION ALL SELECT * FROM t) s(a, b, f)",
    "covered WITH w(a, b, f) AS MATERIALIZED (SELECT * FROM t) SELECT upper(f) FROM w",
    "covered SELECT upper(j.f) FROM (t o JOIN orders USING (id)) AS j(a, b, f)",
    "stopped SELECT * FROM t",
    "stopped SELECT o.* FROM t o JOIN orders USING (id)",
    "covered SELECT *, upper(item) AS email FROM t",
    "covered SELECT o.*, o::text FROM t o",
    "covered COPY t TO STDOUT",
    "covered COPY t (id, email) TO STDOUT",
    "covered COPY (SELECT upper(email) FROM t) TO STDOUT",
    "refused UPDATE t SET item = email RETURNING item",
    "refused INSERT INTO payments (order_id, card_number, note) SELECT 1, 'x', email FROM t RETURNING note",
    "covered BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT upper(email) AS x FROM t; COMMIT",
    "covered BEGIN; DECLARE c CURSOR FOR SELECT upper(email) AS x FROM t; FETCH c; COMMIT",
    "covered PREPARE p AS SELECT upper(email) AS x FROM t; EXECUTE p; DEALLOCATE p",
];

const SCRIPT: &str = r#"
ways = os.environ["WAYS"].split("\n")
how = os.environ["HOW"]
s, stream = session()
def extended(sql):
    s.sendall(parse(b"", sql) + bind(b"", b"") + execute(b"") + sync)
    seen = until(stream, b"Z")
    errors(seen)
    return [body for tag, body in seen if tag in b"DdC"]
def simple(sql):
    s.sendall(query(sql))
    seen = until(stream, b"Z")
    errors(seen)
    return [body for tag, body in seen if tag in b"DdC"]
run = extended if how == "extended" else simple
# What it is before is known, and has been shown under the name that is masked.
for n in range(len(ways)):
    for sql in ("SELECT * FROM t", "SELECT upper(item) AS email FROM t", "SELECT id, item, note AS email FROM t", "SELECT note AS email FROM t", "SELECT upper(note) AS email FROM t"):
        assert b"SELECT 1\0" in run(sql.replace(" t", f" t{n}").encode()), sql
for n, way in enumerate(ways):
    if "ISOLATION" in way:
        simple(b"BEGIN ISOLATION LEVEL REPEATABLE READ"), simple(b"SELECT count(*) FROM orders")
        way = way.partition(";")[0].split()[0] + way.partition(";")[2]
    print(f"ready {n}.", flush=True)
    sys.stdin.readline()
    expected, _, texts = way.partition(" ")
    texts = texts.replace(" t", f" t{n}").replace("(t ", f"(t{n} ").split("; ")
    print(f"--- {n} {expected} {texts}")
    for sql in texts:
        print(run(sql.encode()))
    run(b"ROLLBACK")
print("--- harmless")
for n in range(3):
    for _ in range(2):
        for sql in ("SELECT upper(item) AS email FROM t", "SELECT item AS email FROM t", "SELECT * FROM t"):
            print(run(sql.replace(" t", f" t{n}").encode()))
"#;

fn nothing_is_told(how: &str, made: &str, change: &str) {
    let policy =
        POLICY.replace(r#""show"]"#, r#""show", "copy_out", "declare", "fetch", "prepare", "execute", "deallocate"]"#);
    let world = World::with(&policy);
    for number in 0..WAYS.len() {
        let made = made.replace(" t ", &format!(" t{number} "));
        world.shop.postgres.sql(&format!("SET ROLE orders_rw; {made}")).unwrap();
    }
    let mut client = world.shop.raw_client(SCRIPT).env("HOW", how).env("WAYS", WAYS.join("\n")).start().unwrap();
    for number in 0..WAYS.len() {
        client.wait_for(&format!("ready {number}."), PATIENCE).unwrap();
        let change = change.replace(" t ", &format!(" t{number} "));
        world.shop.postgres.sql(&format!("SET ROLE orders_rw; {change}")).unwrap();
        client.write("\n").unwrap();
    }
    let said = client.finish(4 * PATIENCE).unwrap().expect_success().unwrap();
    let (since, harmless) = said.split_once("--- harmless").unwrap();
    let mut told = Vec::new();
    for part in since.split("--- ").skip(1) {
        let secret = part.to_lowercase().contains("eve@");
        let as_it_should = match part.split(' ').nth(1) {
            Some("refused") => part.contains("ERROR 42501"),
            Some("stopped") => part.contains("ERROR 40001"),
            _ => part.contains("***"),
        };
        // What was bound before is to be bound again.
        let as_it_should = as_it_should || how == "extended" && part.contains("run the statement once more");
        if secret || !as_it_should {
            told.push(part);
        }
    }
    assert!(told.is_empty(), "{how}: {told:#?}");
    assert!(!harmless.contains("ERROR") && !harmless.to_lowercase().contains("eve@"), "{how}: {harmless}");
    assert_eq!(harmless.to_lowercase().matches("kettle").count(), 3 * 2 * 3, "{how}: {harmless}");
}

const MADE: &str =
    "CREATE TABLE t (id int, item text, note text); INSERT INTO t VALUES (1, 'kettle', 'eve@renamed.example')";
const RENAMED: &str = "ALTER TABLE t RENAME note TO email";
const ADDED: &str = "ALTER TABLE t DROP note; ALTER TABLE t ADD email text DEFAULT 'eve@added.example'";

#[test]
fn nothing_is_told_of_a_column_that_others_rename() {
    nothing_is_told("simple", MADE, RENAMED);
    nothing_is_told("extended", MADE, RENAMED);
}

#[test]
fn nothing_is_told_of_a_column_that_others_add() {
    nothing_is_told("simple", MADE, ADDED);
    nothing_is_told("extended", MADE, ADDED);
}

const UNANSWERED: &str = r#"
s, stream = session()
def told(sql):
    s.sendall(query(sql))
    seen = until(stream, b"Z")
    return [body for tag, body in seen if tag in b"DE"]
print(told(b"SELECT o.item FROM orders o WHERE id = 1"), flush=True)
sys.stdin.readline()
print(told(b"SELECT o FROM orders o WHERE id = 1"), flush=True)
sys.stdin.readline()
print(told(b"SELECT o FROM orders o WHERE id = 1"))
"#;

/// Where the target does not answer whether there are such columns, nothing runs that could reach one, and that is on record.
#[test]
fn what_the_target_does_not_tell_is_taken_for_news() {
    let world = World::with(POLICY);
    let mut client = world.shop.raw_client(UNANSWERED).start().unwrap();
    client.wait_for("kettle", PATIENCE).unwrap();
    world.shop.postgres.sql("ALTER ROLE orders_rw CONNECTION LIMIT 1").unwrap();
    client.write("\n").unwrap();
    client.wait_for("is denied until", PATIENCE).unwrap();
    world.shop.postgres.sql("ALTER ROLE orders_rw CONNECTION LIMIT -1").unwrap();
    client.write("\n").unwrap();
    let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].contains("C42501") && !lines[1].contains("kettle"), "{said}");
    assert!(lines[2].contains("kettle"), "{said}");
    assert_eq!(world.sessions()[0]["denied"], 1, "{:?}", world.sessions());
}
