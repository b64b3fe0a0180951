// What pgjdbc makes of a database, as a transcript: what is printed must be the same whatever is between. Nothing in it is of
// this run: no time, no process number, no oid.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.SQLXML;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.copy.CopyOut;
import org.postgresql.geometric.PGpoint;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class Transcript {
    static final int ROWS = 5000;

    interface Work {
        Object run() throws Exception;
    }

    public static void main(String[] words) throws Exception {
        try (Connection connection = open(); Statement statement = connection.createStatement()) {
            statement.execute("CREATE SCHEMA transcript");
        }
        for (String[] mode : new String[][] {
            {"extended", ""},
            {"extended", "binaryTransfer=false"},
            {"extended", "prepareThreshold=-1"},
            {"extended", "prepareThreshold=0 autosave=always"},
            {"extendedForPrepared", "autosave=conservative cleanupSavepoints=true"},
            {"extendedCacheEverything", "reWriteBatchedInserts=true"},
            {"simple", ""},
        }) {
            System.out.println("# " + String.join(" ", mode));
            Properties properties = new Properties();
            properties.setProperty("preferQueryMode", mode[0]);
            for (String setting : mode[1].split(" ")) {
                if (!setting.isEmpty()) {
                    String[] parts = setting.split("=");
                    properties.setProperty(parts[0], parts[1]);
                }
            }
            boolean simple = mode[0].equals("simple");
            part("statements", properties, Transcript::statements);
            part("types", properties, Transcript::types);
            part("batches", properties, Transcript::batches);
            part("cursors", properties, Transcript::cursors);
            part("transactions", properties, Transcript::transactions);
            part("prepared", properties, Transcript::prepared);
            part("large objects", properties, Transcript::largeObjects);
            part("calls", properties, Transcript::calls);
            part("copies", properties, Transcript::copies);
            part("notifications", properties, Transcript::notifications);
            part("interruptions", properties, Transcript::interruptions);
            if (!simple) {
                part("metadata", properties, Transcript::metadata);
            }
        }
        try (Connection connection = open(); Statement statement = connection.createStatement()) {
            statement.execute("DROP SCHEMA transcript CASCADE");
        }
        System.out.println("# end");
    }

    static Connection open(String... settings) throws SQLException {
        Properties properties = new Properties();
        for (String setting : settings) {
            String[] parts = setting.split("=");
            properties.setProperty(parts[0], parts[1]);
        }
        return open(properties);
    }

    static Connection open(Properties more) throws SQLException {
        Properties properties = new Properties();
        properties.putAll(more);
        properties.setProperty("user", System.getenv("PGUSER"));
        String password = System.getenv("PGPASSWORD");
        if (password != null) {
            properties.setProperty("password", password);
        }
        properties.setProperty("sslmode", "require");
        properties.setProperty("currentSchema", "transcript,public");
        properties.setProperty("ApplicationName", "transcript");
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"),
            properties);
    }

    interface Part {
        void run(Connection connection) throws Exception;
    }

    /// On a connection of its own.
    static void part(String name, Properties properties, Part part) throws Exception {
        System.out.println("## " + name);
        try (Connection connection = open(properties)) {
            part.run(connection);
            if (!connection.isClosed() && !connection.getAutoCommit()) {
                connection.rollback();
            }
        }
    }

    static void say(String what, Object value) {
        System.out.println(what + ": " + shown(value));
    }

    static void trial(String what, Work work) {
        try {
            say(what, work.run());
        } catch (SQLException error) {
            for (SQLException each = error; each != null; each = each.getNextException()) {
                say(what + " fails", failure(each));
            }
        } catch (Exception error) {
            say(what + " fails", error);
        }
    }

    static String failure(SQLException error) {
        String counts = error instanceof BatchUpdateException batch ? " " + Arrays.toString(batch.getUpdateCounts()) : "";
        ServerErrorMessage server = error instanceof PSQLException own ? own.getServerErrorMessage() : null;
        if (server == null) {
            return error.getSQLState() + " " + error.getMessage() + counts;
        }
        return String.join("|", new String[] {
            server.getSeverity(), server.getSQLState(), server.getMessage(), server.getDetail(), server.getHint(),
            Integer.toString(server.getPosition()), server.getWhere(), server.getSchema(), server.getTable(), server.getColumn(),
            server.getDatatype(), server.getConstraint(), server.getRoutine(), server.getInternalQuery(),
        }) + counts;
    }

    static String shown(Object value) {
        if (value instanceof byte[] bytes) {
            return "\\x" + HexFormat.of().formatHex(bytes);
        }
        if (value instanceof int[] counts) {
            return Arrays.toString(counts);
        }
        if (value instanceof long[] counts) {
            return Arrays.toString(counts);
        }
        if (value instanceof Object[] values) {
            return Arrays.stream(values).map(Transcript::shown).toList().toString();
        }
        if (value instanceof List<?> values) {
            return values.stream().map(Transcript::shown).toList().toString();
        }
        String text = String.valueOf(value);
        return text.length() > 300 ? text.substring(0, 40) + "... (" + text.length() + ")" : text;
    }

    static Object rows(ResultSet result) throws SQLException {
        ResultSetMetaData columns = result.getMetaData();
        List<Object> rows = new ArrayList<>();
        List<String> head = new ArrayList<>();
        for (int column = 1; column <= columns.getColumnCount(); column += 1) {
            head.add(columns.getColumnLabel(column) + " " + columns.getColumnTypeName(column) + " " + columns.getPrecision(column)
                + " " + columns.getScale(column) + " " + columns.getColumnClassName(column));
        }
        rows.add(head);
        while (result.next()) {
            List<Object> row = new ArrayList<>();
            for (int column = 1; column <= columns.getColumnCount(); column += 1) {
                Object value = result.getObject(column);
                row.add(value instanceof Array array ? array.getArray() : value instanceof SQLXML xml ? xml.getString() : value);
            }
            rows.add(row);
        }
        return rows;
    }

    /// All results of one call, with the warnings.
    static Object run(Connection connection, String sql, Object... values) throws SQLException {
        if (values.length == 0) {
            try (Statement statement = connection.createStatement()) {
                return results(statement, statement.execute(sql));
            }
        }
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int number = 0; number < values.length; number += 1) {
                statement.setObject(number + 1, values[number]);
            }
            return results(statement, statement.execute());
        }
    }

    static Object results(Statement statement, boolean isResult) throws SQLException {
        List<Object> results = new ArrayList<>();
        while (true) {
            if (isResult) {
                results.add(rows(statement.getResultSet()));
            } else if (statement.getLargeUpdateCount() >= 0) {
                results.add(statement.getLargeUpdateCount());
            } else {
                break;
            }
            isResult = statement.getMoreResults();
        }
        for (SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) {
            results.add(failure(warning));
        }
        return results;
    }

    static void statements(Connection connection) throws Exception {
        for (String sql : new String[] {
            "", "SELECT 1 AS one", "SELECT 1; SELECT 2, 'b'; ", "TABLE orders", "SELECT id, name, email, ssn FROM customers ORDER BY id",
            "SELECT 1/0", "SELEC", "SELECT 1; SELECT 1/0; SELECT 3", "SELECT nothing", "SELECT NULL::int, ''::text, 'ü\u20ac\uD83D\uDE00'",
            "CREATE TABLE made (id serial PRIMARY KEY, body text NOT NULL DEFAULT 'none', CHECK (length(body) < 9))",
            "INSERT INTO made (body) VALUES ('a'), ('b')", "INSERT INTO made (id, body) VALUES (1, 'c')", "INSERT INTO made (body) VALUES ('much too long')",
            "UPDATE made SET body = 'z' WHERE id = 2 RETURNING *", "DELETE FROM made WHERE id > 100", "WITH gone AS (DELETE FROM made WHERE id = 2 RETURNING id) SELECT * FROM gone",
            "DO $$ BEGIN RAISE NOTICE 'noticed'; RAISE WARNING 'warned' USING HINT = 'h'; END $$", "SELECT repeat('x', 5000000)", "EXPLAIN (COSTS off) SELECT 1",
            "SHOW server_version", "SET work_mem = '5MB'", "DROP TABLE missing", "DROP TABLE IF EXISTS missing",
        }) {
            trial(sql, () -> run(connection, sql));
        }
        for (Object value : new Object[] {1, "one", 2L, null}) {
            trial("bound " + value, () -> run(connection, "SELECT body FROM made WHERE id = ?", value));
        }
        trial("generated keys", () -> {
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO made (body) VALUES (?), (?)", Statement.RETURN_GENERATED_KEYS)) {
                insert.setString(1, "k");
                insert.setString(2, "l");
                return List.of(insert.executeUpdate(), rows(insert.getGeneratedKeys()));
            }
        });
        trial("generated column", () -> {
            try (Statement insert = connection.createStatement()) {
                insert.executeUpdate("INSERT INTO made (body) VALUES ('m')", new String[] {"id"});
                return rows(insert.getGeneratedKeys());
            }
        });
        trial("updatable", () -> {
            try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                 ResultSet result = statement.executeQuery("SELECT id, body FROM made ORDER BY id")) {
                result.last();
                result.updateString("body", "changed");
                result.updateRow();
                result.moveToInsertRow();
                result.updateInt("id", 77);
                result.updateString("body", "new");
                result.insertRow();
                result.first();
                result.deleteRow();
                return run(connection, "SELECT * FROM made ORDER BY id");
            }
        });
        trial("dropped", () -> run(connection, "DROP TABLE made"));
    }

    static void types(Connection connection) throws Exception {
        run(connection, "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN few AS int CHECK (VALUE < 9)");
        Object[][] values = {
            {"bool", true}, {"int2", (short) -3}, {"int4", Integer.MIN_VALUE}, {"int8", Long.MAX_VALUE}, {"float4", 1.5f}, {"float8", Double.NaN},
            {"numeric", new BigDecimal("12345678901234567890.0987654321")}, {"numeric", new BigDecimal("-0.000001")}, {"text", "grüße"}, {"varchar(3)", "abc"}, {"char(5)", "ab"},
            {"bytea", new byte[] {0, 1, -2, -1}}, {"date", Date.valueOf("2024-02-29")}, {"timestamp", Timestamp.valueOf("2000-01-01 00:00:00.5")},
            {"timestamptz", java.time.OffsetDateTime.parse("1999-12-31T23:59:59.999999Z")}, {"time", java.time.LocalTime.parse("23:59:59.123456")}, {"date", java.time.LocalDate.MAX},
            {"interval", new PGInterval(1, 2, -3, 4, 5, 6.7)}, {"uuid", UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")}, {"point", new PGpoint(1, 2)},
            {"json", object("json", "{\"a\": [1, null]}")}, {"jsonb", object("jsonb", "{\"b\": {\"c\": \"d\"}}")}, {"inet", object("inet", "10.1.2.3/8")}, {"bit(4)", object("bit", "1010")},
            {"money", object("money", "12.34")}, {"int4range", object("int4range", "[1,5)")}, {"mood", object("mood", "ok")}, {"mood", object("mood", "none")}, {"pair", object("pair", "(1,\"x,y\")")},
            {"few", 5}, {"few", 12}, {"int4", "no number"}, {"int4[]", connection.createArrayOf("int4", new Integer[] {1, null, 3})},
            {"text[]", connection.createArrayOf("text", new String[] {"a,b", "\"", "NULL", null, "\\"})}, {"text[]", connection.createArrayOf("text", new String[][] {{"a"}, {"b"}})},
            {"bytea[]", connection.createArrayOf("bytea", new byte[][] {{1}, {2, 3}})}, {"float8[]", connection.createArrayOf("float8", new Double[] {1.5, Double.POSITIVE_INFINITY})},
            {"int8", null}, {"xml", object("xml", "<a>b</a>")}, {"tsvector", object("tsvector", "'a':1")},
        };
        for (Object[] each : values) {
            String sql = "SELECT ?::" + each[0] + " AS value";
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                // Often enough to become a prepared statement of the server's, and binary.
                for (int round = 0; round < 7; round += 1) {
                    String what = sql + " " + round;
                    trial(what, () -> {
                        statement.setObject(1, each[1]);
                        try (ResultSet result = statement.executeQuery()) {
                            return rows(result);
                        }
                    });
                }
            }
        }
        run(connection, "DROP TYPE mood, pair; DROP DOMAIN few");
    }

    static PGobject object(String type, String value) throws SQLException {
        PGobject object = new PGobject();
        object.setType(type);
        object.setValue(value);
        return object;
    }

    static void batches(Connection connection) throws Exception {
        run(connection, "CREATE TABLE batched (id int PRIMARY KEY, body text)");
        for (boolean whole : new boolean[] {false, true}) {
            connection.setAutoCommit(!whole);
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO batched VALUES (?, ?)")) {
                for (int id = 0; id < 700; id += 1) {
                    insert.setInt(1, id + (whole ? 1000 : 0));
                    insert.setString(2, "b".repeat(id % 100));
                    insert.addBatch();
                }
                int[] counts = insert.executeBatch();
                say("batch", List.of(counts.length, Arrays.stream(counts).distinct().toArray()));
                for (int id : new int[] {5000, 5001, 3, 5002}) {
                    insert.setInt(1, id);
                    insert.setString(2, null);
                    insert.addBatch();
                }
                trial("with one that fails", insert::executeBatch);
            }
            if (whole) {
                trial("within", () -> run(connection, "SELECT 1"));
                connection.rollback();
                connection.setAutoCommit(true);
            }
            trial("there", () -> run(connection, "SELECT count(*), sum(length(body)) FROM batched"));
        }
        trial("keys of a batch", () -> {
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO batched VALUES (?, 'k')", new String[] {"id", "body"})) {
                for (int id = 9000; id < 9010; id += 1) {
                    insert.setInt(1, id);
                    insert.addBatch();
                }
                return List.of(insert.executeBatch(), rows(insert.getGeneratedKeys()));
            }
        });
        trial("mixed", () -> {
            try (Statement statement = connection.createStatement()) {
                for (String sql : new String[] {"UPDATE batched SET body = 'u' WHERE id < 10", "DELETE FROM batched WHERE id >= 9000", "INSERT INTO batched VALUES (-1)", "SELECT 1/0"}) {
                    statement.addBatch(sql);
                }
                return statement.executeBatch();
            }
        });
        run(connection, "DROP TABLE batched");
    }

    static void cursors(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        for (int size : new int[] {0, 1, 7, 1000}) {
            try (PreparedStatement select = connection.prepareStatement("SELECT n, repeat('c', n % 50) FROM generate_series(1, ?) AS n")) {
                select.setFetchSize(size);
                select.setInt(1, size == 1 ? 50 : ROWS);
                long sum = 0;
                try (ResultSet result = select.executeQuery()) {
                    while (result.next()) {
                        sum += result.getInt(1) + result.getString(2).length();
                    }
                }
                say("fetched by " + size, sum);
                select.setMaxRows(13);
                try (ResultSet result = select.executeQuery()) {
                    say("no more than", rows(result));
                }
            }
        }
        trial("fails on the way", () -> {
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                try (ResultSet result = statement.executeQuery("SELECT 1 / (25 - n) FROM generate_series(1, 100) AS n")) {
                    return rows(result);
                }
            }
        });
        connection.rollback();
        trial("two at once", () -> {
            try (Statement one = connection.createStatement(); Statement two = connection.createStatement()) {
                one.setFetchSize(3);
                two.setFetchSize(2);
                ResultSet first = one.executeQuery("SELECT generate_series(1, 10)");
                ResultSet second = two.executeQuery("SELECT generate_series(101, 110)");
                List<Integer> seen = new ArrayList<>();
                while (first.next() && second.next()) {
                    seen.add(first.getInt(1));
                    seen.add(second.getInt(1));
                }
                return seen;
            }
        });
        trial("left early", () -> {
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                ResultSet result = statement.executeQuery("SELECT generate_series(1, 1000000)");
                result.next();
                result.close();
                return run(connection, "SELECT 'after'");
            }
        });
        trial("refcursor", () -> {
            run(connection, "CREATE FUNCTION opened() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'named'; BEGIN OPEN c FOR SELECT id, item FROM orders ORDER BY id; RETURN c; END $$");
            try (CallableStatement call = connection.prepareCall("{? = call opened()}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.execute();
                return rows((ResultSet) call.getObject(1));
            }
        });
    }

    static void transactions(Connection connection) throws Exception {
        run(connection, "CREATE TABLE kept (id int PRIMARY KEY)");
        connection.setAutoCommit(false);
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        trial("isolation", () -> run(connection, "SHOW transaction_isolation"));
        trial("insert", () -> run(connection, "INSERT INTO kept VALUES (?)", 1));
        Savepoint named = connection.setSavepoint("named");
        trial("again", () -> run(connection, "INSERT INTO kept VALUES (?)", 1));
        trial("after it", () -> run(connection, "SELECT count(*) FROM kept"));
        trial("back", () -> {
            connection.rollback(named);
            return run(connection, "SELECT count(*) FROM kept");
        });
        Savepoint unnamed = connection.setSavepoint();
        trial("second", () -> run(connection, "INSERT INTO kept VALUES (?)", 2));
        connection.releaseSavepoint(unnamed);
        trial("commit", () -> {
            connection.commit();
            return run(connection, "TABLE kept");
        });
        connection.rollback();
        trial("commit of a failed one", () -> {
            try {
                run(connection, "SELECT 1/0");
            } catch (SQLException error) {
                connection.commit();
            }
            return "committed";
        });
        connection.rollback();
        connection.setReadOnly(true);
        trial("read only", () -> run(connection, "INSERT INTO kept VALUES (3)"));
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
        trial("there", () -> run(connection, "DROP TABLE kept"));
    }

    static void prepared(Connection connection) throws Exception {
        run(connection, "CREATE TABLE shape (a int)");
        run(connection, "INSERT INTO shape VALUES (1)");
        try (PreparedStatement select = connection.prepareStatement("SELECT * FROM shape WHERE a > ?")) {
            for (int round = 0; round < 12; round += 1) {
                if (round == 8) {
                    run(connection, "ALTER TABLE shape ADD b text DEFAULT 'new'");
                }
                if (round == 10) {
                    run(connection, "DEALLOCATE ALL");
                }
                select.setInt(1, 0);
                trial("round " + round, () -> {
                    try (ResultSet result = select.executeQuery()) {
                        return List.of(select.unwrap(PGStatement.class).isUseServerPrepare(), rows(result));
                    }
                });
            }
            trial("parameters", () -> List.of(select.getParameterMetaData().getParameterCount(), select.getParameterMetaData().getParameterTypeName(1)));
            trial("columns", () -> select.getMetaData().getColumnCount());
        }
        for (int number = 0; number < 300; number += 1) {
            try (PreparedStatement select = connection.prepareStatement("SELECT ? + " + number)) {
                select.unwrap(PGStatement.class).setPrepareThreshold(1);
                select.setInt(1, number);
                try (ResultSet result = select.executeQuery()) {
                    result.next();
                    if (result.getInt(1) != 2 * number) {
                        say("wrong", result.getInt(1));
                    }
                }
            }
        }
        trial("kept", () -> run(connection, "SELECT count(*), sum(length(statement)) FROM pg_prepared_statements"));
        trial("discard", () -> run(connection, "DISCARD ALL"));
        run(connection, "SET search_path = transcript, public");
        trial("after", () -> run(connection, "SELECT ?::int", 5));
        trial("drop", () -> run(connection, "DROP TABLE shape"));
    }

    static void largeObjects(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        byte[] content = new byte[300_000];
        for (int index = 0; index < content.length; index += 1) {
            content[index] = (byte) (index * 31 % 251);
        }
        long oid = manager.createLO(LargeObjectManager.READWRITE);
        try (LargeObject object = manager.open(oid, LargeObjectManager.WRITE)) {
            object.write(content);
            say("written", object.tell64());
        }
        try (LargeObject object = manager.open(oid, LargeObjectManager.READ)) {
            say("size", object.size64());
            object.seek(1000);
            say("read", object.read(20));
            object.seek64(-5, LargeObject.SEEK_END);
            say("end", object.read(100));
            object.seek(0);
            try (InputStream stream = object.getInputStream()) {
                say("same", Arrays.equals(stream.readAllBytes(), content));
            }
        }
        trial("not for writing", () -> {
            try (LargeObject object = manager.open(oid, LargeObjectManager.READ)) {
                object.write(new byte[] {1});
            }
            return "written";
        });
        connection.rollback();
        long second = manager.createLO(LargeObjectManager.READWRITE);
        try (LargeObject object = manager.open(second, LargeObjectManager.READWRITE)) {
            object.write("first".getBytes(StandardCharsets.UTF_8));
            object.truncate64(2);
            say("cut", object.size64());
        }
        connection.commit();
        say("deleted", second > 0);
        manager.delete(second);
        connection.commit();
        trial("there is none", () -> manager.open(4_000_000_000L, LargeObjectManager.READ).size());
        connection.rollback();
    }

    static void calls(Connection connection) throws Exception {
        run(connection, "CREATE OR REPLACE FUNCTION half(n numeric, OUT whole int, OUT rest numeric) LANGUAGE sql AS 'SELECT (n / 2)::int, n % 2'");
        run(connection, "CREATE OR REPLACE PROCEDURE twice(INOUT n int) LANGUAGE plpgsql AS 'BEGIN n := n * 2; END'");
        trial("function", () -> {
            try (CallableStatement call = connection.prepareCall("{call half(?, ?, ?)}")) {
                call.setBigDecimal(1, new BigDecimal("7"));
                call.registerOutParameter(2, Types.INTEGER);
                call.registerOutParameter(3, Types.NUMERIC);
                call.execute();
                return List.of(call.getInt(2), call.getBigDecimal(3));
            }
        });
        trial("procedure", () -> run(connection, "CALL twice(21)"));
        trial("escape", () -> run(connection, "SELECT {fn concat('a', 'b')}, {d '2024-02-29'}, {fn ucase('x')}"));
        run(connection, "DROP FUNCTION half; DROP PROCEDURE twice");
    }

    static void copies(Connection connection) throws Exception {
        run(connection, "CREATE TABLE copied (id int, body text)");
        CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int id = 0; id < ROWS; id += 1) {
            text.append(id).append('\t').append(id % 9 == 0 ? "\\N" : "body\\t" + "x".repeat(id % 60)).append('\n');
        }
        trial("in", () -> manager.copyIn("COPY copied FROM STDIN", new StringReader(text.toString())));
        trial("out", () -> {
            StringWriter out = new StringWriter();
            return List.of(manager.copyOut("COPY copied TO STDOUT", out), out.toString().equals(text.toString()));
        });
        trial("binary", () -> {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            long count = manager.copyOut("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT (FORMAT binary)", out);
            String hash = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(out.toByteArray()));
            run(connection, "TRUNCATE copied");
            return List.of(count, out.size(), hash, manager.copyIn("COPY copied FROM STDIN (FORMAT binary)", new ByteArrayInputStream(out.toByteArray()), 10_000));
        });
        trial("csv", () -> {
            StringWriter out = new StringWriter();
            manager.copyOut("COPY (SELECT id, body || ',\"' AS \"B\" FROM copied ORDER BY id LIMIT 3) TO STDOUT (FORMAT csv, HEADER)", out);
            return out;
        });
        trial("bad", () -> manager.copyIn("COPY copied FROM STDIN", new StringReader("1\ta\ntwo\tb\n")));
        trial("cancelled", () -> {
            CopyIn copy = manager.copyIn("COPY copied FROM STDIN");
            copy.writeToCopy("1\ta\n".getBytes(StandardCharsets.UTF_8), 0, 4);
            copy.cancelCopy();
            return copy.isActive();
        });
        trial("out fails", () -> manager.copyOut("COPY (SELECT 1 / (900 - n) FROM generate_series(1, 1000) AS n) TO STDOUT", new StringWriter()));
        trial("by hand", () -> {
            CopyOut copy = manager.copyOut("COPY (SELECT generate_series(1, 3)) TO STDOUT");
            List<Object> lines = new ArrayList<>();
            for (byte[] line = copy.readFromCopy(); line != null; line = copy.readFromCopy()) {
                lines.add(line);
            }
            return List.of(copy.getHandledRowCount(), copy.getFieldCount(), lines);
        });
        trial("the reader breaks", () -> manager.copyIn("COPY copied FROM STDIN", new InputStream() {
            @Override public int read() throws IOException {
                throw new IOException("broken");
            }
        }));
        trial("count", () -> run(connection, "SELECT count(*), count(body) FROM copied"));
        run(connection, "DROP TABLE copied");
    }

    static void notifications(Connection connection) throws Exception {
        try (Connection other = open()) {
            run(connection, "LISTEN news");
            run(other, "NOTIFY news, 'one'");
            run(other, "SELECT pg_notify('news', ?)", "two");
            List<String> heard = new ArrayList<>();
            while (heard.size() < 2) {
                PGNotification[] notifications = connection.unwrap(PGConnection.class).getNotifications(10_000);
                for (PGNotification each : notifications) {
                    heard.add(each.getName() + " " + each.getParameter() + " " + (each.getPID() == other.unwrap(PGConnection.class).getBackendPID()));
                }
            }
            say("heard", heard);
        }
    }

    static void interruptions(Connection connection) throws Exception {
        try (Statement sleeping = connection.createStatement(); Connection other = open()) {
            int number = connection.unwrap(PGConnection.class).getBackendPID();
            Thread canceller = new Thread(() -> {
                try (PreparedStatement asleep = other.prepareStatement("SELECT 1 FROM pg_stat_activity WHERE pid = ? AND wait_event = 'PgSleep'")) {
                    asleep.setInt(1, number);
                    while (!asleep.executeQuery().next()) {
                        Thread.onSpinWait();
                    }
                    sleeping.cancel();
                } catch (SQLException error) {
                    say("canceller fails", failure(error));
                }
            });
            canceller.start();
            trial("cancelled", () -> sleeping.execute("SELECT pg_sleep(20)"));
            canceller.join();
            trial("goes on", () -> run(connection, "SELECT 1"));
            sleeping.setQueryTimeout(1);
            trial("timeout", () -> sleeping.execute("SELECT pg_sleep(20)"));
            trial("valid", () -> connection.isValid(5));
            run(other, "SELECT pg_terminate_backend(?)", number);
            try {
                run(connection, "SELECT 1");
            } catch (SQLException error) {
                // Whether its reason is read before the connection's end is seen, is a matter of luck.
                say("ended", true);
            }
            say("closed", connection.isClosed());
        }
    }

    static void metadata(Connection connection) throws Exception {
        DatabaseMetaData data = connection.getMetaData();
        say("version", data.getDatabaseProductVersion());
        trial("tables", () -> rows(data.getTables(null, "public", "%", null)));
        trial("columns", () -> rows(data.getColumns(null, "public", "orders", "%")));
        trial("keys", () -> rows(data.getPrimaryKeys(null, "public", "orders")));
        trial("imported", () -> rows(data.getImportedKeys(null, "public", "orders")));
        trial("indices", () -> rows(data.getIndexInfo(null, "public", "orders", false, false)));
        trial("functions", () -> rows(data.getFunctions(null, "pg_catalog", "lo_%")));
        trial("schemas", () -> rows(data.getSchemas()));
        trial("privileges", () -> rows(data.getTablePrivileges(null, "public", "orders")));
    }
}
