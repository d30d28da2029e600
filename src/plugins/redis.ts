import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import type { RedisAddress } from '../redis-address.ts'
import { connectRedis, type RedisClient } from '../revocation/redis.ts'

declare module 'fastify' {
  interface FastifyInstance {
    redis: RedisClient | undefined
    /** For counting only: what a flood writes there need not push revocations out. */
    rateRedis: RedisClient | undefined
  }
}

const deadlineMs = 150
const startMs = 2_000

export interface RedisOptions {
  config: Pick<Config, 'redis' | 'rateRedis'>
}

export default fp(
  async function redis(app: FastifyInstance, { config }: RedisOptions) {
    async function connect(address: RedisAddress): Promise<RedisClient> {
      const client = connectRedis({
        address,
        deadlineMs,
        // Every failed attempt is an error event; what it means for revocation is told once, by the index.
        onError: (err) => app.log.debug({ err }, 'Redis'),
      })
      app.addHook('onClose', async () => client.disconnect())
      // A Redis that is down must not keep the service from starting; the client goes on trying.
      await Promise.race([client.connect().catch(() => {}), delay(startMs, undefined, { ref: false })])
      return client
    }

    const client = config.redis && (await connect(config.redis))
    app.decorate<RedisClient | undefined>('redis', client)
    app.decorate<RedisClient | undefined>(
      'rateRedis',
      config.rateRedis ? await connect(config.rateRedis) : client,
    )
  },
  { name: 'redis' },
)
