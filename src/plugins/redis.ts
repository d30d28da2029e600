import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Redis } from 'ioredis'
import type { Config } from '../config.ts'
import { connectRedis } from '../revocation/redis.ts'

declare module 'fastify' {
  interface FastifyInstance {
    redis: Redis | undefined
    /** For counting only: what a flood writes there need not push revocations out. */
    rateRedis: Redis | undefined
  }
}

const deadlineMs = 150

export interface RedisOptions {
  config: Pick<Config, 'redisUrl' | 'rateRedisUrl'>
}

export default fp(
  async function redis(app: FastifyInstance, { config }: RedisOptions) {
    async function connect(url: string): Promise<Redis> {
      const client = connectRedis({
        url,
        deadlineMs,
        // Every failed attempt is an error event; what it means for revocation is told once, by the index.
        onError: (err) => app.log.debug({ err }, 'Redis'),
      })
      app.addHook('onClose', async () => client.disconnect())
      // A Redis that is down must not keep the service from starting; the client goes on trying.
      await client.connect().catch(() => {})
      return client
    }

    const { redisUrl, rateRedisUrl } = config
    const client = redisUrl === undefined ? undefined : await connect(redisUrl)
    app.decorate('redis', client)
    const isShared = rateRedisUrl === undefined || rateRedisUrl === redisUrl
    app.decorate('rateRedis', isShared ? client : await connect(rateRedisUrl))
  },
  { name: 'redis' },
)
