// The JDBC driver as an application uses it, with its defaults: prepared after five runs, batches, fetch sizes, COPY.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;

public class Suite {
    static final String URL = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
    static final int N_SHARDS = Integer.parseInt(System.getenv("SHARDS"));
    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));
    static boolean hasFailed = false;

    interface Check {
        void run() throws Exception;
    }

    interface Work<T> {
        T run() throws Exception;
    }

    public static void main(String[] arguments) {
        check("connects_with_its_defaults", Suite::connectsWithItsDefaults);
        check("schema_is_made", Suite::schemaIsMade);
        check("types_go_both_ways", Suite::typesGoBothWays);
        check("statements_are_prepared_after_some_runs", Suite::statementsArePrepared);
        check("simple_query_mode", Suite::simpleQueryMode);
        check("batches", Suite::batches);
        check("transactions_and_savepoints", Suite::transactionsAndSavepoints);
        check("errors_have_their_sqlstate", Suite::errorsHaveTheirSqlstate);
        check("copies", Suite::copies);
        check("fetch_sizes", Suite::fetchSizes);
        check("metadata", Suite::metadata);
        check("cancel_and_timeout", Suite::cancelAndTimeout);
        check("clients_at_once", Suite::clientsAtOnce);
        check("servers_restart", Suite::serversRestart);
        System.exit(hasFailed ? 1 : 0);
    }

    /** Runs a check and says how it went; those after a failed one are run too. */
    static void check(String name, Check check) {
        try {
            check.run();
            System.out.println("ok " + name);
        } catch (Throwable failure) {
            hasFailed = true;
            System.out.println("FAILED " + name);
            failure.printStackTrace(System.out);
        }
    }

    static void require(boolean isSo, Object what) {
        if (!isSo) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object found, Object expected) {
        require(Objects.deepEquals(found, expected), found + " instead of " + expected);
    }

    static void fails(String sqlstate, Work<?> work) throws Exception {
        try {
            work.run();
        } catch (SQLException error) {
            equal(error.getSQLState(), sqlstate);
            return;
        }
        throw new AssertionError("succeeded instead of " + sqlstate);
    }

    static Connection connect(String... settings) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        for (int idx = 0; idx < settings.length; idx += 2) {
            properties.setProperty(settings[idx], settings[idx + 1]);
        }
        return DriverManager.getConnection(URL, properties);
    }

    static Object value(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int idx = 0; idx < values.length; idx++) {
                statement.setObject(idx + 1, values[idx]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                require(rows.next(), "no row: " + sql);
                return rows.getObject(1);
            }
        }
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void connectsWithItsDefaults() throws Exception {
        try (Connection connection = connect()) {
            require(connection.getMetaData().getDatabaseMajorVersion() >= 14, "version");
            equal(value(connection, "SELECT current_database()"), "shop");
            require(connection.isValid(5), "valid");
        }
        try (Connection connection = connect("ApplicationName", "till 7", "options", "-c statement_timeout=54321")) {
            for (int n = 0; n < 3; n++) {
                equal(value(connection, "SHOW application_name"), "till 7");
                equal(value(connection, "SHOW statement_timeout"), "54321ms");
            }
            connection.setClientInfo("ApplicationName", "till 8");
            equal(value(connection, "SHOW application_name"), "till 8");
        }
        fails("28P01", () -> connect("password", "wrong"));
    }

    static void schemaIsMade() throws Exception {
        try (Connection connection = connect()) {
            execute(connection, "DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood");
            execute(connection, "CREATE TYPE mood AS ENUM ('sad', 'happy')");
            execute(connection, "CREATE TABLE items (id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, "
                + "label text, raw bytea, flag boolean, day date, seen timestamp, at timestamptz, span interval, token uuid, "
                + "doc json, attrs jsonb, tags text[], scores integer[], addr inet, feeling mood)");
        }
    }

    static PGobject object(String type, String value) throws SQLException {
        PGobject object = new PGobject();
        object.setType(type);
        object.setValue(value);
        return object;
    }

    static void typesGoBothWays() throws Exception {
        byte[] raw = new byte[256];
        for (int n = 0; n < 256; n++) {
            raw[n] = (byte) n;
        }
        String label = "Zoë, 名前, 🐘, it's \\ \"quoted\"";
        BigDecimal amount = new BigDecimal("12345678901234567890.000100");
        LocalDateTime seen = LocalDateTime.of(2024, 2, 29, 12, 0, 0, 654321000);
        OffsetDateTime at = seen.atOffset(ZoneOffset.UTC);
        UUID token = UUID.fromString("0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b");
        String columns = "small, n, amount, ratio, label, raw, flag, day, seen, at, span, token, doc, attrs, tags, scores, addr, feeling";
        try (Connection connection = connect()) {
            String insert = "INSERT INTO items (id, " + columns + ") VALUES (?" + ", ?".repeat(18) + ")";
            try (PreparedStatement statement = connection.prepareStatement(insert)) {
                // More than five times, so that the later ones are of a named statement and in binary.
                for (int id = 1; id <= 8; id++) {
                    statement.setLong(1, id);
                    statement.setShort(2, (short) -7);
                    statement.setInt(3, Integer.MAX_VALUE);
                    statement.setBigDecimal(4, amount);
                    statement.setDouble(5, 0.1);
                    statement.setString(6, label);
                    statement.setBytes(7, raw);
                    statement.setBoolean(8, true);
                    statement.setObject(9, LocalDate.of(1999, 12, 31));
                    statement.setObject(10, seen);
                    statement.setObject(11, at);
                    statement.setObject(12, new PGInterval("3 days 4 hours"));
                    statement.setObject(13, token);
                    statement.setObject(14, object("json", "{\"a\": [1, null, \"ü\"]}"));
                    statement.setObject(15, object("jsonb", "{\"deep\": true}"));
                    statement.setArray(16, connection.createArrayOf("text", new String[] {"a", "b,c", null, ""}));
                    statement.setArray(17, connection.createArrayOf("int4", new Integer[] {1, 2, 3}));
                    statement.setObject(18, object("inet", "10.1.2.3"));
                    statement.setObject(19, "happy", Types.OTHER);
                    equal(statement.executeUpdate(), 1);
                }
                statement.setLong(1, 9);
                for (int idx = 2; idx <= 19; idx++) {
                    statement.setNull(idx, Types.NULL);
                }
                equal(statement.executeUpdate(), 1);
            }
            try (PreparedStatement statement = connection.prepareStatement("SELECT " + columns + " FROM items WHERE id = ?")) {
                for (int id = 1; id <= 8; id++) {
                    statement.setLong(1, id);
                    try (ResultSet row = statement.executeQuery()) {
                        require(row.next(), "no row");
                        equal(row.getShort(1), (short) -7);
                        equal(row.getInt(2), Integer.MAX_VALUE);
                        equal(row.getBigDecimal(3), amount);
                        equal(row.getDouble(4), 0.1);
                        equal(row.getString(5), label);
                        equal(row.getBytes(6), raw);
                        equal(row.getBoolean(7), true);
                        equal(row.getObject(8, LocalDate.class), LocalDate.of(1999, 12, 31));
                        equal(row.getObject(9, LocalDateTime.class), seen);
                        equal(row.getObject(10, OffsetDateTime.class).toInstant(), at.toInstant());
                        equal(row.getObject(11), new PGInterval("3 days 4 hours"));
                        equal(row.getObject(12, UUID.class), token);
                        equal(row.getString(13), "{\"a\": [1, null, \"ü\"]}");
                        equal(((PGobject) row.getObject(14)).getValue(), "{\"deep\": true}");
                        equal(row.getArray(15).getArray(), new String[] {"a", "b,c", null, ""});
                        equal(row.getArray(16).getArray(), new Integer[] {1, 2, 3});
                        equal(row.getString(17), "10.1.2.3");
                        equal(row.getString(18), "happy");
                        equal(row.getMetaData().getColumnTypeName(18), "mood");
                    }
                }
                statement.setLong(1, 9);
                try (ResultSet row = statement.executeQuery()) {
                    require(row.next(), "no row");
                    for (int idx = 1; idx <= 18; idx++) {
                        require(row.getObject(idx) == null && row.wasNull(), "not null");
                    }
                }
            }
        }
    }

    static void statementsArePrepared() throws Exception {
        try (Connection connection = connect(); Connection other = connect();
                PreparedStatement statement = connection.prepareStatement("SELECT id FROM items WHERE id = ?")) {
            other.setAutoCommit(false);
            for (long n = 0; n < 20; n++) {
                // The other client holds the server connection that the statement was prepared on.
                value(other, "SELECT ?::int", (int) n);
                statement.setLong(1, n % 8 + 1);
                try (ResultSet row = statement.executeQuery()) {
                    require(row.next() && row.getLong(1) == n % 8 + 1, "another row");
                }
                if (n % 3 == 0) {
                    other.commit();
                }
            }
            require(((org.postgresql.PGStatement) statement.unwrap(org.postgresql.PGStatement.class)).isUseServerPrepare(), "not prepared");
            // The driver prepares anew when the result's type has changed, if the statement was the transaction's first.
            execute(other, "DROP TABLE IF EXISTS authors");
            execute(other, "CREATE TABLE authors (author_id bigint PRIMARY KEY, name text)");
            other.commit();
        }
    }

    static void simpleQueryMode() throws Exception {
        try (Connection connection = connect("preferQueryMode", "simple")) {
            equal(value(connection, "SELECT ?::int + 1", 41), 42);
            equal(value(connection, "SELECT label FROM items WHERE id = ?", 9), null);
        }
        try (Connection connection = connect("preferQueryMode", "extendedForPrepared"); Statement statement = connection.createStatement()) {
            require(statement.execute("SELECT 1; SELECT 2"), "no rows");
            require(statement.getMoreResults(), "one answer only");
            statement.getResultSet().next();
            equal(statement.getResultSet().getInt(1), 2);
        }
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            require(statement.execute("SELECT 1; UPDATE items SET n = 1 WHERE id = 1; SELECT 3"), "no rows");
            require(!statement.getMoreResults() && statement.getUpdateCount() == 1, "no count");
            require(statement.getMoreResults(), "no third answer");
        }
    }

    static void batches() throws Exception {
        for (String rewrite : new String[] {"false", "true"}) {
            long first = rewrite.equals("true") ? 1000 : 100;
            try (Connection connection = connect("reWriteBatchedInserts", rewrite);
                    PreparedStatement statement = connection.prepareStatement("INSERT INTO items (id, label) VALUES (?, ?)")) {
                connection.setAutoCommit(false);
                for (long id = first; id < first + 300; id++) {
                    statement.setLong(1, id);
                    statement.setString(2, "label " + id);
                    statement.addBatch();
                }
                equal(statement.executeBatch().length, 300);
                connection.commit();
                equal(value(connection, "SELECT count(*) FROM items WHERE id BETWEEN ? AND ?", first, first + 299), 300L);
                connection.commit();
                statement.setLong(1, first + 300);
                statement.setString(2, "new");
                statement.addBatch();
                statement.setLong(1, first);
                statement.setString(2, "there is one");
                statement.addBatch();
                fails("23505", statement::executeBatch);
                connection.rollback();
                equal(value(connection, "SELECT count(*) FROM items WHERE id = ?", first + 300), 0L);
                connection.rollback();
            }
        }
    }

    static void transactionsAndSavepoints() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
            execute(connection, "UPDATE items SET label = 'outer' WHERE id = 1");
            Savepoint savepoint = connection.setSavepoint("inside");
            execute(connection, "UPDATE items SET label = 'inner' WHERE id = 1");
            fails("23505", () -> value(connection, "INSERT INTO items (id) VALUES (1) RETURNING id"));
            fails("25P02", () -> value(connection, "SELECT 1"));
            connection.rollback(savepoint);
            execute(connection, "UPDATE items SET n = 5 WHERE id = 2");
            equal(value(connection, "SHOW transaction_isolation"), "repeatable read");
            connection.commit();
            equal(value(connection, "SELECT label FROM items WHERE id = 1"), "outer");
            equal(value(connection, "SELECT n FROM items WHERE id = 2"), 5);
            execute(connection, "UPDATE items SET label = 'lost' WHERE id = 1");
            connection.rollback();
            equal(value(connection, "SELECT label FROM items WHERE id = 1"), "outer");
            connection.rollback();
            connection.setReadOnly(true);
            fails("25006", () -> value(connection, "UPDATE items SET n = 0 WHERE id = 1 RETURNING n"));
            connection.rollback();
        }
    }

    static void errorsHaveTheirSqlstate() throws Exception {
        String[][] cases = {
            {"SELECT 1/0", "22012"}, {"SELECT * FROM nothing_here", "42P01"}, {"SELEC 1", "42601"},
            {"SELECT no_column FROM items WHERE id = 1", "42703"}, {"INSERT INTO items (id) VALUES (1)", "23505"},
        };
        try (Connection connection = connect()) {
            for (String[] each : cases) {
                for (int n = 0; n < 7; n++) {
                    fails(each[1], () -> {
                        execute(connection, each[0]);
                        return null;
                    });
                    equal(value(connection, "SELECT 1"), 1);
                }
            }
            try {
                execute(connection, "INSERT INTO items (id) VALUES (1)");
            } catch (PSQLException error) {
                equal(error.getServerErrorMessage().getConstraint(), "items_pkey");
            }
        }
    }

    static void copies() throws Exception {
        try (Connection connection = connect()) {
            CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int id = 2000; id < 3000; id++) {
                lines.append(id).append("\tlabel ").append(id).append('\n');
            }
            equal(copies.copyIn("COPY items (id, label) FROM STDIN", new StringReader(lines.toString())), 1000L);
            equal(value(connection, "SELECT count(*) FROM items WHERE id >= 2000"), 1000L);
            fails("22P02", () -> copies.copyIn("COPY items (id, n) FROM STDIN", new StringReader("3000\tno number\n")));
            equal(value(connection, "SELECT count(*) FROM items WHERE id >= 3000"), 0L);
            StringWriter out = new StringWriter();
            copies.copyOut("COPY (SELECT id, label FROM items WHERE id >= 2000 ORDER BY id) TO STDOUT", out);
            equal(out.toString(), lines.toString());
        }
    }

    static void fetchSizes() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("SELECT n FROM generate_series(1, ?) AS n")) {
                statement.setFetchSize(50);
                statement.setInt(1, 1030);
                for (int round = 0; round < 7; round++) {
                    int n = 0;
                    try (ResultSet rows = statement.executeQuery()) {
                        while (rows.next()) {
                            n++;
                            equal(rows.getInt(1), n);
                        }
                    }
                    equal(n, 1030);
                }
            }
            // Rows of all shards: as they come, sorted, and computed over all of them.
            for (String query : Arrays.asList(
                    "SELECT id FROM items WHERE id >= ? AND id < 3000 ORDER BY id",
                    "SELECT DISTINCT id FROM items WHERE id >= ? AND id < 3000 ORDER BY id",
                    "SELECT max(id) FROM items WHERE id >= ? AND id < 3000 GROUP BY id ORDER BY 1")) {
                try (PreparedStatement statement = connection.prepareStatement(query)) {
                    statement.setFetchSize(7);
                    statement.setLong(1, 2000);
                    for (int round = 0; round < 7; round++) {
                        long id = 0;
                        int n = 0;
                        try (ResultSet rows = statement.executeQuery()) {
                            while (rows.next()) {
                                require(rows.getLong(1) > id, query);
                                id = rows.getLong(1);
                                n++;
                                if (n == 10) {
                                    equal(value(connection, "SELECT count(*) FROM items WHERE id = 2000"), 1L);
                                }
                            }
                        }
                        equal((long) n, value(connection, "SELECT count(*) FROM items WHERE id >= 2000 AND id < 3000"));
                    }
                }
            }
            connection.commit();
        }
    }

    static void metadata() throws Exception {
        try (Connection connection = connect()) {
            List<String> columns = new ArrayList<>();
            try (ResultSet rows = connection.getMetaData().getColumns(null, "public", "items", null)) {
                while (rows.next()) {
                    columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
                }
            }
            require(columns.containsAll(Arrays.asList("id int8", "tags _text", "feeling mood")), columns);
            try (ResultSet rows = connection.getMetaData().getPrimaryKeys(null, "public", "items")) {
                require(rows.next() && rows.getString("COLUMN_NAME").equals("id"), "no key");
            }
            try (PreparedStatement statement = connection.prepareStatement("SELECT id, label FROM items WHERE id = ?")) {
                equal(statement.getParameterMetaData().getParameterTypeName(1), "int8");
                equal(statement.getMetaData().getColumnTypeName(2), "text");
            }
        }
    }

    static void cancelAndTimeout() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    // Again and again: the first may come before the statement.
                    while (!Thread.currentThread().isInterrupted()) {
                        Thread.sleep(50);
                        statement.cancel();
                    }
                } catch (InterruptedException | SQLException end) {
                    return;
                }
            });
            canceller.start();
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            canceller.interrupt();
            canceller.join();
            equal(value(connection, "SELECT 1"), 1);
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            equal(value(connection, "SELECT 1"), 1);
        }
    }

    static void clientsAtOnce() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(8);
        List<Future<Boolean>> results = new ArrayList<>();
        for (int number = 0; number < 8; number++) {
            final int worker = number;
            Callable<Boolean> work = () -> {
                try (Connection connection = connect();
                        PreparedStatement update = connection.prepareStatement("UPDATE items SET n = ? WHERE id = ?")) {
                    connection.setAutoCommit(false);
                    for (int step = 0; step < 30; step++) {
                        equal(value(connection, "SELECT ?::text", worker + "/" + step), worker + "/" + step);
                        update.setInt(1, step);
                        update.setLong(2, 100 + worker);
                        equal(update.executeUpdate(), 1);
                        connection.commit();
                    }
                }
                return true;
            };
            results.add(threads.submit(work));
        }
        for (Future<Boolean> result : results) {
            result.get();
        }
        threads.shutdown();
        try (Connection connection = connect()) {
            equal(value(connection, "SELECT count(*) FROM items WHERE id BETWEEN 100 AND 107 AND n = 29"), 8L);
        }
    }

    static void serversRestart() throws Exception {
        try (Connection connection = connect()) {
            String query = "SELECT label FROM items WHERE id = ?";
            for (int n = 0; n < 7; n++) {
                equal(value(connection, query, 1L), "outer");
            }
            System.out.println("> restart");
            System.out.flush();
            equal(INPUT.readLine(), "done");
            try {
                value(connection, query, 1L);
            } catch (SQLException error) {
                System.out.println("after the restart: " + error.getMessage());
            }
            equal(value(connection, query, 1L), "outer");
            equal(value(connection, "SELECT count(*) FROM items WHERE id < 10"), 9L);
        }
    }
}
