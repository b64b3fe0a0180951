//! What a statement shows of masked columns, by the server's own tree.

use system_tests::lineage;
use system_tests::shop::{POLICY, Shop};

use super::World;

#[test]
fn what_comes_back_is_the_same_whatever_is_masked() {
    lineage::hold(&Shop::new().unwrap()).unwrap();
}

#[test]
fn a_known_value_is_looked_up_so_often_and_no_more() {
    let world = World::with(&POLICY.replace(
        "columns = [\"public.customers.ssn\", \"*.*.email\"]",
        "columns = [\"public.customers.ssn\", \"*.*.email\"]\nlookups_per_minute = 4",
    ));
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"SELECT id FROM customers WHERE email = 'ada@shop.example' AND id < 9", b"SELECT id FROM customers WHERE 'none' = ssn",
            b"SELECT id FROM customers WHERE email > 'a'", b"SELECT id FROM customers WHERE email = name",
            b"SELECT id FROM customers WHERE email = 'a' OR id = 1", b"SELECT id FROM customers WHERE email IN ('a', 'b')"):
    show(s, stream, sql)
value = b"bruno@shop.example"
looked = parse(b"", b"SELECT id FROM customers WHERE email = $1") + \
    msg(b"B", b"\0\0\0\0\0\1" + struct.pack(">I", len(value)) + value + b"\0\0") + execute(b"") + sync
for _ in range(3):
    s.sendall(looked)
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
"#,
        )
        .unwrap();
    assert_eq!(said.matches(r"\x00\x00\x00\x011', b'SELECT 1").count(), 1, "{said}");
    assert_eq!(said.matches(r"\x00\x00\x00\x012', b'SELECT 1").count(), 2, "{said}");
    assert_eq!((said.matches("SELECT 0").count(), said.matches("42501").count()), (1, 5), "{said}");
    assert!(said.contains("4 times a minute"), "{said}");
}
