# Statements that change rows: in tables, through views, in partitions, by upserts and MERGE; keys and constraints that are in the way.
from maker import *

CHANGED = ["orders", "notes", "customers", "people", "places", "elder", "labels", "children", "parents", "shares", "tenants", "holders", "refers", "rooms", "stamped"]


def changed_table(m):
    table = m.one(*CHANGED, "customers", "notes")
    free = [(c, k) for c, k in m.tables[table] if c not in MASKED and c not in ("id", "twice") and (table, c) != ("shares", "tenant")] or [("id", "i")]
    return table, free


def returning(m, scope, chance=0.5):
    if not m.maybe(chance):
        return ""
    m.used.add("RETURNING")
    if m.maybe(0.1):
        return " RETURNING *"
    return f" RETURNING {m.value(m.one('t', 'i', 'd', 'b'), Where(scope, 2, m.mood(m.one(CLEAR, SHOWN)), False))}"


@makes("change", "UPDATE", 5)
def update(m):
    table, free = changed_table(m)
    scope = m.table_scope(table)
    column, kind = m.r.choice(free)
    return f"UPDATE {table} SET {column} = {m.value(kind, Where(scope, 2, m.mood(CLEAR), False))} WHERE {m.condition(scope)}{returning(m, scope)}"


@makes("change", "UPDATE", 2)
def update_from(m):
    scope = m.table_scope("notes") + m.table_scope("customers", "c")
    return f"UPDATE notes SET body = {m.value('t', Where(scope, 1, m.mood(CLEAR), False))} FROM customers c WHERE c.id = notes.customer_id AND {m.condition(scope)}{returning(m, scope)}"


@makes("change", "UPDATE")
def update_of_several(m):
    scope = m.table_scope("places")
    return f"UPDATE places SET (visits, id) = (SELECT {m.value('i', Where(scope, 1, m.mood(CLEAR), False))}, 5) WHERE {m.condition(scope)}"


@makes("change", "UPDATE")
def update_moves_rows(m):
    return m.one("UPDATE people SET id = id + 3 WHERE id < 5 RETURNING id, email", "UPDATE places SET city = 'Wels' WHERE city = 'Graz'", "UPDATE people SET id = id + 9000 RETURNING email",
                 "UPDATE people_low SET id = 7 WHERE id = 3", "UPDATE shares SET tenant = 1 WHERE id = 2")


@makes("change", "UPDATE", refused="what is masked is not written over")
def update_of_masked(m):
    return f"UPDATE customers SET {m.one('ssn', 'email', 'salary')} = {m.one('NULL', 'DEFAULT')} WHERE id = 1"


@makes("change", "DELETE", 2)
def delete(m):
    table, _ = changed_table(m)
    scope = m.table_scope(table)
    return f"DELETE FROM {table} WHERE {m.condition(scope)}{returning(m, scope)}"


@makes("change", "DELETE")
def delete_using(m):
    scope = m.table_scope("notes") + m.table_scope("customers", "c")
    return f"DELETE FROM notes USING customers c WHERE c.id = notes.customer_id AND {m.condition(scope)}{returning(m, scope)}"


@makes("change", "INSERT", 3)
def insert(m):
    table, free = changed_table(m)
    chosen = m.r.sample(free, m.r.randint(1, len(free)))
    row = lambda: f"({', '.join(m.value(k, Where([], 1, CLEAR, False)) if m.maybe(0.8) else m.one('NULL', 'DEFAULT') for _, k in chosen)})"
    rows = ", ".join(row() for _ in range(m.r.randint(1, 2)))
    return f"INSERT INTO {table} ({', '.join(c for c, _ in chosen)}) VALUES {rows}{returning(m, m.table_scope(table))}"


@makes("change", "INSERT", 2)
def insert_query(m):
    text, scope = m.some("rows to insert")
    return f"INSERT INTO notes (body, customer_id) {text}{returning(m, m.table_scope('notes'))}"


@makes("rows to insert", "INSERT")
def rows_of_a_table(m):
    text, _, scope = m.item()
    mood = m.mood(CLEAR)
    return f"SELECT {m.value('t', Where(scope, 1, mood, False))}, 1 FROM {text} WHERE {m.condition(scope)}", scope


# New rows may have values of their own in masked columns.
@makes("change", "INSERT", 3)
def insert_masked(m):
    into, values = m.one(("customers (name, email)", "'m', {t}"), ("notes (body, email)", "{t}, {t}"), ("people (id, email)", "{#}, {t}"), ("people (age, email)", "{#}, {t}"),
                         ("customers (name, salary, born)", "{t}, {i}, {d}"), ("customers (name, ssn)", "'m', {t}"), ("labels (id, email)", "{#}, {t}"), ("holders (id, email)", "{#}, {t}"),
                         ("refers (id, who)", "{#}, {t}"), ("shares (tenant, email)", "{#}, {t}"), ("younger (id, email)", "{#}, {t}"))
    back = m.one("", f" RETURNING {m.one('id', 'ctid' if m.slips else 'id')}", " RETURNING *", " ON CONFLICT DO NOTHING")
    return f"INSERT INTO {into} VALUES ({m.fill(values, Where([], 0, CLEAR, False))}){back}"


@makes("change", "INSERT")
def insert_many(m):
    rows = ", ".join([m.one("(1, NULL)", "(2, DEFAULT)", f"(3, {m.literal('t')})")] * m.r.randint(490, 510))
    return f"INSERT INTO {m.one('bulk (id, body)', 'bulk (id, email)', 'customers (id, ssn)')} VALUES {rows}{m.one('', ' RETURNING email')}"


@makes("change", "upserts", 3)
def upsert(m):
    scope = m.table_scope("customers") + m.table_scope("customers", "excluded")
    column, kind = m.one(("city", "t"), ("score", "i"), ("name", "t"))
    if m.mood(CLEAR) == BOLD:
        column, kind = "email", "t"
    where = f" WHERE {m.condition(scope)}" if m.maybe(0.3) else ""
    return f"INSERT INTO customers (id, name, city, score) VALUES ({m.r.randint(1, 12)}, 'u', {m.literal('t')}, 3) ON CONFLICT (id) DO UPDATE SET " \
        f"{column} = {m.value(kind, Where(scope, 1, m.mood(CLEAR), False))}{where}{returning(m, scope[:1])}"


@makes("change", "upserts")
def upsert_by_others(m):
    return m.one("INSERT INTO children VALUES (3, 1, 'x') ON CONFLICT ON CONSTRAINT children_pkey DO UPDATE SET note = excluded.note || children.note RETURNING *",
                 "INSERT INTO customers (ssn) VALUES ('900') ON CONFLICT (ssn) DO NOTHING", "INSERT INTO holders (email) VALUES ('1@h.example') ON CONFLICT DO NOTHING",
                 "INSERT INTO parents VALUES (1, 'x') ON CONFLICT (id) DO NOTHING", "INSERT INTO typed (span) VALUES ('[12,13)') ON CONFLICT DO NOTHING",
                 "INSERT INTO shares VALUES (1, 1, 'x') ON CONFLICT (tenant, email) DO NOTHING")


@makes("change", "MERGE", 3)
def merge(m):
    scope = m.table_scope("notes") + m.table_scope("customers", "c")
    v = lambda: m.value("t", Where(scope[1:], 1, m.mood(CLEAR), False))
    matched = [lambda: f"WHEN MATCHED AND {m.condition(scope)} THEN UPDATE SET body = {v()}", lambda: m.one("WHEN MATCHED THEN DELETE", "WHEN MATCHED THEN DO NOTHING")]
    missing = [lambda: f"WHEN NOT MATCHED AND c.id > 6 THEN INSERT (customer_id, body) VALUES (c.id, {v()})", lambda: "WHEN NOT MATCHED THEN DO NOTHING"]
    clauses = " ".join(it() for it in (matched + missing) if m.maybe(0.5)) or "WHEN MATCHED THEN DELETE"
    return f"MERGE INTO notes USING customers c ON c.id = notes.customer_id {clauses}"


@makes("change", "MERGE")
def merge_into_masked(m):
    what = m.one("UPDATE SET city = s.v", "UPDATE SET score = customers.score + 1", "DELETE", "UPDATE SET ssn = s.v" if m.mood(CLEAR) == BOLD else "DO NOTHING")
    return f"MERGE INTO customers USING (VALUES (1, 'Graz'), (99, 'x')) s(id, v) ON customers.id = s.id WHEN MATCHED AND {m.condition(m.table_scope('customers'))} THEN {what}"


@makes("change", "views that are written")
def through_a_view(m):
    return m.one("INSERT INTO v_graz (id, name, city) VALUES (40, 'v', 'Linz')", "INSERT INTO v_graz (id, name, city) VALUES (41, 'v', 'Graz') RETURNING id", "UPDATE v_graz SET city = 'Wels' WHERE id = 1",
                 "DELETE FROM v_plain WHERE id = 3", "UPDATE v_plain SET name = 'x' WHERE id = 1 RETURNING ssn", "UPDATE v_barrier SET name = 'x' WHERE id = 2",
                 "INSERT INTO v_instead VALUES (8, 'instead')", "UPDATE v_union SET said = 'x'")


for construct in list(CONSTRUCTS["change"]):
    makes("statement", construct.family, construct.weight * 0.5, construct.name in REFUSED and REFUSED[construct.name], construct.name)(construct.make)


# Sequences, generated and identity columns.

statements("sequences", 2,
           "SELECT nextval('s')", "SELECT currval('s')", "SELECT lastval()", "SELECT last_value, is_called FROM s", "SELECT setval('s', 7)", "INSERT INTO log (line) VALUES ('x') RETURNING id",
           "INSERT INTO orders (item) VALUES ('s') RETURNING id", "SELECT currval(pg_get_serial_sequence('orders', 'id'))", "ALTER SEQUENCE s RESTART WITH 3", "SELECT last_value FROM pg_sequences WHERE sequencename = 's'",
           "SELECT pg_sequence_last_value('s'::regclass)", "SELECT setval('s', length(ssn)) FROM customers", "SELECT nextval('s'), ssn FROM customers ORDER BY id",
           "SELECT CASE WHEN ssn > '5' THEN nextval('s') END FROM customers", "SELECT count(*) FROM customers WHERE ssn > '5' AND nextval('s') > 0", "SELECT nextval('s') FROM customers WHERE city = 'Graz'")


statements("generated columns", 2,
           "INSERT INTO orders (amount) VALUES (4) RETURNING twice", "UPDATE orders SET amount = amount + 1 WHERE id < 3 RETURNING twice", "INSERT INTO labels (id, email) VALUES (9, 'Q@L.example') RETURNING low",
           "UPDATE labels SET id = id + 1 RETURNING id, low", "SELECT id, low FROM labels ORDER BY id", "INSERT INTO orders (twice) VALUES (4)", "INSERT INTO typed (id, word) VALUES (1, 'x')",
           "INSERT INTO typed (id, word) OVERRIDING SYSTEM VALUE VALUES (70, 'x') RETURNING id", "SELECT id FROM labels WHERE low > 'a'", "UPDATE labels SET email = 'x' WHERE id = 1")


# What fails, and what its error says.

statements("errors", 8,
           # Arithmetic and casts.
           "SELECT 1/0", "SELECT 1/(score - score) FROM customers", "SELECT 1/(length(ssn) - 6) FROM customers", "SELECT 'x'::int", "SELECT name::int FROM customers", "SELECT ssn::int FROM customers",
           "SELECT ssn::date FROM customers", "SELECT email::regclass FROM customers", "SELECT ('{' || name)::json FROM customers", "SELECT ('{' || ssn)::json FROM customers", "SELECT item::xml FROM orders",
           "SELECT ('$.' || ssn)::jsonpath FROM customers", "SELECT CASE WHEN ssn > '5' THEN 1/0 END FROM customers", "SELECT coalesce(email, (1/0)::text) FROM customers", "SELECT 1/0 FROM customers WHERE ssn > '5'",
           "SELECT repeat(name, 1000000000) FROM customers", "SELECT (SELECT id FROM notes WHERE customer_id = c.id) FROM customers c", "SELECT (SELECT id FROM notes WHERE email > c.email) FROM customers c",
           "SELECT 2147483647 + score FROM customers", "SELECT 2147483647 + salary FROM customers", "SELECT ARRAY[tags, ARRAY['x']] FROM customers", "SELECT to_date(name, 'YYYY') FROM customers",
           # Keys and constraints.
           "INSERT INTO customers (id, name) VALUES (1, 'twice')", "INSERT INTO customers (name) VALUES (NULL)", "UPDATE customers SET name = NULL WHERE id = 2", "UPDATE customers SET score = 1000 WHERE id = 2",
           "UPDATE customers SET id = 1 WHERE id = 2", "INSERT INTO customers (name, salary) VALUES ('x', -1)", "INSERT INTO orders (amount) VALUES (-1)", "INSERT INTO orders (customer_id) VALUES (999)",
           "DELETE FROM customers WHERE id = 1", "UPDATE notes SET customer_id = 999 WHERE id = 1", "INSERT INTO typed (span) VALUES ('[12,13)')", "INSERT INTO typed (word) VALUES ('far too long')",
           "INSERT INTO people (id) VALUES (5000)", "INSERT INTO people_low (id) VALUES (50)", "UPDATE people SET id = 5000 WHERE id = 2", "INSERT INTO children VALUES (1, 1, 'x')", "INSERT INTO children (id, parent) VALUES (50, 1)",
           "UPDATE children SET note = NULL", "UPDATE shares SET tenant = 0", "UPDATE holders SET note = NULL, id = NULL", "DELETE FROM holders WHERE id = 1", "INSERT INTO labels (id, low) VALUES (1, 'x')",
           "UPDATE typed SET feels = 'bored'", "UPDATE typed SET p = ROW(1)", "INSERT INTO v_graz (id, name, city) VALUES (60, 'x', 'Wels')", "INSERT INTO rooms VALUES (1, 'Wels', 'x')", "UPDATE rooms SET city = 'Wels'",
           # Names.
           "SELECT nothing FROM customers", "SELECT * FROM nothing", "SELECT ssn FROM customers GROUP BY city", "SELECT sum(ssn) FROM customers", "SELECT customers.ssn.x FROM customers", "SELECT ssn + 1 FROM customers",
           "SELEC ssn FROM customers", "SELECT reader()", "INSERT INTO customers (ssn, ssn) VALUES ('a', 'b')", "SELECT $1", "EXECUTE nothing", "FETCH nothing", "CLOSE nothing", "ROLLBACK TO nothing", "DEALLOCATE nothing",
           "COPY nothing TO STDOUT", "SET nothing = 1", "SET search_path = ''", "SELECT 1; SELECT 1/0; SELECT 2")


statements("errors", 2,
           ["BEGIN", "INSERT INTO children VALUES (60, 999, 'late')", "SELECT 1", "COMMIT"], ["BEGIN", "UPDATE parents SET code = 'c1'", "SELECT count(*) FROM parents", "COMMIT"],
           ["BEGIN", "SET CONSTRAINTS ALL DEFERRED", "DELETE FROM parents WHERE id = 1", "SET CONSTRAINTS ALL IMMEDIATE", "COMMIT"],
           ["BEGIN", "INSERT INTO late VALUES (1, 'late')", "SELECT count(*) FROM late", "COMMIT"], ["BEGIN", "SAVEPOINT p", "INSERT INTO customers (id) VALUES (1)", "ROLLBACK TO p", "SELECT id, ssn FROM customers WHERE id = 1", "COMMIT"])
