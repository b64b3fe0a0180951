//! Masked values under names and in forms by which they were not known.

use system_tests::shop::POLICY;

use super::{SSN, World};

#[test]
fn a_name_that_is_hidden_here_is_that_of_the_query_around() {
    let world = World::with(POLICY);
    let late = "CREATE TABLE late (id int); INSERT INTO late VALUES (1); ALTER TABLE late ADD email text DEFAULT 'one@late.example'";
    world.shop.postgres.sql(&format!("SET ROLE orders_rw; {late}")).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (
    # With a schema it is no subquery's name, and what is in a join with an alias has none.
    b"UPDATE public.customers SET phone = (SELECT public.customers.ssn FROM (SELECT 1) AS customers) WHERE id = 1",
    b"UPDATE customers SET phone = (SELECT customers.ssn FROM (orders JOIN (SELECT 1) AS customers ON true) AS j LIMIT 1) WHERE id = 1",
    b"UPDATE customers SET phone = (SELECT customers.*::text FROM (orders JOIN (SELECT 1) AS customers ON true) AS j LIMIT 1) WHERE id = 1",
    b"SELECT (SELECT pg_catalog.pg_attribute.attmissingval::text FROM (SELECT 1) AS pg_attribute) FROM pg_catalog.pg_attribute WHERE atthasmissing",
):
    show(s, stream, sql)
show(s, stream, b"SELECT phone FROM customers")
show(s, stream, b"UPDATE customers SET phone = (SELECT max(o.item) FROM orders o) WHERE id = 1")
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && !said.contains("one@late") && said.contains("555-0101"), "{said}");
    assert!(said.matches("42501").count() == 4 && said.contains("UPDATE 1"), "{said}");
}

#[test]
fn a_parent_tells_nothing_of_its_childrens_own_columns() {
    let world = World::with(POLICY);
    let setup = "SET ROLE orders_rw; CREATE TABLE parent (id int NOT NULL, x text);
        CREATE TABLE child (email text, UNIQUE (id, email)) INHERITS (parent);
        INSERT INTO child VALUES (1, 'a', 'zoe@child.example'), (2, 'a', 'zoe@child.example');
        CREATE VIEW of_parent AS SELECT id, x FROM parent";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for sql in (b"UPDATE parent SET id = 2 WHERE id = 1", b"UPDATE of_parent SET id = 2 WHERE id = 1",
            b"SELECT id, x FROM parent WHERE id = 1"):
    s.sendall(query(sql))
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"ED"])
"#,
        )
        .unwrap();
    assert!(!said.contains("zoe@") && said.matches("ERROR 23505").count() == 2, "{said}");
    assert!(said.contains("inherits") && said.contains("\\x01a"), "{said}");
}
