/**
 * How often a client may ask, counted in Redis, or in memory where there is none and while it is away. Only what needs no
 * token is counted, or takes a password or a code: another guarded route costs little, and its client is known. Unless the token is
 * forged, which costs a signature check: those are counted too.
 */
import { createHash } from 'node:crypto'
import rateLimit, { type RateLimitPluginOptions } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { canonicalUsername } from '../accounts/usernames.ts'
import type { LimitName } from '../audit/events.ts'
import { createLimitHits } from '../audit/limit-hits.ts'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'
import { networkOf } from './client-network.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Counts every request to the scope it is called on by client address, and refuses the surplus. */
    limitByAddress(this: FastifyInstance): void
    /** For preHandler, where passwords are shown: counts by address and account together, before any hashing. @throws Outcome `rate_limited` */
    limitLogins(request: FastifyRequest, reply: FastifyReply): Promise<void>
    /** How many tokens whose signature is wrong each address may send, to this process: it is this one's time that they take. */
    forgeryBudget: {
      /** @throws Outcome `rate_limited` */
      assertLeft(request: FastifyRequest): Promise<void>
      spend(request: FastifyRequest): Promise<void>
    }
  }
}

export interface LimitsOptions {
  config: Pick<Config, 'limits'>
}

type Count = ReturnType<FastifyInstance['createRateLimit']>
type Counted = Exclude<Awaited<ReturnType<Count>>, { isAllowed: true }>

export default fp(
  async function limits(app: FastifyInstance, { config }: LimitsOptions) {
    const { rateRedis, audit } = app
    const noteLimitHit = createLimitHits({ audit })

    const { address, login, forgery } = config.limits
    const countAddress = await createCount(address, networkOf, 'rl:address:')
    const countLogin = await createCount(login, loginOf, 'rl:login:')
    const countForgery = await createCount(forgery, networkOf)

    /** @param inRedis how its keys there begin; without it, this process counts by itself. @returns undefined where the limit is off */
    async function createCount(
      { max, windowSeconds }: Config['limits']['address'],
      keyGenerator: (request: FastifyRequest) => string,
      inRedis?: string,
    ): Promise<Count | undefined> {
      if (max === 0) return undefined
      const options = { max, timeWindow: windowSeconds * 1000, keyGenerator }
      const count = await registerCount(app, options)
      if (!rateRedis || inRedis === undefined) return count
      const countTogether = await registerCount(app, { ...options, redis: rateRedis, nameSpace: inRedis })
      return (request) => countTogether(request).catch(() => count(request))
    }

    function refuse(
      limit: LimitName,
      { origin }: FastifyRequest,
      { key, ttl, ttlInSeconds }: Counted,
    ): never {
      noteLimitHit(limit, key, ttl, origin)
      throw new Outcome('rate_limited', { retryAfterSeconds: Math.max(1, ttlInSeconds) })
    }

    app.decorate('limitByAddress', function () {
      this.describeRoutes({ failures: ['rate_limited'] })
      this.addHook('onRequest', async (request, reply) => {
        const surplus = tell(reply, await countAddress?.(request))
        if (surplus) refuse('address', request, surplus)
      })
    })

    app.decorate('limitLogins', async (request, reply) => {
      const surplus = tell(reply, await countLogin?.(request))
      if (surplus) refuse('login', request, surplus)
    })

    app.decorate('forgeryBudget', {
      async assertLeft(request) {
        const count = await countForgery?.(request, { increment: false })
        if (count?.isAllowed === false && count.remaining === 0) refuse('forgery', request, count)
      },
      async spend(request) {
        await countForgery?.(request)
      },
    })
  },
  { name: 'limits', dependencies: ['audit', 'redis', 'openapi'] },
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

/**
 * Tells the client what is left to it, of the limit that is nearest or that refuses it.
 *
 * @returns the count if this request is beyond the limit
 */
function tell(reply: FastifyReply, count: Awaited<ReturnType<Count>> | undefined): Counted | undefined {
  // The library's word for its list of exceptions, and there is none here.
  if (!count || count.isAllowed) return undefined
  const { max, remaining, ttlInSeconds, isExceeded } = count
  const told = reply.getHeader('ratelimit-remaining')
  if (isExceeded || told === undefined || remaining < Number(told)) {
    reply.headers({
      'ratelimit-limit': max,
      'ratelimit-remaining': remaining,
      'ratelimit-reset': ttlInSeconds,
    })
  }
  return isExceeded ? count : undefined
}

/** Hashed: people type passwords where names belong. However a name is spelled, it is one account. */
function loginOf(request: FastifyRequest): string {
  const { username } = request.body as { username?: string }
  const account = username === undefined ? request.accessToken.claims.sub : canonicalUsername(username)
  return createHash('sha256')
    .update(`${networkOf(request)} ${account ?? username}`)
    .digest('base64url')
}
