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
