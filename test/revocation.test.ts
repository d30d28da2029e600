/** What was taken back stays taken back: the pieces of revocation, each on its own and together, on real stores. */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import type { Command } from 'ioredis'
import t, { type Test } from 'tap'
import { createIdTable } from '../src/bearer/id-table.ts'
import type { RevocationEntry, TokenIdentity } from '../src/bearer/revoked-entries.ts'
import { createServerClock } from '../src/db/clock.ts'
import { type Connection, connectPostgres } from '../src/db/connect.ts'
import { durably } from '../src/db/durably.ts'
import { migratePostgresSchema } from '../src/db/migrate.ts'
import { purge } from '../src/db/purge.ts'
import { revocations } from '../src/db/tables.ts'
import { createCheck, type Verdict } from '../src/revocation/check.ts'
import { deleteExpiredEntries } from '../src/revocation/expired.ts'
import { record } from '../src/revocation/record.ts'
import { connectRedis, type RedisClient } from '../src/revocation/redis.ts'
import { createRedisIndex, type RevocationIndex } from '../src/revocation/redis-index.ts'
import { createTail, type Tail } from '../src/revocation/tail.ts'
import { postgresAndRedis, type Stores, startInstance, withClient, withRedis } from './fixtures/app.ts'
import { getProtected, logIn, logOut, registerAndLogIn } from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { startPostgres } from './fixtures/servers.ts'

const redisUrl = process.env.TEST_REDIS_URL as string
const inAnHour = () => Math.floor(Date.now() / 1000) + 3600

const randomToken = (): TokenIdentity => ({
  kid: randomUUID(),
  claims: {
    jti: randomUUID(),
    sid: randomUUID(),
    sub: randomUUID(),
    ver: 1 + Math.floor(Math.random() * 5),
  },
})

/** The four entries that each refuse a token. */
const isIn = (tail: Tail, token: TokenIdentity) => tail.has(tail.prepare(token))
const isInIndex = (index: RevocationIndex, token: TokenIdentity) =>
  new Promise<boolean | undefined>((done) => index.has(token, done))

const entriesFor = ({ kid, claims: { jti, sid = '', sub, ver } }: TokenIdentity): RevocationEntry[] => [
  { scope: 'token', subject: jti, expiresAt: inAnHour() },
  { scope: 'session', subject: sid, expiresAt: inAnHour() },
  { scope: 'generation', subject: `${sub}:${ver}`, expiresAt: inAnHour() },
  { scope: 'key', subject: kid, expiresAt: inAnHour() },
]

/** All ways to pick at least one. */
const combinations = <T>(items: readonly T[]): T[][] =>
  Array.from({ length: 2 ** items.length - 1 }, (_, i) => items.filter((_item, k) => ((i + 1) >> k) & 1))

async function emptyRecord(t: Test): Promise<Connection & { url: string }> {
  const { env } = await postgresAndRedis(t)
  const url = env.DATABASE_URL as string
  await migratePostgresSchema(url)
  const connection = connectPostgres({ url, max: 10, deadlineMs: 5_000, onIdleError: () => {} })
  t.teardown(() => connection.close())
  return { ...connection, url }
}

function tailOn(t: Test, { db }: Connection, options: Partial<Parameters<typeof createTail>[0]> = {}): Tail {
  const tail = createTail({
    db,
    clock: createServerClock(),
    intervalMs: 20,
    freshMs: 250,
    onChange() {},
    ...options,
  })
  t.teardown(() => tail.stop())
  return tail
}

const write = ({ db }: Connection, entries: RevocationEntry[]) =>
  durably(db, (tx) => record(tx, entries, 'test'))

t.test('the table of ids', async (t) => {
  t.test('has what was added and nothing else, through every growth', async (t) => {
    const table = createIdTable(() => 0)
    const added = new Set<string>()
    for (let i = 0; i < 5_000; i++) {
      const id = randomUUID()
      added.add(id)
      table.add(id, i % 3, 100)
      table.add(id, i % 3, 100)
    }
    t.equal(table.size, added.size)
    t.ok([...added].every((id, i) => table.has(id, i % 3)))
    t.notOk([...added].some((id, i) => table.has(id, (i % 3) + 1)))
    t.notOk(Array.from({ length: 5_000 }, () => randomUUID()).some((id) => table.has(id, 0)))
  })

  t.test('drops what has expired when it grows, and never shortens a life', async (t) => {
    let now = 0
    const table = createIdTable(() => now)
    const [short, long] = [randomUUID(), randomUUID()]
    table.add(short, 0, 100)
    table.add(long, 0, 500)
    table.add(long, 0, 100)
    now = 200
    for (let i = 0; i < 2_000; i++) table.add(randomUUID(), 0, 150)
    t.notOk(table.has(short, 0))
    t.ok(table.has(long, 0))
    t.ok(table.size < 1_000, 'what was dropped takes no room')
  })
})

t.test('the record', async (t) => {
  t.test(
    'numbers rows without a gap in the order of commits: a reader that follows misses none',
    async (t) => {
      const connection = await emptyRecord(t)
      const seen: number[] = []
      let writing = true
      let committed = 0
      const reader = (async () => {
        for (let last = 0; ; ) {
          const done = !writing
          const rows = await connection.db
            .select({ seq: revocations.seq })
            .from(revocations)
            .where(sql`${revocations.seq} > ${last}`)
            .orderBy(revocations.seq)
          for (const { seq } of rows) seen.push(seq)
          last = rows.at(-1)?.seq ?? last
          if (done) return
        }
      })()
      await Promise.all(
        Array.from({ length: 8 }, async () => {
          for (let i = 0; i < 25; i++) {
            const entries = entriesFor(randomToken()).slice(0, 1 + (i % 2))
            if (i % 5 === 4) {
              const abandoned = durably(connection.db, async (tx) => {
                await record(tx, entries, 'test')
                throw new Error('rolled back')
              })
              await t.rejects(abandoned, { message: 'rolled back' })
            } else {
              await write(connection, entries)
              committed += entries.length
            }
          }
        }),
      )
      writing = false
      await reader
      t.same(
        seen,
        Array.from({ length: seen.length }, (_, i) => i + 1),
      )
      t.equal(seen.length, committed, 'every committed row, and no other')
    },
  )

  t.test('survives kill -9 of a Postgres whose default is synchronous_commit = off', async (t) => {
    const server = await startPostgres({ settings: { synchronous_commit: 'off', wal_writer_delay: '10s' } })
    t.teardown(() => server.stop())
    const instance = await startInstance(t, {
      stores: {
        env: { DATABASE_URL: server.url, KEY_ENCRYPTION_SECRET: randomUUID() },
      },
    })
    const { token, sid } = await registerAndLogIn(instance.url)
    t.equal((await logOut(instance.url, token)).status, 204)
    await server.kill('SIGKILL')
    await server.start()
    const { rows } = await withClient(server.url, (client) => client.query('select subject from revocations'))
    t.same(rows, [{ subject: sid }])
  })
})

t.test(
  'what has been expired for a day is purged in batches by one instance at a time, but for the newest row',
  async (t) => {
    const connection = await emptyRecord(t)
    const insert = (from: number, to: number, expiresAt: string) =>
      connection.db.execute(
        sql`insert into revocations (seq, nonce, scope, subject, expires_at, reason)
          select i, gen_random_uuid(), 'token', gen_random_uuid()::text, now() + ${expiresAt}::interval, 'test'
          from generate_series(${from}::int, ${to}::int) i`,
      )
    await insert(1, 2_500, '-25 hours')
    await insert(2_501, 2_510, '-23 hours')
    await insert(2_511, 2_520, '1 hour')
    await insert(2_521, 2_521, '-25 hours')
    await connection.db.execute(sql`update revocation_head set seq = 2521`)
    const tail = tailOn(t, connection)
    await tail.load()
    const [one, other] = await Promise.all([
      purge(connection.db, deleteExpiredEntries),
      purge(connection.db, deleteExpiredEntries),
    ])
    t.equal(one + other, 2_500)
    const left = await connection.db
      .select({ seq: revocations.seq })
      .from(revocations)
      .orderBy(revocations.seq)
    t.same(
      left.map(({ seq }) => seq),
      Array.from({ length: 21 }, (_, i) => 2_501 + i),
    )
    t.ok(await tail.lookAgain(), 'and whoever follows the record has lost no place in it')
  },
)

t.test('a batch that is being purged holds up nobody, not even another purge', async (t) => {
  const stores = withoutRedis(await postgresAndRedis(t))
  const { app, url } = await startInstance(t, { stores })
  const { db } = app.database
  const { token } = await registerAndLogIn(url)
  await db.execute(sql`
    insert into revocations (seq, nonce, scope, subject, expires_at, reason)
    select i, gen_random_uuid(), 'token', gen_random_uuid()::text, now() - interval '25 hours', 'test'
    from generate_series(1, 10) i`)
  await db.execute(sql`update revocation_head set seq = 10`)
  await app.revocation.revoke({ entries: entriesFor(randomToken()), reason: 'test' })

  const [deleted, release] = [signal(), signal()]
  const purging = purge(db, async (tx, limit) => {
    const gone = await deleteExpiredEntries(tx, limit)
    deleted.send()
    await release.sent
    return gone
  })
  await deleted.sent
  // Less than a second in all: a transaction that is silent for longer is ended.
  const start = performance.now()
  t.equal(await purge(db, deleteExpiredEntries), 0, 'it leaves the rest to the one that is at it')
  t.equal((await logOut(url, token)).status, 204)
  t.match(await getProtected(url, token), refused)
  t.equal((await app.revocation.mode()).mode, 'tail', 'and the record is followed')
  const tookMs = performance.now() - start
  t.ok(tookMs < 800, `${Math.round(tookMs)} ms`)
  release.send()
  t.equal(await purging, 10)
})

t.test('an instance that freezes amid a purge loses its turn to the others', async (t) => {
  const connection = await emptyRecord(t)
  const taken = signal()
  const frozen = purge(connection.db, async () => {
    taken.send()
    await delay(2_000)
    return 0
  })
  const ended = t.rejects(frozen)
  await taken.sent
  let turns = 0
  const count: Parameters<typeof purge>[1] = async () => {
    turns++
    return 0
  }
  await eventually(
    t,
    async () => {
      await purge(connection.db, count)
      return turns > 0
    },
    1_800,
  )
  await ended
})

t.test(
  'a writer that freezes amid a revocation holds the others up for a second, not for ever',
  async (t) => {
    const connection = await emptyRecord(t)
    const frozen = durably(connection.db, async (tx) => {
      await record(tx, entriesFor(randomToken()), 'test')
      await delay(2_000)
    })
    await delay(100)
    const start = performance.now()
    await write(connection, entriesFor(randomToken()))
    const tookMs = performance.now() - start
    t.ok(tookMs > 500 && tookMs < 3_000, `${Math.round(tookMs)} ms`)
    await t.rejects(frozen)
  },
)

t.test('the tail', async (t) => {
  t.test('knows every live entry once it is loaded, page after page, and no expired one', async (t) => {
    const connection = await emptyRecord(t)
    const live = randomToken()
    const expired = randomToken()
    await write(connection, entriesFor(live))
    await write(
      connection,
      entriesFor(expired).map((entry) => ({ ...entry, expiresAt: 1 })),
    )
    await connection.db.execute(sql`
      insert into revocations (seq, nonce, scope, subject, expires_at, reason)
      select 8 + i, gen_random_uuid(), 'token', gen_random_uuid()::text, now() + interval '1 hour', 'test'
      from generate_series(1, 25000) i`)
    await connection.db.execute(sql`update revocation_head set seq = 25008`)
    const tail = tailOn(t, connection)
    await tail.load()
    t.equal(tail.size, 25_004)
    t.ok(isIn(tail, live))
    t.notOk(isIn(tail, expired))
  })

  t.test('follows: what another process commits is here before its own look is stale', async (t) => {
    const connection = await emptyRecord(t)
    const tail = tailOn(t, connection)
    await tail.load()
    await tail.follow()
    for (const entry of entriesFor(randomToken())) {
      const token = randomToken()
      const [mine] = entriesFor(token).filter(({ scope }) => scope === entry.scope)
      await write(connection, [mine as RevocationEntry])
      await delay(260)
      t.ok(tail.isFresh())
      t.ok(isIn(tail, token), entry.scope)
    }
  })

  t.test('notices that a backup was restored, keeps what it knew, and follows the new history', async (t) => {
    const connection = await emptyRecord(t)
    const [before, lost, after, other] = [randomToken(), randomToken(), randomToken(), randomToken()]
    await write(connection, entriesFor(before))
    const tail = tailOn(t, connection)
    await tail.load()
    await tail.follow()
    await write(connection, entriesFor(lost))
    await eventually(t, async () => isIn(tail, lost))
    // The backup was made before `lost`; since then more rows than that were written in its place, `after` first.
    await connection.db.transaction(async (tx) => {
      await tx.execute(sql`delete from revocations where seq > 4`)
      await tx.execute(sql`update revocation_head set seq = 4`)
      await record(tx, [...entriesFor(after).slice(0, 1), ...entriesFor(other)], 'test')
    })
    await eventually(t, async () => isIn(tail, after))
    t.ok(isIn(tail, before))
    t.ok(isIn(tail, lost))
  })

  t.test('refuses a token that it let through before, whatever it was that was taken back', async (t) => {
    const tail = tailOn(t, await emptyRecord(t))
    for (let i = 0; i < 4; i++) {
      const [token, other] = [tail.prepare(randomToken()), tail.prepare(randomToken())]
      for (const round of ['cold', 'warm']) t.notOk(tail.has(token) || tail.has(other), round)
      tail.add([entriesFor(token)[i] as RevocationEntry])
      for (const round of ['cold', 'warm']) {
        t.ok(tail.has(token), round)
        t.notOk(tail.has(other), round)
      }
    }
  })

  t.test('is not fresh while nobody looks', async (t) => {
    const connection = await emptyRecord(t)
    const tail = tailOn(t, connection, { freshMs: 60 })
    t.notOk(tail.isFresh(), 'before it is loaded')
    await tail.load()
    t.ok(tail.isFresh())
    await delay(70)
    t.notOk(tail.isFresh())
    t.ok(await tail.catchUp(), 'a check that finds it stale makes it look')
  })

  t.test('keeps all instances on the clock of Postgres, however wrong their own is', async (t) => {
    const connection = await emptyRecord(t)
    for (const wrongBy of [-90_000, 90_000]) {
      const clock = createServerClock(() => Date.now() + wrongBy)
      const tail = tailOn(t, connection, { clock })
      await tail.load()
      await tail.follow()
      await eventually(t, async () => Math.abs(clock.now() - Date.now()) < 1_000)
    }
  })
})

t.test('the index', async (t) => {
  t.test(
    'answers in one round trip for all who ask meanwhile, never in one that was sent before they asked',
    async (t) => {
      const trips: (readonly unknown[])[] = []
      const index = await realIndex(t, (redis) => ({
        sendCommand(command: Command) {
          trips.push(command.args)
          return redis.sendCommand(command)
        },
        pipeline: redis.pipeline.bind(redis) as RedisClient['pipeline'],
        exists: redis.exists.bind(redis),
        set: redis.set.bind(redis),
        isCluster: false,
      }))
      const ask = (token: TokenIdentity) => isInIndex(index, token)

      const first = ask(randomToken())
      while (trips.length === 0) await new Promise(setImmediate)
      // The first question is on its way. What is revoked now must be seen by whoever asks from now on.
      const revoked = randomToken()
      const later = Array.from({ length: 50 }, () => randomToken())
      const answers = [ask(revoked), ...later.map((token) => ask(token))]
      await withRedis(redisUrl, (direct) => direct.set(`rv:s:${revoked.claims.sid}`, '', 'EX', 60))
      t.equal(await first, false)
      t.same(
        await Promise.all(answers.slice(1)),
        later.map(() => false),
      )
      t.equal(trips.length, 2)
      t.equal(trips[1]?.length, 51 * 4 + 1)
      t.equal(await ask(revoked), true)
    },
  )

  t.test('tells whom of those who ask together an entry refuses, whichever it is', async (t) => {
    const index = await realIndex(t)
    const tokens = Array.from({ length: 12 }, (_, i) => ({ ...randomToken(), kid: `key ${i % 3}` }))
    const dead = tokens.slice(4, 7)
    await index.write(dead.map((token, i) => entriesFor(token)[i] as RevocationEntry))
    t.same(
      await Promise.all(tokens.map((token) => isInIndex(index, token))),
      tokens.map((token) => dead.includes(token)),
    )
    await index.write([entriesFor(tokens[1] as TokenIdentity)[3] as RevocationEntry])
    t.same(
      await Promise.all(tokens.map((token) => isInIndex(index, token))),
      tokens.map((token) => dead.includes(token) || token.kid === 'key 1'),
    )
  })

  t.test('keeps an entry as long as its longest life, and every key has one', async (t) => {
    const index = await realIndex(t)
    const token = randomToken()
    const entries = entriesFor(token)
    const keys = [
      `rv:j:${token.claims.jti}`,
      `rv:s:${token.claims.sid}`,
      `rv:g:${token.claims.sub}:${token.claims.ver}`,
      `rv:k:${token.kid}`,
    ]
    const lives = () => withRedis(redisUrl, (direct) => Promise.all(keys.map((key) => direct.ttl(key))))
    await index.write(entries)
    for (const life of await lives()) t.ok(life > 3500 && life <= 3600)
    await index.write(entries.map((entry) => ({ ...entry, expiresAt: entry.expiresAt + 3600 })))
    for (const life of await lives()) t.ok(life > 7100 && life <= 7200)
    await index.write(entries)
    for (const life of await lives()) t.ok(life > 7100 && life <= 7200)
  })
})

t.test(
  'the check: any scope refuses on its own and in every combination, in the record alone and in the index alone',
  async (t) => {
    const connection = await emptyRecord(t)
    const tail = tailOn(t, connection)
    const index = await realIndex(t)
    const { prepare, check } = createCheck({ tail, index, mirror: false, onVerdict() {} })
    const ask = (token: TokenIdentity) => new Promise<Verdict>((done) => check(prepare(token), done))
    await tail.load()
    await tail.follow()
    for (const scopes of combinations([0, 1, 2, 3])) {
      const [recorded, indexed, neither] = [randomToken(), randomToken(), randomToken()]
      const chosen = (token: TokenIdentity) => scopes.map((i) => entriesFor(token)[i] as RevocationEntry)
      await write(connection, chosen(recorded))
      await index.write(chosen(indexed))
      await eventually(t, async () => isIn(tail, recorded))
      const name = chosen(neither)
        .map(({ scope }) => scope)
        .join(' + ')
      t.equal(await ask(recorded), 'revoked', `${name} in the record`)
      t.equal(await ask(indexed), 'revoked', `${name} in the index`)
      t.equal(await ask(neither), 'live', `${name} of somebody else`)
    }
  },
)

t.test('two instances', async (t) => {
  const stores = await postgresAndRedis(t)
  const a = await startInstance(t, { stores })
  const b = await startInstance(t, { stores })

  t.test(
    'a logout is refused by both from its acknowledgement on; other sessions and new logins work',
    async (t) => {
      const account = await registerAndLogIn(a.url)
      const other = await logIn(b.url, account)
      t.equal((await logOut(a.url, account.token)).status, 204)
      for (const { url } of [a, b]) t.match(await getProtected(url, account.token), refused)
      t.equal((await getProtected(a.url, other.token)).status, 200)
      t.equal((await getProtected(b.url, (await logIn(b.url, account)).token)).status, 200)
    },
  )

  t.test(
    'a session that is logged out again adds nothing to the record, and is acknowledged again',
    async (t) => {
      const { token, sid } = await registerAndLogIn(a.url)
      const count = () =>
        withClient(stores.env.DATABASE_URL as string, (c) => c.query('select from revocations'))
      const acknowledged = ({ log }: typeof a) =>
        log.filter((line) => line.includes('revocation.acknowledged') && line.includes(`session ${sid}`))
          .length
      t.equal((await logOut(a.url, token)).status, 204)
      const { rowCount } = await count()
      t.equal((await logOut(a.url, token)).status, 204)
      t.equal((await logOut(b.url, token)).status, 204)
      t.equal((await count()).rowCount, rowCount)
      t.strictSame([a, b].map(acknowledged), [2, 1])
    },
  )

  t.test(
    'the entry of a session outlives the longest of its tokens, not only the one that ended it',
    async (t) => {
      const { token, sid } = await registerAndLogIn(a.url)
      const query = (text: string) => withClient(stores.env.DATABASE_URL as string, (c) => c.query(text))
      await query(`update sessions set access_exp_max = now() + interval '2 hours' where id = '${sid}'`)
      t.equal((await logOut(a.url, token)).status, 204)
      const enough = `expires_at >= now() + interval '2 hours 4 minutes' as enough`
      t.same((await query(`select ${enough} from revocations where subject = '${sid}'`)).rows, [
        { enough: true },
      ])
      t.ok((await withRedis(redisUrl, (direct) => direct.ttl(`rv:s:${sid}`))) >= 7200 + 240)
    },
  )

  t.test(
    'a revocation whose transaction Postgres ended is not acknowledged, and is recorded later',
    async (t) => {
      const token = randomToken()
      const entries = entriesFor(token).slice(0, 1)
      let tries = 0
      const revoking = a.app.revocation.revoke({
        entries,
        reason: 'test',
        async within() {
          if (tries++ === 0) await delay(1_500)
          return entries
        },
      })
      await t.rejects(revoking, { code: 'unavailable' })
      const recorded = `select from revocations where subject = '${token.claims.jti}'`
      await eventually(t, async () => {
        const found = await withClient(stores.env.DATABASE_URL as string, (client) => client.query(recorded))
        return found.rowCount === 1
      })
    },
  )

  t.test('an instance that starts later refuses what was taken back before', async (t) => {
    const { token } = await registerAndLogIn(a.url)
    t.equal((await logOut(a.url, token)).status, 204)
    const late = await startInstance(t, { stores: withoutRedis(stores) })
    t.match(await getProtected(late.url, token), refused)
  })

  t.test('token, session, generation and key each reach a live token', async (t) => {
    for (const pick of [0, 1, 2, 3]) {
      const account = await registerAndLogIn(a.url)
      const { token } = await logIn(b.url, account)
      const entry = entriesFor(identityOf(token))[pick] as RevocationEntry
      t.equal((await getProtected(b.url, token)).status, 200)
      await a.app.revocation.revoke({ entries: [entry], reason: 'test' })
      for (const { url } of [a, b]) t.match(await getProtected(url, token), refused, entry.scope)
      const sibling = await getProtected(b.url, account.token)
      t.equal(sibling.status, pick < 2 ? 200 : 401, `${entry.scope}: another session of the account`)
    }
  })
})

t.test('many sessions end at once, whatever the isolation that the database is set to', async (t) => {
  const stores = await postgresAndRedis(t)
  await withClient(stores.env.DATABASE_URL as string, (client) =>
    client.query(
      `do $$ begin execute format('alter database %I set default_transaction_isolation = ''repeatable read''', current_database()); end $$`,
    ),
  )
  const { url } = await startInstance(t, { stores })
  const account = await registerAndLogIn(url)
  const tokens = await Promise.all(Array.from({ length: 20 }, async () => (await logIn(url, account)).token))
  const replies = await Promise.all(tokens.map((token) => logOut(url, token)))
  t.same(
    replies.map(({ status }) => status),
    Array(20).fill(204),
  )
})

t.test('the hold', async (t) => {
  t.test(
    'makes the acknowledgement true without any Redis: no token is accepted after its logout',
    async (t) => {
      const stores = withoutRedis(await postgresAndRedis(t))
      const a = await startInstance(t, { stores })
      const b = await startInstance(t, { stores })
      const tokens = await Promise.all(
        Array.from({ length: 60 }, async () => (await registerAndLogIn(a.url)).token),
      )
      const replies = await Promise.all(
        tokens.map(async (token, i) => {
          await delay(i * 7)
          t.equal((await logOut(a.url, token)).status, 204)
          return await getProtected(b.url, token)
        }),
      )
      for (const reply of replies) t.match(reply, refused)
    },
  )

  t.test('covers the slowest tail that was ever announced, not only its own', async (t) => {
    const stores = withoutRedis(await postgresAndRedis(t))
    const slow = await startInstance(t, {
      stores,
      env: { REVOCATION_TAIL_MS: '600', REVOCATION_FRESH_MS: '1200' },
    })
    const quick = await startInstance(t, { stores })
    for (let i = 0; i < 3; i++) {
      const { token } = await registerAndLogIn(quick.url)
      t.equal((await getProtected(slow.url, token)).status, 200)
      t.equal((await logOut(quick.url, token)).status, 204)
      t.match(await getProtected(slow.url, token), refused)
    }
  })
})

const refused = { status: 401, body: { code: 'token_revoked' } }

/** Something that happens once, and that others wait for. */
function signal() {
  let send = () => {}
  const sent = new Promise<void>((resolve) => {
    send = resolve
  })
  return { send, sent }
}

const withoutRedis = (stores: Stores): Stores => ({ ...stores, env: { ...stores.env, REDIS_URL: undefined } })

/** What of a token is looked up. */
function identityOf(token: string): TokenIdentity {
  const [header, claims] = token
    .split('.', 2)
    .map((part) => JSON.parse(Buffer.from(part, 'base64url').toString()))
  return { kid: header.kid, claims }
}

/** A tail that has not read anything yet. */
const unread = {
  lastLook: () => ({ sentAt: Number.NEGATIVE_INFINITY, serverTime: Number.NEGATIVE_INFINITY }),
}

async function realIndex(
  t: Test,
  wrap: (
    redis: RedisClient,
  ) => Pick<RedisClient, 'exists' | 'sendCommand' | 'pipeline' | 'set' | 'isCluster'> = (redis) => redis,
) {
  const redis = connectRedis({ address: { url: redisUrl }, deadlineMs: 1_000, onError() {} })
  await redis.connect()
  const index = createRedisIndex({
    redis: wrap(redis),
    clock: createServerClock(),
    tail: unread,
    freshMs: 250,
    onChange() {},
  })
  await index.start()
  t.teardown(() => {
    index.stop()
    redis.disconnect()
  })
  return index
}
