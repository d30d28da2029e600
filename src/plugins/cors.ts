/** Pages of other origins, if they are listed one by one. To all others a browser shows nothing. */
import fastifyCors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Of a route that no page asks. */
    cors?: false
  }
}

export interface CorsOptions {
  config: Pick<Config, 'corsOrigins'>
}

/** What programs decide by, besides the body. */
const exposedHeaders = [
  'WWW-Authenticate',
  'Retry-After',
  'RateLimit-Limit',
  'RateLimit-Remaining',
  'RateLimit-Reset',
]
/** Chromium keeps it no longer. */
const preflightSeconds = 7_200

export default fp(
  async function cors(app: FastifyInstance, { config: { corsOrigins } }: CorsOptions) {
    if (corsOrigins.length === 0) return
    await app.register(fastifyCors, {
      // A function, for a false of it is no CORS at all: preflights of other origins are 405, like any OPTIONS.
      origin: (origin, done) => done(null, origin !== undefined && corsOrigins.includes(origin)),
      credentials: true,
      exposedHeaders,
      methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      maxAge: preflightSeconds,
      strictPreflight: false,
    })
  },
  { name: 'cors' },
)
