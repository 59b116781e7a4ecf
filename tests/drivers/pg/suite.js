// node-postgres as an application uses it, with its defaults.
'use strict'
const assert = require('node:assert/strict')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const pg = require('pg')
const Cursor = require('pg-cursor')
const copyStreams = require('pg-copy-streams')
const { url, nShards, restartServers, run } = require('../checks')

async function withClient(work, options = {}) {
  const client = new pg.Client({ connectionString: url, ...options })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function value(client, text, values) {
  const result = await client.query(text, values)
  return Object.values(result.rows[0])[0]
}

async function connectsWithItsDefaults() {
  await withClient(async (client) => {
    assert.equal(await value(client, 'SELECT current_database()'), 'shop')
    assert.ok(client.processID > 0 && client.secretKey !== null)
  })
  await withClient(
    async (client) => {
      for (let n = 0; n < 3; n++) {
        assert.equal(await value(client, 'SHOW application_name'), 'till 7')
        assert.equal(await value(client, 'SHOW statement_timeout'), '54321ms')
      }
    },
    { application_name: 'till 7', statement_timeout: 54321 },
  )
  const wrong = new pg.Client({ connectionString: url.replace('secret', 'wrong') })
  await assert.rejects(wrong.connect(), { code: '28P01' })
}

async function schemaIsMade() {
  await withClient(async (client) => {
    const results = await client.query(`DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')`)
    assert.equal(results.length, 3)
    await client.query(`CREATE TABLE items (
      id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, label text, raw bytea, flag boolean, day date,
      at timestamptz, span interval, token uuid, doc json, attrs jsonb, tags text[], scores integer[], addr inet, feeling mood)`)
  })
}

const VALUES = {
  small: -7,
  n: 2147483647,
  amount: '12345678901234567890.000100',
  ratio: 0.1,
  label: 'Zoë, 名前, 🐘, it\'s \\ "quoted"',
  raw: Buffer.from(Array.from({ length: 256 }, (_, n) => n)),
  flag: true,
  day: new Date(1999, 11, 31),
  at: new Date('2024-02-29T12:00:00.654Z'),
  span: '3 days 04:00:05',
  token: '0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b',
  doc: { a: [1, null, 'ü'] },
  attrs: { nested: { deep: true } },
  tags: ['a', 'b,c', null, ''],
  scores: [1, 2, 3],
  addr: '10.1.2.3',
  feeling: 'happy',
}

async function typesGoBothWays() {
  const columns = Object.keys(VALUES)
  const insert = `INSERT INTO items (id, ${columns}) VALUES ($1, ${columns.map((_, idx) => `$${idx + 2}`)})`
  await withClient(async (client) => {
    for (let id = 1; id <= 8; id++) {
      const inserted = await client.query(insert, [id, ...Object.values(VALUES)])
      assert.equal(inserted.command, 'INSERT')
      assert.equal(inserted.rowCount, 1)
      const row = (await client.query(`SELECT ${columns} FROM items WHERE id = $1`, [id])).rows[0]
      row.span = `${row.span.days} days 0${row.span.hours}:00:0${row.span.seconds}`
      assert.deepEqual(row, VALUES)
    }
    await client.query(insert, [9, ...columns.map(() => null)])
    const row = (await client.query(`SELECT ${columns} FROM items WHERE id = 9`)).rows[0]
    assert.ok(Object.values(row).every((field) => field === null))
    const arrays = await client.query({ text: 'SELECT id, n FROM items WHERE id < 4 ORDER BY id', rowMode: 'array' })
    assert.deepEqual(arrays.rows, [1, 2, 3].map((id) => [String(id), VALUES.n]))
    const names = new Set((await client.query('SELECT feeling, label FROM items')).fields.map((field) => field.name))
    assert.deepEqual([...names], ['feeling', 'label'])
  })
}

async function namedStatements() {
  await withClient((client) =>
    withClient(async (other) => {
      for (let n = 0; n < 20; n++) {
        // The other client holds the server connection that the statement was prepared on.
        await other.query('BEGIN')
        await other.query({ name: 'by-id', text: 'SELECT label FROM items WHERE id = $1', values: [1] })
        const row = (await client.query({ name: 'by-id', text: 'SELECT id FROM items WHERE id = $1', values: [(n % 8) + 1] })).rows[0]
        assert.deepEqual(row, { id: String((n % 8) + 1) })
        await other.query('COMMIT')
      }
      // Many queries are queued in the client, one after the other.
      const all = await Promise.all(Array.from({ length: 50 }, (_, n) => value(client, 'SELECT $1::int * 2 AS d', [n])))
      assert.deepEqual(all, Array.from({ length: 50 }, (_, n) => n * 2))
    }),
  )
}

async function transactionsAndSavepoints() {
  await withClient(async (client) => {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await client.query("UPDATE items SET label = 'outer' WHERE id = $1", [1])
    await client.query('SAVEPOINT inside')
    await client.query("UPDATE items SET label = 'inner' WHERE id = $1", [1])
    await assert.rejects(client.query('INSERT INTO items (id) VALUES (1)'), { code: '23505', constraint: 'items_pkey' })
    await assert.rejects(client.query('SELECT 1'), { code: '25P02' })
    await client.query('ROLLBACK TO SAVEPOINT inside')
    await client.query('UPDATE items SET n = 5 WHERE id = 2')
    await client.query('COMMIT')
    assert.equal(await value(client, 'SELECT label FROM items WHERE id = 1'), 'outer')
    assert.equal(await value(client, 'SELECT n FROM items WHERE id = 2'), 5)
  })
}

async function errorsHaveTheirSqlstate() {
  await withClient(async (client) => {
    for (const [text, code] of [
      ['SELECT 1/0', '22012'],
      ['SELECT * FROM nothing_here', '42P01'],
      ['SELEC 1', '42601'],
      ['INSERT INTO items (id) VALUES (1)', '23505'],
    ]) {
      await assert.rejects(client.query(text), { code, severity: 'ERROR' })
      await assert.rejects(client.query({ text, values: [] }), { code })
      assert.equal(await value(client, 'SELECT 1'), 1)
    }
    await assert.rejects(client.query('SELECT $1::int', ['no number']), { code: '22P02' })
    assert.equal(await value(client, 'SELECT 1'), 1)
  })
}

async function copies() {
  await withClient(async (client) => {
    const lines = Array.from({ length: 1000 }, (_, n) => `${1000 + n}\tlabel ${n}\n`)
    await pipeline(Readable.from(lines), client.query(copyStreams.from('COPY items (id, label) FROM STDIN')))
    assert.equal(await value(client, 'SELECT count(*) FROM items WHERE id >= 1000'), '1000')
    await assert.rejects(pipeline(Readable.from(['1\n']), client.query(copyStreams.from('COPY items (id) FROM STDIN'))), { code: '23505' })
    assert.equal(await value(client, 'SELECT 1'), 1)
    if (nShards === 1) {
      const out = client.query(copyStreams.to('COPY (SELECT id, label FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT'))
      const chunks = []
      for await (const chunk of out) chunks.push(chunk)
      assert.equal(Buffer.concat(chunks).toString(), lines.join(''))
    }
  })
}

async function cursorsReadInSteps() {
  await withClient(async (client) => {
    await client.query('BEGIN')
    const cursor = client.query(new Cursor('SELECT n FROM generate_series(1, $1::int) AS n', [130]))
    const sizes = []
    for (;;) {
      const rows = await cursor.read(50)
      sizes.push(rows.length)
      if (rows.length === 0) break
    }
    assert.deepEqual(sizes, [50, 50, 30, 0])
    await cursor.close()
    await client.query('COMMIT')
    // Without a transaction, and closed before its end.
    const early = client.query(new Cursor('SELECT n FROM generate_series(1, 100000) AS n'))
    assert.equal((await early.read(10)).length, 10)
    await early.close()
    assert.equal(await value(client, 'SELECT 1'), 1)
  })
}

async function notificationsCome() {
  await withClient((listener) =>
    withClient(async (other) => {
      const heard = new Promise((resolve) => listener.on('notification', resolve))
      await listener.query('LISTEN till')
      await other.query("SELECT pg_notify('till', $1)", ['open'])
      const notification = await heard
      assert.equal(notification.payload, 'open')
      await listener.query('UNLISTEN till')
    }),
  )
}

async function cancelAndTimeout() {
  await withClient((client) =>
    withClient(async (other) => {
      const sleep = assert.rejects(client.query('SELECT pg_sleep(60)'), { code: '57014' })
      let isOver = false
      sleep.finally(() => (isOver = true))
      while (!isOver) {
        // As the driver's users do it: a connection of its own with the key of the first.
        const cancel = new pg.Client(url)
        cancel.connection.on('connect', () => cancel.connection.cancel(client.processID, client.secretKey))
        cancel.connection.on('error', () => {})
        cancel.connection.connect(cancel.port, cancel.host)
        await new Promise((resolve) => cancel.connection.on('end', resolve))
        await value(other, 'SELECT 1')
      }
      await sleep
      assert.equal(await value(client, 'SELECT 1'), 1)
      await client.query("SET statement_timeout = '50ms'")
      await assert.rejects(client.query('SELECT pg_sleep(60)'), { code: '57014' })
    }),
  )
}

async function aPoolOfClients() {
  const pool = new pg.Pool({ connectionString: url, max: 10 })
  await Promise.all(
    Array.from({ length: 16 }, async (_, worker) => {
      for (let step = 0; step < 20; step++) {
        assert.equal(await value(pool, 'SELECT $1::text AS own', [`${worker}/${step}`]), `${worker}/${step}`)
        await pool.query('UPDATE items SET n = $1 WHERE id = $2', [step, 1000 + worker])
      }
    }),
  )
  assert.equal(await value(pool, 'SELECT count(*) FROM items WHERE id BETWEEN 1000 AND 1015 AND n = 19'), '16')
  await pool.end()
}

async function serversRestart() {
  await withClient(async (client) => {
    const query = { name: 'label', text: 'SELECT label FROM items WHERE id = $1', values: [1] }
    assert.equal((await client.query(query)).rows[0].label, 'outer')
    restartServers()
    const again = await client.query(query).catch(() => client.query(query))
    assert.equal(again.rows[0].label, 'outer')
    assert.equal(await value(client, 'SELECT count(*) FROM items WHERE id < 10'), '9')
  })
}

run(
  connectsWithItsDefaults,
  schemaIsMade,
  typesGoBothWays,
  namedStatements,
  transactionsAndSavepoints,
  errorsHaveTheirSqlstate,
  copies,
  cursorsReadInSteps,
  // A notification goes through one server.
  ...(nShards === 1 ? [notificationsCome] : []),
  cancelAndTimeout,
  aPoolOfClients,
  serversRestart,
)
