//! Masked values under names and in forms by which they were not known.

use system_tests::shop::{POLICY, Shop};

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
    // What the catalog holds of other columns is covered.
    assert!(said.matches("42501").count() == 3 && said.contains("***") && said.contains("UPDATE 1"), "{said}");
}

/// `value.name` calls the function of that name, which may run a text.
#[test]
fn a_field_of_what_is_no_row_is_a_call() {
    let world = World::with(POLICY);
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
text = b"'select to_tsvector(''simple'', ssn) from customers'"
for sql in (
    b"SELECT (" + text + b"::text).ts_stat",
    b"SELECT x.ts_stat FROM unnest(ARRAY[" + text + b"]) x",
    b"SELECT unnest.ts_stat FROM unnest(ARRAY[" + text + b"])",
    b"SELECT (SELECT (x).ts_stat LIMIT 1) FROM unnest(ARRAY[" + text + b"]) x",
    b"SELECT ('default_transaction_read_only'::text).current_setting",
):
    show(s, stream, sql)
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && !said.contains("900"), "{said}");
    assert_eq!((said.matches("42501").count(), said.matches("off").count()), (4, 1), "{said}");
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
    assert!(!said.contains("zoe@") && said.matches("ERROR 42501").count() == 2, "{said}");
    assert!(!said.contains("23505") && said.contains("\\x01a"), "{said}");
}

#[test]
fn rows_in_types_of_types_are_masked() {
    let world = World::with(POLICY);
    let setup = "SET ROLE orders_rw; CREATE DOMAIN one AS customers; CREATE DOMAIN several AS one[]; CREATE DOMAIN again AS one;
        CREATE DOMAIN thrice AS again; CREATE TYPE span AS RANGE (subtype = customers, multirange_type_name = spans);
        CREATE TABLE audit (id int, a several, b thrice, c span, d spans);
        INSERT INTO audit SELECT 1, ARRAY[c]::several, c::one::again::thrice, span(c, c, '[]'), spans(span(c, c, '[]'))
            FROM customers c WHERE id = 1;
        CREATE VIEW joined AS SELECT id, ssn || '' AS s FROM customers;
        CREATE TABLE kept (r joined); INSERT INTO kept SELECT joined FROM joined";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for column in (b"a", b"b", b"c", b"d"):
    show(s, stream, b"SELECT " + column + b" FROM audit")
for sql in (b"SELECT (b).ssn FROM audit", b"SELECT lower(c) FROM audit", b"SELECT r FROM kept", b"SELECT (r).s FROM kept"):
    show(s, stream, sql)
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && !said.contains("ada@shop"), "{said}");
    assert!(said.matches("SELECT 1").count() == 5 && said.matches("42501").count() == 3, "{said}");
}

#[test]
fn a_cast_by_code_is_one_in_every_type_with_its_own_in_it() {
    let world = World::with(POLICY);
    let setup = "SET ROLE orders_rw; CREATE TYPE dressed AS (x text);
        CREATE FUNCTION dress(int) RETURNS dressed LANGUAGE sql AS
            'SELECT ROW(ssn)::dressed FROM public.customers WHERE id = 1';
        CREATE DOMAIN domained AS dressed; CREATE TYPE holder AS (h domained);
        RESET ROLE; CREATE CAST (int AS dressed) WITH FUNCTION dress(int)";
    world.shop.postgres.sql(setup).unwrap();
    for sql in
        ["SELECT 1::domained", "SELECT ARRAY[1]::_dressed", "SELECT ROW(1)::holder", "SELECT ARRAY[ROW(1)]::holder[]"]
    {
        let denied = world.shop.psql(sql).run().unwrap();
        assert!(denied.stderr.contains("denied by policy") && denied.stdout.is_empty(), "{sql}: {denied:?}");
    }
    for sql in ["SELECT NULL::orders", "SELECT ARRAY['1']::text[]"] {
        world.shop.psql(sql).run().unwrap().expect_success().unwrap();
    }
}

#[test]
fn a_function_of_a_domain_over_a_row_is_called_by_its_name_alone() {
    let world = World::with(POLICY);
    let setup = "SET ROLE orders_rw; CREATE DOMAIN ordered AS orders; CREATE FUNCTION peek(ordered) RETURNS text LANGUAGE sql AS
        'SELECT ssn FROM public.customers WHERE id = 1'";
    world.shop.postgres.sql(setup).unwrap();
    for sql in ["SELECT o.peek FROM orders o", "SELECT (o).peek FROM orders o"] {
        let denied = world.shop.psql(sql).run().unwrap();
        assert!(denied.stderr.contains("denied by policy") && denied.stdout.is_empty(), "{sql}: {denied:?}");
    }
}

#[test]
fn a_transaction_that_is_sent_ahead_is_known_for_what_it_touches() {
    let world = World::allowing(r#""declare""#);
    let setup = "SET ROLE orders_rw; CREATE TABLE guarded (id int, x text); INSERT INTO guarded VALUES (1, 'a');
        ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON guarded USING ((SELECT ssn::int FROM customers c WHERE c.id = guarded.id) > 0)";
    world.shop.postgres.sql(setup).unwrap();
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
# The cursor is read when its transaction ends; the one before it ends while all is under way.
s.sendall(query(b"SELECT pg_sleep(1)") + query(b"BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT x FROM guarded") + query(b"COMMIT"))
for _ in range(3):
    errors(until(stream, b"Z"))
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && said.matches("ERROR 42501").count() == 1, "{said}");
}

#[test]
fn code_that_takes_rows_whole_reads_every_column() {
    let world = World::with(POLICY);
    let bodies = [
        "SELECT c::text FROM customers c WHERE id = i",
        "SELECT concat(customers) FROM customers WHERE id = i",
        "SELECT k.v FROM customers AS k(i, n, e, v) LIMIT 1",
        "SELECT t::text FROM (TABLE customers) t LIMIT 1",
        "SELECT c.looked_up FROM customers c WHERE id = i",
        "SELECT table_to_xml(''customers'', true, true, '''')::text",
        // Not one of these.
        "SELECT c.name || c.phone FROM customers c WHERE c.id = i",
    ];
    let look = "CREATE FUNCTION looked_up(customers) RETURNS text LANGUAGE sql AS 'SELECT $1.ssn'";
    world.shop.postgres.sql(look).unwrap();
    for (number, body) in bodies.iter().enumerate() {
        let made = format!(
            "CREATE FUNCTION f{number}(i int) RETURNS text LANGUAGE sql AS '{body}';
             SET ROLE orders_rw; CREATE TABLE t{number} (id int, note text DEFAULT f{number}(1))"
        );
        world.shop.postgres.sql(&made).unwrap();
    }
    let own = "SET ROLE orders_rw;
        CREATE TABLE own (id int, note xml DEFAULT query_to_xml('SELECT ssn FROM customers', true, true, ''));
        CREATE DOMAIN shown AS xml DEFAULT table_to_xml('customers', true, true, '');
        CREATE TABLE own_domain (id int, note shown)";
    world.shop.postgres.sql(own).unwrap();
    let tables: Vec<String> = (0..bodies.len() - 1).map(|number| format!("t{number}")).collect();
    for table in tables.iter().map(String::as_str).chain(["own", "own_domain"]) {
        let said = world.shop.psql(&format!("INSERT INTO {table} (id) VALUES (1) RETURNING note")).run().unwrap();
        let denied = said.stderr.contains("denied by policy") && !said.stdout.contains(SSN);
        assert!(denied, "{table}: {said:?}");
    }
    let plain = format!("INSERT INTO t{} (id) VALUES (1) RETURNING note", bodies.len() - 1);
    world.shop.psql(&plain).run().unwrap().expect_success().unwrap();
}

#[test]
fn names_that_another_encoding_spells_otherwise_are_not_understood() {
    let shop = Shop::new().unwrap();
    let latin = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    shop.postgres.sql(&format!("CREATE DATABASE latin OWNER orders_rw TEMPLATE template0 {latin}")).unwrap();
    // 40 letters are 40 bytes there. Here they are 80, of which 62 are a name.
    let long = "é".repeat(40);
    let setup = format!(
        "CREATE TABLE customers (id int, phone text, \"{long}\" text); CREATE TABLE \"{long}\" (id int);
         INSERT INTO customers VALUES (1, 'none', '{SSN}'); INSERT INTO \"{long}\" VALUES (1)"
    );
    shop.postgres.sql_in("latin", &format!("SET ROLE orders_rw; {setup}")).unwrap();
    let masked = POLICY.replace("public.customers.ssn\", \"*.*.email", &format!("public.customers.{long}"));
    let kept = format!(
        "[[rule]]\nname = \"kept\"\ntargets = [\"orders\"]\nkinds = [\"delete\"]\ntables = [\"{long}\"]\nthen = \"deny\"\n"
    );
    shop.configure(&format!("{masked}\n{kept}")).unwrap();
    let config = std::fs::read_to_string(shop.env.config_path()).unwrap();
    let there = config.replace("databases = [\"orders\"]", "databases = [\"latin\"]");
    assert_ne!(there, config);
    std::fs::write(shop.env.config_path(), there).unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    let psql = |sql: &str| {
        let psql = world.shop.psql(sql).env("PGDATABASE", "latin").env("PGCLIENTENCODING", "UTF8").run().unwrap();
        psql.stdout + &psql.stderr
    };
    for sql in [
        format!("UPDATE customers SET phone = \"{long}\" WHERE id = 1"),
        format!("DELETE FROM \"{long}\" WHERE id = 1"),
        format!("DELETE FROM U&\"{}\" WHERE id = 1", "\\00e9".repeat(40)),
    ] {
        let said = psql(&sql);
        assert!(said.contains("denied by policy"), "{sql}: {said}");
    }
    let said = psql("SELECT * FROM customers WHERE phone <> 'é'");
    assert!(said.contains("none") && said.contains("*1002") && !said.contains(SSN), "{said}");
    drop(world.gateway);
}

#[test]
fn an_insert_that_updates_is_an_update_to_rules() {
    let kept = "[[rule]]\nname = \"kept\"\ntables = [\"payments\"]\nkinds = [\"update\"]\nthen = \"deny\"\n";
    let world = World::with(&format!("{POLICY}\n{kept}"));
    let values = "(id, order_id, card_number, note) VALUES (1, 1, 'x', 'y') ON CONFLICT (id) DO";
    let denied = world.shop.psql(&format!("INSERT INTO payments {values} UPDATE SET note = 'other'")).run().unwrap();
    assert!(denied.stderr.contains("rule \"kept\""), "{denied:?}");
    world.shop.psql(&format!("INSERT INTO payments {values} NOTHING")).run().unwrap().expect_success().unwrap();
    // Where updates are allowed nobody is asked: rows are chosen by their key.
    let upsert = "INSERT INTO orders (id, customer_id, item, amount) VALUES (1, 1, 'x', 1) ON CONFLICT (id) DO UPDATE SET item = 'y'";
    world.shop.psql(upsert).run().unwrap().expect_success().unwrap();
    assert_eq!(world.shop.postgres.sql("SELECT note FROM payments WHERE id = 1").unwrap(), "paid");
}

#[test]
fn what_is_described_by_a_name_is_what_the_name_stands_for() {
    let shop = Shop::new().unwrap();
    let tables = "CREATE SCHEMA archive AUTHORIZATION orders_rw; SET ROLE orders_rw;
        CREATE TABLE notes (t text, secret text DEFAULT '900-11-1002'); CREATE TABLE archive.notes (t text, secret text)";
    shop.postgres.sql(tables).unwrap();
    let policy = POLICY.replace("\"show\"]", "\"show\", \"execute\", \"fetch\"]");
    shop.configure(&policy.replace("\"public.customers.ssn\"", "\"public.customers.ssn\", \"public.notes.secret\""))
        .unwrap();
    let world = World { gateway: shop.serve().unwrap(), shop };
    let said = world
        .shop
        .raw(
            r#"
def portal(tag, name): return msg(tag, b"P" + name + b"\0")
def told():
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
insert = b"INSERT INTO notes (t) VALUES ('noted') RETURNING "
plain, hidden = insert + b"t", insert + b"secret || ''"
s, stream = session()
s.sendall(query(b"BEGIN") + parse(b"x", plain) + sync)
told(), told()
s.sendall(parse(b"e", b"EXECUTE x") + bind(b"p", b"e") + portal(b"D", b"p") + execute(b"p") + sync)
told()
s.sendall(bind(b"q", b"e") + portal(b"D", b"q") + sync + close(b"x") + parse(b"x", hidden) + sync + execute(b"q") + sync)
told(), told(), told()
s, stream = session()
s.sendall(query(b"BEGIN") + parse(b"", plain) + bind(b"c", b"") + sync)
told(), told()
s.sendall(parse(b"f", b"FETCH ALL FROM c") + bind(b"q", b"f") + portal(b"D", b"q") + sync)
told()
s.sendall(portal(b"C", b"c") + parse(b"", hidden) + bind(b"c", b"") + sync + execute(b"q") + sync)
told(), told()
# The same text, about another table of that name.
s, stream = session()
s.sendall(query(b"SET search_path = archive, public"))
told()
s.sendall(parse(b"x", insert + b"secret") + sync + query(b"BEGIN"))
told(), told()
s.sendall(parse(b"e", b"EXECUTE x") + bind(b"q", b"e") + portal(b"D", b"q") + sync)
told()
s.sendall(query(b"SET search_path = public") + execute(b"q") + sync)
told(), told()
"#,
        )
        .unwrap();
    assert!(!said.contains(SSN) && said.contains("noted"), "{said}");
    assert_eq!(said.matches("42501").count(), 3, "{said}");
}
