# What a session keeps between statements: transactions, savepoints, cursors, portals, prepared statements, settings, locks, channels.
from maker import *

BEGINS = ["BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION READ ONLY", "BEGIN DEFERRABLE"]
ENDS = ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "END"]


# Scenes are lists of steps, or of texts that become some.
def inside(m):
    return [m.send(m.query()), m.send(m.some("change"))][m.maybe(0.4)]


@makes("scene", "transactions", 5)
def transaction(m):
    return [m.step("Q", m.one(*BEGINS)), *(inside(m) for _ in range(m.r.randint(1, 3))), m.step("Q", m.one(*ENDS))]


@makes("scene", "transactions", 3)
def savepoints(m):
    return ["BEGIN", inside(m), "SAVEPOINT p", inside(m), m.one("ROLLBACK TO p", "RELEASE p"), inside(m), m.one("SAVEPOINT p", "ROLLBACK TO SAVEPOINT p"), m.one("COMMIT", "ROLLBACK")]


@makes("scene", "cursors", 5)
def cursor(m):
    name, kind = m.name("k"), m.one("CURSOR", "SCROLL CURSOR", "NO SCROLL CURSOR", "INSENSITIVE CURSOR", "CURSOR WITH HOLD", "SCROLL CURSOR WITH HOLD", "BINARY CURSOR")
    m.used.add(kind)
    declare = f"DECLARE {name} {kind} FOR {m.query()}"
    fetch = lambda: m.one(f"FETCH 2 FROM {name}", f"FETCH {name}", f"MOVE 3 FROM {name}", f"FETCH ALL FROM {name}", f"FETCH BACKWARD 2 FROM {name}", f"FETCH ABSOLUTE 2 FROM {name}", f"FETCH LAST FROM {name}", f"MOVE BACKWARD ALL IN {name}",
                          f"FETCH RELATIVE -1 FROM {name}", f"FETCH 0 FROM {name}")
    steps = [m.send(declare), *(fetch() for _ in range(m.r.randint(1, 4))), f"CLOSE {name}"]
    if "HOLD" in kind and m.maybe(0.5):
        return ["BEGIN", steps[0], "COMMIT", *steps[1:]]
    return ["BEGIN", *steps, "COMMIT"] if "HOLD" not in kind or m.maybe(0.3) else steps


@makes("scene", "cursors", 2)
def where_current_of(m):
    name = m.name("k")
    table = m.one("customers", "notes", "orders")
    query = f"SELECT id, {m.one('ssn' if table == 'customers' else 'id', 'id')} FROM {table} WHERE {m.condition(m.table_scope(table))} ORDER BY id FOR UPDATE"
    column = {"customers": "city", "notes": "body", "orders": "item"}[table]
    return ["BEGIN", m.send(f"DECLARE {name} CURSOR FOR {query}"), f"FETCH 1 FROM {name}", f"UPDATE {table} SET {column} = 'cur' WHERE CURRENT OF {name} RETURNING id", f"DELETE FROM {table} WHERE CURRENT OF {name}", m.one("COMMIT", "ROLLBACK")]


@makes("scene", "prepared statements", 4)
def prepare(m):
    name = m.name("q")
    m.params = True
    text = m.one(m.query, lambda: m.some("change"))
    m.params, values = None, ", ".join("NULL" if it == "x" else f"'{it}'" for it in m.binds)
    m.binds = []
    execute = f"EXECUTE {name}" + (f"({values})" if values else "")
    between = m.one(None, "SET search_path = other, public", "CREATE TEMP TABLE notes (id int, customer_id int, body text, email text)", "ANALYZE customers", "DISCARD PLANS", "SET plan_cache_mode = force_generic_plan", "RESET search_path")
    made = m.step("Q", f"PREPARE {name} AS {text}")
    return [made, m.send(execute), *([between] if between else []), m.send(execute), m.one(f"EXPLAIN {execute}", f"CREATE TEMP TABLE {name}_of AS {execute}", execute), m.one(f"DEALLOCATE {name}", "DEALLOCATE ALL", "SELECT 1"),
            *(["DROP TABLE pg_temp.notes"] if between and "TEMP" in between else [])]


@makes("scene", "prepared statements", 4)
def named_statement(m):
    name = m.name("n")
    m.params = True
    text = m.one(m.query, m.query, lambda: m.some("change"))
    binds, m.params, m.binds = tuple(m.binds), None, []
    between = m.one(None, None, "SET search_path = other, public", "BEGIN", "ANALYZE notes", "SET enable_seqscan = off", "SET datestyle = 'German'", "DEALLOCATE ALL")
    return [m.step("N", text, name), m.step("E", name, binds), *([between] if between else []), m.step("E", name, binds), m.step("DS", name), m.step("E", name, binds), m.step("CS", name)]


@makes("scene", "parameters", 6)
def with_parameters(m):
    m.params = True
    text = m.one(m.query, m.query, lambda: m.some("change"))
    binds, m.params, m.binds = tuple(m.binds), None, []
    return [m.step("B", text, (binds, m.one(0, 1)))]


# Execute with so many rows at most: a portal that is suspended, and goes on.
@makes("scene", "portals", 4)
def suspended(m):
    return [m.step("S", m.query(), (m.r.randint(1, 3), m.r.randint(1, 4)))]


@makes("scene", "portals", 3)
def portal(m):
    name = m.name("o")
    steps = [m.step("PB", m.query(), name)]
    for _ in range(m.r.randint(1, 3)):
        steps += [m.step("PE", name, m.r.randint(0, 2))]
        if m.maybe(0.4):
            steps += [inside(m)]
    return ["BEGIN", *steps, m.one(m.step("PD", name), f"FETCH 1 FROM {name}", f"MOVE 1 FROM {name}"), m.step("PC", name), m.one("COMMIT", "ROLLBACK")]


@makes("scene", "pipelines", 3)
def pipeline(m):
    return [m.step("P", tuple(m.one(m.query, m.query, lambda: m.some("change"), "SELECT 1/0") if n else m.query() for n in range(3)))]


@makes("scene", "pipelines", 2)
def several_statements(m):
    return [m.step("Q", "; ".join(m.one(m.query, m.query, lambda: m.some("change"), "SELECT 1/0", "COMMIT", "BEGIN") for _ in range(m.r.randint(2, 3))))]


# lower(text), nextval(regclass), pg_notify(text, text), setseed(float8), query_to_xml.
@makes("scene", "function calls", refused="FunctionCall is denied")
def function_call(m):
    return [m.step("F", m.one("870", "1574", "3036", "1599", "2925"), ("ssn", "s"))]


@makes("scene", "protocol errors")
def odd_messages(m):
    return [m.step(m.one("DS", "E", "PE", "PD", "CS", "PC"), "nothing", m.one((), ()) if m.maybe(0.5) else ())]


SETTINGS = ["enable_seqscan = off", "enable_hashjoin = off", "enable_hashagg = off", "enable_indexonlyscan = off", "enable_nestloop = off", "enable_sort = off", "work_mem = '64kB'", "random_page_cost = 1", "cpu_tuple_cost = 1", "join_collapse_limit = 1",
            "from_collapse_limit = 1", "geqo = off", "jit = off", "plan_cache_mode = force_generic_plan", "constraint_exclusion = on", "default_statistics_target = 1", "datestyle = 'German'", "intervalstyle = 'iso_8601'", "bytea_output = 'escape'",
            "extra_float_digits = 0", "timezone = 'Asia/Tokyo'", "xmloption = document", "xmlbinary = hex", "array_nulls = off", "transform_null_equals = on", "search_path = public, pg_catalog", "search_path = other, public", "client_min_messages = debug5",
            "client_min_messages = error", "lock_timeout = '1s'", "backslash_quote = on", "row_security = off", "session_replication_role = replica", "default_transaction_isolation = serializable", "default_transaction_read_only = on", "check_function_bodies = off",
            "quote_all_identifiers = on", "lc_messages = 'C'", "application_name = 'x'", "enable_partition_pruning = off", "force_parallel_mode = on", "max_parallel_workers_per_gather = 0", "stats_fetch_consistency = none", "temp_buffers = 100", "vacuum_cost_delay = 0"]
statements("settings", 5, *(f"SET {it}" for it in SETTINGS), "RESET ALL", "SHOW search_path", "SET LOCAL work_mem = '64kB'", "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "DISCARD ALL", "SET ROLE orders_rw", "RESET ROLE",
           "SET SESSION AUTHORIZATION orders_rw", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET CONSTRAINTS ALL DEFERRED", "SELECT current_setting('work_mem')", "SELECT name, setting FROM pg_settings WHERE name LIKE 'enable%' ORDER BY 1")

# Plans by other ways, and what they would tell.
statements("plans", 3, "SET enable_seqscan = off", *("EXPLAIN " + it for it in (
    "SELECT * FROM orders WHERE id = 1", "SELECT city, count(*) FROM customers GROUP BY city", "SELECT id FROM customers WHERE city = 'Graz' AND score = 1", "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer_id", "DELETE FROM notes WHERE id = 1",
    "(COSTS OFF) SELECT id FROM customers ORDER BY id", "(FORMAT json) SELECT name FROM customers", "(VERBOSE) SELECT id, name FROM v_plain", "(VERBOSE, COSTS OFF) SELECT id FROM v_join", "(SETTINGS, FORMAT yaml) SELECT id FROM people", "SELECT n FROM v_count",
    "INSERT INTO orders (item) VALUES ('x')", "(GENERIC_PLAN) SELECT 1")),
    *("!EXPLAIN " + it for it in (
        "SELECT ssn FROM customers", "(VERBOSE) SELECT * FROM customers", "(ANALYZE, TIMING OFF, SUMMARY OFF) SELECT id FROM customers", "(ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) SELECT id FROM customers WHERE ssn > '5'",
        "SELECT id FROM customers WHERE ssn = '900'", "SELECT id FROM customers WHERE salary < 100", "(COSTS OFF) SELECT max(ssn) FROM customers", "UPDATE customers SET city = ssn", "SELECT id FROM v_picky")),
    # Of what is not masked the pages are not told either: those of the catalogs that it was planned by differ.
    "EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF, COSTS OFF) SELECT id FROM places WHERE id < 4", "!EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, COSTS OFF) SELECT id FROM places WHERE id < 4",
    "!EXPLAIN (BUFFERS) SELECT id FROM places", "!EXPLAIN (ANALYZE, WAL, TIMING OFF, SUMMARY OFF) DELETE FROM orders WHERE id < 0", refused="a plan tells how long values are, and how many rows have them")

statements("locks", 2, "SELECT pg_try_advisory_lock(1)", "SELECT pg_advisory_unlock(1)", "SELECT pg_advisory_unlock_all()", "SELECT pg_try_advisory_xact_lock(id) FROM orders WHERE id < 3", "SELECT pg_try_advisory_lock(id) FROM customers WHERE score = 1",
           "SELECT locktype, mode, granted, relation::regclass FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'advisory') ORDER BY 1, 2, 4", "SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory' ORDER BY 1",
           "!SELECT pg_try_advisory_lock(length(ssn)) FROM customers", "!SELECT CASE WHEN ssn > '5' THEN pg_try_advisory_lock(7) END FROM customers", refused="a lock is a trace that others see")

statements("channels", 3, ["LISTEN c", "NOTIFY c, 'x'", "UNLISTEN *"], ["LISTEN c", "BEGIN", "NOTIFY c", "NOTIFY c", "COMMIT", "SELECT pg_listening_channels()"], ["LISTEN c", "SELECT pg_notify('c', 'y')", "UNLISTEN c"],
           ["LISTEN c", "SELECT pg_notify('c', name) FROM customers", "SELECT pg_notify('c', item) FROM orders WHERE id = 1"], "SELECT pg_notification_queue_usage()")
