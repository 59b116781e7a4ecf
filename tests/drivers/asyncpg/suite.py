"""asyncpg as an application uses it, with its defaults: every query is a prepared statement, types are looked up by OID."""

import asyncio
import json
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_interface

import asyncpg

from checks import N_SHARDS, URL, restart_servers, run_async


async def connects_with_its_defaults():
    conn = await asyncpg.connect(URL)
    assert conn.get_server_version().major >= 14
    assert conn.get_settings().client_encoding == "UTF8"
    assert await conn.fetchval("SELECT current_database()") == "shop"
    assert not conn.is_in_transaction()
    await conn.close()


async def settings_of_the_startup_are_kept():
    conn = await asyncpg.connect(URL, server_settings={"application_name": "till 7", "statement_timeout": "54321"})
    for _ in range(3):
        assert await conn.fetchval("SHOW application_name") == "till 7"
        assert await conn.fetchval("SHOW statement_timeout") == "54321ms"
    await conn.execute("SET statement_timeout = 0")
    # What a pool of asyncpg does before it lends a connection again.
    await conn.reset()
    assert await conn.fetchval("SHOW statement_timeout") == "54321ms"
    await conn.close()


async def schema_is_made():
    conn = await asyncpg.connect(URL)
    await conn.execute("DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; DROP DOMAIN IF EXISTS short")
    await conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    await conn.execute("CREATE DOMAIN short AS text CHECK (length(VALUE) < 10)")
    await conn.execute(
        """CREATE TABLE items (
            id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, label text, raw bytea, flag boolean,
            day date, clock time, seen timestamp, at timestamptz, span interval, token uuid, doc json, attrs jsonb,
            tags text[], scores integer[], addr inet, feeling mood, feelings mood[], brief short)"""
    )
    await conn.close()


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
    "doc": json.dumps({"a": [1, None, "ü"]}),
    "attrs": json.dumps({"nested": {"deep": True}}),
    "tags": ["a", "b,c", None, ""],
    "scores": [1, 2, 3],
    "addr": ip_interface("10.1.2.0/24"),
    # The driver looks up their OIDs.
    "brief": "brief",
    "feeling": "happy",
    "feelings": ["sad", "happy"],
}


async def types_go_both_ways():
    columns = ", ".join(VALUES)
    marks = ", ".join(f"${number}" for number in range(2, len(VALUES) + 2))
    conn = await asyncpg.connect(URL)
    # Keys on several shards: each of them has to know the types.
    for number in range(1, 9):
        await conn.execute(f"INSERT INTO items (id, {columns}) VALUES ($1, {marks})", number, *VALUES.values())
        row = dict(await conn.fetchrow(f"SELECT {columns} FROM items WHERE id = $1", number))
        assert row == VALUES, row
    for row in await conn.fetch(f"SELECT {columns} FROM items ORDER BY id"):
        assert dict(row) == VALUES, row
    await conn.execute(f"INSERT INTO items (id, {columns}) VALUES ($1, {marks})", 9, *[None] * len(VALUES))
    assert set(await conn.fetchrow(f"SELECT {columns} FROM items WHERE id = 9")) == {None}
    await conn.close()


async def codecs_are_set():
    conn = await asyncpg.connect(URL)
    await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    assert await conn.fetchval("SELECT attrs FROM items WHERE id = 1") == {"nested": {"deep": True}}
    assert await conn.fetchval("SELECT ROW(1, 'x'::text, NULL::int)") == (1, "x", None)
    assert await conn.fetchval("SELECT '[3,7)'::int4range") == asyncpg.Range(3, 7)
    await conn.close()


async def statements_are_prepared():
    conn, other = await asyncpg.connect(URL), await asyncpg.connect(URL)
    statement = await conn.prepare("SELECT id, label FROM items WHERE id = $1")
    assert [parameter.name for parameter in statement.get_parameters()] == ["int8"]
    assert [(column.name, column.type.name) for column in statement.get_attributes()] == [("id", "int8"), ("label", "text")]
    for number in range(20):
        # The other client holds the server connection that the statement was prepared on.
        transaction = other.transaction()
        await transaction.start()
        await other.fetchval("SELECT $1::int", number)
        assert await statement.fetchval(number % 8 + 1) == number % 8 + 1
        await transaction.rollback()
    await conn.close()
    await other.close()


async def a_statement_outlives_a_change_of_its_table():
    conn, other = await asyncpg.connect(URL), await asyncpg.connect(URL)
    await conn.execute("DROP TABLE IF EXISTS authors; CREATE TABLE authors (author_id bigint PRIMARY KEY, name text)")
    await conn.execute("INSERT INTO authors VALUES (1, 'Ann')")
    assert tuple(await conn.fetchrow("SELECT * FROM authors WHERE author_id = $1", 1)) == (1, "Ann")
    await other.execute("ALTER TABLE authors ADD COLUMN born date")
    # The driver sees "cached plan must not change result type" and prepares anew.
    assert tuple(await conn.fetchrow("SELECT * FROM authors WHERE author_id = $1", 1)) == (1, "Ann", None)
    await conn.close()
    await other.close()


async def many_rows_are_inserted():
    conn = await asyncpg.connect(URL)
    await conn.executemany("INSERT INTO items (id, label) VALUES ($1, $2)", [(n, f"label {n}") for n in range(100, 400)])
    assert tuple(await conn.fetchrow("SELECT count(*), sum(id) FROM items WHERE id >= 100")) == (300, sum(range(100, 400)))
    rows = await conn.fetch("SELECT id FROM items WHERE id >= $1 ORDER BY id LIMIT 7 OFFSET 5", 100)
    assert [row["id"] for row in rows] == list(range(105, 112))
    assert await conn.execute("UPDATE items SET n = 3 WHERE id = ANY($1::bigint[]) AND id = 105", [105]) == "UPDATE 1"
    await conn.close()


async def transactions_and_savepoints():
    conn = await asyncpg.connect(URL)
    async with conn.transaction(isolation="repeatable_read"):
        await conn.execute("UPDATE items SET label = 'outer' WHERE id = 1")
        try:
            async with conn.transaction():
                await conn.execute("UPDATE items SET label = 'inner' WHERE id = 1")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        async with conn.transaction():
            await conn.execute("UPDATE items SET n = 5 WHERE id = 2")
        assert await conn.fetchval("SHOW transaction_isolation") == "repeatable read"
    assert await conn.fetchval("SELECT label FROM items WHERE id = 1") == "outer"
    assert await conn.fetchval("SELECT n FROM items WHERE id = 2") == 5
    await conn.close()


async def errors_have_their_sqlstate():
    cases = [
        ("INSERT INTO items (id) VALUES (1)", asyncpg.UniqueViolationError, "23505"),
        ("SELECT 1/0", asyncpg.DivisionByZeroError, "22012"),
        ("SELECT * FROM nothing_here", asyncpg.UndefinedTableError, "42P01"),
        ("SELEC 1", asyncpg.PostgresSyntaxError, "42601"),
        ("SELECT no_column FROM items WHERE id = 1", asyncpg.UndefinedColumnError, "42703"),
    ]
    conn = await asyncpg.connect(URL)
    for sql, kind, sqlstate in cases:
        for ask in conn.execute, conn.fetch:
            try:
                await ask(sql)
                raise AssertionError(f"{sql} succeeded")
            except kind as error:
                assert error.sqlstate == sqlstate
            assert await conn.fetchval("SELECT 1") == 1
        try:
            async with conn.transaction():
                await conn.fetch(sql)
        except kind:
            pass
        assert await conn.fetchval("SELECT 1") == 1
    try:
        await conn.fetchval("SELECT $1::int", "no number")
        raise AssertionError("a text went as a number")
    except asyncpg.DataError:
        pass
    assert await conn.fetchval("SELECT 1") == 1
    await conn.close()


async def cursors_read_in_steps():
    conn = await asyncpg.connect(URL)
    async with conn.transaction():
        seen = [row[0] async for row in conn.cursor("SELECT n FROM generate_series(1, 130) AS n", prefetch=50)]
        assert seen == list(range(1, 131))
        cursor = await conn.cursor("SELECT id FROM items WHERE id = $1", 1)
        assert await cursor.fetchrow() == (1,)
        assert await cursor.fetchrow() is None
    await conn.close()


async def notifications_come():
    listener, other = await asyncpg.connect(URL), await asyncpg.connect(URL)
    heard = asyncio.Queue()
    await listener.add_listener("till", lambda *notification: heard.put_nowait(notification))
    await other.execute("SELECT pg_notify('till', 'open')")
    _, _, channel, payload = await asyncio.wait_for(heard.get(), 30)
    assert (channel, payload) == ("till", "open")
    await listener.reset()
    await listener.close()
    await other.close()


async def cancel_and_timeout():
    conn = await asyncpg.connect(URL)
    # The driver cancels the statement at the server when the time is over.
    try:
        await conn.fetchval("SELECT pg_sleep(60)", timeout=0.2)
        raise AssertionError("the statement did not time out")
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("SELECT 1") == 1
    task = asyncio.create_task(conn.fetchval("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
        raise AssertionError("the task was not cancelled")
    except asyncio.CancelledError:
        pass
    assert await conn.fetchval("SELECT 2") == 2
    await conn.execute("SET statement_timeout = '50ms'")
    try:
        await conn.execute("SELECT pg_sleep(60)")
        raise AssertionError("the statement did not time out")
    except asyncpg.QueryCanceledError as error:
        assert error.sqlstate == "57014"
    await conn.close()


async def a_pool_of_clients():
    async def work(pool, worker):
        for step in range(30):
            async with pool.acquire() as conn:
                assert await conn.fetchval("SELECT $1::text", f"{worker}/{step}") == f"{worker}/{step}"
                await conn.execute("UPDATE items SET n = $1 WHERE id = $2", step, 100 + worker)

    async with asyncpg.create_pool(URL, min_size=4, max_size=8) as pool:
        await asyncio.gather(*[work(pool, worker) for worker in range(16)])
        assert await pool.fetchval("SELECT count(*) FROM items WHERE id BETWEEN 100 AND 115 AND n = 29") == 16


async def servers_restart():
    conn = await asyncpg.connect(URL)
    query = "SELECT label FROM items WHERE id = $1"
    assert await conn.fetchval(query, 1) == "outer"
    restart_servers()
    try:
        label = await conn.fetchval(query, 1)
    except asyncpg.PostgresError:
        label = await conn.fetchval(query, 1)
    assert label == "outer"
    assert await conn.fetchval("SELECT count(*) FROM items WHERE id < 10") == 9
    await conn.close()


# A notification goes through one server.
of_one_shard = [notifications_come] if N_SHARDS == 1 else []
asyncio.run(
    run_async(
        connects_with_its_defaults,
        settings_of_the_startup_are_kept,
        schema_is_made,
        types_go_both_ways,
        codecs_are_set,
        statements_are_prepared,
        a_statement_outlives_a_change_of_its_table,
        many_rows_are_inserted,
        transactions_and_savepoints,
        errors_have_their_sqlstate,
        cursors_read_in_steps,
        *of_one_shard,
        cancel_and_timeout,
        a_pool_of_clients,
        servers_restart,
    )
)
