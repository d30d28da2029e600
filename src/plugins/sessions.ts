import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { createEndings, type Endings } from '../sessions/endings.ts'
import { type AssertFresh, createFreshness } from '../sessions/freshness.ts'
import { createRefresh, type Refresh } from '../sessions/refresh.ts'
import { createSessions, type Sessions } from '../sessions/sessions.ts'

declare module 'fastify' {
  interface FastifyInstance {
    sessions: Sessions & Endings & { refresh: Refresh; assertFresh: AssertFresh }
  }
}

export interface SessionsOptions {
  config: Pick<
    Config,
    | 'refreshTokenTtlSeconds'
    | 'sessionTtlSeconds'
    | 'rememberTtlSeconds'
    | 'refreshGraceSeconds'
    | 'sessionsPerAccount'
    | 'freshSeconds'
  >
}

export default fp(
  async function sessions(app: FastifyInstance, { config }: SessionsOptions) {
    const { clock, audit, accessTokens } = app
    const { db } = app.database
    const { revoke, isRefused } = app.revocation
    const idleSeconds = config.refreshTokenTtlSeconds
    const absoluteSeconds = config.sessionTtlSeconds
    const rememberSeconds = config.rememberTtlSeconds

    const assertFresh = createFreshness({ clock, freshSeconds: config.freshSeconds })
    const endings = createEndings({
      db,
      clock,
      accessTokens,
      revoke,
      audit,
      assertFresh,
      sessionsPerAccount: config.sessionsPerAccount,
    })
    app.decorate('sessions', {
      ...createSessions({ db, clock, accessTokens, idleSeconds, absoluteSeconds, rememberSeconds }),
      ...endings,
      assertFresh,
      refresh: createRefresh({
        db,
        clock,
        accessTokens,
        endings,
        isRefused,
        audit,
        idleSeconds,
        rememberSeconds,
        graceSeconds: config.refreshGraceSeconds,
      }),
    })
  },
  { name: 'sessions', dependencies: ['clock', 'audit', 'database', 'revocation', 'tokens'] },
)
