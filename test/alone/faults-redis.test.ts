/** Whatever happens to Redis, or on the way to it: a revocation that was acknowledged holds on both instances. */
import { mkdirSync, rmSync } from 'node:fs'
import t from 'tap'
import { withRedis } from '../fixtures/app.ts'
import { backAfterRedisMs, endure, type Fault } from '../fixtures/endure.ts'
import {
  replyLoading,
  replyMisconfigured,
  replyNoAuth,
  replyOutOfMemory,
  replyReadOnly,
} from '../fixtures/redis-replies.ts'
import { startCluster, startSentinel, type Topology, tell } from '../fixtures/redis-topologies.ts'
import type { Server } from '../fixtures/servers.ts'
import type { World } from '../fixtures/world.ts'

const relays = ({ a, b }: World) => [a, b].flatMap(({ toRedis }) => toRedis ?? [])

/** A Redis that can be reached, but says that it cannot do what it is asked. */
function replying(code: string, provoke: (server: Server) => Promise<() => Promise<void>>): Fault {
  let undo: (() => Promise<void>) | undefined
  return {
    name: `replies of ${code}`,
    missing: ['redis'],
    async strike({ redis }) {
      undo = await provoke(redis)
    },
    mend: () => undo?.() ?? Promise.resolve(),
  }
}

const faults: Fault[] = [
  {
    name: 'killed and started again, with what Debian configures',
    missing: ['redis'],
    strike: ({ redis }) => redis.kill('SIGKILL'),
    mend: ({ redis }) => redis.start(),
  },
  {
    name: 'every entry deleted',
    async strike({ redis }) {
      await withRedis(redis.url, async (client) => {
        for (const key of await client.keys('rv:*')) await client.del(key)
      })
    },
  },
  { name: 'flushed', strike: ({ redis }) => withRedis(redis.url, (client) => client.flushall()) },
  {
    name: 'flushed again and again',
    strike: ({ redis }) => withRedis(redis.url, (client) => client.flushall()),
    async meanwhile(world) {
      const taking = world.takeBack(await world.logIn(6))
      let done = false
      const flushing = withRedis(world.redis.url, async (client) => {
        while (!done) await client.flushall()
      })
      await taking
      done = true
      await flushing
    },
  },
  {
    name: 'eviction under volatile-lru',
    async strike({ redis }) {
      await withRedis(redis.url, async (client) => {
        const before = (await client.keys('rv:*')).length
        await client.config('SET', 'maxmemory-policy', 'volatile-lru')
        await client.config('SET', 'maxmemory', '4mb')
        for (let i = 0; i < 200; i++) await client.set(`session-${i}`, '-'.repeat(50_000), 'EX', 60)
        const after = (await client.keys('rv:*')).length
        if (after === before) throw new Error('nothing was evicted')
      })
    },
    mend: ({ redis }) => withRedis(redis.url, (client) => client.config('SET', 'maxmemory', '0')),
  },
  {
    name: 'its folder deleted and a fresh one on the same port',
    missing: ['redis'],
    async strike({ redis }) {
      await redis.kill('SIGKILL')
      rmSync(redis.dir, { recursive: true })
      mkdirSync(redis.dir)
    },
    mend: ({ redis }) => redis.start(),
  },
  {
    name: 'frozen',
    missing: ['redis'],
    strike: ({ redis }) => redis.kill('SIGSTOP'),
    mend: ({ redis }) => redis.kill('SIGCONT'),
  },
  {
    name: 'half-open connections',
    missing: ['redis'],
    strike: async (world) => relays(world).map((relay) => relay.stall()),
    mend: (world) => Promise.all(relays(world).map((relay) => relay.mend())),
  },
  {
    name: 'connections reset',
    strike: async (world) => relays(world).map((relay) => relay.reset()),
  },
  {
    name: 'one instance cut off',
    strike: async ({ a }) => a.toRedis?.cut(),
    mend: async ({ a }) => a.toRedis?.mend(),
  },
  {
    name: 'answers that are late',
    missing: ['redis'],
    strike: async (world) => relays(world).map((relay) => relay.delay(400)),
    mend: async (world) => relays(world).map((relay) => relay.delay(0)),
  },
]

endure(
  t,
  [
    ...faults,
    replying('LOADING', replyLoading),
    replying('READONLY', replyReadOnly),
    replying('OOM', replyOutOfMemory),
    replying('MISCONF', replyMisconfigured),
    replying('NOAUTH', replyNoAuth),
  ],
  {
    backWithinMs: backAfterRedisMs,
    relayed: ['redis'],
    redis: { args: ['--save', '3600 1 300 100 60 10000'] },
  },
)

/** How many keys it holds. */
const countKeys = async (server: Server, pattern: string) =>
  ((await tell(server, 'KEYS', pattern)) as string[]).length

/** The limit by address goes through Redis too, and refuses nobody here. */
const counting = { RATE_MAX: '1000000' }
const isCounting = async ({ servers }: Topology) =>
  (await Promise.all(servers.map((server) => countKeys(server, 'rl:address:*')))).some((count) => count > 0)

t.test(
  'Sentinels promote a replica that was cut off, and one instance goes on with the old master',
  async (t) => {
    const sentinel = await startSentinel()
    t.teardown(sentinel.stop)
    endure(
      t,
      [
        {
          name: 'the link is cut, and then the replica is promoted',
          async strike(world, t) {
            const { master, replica } = sentinel
            await sentinel.cutReplication()
            const tokens = await world.logIn(4)
            t.strictSame(await world.takeBack(tokens), [204, 204, 204, 204])
            t.ok(await isCounting(sentinel), 'requests are counted in it')
            await sentinel.promoteReplica()
            await world.restart(world.b)
            const [kept, left] = await Promise.all(
              [master, replica].map((server) => countKeys(server, 'rv:*')),
            )
            t.ok(Number(left) < Number(kept), 'the new master has never heard of some')
            t.match(await tell(master, 'CLIENT', 'LIST'), /name=latchkey/, 'the old one is still asked')
            t.match(await tell(replica, 'CLIENT', 'LIST'), /name=latchkey/, 'as the new one is')
          },
          mend: sentinel.heal,
        },
      ],
      { backWithinMs: backAfterRedisMs, topology: sentinel, env: counting },
    )
  },
)

t.test('in a Cluster of three, a stale replica takes over, and no connection tells of it', async (t) => {
  const cluster = await startCluster()
  t.teardown(cluster.stop)
  endure(
    t,
    [
      {
        name: 'the link is cut, and then the replica takes over',
        async strike(world, t) {
          await cluster.cutReplication()
          t.strictSame(await world.takeBack(await world.logIn(4)), [204, 204, 204, 204])
          t.ok(await isCounting(cluster), 'requests are counted in it')
          const kept = await countKeys(cluster.owner, '{rv}:*')
          await cluster.takeOver()
          const left = await countKeys(cluster.owner, '{rv}:*')
          t.ok(left < kept, 'it has never heard of some')
        },
      },
    ],
    { backWithinMs: backAfterRedisMs, topology: cluster, env: counting },
  )
})
