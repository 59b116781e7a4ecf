"""psycopg 3 as an application uses it, with its defaults."""

import threading
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address

import psycopg
from psycopg.rows import dict_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from enum import Enum

from checks import N_SHARDS, URL, after_at_most_one_error, restart_servers, run


class Mood(Enum):
    sad = "sad"
    happy = "happy"


def connects_with_its_defaults():
    with psycopg.connect(URL) as conn:
        assert conn.info.server_version >= 140000
        assert conn.info.encoding == "utf-8"
        assert conn.info.parameter_status("standard_conforming_strings") == "on"
        assert conn.execute("SELECT current_database()").fetchone() == ("shop",)


def startup_options_are_kept():
    with psycopg.connect(URL, application_name="till 7", options="-c statement_timeout=54321 -c DateStyle=German") as conn:
        for _ in range(3):
            assert conn.execute("SHOW application_name").fetchone() == ("till 7",)
            assert conn.execute("SHOW statement_timeout").fetchone() == ("54321ms",)
            conn.commit()
        assert conn.info.parameter_status("DateStyle").startswith("German")
        conn.execute("SET statement_timeout = 0")
        conn.commit()
        conn.execute("RESET statement_timeout")
        assert conn.execute("SHOW statement_timeout").fetchone() == ("54321ms",)


def schema_is_made():
    with psycopg.connect(URL) as conn:
        conn.execute("DROP TABLE IF EXISTS items")
        conn.execute("DROP TYPE IF EXISTS mood")
        conn.commit()
        conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        conn.execute(
            """CREATE TABLE items (
                id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, label text, raw bytea, flag boolean,
                day date, clock time, seen timestamp, at timestamptz, span interval, token uuid, doc json, attrs jsonb,
                tags text[], scores integer[], addr inet, feeling mood)"""
        )


VALUES = {
    "small": -7,
    "n": 2147483647,
    "amount": Decimal("12345678901234567890.000100"),
    "ratio": 0.1,
    "label": "Zoë, 名前, 🐘, it's \\ \"quoted\"",
    "raw": bytes(range(256)),
    "flag": True,
    "day": date(1999, 12, 31),
    "clock": time(23, 59, 58, 123456),
    "seen": datetime(2024, 2, 29, 12, 0, 0, 654321),
    "at": datetime(2024, 2, 29, 12, 0, 0, 654321, tzinfo=timezone.utc),
    "span": timedelta(days=3, hours=4, microseconds=5),
    "token": uuid.UUID("0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b"),
    "doc": {"a": [1, None, "ü"]},
    "attrs": {"nested": {"deep": True}},
    "tags": ["a", "b,c", None, ""],
    "scores": [1, 2, 3],
    "addr": ip_address("10.1.2.3"),
}


def types_go_both_ways():
    columns = ", ".join(VALUES)
    marks = ", ".join(["%s"] * len(VALUES))
    given = [Jsonb(value) if isinstance(value, dict) else value for value in VALUES.values()]
    with psycopg.connect(URL) as conn:
        for number, binary in enumerate([False, True], start=1):
            conn.execute(f"INSERT INTO items (id, {columns}) VALUES (%s, {marks})", [number, *given])
            cursor = conn.cursor(binary=binary, row_factory=dict_row)
            row = cursor.execute(f"SELECT {columns} FROM items WHERE id = %s", [number]).fetchone()
            assert row == VALUES, row
        conn.execute(f"INSERT INTO items (id, {columns}) VALUES (%s, {marks})", [3] + [None] * len(VALUES))
        assert set(conn.execute(f"SELECT {columns} FROM items WHERE id = 3").fetchone()) == {None}


def an_enum_is_registered():
    with psycopg.connect(URL) as conn:
        register_enum(EnumInfo.fetch(conn, "mood"), conn, Mood)
        # Keys on several shards: each of them has to know the type.
        for number in range(1, 4):
            conn.execute("UPDATE items SET feeling = %s WHERE id = %s", [Mood.sad, number])
            for binary in [False, True]:
                cursor = conn.cursor(binary=binary)
                cursor.execute("SELECT feeling, ARRAY[feeling] FROM items WHERE id = %s", [number])
                assert cursor.fetchone() == (Mood.sad, [Mood.sad])
        everything = conn.cursor(binary=True).execute("SELECT array_agg(feeling) FROM items WHERE id < 4").fetchone()
        assert everything == ([Mood.sad] * 3,)


def statements_are_prepared_after_some_runs():
    with psycopg.connect(URL) as conn, psycopg.connect(URL) as other:
        for number in range(20):
            assert conn.execute("SELECT %s::int + 1", [number]).fetchone() == (number + 1,)
            assert conn.execute("SELECT id FROM items WHERE id = %s", [number % 2 + 1]).fetchone() == (number % 2 + 1,)
            conn.commit()
            # Holds the server connection that the statement was prepared on.
            other.execute("SELECT 1")
            if number % 3 == 0:
                other.commit()
        assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] >= 0


def a_prepared_statement_outlives_a_change_of_its_table():
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS authors")
        conn.execute("CREATE TABLE authors (author_id bigint PRIMARY KEY, name text)")
        conn.execute("INSERT INTO authors VALUES (1, 'Ann')")
        for _ in range(7):
            assert conn.execute("SELECT name FROM authors WHERE author_id = %s", [1]).fetchone() == ("Ann",)
        conn.execute("ALTER TABLE authors ADD COLUMN born date")
        assert conn.execute("SELECT name FROM authors WHERE author_id = %s", [1]).fetchone() == ("Ann",)


def many_rows_are_inserted():
    with psycopg.connect(URL) as conn:
        rows = [(number, f"label {number}") for number in range(100, 400)]
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO items (id, label) VALUES (%s, %s)", rows)
            assert cursor.rowcount == 300
            cursor.executemany(
                "UPDATE items SET n = %s WHERE id = %s RETURNING id", [(n, n) for n in range(100, 110)], returning=True
            )
            returned = [cursor.fetchone()[0]]
            while cursor.nextset():
                returned.append(cursor.fetchone()[0])
            assert returned == list(range(100, 110)), returned
    with psycopg.connect(URL) as conn:
        assert conn.execute("SELECT count(*), sum(id) FROM items WHERE id >= 100").fetchone() == (300, sum(range(100, 400)))
        ids = [row[0] for row in conn.execute("SELECT id FROM items WHERE id >= 100 ORDER BY id LIMIT 7 OFFSET 5")]
        assert ids == list(range(105, 112)), ids


def transactions_and_savepoints():
    with psycopg.connect(URL) as conn:
        with conn.transaction():
            conn.execute("UPDATE items SET label = 'outer' WHERE id = 1")
            try:
                with conn.transaction():
                    conn.execute("UPDATE items SET label = 'inner' WHERE id = 1")
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            with conn.transaction():
                conn.execute("UPDATE items SET n = 5 WHERE id = 2")
        assert conn.execute("SELECT label FROM items WHERE id = 1").fetchone() == ("outer",)
        assert conn.execute("SELECT n FROM items WHERE id = 2").fetchone() == (5,)
        conn.rollback()
        conn.execute("UPDATE items SET label = 'lost' WHERE id = 1")
        conn.rollback()
        assert conn.execute("SELECT label FROM items WHERE id = 1").fetchone() == ("outer",)
    with psycopg.connect(URL) as conn:
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.read_only = True
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        try:
            conn.execute("UPDATE items SET n = 0 WHERE id = 1")
            raise AssertionError("a read-only transaction wrote")
        except psycopg.errors.ReadOnlySqlTransaction:
            conn.rollback()


def errors_have_their_sqlstate():
    cases = [
        ("INSERT INTO items (id) VALUES (1)", psycopg.errors.UniqueViolation, "23505"),
        ("SELECT 1/0", psycopg.errors.DivisionByZero, "22012"),
        ("SELECT * FROM nothing_here", psycopg.errors.UndefinedTable, "42P01"),
        ("SELEC 1", psycopg.errors.SyntaxError, "42601"),
        ("SELECT no_column FROM items WHERE id = 1", psycopg.errors.UndefinedColumn, "42703"),
        ("SELECT 'x'::int", psycopg.errors.InvalidTextRepresentation, "22P02"),
    ]
    with psycopg.connect(URL) as conn:
        for sql, kind, sqlstate in cases:
            try:
                conn.execute(sql)
                raise AssertionError(f"{sql} succeeded")
            except kind as error:
                assert error.sqlstate == sqlstate
                assert error.diag.severity_nonlocalized == "ERROR" and error.diag.message_primary
            try:
                conn.execute("SELECT 1")
                raise AssertionError("a failed transaction answered")
            except psycopg.errors.InFailedSqlTransaction:
                conn.rollback()
            assert conn.execute("SELECT 1").fetchone() == (1,)
            conn.commit()
        try:
            conn.execute("INSERT INTO items (id) VALUES (1)")
        except psycopg.errors.UniqueViolation as error:
            assert error.diag.constraint_name == "items_pkey" and error.diag.table_name == "items"
            conn.rollback()


def pipelines():
    with psycopg.connect(URL, autocommit=True) as conn:
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("SELECT %s::int * 2", [number]) for number in range(200)]
            pipeline.sync()
            assert [cursor.fetchone()[0] for cursor in cursors] == [number * 2 for number in range(200)]
        with conn.pipeline():
            with conn.transaction():
                conn.execute("UPDATE items SET n = 1 WHERE id = 1")
                conn.execute("UPDATE items SET n = 2 WHERE id = 2")
            cursor = conn.execute("SELECT n FROM items WHERE id = 2")
            assert cursor.fetchone() == (2,)
    with psycopg.connect(URL, autocommit=True) as conn:
        with conn.pipeline() as pipeline:
            good = conn.execute("SELECT 1")
            bad = conn.execute("SELECT 1/0")
            after = conn.execute("SELECT 2")
            try:
                pipeline.sync()
                raise AssertionError("the error of a pipeline was lost")
            except psycopg.errors.DivisionByZero:
                pass
            assert good.fetchone() == (1,)
            for cursor in bad, after:
                try:
                    cursor.fetchone()
                    raise AssertionError("a statement that failed has a row")
                except psycopg.Error:
                    pass
            assert conn.execute("SELECT 3").fetchone() == (3,)


def copies():
    with psycopg.connect(URL) as conn:
        with conn.cursor() as cursor:
            with cursor.copy("COPY items (id, label) FROM STDIN") as copy:
                for number in range(1000, 2000):
                    copy.write_row((number, f"tab\there {number}" if number % 2 else None))
            assert cursor.rowcount == 1000
        assert conn.execute("SELECT count(*), count(label) FROM items WHERE id >= 1000").fetchone() == (1000, 500)
        conn.commit()
        try:
            with conn.cursor().copy("COPY items (id, n) FROM STDIN") as copy:
                copy.write_row((2000, 1))
                copy.write("2001\tnot a number\n")
            raise AssertionError("a wrong row was copied")
        except psycopg.errors.InvalidTextRepresentation:
            conn.rollback()
        try:
            with conn.cursor().copy("COPY items (id, n) FROM STDIN") as copy:
                copy.write_row((2000, 1))
                raise KeyError("the application gives up")
        except KeyError:
            conn.rollback()
        assert conn.execute("SELECT count(*) FROM items WHERE id >= 2000").fetchone() == (0,)
        with conn.cursor().copy("COPY (SELECT id, label FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT") as copy:
            rows = list(copy.rows())
        assert len(rows) == 1000 and rows[1] == ("1001", "tab\there 1001") and rows[0] == ("1000", None)
        if N_SHARDS == 1:
            with conn.cursor().copy("COPY items (id, n) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "int4"])
                copy.write_row((2000, 5))
            with conn.cursor().copy("COPY (SELECT id, n FROM items WHERE id = 2000) TO STDOUT (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "int4"])
                assert list(copy.rows()) == [(2000, 5)]
        conn.execute("DELETE FROM items WHERE id = 2000")


def notifications_come():
    with psycopg.connect(URL, autocommit=True) as listener, psycopg.connect(URL, autocommit=True) as other:
        listener.execute("LISTEN till")
        other.execute("NOTIFY till, 'open'")
        (notification,) = listener.notifies(timeout=30, stop_after=1)
        assert (notification.channel, notification.payload) == ("till", "open")
        # While it listens it goes on as before.
        assert listener.execute("SELECT 1").fetchone() == (1,)
        listener.execute("UNLISTEN *")


def cursors_read_in_steps():
    with psycopg.connect(URL) as conn:
        conn.cursor().executemany("INSERT INTO items (id, n) VALUES (%s, %s)", [(n, n % 7) for n in range(5000, 5130)])
        conn.commit()
        with conn.cursor(name="steps") as cursor:
            cursor.itersize = 50
            cursor.execute("SELECT n FROM generate_series(1, %s) AS n", [130])
            assert [row[0] for row in cursor] == list(range(1, 131))
        for binary in (False, True):
            with conn.cursor(name="steps", binary=binary) as cursor:
                cursor.itersize = 50
                cursor.execute("SELECT id, n FROM items WHERE id >= %s ORDER BY id", [5000])
                assert [column.name for column in cursor.description] == ["id", "n"]
                assert conn.execute("SELECT count(*) FROM items WHERE id >= 5000").fetchone() == (130,)
                assert [row[0] for row in cursor] == list(range(5000, 5130))
        with conn.cursor(name="scrolled", scrollable=True) as cursor:
            cursor.execute("SELECT id, sum(n) OVER (ORDER BY id) FROM items WHERE id >= 5000 ORDER BY id")
            assert cursor.fetchmany(3) == [(5000, 2), (5001, 5), (5002, 9)]
            cursor.scroll(-2)
            assert cursor.fetchone() == (5001, 5)
            cursor.scroll(129, mode="absolute")
            assert cursor.fetchall()[0][0] == 5129
            cursor.scroll(0, mode="absolute")
            assert cursor.fetchone() == (5000, 2)
        with conn.cursor(name="forward", scrollable=False) as cursor:
            cursor.execute("SELECT n, count(*) FROM items WHERE id >= 5000 GROUP BY n ORDER BY n")
            assert cursor.fetchmany(2) == [(0, 18), (1, 18)]
            try:
                cursor.scroll(-1)
                raise AssertionError("went back")
            except psycopg.errors.ObjectNotInPrerequisiteState:
                conn.rollback()
        # Without a transaction: WITH HOLD.
        conn.commit()
        with conn.cursor(name="held", withhold=True) as cursor:
            cursor.execute("SELECT id FROM items WHERE id >= 5000 ORDER BY id")
            conn.commit()
            assert len(cursor.fetchmany(4)) == 4
            conn.execute("DELETE FROM items WHERE id = 5005")
            conn.commit()
            assert [row[0] for row in cursor.fetchmany(3)] == [5004, 5005, 5006]
            assert len(cursor.fetchall()) == 123
        conn.cursor().executemany("DELETE FROM items WHERE id = %s", [(n,) for n in range(5000, 5130)])


def cancel_and_timeout():
    with psycopg.connect(URL, autocommit=True) as conn:
        # Cancelled again and again until it takes: the first may come before the statement.
        done = threading.Event()

        def cancel():
            while not done.wait(0.05):
                conn.cancel_safe()

        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            conn.execute("SELECT pg_sleep(60)")
            raise AssertionError("the statement was not cancelled")
        except psycopg.errors.QueryCanceled as error:
            assert error.sqlstate == "57014"
        finally:
            done.set()
            thread.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)
        conn.execute("SET statement_timeout = '50ms'")
        try:
            conn.execute("SELECT pg_sleep(60)")
            raise AssertionError("the statement did not time out")
        except psycopg.errors.QueryCanceled:
            pass
        conn.execute("RESET statement_timeout")


def two_clients_at_once():
    failures = []

    def work(worker):
        try:
            with psycopg.connect(URL) as conn:
                for step in range(50):
                    assert conn.execute("SELECT %s::text", [f"{worker}/{step}"]).fetchone() == (f"{worker}/{step}",)
                    conn.execute("UPDATE items SET n = %s WHERE id = %s", [step, 100 + worker])
                    conn.commit()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[worker]) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    with psycopg.connect(URL) as conn:
        assert conn.execute("SELECT count(*) FROM items WHERE id BETWEEN 100 AND 107 AND n = 49").fetchone() == (8,)


def servers_restart():
    with psycopg.connect(URL, autocommit=True) as conn:
        for _ in range(7):
            assert conn.execute("SELECT label FROM items WHERE id = %s", [1]).fetchone() == ("outer",)
        restart_servers()

        def attempt():
            assert conn.execute("SELECT label FROM items WHERE id = %s", [1]).fetchone() == ("outer",)
            assert conn.execute("SELECT count(*) FROM items WHERE id < 4").fetchone() == (3,)

        after_at_most_one_error(attempt, psycopg.Error)


# A notification goes through one server.
listening = [notifications_come] if N_SHARDS == 1 else []
run(
    connects_with_its_defaults,
    startup_options_are_kept,
    schema_is_made,
    types_go_both_ways,
    an_enum_is_registered,
    statements_are_prepared_after_some_runs,
    a_prepared_statement_outlives_a_change_of_its_table,
    many_rows_are_inserted,
    transactions_and_savepoints,
    errors_have_their_sqlstate,
    pipelines,
    copies,
    cursors_read_in_steps,
    *listening,
    cancel_and_timeout,
    two_clients_at_once,
    servers_restart,
)
