import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Redis } from 'ioredis'
import type { Config } from '../config.ts'
import { connectRedis } from '../revocation/redis.ts'

declare module 'fastify' {
  interface FastifyInstance {
    redis: Redis | undefined
  }
}

const deadlineMs = 150

export interface RedisOptions {
  config: Pick<Config, 'redisUrl'>
}

export default fp(
  async function redis(app: FastifyInstance, { config }: RedisOptions) {
    if (config.redisUrl === undefined) {
      app.decorate('redis', undefined)
      return
    }
    // Every failed attempt is an error event; what it means for revocation is told once, by the index.
    const client = connectRedis({
      url: config.redisUrl,
      deadlineMs,
      onError: (err) => app.log.debug({ err }, 'Redis'),
    })
    app.addHook('onClose', async () => client.disconnect())
    // A Redis that is down must not keep the service from starting; the client goes on trying.
    await client.connect().catch(() => {})
    app.decorate('redis', client)
  },
  { name: 'redis' },
)
