# Queries: items of a FROM list, joins, what is grouped, sorted, counted, put together.
from maker import *


# Items of a FROM list that are no table. Each gives its text, its alias, its columns.

@makes("source", "FROM", 4)
def subselect(m, alias, depth):
    text, columns = m.select(m.r.randint(1, 3), max(depth - 1, 1))
    return f"({text}) AS {alias}", alias, [(alias, columns, None)]


@makes("source", "FROM")
def generate_series(m, alias, depth):
    return f"generate_series(1, {m.literal('i')}) AS {alias}(id)", alias, [(alias, [("id", "i")], None)]


@makes("source", "FROM")
def values(m, alias, depth):
    return f"(VALUES (1, 'v'), (2, {m.literal('t')})) AS {alias}(id, v)", alias, [(alias, [("id", "i"), ("v", "t")], None)]


@makes("source", "FROM")
def unnest(m, alias, depth):
    what = m.one("unnest(ARRAY[1, 2], ARRAY['a', 'b'])", "unnest(ARRAY['x', 'y']) WITH ORDINALITY", "ROWS FROM (generate_series(1, 2), unnest(ARRAY['p', 'q', 'r']))")
    columns = [("v", "t"), ("id", "i")] if "ORDINALITY" in what else [("id", "i"), ("v", "t")]
    names = ", ".join(c for c, _ in columns)
    return f"{what} AS {alias}({names})", alias, [(alias, columns, None)]


@makes("source", "FROM")
def sampled(m, alias, depth):
    table = m.one("orders", "places", "children", "customers" if m.mood(CLEAR) == BOLD else "orders")
    return f"{table} AS {alias} TABLESAMPLE {m.one('BERNOULLI (60)', 'SYSTEM (100)')} REPEATABLE ({m.small()})", alias, [(alias, m.tables[table], table)]


@makes("source", "FROM")
def only_the_parent(m, alias, depth):
    table = m.one("elder", "people", "places")
    return f"ONLY {table} AS {alias}", alias, [(alias, m.tables[table], table)]


# A FROM list, and what is in scope behind it.
def from_list(m, depth):
    text, alias, scope = m.item(depth)
    while m.maybe(0.35) and len(scope) < 3:
        if m.maybe(0.12):
            more, other, columns = lateral(m, scope)
        else:
            more, other, columns = m.item(depth)
        by_id = m.maybe(0.8) and m.has_id(scope + columns, alias, other)
        if m.maybe(0.1) and by_id:
            m.used.add("USING")
            word = m.one("JOIN", "LEFT JOIN", "FULL JOIN")
            text += f" {word} {more} USING (id)"
        elif m.maybe(0.15) and not more.startswith("LATERAL (SELECT"):
            m.used.add("CROSS JOIN")
            text += f" CROSS JOIN {more}"
        else:
            on = f"{alias}.id = {other}.id" if by_id else m.condition(scope + columns)
            word = m.one("JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN") if by_id and "LATERAL" not in more else m.one("JOIN", "LEFT JOIN")
            m.used.add(word)
            text += f" {word} {more} ON {on}"
        scope = scope + columns
    return text, scope


# Items that see those before them.
def lateral(m, scope):
    alias = m.name("a")
    m.used.add("LATERAL")
    where = Where(scope, 1, m.one(CLEAR, SHOWN), False)
    if m.maybe(0.4):
        (one, (first, _)), (two, (second, _)) = m.target("t", where, 1), m.target("i", where, 2)
        return f"LATERAL (VALUES ({one}, {two})) AS {alias}({first}, {second})", alias, [(alias, [(first, "t"), (second, "i")], None)]
    if m.maybe(0.5):
        m.used.add("function in FROM")
        what = m.some("rows of", Where(scope, 1, m.mood(CLEAR), False))
        return f"LATERAL {what} AS {alias}(v)", alias, [(alias, [("v", "t")], None)]
    item, inner_alias, inner = m.item()
    text, (name, _) = m.target("t", Where(inner + scope, 1, SHOWN, False), 1)
    condition = m.condition(inner + scope)
    return f"LATERAL (SELECT {text} AS {name} FROM {item} WHERE {condition} LIMIT 2) AS {alias}", alias, [(alias, [(name, "t")], None)]


templates("rows of", "functions in FROM", "unnest({A})", "string_to_table({T}, '-')", "regexp_split_to_table({T}, '')", "jsonb_object_keys({J})", "jsonb_array_elements_text({J})",
          "regexp_matches({T}, '[a-z]')", "jsonb_path_query({J}, '$.k')", "generate_series(1, length({T}))", "ts_debug({T})")


# Plain queries: the text, the columns.
def finished(m, sql, scope, columns, depth, order=True):
    if m.maybe(0.35):
        m.used.add("WHERE")
        sql += f" WHERE {m.condition(scope, 2)}"
    if order and m.maybe(0.5):
        by = m.value("i", Where(scope, 1, m.mood(CLEAR), False))
        clear = [n for n, (c, _) in enumerate(columns, 1) if c.startswith("c")]
        sql += f" ORDER BY {m.r.choice(clear) if clear and m.maybe(0.2) else by}{m.one('', ' DESC', ' NULLS FIRST')}"
        m.used.add("ORDER BY")
        if m.maybe(0.4):
            limit = m.one("LIMIT 3", "OFFSET 1", "LIMIT 2 OFFSET 1", "FETCH FIRST 2 ROWS WITH TIES", "LIMIT ALL")
            m.used.add(limit)
            sql += " " + limit
    return sql


def targets_of(m, scope, kinds, depth, grouped=False):
    pairs = []
    for number, kind in enumerate(kinds):
        mood = m.mood(m.one(CLEAR, SHOWN, SHOWN))
        pairs.append(m.target(kind, Where(scope, depth, mood, grouped), number))
    return ", ".join(f"{text} AS {name}" for text, (name, _) in pairs), [column for _, column in pairs]


def some_kinds(m, width):
    return [m.one("t", "t", "t", "i", "i", "b", "d", "a", "j", "n", "u") for _ in range(width)]


@makes("plain query", "SELECT", 12)
def plain(m, width, depth):
    text, scope = from_list(m, depth)
    listed, columns = targets_of(m, scope, some_kinds(m, width), min(depth, 2))
    return finished(m, f"SELECT {listed} FROM {text}", scope, columns, depth), columns


@makes("plain query", "SELECT", 2)
def whole_rows(m, width, depth):
    text, scope = from_list(m, depth)
    alias, known, of = scope[0]
    row = m.some("whole row", alias)
    name = "m0" if any(m.is_masked(alias, c, of) for c, _ in known) or of in ("customers", None) else "c0"
    return finished(m, f"SELECT {row} AS {name} FROM {text}", scope, [(name, "t")], depth, order=False), [(name, "t")]


for text in ("{}::text", "({}.*)::text", "row_to_json({})::text", "to_json({})::text", "({} IS NULL)::text", "num_nulls({})::text", "concat({})", "pg_typeof({})::text", "quote_literal({})"):
    makes("whole row", "whole rows", name=text)(lambda m, alias, text=text: text.format(alias))


ROWS = ("ROW({a}, {b})", "to_json(ROW({a}, {b}))", "json_build_object('a', {a}, 'b', {b})", "jsonb_build_object('b', {b}, 'a', {a})", "json_build_object('o', json_build_object('a', {a}), 'b', {b})",
        "row_to_json(ROW({a}, ROW({b}, 1)))", "to_jsonb(ROW({a}, {b}))", "coalesce(json_build_object('a', {a}), '{{}}')", "(SELECT ROW({a}, {b}))", "ARRAY(SELECT {a})", "ARRAY(SELECT ROW({a}, {b}))",
        "(SELECT row_to_json(x) FROM (SELECT {a} AS p, {b} AS q) x)", "(SELECT x FROM (SELECT {a} AS p, {b} AS q) x)", "json_build_object('x', CASE WHEN {c} THEN '  1 '::json ELSE '\"\\ud800\"' END, 'y', {a})",
        "to_json(ROW({a}, CASE WHEN {c} THEN '[ 1]'::json END))", "json_agg(json_build_object('a', {a})) FILTER (WHERE {c})", "(SELECT row_to_json(x) FROM (SELECT {a} AS p, {b} AS p) x)")
for text in ROWS:
    makes("put together", "put together", name=text)(lambda m, text=text: text)
for text in ("json_agg({})", "array_agg({})", "jsonb_agg({})", "to_json(array_agg({}))", "coalesce(json_agg({}), '[]')"):
    makes("all together", "put together", name=text)(lambda m, text=text: text)


# Rows, arrays and JSON in which each value is masked where it stands.
@makes("plain query", "put together", 3)
def put_together(m, width, depth):
    text, scope = from_list(m, depth)
    where = Where(scope, 1, m.mood(SHOWN), False)
    alias = scope[0][0]
    if m.maybe(0.3):
        made = m.one(alias, f"row_to_json({alias})", f"to_jsonb({alias})", f"json_build_object('r', {alias})")
    else:
        made = m.some("put together").format(a=m.value(m.one(*"titdjbu"), where), b=m.value(m.one(*"tinda"), where), c=m.value("b", where))
    if m.maybe(0.4):
        made = m.some("all together").format(made)
    return finished(m, f"SELECT {made} AS m0 FROM {text}", scope, [("m0", "t")], depth, order=False), [("m0", "t")]


@makes("plain query", "SELECT", 2)
def stars(m, width, depth):
    table = m.one(*OFTEN, *m.tables)
    alias = m.name("a")
    scope = [(alias, m.tables[table], table)]
    first, star, names = m.r.choice(m.tables[table])[0], m.one("*", alias + ".*"), ""
    listed = m.one(star, star, star, f'{alias}.{first} AS "firstOne", {star}', f'{star}, {first} AS "lastOne"', f'"someName", {star}', f"{alias}.*, {first}, {alias}.*")
    if "someName" in listed:
        names = '("someName")'
    return finished(m, f"SELECT {listed} FROM {table} AS {alias}{names}", scope, [], depth), m.tables[table]


@makes("plain query", "SELECT", 3)
def grouped(m, width, depth):
    text, scope = from_list(m, depth)
    listed, columns = targets_of(m, scope, some_kinds(m, width), 1, grouped=True)
    sql = f"SELECT {listed} FROM {text}"
    if m.maybe(0.3):
        sql += f" WHERE {m.condition(scope)}"
    if m.maybe(0.6):
        sql += f" GROUP BY {m.value('t', Where(scope, 1, m.mood(CLEAR), False))}"
        if m.maybe(0.3):
            m.used.add("HAVING")
            sql += f" HAVING {m.value('b', Where(scope, 1, m.mood(CLEAR), True))}"
    return sql, columns


@makes("plain query", "SELECT", 2)
def grouping_sets(m, width, depth):
    alias = m.name("a")
    sets = m.one("GROUPING SETS (({0}.city), ({0}.score), ())", "ROLLUP ({0}.city, {0}.score)", "CUBE ({0}.city, {0}.score)", "DISTINCT ROLLUP ({0}.city), ROLLUP ({0}.score)")
    scope = m.table_scope("customers", alias)
    listed, columns = targets_of(m, scope, some_kinds(m, width), 1, grouped=True)
    return f"SELECT {listed}, {alias}.city AS c8, grouping({alias}.city) AS c9 FROM customers {alias} GROUP BY {sets.format(alias)} ORDER BY 2, 3", columns


# Beside its primary key a masked column is not compared.
@makes("plain query", "SELECT")
def grouped_by_key(m, width, depth):
    table, shown = m.one(("customers", "salary"), ("notes", "email"))
    return f"SELECT t.id AS c0, t.{shown} AS m1, count(*)::int AS c2 FROM {table} t GROUP BY t.id{m.one('', f', t.{shown}')}", [("c0", "i"), ("m1", "i" if shown == "salary" else "t"), ("c2", "i")]


@makes("plain query", "SELECT", 2)
def distinct(m, width, depth):
    text, scope = from_list(m, 1)
    mood = m.mood(CLEAR)
    pairs = [m.target(kind, Where(scope, 1, mood, False), n) for n, kind in enumerate(["t", "i"])]
    listed = ", ".join(f"{t} AS {c}" for t, (c, _) in pairs)
    return f"SELECT DISTINCT {listed} FROM {text} ORDER BY 1, 2", [c for _, c in pairs]


@makes("plain query", "SELECT", 2)
def distinct_on(m, width, depth):
    alias = m.name("a")
    scope = m.table_scope("customers", alias)
    listed, columns = targets_of(m, scope, some_kinds(m, width), 1)
    by = m.one(f"{alias}.city", f"{alias}.score % 2", f"{alias}.ssn" if m.mood(CLEAR) == BOLD else f"{alias}.city")
    return f"SELECT DISTINCT ON ({by}) {listed} FROM customers {alias} ORDER BY {by}, {alias}.id", columns


@makes("plain query", "windows", 4)
def windows(m, width, depth):
    text, scope = from_list(m, 1)
    where = Where(scope, 1, SHOWN, False)
    before, m.touched = m.touched, False
    call = m.some("window", where)
    partition = f"PARTITION BY {m.value('t', where._replace(mood=m.mood(CLEAR)))} " if m.maybe(0.5) else ""
    order = f"ORDER BY {m.value('i', where._replace(mood=m.mood(CLEAR)))}"
    frame = m.one("", "", *FRAMES)
    if frame:
        m.used.add(frame)
    name = "m0" if m.touched else "c0"
    m.touched |= before
    if m.maybe(0.3):
        m.used.add("WINDOW")
        return f"SELECT ({call} OVER w)::text AS {name} FROM {text} WINDOW w AS ({partition}{order} {frame})", [(name, "t")]
    return f"SELECT ({call} OVER ({partition}{order} {frame}))::text AS {name} FROM {text}", [(name, "t")]


FRAMES = ["ROWS BETWEEN 1 PRECEDING AND CURRENT ROW", "RANGE BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING", "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
          "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE TIES"]
templates("window", "windows", "row_number()", "rank()", "dense_rank()", "ntile({#})", "lag({T})", "lead({T}, {#})", "first_value({t})", "last_value({t})", "max({t})", "count({t})", "sum({i})", "cume_dist()",
          "count(*) FILTER (WHERE {b})", "nth_value({T}, {#})", "string_agg({t}, '-')", "lag({T}, {#}, 'none')")


@makes("plain query", "SELECT")
def no_table(m, width, depth):
    listed, columns = targets_of(m, [], some_kinds(m, width), 2)
    return f"SELECT {listed}", columns


@makes("plain query", "SELECT")
def locked(m, width, depth):
    table = m.one("customers", "notes", "orders", "rooms")
    alias = m.name("a")
    scope = m.table_scope(table, alias)
    listed, columns = targets_of(m, scope, some_kinds(m, width), 1)
    lock = m.one("FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE SKIP LOCKED", "FOR KEY SHARE NOWAIT")
    return f"SELECT {listed} FROM {table} {alias} WHERE {m.condition(scope)} ORDER BY {alias}.id {lock}", columns


# Queries of queries.
for construct in list(CONSTRUCTS["plain query"]):
    makes("query", construct.family, construct.weight * 2, name=construct.name)(construct.make)


@makes("query", "set operations", 4)
def set_operation(m, width, depth):
    operation = m.one("UNION ALL", "UNION ALL", "UNION", "EXCEPT", "INTERSECT ALL")
    m.used.add(operation)
    mood = SHOWN if operation == "UNION ALL" else m.mood(CLEAR)
    kinds = [m.one("t", "i", "d") for _ in range(width)]
    sides, names = [], set()
    for _ in range(2):
        text, scope = from_list(m, 1)
        pairs = [m.target(kind, Where(scope, 1, m.mood(mood), False), n) for n, kind in enumerate(kinds)]
        names |= {n for n, (_, (name, _)) in enumerate(pairs) if name.startswith("m")}
        sides.append((pairs, text))
    columns = [(f"{'m' if n in names else 'c'}{n}", kind) for n, kind in enumerate(kinds)]
    texts = [f"SELECT {', '.join(f'{v} AS {name}' for (v, _), (name, _) in zip(pairs, columns))} FROM {text}" for pairs, text in sides]
    return f"({texts[0]}) {operation} ({texts[1]})", columns


@makes("query", "CTEs", 4)
def with_query(m, width, depth):
    name = m.name("w")
    inner, columns = m.select(2, depth - 1)
    m.tables[name] = columns
    m.wanted = name if m.maybe(0.8) else None
    outer, out = m.select(width, depth - 1)
    m.wanted = None
    del m.tables[name]
    outer = f"({outer})" if outer.startswith("WITH") else outer
    return f"WITH {name} AS {m.one('', 'MATERIALIZED ', 'NOT MATERIALIZED ')}({inner}) {outer}", out


@makes("query", "CTEs", 3)
def recursive(m, width, depth):
    name = m.name("w")
    shown = m.one("c.ssn", "c.name", "r.m1 || c.email", "coalesce(c.email, r.m1)", "CASE WHEN c.active THEN c.name ELSE r.m1 END")
    start = m.one("'x'::text", "(SELECT ssn FROM customers WHERE id = 1)", "(SELECT city FROM customers WHERE id = 2)")
    stop = m.condition(m.table_scope("customers", "c")) if m.maybe(0.3) else "true"
    m.tables[name] = [("id", "i"), ("m1", "t")]
    outer = f"SELECT {m.value('t', Where([(name, m.tables[name], None)], 1, SHOWN, False))} AS m0 FROM {name} ORDER BY {name}.id"
    del m.tables[name]
    union = "UNION ALL" if m.maybe(0.85) else "UNION"
    return f"WITH RECURSIVE {name}(id, m1) AS (SELECT 1, {start} {union} SELECT r.id + 1, {shown} FROM {name} r JOIN customers c ON c.id = r.id WHERE r.id < 6 AND {stop}) {outer}", [("m0", "t")]


@makes("query", "CTEs", refused="SEARCH and CYCLE are not traced")
def search_and_cycle(m, width, depth):
    clause = m.one("SEARCH DEPTH FIRST BY id SET o", "SEARCH BREADTH FIRST BY id SET o", "CYCLE id SET o USING p")
    return f"WITH RECURSIVE w(id, v) AS (SELECT 1, 'x'::text UNION ALL SELECT w.id + 1, c.ssn FROM w JOIN customers c ON c.id = w.id WHERE w.id < 4) {clause} SELECT v AS m0 FROM w", [("m0", "t")]


@makes("query", "CTEs", 2)
def changing_query(m, width, depth):
    change = m.one("UPDATE notes SET body = body WHERE {0} RETURNING id, body, email", "DELETE FROM notes WHERE {0} RETURNING id, body, email",
                   "INSERT INTO notes (body, email) VALUES ('w', 'w@n.example') RETURNING id, body, email")
    change = change.format(m.condition(m.table_scope("notes")))
    columns = [("id", "i"), ("body", "t"), ("email", "t")]
    listed, out = targets_of(m, [("w", columns, "notes")], some_kinds(m, width), 1)
    return f"WITH w AS ({change}) SELECT {listed} FROM w", out


@makes("statement", "SELECT", 40)
def select(m):
    return m.query()


@makes("statement", "SELECT", 2)
def same_again(m):
    return m.r.choice(m.sent) if m.sent else m.query()


@makes("statement", "SELECT")
def table_command(m):
    return f"TABLE {m.one('customers', 'notes', 'kept', 'plain_kept', 'typed', 'v_picky', 'v_reader', 'v_over', 'v_operator', 'v_chain')}"


# What two sides compute alike from a column is not the column; and what the server converts between them by itself may fail.
statements("set operations", 2,
           "SELECT left(ssn, 4) FROM customers UNION ALL SELECT left(ssn, 4) FROM customers", "SELECT reverse(ssn) FROM customers UNION ALL (SELECT reverse(ssn) FROM customers UNION ALL SELECT reverse(ssn) FROM customers)",
           "SELECT x.v FROM customers c, LATERAL (VALUES (reverse(c.ssn)), (reverse(c.ssn))) x(v) ORDER BY c.id", "SELECT coalesce(left(ssn, 5), left(ssn, 5)), CASE WHEN score > 1 THEN reverse(ssn) ELSE reverse(ssn) END FROM customers ORDER BY id",
           "!SELECT CASE WHEN ssn < '500' THEN 5000000000 ELSE 0 END FROM customers UNION ALL SELECT 0::oid", "SELECT length(ssn) FROM customers UNION ALL SELECT 1.5", "SELECT score FROM customers UNION ALL SELECT id::bigint FROM orders")
