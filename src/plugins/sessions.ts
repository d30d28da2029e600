import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { createSessions, type Sessions } from '../sessions/sessions.ts'

declare module 'fastify' {
  interface FastifyInstance {
    sessions: Sessions
  }
}

export interface SessionsOptions {
  config: Pick<Config, 'refreshTokenTtlSeconds' | 'sessionTtlSeconds' | 'rememberTtlSeconds'>
}

export default fp(
  async function sessions(app: FastifyInstance, { config }: SessionsOptions) {
    const { clock, accessTokens } = app
    app.decorate(
      'sessions',
      createSessions({
        clock,
        accessTokens,
        revoke: app.revocation.revoke,
        idleSeconds: config.refreshTokenTtlSeconds,
        absoluteSeconds: config.sessionTtlSeconds,
        rememberSeconds: config.rememberTtlSeconds,
      }),
    )
  },
  { name: 'sessions', dependencies: ['clock', 'revocation', 'tokens'] },
)
