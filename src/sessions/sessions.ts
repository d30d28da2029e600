/** A session is what one login starts: it owns the refresh tokens and every access token issued under it, and it ends. */
import { randomUUID } from 'node:crypto'
import { and, desc, eq, isNull } from 'drizzle-orm'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { refreshTokens, sessions, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import type { SessionHolder } from './endings.ts'
import { isLive } from './liveness.ts'
import { issueSessionTokens, type SessionTokens, sessionFacts } from './session-tokens.ts'

/** Who starts a session, and how they proved who they are (`amr` of RFC 8176, `acr` as a NIST assurance level). */
export interface SessionOwner {
  id: string
  generation: number
  roles: readonly string[]
  amr: readonly string[]
  acr: string
  remember: boolean
}

/** What a session tells its owner. */
export interface SessionSummary {
  id: string
  created_at: string
  last_used_at: string
  /** The absolute end. */
  expires_at: string
  remember: boolean
  /** Whether it is the one that asks. */
  current: boolean
}

export interface Sessions {
  /** Starts a session within the transaction that found its owner to be who they were. */
  start(tx: Database, owner: SessionOwner): Promise<SessionTokens>
  /** The live sessions of the holder's account, the youngest first. */
  list(holder: SessionHolder): Promise<SessionSummary[]>
  /**
   * Who holds this refresh token: one that could be used now, or any that was ever given.
   *
   * @throws Outcome `refresh_token_invalid`
   */
  findHolder(refreshToken: string, demand: 'live' | 'known'): Promise<SessionHolder>
}

export interface SessionsOptions {
  db: Database
  clock: Clock
  accessTokens: AccessTokens
  /** The longest a refresh token waits to be used, and the longest a session lasts, in seconds. */
  idleSeconds: number
  absoluteSeconds: number
  /** Both, with `remember`. */
  rememberSeconds: number
}

const momentOf = (seconds: number) => new Date(seconds * 1000)

/** Sessions live in Postgres alone; what ends them is a revocation. */
export function createSessions(options: SessionsOptions): Sessions {
  const { db, clock, accessTokens, idleSeconds, absoluteSeconds, rememberSeconds } = options

  return {
    async start(tx, { id: userId, generation, roles, amr, acr, remember }) {
      const startedAt = new Date(clock.now())
      const now = Math.floor(startedAt.getTime() / 1000)
      const end = now + (remember ? rememberSeconds : absoluteSeconds)
      const idleEnd = now + (remember ? rememberSeconds : idleSeconds)
      const session: typeof sessions.$inferSelect = {
        id: randomUUID(),
        userId,
        generation,
        authTime: momentOf(now),
        amr: [...amr],
        acr,
        remember,
        createdAt: startedAt,
        lastUsedAt: startedAt,
        idleExpiresAt: momentOf(Math.min(idleEnd, end)),
        expiresAt: momentOf(end),
        accessExpMax: momentOf(Math.min(accessTokens.latestExpiry(now), end)),
        endedAt: null,
      }
      const refreshToken = generateOpaqueToken()
      await tx.insert(sessions).values(session)
      await tx.insert(refreshTokens).values({ hash: hashOpaqueToken(refreshToken), sessionId: session.id })
      return issueSessionTokens(accessTokens, sessionFacts(session, roles), refreshToken, now)
    },

    async list({ sub, sid }) {
      const live = await db
        .select({ session: sessions })
        .from(sessions)
        .innerJoin(users, eq(users.id, sessions.userId))
        .where(and(eq(sessions.userId, sub), isLive(clock.now())))
        .orderBy(desc(sessions.createdAt))
      return live.map(({ session }) => ({
        id: session.id,
        created_at: session.createdAt.toISOString(),
        last_used_at: session.lastUsedAt.toISOString(),
        expires_at: session.expiresAt.toISOString(),
        remember: session.remember,
        current: session.id === sid,
      }))
    },

    async findHolder(refreshToken, demand) {
      const isUsable = and(isNull(refreshTokens.usedAt), isLive(clock.now()))
      const [holder] = await db
        .select({ sub: sessions.userId, sid: sessions.id, ver: sessions.generation })
        .from(refreshTokens)
        .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
        .innerJoin(users, eq(users.id, sessions.userId))
        .where(
          and(
            eq(refreshTokens.hash, hashOpaqueToken(refreshToken)),
            demand === 'live' ? isUsable : undefined,
          ),
        )
      if (!holder) throw new Outcome('refresh_token_invalid')
      return holder
    },
  }
}
