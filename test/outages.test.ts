/** What is under way when Postgres dies or hangs: it is told quickly to wait, and nothing is acknowledged that is not true. */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import {
  type Instance,
  postgresAndRedis,
  type Stores,
  startInstance,
  withClient,
  withRedis,
} from './fixtures/app.ts'
import { call, getProtected, logOut, post, type Reply, registerAndLogIn } from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { startRelay } from './fixtures/relay.ts'
import { type Server, startPostgres, startRedis } from './fixtures/servers.ts'

/** No check may take longer, whatever is down. */
const checkDeadlineMs = 500
/** Nor may anything else take longer to say that it cannot be done: two statements' deadlines. */
const refusalDeadlineMs = 5_000

const good = { status: 200 }
const revoked = { status: 401, body: { code: 'token_revoked' } }
const unknown = { status: 503, body: { code: 'revocation_unknown' } }
const unavailable = { status: 503, body: { code: 'unavailable' } }

interface World {
  postgres: Server
  redis: Server
  a: Instance
  b: Instance
  /** A token that lives and one whose logout was acknowledged. */
  live: string
  dead: string
}

process.on('unhandledRejection', (error) => t.fail('an unhandled rejection', { error }))

async function world(t: Test): Promise<World> {
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
  t.teardown(() => Promise.all([postgres.stop(), redis.stop()]))
  const stores: Stores = {
    env: { DATABASE_URL: postgres.url, REDIS_URL: redis.url, KEY_ENCRYPTION_SECRET: randomUUID() },
  }
  const a = await startInstance(t, { stores })
  const b = await startInstance(t, { stores })
  const { token: live } = await registerAndLogIn(a.url)
  const { token: dead } = await registerAndLogIn(a.url)
  t.match(await logOut(a.url, dead), { status: 204 })
  return { postgres, redis, a, b, live, dead }
}

/** Asks both instances for a while, one question after the other. */
async function assertChecks(
  t: Test,
  { a, b, live, dead }: World,
  expected: { live: object; dead: object },
  forMs = 600,
) {
  for (const until = Date.now() + forMs; Date.now() < until; ) {
    for (const { url } of [a, b]) {
      for (const [token, what] of [
        [live, expected.live],
        [dead, expected.dead],
      ] as const) {
        const { reply, took } = await timed(getProtected(url, token))
        t.match(reply, what)
        t.ok(took < checkDeadlineMs, `a check took ${Math.round(took)} ms`)
        if (reply.status === 503) t.equal(reply.headers.get('retry-after'), '1')
      }
    }
  }
}

async function timed(asking: Promise<Reply>) {
  const start = performance.now()
  const reply = await asking
  return { reply, took: performance.now() - start }
}

const flush = ({ url }: Server) => withRedis(url, (direct) => direct.flushall())

const readiness = ({ a }: World) => call(a.url, '/health/ready')

t.test('Postgres hangs: what needs it is told quickly to wait', async (t) => {
  const w = await world(t)
  const { postgres, a, b } = w
  const { username, password, token } = await registerAndLogIn(a.url)
  await postgres.kill('SIGSTOP')
  const attempts = await Promise.all([
    timed(logOut(a.url, token)),
    timed(post(a.url, '/login', { username, password })),
    timed(post(b.url, '/register', { username: `user-${randomUUID()}`, password: randomUUID() })),
    timed(call(b.url, '/me', { headers: { authorization: `Bearer ${w.live}` } })),
  ])
  for (const { reply, took } of attempts) {
    t.match(reply, unavailable)
    t.equal(reply.headers.get('retry-after'), '1')
    t.ok(took < refusalDeadlineMs, `told after ${Math.round(took)} ms`)
  }
  await postgres.kill('SIGCONT')
})

t.test(
  'Postgres is killed amid transactions and comes back: nothing that was acknowledged is lost',
  async (t) => {
    const w = await world(t)
    const { username, password } = await registerAndLogIn(w.a.url)
    const { postgres } = w
    const blocker = new pg.Client({ connectionString: postgres.url })
    blocker.on('error', () => {})
    await blocker.connect()
    await blocker.query('begin')
    await blocker.query('select from users for update')
    const underWay = [1, 2, 3].map(() => post(w.a.url, '/login', { username, password }))
    await eventually(t, async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock'`
      const { rowCount } = await withClient(postgres.url, (client) => client.query(waiting))
      return rowCount === underWay.length
    })
    await postgres.kill('SIGKILL')
    for (const reply of await Promise.all(underWay)) t.match(reply, unavailable)
    await assertChecks(t, w, { live: good, dead: revoked })
    t.match(await logOut(w.a.url, w.dead), unavailable)
    await w.postgres.start()
    await eventually(t, async () => (await readiness(w)).body.mode === 'tail and index', 5_000)
    await assertChecks(t, w, { live: good, dead: revoked })
    t.match(await logOut(w.b.url, (await registerAndLogIn(w.a.url)).token), { status: 204 })
  },
)

t.test(
  'Postgres freezes within the hold and Redis forgets: what could be accepted elsewhere is not acknowledged',
  async (t) => {
    const w = await world(t)
    for (const freezeAfterMs of [5, 30]) {
      const { token } = await registerAndLogIn(w.a.url)
      const loggingOut = logOut(w.a.url, token)
      await delay(freezeAfterMs)
      await w.postgres.kill('SIGSTOP')
      const { status } = await loggingOut
      await flush(w.redis)
      // Whom the record cannot reach comes to believe an index of which nobody says that it has forgotten something.
      for (const until = Date.now() + 1_000; status !== 503 && Date.now() < until; await delay(20)) {
        const reply = await getProtected(w.b.url, token)
        t.not(reply.status, 200, `${freezeAfterMs} ms: logout ${status}, then ${reply.status}`)
      }
      await w.postgres.kill('SIGCONT')
      await eventually(t, async () => (await readiness(w)).body.mode === 'tail and index', 5_000)
      await eventually(
        t,
        async () => (await getProtected(w.b.url, token)).body.code === 'token_revoked',
        5_000,
      )
    }
  },
)

t.test(
  'Postgres is out of reach for a part of the hold and Redis forgets: that is not acknowledged either',
  async (t) => {
    const redis = await startRedis()
    t.teardown(redis.stop)
    const { env } = await postgresAndRedis(t)
    const relay = await startRelay(t, env.DATABASE_URL as string)
    const stores = { env: { ...env, DATABASE_URL: relay.url, REDIS_URL: redis.url } }
    const a = await startInstance(t, { stores })
    const b = await startInstance(t, { stores })
    for (const mendAfterMs of [205, 215, 225, 235, 245, 255]) {
      const { token } = await registerAndLogIn(a.url)
      const loggingOut = logOut(a.url, token)
      await delay(13)
      relay.cut()
      await flush(redis)
      const mending = delay(mendAfterMs).then(relay.mend)
      const { status } = await loggingOut
      const reply = await getProtected(b.url, token)
      t.ok(
        status === 503 || reply.status !== 200,
        `${mendAfterMs} ms: logout ${status}, then ${reply.status}`,
      )
      await mending
      await eventually(t, async () => (await getProtected(b.url, token)).body.code === 'token_revoked', 5_000)
    }
  },
)

t.test('a token of an unknown key is told quickly that nobody knows, while Postgres hangs', async (t) => {
  const w = await world(t)
  const [, claims, signature] = w.live.split('.')
  const header = Buffer.from(JSON.stringify({ alg: 'ES256', kid: randomUUID(), typ: 'at+jwt' })).toString(
    'base64url',
  )
  await delay(1_100)
  await w.postgres.kill('SIGSTOP')
  for (let i = 0; i < 5; i++) {
    const { reply, took } = await timed(getProtected(w.a.url, `${header}.${claims}.${signature}`))
    t.match(reply, unknown)
    t.ok(took < checkDeadlineMs, `after ${Math.round(took)} ms`)
  }
  await w.postgres.kill('SIGCONT')
})
