# Whole sessions, made by chance from a seed, run at two servers that differ in nothing but the values of masked columns, each
# by way of the gateway. What comes back must be the same, byte by byte. Prints what differs, as short as it gets.
import random, re, time

BASE = {
    "customers": [("id", "i"), ("name", "t"), ("ssn", "t"), ("email", "t"), ("city", "t"), ("score", "i"), ("salary", "i"),
                  ("born", "d"), ("tags", "a"), ("doc", "j")],
    "orders": [("id", "i"), ("customer_id", "i"), ("item", "t"), ("amount", "i")],
    "notes": [("id", "i"), ("customer_id", "i"), ("body", "t"), ("email", "t")],
    "people": [("id", "i"), ("email", "t"), ("age", "i")],
    "v_plain": [("id", "i"), ("name", "t"), ("ssn", "t")],
    "v_expr": [("id", "i"), ("loud", "t"), ("both", "t")],
    "v_join": [("id", "i"), ("item", "t"), ("email", "t")],
    "v_count": [("city", "t"), ("n", "i"), ("top", "i")],
}
MASKED = {"ssn", "email", "salary", "born", "tags", "doc", "both", "top"}


TRANSACTIONS = ("BEGIN", "ROLLBACK", "ROLLBACK", "SAVEPOINT p", "ROLLBACK TO p", "BEGIN ISOLATION LEVEL SERIALIZABLE")


# What often fails.
def RISKY(maker, e):
    return {
        "i": [lambda: f"({e('t')})::int", lambda: f"({e('i')} / {e('i')})"],
        "d": [lambda: f"to_date({e('t')}, 'YYYY')", lambda: f"({e('t')})::date", lambda: f"({e('d')} + {e('i')})"],
        "j": [lambda: f"({e('t')})::jsonb"],
    }


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.tables = {name: list(columns) for name, columns in BASE.items()}
        self.made, self.cursors, self.prepared, self.named, self.sent = [], [], [], [], []
        self.count, self.next = 0, []

    def one(self, *choices):
        choice = self.r.choice(choices)
        return choice() if callable(choice) else choice

    def maybe(self, chance):
        return self.r.random() < chance

    def name(self, prefix):
        self.count += 1
        return prefix + str(self.count)

    # A column in scope of this type; of those that choose rows, mostly one that is not masked.
    def column(self, kind, scope, careful):
        found = [(alias, c) for alias, columns in scope for c, k in columns if k == kind]
        if careful and self.maybe(0.93):
            found = [(a, c) for a, c in found if c not in MASKED]
        if not found:
            return None
        if not careful and self.maybe(0.5):
            found = [(a, c) for a, c in found if c in MASKED] or found
        alias, c = self.r.choice(found)
        return f"{alias}.{c}"

    def expr(self, kind, scope, depth, careful=False, agg=False):
        e = lambda k: self.expr(k, scope, depth - 1, careful, agg)
        leaf = self.column(kind, scope, careful)
        if depth <= 0 or (leaf and self.maybe(0.45)):
            if leaf and not agg and self.maybe(0.9):
                return leaf
            if agg and self.maybe(0.7):
                return self.aggregate(kind, scope, careful)
            return self.literal(kind)
        if agg and self.maybe(0.4):
            return self.aggregate(kind, scope, careful)
        case = lambda: f"CASE WHEN {e('b')} THEN {e(kind)} ELSE {e(kind)} END"
        both = lambda: f"coalesce({e(kind)}, {e(kind)})"
        def sub():
            text, alias, inner = self.item()
            where = f"{alias}.id = {self.r.randint(1, 8)}" if self.has_id(inner, alias) else "true"
            value = self.expr(kind, inner + (scope if self.maybe(0.2) else []), depth - 2, careful)
            return f"(SELECT {value} FROM {text} WHERE {where} LIMIT 1)"
        more = {
            "t": [lambda: f"upper({e('t')})", lambda: f"left({e('t')}, {self.r.randint(0, 4)})", lambda: f"({e('t')} || {e('t')})",
                  lambda: f"reverse({e('t')})", lambda: f"concat({e('t')}, {e('i')})", lambda: f"({e('i')})::text",
                  lambda: f"substr({e('t')}, {self.r.randint(1, 3)})", lambda: f"md5({e('t')})", lambda: f"nullif({e('t')}, {e('t')})",
                  lambda: f"greatest({e('t')}, {e('t')})", lambda: f"({e('a')})[1]", lambda: f"({e('j')} ->> 'k')",
                  lambda: f"to_char({e('d')}, 'YYYY')", lambda: f"format('%s', {e('t')})", lambda: f"repeat({e('t')}, 2)",
                  lambda: f"split_part({e('t')}, '-', 2)", lambda: f"quote_literal({e('t')})", lambda: f"regexp_replace({e('t')}, '[0-9]', 'n')",
                  lambda: f"({e('t')})::varchar(3)", lambda: f"({e('t')} COLLATE \"C\")", lambda: f"lpad({e('t')}, {self.r.randint(1, 9)})"],
            "i": [lambda: f"length({e('t')})", lambda: f"({e('i')} + {e('i')})", lambda: f"ascii({e('t')})",
                  lambda: f"extract(year FROM {e('d')})::int", lambda: f"cardinality({e('a')})",
                  lambda: f"({e('i')} % 3)", lambda: f"strpos({e('t')}, '1')", lambda: f"pg_column_size({e('t')})", lambda: f"num_nulls({e('t')}, {e('d')})",
                  lambda: f"abs({e('i')})"],
            "b": [lambda: f"({e('t')} = {e('t')})", lambda: f"({e('i')} < {e('i')})", lambda: f"({e('t')} LIKE '9%')", lambda: f"({e('b')} AND {e('b')})",
                  lambda: f"({e('b')} OR {e('b')})", lambda: f"(NOT {e('b')})", lambda: f"({e('t')} IS NULL)", lambda: f"({e('d')} > {e('d')})",
                  lambda: f"EXISTS ({self.select(1, depth - 2)[0]})", lambda: f"({e('t')} IN ({self.select_of('t', depth - 2)}))",
                  lambda: f"({e('t')} = ANY ({e('a')}))", lambda: f"({e('t')} ~ '^9')", lambda: f"({e('i')} BETWEEN {e('i')} AND {e('i')})",
                  lambda: f"(({e('i')}, {e('t')}) = ({e('i')}, {e('t')}))", lambda: f"starts_with({e('t')}, '9')", lambda: f"({e('t')} IS DISTINCT FROM {e('t')})"],
            "d": [lambda: f"({e('d')} + {self.r.randint(0, 9)})", lambda: f"greatest({e('d')}, {e('d')})", lambda: f"date_trunc('year', {e('d')})::date"],
            "a": [lambda: f"ARRAY[{e('t')}, {e('t')}]", lambda: f"string_to_array({e('t')}, '-')", lambda: f"ARRAY({self.select_of('t', depth - 2)})"],
            "j": [lambda: f"to_jsonb({e('t')})", lambda: f"jsonb_build_object('k', {e('t')})", lambda: f"to_jsonb({self.r.choice(scope)[0]})" if scope else "'{}'::jsonb"],
        }[kind]
        if self.maybe(0.12):
            return self.one(*RISKY(self, e).get(kind, more))
        return self.one(*more, *more, case, both, sub)

    def literal(self, kind):
        return {"t": lambda: self.one("'9'", "'a'", "'900'", "'x-y-1'", "NULL::text", "'2001-02-03'"), "i": lambda: str(self.r.randint(-1, 9)),
                "b": lambda: self.one("true", "false"), "d": lambda: self.one("date '1990-01-01'", "date '1985-06-07'"),
                "a": lambda: "ARRAY['a','b']", "j": lambda: "'{\"k\": 1}'::jsonb"}[kind]()

    def aggregate(self, kind, scope, careful):
        e = lambda k: self.expr(k, scope, 1, careful)
        flt = lambda: f" FILTER (WHERE {self.expr('b', scope, 1, True)})" if self.maybe(0.25) else ""
        order = lambda: f" ORDER BY {self.expr('i', scope, 1, True)}" if self.maybe(0.3) else ""
        return {"t": lambda: self.one(lambda: f"max({e('t')})", lambda: f"min({e('t')})", lambda: f"string_agg({e('t')}, ','{order()})"),
                "i": lambda: self.one(lambda: "count(*)", lambda: f"count({e('t')})", lambda: f"sum({e('i')})::int", lambda: f"max({e('i')})", lambda: f"count(DISTINCT {e('t')})"),
                "b": lambda: f"bool_or({e('b')})", "d": lambda: f"max({e('d')})", "a": lambda: f"array_agg({e('t')}{order()})",
                "j": lambda: f"jsonb_agg({e('t')})"}[kind]() + flt()

    # An item of a FROM list: its text, its alias, its columns.
    def item(self, depth=0):
        alias = self.name("a")
        if depth > 1 and self.maybe(0.25):
            text, columns = self.select(self.r.randint(1, 3), depth - 1)
            return f"({text}) AS {alias}", alias, [(alias, columns)]
        if self.maybe(0.04):
            return f"generate_series(1, {self.literal('i')}) AS {alias}(id)", alias, [(alias, [("id", "i")])]
        if self.maybe(0.04):
            return f"(VALUES (1, 'v'), (2, 'w')) AS {alias}(id, v)", alias, [(alias, [("id", "i"), ("v", "t")])]
        table = self.r.choice(list(self.tables))
        return f"{table} AS {alias}", alias, [(alias, self.tables[table])]

    def from_list(self, depth):
        text, alias, scope = self.item(depth)
        while self.maybe(0.3) and len(scope) < 3:
            more, other, columns = self.item(depth)
            lateral = "LATERAL " if more.startswith("(SELECT") and self.maybe(0.3) else ""
            if self.maybe(0.15):
                text += f" CROSS JOIN {lateral}{more}"
            else:
                by_id = self.maybe(0.8) and self.has_id(scope + columns, alias, other)
                on = f"{alias}.id = {other}.id" if by_id else self.expr("b", scope + columns, 1, True)
                text += f" {self.one('JOIN', 'LEFT JOIN', 'FULL JOIN' if by_id else 'JOIN')} {more} ON {on}"
            scope = scope + columns
        return text, scope

    def has_id(self, scope, *aliases):
        return all(any(a == alias and any(c == "id" for c, _ in columns) for a, columns in scope) for alias in aliases)

    def select_of(self, kind, depth):
        text, alias, scope = self.item(depth)
        where = f" WHERE {self.expr('b', scope, 1, True)}" if self.maybe(0.5) else ""
        return f"SELECT {self.expr(kind, scope, max(depth, 0))} FROM {text}{where} ORDER BY 1 LIMIT 3" if self.maybe(0.2) else \
            f"SELECT {self.expr(kind, scope, max(depth, 0))} FROM {text}{where}"

    # A query with so many columns: its text, its columns.
    def select(self, width, depth):
        if depth > 1 and self.maybe(0.12):
            kinds = [self.one("t", "i", "d") for _ in range(width)]
            sides = [self.plain_select(kinds, depth - 1)[0] for _ in range(2)]
            return f"({sides[0]}) {self.one('UNION ALL', 'UNION', 'EXCEPT', 'INTERSECT', 'UNION ALL')} ({sides[1]})", [(f"c{n}", k) for n, k in enumerate(kinds)]
        if depth > 1 and self.maybe(0.1):
            name = self.name("w")
            inner, columns = self.select(2, depth - 1)
            self.tables[name] = columns
            outer, out = self.select(width, depth - 1)
            del self.tables[name]
            return f"WITH {name} AS ({inner}) {outer}", out
        return self.plain_select([self.one("t", "t", "i", "b", "d", "a", "j") for _ in range(width)], depth)

    def plain_select(self, kinds, depth):
        text, scope = self.from_list(depth)
        agg = self.maybe(0.2)
        star = not agg and self.maybe(0.05)
        targets = [f"{self.expr(k, scope, depth, agg=agg)} AS c{n}" for n, k in enumerate(kinds)]
        if star:
            targets[0] = self.one(f"{scope[0][0]} AS c0", f"({scope[0][0]}.*)::text AS c0", f"row_to_json({scope[0][0]}) AS c0")
        if not agg and self.maybe(0.06):
            targets[0] = f"{self.one('row_number()', 'rank()', 'lag(%s)' % self.expr('t', scope, 1), 'sum(%s)' % self.expr('i', scope, 1))} OVER (" \
                f"{'PARTITION BY ' + self.expr('t', scope, 1, True) if self.maybe(0.4) else ''} ORDER BY {self.expr('i', scope, 1, True)}) AS c0"
        sql = f"SELECT {'DISTINCT ' if self.maybe(0.04) else ''}{', '.join(targets)} FROM {text}"
        if self.maybe(0.3):
            sql += f" WHERE {self.expr('b', scope, 2, True)}"
        if agg and self.maybe(0.5):
            group = self.expr("t", scope, 1, True)
            sql += f" GROUP BY {group}" + (f" HAVING {self.expr('b', scope, 1, True, True)}" if self.maybe(0.2) else "")
        elif not agg and self.maybe(0.5):
            by = self.expr("i", scope, 1, True)
            sql += f" ORDER BY {by if self.maybe(0.8) and 'DISTINCT' not in sql else self.r.randint(1, len(kinds))}"
            if self.maybe(0.3):
                sql += f" LIMIT {self.r.randint(0, 5)}"
        return sql, [(f"c{n}", k) for n, k in enumerate(kinds)]

    def query(self):
        return self.select(self.r.randint(1, 4), 3)[0]

    def change(self):
        table = self.one("orders", "notes", "customers", "people")
        columns = BASE[table]
        scope = [(table, columns)]
        free = [(c, k) for c, k in columns if c not in MASKED and c != "id"]
        c, k = self.r.choice(free)
        back = f" RETURNING {self.expr(self.one('t', 'i'), scope, 2)}" if self.maybe(0.5) else ""
        where = f" WHERE {self.expr('b', scope, 2, True)}"
        notes_where = lambda: f" WHERE {self.expr('b', [('notes', BASE['notes'])], 1, True)}"
        return self.one(
            lambda: f"UPDATE {table} SET {c} = {self.expr(k, scope, 2, True)}{where}{back}",
            lambda: f"DELETE FROM {table}{where}{back}",
            lambda: f"INSERT INTO {table} ({c}) VALUES ({self.literal(k)}){back}",
            lambda: f"INSERT INTO orders (id, item) {self.select_of('i', 1).replace(' FROM', ', 0::text FROM', 1)} ON CONFLICT DO NOTHING",
            lambda: f"INSERT INTO {self.one('customers (name, email)', 'notes (body, email)', 'people (age, email)', 'customers (name, ssn)')}"
                    f" VALUES ({self.one(self.literal('t'), '1')}, {self.literal('t')}){self.one('', ' ON CONFLICT DO NOTHING', ' RETURNING email')}",
            lambda: f"INSERT INTO {self.one('notes (body, email)', 'people (age, email)', 'customers (name, ssn)')} VALUES "
                    f"{', '.join([self.one('(1, NULL)', '(2, DEFAULT)', '(3, %s)' % self.literal('t'))] * self.r.randint(240, 260))}{self.one('', ' RETURNING email')}",
            lambda: f"INSERT INTO notes (body, email) {self.plain_select(['t', 't'], 1)[0]}",
            lambda: f"INSERT INTO customers (id, name) VALUES ({self.r.randint(1, 9)}, {self.expr('t', [], 1)}) ON CONFLICT (id) DO UPDATE SET "
                    f"{c if table == 'customers' else 'city'} = {self.expr('t', [('customers', BASE['customers']), ('excluded', BASE['customers'])], 1)}{back if table == 'customers' else ''}",
            lambda: f"MERGE INTO notes USING customers c ON c.id = notes.customer_id WHEN MATCHED THEN UPDATE SET body = "
                    f"{self.expr('t', [('c', BASE['customers'])], 2)} WHEN NOT MATCHED THEN INSERT (customer_id, {self.one('body', 'email')}) VALUES (c.id, {self.expr('t', [('c', BASE['customers'])], 1)})",
            lambda: f"WITH w AS ({self.one('UPDATE notes SET body = body', 'DELETE FROM notes')}{notes_where()} RETURNING *) "
                    f"{self.one('SELECT id, email FROM w', 'INSERT INTO notes (body) SELECT ' + self.expr('t', [('w', BASE['notes'])], 1) + ' FROM w')}",
            lambda: f"UPDATE customers SET {self.one('ssn', 'email', 'name')} = {self.expr('t', [('customers', BASE['customers'])], 1)} WHERE id = 1",
            lambda: f"MERGE INTO notes USING customers c ON c.id = notes.customer_id WHEN MATCHED AND {self.expr('b', [('c', BASE['customers'])], 1, True)} THEN DELETE",
            lambda: f"WITH gone AS (DELETE FROM notes{notes_where()} RETURNING id) SELECT count(*) FROM gone",
        )

    def aside(self):
        made = self.name("m")
        query, columns = self.select(2, 2)
        keep = lambda sql: (self.tables.update({made: columns}), self.made.append(made), sql)[2]
        return self.one(
            lambda: keep(f"CREATE TEMP TABLE {made} AS {query}"), lambda: keep(f"CREATE TEMP VIEW {made} AS {query}"),
            lambda: keep(f"CREATE TABLE {made} (c0 text, c1 int)"),
            lambda: f"EXPLAIN {query}", lambda: f"EXPLAIN {self.one('', '(COSTS OFF) ', '(FORMAT json) ', '(VERBOSE) ')}{self.one(query, self.change())}", self.copy, self.copy,
            lambda: "SET search_path = public, pg_catalog", lambda: "SET search_path = other, public", lambda: "RESET ALL", lambda: "SET enable_hashjoin = off",
            lambda: f"SELECT set_config('application_name', {self.expr('t', [('customers', BASE['customers'])], 1)}, false) FROM customers",
            lambda: "SELECT current_setting('application_name')",
            lambda: f"SELECT {self.one('most_common_vals', 'histogram_bounds', 'n_distinct')}::text FROM pg_stats WHERE tablename = 'customers' ORDER BY attname",
            lambda: "ANALYZE customers", lambda: "SELECT * FROM pg_cursors", lambda: "SELECT name, statement FROM pg_prepared_statements",
            lambda: f"SELECT setval('s', length(ssn)) FROM customers", lambda: "SELECT last_value FROM s",
            lambda: f"NOTIFY c, {self.one(chr(39) + 'x' + chr(39))}", lambda: f"SELECT pg_notify('c', ssn) FROM customers",
            lambda: f"SELECT query_to_xml('{query.replace(chr(39), chr(39) * 2)}', true, true, '')", lambda: "DISCARD PLANS", lambda: "SELECT 1/0",
            lambda: f"DO $$BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers WHERE id = 1); END$$", lambda: f"LOCK TABLE notes",
            lambda: f"SELECT lo_from_bytea(0, ssn::bytea) FROM customers", lambda: "TABLE kept", lambda: "SELECT reader(1)",
            lambda: f"CREATE INDEX ON customers (({self.expr('i', [('customers', BASE['customers'])], 1)}))", lambda: f"ALTER TABLE notes ADD CHECK ({self.expr('b', [('notes', BASE['notes'])], 1)})",
        )

    def copy(self):
        table = self.one(*BASE)
        columns = self.r.sample([c for c, _ in BASE[table]], self.r.randint(1, 3))
        what = self.one(f"({self.query()})", table, f"{table} ({', '.join(columns)})")
        return f"COPY {what} TO STDOUT " + self.one(
            "", "CSV", "CSV HEADER", "(FORMAT binary)", "WITH DELIMITER '|'", "(FORMAT csv, NULL 'n1', FORCE_QUOTE *)",
            "CSV DELIMITER '-' QUOTE '0' ESCAPE '1'", "NULL ''", "(FORMAT csv, DELIMITER 'a', QUOTE '@')")

    # Rows of the client's own, most of which fit.
    def copy_in(self):
        table = self.one(*["customers", "notes", "people"] * 5, *BASE)
        columns = self.r.sample(BASE[table], self.r.randint(1, 3)) if self.maybe(0.8) else BASE[table]
        values = {"t": ("9", "a", "900", "y@x.example"), "i": ("-1", "3", "77"), "d": ("1990-01-01",), "a": ("{a}",), "j": ('{"k": 1}',)}
        value = lambda kind: "\\N" if self.maybe(0.1) else self.one(*values[kind] * 9, "x")
        rows = ["\t".join(value(kind) for _, kind in columns) + "\n" for _ in range(self.r.randint(0, 3))]
        named = f" ({', '.join(c for c, _ in columns)})" if columns is not BASE[table] else ""
        where = f" WHERE {self.expr('b', [(table, BASE[table])], 1, self.maybe(0.7))}" if self.maybe(0.3) else ""
        options = self.one("", "", "", "", "", "(FREEZE)", "(FORMAT csv, DELIMITER E'\\t', NULL '\\N')", "(HEADER match)", "NULL 'x'")
        return (self.one("C", "CX"), f"COPY {table}{named} FROM STDIN {options}{where}", "".join(rows))

    def step(self):
        if self.next and self.maybe(0.7):
            return self.next.pop()
        roll = self.r.random()
        if roll < 0.05 and self.sent:
            sql = self.one(*self.sent)
        elif roll < 0.08:
            sql = self.copy()
        elif roll < 0.12:
            return self.copy_in()
        elif roll < 0.6:
            sql = self.query()
            self.sent.append(sql)
        elif roll < 0.7:
            sql = self.change()
        elif roll < 0.8:
            sql = self.aside()
        elif roll < 0.85:
            return ("Q", self.r.choice(TRANSACTIONS))
        elif roll < 0.88:
            cursor = self.r.choice(self.cursors) if self.cursors else self.name("k")
            new = not self.cursors
            self.cursors.append(cursor)
            sql = self.one(f"DECLARE {cursor} CURSOR WITH HOLD FOR {self.query()}", f"DECLARE {cursor} CURSOR FOR {self.query()}") if new else self.one(f"FETCH 2 FROM {cursor}", f"MOVE 3 FROM {cursor}", f"CLOSE {cursor}")
        elif roll < 0.91:
            name = self.r.choice(self.prepared) if self.prepared else self.name("q")
            new = not self.prepared
            self.prepared.append(name)
            self.next += [(self.one("Q", "X0"), f"EXECUTE {name}")] * 2 if new else []
            sql = f"PREPARE {name} AS {self.one(self.query, self.change)}" if new else self.one(f"EXECUTE {name}", f"EXECUTE {name}", f"DEALLOCATE {name}")
        elif roll < 0.95:
            if not self.named or self.maybe(0.3):
                self.named.append(self.name("n"))
                return ("N", self.named[-1], self.query())
            return ("E", self.r.choice(self.named))
        elif roll < 0.98:
            return ("P", [self.one(self.query, self.query, self.change) for _ in range(3)])
        else:
            sql = "; ".join(self.one(self.query, self.change, self.aside) for _ in range(2))
        return (self.one("Q", "X0", "X1"), sql)


# What is changed is taken back: rows that stayed would lie where there is room for them, and that depends on how long they are.
def taken_back(steps, maker):
    result, is_open = [], False
    for step in steps:
        change = any(re.search(r"INSERT|UPDATE|DELETE|MERGE|CREATE|ALTER|EXECUTE|FROM STDIN", text) for part in step[1:] for text in (part if isinstance(part, list) else [part]))
        if change and not is_open:
            result += [("Q", "BEGIN"), step] + ([("Q", "ROLLBACK")] if maker.maybe(0.6) else [])
            is_open = result[-1][1] != "ROLLBACK"
            continue
        if step[0] == "Q" and step[1] in TRANSACTIONS:
            is_open = step[1].startswith("BEGIN") or is_open and step[1] != "ROLLBACK"
        result.append(step)
    return result


def wire(step):
    kind = step[0]
    if kind == "Q":
        return query(step[1].encode())
    if kind in ("C", "CX"):
        data = msg(b"d", step[2].encode()) + msg(b"c")
        if kind == "C":
            return query(step[1].encode()) + data
        return parse(b"", step[1].encode()) + bind(b"", b"") + msg(b"D", b"P\0") + execute(b"") + data + sync
    if kind in ("X0", "X1"):
        form = b"\0\1\0" + (b"\1" if kind == "X1" else b"\0")
        return parse(b"", step[1].encode()) + msg(b"B", b"\0\0\0\0\0\0" + form) + msg(b"D", b"P\0") + execute(b"") + sync
    if kind == "N":
        return parse(step[1].encode(), step[2].encode()) + sync
    if kind == "E":
        return bind(b"", step[1].encode()) + msg(b"D", b"P\0") + execute(b"") + sync
    return b"".join(parse(b"", sql.encode()) + bind(b"", b"") + execute(b"") for sql in step[1]) + sync


# What is no value and differs all the same: IDs of denials, who notifies, which target it is.
def same(tag, body):
    if tag == b"A":
        body = body[4:]
    return tag, re.sub(rb"[0-9a-z]{13}-\d+", b"ID", body).replace(b'target "twin"', b'target "orders"')


def answer(stream, copies):
    seen = []
    for tag, body in stream:
        seen.append(same(tag, body))
        if tag == b"Z" or tag == b"G" and not copies:
            break
    return seen


def opened():
    ends = []
    for port in os.environ["PORTS"].split():
        s = socket.create_connection((os.environ["PGHOST"], int(port)), timeout=60)
        startup(s)
        stream = messages(s)
        until(stream, b"Z")
        ends.append((s, stream))
    return ends


COUNTED = ("steps", "denied", "failed", "rows", "covered", "copied", "executed")


# Runs steps at both ends; where they differ: the step and what either said. Counts what became of the statements.
def run(steps, counts):
    ends = opened()
    try:
        for number, step in enumerate(steps):
            for s, _ in ends:
                s.sendall(wire(step))
            mine, theirs = (answer(stream, step[0] in ("C", "CX")) for _, stream in ends)
            if mine != theirs:
                return number, mine, theirs
            text = b" ".join(body for _, body in mine)
            counts["steps"] += 1
            counts["denied"] += b"C42501" in text
            counts["failed"] += any(tag == b"E" for tag, _ in mine) and b"C42501" not in text
            counts["rows"] += any(tag in (b"D", b"d") for tag, _ in mine)
            counts["covered"] += any(tag in (b"D", b"d") and b"***" in body for tag, body in mine)
            counts["copied"] += any(tag == b"C" and body.startswith(b"COPY") for tag, body in mine) and step[0] in ("C", "CX")
            counts["executed"] += "EXECUTE" in step[1] and re.search(rb"(INSERT|UPDATE|DELETE|MERGE) ", text) is not None
            if not mine or mine[-1][0] != b"Z":
                return None
        return None
    finally:
        for s, _ in ends:
            s.close()


def shrink(steps):
    counts = dict.fromkeys(COUNTED, 0)
    at = 0
    while at < len(steps) - 1:
        fewer = steps[:at] + steps[at + 1:]
        if run(fewer, counts) is not None:
            steps = fewer
        else:
            at += 1
    return steps


seed, sessions, minutes = int(os.environ["SEED"]), int(os.environ["SESSIONS"]), float(os.environ.get("MINUTES", "0"))
counts = dict.fromkeys(COUNTED, 0)
differ, started, number = 0, time.monotonic(), 0
while number < sessions or time.monotonic() < started + minutes * 60:
    maker = Maker(seed * 1_000_003 + number)
    steps = [maker.step() for _ in range(maker.r.randint(4, 16))]
    if maker.maybe(0.6):
        steps = [step for step in steps if step[0] != "Q" or step[1] not in TRANSACTIONS]
    steps = taken_back(steps, maker) + [("Q", "ROLLBACK")]
    number += 1
    found = run(steps, counts)
    if found is None:
        continue
    differ += 1
    if os.environ.get("COUNT"):
        continue
    at, mine, theirs = found
    steps = shrink(steps[: at + 1])
    again = run(steps, counts) or found
    print(f"DIFFERS: seed {seed}, session {number - 1}")
    for step in steps:
        print("   ", step)
    print("    one: ", again[1])
    print("    other:", again[2])
    break
print(f"{number} sessions, {differ} differ, {counts}")
# Sessions that are refused throughout would be no proof.
assert os.environ.get("COUNT") or counts["rows"] * 10 > counts["steps"] and counts["covered"] * 50 > counts["steps"], counts

