/**
 * How such a route is usually guarded: @fastify/jwt verifies the token of every request and, where REDIS_URL is set, asks Redis
 * whether its jti is on the list of those taken back.
 */
import '../../src/kept-tick.ts'
import fastifyJwt, { type Secret } from '@fastify/jwt'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { PersonClaims } from '../../src/bearer/claims.ts'
import { TokenHolder } from '../../src/schemas/tokens.ts'

const { PORT, PUBLIC_KEY, REDIS_URL } = process.env

const app = Fastify()
const redis = REDIS_URL === undefined ? undefined : new Redis(REDIS_URL)
await app.register(fastifyJwt, {
  secret: { public: PUBLIC_KEY as Secret },
  verify: { algorithms: ['ES256'] },
  ...(redis && {
    trusted: async (_request, { jti }) => (await redis.exists(`revoked:${jti}`)) === 0,
  }),
})
app.get(
  '/protected',
  {
    onRequest: async (request) => {
      await request.jwtVerify()
    },
    schema: { response: { 200: TokenHolder } },
  },
  (request, reply) => {
    const { sub, sid, roles, exp } = request.user as PersonClaims
    reply.send({ sub, sid, roles: [...roles], exp })
  },
)
await app.listen({ port: Number(PORT) })
