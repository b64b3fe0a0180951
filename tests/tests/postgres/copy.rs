//! COPY, both ways: masked as rows are, and the session goes on.

use system_tests::postgres::{Options, Postgres};
use system_tests::shop::{POLICY, RAW};

use super::World;

#[test]
fn a_copy_that_fails_within_a_large_message_leaves_the_session_in_step() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_in\"]"));
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
s.sendall(query(b"COPY orders (customer_id, item, amount) FROM STDIN"))
until(stream, b"G")
large = msg(b"d", b"1\tx\t1\n" * 100_000)
s.sendall(msg(b"d", b"no number\n1\tx\t1\n" * 5_000) + large[:300_000])
errors(until(stream, b"Z"))
# The target has told its error, and waits for the rest of a message that it will ignore.
s.sendall(large[300_000:] + msg(b"c"))
show(s, stream, b"SELECT 'in step'")
"#,
        )
        .unwrap();
    assert!(said.contains("ERROR 22P02") && said.contains("in step"), "{said}");
}

#[test]
fn copy_goes_both_ways() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_in\", \"copy_out\"]"));
    let script = r#"
import psycopg
with psycopg.connect("") as c:
    with c.cursor().copy("COPY payments (order_id, card_number, note) FROM STDIN") as copy:
        for i in range(5000):
            copy.write_row((1, "4111111111111111", "row %d" % i))
    print(c.execute("SELECT count(*), min(card_number) FROM payments").fetchone())
    with c.cursor().copy("COPY payments TO STDOUT") as copy:
        text = b"".join(bytes(x) for x in copy)
    print(len(text.splitlines()), b"4111111111111111" in text)
    try:
        with c.cursor().copy("COPY payments (order_id) FROM STDIN") as copy:
            copy.write("no number\n")
    except psycopg.Error as e:
        print(e.sqlstate)
    c.rollback()
    try:
        c.cursor().copy("COPY (SELECT id FROM customers ORDER BY ssn) TO STDOUT").__enter__()
    except psycopg.Error as e:
        print(e.sqlstate)
"#;
    let ran = world.python(script);
    assert_eq!(ran.stdout, "(5003, '[redacted:credit_card]')\n5003 False\n22P02\n42501\n", "{}", ran.stderr);
}

#[test]
fn what_is_copied_out_is_masked_in_each_format() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]"));
    let odd = "UPDATE customers SET ssn = E'1,\"\\\\\\n1002', phone = E'a\\tb' WHERE id = 1; UPDATE customers SET phone = NULL WHERE id = 2";
    world.shop.postgres.sql(odd).unwrap();
    let script = r#"
import csv, io, psycopg
with psycopg.connect("") as c:
    def copied(sql):
        with c.cursor().copy(sql) as copy:
            return b"".join(bytes(x) for x in copy)
    columns = "COPY customers (id, ssn, email, phone) TO STDOUT"
    with c.cursor().copy(columns) as copy:
        text = list(copy.rows())
    for form in ("CSV HEADER", "CSV DELIMITER ';' NULL '-' FORCE QUOTE *"):
        rows = copied(columns + " " + form).decode()
        print([tuple(row) for row in csv.reader(io.StringIO(rows), delimiter=form[15:16] if ";" in form else ",")])
    with c.cursor().copy(columns + " (FORMAT binary)") as copy:
        copy.set_types(["int4", "text", "text", "text"])
        binary = list(copy.rows())
    print(text)
    print(binary)
    print(copied("COPY (SELECT upper(ssn), 1.5, ssn IS NULL FROM customers ORDER BY id) TO STDOUT"))
    print(c.execute("SELECT id, ssn, email, phone FROM customers").fetchall())
"#;
    let ran = world.python(script);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{ran:?}");
    assert!(!ran.stdout.contains("900") && !ran.stdout.contains('@'), "{}", ran.stdout);
    assert!(lines[0].starts_with("[('id', 'ssn', 'email', 'phone'), ("), "{}", lines[0]);
    assert!(lines[0].contains(r"('1', '*****1002', '************mple', 'a\tb')"), "{}", lines[0]);
    assert!(lines[1].contains("('2', '*******2003', '**************mple', '-')"), "{}", lines[1]);
    let numbered = (1..4).fold(lines[3].to_owned(), |text, id| text.replace(&format!("({id},"), &format!("('{id}',")));
    assert_eq!(lines[2], numbered);
    assert_eq!(lines[4], r"b'***\t1.5\t\\N\n***\t1.5\t\\N\n***\t1.5\t\\N\n'");
    assert_eq!(lines[3], lines[5]);
}

#[test]
fn after_copy_the_session_goes_on() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_in\", \"copy_out\"]"));
    let rows = "\\copy payments (order_id, card_number, note) from program 'printf \"1\\t2\\t3\\n\"'";
    let psql =
        world.script(&[rows, "SELECT id, ssn FROM customers ORDER BY id LIMIT 1", rows, "DROP TABLE orders", rows]);
    assert!(psql.stdout.contains("*1002") && psql.stdout.matches("COPY 1").count() == 3, "{psql:?}");
    assert!(psql.stderr.contains("denied by policy"), "{psql:?}");
    // Two in one text, one after the other and with all data sent ahead.
    let said = world.raw(
        r#"
s, stream = session()
copy = b"COPY payments (order_id, card_number, note) FROM STDIN"
both = query(copy + b"; " + copy)
row = msg(b"d", b"1\t2\t3\n") + msg(b"c")
s.sendall(both)
for _ in range(2):
    until(stream, b"G")
    s.sendall(row)
print([body for tag, body in until(stream, b"Z") if tag == b"C"])
s.sendall(both + row + row + query(b"DROP TABLE orders"))
print([body for tag, body in until(stream, b"Z") if tag == b"C"])
errors(until(stream, b"Z"))
"#,
    );
    // The first of the first two was read with what came before it.
    assert!(said.matches("COPY 1").count() == 3 && said.contains("42501"), "{said}");
}

/// Who says something else while the target waits for COPY data has lost the session, as at servers from PostgreSQL 14 on: these have
/// read no more of the message than its type.
#[test]
fn another_message_than_copy_data_ends_the_session_as_the_server_does() {
    const SCRIPT: &str = r#"
copy = b"COPY payments (order_id, card_number, note) FROM STDIN"
begun = query(copy), parse(b"", copy) + bind(b"", b"") + execute(b""), parse(b"", copy) + bind(b"", b"") + execute(b"") + sync
for first in begun:
    for other in query(b"SELECT 1"), parse(b"", b"SELECT 1"), msg(b"~"), msg(b"F", struct.pack(">IHHH", 2559, 0, 0, 0)), msg(b"D", b"S\0"):
        s, stream = session()
        s.sendall(first)
        until(stream, b"G")
        s.sendall(msg(b"d", b"1\t2\t3\n") + msg(b"H") + sync + other)
        seen = list(stream)
        fields = [field for field in seen[-1][1].split(b"\0") if field[:1] in (b"S", b"C")]
        print(seen[-1][0], fields, any(tag in b"ZC" for tag, _ in seen))
"#;
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_in\"]"));
    let alone = Postgres::start_with(&world.shop.env, Options::default()).unwrap();
    let trust = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(alone.socket_dir().join("pg_hba.conf"), trust).unwrap();
    alone.sql("SELECT pg_reload_conf()").unwrap();
    let direct = world.shop.env.bystander("/usr/bin/python3").args(["-u", "-c"]).arg(format!("{RAW}\n{SCRIPT}"));
    let direct = direct.env("PGHOST", "127.0.0.1").env("PGPORT", alone.port().to_string()).env("PGUSER", "orders_rw");
    let direct = direct.run().unwrap().expect_success().unwrap();
    assert_eq!(direct, "b'E' [b'SFATAL', b'C08P01'] False\n".repeat(15));
    assert_eq!(world.raw(SCRIPT), direct);
    assert_eq!(world.rows("SELECT count(*) FROM payments WHERE note = '3'"), "0");
}
