# What psycopg 3 makes of a database, as a transcript: what is printed, and each message of the protocol that came (PQtrace of libpq),
# must be the same whatever is between. Nothing in it is of this run: no time, no process number, no oid.
#
# It is written for psycopg's asynchronous half. `transcript.py sync` is the same for the other half: the words that make the difference
# are left out, as psycopg's authors make theirs.

import sys

if sys.argv[1:] == ["sync"]:
    source = open(__file__, encoding="utf-8").read()
    for word in ("await ", "async ", "Async"):
        source = source.replace("import asyncio", "import time as asyncio").replace("asyncio.run(main())", "main()").replace(word, "")
    sys.argv.append("made")
    exec(compile(source, __file__, "exec"))
    sys.exit()

import asyncio
import datetime
import decimal
import enum
import hashlib
import ipaddress
import logging
import tempfile
import traceback
import uuid

import psycopg
import psycopg_pool
from psycopg import pq, rows
from psycopg.types import composite, hstore, json, multirange, range as ranges

ROWS = 3000
# Letters of a message that are shown; of the others there is a digest.
SHOWN = 200
# Of what is given up in a pipeline, psycopg tells here also when it does not matter.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def say(what, value=None):
    text = repr(value)
    if len(text) > 400:
        text = f"{text[:40]}... {len(text)} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    print(f"{what}: {text}", flush=True)


def fields(error):
    diag = getattr(error, "diag", None)
    named = {name: getattr(diag, name) for name in dir(diag) if not name.startswith("_")} if diag else {}
    told = {name: value for name, value in named.items() if value is not None}
    return type(error).__name__, told or str(error)


def outcome(cursor):
    columns = cursor.description and [
        (c.name, c.type_code if c.type_code < 16384 else "own", c.display_size, c.internal_size, c.precision, c.scale) for c in cursor.description
    ]
    return cursor.statusmessage, cursor.rowcount, columns


async def trial(what, work, *words):
    try:
        value = await work(*words)
        if isinstance(value, (psycopg.AsyncCursor, psycopg.AsyncRawCursor)):
            say(what, (outcome(value), await value.fetchall() if value.description else None))
        else:
            say(what, value)
    except psycopg.Error as error:
        say(f"{what} fails", fields(error))


class Traced:
    """A connection whose server's messages are written down. What the client sends is its own affair."""

    def __init__(self, **options):
        self.options = {"autocommit": True, "application_name": "transcript", "options": "-c search_path=transcript,public", **options}

    async def __aenter__(self):
        return await self.open()

    async def __aexit__(self, kind, error, trace):
        await self.leave()

    # The same for the other half.
    def __enter__(self):
        return self.open()

    def __exit__(self, kind, error, trace):
        self.leave()

    async def open(self):
        self.connection = await psycopg.AsyncConnection.connect("", **self.options)
        self.connection.add_notice_handler(lambda diag: say("notice", (diag.severity, diag.sqlstate, diag.message_primary, diag.context)))
        self.file = tempfile.TemporaryFile("w+")
        self.connection.pgconn.trace(self.file.fileno())
        self.connection.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)
        return self.connection

    async def leave(self):
        if not self.connection.closed:
            self.connection.pgconn.untrace()
            await self.connection.close()
            self.file.seek(0)
            lines = [line.rstrip("\n") for line in self.file]
            told = [line for line in lines if line.startswith("B")]
            for line in told:
                rest = line[SHOWN:]
                print("   ", line[:SHOWN] + (rest and hashlib.sha256(rest.encode()).hexdigest()[:16]))
        self.file.close()


class Mood(enum.Enum):
    SAD = "sad"
    OK = "ok"


VALUES = [
    ("int2", 7), ("int4", -70000), ("int8", 1 << 40), ("numeric", decimal.Decimal("-12.3400")), ("numeric", decimal.Decimal("NaN")), ("float4", 1.5),
    ("float8", 1e300), ("float8", float("inf")), ("bool", True), ("text", "é\u4e2d\U0001f40c 'quoted' \\ back"), ("text", ""), ("varchar(3)", "abcd"), ("char(5)", "ab"),
    ("name", "n" * 70), ("bytea", bytes(range(256))), ("bytea", b""), ("date", datetime.date(2024, 2, 29)), ("time", datetime.time(23, 59, 59, 999999)),
    ("timetz", datetime.time(1, 2, 3, tzinfo=datetime.timezone.utc)), ("timestamp", datetime.datetime(1999, 12, 31, 23, 59, 59, 1)),
    ("timestamptz", datetime.datetime(2038, 1, 19, 3, 14, 7, tzinfo=datetime.timezone.utc)), ("interval", datetime.timedelta(days=-3, seconds=5, microseconds=7)),
    ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("inet", ipaddress.ip_interface("10.0.0.1/8")), ("cidr", ipaddress.ip_network("fe80::/64")),
    ("json", json.Json({"a": [1, None, "x"]})), ("jsonb", json.Jsonb({"b": {"c": True}})), ("int4[]", [1, None, 3]), ("text[]", ["a,b", 'c"d', None, ""]),
    ("int4[]", [[1, 2], [3, 4]]), ("timestamptz[]", [datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)]), ("int4range", ranges.Range(1, 5, "[]")),
    ("numrange", ranges.Range(empty=True)), ("datemultirange", multirange.Multirange([ranges.Range(datetime.date(2020, 1, 1), datetime.date(2020, 2, 1))])),
    ("date", None), ("oid", 26), ("regclass", "pg_class"), ("point", "(1,2)"), ("xml", "<a/>"), ("bit(4)", "1010"), ("money", "$1.00"), ("tsvector", "a b"), ("void", None),
]
STATEMENTS = [
    "SELECT 1 AS a, 'two' AS b, NULL AS c", "SELECT", "", ";", "SELECT 1/0", "SELEC 1", "SELECT nothing", "SELECT * FROM missing", "SELECT 'a'::int", "SELECT '2024-13-01'::date",
    "SELECT lpad('x', 1000000)", "SELECT repeat('long', 100000)", "SELECT 1; SELECT 2, 3; SELECT 'x'::text", "SELECT 1; SELECT 1/0; SELECT 2", "BEGIN; SELECT 1; ROLLBACK",
    "VALUES (1, 'a'), (2, 'b')", "TABLE papers", "SHOW server_version_num", "SHOW is_superuser", "EXPLAIN (COSTS OFF) SELECT * FROM papers WHERE id = 1",
    "CREATE TABLE made AS SELECT 1 AS a", "DROP TABLE made", "DROP TABLE made", "DROP TABLE IF EXISTS made", "DO $$ BEGIN RAISE NOTICE 'told'; RAISE WARNING 'twice'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'P0042', DETAIL = 'd', HINT = 'h', COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 't', TABLE = 'b', SCHEMA = 's'; END $$",
    "INSERT INTO papers (id, body) VALUES (1, 'again')", "INSERT INTO papers (id) VALUES (500) RETURNING id, body", "INSERT INTO papers (id, up) VALUES (501, 999)",
    "INSERT INTO papers (id, body) VALUES (2000, 'check')", "UPDATE papers SET body = 'new' WHERE id < 4", "DELETE FROM papers WHERE id = 500 RETURNING *",
    "MERGE INTO papers p USING (VALUES (1, 'm'), (502, 'n')) AS v(id, body) ON p.id = v.id WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED THEN INSERT (id, body) VALUES (v.id, v.body)",
    "WITH gone AS (DELETE FROM papers WHERE id = 502 RETURNING id) SELECT count(*) FROM gone", "VACUUM papers", "LISTEN a; UNLISTEN a", "SET work_mem = 'nonsense'", "RESET ALL",
    "SELECT set_config('transcript.own', 'x', false)", "SELECT current_setting('transcript.own')", "LOCK papers", "CALL twice(21)", "SELECT pg_typeof($1)", "SELECT $$a$$, E'\\n', U&'\\0041'",
    "GRANT SELECT ON papers TO nobody_here", "COMMENT ON TABLE papers IS 'told'", "SELECT obj_description('papers'::regclass)", "ALTER TABLE papers ADD extra int DEFAULT 7",
    "SELECT sum(extra) FROM papers", "ALTER TABLE papers DROP extra", "PREPARE p AS SELECT $1::int + 1", "EXECUTE p(41)", "EXECUTE p('x')", "DEALLOCATE p", "EXECUTE p(1)", "DISCARD TEMP", "COMMIT", "ROLLBACK", "SAVEPOINT s",
]


async def values():
    async with Traced() as connection:
        composite.register_composite(await composite.CompositeInfo.fetch(connection, "transcript.pair"), connection)
        hstore.register_hstore(await psycopg.types.TypeInfo.fetch(connection, "hstore"), connection)
        psycopg.types.enum.register_enum(await psycopg.types.enum.EnumInfo.fetch(connection, "transcript.mood"), connection, Mood)
        own = [("hstore", {"a": "1", "b": None}), ("transcript.mood", Mood.OK), ("transcript.mood[]", [Mood.SAD, Mood.OK])]
        for kind, value in VALUES + own:
            for given in ("s", "t", "b"):
                for binary in (False, True):
                    await trial(f"{kind} {given} {binary}", connection.execute, f"SELECT %{given}::{kind} AS value", (value,))
                    async with connection.cursor(binary=binary) as cursor:
                        await trial(f"cursor {kind} {given} {binary}", cursor.execute, f"SELECT %{given}::{kind} AS value, array[%{given}::{kind}] AS many", (value, value))
        await trial("composite", connection.execute, "SELECT ROW(1, 'a')::transcript.pair, array[ROW(2, NULL)::transcript.pair], ROW(1, 'x', NULL)")
        await trial("unknown type", connection.execute, "SELECT %s", (object(),))
        await trial("too few", connection.execute, "SELECT %s, %s", (1,))
        await trial("named", connection.execute, "SELECT %(a)s::int, %(b)s::text, %(a)s::int", {"a": 1, "b": "x"})
        await trial("zero byte", connection.execute, "SELECT %s::text", ("a\0b",))
        await trial("many", connection.execute, "SELECT " + ", ".join(["%s::int"] * 1664), tuple(range(1664)))
        await trial("too many", connection.execute, "SELECT " + ", ".join(["%s::int"] * 1665), tuple(range(1665)))
        await trial("long", connection.execute, "SELECT length(%s), md5(%s)", ("é" * 1_000_000, b"\x00\xff" * 1_000_000))


async def statements():
    async with Traced() as connection:
        for text in STATEMENTS:
            await trial(text[:60], connection.execute, text)
            cursor = psycopg.AsyncRawCursor(connection)
            await trial(f"{text[:60]} extended", cursor.execute, text, ["1"] if "$1" in text and "PREPARE" not in text else [])
            client = psycopg.AsyncClientCursor(connection)
            await trial(f"{text[:60]} composed", client.execute, text + " /* %s */", ("'",))
        cursor = await connection.execute("SELECT 1 AS a; SELECT 2 AS b, 3 AS c; SET work_mem = '8MB'; SELECT 'x' AS d WHERE false")
        while True:
            say("one of many", (outcome(cursor), await cursor.fetchall() if cursor.description else None))
            if not cursor.nextset():
                break


async def prepared():
    async with Traced(prepare_threshold=2) as connection:
        for number in range(6):
            await trial("threshold", connection.execute, "SELECT %s::int + 1, count(*) FROM pg_prepared_statements", (number,))
        for number in range(150):
            cursor = await connection.execute(f"SELECT {number} + %s::int", (number,), prepare=True)
            assert (await cursor.fetchone())[0] == 2 * number
        await trial("evicted", connection.execute, "SELECT count(*) FROM pg_prepared_statements")
        await connection.execute("CREATE TEMP TABLE t AS SELECT 1 AS a")
        await trial("star", connection.execute, "SELECT * FROM t", None)
        await connection.execute("SELECT * FROM t", prepare=True)
        await connection.execute("ALTER TABLE t ADD b text")
        await trial("changed", connection.execute, "SELECT * FROM t")
        await connection.execute("DEALLOCATE ALL")
        await trial("after", connection.execute, "SELECT %s::int + 1, count(*) FROM pg_prepared_statements", (1,))
        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO papers (id, body) VALUES (%s, %s)", [(n, f"many {n}") for n in range(600, 700)])
            say("executemany", (cursor.rowcount, cursor.statusmessage))
            await cursor.executemany("UPDATE papers SET body = %s WHERE id = %s RETURNING id, body", [("x", 600), ("y", 601), ("z", 9)], returning=True)
            while True:
                say("returning", (cursor.rowcount, await cursor.fetchall()))
                if not cursor.nextset():
                    break
            await trial("executemany", cursor.executemany, "INSERT INTO papers (id) VALUES (%s)", [(700,), (701,), (600,), (702,)])
            await trial("none", cursor.executemany, "INSERT INTO papers (id) VALUES (%s)", [])
        await trial("left", connection.execute, "SELECT count(*), sum(id) FROM papers WHERE id >= 600")
        await connection.execute("DELETE FROM papers WHERE id >= 600")
        # libpq's own functions.
        raw = connection.pgconn
        for result in (
            raw.exec_(b"SELECT 1 AS a; SELECT 2"), raw.exec_params(b"SELECT $1::int, $2::text", [b"5", None]), raw.exec_params(b"SELECT $1", [b"\0\0\0\7"], [23], [1], 1),
            raw.prepare(b"low", b"SELECT $1::int AS n, $2::text AS t", [23]), raw.describe_prepared(b"low"), raw.exec_prepared(b"low", [b"1", b"x"]),
            raw.exec_(b"BEGIN; DECLARE c CURSOR FOR SELECT n, n::text AS t FROM generate_series(1, 3) AS n"), raw.describe_portal(b"c"), raw.describe_portal(b"none"), raw.exec_(b"ROLLBACK"),
            raw.describe_prepared(b"none"), raw.exec_prepared(b"none", []), raw.exec_params(b"SELECT $1::int", [b"x"]),
        ):
            columns = [(result.fname(n), result.ftype(n), result.fmod(n), result.fformat(n), result.fsize(n)) for n in range(result.nfields)]
            cells = [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
            parameters = [result.param_type(n) for n in range(result.nparams)]
            say("libpq", (pq.ExecStatus(result.status).name, result.command_status, result.error_message, columns, cells, parameters))


async def missing():
    """Names that nothing has: a transaction fails with the error."""
    async with Traced() as connection:
        raw = connection.pgconn
        wants = (raw.describe_prepared, raw.describe_portal, lambda name: raw.exec_prepared(name, []), lambda name: raw.exec_(b"EXECUTE " + name), lambda name: raw.exec_(b"FETCH " + name))
        for want in wants:
            for result in (raw.exec_(b"BEGIN"), raw.exec_(b"INSERT INTO papers (id) VALUES (750)"), want(b"none"), raw.exec_(b"SELECT 1"), raw.exec_(b"COMMIT"), want(b"none")):
                say("libpq", (result.command_status, result.error_message, pq.TransactionStatus(raw.transaction_status).name))
        await trial("nothing is left", connection.execute, "SELECT count(*) FROM papers WHERE id = 750")


async def transactions():
    async with Traced(autocommit=False) as connection:
        say("status", connection.info.transaction_status.name)
        await connection.execute("INSERT INTO papers (id, body) VALUES (800, 'kept')")
        say("status", connection.info.transaction_status.name)
        await trial("fails", connection.execute, "SELECT 1/0")
        say("status", connection.info.transaction_status.name)
        await trial("aborted", connection.execute, "SELECT 1")
        await connection.rollback()
        await trial("gone", connection.execute, "SELECT * FROM papers WHERE id = 800")
        await connection.rollback()
        for level in psycopg.IsolationLevel:
            await connection.set_isolation_level(level)
            await connection.set_read_only(level.value % 2 == 0)
            await connection.set_deferrable(True)
            await trial(level.name, connection.execute, "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('transaction_deferrable')")
            await trial("write", connection.execute, "UPDATE papers SET body = 'w' WHERE id = 1")
            await connection.rollback()
        await connection.set_isolation_level(None)
        await connection.set_read_only(None)
        await connection.set_deferrable(None)
        async with connection.transaction():
            await connection.execute("INSERT INTO papers (id, body) VALUES (801, 'outer')")
            try:
                async with connection.transaction("named") as inner:
                    say("savepoint", inner.savepoint_name)
                    await connection.execute("INSERT INTO papers (id, body) VALUES (801, 'twice')")
            except psycopg.Error as error:
                say("inner fails", fields(error))
            async with connection.transaction(force_rollback=True):
                await connection.execute("INSERT INTO papers (id, body) VALUES (802, 'forced')")
            async with connection.transaction():
                await connection.execute("INSERT INTO papers (id, body) VALUES (803, 'inner')")
                raise psycopg.Rollback()
        await trial("committed", connection.execute, "DELETE FROM papers WHERE id >= 800 RETURNING id, body")
        await connection.commit()
        await connection.execute("SET CONSTRAINTS ALL DEFERRED")
        await connection.execute("INSERT INTO papers (id, up) VALUES (804, 9999)")
        await trial("deferred", connection.commit)
        xid = connection.xid(1, "gid", "bq")
        await connection.tpc_begin(xid)
        await connection.execute("INSERT INTO papers (id) VALUES (805)")
        await trial("two phases", connection.tpc_prepare)
        await trial("back", connection.tpc_rollback)
        await trial("recover", connection.tpc_recover)


async def cursors():
    async with Traced(autocommit=False) as connection:
        async with connection.cursor("plain") as cursor:
            await cursor.execute("SELECT n, repeat('z', n) AS text FROM generate_series(1, %s) AS n", (250,))
            say("described", [c.name for c in cursor.description])
            say("fetched", (await cursor.fetchone(), len(await cursor.fetchmany(10)), cursor.rownumber, cursor.rowcount))
            count = 0
            async for _ in cursor:
                count += 1
            say("iterated", (count, cursor.itersize))
        async with connection.cursor("scrolled", scrollable=True, withhold=True) as cursor:
            await cursor.execute("SELECT n FROM generate_series(1, 50) AS n")
            await cursor.scroll(10)
            say("scrolled", await cursor.fetchone())
            await cursor.scroll(3, mode="absolute")
            say("scrolled", await cursor.fetchmany(2))
            await cursor.scroll(-2)
            say("scrolled", await cursor.fetchone())
            await connection.commit()
            say("held", len(await cursor.fetchall()))
        async with connection.cursor("once", scrollable=False) as cursor:
            await cursor.execute("SELECT n FROM generate_series(1, 5) AS n")
            await trial("backwards", cursor.scroll, -1)
        await connection.rollback()
        async with connection.cursor("binary", binary=True) as cursor:
            await cursor.execute("SELECT 10 / (30 - n), now() - now(), body FROM papers, generate_series(1, 40) AS n WHERE id = 1", binary=True)
            say("before", await cursor.fetchmany(20))
            await trial("failing", cursor.fetchmany, 20)
        await connection.rollback()
        async with connection.cursor(row_factory=rows.dict_row) as cursor:
            count, total = 0, 0
            async for row in cursor.stream("SELECT n, n::text AS t FROM generate_series(1, %s) AS n", (ROWS,)):
                count, total = count + 1, total + row["n"]
            say("streamed", (count, total))
            if psycopg.capabilities.has_stream_chunked():
                async for row in cursor.stream("SELECT n FROM generate_series(1, %s) AS n", (1000,), size=128):
                    count += 1
            else:
                count += 1000
            say("in chunks", count)
            try:
                async for row in cursor.stream("SELECT 10 / (500 - n) AS x FROM generate_series(1, 1000) AS n"):
                    count += 1
            except psycopg.Error as error:
                say("stream fails", (count, fields(error)))
        await connection.rollback()
        for factory in (rows.tuple_row, rows.dict_row, rows.namedtuple_row, rows.scalar_row):
            cursor = await connection.cursor(row_factory=factory).execute("SELECT 1 AS a, 'x' AS \"b c\"")
            say(factory.__name__, repr(await cursor.fetchall()))


async def copies():
    async with Traced() as connection:
        await connection.execute("CREATE TEMP TABLE t (id int, body text, raw bytea)")
        async with connection.cursor() as cursor:
            async with cursor.copy("COPY t FROM STDIN") as copy:
                for number in range(ROWS):
                    await copy.write_row((number, None if number % 7 == 0 else f"body \\ {number}\n\t", b"\xab" * (number % 50)))
            say("in", outcome(cursor))
        contents = {}
        for form in ("text", "csv", "binary"):
            async with connection.cursor() as cursor:
                async with cursor.copy(f"COPY (SELECT * FROM t ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
                    chunks = []
                    async for chunk in copy:
                        chunks.append(bytes(chunk))
                contents[form] = b"".join(chunks)
                say(form, (outcome(cursor), len(chunks), hashlib.sha256(contents[form]).hexdigest()))
        for form, content in contents.items():
            await connection.execute("TRUNCATE t")
            async with connection.cursor().copy(f"COPY t FROM STDIN (FORMAT {form})") as copy:
                await copy.write(content)
            await trial(f"back {form}", connection.execute, "SELECT count(*), sum(length(body)), sum(length(raw)), md5(string_agg(id || body, ',' ORDER BY id)) FROM t")
        async with connection.cursor().copy("COPY t (id, body) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            await copy.write_row((1, "typed"))
            await copy.write_row((2, None))
        async with connection.cursor().copy("COPY (SELECT 1::int4, 'x'::text, NULL::date) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text", "date"])
            async for row in copy.rows():
                say("row", row)
        for statement, content in (
            ("COPY t FROM STDIN", b"1\ta\t\\\\x00\ntwo\tb\t\\N\n"), ("COPY t FROM STDIN", b"1\n"), ("COPY missing FROM STDIN", b""), ("COPY t (id) FROM STDIN (FORMAT binary)", b"PGCOPY\n"),
            ("COPY t FROM STDIN (FORMAT csv)", b'1,"a\n'), ("SELECT 1", b""),
        ):
            async with connection.cursor() as cursor:
                try:
                    async with cursor.copy(statement) as copy:
                        await copy.write(content)
                except psycopg.Error as error:
                    say(f"{statement} fails", fields(error))
                await trial("goes on", connection.execute, "SELECT 1")
        try:
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write(b"3\tgiven up\t\\N\n")
                raise ValueError("the source broke")
        except ValueError as error:
            say("given up", str(error))
        try:
            async with connection.cursor().copy("COPY (SELECT 1 / (900 - n) FROM generate_series(1, 1000) AS n) TO STDOUT") as copy:
                count = 0
                async for _ in copy:
                    count += 1
        except psycopg.Error as error:
            say("out fails", (count, fields(error)))
        await trial("count", connection.execute, "SELECT count(*) FROM t")
        async with connection.transaction(force_rollback=True):
            await connection.execute("DELETE FROM t")
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write(contents["text"])


async def notices():
    listener = await psycopg.AsyncConnection.connect("", autocommit=True)
    async with Traced() as speaker:
        await listener.execute('LISTEN news; LISTEN "Other Channel"')
        await speaker.execute("NOTIFY news; NOTIFY unheard, 'no'; NOTIFY news, 'with payload'")
        await speaker.execute("SELECT pg_notify(%s, %s)", ("Other Channel", "é" * 100))
        await trial("too long", speaker.execute, "SELECT pg_notify(%s, %s)", ("news", "x" * 9000))
        await speaker.execute("BEGIN; NOTIFY news, 'rolled back'; ROLLBACK")
        await speaker.execute("BEGIN; NOTIFY news, 'twice'; NOTIFY news, 'twice'; COMMIT; NOTIFY news, 'last'")
        # One of two that are alike is left out.
        heard = []
        async for notify in listener.notifies(timeout=20, stop_after=5):
            heard.append((notify.channel, notify.payload, notify.pid == speaker.info.backend_pid))
        say("heard", heard)
        await listener.execute("UNLISTEN *")
        await trial("listening", listener.execute, "SELECT pg_listening_channels()")
        await speaker.execute("SET client_min_messages = debug1")
        await speaker.execute("DO $$ BEGIN RAISE DEBUG 'fine'; RAISE LOG 'log'; RAISE INFO 'info'; END $$")
        await speaker.execute("CREATE TABLE IF NOT EXISTS papers ()")
    await listener.close()


async def pipelines():
    async with Traced() as connection:
        raw = connection.pgconn
        raw.enter_pipeline_mode()
        batches = (
            ("INSERT INTO papers (id, body) VALUES (900, 'first')",), ("BEGIN", "SELECT 1/0", "SELECT 'skipped'"), ("SELECT 'aborted'",), ("ROLLBACK", "SELECT 'after'"),
            ("INSERT INTO papers (id) VALUES (901)", "INSERT INTO papers (id) VALUES (900)", "SELECT 'skipped'"), ("SELECT id FROM papers WHERE id >= 900",),
            ("SELECT 1; SELECT 2",), ("",), (), ("CREATE TEMP TABLE t (n int)", "INSERT INTO t VALUES (1), (2)", "TABLE t", "VACUUM t"), ("TABLE t",), ("VACUUM t", "SELECT 1"),
            ("COMMIT", "BEGIN", "SELECT repeat('y', 100000)", "COMMIT"), ("LISTEN x", "NOTIFY x", "UNLISTEN *"), ("DELETE FROM papers WHERE id >= 900",),
        )
        for batch in batches:
            for text in batch:
                raw.send_query_params(text.encode(), [])
            raw.pipeline_sync()
        # Names, and who asks for them in the same batch.
        raw.send_prepare(b"n", b"SELECT $1::int / $2::int AS n")
        raw.send_describe_prepared(b"n")
        raw.send_query_prepared(b"n", [b"6", b"2"], [0, 0], 1)
        raw.send_query_prepared(b"n", [b"6", b"0"])
        raw.send_query_prepared(b"n", [b"6", b"1"])
        raw.pipeline_sync()
        raw.send_query_prepared(b"n", [b"6", b"3"])
        raw.pipeline_sync()
        left = len(batches) + 2
        while raw.flush():
            pass
        while left:
            result = raw.get_result()
            if result:
                say(pq.ExecStatus(result.status).name, (result.command_status, result.error_message, result.ntuples and len(result.get_value(0, 0))))
                left -= result.status == pq.ExecStatus.PIPELINE_SYNC
        raw.exit_pipeline_mode()
        await trial("goes on", connection.execute, "SELECT 1")
    # When its own half of it reads what is there is a matter of time.
    async with await psycopg.AsyncConnection.connect("", autocommit=True, options="-c search_path=transcript,public") as connection:
        async with connection.pipeline():
            sent = [await connection.execute("SELECT %s::int * 2", (number,)) for number in range(300)]
            total = 0
            for cursor in sent:
                total += (await cursor.fetchone())[0]
            say("sum", total)
        async with connection.pipeline(), connection.transaction():
            async with connection.cursor() as cursor:
                await cursor.executemany("INSERT INTO papers (id, body) VALUES (%s, %s)", [(n, "p" * n) for n in range(910, 960)])
        try:
            async with connection.pipeline(), connection.transaction():
                await connection.execute("DELETE FROM papers WHERE id >= 910")
                await connection.execute("SELECT 1/0")
        except psycopg.Error as error:
            say("undone", fields(error))
        await trial("what is left", connection.execute, "DELETE FROM papers WHERE id >= 910 RETURNING id")
        async with connection.pipeline():
            large = [await connection.execute("SELECT %s::text, repeat('y', 100000)", ("x" * 100000,)) for _ in range(40)]
            total = 0
            for cursor in large:
                total += sum(len(cell) for cell in await cursor.fetchone())
            say("large", total)


async def endings():
    other = await psycopg.AsyncConnection.connect("", autocommit=True)
    async with Traced() as connection:
        await trial("timeout", connection.execute, "SET statement_timeout = 50; SELECT pg_sleep(20)")
        await connection.execute("SET statement_timeout = 0")
        await trial("own number", connection.execute, "SELECT pg_backend_pid() = %s", (connection.info.backend_pid,))
        for name in ("server_version", "server_encoding", "client_encoding", "is_superuser", "session_authorization", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"):
            say(name, connection.info.parameter_status(name))
        await connection.execute("SET application_name = 'other'; SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'")
        for name in ("application_name", "TimeZone", "DateStyle"):
            say(name, connection.info.parameter_status(name))
        await trial("own zone", connection.execute, "SELECT '2024-01-01 00:00+00'::timestamptz::text, '2024-01-02'::date::text")
    victim = await psycopg.AsyncConnection.connect("", autocommit=True)
    await other.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
    await trial("ended", victim.execute, "SELECT 1")
    say("closed", (victim.closed, victim.broken))
    await trial("no more", victim.execute, "SELECT 1")
    async with psycopg_pool.AsyncConnectionPool("", min_size=2, max_size=4, kwargs={"autocommit": True}, open=False) as pool:
        for number in range(20):
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO transcript.papers (id) VALUES (%s)", (950 + number,))
        try:
            async with pool.connection() as connection:
                await connection.execute("SELECT 1/0")
        except psycopg.Error as error:
            say("in a pool", fields(error))
        async with pool.connection() as connection:
            await trial("pooled", connection.execute, "WITH gone AS (DELETE FROM transcript.papers WHERE id >= 950 RETURNING id) SELECT count(*), sum(id) FROM gone")
    await other.close()


SECTIONS = [values, statements, prepared, missing, transactions, cursors, copies, notices, pipelines, endings]
TABLES = """CREATE TABLE transcript.papers (id int PRIMARY KEY CHECK (id < 1000), body text, up int REFERENCES transcript.papers DEFERRABLE);
INSERT INTO transcript.papers SELECT n, 'paper ' || n FROM generate_series(1, 20) AS n"""


async def main():
    async with await psycopg.AsyncConnection.connect("", autocommit=True) as connection:
        await connection.execute(TABLES)
        for section in SECTIONS:
            print(f"# {section.__name__}")
            await section()
        await connection.execute("DROP TABLE transcript.papers")
    print("# end")


try:
    asyncio.run(main())
except Exception:
    traceback.print_exc(file=sys.stdout)
    sys.exit(1)
