/**
 * How often a client may ask, counted in Redis, or in memory where there is none and while it is away. Only what needs no
 * token is counted: a guarded route costs little, and its client is known.
 */
import { createHash } from 'node:crypto'
import rateLimit, { normalizeIP, type RateLimitPluginOptions } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyPluginAsync, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { canonicalUsername } from '../accounts/usernames.ts'
import type { Config, Limit } from '../config.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Counts every request to the scope it is called on by client address, and refuses the surplus. */
    limitByAddress(this: FastifyInstance): void
    /** For preHandler of a login: counts by address and account together, before any hashing. @throws Outcome `rate_limited` */
    limitLogins(request: FastifyRequest<{ Body: { username: string } }>): Promise<void>
  }
}

export interface LimitsOptions {
  config: Pick<Config, 'limits'>
}

type Count = ReturnType<FastifyInstance['createRateLimit']>

export default fp(
  async function limits(app: FastifyInstance, { config }: LimitsOptions) {
    const { rateRedis } = app

    /** @returns undefined where the limit is off */
    async function createCount(
      name: string,
      { max, windowSeconds }: Limit,
      keyGenerator: (request: FastifyRequest) => string,
    ): Promise<Count | undefined> {
      if (max === 0) return undefined
      const options = { max, timeWindow: windowSeconds * 1000, keyGenerator }
      const inMemory = await registerCount(app, options)
      if (!rateRedis) return inMemory
      const inRedis = await registerCount(app, { ...options, redis: rateRedis, nameSpace: `rl:${name}:` })
      return (request) => inRedis(request).catch(() => inMemory(request))
    }

    const countAddress = await createCount('address', config.limits.address, addressOf)
    const countLogin = await createCount('login', config.limits.login, loginOf)

    app.decorate('limitByAddress', function () {
      this.describeRoutes({ failures: ['rate_limited'] })
      this.addHook('onRequest', async (request, reply) => {
        const count = await countAddress?.(request)
        if (!count || count.isAllowed) return
        reply.headers({
          'ratelimit-limit': count.max,
          'ratelimit-remaining': count.remaining,
          'ratelimit-reset': count.ttlInSeconds,
        })
        refuseSurplus(count)
      })
    })

    app.decorate('limitLogins', async (request) => {
      const count = await countLogin?.(request)
      if (count && !count.isAllowed) refuseSurplus(count)
    })
  },
  { name: 'limits', dependencies: ['redis', 'openapi'] },
)

/** In a scope of its own, for the library has one store for each. */
async function registerCount(app: FastifyInstance, options: RateLimitPluginOptions): Promise<Count> {
  let count: Count | undefined
  const scoped: FastifyPluginAsync = async (scope) => {
    await scope.register(rateLimit, { global: false, ...options })
    count = scope.createRateLimit()
  }
  await app.register(scoped)
  return count as Count
}

function refuseSurplus({ isExceeded, ttlInSeconds }: { isExceeded: boolean; ttlInSeconds: number }): void {
  if (isExceeded) throw new Outcome('rate_limited', { retryAfterSeconds: Math.max(1, ttlInSeconds) })
}

/** An IPv6 client has a whole /64, and an IPv4 address may be written as IPv6. A connection that is gone has none. */
const addressOf = ({ ip = '' }: FastifyRequest) => normalizeIP(ip)

/** Hashed: people type passwords where names belong. However a name is spelled, it is one account. */
function loginOf(request: FastifyRequest): string {
  const { username } = request.body as { username: string }
  return createHash('sha256')
    .update(`${addressOf(request)} ${canonicalUsername(username) ?? username}`)
    .digest('base64url')
}
