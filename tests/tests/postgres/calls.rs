//! Functions that are called by number (the protocol's FunctionCall), which libpq does for large objects.

use system_tests::postgres::SSN;
use system_tests::shop::POLICY;

use super::World;

const NUMBERS: &str = r#"
LO_CREATE, LO_OPEN, LO_READ, LO_WRITE, LO_GET = 715, 952, 954, 955, 3458
def call(oid, *args):
    body = struct.pack(">I", oid) + struct.pack(">HH", 1, 1) + struct.pack(">H", len(args))
    for arg in args:
        value = arg if isinstance(arg, bytes) else struct.pack(">I", arg)
        body += struct.pack(">I", len(value)) + value
    return msg(b"F", body + struct.pack(">H", 1))
def run(s, stream, data):
    s.sendall(data)
    seen = until(stream, b"Z")
    errors(seen)
    print([(tag.decode(), body) for tag, body in seen if tag in b"VZ"])
    return [body[4:] for tag, body in seen if tag == b"V"]
s, stream = session()
"#;

/// The policy without masks by column.
fn plain() -> String {
    let columns = "columns = [\"public.customers.ssn\", \"*.*.email\"]\nwith    = { partial = { keep_last = 4 } }";
    let plain = POLICY.replace(columns, "detect = [\"aws_access_key\"]\nwith = \"redact\"");
    assert!(!plain.contains("columns"));
    plain
}

fn with_calls(policy: &str) -> String {
    policy.replace("\"show\"]", "\"show\", \"function_call\"]")
}

#[test]
fn a_call_by_number_is_denied_where_no_rule_allows_it() {
    let world = World::with(&plain());
    let said = world.raw(&format!(
        r#"{NUMBERS}
run(s, stream, call(LO_CREATE, 7001))
run(s, stream, query(b"BEGIN; UPDATE orders SET item = 'gong' WHERE id = 3"))
run(s, stream, call(LO_CREATE, 7002))
show(s, stream, b"SELECT item FROM orders WHERE id = 3")
run(s, stream, query(b"COMMIT"))
# In a batch: what came before it is undone, as by an error there.
s.sendall(parse(b"", b"UPDATE orders SET item = 'bell' WHERE id = 3") + bind(b"", b"") + execute(b"") + call(LO_CREATE, 7003) + sync)
# It ends the batch, and the Sync one without anything.
errors(until(stream, b"Z") + until(stream, b"Z"))
show(s, stream, b"SELECT item FROM orders WHERE id = 3")
"#
    ));
    assert_eq!(said.matches("ERROR 42501 denied by policy").count(), 3, "{said}");
    assert_eq!(said.matches("('Z', b'I')").count(), 2, "{said}");
    assert_eq!(said.matches("('Z', b'T')").count(), 2, "its transaction goes on: {said}");
    assert_eq!(said.matches("gong").count(), 2, "{said}");
    let made = world.shop.postgres.sql("SELECT count(*) FROM pg_largeobject_metadata").unwrap();
    assert_eq!(made, "0", "{said}");
    let id = said.split_once("(ID ").unwrap().1.split(')').next().unwrap();
    let why = world.shop.env.weir(["why", id]).unwrap().expect_success().unwrap();
    assert!(why.contains("function call 715"), "{why}");
    let session = id.split('-').next().unwrap();
    let shown = world.shop.env.weir(["sessions", "show", session]).unwrap().expect_success().unwrap();
    assert!(shown.contains("$1 = binary 00001b59"), "{shown}");
}

/// The library's own large objects, behind the gateway, in and out.
#[test]
fn libpqs_large_objects_work_where_a_rule_allows_calls() {
    let world = World::with(&with_calls(&plain()));
    let ran = world.python(
        r#"
import ctypes, os
pq = ctypes.CDLL("libpq.so.5")
pq.PQconnectdb.restype = pq.PQexec.restype = ctypes.c_void_p
pq.PQerrorMessage.restype = ctypes.c_char_p
number, text, size = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
for name, arguments in {"PQexec": [text], "PQerrorMessage": [], "lo_creat": [number], "lo_open": [number] * 2, "lo_write": [number, text, size],
        "lo_read": [number, text, size], "lo_lseek": [number] * 3, "lo_tell": [number], "lo_truncate": [number, size], "lo_close": [number],
        "lo_unlink": [number]}.items():
    getattr(pq, name).argtypes = [ctypes.c_void_p] + arguments
c = pq.PQconnectdb(b"")
pq.PQexec(c, b"BEGIN")
made = pq.lo_creat(c, 0x60000)
fd = pq.lo_open(c, made, 0x60000)
data = os.urandom(700_000)
written = sum(pq.lo_write(c, fd, data[at:at + 100_000], 100_000) for at in range(0, 700_000, 100_000))
print(written, pq.lo_lseek(c, fd, 0, 0))
read, buffer = b"", ctypes.create_string_buffer(65536)
while (got := pq.lo_read(c, fd, buffer, 65536)) > 0:
    read += buffer.raw[:got]
print(read == data, pq.lo_tell(c, fd), pq.lo_truncate(c, fd, 10), pq.lo_close(c, fd))
pq.PQexec(c, b"COMMIT")
print(pq.lo_unlink(c, made), pq.lo_unlink(c, made), pq.PQerrorMessage(c).decode().strip())
"#,
    );
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[..2], ["700000 0", "True 700000 0 0"], "{ran:?}");
    assert!(lines[2].starts_with("1 -1 ERROR:  large object ") && lines[2].ends_with("does not exist"), "{ran:?}");
}

#[test]
fn what_a_call_by_number_gives_is_looked_through() {
    let world = World::with(&with_calls(&plain()));
    let key = "AKIAIOSFODNN7EXAMPLE";
    let made = format!("SET ROLE orders_rw; SELECT lo_from_bytea(7001, 'the key {key} is here')");
    world.shop.postgres.sql(&made).unwrap();
    let said = world.raw(&format!(
        r#"{NUMBERS}
run(s, stream, query(b"BEGIN"))
fd, = run(s, stream, call(LO_OPEN, 7001, 0x40000))
run(s, stream, call(LO_READ, fd, 100))
run(s, stream, call(LO_GET, 7001))
run(s, stream, call(LO_GET, 7099))
run(s, stream, call(LO_GET, 7001))
"#
    ));
    assert!(!said.contains(key) && said.matches("redacted:aws_access_key").count() == 2, "{said}");
    assert!(
        said.contains("ERROR 42704") && said.contains("ERROR 25P02") && said.ends_with("[('Z', b'E')]\n"),
        "{said}"
    );
}

/// Nobody knows what a function reads that is called by number, so on a target with masked columns none is.
#[test]
fn nothing_masked_comes_out_of_a_call_by_number() {
    let world = World::with(&with_calls(POLICY));
    for setup in [
        "SELECT lo_from_bytea(7001, (SELECT string_agg(ssn, ' ') FROM customers)::bytea); ALTER LARGE OBJECT 7001 OWNER TO orders_rw",
        "CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT ssn FROM customers WHERE id = 1'",
    ] {
        world.shop.postgres.sql(setup).unwrap();
    }
    let peek: u32 = world.shop.postgres.sql("SELECT 'peek'::regproc::oid").unwrap().parse().unwrap();
    let said = world.raw(&format!(
        r#"{NUMBERS}
for data in (call(LO_GET, 7001), call({peek}), call(LO_OPEN, 7001, 0x40000), call(2559), call(2077, b"search_path")):
    run(s, stream, data)
run(s, stream, query(b"BEGIN"))
run(s, stream, call(LO_GET, 7001))
show(s, stream, b"SELECT 'goes on'")
for sql in (b"SELECT lo_get(7001)", b"SELECT loread(lo_open(7001, 262144), 100)", b"SELECT data FROM pg_largeobject", b"SELECT peek()",
            b"SELECT lo_export(7001, '/tmp/x')", b"SELECT lo_put(7001, 0, (SELECT ssn FROM customers LIMIT 1)::bytea)"):
    show(s, stream, sql)
"#
    ));
    assert!(!said.contains(SSN) && !said.contains("'V'"), "{said}");
    assert_eq!(said.matches("ERROR 42501 denied by policy").count(), 12, "{said}");
    assert_eq!(said.matches("not known to be harmless; this target has masked columns").count(), 6, "{said}");
    assert!(said.contains("goes on") && said.contains("('Z', b'T')"), "{said}");
}
