/**
 * The feed: whoever reads it knows all that is refused and misses nothing, whatever happens meanwhile; who may not read it, or
 * does not, gets and costs nothing.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { and, eq, gt, lt } from 'drizzle-orm'
import t, { type Test } from 'tap'
import { fromSecurityEvent, type SecurityEvent } from '../src/bearer/security-events.ts'
import { migratePostgresSchema } from '../src/db/migrate.ts'
import { purge } from '../src/db/purge.ts'
import { revocationHead, revocations } from '../src/db/tables.ts'
import { deleteExpiredEntries } from '../src/revocation/expired.ts'
import { createFeed } from '../src/revocation/feed.ts'
import { record } from '../src/revocation/record.ts'
import type { Environment } from '../src/settings.ts'
import {
  createManualClock,
  embedded,
  type Instance,
  postgresAndRedis,
  randomUser,
  startInstance,
  withClient,
  withRedis,
} from './fixtures/app.ts'
import {
  bearer,
  call,
  createService,
  getProtected,
  logIn,
  logOut,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { type Block, type EventStream, openEventStream } from './fixtures/event-stream.ts'
import { eventually } from './fixtures/eventually.ts'
import { recordLiveEntries } from './fixtures/live-entries.ts'
import { startRelay } from './fixtures/relay.ts'
import { startPostgres, startRedis } from './fixtures/servers.ts'

// Each is its own world, and most of them wait for heartbeats.
t.jobs = 4

const scope = 'revocations:read'
const issuer = 'https://auth.test'
const pageSize = 500
const heartbeatMs = 2_000

/** Two instances on the same empty record, and the token of a service that may read it. */
async function world(t: Test, env: Environment = {}) {
  const stores = await postgresAndRedis(t)
  stores.env = { ...stores.env, ...env }
  const a = await startInstance(t, { stores })
  const b = await startInstance(t, { stores })
  return { stores, a, b, ...(await createService(a, scope)) }
}

const inAnHour = () => Math.floor(Date.now() / 1000) + 3600

/** Commits so many as a revocation does, without its hold. @returns their subjects */
async function commit({ app }: Instance, count: number, expiresAt = inAnHour()): Promise<string[]> {
  const subjects = Array.from({ length: count }, () => randomUUID())
  const entries = subjects.map((subject) => ({ scope: 'token' as const, subject, expiresAt }))
  await app.database.db.transaction((tx) => record(tx, entries, 'test'))
  return subjects
}

/** A backup from when the record had so many rows, and what was revoked since then in the place of the others. */
const restore = ({ app }: Instance, seq: number, since: number) =>
  app.database.db.transaction(async (tx) => {
    await tx.delete(revocations).where(gt(revocations.seq, seq))
    await tx.update(revocationHead).set({ seq })
    const entries = Array.from({ length: since }, () => ({
      scope: 'token' as const,
      subject: randomUUID(),
      expiresAt: inAnHour(),
    }))
    if (since > 0) await record(tx, entries, 'test')
  })

const path = (cursor?: string) =>
  cursor === undefined ? '/revocations' : `/revocations?cursor=${encodeURIComponent(cursor)}`

const readPage = ({ url }: Instance, token: string, cursor?: string): Promise<Reply> =>
  call(url, path(cursor), { headers: bearer(token) })

const subjectsOf = (events: SecurityEvent[]) => events.map((event) => fromSecurityEvent(event).subject)

/** Page after page, by one instance after the other, until there is no more. */
async function readToEnd(
  instances: Instance[],
  token: string,
  from?: string,
  afterPage: (reply: Reply) => Promise<unknown> = async () => {},
) {
  const subjects: string[] = []
  let cursor = from
  for (let page = 0; ; page++) {
    const reply = await readPage(instances[page % instances.length] as Instance, token, cursor)
    assert.equal(reply.status, 200)
    const { events, more_available } = reply.body
    subjects.push(...subjectsOf(events))
    cursor = reply.body.cursor as string
    if (!more_available) return { subjects, cursor }
    await afterPage(reply)
  }
}

const follow = (
  t: Test,
  { url }: Instance,
  token: string,
  { cursor, lastEventId }: { cursor?: string | undefined; lastEventId?: string | undefined } = {},
): Promise<EventStream> =>
  openEventStream(t, url + path(cursor), {
    ...bearer(token),
    ...(lastEventId && { 'last-event-id': lastEventId }),
  })

const toldIn = (blocks: Block[]) =>
  subjectsOf(blocks.flatMap(({ event, data }) => (event === 'revocation' ? [data] : [])))

/** The next so many revocations, whatever heartbeats come between. */
async function receive(stream: EventStream, count: number): Promise<Block[]> {
  const received: Block[] = []
  const deadline = performance.now() + 3 * heartbeatMs
  while (received.length < count) {
    const block = await stream.next(deadline - performance.now())
    assert.ok(block, 'the stream has ended')
    if (block.event === 'revocation') received.push(block)
  }
  return received
}

const isHeartbeat = (block: Block | undefined) => {
  const cursor = block?.id
  const told = block?.data as { elapsed_ms: number } | undefined
  return { event: 'heartbeat', id: cursor, data: { cursor, elapsed_ms: told?.elapsed_ms } }
}

/** Asks for a stream and reads nothing of it. @returns the service's end of the connection, once it can take no more */
async function takeNothing(t: Test, { app, url }: Instance, token: string): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const accepted = once(app.server, 'connection') as Promise<[Socket]>
  const reader = connect(Number(port), hostname).pause()
  t.teardown(() => reader.destroy())
  reader.on('error', () => {})
  const lines = ['GET /revocations HTTP/1.1', 'host: x', 'accept: text/event-stream']
  reader.write([...lines, `authorization: Bearer ${token}`, '', ''].join('\r\n'))
  const [socket] = await accepted
  await eventually(t, async () => socket.writableNeedDrain)
  return socket
}

// First, for it takes longest.
t.test('a reader that takes nothing is dropped, and meanwhile costs nobody anything', async (t) => {
  const stores = await postgresAndRedis(t)
  const databaseUrl = stores.env.DATABASE_URL as string
  await migratePostgresSchema(databaseUrl)
  const count = 40_000
  await recordLiveEntries(databaseUrl, count, 3_600)
  const [a, b] = [await startInstance(t, { stores }), await startInstance(t, { stores })]
  const { token } = await createService(a, scope)
  const socket = await takeNothing(t, a, token)
  const dropped = once(socket, 'close')
  const start = performance.now()

  const slow = await follow(t, a, token)
  const stream = await follow(t, a, token)
  t.equal(toldIn(await stream.until('heartbeat')).length, count, 'others have all of it')
  const last = and(gt(revocations.seq, 30_000), lt(revocations.seq, count))
  await a.app.database.db.delete(revocations).where(last)
  t.equal(
    toldIn(await slow.until('heartbeat')).length,
    30_001,
    'what one has not taken yet is not kept for it',
  )

  const { token: live } = await registerAndLogIn(a.url)
  t.equal((await getProtected(a.url, live)).status, 200)
  t.equal((await logOut(a.url, live)).status, 204)
  await receive(stream, 1)

  t.notOk(socket.destroyed)
  t.ok(socket.writableLength < 1_000_000, `${socket.writableLength} bytes are kept for it`)

  await takeNothing(t, b, token)
  const stopping = performance.now()
  await b.app.close()
  const stoppedMs = performance.now() - stopping
  t.ok(stoppedMs < 3_000, `nor does an instance that stops wait for it: ${Math.round(stoppedMs)} ms`)

  await dropped
  const tookMs = performance.now() - start
  t.ok(tookMs < 25_000, `after ${Math.round(tookMs)} ms`)
  await stream.until('heartbeat')
  t.strictSame(toldIn(await stream.until('heartbeat')), [], 'whoever reads is not')
})

for (const storesOf of [postgresAndRedis, embedded]) {
  const name = storesOf === embedded ? 'embedded' : 'on Postgres and Redis'
  t.test(`${name}, all that is refused is told as security events, page or stream`, async (t) => {
    const instance = await startInstance(t, { stores: await storesOf(t) })
    const { token } = await createService(instance, scope, 'read')
    const [jti, sid, sub, kid] = [randomUUID(), randomUUID(), randomUUID(), 'a key']
    const expires_at = inAnHour()
    await commit(instance, 2, 1)
    for (const [of, subject] of [
      ['token', jti],
      ['session', sid],
      ['generation', `${sub}:7`],
      ['key', kid],
    ] as const)
      await instance.app.revocation.revoke({
        entries: [{ scope: of, subject, expiresAt: expires_at }],
        reason: 'test',
      })
    const rows = await instance.app.database.db
      .select()
      .from(revocations)
      .where(eq(revocations.reason, 'test'))
      .orderBy(revocations.seq)
    const expected = [
      {
        sub_id: { format: 'jwt_id', iss: issuer, jti },
        events: { 'https://schemas.openid.net/secevent/oauth/event-type/token-revoked': { expires_at } },
      },
      {
        sub_id: { format: 'complex', session: { format: 'opaque', id: sid } },
        events: { 'https://schemas.openid.net/secevent/caep/event-type/session-revoked': { expires_at } },
      },
      {
        sub_id: { format: 'iss_sub', iss: issuer, sub },
        events: { 'urn:latchkey:event-type:generation-revoked': { expires_at, ver: 7 } },
      },
      {
        sub_id: { format: 'opaque', id: kid },
        events: { 'urn:latchkey:event-type:key-revoked': { expires_at } },
      },
    ].map((event, i) => {
      const { nonce, recordedAt } = rows[i + 2] as (typeof rows)[number]
      return { iss: issuer, jti: nonce, iat: Math.floor(recordedAt.getTime() / 1000), ...event }
    })

    const { status, headers, body } = await readPage(instance, token)
    t.equal(status, 200)
    t.equal(headers.get('content-type'), 'application/json; charset=utf-8')
    t.equal(headers.get('cache-control'), 'no-store')
    t.strictSame(
      body,
      { events: expected, cursor: body.cursor, more_available: true },
      'without what has expired',
    )
    const end = { events: [], cursor: body.cursor, more_available: false }
    t.strictSame((await readPage(instance, token, body.cursor)).body, end)

    const stream = await follow(t, instance, token)
    t.equal(stream.status, 200)
    t.match(stream.headers.get('content-type'), /^text\/event-stream/)
    t.equal(stream.headers.get('cache-control'), 'no-store')
    t.equal(stream.headers.get('x-accel-buffering'), 'no', 'nor is it kept by a proxy')
    const [retry, ...blocks] = await stream.until('heartbeat', heartbeatMs / 2)
    t.strictSame(retry, { retry: '500' })
    t.strictSame(
      blocks,
      [
        ...expected.map((data, i) => ({ id: blocks[i]?.id, event: 'revocation', data })),
        isHeartbeat(blocks[4]),
      ],
      'the same',
    )
    t.equal(blocks[4]?.id, body.cursor)
    t.equal(new Set(blocks.map(({ id }) => id)).size, 5, 'each has a place of its own')
    const [later] = await commit(instance, 1)
    t.strictSame(toldIn(await receive(stream, 1)), [later], 'and it goes on')
  })
}

t.test('a record without a row has a cursor too, which leads to what comes', async (t) => {
  const { a, b, token } = await world(t)
  const { body } = await readPage(a, token)
  t.strictSame(body.events, [])
  const stream = await follow(t, a, token)
  const told = await stream.until('heartbeat')
  t.strictSame(told, [{ retry: '500' }, isHeartbeat(told[1])])
  t.equal(told[1]?.id, body.cursor)
  const committed = await commit(b, 3)
  t.strictSame(toldIn(await receive(stream, 3)), committed)
  for (const instance of [a, b])
    t.strictSame((await readToEnd([instance], token, body.cursor)).subjects, committed)
})

t.test('a live set of many pages, and what is revoked meanwhile: each once, in its order', async (t) => {
  const { a, b, token } = await world(t)
  const committed = await commit(a, 2.5 * pageSize)
  const lengths: number[] = []
  const { subjects, cursor } = await readToEnd([a, b], token, undefined, async ({ body }) => {
    lengths.push(body.events.length)
    if (lengths.length <= 3) committed.push(...(await commit(a, 10)))
  })
  t.strictSame(subjects, committed)
  t.strictSame(lengths, [pageSize, pageSize, pageSize / 2])

  let last = cursor
  for (const instance of [a, b, b, a]) {
    t.strictSame((await readToEnd([instance], token, last)).subjects, [], 'nothing new')
    const fresh = await commit(b, 2)
    const next = await readToEnd([instance], token, last)
    t.strictSame(next.subjects, fresh)
    last = next.cursor
  }
  const many = await commit(b, 2 * pageSize)
  t.strictSame((await readToEnd([a, b], token, last)).subjects, many, 'as many as two pages hold')
  t.equal((await readToEnd([b], token, cursor)).subjects.length, 8 + many.length, 'an old one is good still')
})

t.test('whoever begins amid revocations misses none of them', async (t) => {
  const { a, b, token } = await world(t)
  const committed: string[] = []
  let writing = true
  const written = (async () => {
    for (let i = 0; i < 100; i++) committed.push(...(await commit(b, 1)))
    writing = false
  })()
  const beginnings: Reply[] = []
  while (writing) beginnings.push(await readPage(a, token))
  await written
  t.ok(beginnings.length > 20)
  for (const { body } of beginnings) {
    const { subjects } = await readToEnd([a], token, body.cursor)
    t.strictSame([...subjectsOf(body.events), ...subjects], committed)
  }
})

t.test(
  'a crowd that begins to follow holds up no login, whatever the record takes to answer it',
  async (t) => {
    const { stores, a, token } = await world(t)
    const user = await registerAndLogIn(a.url)
    await withClient(stores.env.DATABASE_URL as string, async (db) => {
      await db.query('begin')
      await db.query('lock table revocations in access exclusive mode')
      let waiting = 20
      const crowd = Array.from({ length: waiting }, async () => {
        const { status } = await readPage(a, token)
        waiting--
        return status
      })
      await eventually(t, async () => {
        const { rows } = await db.query('select pid from pg_locks where not granted')
        return rows.length > 0
      })
      t.ok((await logIn(a.url, user)).token)
      t.equal(waiting, 20, 'while all of them wait')
      await db.query('commit')
      t.strictSame(await Promise.all(crowd), Array(20).fill(200))
    })
  },
)

t.test('a cursor whose place the record does not hold any more is 410, as page and as stream', async (t) => {
  const { a, b, token } = await world(t)
  async function assertExpired(cursor: string, name: string) {
    for (const { url } of [a, b])
      for (const accept of ['application/json', 'text/event-stream'])
        t.strictSame(
          refusalOf(await call(url, path(cursor), { headers: { accept, ...bearer(token) } })),
          refusal('cursor_expired'),
          `${name}, as ${accept}`,
        )
  }
  const cursorOfNow = async () => (await readToEnd([a], token)).cursor

  await commit(a, 1, inAnHour() - 100_000)
  const purged = await cursorOfNow()
  await commit(a, 2)
  const kept = await cursorOfNow()
  t.equal(await purge(a.app.database.db, deleteExpiredEntries), 1)
  await assertExpired(purged, 'purged')

  await commit(a, pageSize)
  const lost = await cursorOfNow()
  const { body } = await readPage(a, token)
  await restore(a, 3, 0)
  await assertExpired(lost, 'from before a backup was restored')
  await restore(a, 3, pageSize)
  await assertExpired(lost, 'and another was recorded in its place')
  const amid = await readPage(a, token, body.cursor)
  await assertExpired(amid.body.cursor, 'after what was the live set then')
  t.equal((await readToEnd([a, b], token, kept)).subjects.length, pageSize, 'what both have is good still')
})

t.test('what is no cursor, and what nobody knows, is refused in words of our own', async (t) => {
  const { a, token } = await world(t)
  await commit(a, 1)
  const { cursor } = (await readPage(a, token)).body
  const id = cursor.slice(2)
  for (const rubbish of [
    ...['', ' ', 'x', '1', '-1', '0.', '00', '1.', '~', '0~', '0~x', '0~-1', '0~1~2', `0.${id}`, `01.${id}`],
    ...[
      `${cursor}~`,
      `${cursor} `,
      ` ${cursor}`,
      `${cursor}\n`,
      `${cursor}\0`,
      `${cursor}~1e3`,
      `-${cursor}`,
    ],
    ...[`1.${id.toUpperCase()}`, `1.${id.slice(1)}`, `1e0.${id}`, `٣.${id}`, `1;.${id}`, `"${cursor}"`],
    ...[`${'9'.repeat(16)}.${id}`, `1.${randomUUID().replaceAll('-', '')}`, 'a'.repeat(8_000), '__proto__'],
  ])
    for (const accept of ['*/*', 'text/event-stream']) {
      const reply = await call(a.url, path(rubbish), { headers: { accept, ...bearer(token) } })
      t.strictSame(
        refusalOf(reply),
        refusal('invalid_request', 'This is no cursor.'),
        JSON.stringify(rubbish),
      )
      t.equal(reply.headers.get('cache-control'), 'no-store')
    }
  for (const lastEventId of ['x', `${cursor}, ${cursor}`]) {
    const headers = { accept: 'text/event-stream', 'last-event-id': lastEventId, ...bearer(token) }
    const reply = await call(a.url, path(cursor), { headers })
    t.strictSame(refusalOf(reply), refusal('invalid_request', 'This is no cursor.'), lastEventId)
  }
  for (const [query, detail] of [
    ['limit=5', 'querystring must NOT have additional properties.'],
    ['Cursor=0', 'querystring must NOT have additional properties.'],
    ['cursor=0&__proto__=x', 'querystring must NOT have additional properties.'],
    ['cursor=0&cursor=0', 'querystring/cursor must be string.'],
  ] as const) {
    const reply = await call(a.url, `/revocations?${query}`, { headers: bearer(token) })
    t.strictSame(refusalOf(reply), refusal('invalid_request', detail), query)
  }
})

t.test('nobody reads it but services that were granted it, and while their token is good', async (t) => {
  const clock = createManualClock()
  const instance = await startInstance(t, { stores: await postgresAndRedis(t), clock })
  const { token } = await createService(instance, scope)
  const { token: revoked } = await createService(instance, scope)
  const { jti } = JSON.parse(Buffer.from(revoked.split('.')[1] as string, 'base64url').toString())
  const entries = [{ scope: 'token' as const, subject: jti, expiresAt: inAnHour() }]
  await instance.app.revocation.revoke({ entries, reason: 'test' })
  const forbidden = {
    'a person': (await registerAndLogIn(instance.url)).token,
    'a service without a scope': (await createService(instance)).token,
    'a service with others': (
      await createService(instance, 'revocations', 'read', 'revocations:read:all', 'a:revocations:read')
    ).token,
  }
  const rows = [
    ['nobody', {}, refusal('missing_token')],
    ['rubbish', bearer('x'), refusal('token_invalid')],
    ['two tokens', bearer(`${token} ${token}`), refusal('malformed_authorization')],
    ['revoked', bearer(revoked), refusal('token_revoked')],
    ...Object.entries(forbidden).map(([name, token]) => [name, bearer(token), refusal('forbidden')] as const),
  ] as const
  async function assertRefused([name, headers, expected]: readonly [string, object, object]) {
    for (const accept of ['application/json', 'text/event-stream'])
      for (const query of ['', '?cursor=x']) {
        const reply = await call(instance.url, `/revocations${query}`, { headers: { ...headers, accept } })
        t.strictSame(refusalOf(reply), expected, `${name}, as ${accept}${query}`)
      }
  }
  for (const row of rows) await assertRefused(row)
  t.equal((await readPage(instance, token)).status, 200)
  clock.advance(906)
  await assertRefused(['expired', bearer(token), refusal('token_expired')])
})

t.test('a stream is asked for in whatever case', async (t) => {
  const { a, token } = await world(t)
  const { status, headers } = await openEventStream(t, a.url + path(), {
    ...bearer(token),
    accept: 'Text/Event-Stream',
  })
  t.strictSame([status, headers.get('content-type')], [200, 'text/event-stream'])
})

t.test('it is read, and nothing else: HEAD would be a stream without an end', async (t) => {
  const { a, token } = await world(t)
  for (const method of ['HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await call(a.url, '/revocations', { method, headers: bearer(token) })
    t.strictSame([status, headers.get('allow')], [405, 'GET'], method)
  }
})

t.test('a stream has what is taken back at any instance, soon and in its order', async (t) => {
  const { a, b, token } = await world(t)
  const committed = await commit(a, 3)
  const streams = [await follow(t, a, token), await follow(t, a, token), await follow(t, b, token)]
  for (const stream of streams) t.strictSame(toldIn(await stream.until('heartbeat')), committed)

  const user = await registerAndLogIn(a.url)
  t.equal((await logOut(a.url, user.token)).status, 204)
  const start = performance.now()
  for (const stream of streams) t.strictSame(toldIn(await receive(stream, 1)), [user.sid])
  const tookMs = performance.now() - start
  t.ok(tookMs < 500, `${Math.round(tookMs)} ms after it was acknowledged`)
  for (const count of [1, pageSize, 1, 5 * pageSize + 1]) {
    const burst = await commit(b, count)
    for (const stream of streams) t.strictSame(toldIn(await receive(stream, count)), burst)
  }
})

t.test('a stream that broke goes on where it was, at any instance, and repeats nothing', async (t) => {
  const { a, b, token } = await world(t)
  const committed = await commit(a, 2.5 * pageSize)
  const first = await follow(t, a, token)
  const amid = (await receive(first, pageSize + 100)).at(-1)?.id
  const later = (await receive(first, pageSize - 100)).at(-1)?.id
  first.close()
  committed.push(...(await commit(a, 3)))
  for (const [name, from, behind] of [
    ['amid the live set', amid, pageSize + 100],
    ['at the end of one of its pages', later, 2 * pageSize],
  ] as const)
    for (const [how, options] of [
      ['by Last-Event-ID', { lastEventId: from }],
      ['by ?cursor', { cursor: from }],
      ['by Last-Event-ID, whatever ?cursor is', { lastEventId: from, cursor: '0' }],
    ] as const) {
      const stream = await follow(t, b, token, options)
      t.strictSame(toldIn(await stream.until('heartbeat')), committed.slice(behind), `${name}, ${how}`)
      stream.close()
    }

  const second = await follow(t, a, token)
  const heartbeat = (await second.until('heartbeat')).at(-1)?.id
  const fresh = await commit(b, 3)
  const ids = [heartbeat, ...(await receive(second, 3)).map(({ id }) => id)]
  second.close()
  fresh.push(...(await commit(b, 2)))
  for (const [i, lastEventId] of ids.entries()) {
    const stream = await follow(t, b, token, { lastEventId })
    t.strictSame(toldIn(await stream.until('heartbeat')), fresh.slice(i))
    const page = await readToEnd([a], token, lastEventId)
    t.strictSame(page.subjects, fresh.slice(i), 'and so do pages')
  }
})

t.test('while nothing happens, a heartbeat every 2 s says that nothing is missing', async (t) => {
  const { a, token } = await world(t)
  await commit(a, 1)
  const stream = await follow(t, a, token)
  await stream.until('heartbeat')
  for (let i = 0; i < 2; i++) {
    const start = performance.now()
    const block = await stream.next()
    const tookMs = performance.now() - start
    t.strictSame(block, isHeartbeat(block))
    t.ok(tookMs > heartbeatMs / 2 && tookMs < 1.5 * heartbeatMs, `after ${Math.round(tookMs)} ms`)
  }
})

t.test('a stream ends with the right to it, within a heartbeat', async (t) => {
  t.jobs = 2
  t.test('when its client is disabled', async (t) => {
    const root = { ...randomUser(), username: 'root' }
    const { a, b, id, token } = await world(t, {
      BOOTSTRAP_ADMIN_USERNAME: root.username,
      BOOTSTRAP_ADMIN_PASSWORD: root.password,
    })
    const streams = [await follow(t, a, token), await follow(t, b, token)]
    for (const stream of streams) await stream.until('heartbeat')
    const { token: admin } = await logIn(a.url, root)
    const disabled = await call(a.url, `/admin/clients/${id}`, { method: 'DELETE', headers: bearer(admin) })
    t.equal(disabled.status, 204)
    const start = performance.now()
    for (const stream of streams) {
      const blocks = await stream.until('end')
      t.strictSame(toldIn(blocks), [`${id}:1`])
      t.strictSame(blocks.at(-1), { event: 'end', data: { code: 'token_revoked' } })
      t.equal(await stream.next(), undefined)
    }
    const tookMs = performance.now() - start
    t.ok(tookMs < 1.5 * heartbeatMs, `after ${Math.round(tookMs)} ms`)
    t.strictSame(refusalOf(await readPage(a, token)), refusal('token_revoked'))
  })

  t.test('when its token expires, and another one goes on', async (t) => {
    const clock = createManualClock()
    const instance = await startInstance(t, { stores: await postgresAndRedis(t), clock })
    const { token } = await createService(instance, scope)
    await commit(instance, 1)
    const stream = await follow(t, instance, token)
    const lastEventId = (await stream.until('heartbeat')).at(-1)?.id
    const fresh = await commit(instance, 1)
    t.strictSame(toldIn(await receive(stream, 1)), fresh)
    clock.advance(906)
    t.strictSame(await stream.next(), { event: 'end', data: { code: 'token_expired' } })
    t.equal(await stream.next(), undefined)
    const { token: another } = await createService(instance, scope)
    const next = await follow(t, instance, another, { lastEventId })
    t.strictSame(toldIn(await next.until('heartbeat')), fresh)
  })
})

t.test('an instance that stops ends its streams at once, and they go on at another', async (t) => {
  const { a, b, token } = await world(t)
  await commit(a, 1)
  const streams = [await follow(t, a, token), await follow(t, a, token)]
  const [lastEventId] = await Promise.all(
    streams.map(async (stream) => (await stream.until('heartbeat')).at(-1)?.id),
  )
  const start = performance.now()
  await a.app.close()
  const tookMs = performance.now() - start
  t.ok(tookMs < 1_000, `after ${Math.round(tookMs)} ms`)
  for (const stream of streams) t.equal(await stream.next(), undefined)
  const fresh = await commit(b, 2)
  const next = await follow(t, b, token, { lastEventId })
  t.strictSame(toldIn(await next.until('heartbeat')), fresh)
})

t.test('whatever Redis loses, the feed does not', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { a, b, token } = await world(t, { REDIS_URL: redis.url })
  const committed = await commit(a, 2)
  const stream = await follow(t, a, token)
  await stream.until('heartbeat')
  for (const lose of [
    () => withRedis(redis.url, (direct) => direct.flushall()),
    () => redis.kill('SIGKILL'),
    () => redis.start(),
  ]) {
    await lose()
    const fresh = await commit(b, 2)
    committed.push(...fresh)
    t.strictSame(toldIn(await stream.until('heartbeat')), fresh)
    t.strictSame((await readToEnd([a, b], token)).subjects, committed)
  }
})

t.test('while Postgres is out of reach a stream says no more than that, and then all of it', async (t) => {
  const stores = await postgresAndRedis(t)
  const relay = await startRelay(t, stores.env.DATABASE_URL as string)
  const b = await startInstance(t, { stores })
  const a = await startInstance(t, { stores: { env: { ...stores.env, DATABASE_URL: relay.url } } })
  const { token } = await createService(b, scope)
  const { cursor } = await readToEnd([a], token)
  const stream = await follow(t, a, token)
  await stream.until('heartbeat')
  const committed: string[] = []
  for (const fault of ['cut', 'stall'] as const) {
    relay[fault]()
    t.strictSame(await stream.next(), { '': '' }, `${fault}: no heartbeat`)
    const fresh = await commit(b, 3)
    committed.push(...fresh)
    const reply = await readPage(a, token, cursor)
    t.strictSame(refusalOf(reply), refusal('unavailable'), fault)
    await relay.mend()
    const told = await stream.until('heartbeat')
    t.strictSame(toldIn(told), fresh, `${fault}: nothing is missing`)
  }
  t.strictSame((await readToEnd([a], token, cursor)).subjects, committed)
})

t.test('streams and cursors outlive a Postgres that was killed', async (t) => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.stop())
  const { a, b, token } = await world(t, { DATABASE_URL: postgres.url })
  const before = await commit(a, 3)
  const streams = [await follow(t, a, token), await follow(t, b, token)]
  for (const stream of streams) t.strictSame(toldIn(await stream.until('heartbeat')), before)
  const { cursor } = await readToEnd([a], token)
  await postgres.kill('SIGKILL')
  await postgres.start()
  const after = await commit(b, 3)
  for (const stream of streams) t.strictSame(toldIn(await receive(stream, 3)), after)
  for (const instance of [a, b]) t.strictSame((await readToEnd([instance], token, cursor)).subjects, after)
})

t.test('a backup that is restored under a stream ends it: what it told may be another', async (t) => {
  const { a, b, token } = await world(t)
  await commit(a, 4)
  for (const since of [0, 1, 10]) {
    const streams = [await follow(t, a, token), await follow(t, b, token)]
    for (const stream of streams) await stream.until('heartbeat')
    await commit(a, 3)
    for (const stream of streams) await receive(stream, 3)
    await restore(a, 4, since)
    for (const stream of streams) {
      const blocks = await stream.until('end')
      t.strictSame(toldIn(blocks), [])
      t.strictSame(blocks.at(-1), { event: 'end', data: { code: 'cursor_expired' } })
      t.equal(await stream.next(), undefined)
    }
  }
})

t.test('nor does it go on where others have gone on since, for whoever was too slow to notice', async (t) => {
  const { a, token } = await world(t)
  await commit(a, 10)
  const { cursor } = await readToEnd([a], token)
  const { db } = a.app.database
  const feed = createFeed({ db, tailDb: db })
  const slow = (await feed.follow(cursor))[Symbol.asyncIterator]()
  await slow.next()
  await restore(a, 2, 5)
  const quick = await feed.follow(undefined)
  let looks = 0
  for await (const { entries, isLast } of quick) {
    if (entries.length === 3) break
    if (isLast && ++looks === 2) await commit(a, 3)
  }
  await t.rejects(slow.next(), { code: 'cursor_expired' })
})
