/** Whatever happens to Postgres, or to both stores: a revocation that was acknowledged holds, and none is lost. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { withClient } from '../fixtures/app.ts'
import { bearer, getProtected, type LoggedIn, logIn, logOut, post, refresh } from '../fixtures/client.ts'
import { backAfterPostgresMs, backAfterRedisMs, endure, type Fault } from '../fixtures/endure.ts'
import { eventually } from '../fixtures/eventually.ts'
import { tell } from '../fixtures/redis-topologies.ts'
import type { World } from '../fixtures/world.ts'

const relays = ({ a, b }: World) => [a, b].flatMap(({ toPostgres }) => toPostgres ?? [])

/** Not synchronously: whoever is asked meanwhile would seem to be late. */
const run = promisify(execFile)
/** How often an instance tells in Redis what it knows. */
const heartbeatMs = 200
const nobodyCanRecord = [503, 503] as const

const faults: Fault[] = [
  {
    name: 'killed while its default is not to wait for the disk, and Redis forgets',
    missing: ['postgres'],
    async strike(world, t) {
      t.strictSame(await world.takeBack(await world.logIn(4)), [204, 204, 204, 204])
      await world.postgres.kill('SIGKILL')
    },
    logouts: nobodyCanRecord,
    async mend(world) {
      await world.postgres.start()
      await tell(world.redis, 'FLUSHALL')
      // They know only what the record knows.
      await Promise.all([world.restart(world.a), world.restart(world.b)])
    },
  },
  {
    name: 'frozen, and then Redis forgets',
    missing: ['postgres'],
    strike: ({ postgres }) => postgres.kill('SIGSTOP'),
    async meanwhile(world, t) {
      world.dark = true
      await tell(world.redis, 'FLUSHALL')
      await letsLivingInAgain(t, world, backAfterRedisMs)
    },
    logouts: nobodyCanRecord,
    mend: ({ postgres }) => postgres.kill('SIGCONT'),
  },
  {
    name: 'half-open connections',
    missing: ['postgres'],
    strike: async (world) => relays(world).map((relay) => relay.stall()),
    logouts: nobodyCanRecord,
    mend: (world) => Promise.all(relays(world).map((relay) => relay.mend())),
  },
  {
    name: 'connections reset',
    strike: async (world) => relays(world).map((relay) => relay.reset()),
  },
  {
    name: 'answers that are late',
    strike: async (world) => relays(world).map((relay) => relay.delay(20)),
    mend: async (world) => relays(world).map((relay) => relay.delay(0)),
  },
  {
    name: 'one instance cut off',
    strike: async ({ a }) => a.toPostgres?.cut(),
    logouts: [503, 204],
    mend: async ({ a }) => a.toPostgres?.mend(),
  },
  {
    name: 'one instance cut off, and Redis forgets what the other has acknowledged',
    async strike(world, t) {
      const { a, b, redis, live } = world
      const people = await world.logIn(3)
      a.toPostgres?.cut()
      await eventually(t, async () => !(await a.isWell()))
      for (const { token } of people) {
        t.match(await logOut(b.url, token), { status: 204 })
        t.match(await getProtected(a.url, token), { status: 401 }, 'as the index knows')
        t.match(await getProtected(a.url, live[0] as string), { status: 200 })
      }
      await tell(redis, 'FLUSHALL')
      await isNeverLetIn(t, world, people)
    },
    dark: true,
    logouts: [503, 204],
    mend: async ({ a }) => a.toPostgres?.mend(),
  },
  {
    name: 'one instance cut off as the other commits, and Redis has forgotten before that',
    async strike(world, t) {
      const { redis } = world
      const people = await world.logIn(1)
      await cutOffAsOtherCommits(t, world, people, async () => {
        await tell(redis, 'FLUSHALL')
        // Until the other has heard of the new epoch, and has read the record since.
        const epoch = () => tell(redis, 'GET', 'rv:epoch')
        await eventually(t, async () => (await epoch()) !== null)
        await delay(2 * heartbeatMs)
      })
      await isNeverLetIn(t, world, people)
    },
    dark: true,
    logouts: [503, 204],
    mend: async ({ a }) => a.toPostgres?.mend(),
  },
  {
    name: 'one instance cut off as the other commits, and killed with Redis on its acknowledgement',
    missing: ['postgres'],
    async strike(world, t) {
      const { postgres, redis } = world
      const people = await world.logIn(1)
      await cutOffAsOtherCommits(t, world, people)
      await Promise.all([postgres, redis].map((server) => server.kill('SIGKILL')))
      await redis.start()
      await isNeverLetIn(t, world, people)
    },
    dark: true,
    logouts: nobodyCanRecord,
    async mend({ a, postgres }) {
      await postgres.start()
      await a.toPostgres?.mend()
    },
  },
  {
    name: 'both cut off, one of them comes back, and Redis forgets what it acknowledges',
    async strike(world, t) {
      const { a, b, redis } = world
      const people = await world.logIn(2)
      for (const relay of relays(world)) relay.cut()
      await eventually(t, async () => !(await a.isWell()) && !(await b.isWell()))
      await delay(4 * heartbeatMs)
      await b.toPostgres?.mend()
      for (const { token } of people)
        await eventually(t, async () => (await logOut(b.url, token)).status === 204, backAfterPostgresMs)
      await tell(redis, 'FLUSHALL')
      await isNeverLetIn(t, world, people)
    },
    dark: true,
    logouts: [503, 204],
    mend: async ({ a }) => a.toPostgres?.mend(),
  },
  {
    name: 'frozen while one instance wakes that slept through revocations, and Redis has forgotten',
    async strike(world, t) {
      const { a, b, postgres, redis } = world
      const people = await world.logIn(3)
      a.absent = true
      a.process.signal('SIGSTOP')
      for (const { token } of people) t.match(await logOut(b.url, token), { status: 204 })
      await postgres.kill('SIGSTOP')
      await tell(redis, 'FLUSHALL')
      a.process.signal('SIGCONT')
      await isNeverLetIn(t, world, people)
      a.absent = false
    },
    dark: true,
    logouts: nobodyCanRecord,
    mend: ({ postgres }) => postgres.kill('SIGCONT'),
  },
  {
    name: 'frozen with Redis, which goes on first',
    strike: ({ postgres, redis }) => Promise.all([postgres, redis].map((server) => server.kill('SIGSTOP'))),
    dark: true,
    missing: ['postgres', 'redis'],
    logouts: nobodyCanRecord,
    async mend(world, t) {
      await world.redis.kill('SIGCONT')
      await letsLivingInAgain(t, world, backAfterRedisMs)
      await world.postgres.kill('SIGCONT')
    },
  },
  {
    name: 'killed with Redis, which comes back empty first',
    strike: ({ postgres, redis }) => Promise.all([postgres, redis].map((server) => server.kill('SIGKILL'))),
    dark: true,
    missing: ['postgres', 'redis'],
    logouts: nobodyCanRecord,
    async mend(world, t) {
      await world.redis.start()
      await letsLivingInAgain(t, world, backAfterRedisMs)
      await world.postgres.start()
    },
  },
  {
    name: 'killed with Redis, and comes back first',
    strike: ({ postgres, redis }) => Promise.all([postgres, redis].map((server) => server.kill('SIGKILL'))),
    dark: true,
    missing: ['postgres', 'redis'],
    logouts: nobodyCanRecord,
    async mend(world, t) {
      await world.postgres.start()
      await letsLivingInAgain(t, world, backAfterPostgresMs)
      await world.redis.start()
    },
  },
  {
    name: 'a backup restored under the running service',
    async strike(world, t) {
      const [atOnce, everywhere] = await world.logIn(2)
      if (!atOnce || !everywhere) throw new Error('nobody logged in')
      const restore = await backUp(t, world)
      t.strictSame(await world.takeBack([atOnce]), [204])
      t.match(await post(world.a.url, '/logout?scope=all', undefined, bearer(everywhere.token)), {
        status: 204,
      })
      world.dead.push(everywhere.token)

      await restore()
      await world.isWellWithin(t, backAfterPostgresMs)
      for (const { url } of [world.a, world.b]) {
        const refused = { status: 401, body: { code: 'refresh_token_invalid' } }
        for (const { refreshToken } of [atOnce, everywhere])
          t.match(await refresh(url, refreshToken), refused, 'a session that has ended stays so')
        const { token } = await logIn(url, everywhere)
        for (const member of [world.a, world.b])
          t.match(await getProtected(member.url, token), { status: 200 }, 'and who logs in anew is let in')
      }
    },
  },
]

endure(t, faults, {
  backWithinMs: backAfterPostgresMs,
  relayed: ['postgres'],
  postgres: { settings: { synchronous_commit: 'off', wal_writer_delay: '10s' } },
})

/** Logs somebody out at one instance, and cuts off the other between the first entry in the index and the commit. */
async function cutOffAsOtherCommits(
  t: Test,
  { a, b, postgres, redis }: World,
  [person]: readonly LoggedIn[],
  before?: () => Promise<void>,
): Promise<void> {
  if (!person) throw new Error('nobody logged in')
  const reply = await withClient(postgres.url, async (client) => {
    await client.query('begin; select from revocation_head for update')
    const replying = logOut(b.url, person.token)
    await eventually(t, async () => (await tell(redis, 'EXISTS', `rv:s:${person.sid}`)) === 1)
    await before?.()
    a.toPostgres?.cut()
    await client.query('commit')
    return replying
  })
  t.match(reply, { status: 204 })
}

/** Not even when it has had the time to hear from the other: what that has acknowledged, it must not let in. */
async function isNeverLetIn(t: Test, { a, dead }: World, people: readonly LoggedIn[]): Promise<void> {
  for (const until = Date.now() + 1_500; Date.now() < until; ) {
    const replies = await Promise.all(people.map(({ token }) => getProtected(a.url, token)))
    t.ok(replies.every(({ status }) => status === 401 || status === 503))
  }
  dead.push(...people.map(({ token }) => token))
}

/** And from then on, no answer may be that nobody can tell. */
async function letsLivingInAgain(t: Test, world: World, withinMs: number): Promise<void> {
  await eventually(
    t,
    async () => {
      const replies = await Promise.all(
        [world.a, world.b].map(({ url }) => getProtected(url, world.live[0] as string)),
      )
      return replies.every(({ status }) => status === 200)
    },
    withinMs,
  )
  world.dark = false
  await world.askAround()
}

/** @returns what kills Postgres, puts its folder back to what it is now, and starts it again */
async function backUp(t: Test, { postgres }: World): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-backup-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  await postgres.kill('SIGSTOP')
  await run('cp', ['-a', `${postgres.dir}/.`, folder])
  await postgres.kill('SIGCONT')
  return async () => {
    await postgres.kill('SIGKILL')
    await run('sh', [
      '-c',
      'rm -rf "$1"/* && cp -a "$2"/. "$1" && rm "$1"/postmaster.pid',
      'sh',
      postgres.dir,
      folder,
    ])
    await postgres.start()
  }
}
