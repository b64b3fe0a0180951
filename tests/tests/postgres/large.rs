//! A value that is larger than what the gateway holds.

use std::time::Instant;

use system_tests::shop::POLICY;

use super::World;

/// Of one value. The server itself takes no more than 1 GB.
const MIB: u64 = 220;
/// What all the gateway's processes may take at most beyond what they have.
const BOUND_KIB: u64 = 32 << 10;
/// The same where the row that is too large has masked columns: what is kept of it, and what becomes of that.
const MASKED_BOUND_KIB: u64 = 80 << 10;

/// Without masks.
fn unmasked() -> String {
    let rules = POLICY.split("[[mask]]").next().unwrap().to_owned();
    rules.replace("\"show\"]", "\"show\", \"copy_out\"]")
}

/// Counts what comes, without holding it.
const COUNTS: &str = r#"
def counted(sql, extended=False):
    s.sendall(parse(b"", sql) + bind(b"", b"") + execute(b"") + sync if extended else query(sql))
    sizes, ended, head, had = {}, False, b"", 0
    buffer = bytearray(1 << 18)
    left, tag, body = 0, None, b""
    while not ended:
        got = s.recv_into(buffer)
        if not got:
            return sizes, "closed"
        data, at = memoryview(buffer)[:got], 0
        while at < got:
            if left == 0:
                head += bytes(data[at:at + 5 - len(head)])
                at = min(got, at + 5 - had)
                had = len(head) % 5
                if had:
                    continue
                tag, left, head, body = head[:1], struct.unpack(">I", head[1:])[0] - 4, b"", b""
            taken = min(left, got - at)
            sizes[tag] = sizes.get(tag, 0) + taken
            if tag in (b"E", b"C"):
                body += bytes(data[at:at + taken])
            at, left = at + taken, left - taken
            if left == 0 and tag == b"E":
                errors([(tag, body)])
            ended = ended or left == 0 and tag == b"Z"
    return sizes, "ready"
s, stream = session()
"#;

impl World {
    /// What all processes of the gateway have at once at most, since the last call.
    fn peak_kib(&self) -> u64 {
        let pids = self.gateway.pids().unwrap();
        let peak = pids.iter().map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        });
        let sum = peak.sum();
        // proc_pid_clear_refs(5): the high-water mark begins anew.
        for pid in pids {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        }
        sum
    }
}

#[test]
fn a_value_of_any_size_passes_in_bounded_memory() {
    let world = World::with(&unmasked());
    world.rows("SELECT 1");
    world.peak_kib();
    let before = world.peak_kib();
    let value = format!("repeat('x', {MIB} << 20)");
    let begun = Instant::now();
    let said = world.raw(&format!(
        r#"{COUNTS}
print(counted(b"SELECT {value}"))
print(counted(b"SELECT decode({value}, 'escape')", extended=True))
print(counted(b"COPY (SELECT {value}) TO STDOUT"))
print(counted(b"SELECT 'served'"))
"#
    ));
    let (taken, peak) = (begun.elapsed(), world.peak_kib());
    println!("3 values of {MIB} MiB in {taken:?}, {before} KiB before, {peak} KiB at most");
    let lines: Vec<&str> = said.lines().collect();
    let size = MIB << 20;
    // A count and a length before the value; a bytea is sent in hexadecimal digits; COPY has a newline behind it.
    let expected = [format!("b'D': {}", size + 6), format!("b'D': {}", 2 * size + 8), format!("b'd': {}", size + 1)];
    assert!(expected.iter().zip(&lines).all(|(size, line)| line.contains(size) && line.contains("ready")), "{said}");
    assert!(lines[3].contains("ready") && lines.len() == 4, "{said}");
    assert!(peak < before + BOUND_KIB, "{before} KiB before, {peak} KiB at most, for values of {} KiB", MIB << 10);
}

/// What has to be looked at as a whole has a limit, and ends its statement beyond that.
#[test]
fn a_value_that_must_be_looked_at_and_is_over_the_limit_is_not_shown() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]"));
    let grown = "UPDATE customers SET phone = repeat('5', 40 << 20) WHERE id = 1; UPDATE customers SET email = repeat('e', 40 << 20) WHERE id = 2;
        UPDATE customers SET phone = repeat('6', 10 << 20) WHERE id = 3";
    world.shop.postgres.sql(grown).unwrap();
    world.rows("SELECT 1");
    world.peak_kib();
    let before = world.peak_kib();
    for sql in [
        "SELECT id, phone FROM customers WHERE id = 1",
        "SELECT email FROM customers WHERE id = 2",
        "SELECT repeat('x', 17 << 20), upper(email) FROM customers WHERE id = 1",
        "COPY (SELECT phone FROM customers WHERE id = 1) TO STDOUT",
        "COPY (SELECT email FROM customers WHERE id = 2) TO STDOUT",
    ] {
        for extended in ["False", "True"] {
            let said = world.raw(&format!("{COUNTS}\nprint(counted(b\"{sql}\", {extended}))"));
            assert!(said.contains("ERROR 54000") && said.contains("the limit is 16777216"), "{sql}: {said}");
            assert!(!said.contains("b'D'") && !said.contains("b'd'") && said.contains("ready"), "{sql}: {said}");
        }
    }
    let peak = world.peak_kib();
    assert!(peak < before + MASKED_BOUND_KIB, "{before} KiB before, {peak} KiB at most");
    // Below it, all is as ever.
    let said = world.raw(&format!(
        "{COUNTS}\nprint(counted(b\"SELECT phone, email FROM customers WHERE id = 3\"))\nprint(counted(b\"SELECT 'served'\"))"
    ));
    assert!(said.contains(&format!("b'D': {}", (10 << 20) + 10 + 18)) && said.matches("ready").count() == 2, "{said}");
    let recorded = world.recorded();
    assert!(recorded.contains("on a target with masks each is checked as a whole"), "{recorded}");
}

/// An agent can fill a row up with values of its own, to see when it becomes too large.
#[test]
fn how_long_a_masked_value_is_is_not_told_by_what_is_too_large() {
    let world = World::with(&POLICY.replace("\"show\"]", "\"show\", \"copy_out\"]"));
    let grown = "UPDATE customers SET email = 'a@x' WHERE id = 1; UPDATE customers SET email = repeat('e', 40 << 20) WHERE id = 2;
        CREATE TABLE padding (t text); INSERT INTO padding VALUES (repeat('y', 20 << 20)); GRANT SELECT ON padding TO orders_rw";
    world.shop.postgres.sql(grown).unwrap();
    let filled = |length: u32, more: &str| {
        let row = format!("SELECT repeat('x', {length}), {more}");
        [
            row.clone(),
            format!("COPY ({row}) TO STDOUT"),
            format!("COPY ({row}) TO STDOUT CSV"),
            format!("COPY ({row}) TO STDOUT BINARY"),
        ]
    };
    let fits = (16 << 20) - 64;
    let covered = "upper(email) FROM customers WHERE id = ID";
    let chosen = "CASE WHEN email < 'b' THEN t ELSE '' END FROM customers, padding WHERE id = ID";
    let put_together = "json_build_object('e', email) FROM customers WHERE id = ID";
    let statements = [filled(fits, covered), filled(fits, chosen), filled(fits + 64, covered)].concat();
    for (sql, is_shown) in statements.iter().zip([[true; 8].as_slice(), &[false; 4]].concat()) {
        for extended in ["False", "True"] {
            let about = |id: &str| {
                let sql = sql.replace("ID", id);
                world.raw(&format!("{COUNTS}\nprint(counted(b\"\"\"{sql}\"\"\", {extended}))"))
            };
            let (short, long) = (about("1"), about("2"));
            assert_eq!(short, long, "{sql}");
            assert_eq!(short.contains("ERROR 54000"), !is_shown, "{sql}: {short}");
        }
    }
    // Many of them in one value.
    for (count, is_shown) in [(10_000, true), (10_001, false)] {
        let sql = format!(
            "SELECT length(a::text), a FROM (SELECT array_agg(email) AS a FROM customers, generate_series(1, {count}) WHERE id = 1) t"
        );
        let said = world.rows(&format!("SELECT a FROM ({sql}) u"));
        assert_eq!(said.starts_with('{'), is_shown, "{}", &said[..said.len().min(100)]);
    }
    assert!(world.rows(&format!("SELECT {put_together}").replace("ID", "1")).contains("\"e\""));
}

/// Where masks are of columns only, other columns need no look.
#[test]
fn a_large_value_beside_masked_columns_passes_in_bounded_memory() {
    let columns = POLICY.rsplit_once("[[mask]]").unwrap().0.replace("\"show\"]", "\"show\", \"copy_out\"]");
    assert!(columns.contains("*.*.email") && !columns.contains("detect"));
    let world = World::with(&columns);
    world.shop.postgres.sql("UPDATE customers SET phone = repeat('5', 64 << 20) WHERE id = 1").unwrap();
    assert_eq!(world.rows("SELECT email FROM customers WHERE id = 1"), "************mple");
    world.peak_kib();
    let before = world.peak_kib();
    let said = world.raw(&format!(
        r#"{COUNTS}
print(counted(b"SELECT phone FROM customers WHERE id = 1"))
print(counted(b"SELECT phone FROM customers WHERE id = 1", extended=True))
print(counted(b"COPY (SELECT phone FROM customers WHERE id = 1) TO STDOUT"))
print(counted(b"SELECT repeat('x', 64 << 20)", extended=True))
print(counted(b"COPY (SELECT repeat('x', 64 << 20)) TO STDOUT"))
print(counted(b"SELECT 1; SELECT repeat('x', 64 << 20)"))
"#
    ));
    let peak = world.peak_kib();
    println!("6 values of 64 MiB, {before} KiB before, {peak} KiB at most");
    let size = 64 << 20;
    let sizes = [6, 6, 1, 6, 1, 13].map(|more| format!(": {}", size + more));
    assert!(sizes.iter().zip(said.lines()).all(|(size, line)| line.contains(size) && line.contains("ready")), "{said}");
    assert_eq!(said.lines().count(), 6, "{said}");
    assert!(peak < before + BOUND_KIB, "{before} KiB before, {peak} KiB at most");
    for sql in [
        "SELECT phone, email FROM customers WHERE id = 1",
        "COPY (SELECT email, phone FROM customers WHERE id = 1) TO STDOUT",
    ] {
        let said = world.raw(&format!("{COUNTS}\nprint(counted(b\"{sql}\"))"));
        assert!(
            said.contains("ERROR 54000") && said.contains("ready") && !said.contains("b'D'") && !said.contains("b'd'"),
            "{sql}: {said}"
        );
    }
}

/// What is sent around a message that is denied: as it stands there, or behind the first part of a batch.
const DENIED: &str = r#"
def insert(note):
    return b"INSERT INTO orders (id, customer_id, item, amount) VALUES (" + note + b", 1, 'x', 1)"
def ext(sql):
    return parse(b"", sql) + bind(b"", b"") + execute(b"")
def told(stream, readies):
    seen = []
    while readies:
        tag, body = next(stream)
        if tag == b"E":
            seen.append("E " + dict((f[:1], f[1:].decode()) for f in body.split(b"\0") if f)[b"C"])
        elif tag not in b"NS":
            seen.append(tag.decode() + (repr(body)[1:] if tag in b"CZ" else ""))
        readies -= tag == b"Z"
    return " ".join(seen)
SIMPLE = {False: query(b"DROP TABLE orders"), True: query(b"SELECT '" + b"x" * (64 << 20) + b"'")}
PARSED = {False: parse(b"", b"DROP TABLE orders"), True: parse(b"", b"SELECT '" + b"x" * (5 << 20) + b"'")}
VALUES = parse(b"", b"SELECT $1::text") + msg(b"B", b"\0\0\0\0\0\1" + struct.pack(">I", 17 << 20) + b"x" * (17 << 20) + b"\0\0")
CALLED = msg(b"F", struct.pack(">IHHI", 2559, 0, 1, 17 << 20) + b"x" * (17 << 20) + b"\0\0")
BOUND = {False: ext(b"DROP TABLE orders"), True: VALUES + execute(b"")}
SENT = {
    "simple": lambda it: (SIMPLE[it] + query(b"SELECT 1"), 2),
    "parsed": lambda it: (PARSED[it] + bind(b"", b"") + execute(b"") + sync + query(b"SELECT 1"), 2),
    "parsed, between": lambda it: (ext(insert(b"101")) + PARSED[it] + bind(b"", b"") + ext(insert(b"102")) + sync + ext(insert(b"103")) + sync, 2),
    "bound, between": lambda it: (ext(insert(b"101")) + BOUND[it] + ext(insert(b"102")) + sync + ext(insert(b"103")) + sync, 2),
    "simple, behind a batch": lambda it: (ext(insert(b"101")) + msg(b"H") + SIMPLE[it] + ext(insert(b"103")) + sync, 2),
    "twice": lambda it: (PARSED[it] + PARSED[it] + sync + SIMPLE[it] + SIMPLE[it], 3),
}
def result(name, it, within):
    s, stream = session()
    if within:
        s.sendall(query(b"BEGIN; " + insert(b"100")))
        until(stream, b"Z")
    data, readies = SENT[name](it)
    s.sendall(data)
    said = told(stream, readies)
    s.sendall(query(b"SELECT 1") + query(b"COMMIT") + query(b"SELECT string_agg(id::text, ',' ORDER BY id) FROM orders WHERE id > 99"))
    said += " / " + told(stream, 2)
    rows = [body[6:] for tag, body in until(stream, b"Z") if tag == b"D"]
    s.sendall(query(b"DELETE FROM orders WHERE id > 99"))
    until(stream, b"Z")
    return f"{said} / {rows}"
for name in SENT:
    for within in False, True:
        other, large = result(name, False, within), result(name, True, within)
        # What is denied for its text is so by its Parse, and what is denied for its values has one.
        large = large.replace(" 1 E 54000", " E 54000") if name.startswith("bound") else large
        print(name, within, large == other.replace("42501", "54000") or (large, other))
s, stream = session()
s.sendall(CALLED + SIMPLE[True])
errors(until(stream, b"Z") + until(stream, b"Z"))
s.sendall(b"Q\x40\0\0\0")
errors(until(stream, b"E"))
"#;

/// A text or values beyond what is looked at are denied as anything else is, and the session goes on, in no more memory. What no
/// server takes ends it.
#[test]
fn a_message_that_is_too_large_is_denied_and_the_session_goes_on() {
    let world = World::new();
    world.rows("SELECT 1");
    world.peak_kib();
    let before = world.peak_kib();
    let said = world.raw(DENIED);
    let (cases, ends) = said.split_at(said.find("ERROR").unwrap_or(said.len()));
    assert_eq!(cases.lines().count(), 12, "{said}");
    assert!(cases.lines().all(|line| line.ends_with(" True")), "{said}");
    let ends: Vec<&str> = ends.lines().collect();
    assert_eq!(ends.len(), 3, "{said}");
    assert!(
        ends[0].starts_with("ERROR 54000 denied by policy: its values of 17825811 bytes cannot be looked at"),
        "{said}"
    );
    assert!(
        ends[1].starts_with("ERROR 54000 denied by policy: its text of 67108879 bytes cannot be looked at"),
        "{said}"
    );
    assert!(ends[2].starts_with("FATAL 08P01") && ends[2].contains("impossible length"), "{said}");
    let recorded = world.recorded();
    assert!(recorded.contains("(text of 67108879 bytes, not kept)"), "{recorded}");
    let taken = world.peak_kib().saturating_sub(before);
    assert!(taken < BOUND_KIB, "{taken} KiB");
}
