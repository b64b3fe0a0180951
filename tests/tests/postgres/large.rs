//! A value that is larger than what the gateway holds.

use std::time::Instant;

use system_tests::shop::POLICY;

use super::World;

/// Of one value. The server itself takes no more than 1 GB.
const MIB: u64 = 220;
/// What all the gateway's processes may take at most beyond what they have.
const BOUND_KIB: u64 = 32 << 10;

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

/// What has to be looked at as a whole has a limit.
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
        "SELECT upper(email) FROM customers WHERE id = 2",
        "COPY (SELECT phone FROM customers WHERE id = 1) TO STDOUT",
        "COPY (SELECT email FROM customers WHERE id = 2) TO STDOUT",
    ] {
        for extended in ["False", "True"] {
            let said = world.raw(&format!("{COUNTS}\nprint(counted(b\"{sql}\", {extended}))"));
            assert!(said.contains("FATAL 54000") && said.contains("the limit is 16777216"), "{sql}: {said}");
            assert!(!said.contains("b'D'") && !said.contains("b'd'") && said.contains("closed"), "{sql}: {said}");
        }
    }
    let peak = world.peak_kib();
    assert!(peak < before + BOUND_KIB, "{before} KiB before, {peak} KiB at most");
    // Below it, all is as ever.
    let said = world.raw(&format!(
        "{COUNTS}\nprint(counted(b\"SELECT phone, email FROM customers WHERE id = 3\"))\nprint(counted(b\"SELECT 'served'\"))"
    ));
    assert!(said.contains(&format!("b'D': {}", (10 << 20) + 10 + 18)) && said.matches("ready").count() == 2, "{said}");
    let listed = world.shop.env.weir(["sessions", "list", "--json"]).unwrap().expect_success().unwrap();
    assert!(listed.contains("on a target with masks each is checked as a whole"), "{listed}");
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
        assert!(said.contains("FATAL 54000") && !said.contains("b'D'") && !said.contains("b'd'"), "{sql}: {said}");
    }
}
