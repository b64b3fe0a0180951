# Code at the target: triggers, rules, policies, operators, casts, domains, aggregates. The owner's, set off by what a session writes, and
# what sessions try to make themselves.
from maker import *


statements("triggers", 3,
           "INSERT INTO stamped VALUES (4, 'four') RETURNING body", "INSERT INTO stamped (body) VALUES ('default') RETURNING id, body", "UPDATE stamped SET body = 'again' WHERE id = 1 RETURNING body", "DELETE FROM stamped WHERE id = 2",
           "INSERT INTO v_instead VALUES (8, 'instead') RETURNING body", "INSERT INTO stamped SELECT id, name FROM customers WHERE city = 'Graz'",
           "UPDATE customers SET city = 'Graz' WHERE id = 3 RETURNING id, ssn", "SELECT count(*) FROM log", "TRUNCATE log", "COPY stamped FROM STDIN")


# A trigger that puts what is masked in its row is refused; of one that only tells, what it tells is withheld.
statements("triggers that read", 3,
           "INSERT INTO crying VALUES (1, 'c')", "INSERT INTO muttering VALUES (1, 'm')", "INSERT INTO muttering SELECT id, name FROM customers", "UPDATE muttering SET body = 'x'",
           "INSERT INTO late VALUES (1, 'l')", "INSERT INTO muttering VALUES (2, 'm'), (3, 'n') RETURNING id")


statements("triggers that read", 2,
           "!INSERT INTO spied VALUES (1, 's') RETURNING body", "!INSERT INTO conditional VALUES (1, '500')", "!INSERT INTO ruled_spy VALUES (1, 'r')", "!INSERT INTO ruled_if VALUES (1, '500')", "!INSERT INTO checked VALUES (1, '500')",
           "!INSERT INTO in_domain VALUES (1, '500')", "!INSERT INTO defaults (id) VALUES (1) RETURNING body", "!SELECT count(*) FROM secured", "!DELETE FROM secured", "!TABLE spied", "!SELECT 'x'::free_word", "!SELECT * FROM v_over",
           "!SELECT r FROM v_reader", "!INSERT INTO secured VALUES (1, '5')", "!SELECT s FROM kept", "!SELECT id FROM v_picky", "!COPY secured TO STDOUT", "!SELECT p::varbit FROM typed", "!TABLE conditional", "!UPDATE spied SET id = 2",
           refused="the trigger, the default, the rule, the policy, the cast or the check reads masked columns")


statements("rules", 2,
           "INSERT INTO ruled VALUES (1, 'also')", "DELETE FROM ruled", "UPDATE ruled SET body = 'x'", "INSERT INTO ruled SELECT id, name FROM customers WHERE id < 3", "SELECT line FROM log ORDER BY id", "SELECT * FROM ruled")


statements("row security", 3,
           "SELECT id, city FROM rooms ORDER BY id", "SELECT id, email FROM tenants ORDER BY id", "UPDATE rooms SET body = 'x' RETURNING id", "INSERT INTO rooms VALUES (7, 'Graz', 'r')", "SET app.city = 'Graz'", "RESET app.city",
           "SET row_security = off", "SELECT count(*) FROM tenants", "COPY tenants TO STDOUT", "INSERT INTO tenants (id, city, email) VALUES (9, 'Graz', 'x@t.example')",
           "UPDATE tenants SET id = id + 1 WHERE city = 'Linz'", "SELECT t.id, r.body FROM tenants t JOIN rooms r ON r.city = t.city ORDER BY 1, 2")


statements("the owner's types", 2,
           "SELECT id, feels, p, word, span FROM typed ORDER BY id", "SELECT (p).v FROM typed ORDER BY id", "UPDATE typed SET p.v = 'x' WHERE id = 1 RETURNING p", "INSERT INTO typed (feels, word) VALUES ('glad', 'w') RETURNING feels",
           "SELECT id FROM typed WHERE feels > 'sad' ORDER BY id", "SELECT 'glad'::mood, 'w'::short", "SELECT enum_range(NULL::mood)", "SELECT name::short FROM customers", "SELECT ssn::short FROM customers",
           "SELECT id FROM typed WHERE span && '[10,25)' ORDER BY id", "SELECT range_agg(span) FROM typed", "SELECT id, @+ id FROM orders", "SELECT * FROM v_operator", "SELECT latest(name) FROM customers")


# What a session makes itself. It stays until the session's end takes it back, or for those that come after.

statements("code of the session's own", 4,
           "!CREATE FUNCTION @@(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$", "!CREATE FUNCTION @@() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT max(ssn) FROM customers'",
           "!CREATE FUNCTION @@(int) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT $1'", "!CREATE TRIGGER @@ AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION log_it()", "!CREATE RULE @@ AS ON INSERT TO orders DO ALSO SELECT ssn FROM customers",
           "!CREATE POLICY @@ ON rooms USING (true)", "!ALTER POLICY p ON rooms USING (EXISTS (SELECT FROM customers WHERE ssn > body))", "!CREATE OPERATOR ~~~ (FUNCTION = textlike, LEFTARG = text, RIGHTARG = text)",
           "!CREATE CAST (text AS pair) WITH INOUT", "!CREATE AGGREGATE @@ (text) (SFUNC = text_larger, STYPE = text)", "!DO $$BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers WHERE id = 1); END$$", "!DO $$BEGIN PERFORM 1 FROM customers; END$$",
           "!CREATE PROCEDURE @@() LANGUAGE sql AS 'SELECT 1'", "!CALL nothing()", "!CREATE EVENT TRIGGER @@ ON ddl_command_end EXECUTE FUNCTION log_it()", "!CREATE OPERATOR CLASS @@ FOR TYPE int USING btree AS OPERATOR 1 <",
           "!ALTER FUNCTION reader(int) LEAKPROOF", "!CREATE EXTENSION dblink", "!CREATE TEXT SEARCH CONFIGURATION @@ (COPY = simple)", "!ALTER DOMAIN short ADD CHECK (VALUE <> 'w1')", "!ALTER TYPE pair ADD ATTRIBUTE z int CASCADE",
           "!CREATE PUBLICATION everything FOR ALL TABLES", "!CREATE STATISTICS @@ ON city, ssn FROM customers", "!CREATE VIEW @@ AS SELECT ssn FROM customers", "!CREATE MATERIALIZED VIEW @@ AS SELECT ssn FROM customers",
           refused="agents define no code where columns are masked, and no copies of these")
statements("ways out", 2,
           "!SELECT dblink('dbname=orders', 'SELECT ssn FROM customers')", "!SELECT pg_read_file('/etc/passwd')", "!SELECT lo_from_bytea(0, 'x')", "!SELECT lo_get(1)", "!SELECT pg_ls_dir('.')", "!COPY orders TO PROGRAM 'cat'",
           "!COPY orders TO '/tmp/x'", "!COPY log FROM '/etc/passwd'", "!LOAD 'auto_explain'", "!SET auto_explain.log_min_duration = 0", "!SET debug_print_plan = on", "!SELECT set_config('role', 'postgres', false)", "!ALTER SYSTEM SET work_mem = '1MB'",
           "!SELECT pg_stat_get_activity(NULL)", "!SELECT pg_notify('c', ssn) FROM customers", "!SELECT set_config('application_name', ssn, false) FROM customers", "!SELECT pg_advisory_lock(salary) FROM customers",
           "!SELECT setval('s', length(ssn)) FROM customers", "!SELECT pg_sleep(salary / 10000) FROM customers", "!SELECT lo_from_bytea(0, ssn::bytea) FROM customers",
           refused="they lead out of the database, or leave a trace that others see")


@makes("scene", "definitions", 5)
def own_table(m):
    made = m.fresh()
    query, columns = m.select(2, 1)
    first = next((c for c, k in columns if k == "t"), "tableoid")
    steps = [m.send(f"CREATE {m.one('TEMP ', 'TEMP ', '', 'UNLOGGED ')}TABLE {made} AS {query}")]
    for _ in range(m.r.randint(1, 3)):
        steps.append(m.send(m.one(
            f"SELECT * FROM {made}", f"CREATE INDEX ON {made} ({first})", f"ANALYZE {made}", f"DROP TABLE {made}", f"SELECT count(*) FROM {made}", f"CREATE TEMP VIEW {made}_v AS SELECT * FROM {made}",
            f"ALTER TABLE {made} ADD COLUMN z int GENERATED ALWAYS AS (1) STORED", lambda: f"INSERT INTO {made} {m.select(2, 1)[0]}")))
    return steps


@makes("scene", "definitions", 3)
def own_view(m):
    made = m.fresh()
    query, columns = m.select(2, 1)
    return [f"CREATE {m.one('TEMP ', 'TEMP ', '')}VIEW {made} AS {query}", f"SELECT * FROM {made}", m.one(f"DROP VIEW {made}", f"COPY (SELECT * FROM {made}) TO STDOUT")]


statements("definitions", 4,
           ["CREATE TABLE @@ (id int PRIMARY KEY, body text CHECK (body <> 'no'), up text GENERATED ALWAYS AS (upper(body)) STORED)", "INSERT INTO @@ VALUES (1, 'yes') RETURNING up", "INSERT INTO @@ SELECT id + 1, name FROM customers",
            "INSERT INTO @@ SELECT id + 20, ssn FROM customers", "INSERT INTO @@ VALUES (1, 'no')", "DROP TABLE @@"],
           ["CREATE DOMAIN @@ AS text CHECK (length(VALUE) < 5)", "SELECT 'abc'::@@", "SELECT ssn::@@ FROM customers", "SELECT name::@@ FROM customers ORDER BY id"],
           ["CREATE TYPE @@ AS ENUM ('x', 'y')", "SELECT 'x'::@@", "SELECT name::@@ FROM customers", "ALTER TYPE @@ ADD VALUE 'z'"],
           ["CREATE TEMP TABLE @@ (LIKE customers)", "INSERT INTO @@ (ssn) SELECT ssn FROM customers", "SELECT count(*) FROM @@"],
           ["BEGIN", "CREATE TEMP TABLE customers (id int, ssn text, name text)", "INSERT INTO customers VALUES (1, 'own', 'mine')", "SELECT ssn, name FROM customers", "SELECT ssn FROM public.customers ORDER BY id", "ROLLBACK"],
           ["CREATE TEMP TABLE notes (id int, email text, body text)", "INSERT INTO notes VALUES (1, 'own', 'mine')", "SELECT email, body FROM notes", "INSERT INTO notes (body) SELECT name FROM customers", "DROP TABLE pg_temp.notes"],
           ["CREATE TABLE @@ PARTITION OF people FOR VALUES FROM (1000) TO (2000)", "INSERT INTO people (id, age) VALUES (1500, 3) RETURNING tableoid::regclass", "SELECT * FROM @@", "DROP TABLE @@"],
           ["CREATE TABLE @@ (id int, city text, visits int)", "INSERT INTO @@ VALUES (1, 'Steyr', 3)", "ALTER TABLE places ATTACH PARTITION @@ FOR VALUES IN ('Steyr')", "SELECT tableoid::regclass, id FROM places ORDER BY id",
            "ALTER TABLE places DETACH PARTITION @@", "SELECT * FROM @@"],
           ["CREATE TABLE @@ (id int, city text, visits int)", "INSERT INTO @@ VALUES (1, 'Linz', 3)", "ALTER TABLE places ATTACH PARTITION @@ FOR VALUES IN ('Steyr')"],
           ["CREATE TABLE @@ () INHERITS (elder)", "INSERT INTO @@ (id, note, email) VALUES (9, 'own', 'z@e.example')", "SELECT id, email FROM elder ORDER BY id", "SELECT id, note FROM @@", "DROP TABLE @@"],
           ["CREATE INDEX @@ ON orders (item)", "SELECT id FROM orders WHERE item = 'item 3'", "DROP INDEX @@"],
           ["BEGIN; CREATE UNIQUE INDEX ON orders (amount); CREATE UNIQUE INDEX ON places (city, id); ROLLBACK"], ["BEGIN; CREATE UNIQUE INDEX ON orders (customer_id); ROLLBACK"],
           "!CREATE INDEX ON customers ((length(ssn)))", "!CREATE INDEX ON customers (city) WHERE ssn > '5'", "!CREATE UNIQUE INDEX ON notes (email)", "!CREATE INDEX ON customers ((ssn::int))", "!ALTER TABLE notes ADD CHECK (email < 'z')",
           "!ALTER TABLE notes ADD UNIQUE (email)", "!ALTER TABLE orders ADD FOREIGN KEY (item) REFERENCES customers (ssn)", "!ALTER TABLE customers RENAME ssn TO free", "!ALTER TABLE customers RENAME TO clients",
           "!ALTER TABLE customers ALTER ssn TYPE int USING ssn::int", "!CLUSTER customers USING customers_ssn_key", "!REFRESH MATERIALIZED VIEW kept", "!COMMENT ON COLUMN customers.ssn IS 'x'", "!GRANT SELECT ON customers TO PUBLIC",
           ["BEGIN; ALTER TABLE orders ADD CHECK (amount < 30); ROLLBACK"], ["BEGIN; ALTER TABLE orders ALTER item TYPE varchar(3); ROLLBACK"], ["BEGIN; ALTER TABLE orders ADD COLUMN z int DEFAULT 7; ROLLBACK"],
           ["BEGIN; DROP TABLE customers; ROLLBACK"], ["BEGIN; DROP TABLE orders; ROLLBACK"], ["BEGIN; DROP VIEW v_operator; ROLLBACK"], ["BEGIN; TRUNCATE people, notes; SELECT count(*) FROM people; ROLLBACK"],
           "REINDEX TABLE orders", "REINDEX INDEX customers_ssn_key", "CLUSTER", "CLUSTER orders USING orders_pkey", "VACUUM places", "LOCK TABLE notes", ["BEGIN", "LOCK TABLE customers IN SHARE MODE", "SELECT count(*) FROM customers", "COMMIT"],
           ["REFRESH MATERIALIZED VIEW plain_kept", "SELECT * FROM plain_kept ORDER BY id"], ["BEGIN", "TRUNCATE notes", "SELECT count(*) FROM notes", "ROLLBACK"],
           ["CREATE SCHEMA @@ CREATE TABLE inner_one (id int, email text)", "INSERT INTO @@.inner_one VALUES (1, 'i@x.example')", "SELECT * FROM @@.inner_one", "DROP SCHEMA @@ CASCADE", "DROP TABLE @@.inner_one"],
           ["CREATE SEQUENCE @@", "SELECT nextval('@@')", "CREATE TEMP TABLE @@_of (id int DEFAULT nextval('@@'), email text)", "INSERT INTO @@_of (email) VALUES ('x') RETURNING *"],
           "COMMENT ON TABLE orders IS 'x'", ["GRANT SELECT ON orders TO PUBLIC", "REVOKE SELECT ON orders FROM PUBLIC"])
