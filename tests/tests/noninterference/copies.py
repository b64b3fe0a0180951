# COPY, in and out.
from maker import *

FORMS = ["", "CSV", "CSV HEADER", "(FORMAT binary)", "WITH DELIMITER '|'", "(FORMAT csv, NULL 'n1', FORCE_QUOTE *)", "CSV DELIMITER '-' QUOTE '0' ESCAPE '1'", "NULL ''", "(FORMAT csv, DELIMITER 'a', QUOTE '@')",
         "(FORMAT text, NULL 'x', DELIMITER ',')", "(ENCODING 'LATIN1')"]


@makes("statement", "COPY out", 5)
def copy_out(m):
    form = m.one(*FORMS)
    m.used.add(f"COPY out {form}")
    if m.maybe(0.5):
        return f"COPY ({m.query()}) TO STDOUT {form}"
    table = m.one("customers", "customers", "notes", "people", *TABLES)
    columns = m.r.sample([c for c, _ in m.tables[table]], m.r.randint(1, 2))
    return f"COPY {table} {m.one('', '({})'.format(', '.join(columns)))} TO STDOUT {form}"


statements("COPY out", 1, "COPY (UPDATE orders SET item = 'c' WHERE id = 3 RETURNING id, twice) TO STDOUT", "COPY (INSERT INTO orders (item) VALUES ('c') RETURNING *) TO STDOUT CSV",
           "!COPY (UPDATE notes SET body = body RETURNING id, email) TO STDOUT", "!COPY (DELETE FROM notes RETURNING id) TO STDOUT", refused="a COPY of changes is not traced")


# Rows of the client's own, most of which fit.
@makes("scene", "COPY in", 4)
def copy_in(m):
    table = m.one(*["customers", "notes", "people"] * 4, "orders", "stamped", "rooms", "labels", "holders", "children", "typed", "crying", "muttering", "tenants", "ruled", "spied", "v_plain", "elder")
    known = [(c, k) for c, k in m.tables.get(table, [("id", "i"), ("body", "t")]) if c not in ("twice", "low")]
    columns = m.r.sample(known, m.r.randint(1, min(3, len(known)))) if m.maybe(0.8) else known
    values = {"t": ("9", "a", "900", "y@x.example"), "i": ("-1", "3", "77"), "d": ("1990-01-01",), "a": ("{a}",), "j": ('{"k": 1}',), "n": ("1.5",), "u": ("00000000-0000-0000-0000-000000000001",), "b": ("t",)}
    value = lambda kind: "\\N" if m.maybe(0.1) else m.one(*values[kind] * 9, "x")
    rows = "".join("\t".join(value(kind) for _, kind in columns) + "\n" for _ in range(m.r.randint(0, 3)))
    named = f" ({', '.join(c for c, _ in columns)})" if columns is not known else ""
    where = f" WHERE {m.value('b', Where([(table, known, table)], 1, m.mood(CLEAR), False))}" if m.maybe(0.3) else ""
    form = m.one("", "", "", "", "(FREEZE)", "(FORMAT csv, DELIMITER E'\\t', NULL '\\N')", "(HEADER match)", "NULL 'x'")
    m.used.add(f"COPY in {form}")
    return [m.step(m.one("C", "CX"), f"COPY {table}{named} FROM STDIN {form}{where}", rows)]


@makes("scene", "COPY in")
def copy_in_binary(m):
    row = bytes.fromhex("0002 00000004 00000029 00000001 62")
    data = b"PGCOPY\n\xff\r\n\0" + bytes(8) + row * m.r.randint(0, 2) + m.one(b"\xff\xff", b"\xff\xff", b"\0\3")
    return [m.step("C", f"COPY {m.one('stamped', 'notes (id, email)', 'notes (id, body)', 'customers (id, ssn)')} FROM STDIN (FORMAT binary)", data)]


@makes("scene", "COPY in")
def copy_fails(m):
    return [m.step("CF", f"COPY {m.one('notes (body)', 'notes (email)', 'customers (name)')} FROM STDIN", "a\nb\n")]
