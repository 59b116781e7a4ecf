// postgres.js as an application uses it, with its defaults: every query is prepared, and many are in flight at once.
'use strict'
const assert = require('node:assert/strict')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const postgres = require('postgres')
const { url, nShards, restartServers, run } = require('../checks')

const sql = postgres(url, { onnotice: () => {} })

async function connectsWithItsDefaults() {
  const [row] = await sql`SELECT current_database() AS name, version() AS version`
  assert.equal(row.name, 'shop')
  const till = postgres(url, { max: 1, connection: { application_name: 'till 7', statement_timeout: 54321 } })
  for (let n = 0; n < 3; n++) {
    assert.deepEqual([...(await till`SHOW statement_timeout`)], [{ statement_timeout: '54321ms' }])
    assert.deepEqual([...(await till`SHOW application_name`)], [{ application_name: 'till 7' }])
  }
  await till.end()
}

async function schemaIsMade() {
  await sql.unsafe("DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')")
  await sql`CREATE TABLE items (
    id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, label text, raw bytea, flag boolean, day date,
    at timestamptz, span interval, token uuid, doc json, attrs jsonb, tags text[], scores integer[], addr inet, feeling mood)`
}

const VALUES = {
  small: -7,
  n: 2147483647,
  amount: '12345678901234567890.000100',
  ratio: 0.1,
  label: 'Zoë, 名前, 🐘, it\'s \\ "quoted"',
  raw: Buffer.from(Array.from({ length: 256 }, (_, n) => n)),
  flag: true,
  day: new Date('1999-12-31T00:00:00Z'),
  at: new Date('2024-02-29T12:00:00.654Z'),
  span: '3 days 04:00:05',
  token: '0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b',
  doc: { a: [1, null, 'ü'] },
  attrs: { nested: { deep: true } },
  tags: ['a', 'b,c', ''],
  scores: [1, 2, 3],
  addr: '10.1.2.3',
  feeling: 'happy',
}

async function typesGoBothWays() {
  const columns = Object.keys(VALUES)
  for (let id = 1; id <= 8; id++) {
    const inserted = await sql`INSERT INTO items ${sql({ id, ...VALUES })}`
    assert.equal(inserted.count, 1)
    const [row] = await sql`SELECT ${sql(columns)} FROM items WHERE id = ${id}`
    assert.deepEqual({ ...row }, VALUES)
  }
  await sql`INSERT INTO items ${sql({ id: 9, ...Object.fromEntries(columns.map((column) => [column, null])) })}`
  const [row] = await sql`SELECT ${sql(columns)} FROM items WHERE id = 9`
  assert.ok(Object.values(row).every((field) => field === null))
  const description = await sql`SELECT id, feeling FROM items WHERE id = ${1}`.describe()
  assert.deepEqual(description.columns.map((column) => column.name), ['id', 'feeling'])
  assert.deepEqual(description.types, [20])
  assert.deepEqual([...(await sql`SELECT id, n FROM items WHERE id < 4 ORDER BY id`.values())], [1, 2, 3].map((id) => [String(id), VALUES.n]))
}

async function manyRowsAreInserted() {
  const rows = Array.from({ length: 300 }, (_, n) => ({ id: 100 + n, label: `label ${n}` }))
  await sql`INSERT INTO items ${sql(rows)}`
  assert.equal((await sql`SELECT count(*) AS n FROM items WHERE id >= 100`)[0].n, '300')
  const ids = await sql`SELECT id FROM items WHERE id >= ${100} ORDER BY id LIMIT ${7} OFFSET ${5}`
  assert.deepEqual(ids.map((row) => Number(row.id)), [105, 106, 107, 108, 109, 110, 111])
}

async function manyQueriesInFlight() {
  const single = postgres(url, { max: 1 })
  const all = await Promise.all(Array.from({ length: 200 }, (_, n) => single`SELECT ${n}::int * 2 AS d, ${n % 3 ? 'a' : 'b'}::text AS t`))
  assert.deepEqual(all.map(([row]) => row.d), Array.from({ length: 200 }, (_, n) => n * 2))
  // One of them fails, the others do not.
  const mixed = await Promise.allSettled(Array.from({ length: 20 }, (_, n) => single`SELECT 1 / ${n % 10}::int AS q`))
  assert.deepEqual(mixed.map((one) => one.status === 'rejected'), Array.from({ length: 20 }, (_, n) => n % 10 === 0))
  assert.equal(mixed[0].reason.code, '22012')
  await single.end()
}

async function transactionsAndSavepoints() {
  await sql.begin('ISOLATION LEVEL REPEATABLE READ', async (tx) => {
    await tx`UPDATE items SET label = 'outer' WHERE id = ${1}`
    const failure = tx.savepoint(async (inner) => {
      await inner`UPDATE items SET label = 'inner' WHERE id = ${1}`
      await inner`INSERT INTO items (id) VALUES (1)`
    })
    await assert.rejects(failure, { code: '23505', constraint_name: 'items_pkey' })
    await tx`UPDATE items SET n = 5 WHERE id = ${2}`
  })
  assert.equal((await sql`SELECT label FROM items WHERE id = 1`)[0].label, 'outer')
  assert.equal((await sql`SELECT n FROM items WHERE id = 2`)[0].n, 5)
  // All statements of a transaction at once.
  const [first, second] = await sql.begin((tx) => [tx`SELECT 1 AS x`, tx`SELECT 2 AS x`])
  assert.deepEqual([first[0].x, second[0].x], [1, 2])
  await assert.rejects(sql.begin(async (tx) => tx`SELECT 1/0`), { code: '22012' })
}

async function errorsHaveTheirSqlstate() {
  for (const [text, code] of [
    ['SELECT 1/0', '22012'],
    ['SELECT * FROM nothing_here', '42P01'],
    ['SELEC 1', '42601'],
    ['INSERT INTO items (id) VALUES (1)', '23505'],
  ]) {
    await assert.rejects(sql.unsafe(text), { code, severity: 'ERROR' })
    await assert.rejects(sql.unsafe(text, [], { prepare: true }), { code })
    assert.equal((await sql`SELECT 1 AS x`)[0].x, 1)
  }
}

async function copies() {
  const lines = Array.from({ length: 1000 }, (_, n) => `${1000 + n}\tlabel ${n}\n`)
  await pipeline(Readable.from(lines), await sql`COPY items (id, label) FROM STDIN`.writable())
  assert.equal((await sql`SELECT count(*) AS n FROM items WHERE id >= 1000`)[0].n, '1000')
  if (nShards === 1) {
    const chunks = []
    for await (const chunk of await sql`COPY (SELECT id, label FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT`.readable()) chunks.push(chunk)
    assert.equal(Buffer.concat(chunks).toString(), lines.join(''))
  }
}

async function cursorsReadInSteps() {
  const sizes = []
  await sql`SELECT n FROM generate_series(1, 130) AS n`.cursor(50, (rows) => {
    sizes.push(rows.length)
  })
  assert.deepEqual(sizes, [50, 50, 30])
  for await (const rows of sql`SELECT n FROM generate_series(1, 100000) AS n`.cursor(10)) {
    assert.equal(rows.length, 10)
    break
  }
  const rows = []
  await sql`SELECT n FROM generate_series(1, 100) AS n`.forEach((row) => rows.push(row.n))
  assert.equal(rows.length, 100)
}

async function notificationsCome() {
  let tell
  const heard = new Promise((resolve) => (tell = resolve))
  const listening = await sql.listen('till', tell)
  await sql.notify('till', 'open')
  assert.equal(await heard, 'open')
  await listening.unlisten()
}

async function aQueryIsCancelled() {
  const query = sql`SELECT pg_sleep(60)`.execute()
  const failure = assert.rejects(query, { code: '57014' })
  let isOver = false
  failure.finally(() => (isOver = true))
  while (!isOver) {
    await new Promise((resolve) => setTimeout(resolve, 50))
    query.cancel()
  }
  await failure
  assert.equal((await sql`SELECT 1 AS x`)[0].x, 1)
}

async function manyClientsAtOnce() {
  await Promise.all(
    Array.from({ length: 16 }, async (_, worker) => {
      for (let step = 0; step < 20; step++) {
        const own = `${worker}/${step}`
        assert.equal((await sql`SELECT ${own}::text AS own`)[0].own, own)
        await sql`UPDATE items SET n = ${step} WHERE id = ${1000 + worker}`
      }
    }),
  )
  assert.equal((await sql`SELECT count(*) AS n FROM items WHERE id BETWEEN 1000 AND 1015 AND n = 19`)[0].n, '16')
}

async function serversRestart() {
  const single = postgres(url, { max: 1 })
  const label = async () => (await single`SELECT label FROM items WHERE id = ${1}`)[0].label
  assert.equal(await label(), 'outer')
  restartServers()
  assert.equal(await label().catch(label), 'outer')
  assert.equal((await single`SELECT count(*) AS n FROM items WHERE id < 10`)[0].n, '9')
  await single.end()
}

run(
  connectsWithItsDefaults,
  schemaIsMade,
  typesGoBothWays,
  manyRowsAreInserted,
  manyQueriesInFlight,
  transactionsAndSavepoints,
  errorsHaveTheirSqlstate,
  copies,
  cursorsReadInSteps,
  // A notification goes through one server.
  ...(nShards === 1 ? [notificationsCome] : []),
  aQueryIsCancelled,
  manyClientsAtOnce,
  serversRestart,
)
