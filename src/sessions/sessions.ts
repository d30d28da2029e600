/** A session is what one login starts: it owns the refresh token and every access token issued under it, and it ends. */
import { randomUUID } from 'node:crypto'
import { eq } from 'drizzle-orm'
import type { Origin } from '../audit/events.ts'
import type { AccessToken } from '../bearer/claims.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { refreshTokens, sessions } from '../db/tables.ts'
import { sessionEntry } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'

/** Who starts a session, and how they proved who they are (`amr` of RFC 8176, `acr` as a NIST assurance level). */
export interface SessionOwner {
  id: string
  generation: number
  roles: readonly string[]
  amr: readonly string[]
  acr: string
  remember: boolean
}

/** What a client gets to hold (RFC 6749 §5.1). Lifetimes are in seconds from now. */
export interface SessionTokens {
  access_token: string
  token_type: 'Bearer'
  expires_in: number
  refresh_token: string
  refresh_expires_in: number
  session_id: string
}

export interface Sessions {
  /** Starts a session within the transaction that found its owner to be who they were. */
  start(tx: Database, owner: SessionOwner): Promise<SessionTokens>
  /**
   * Ends the session of a token, however old that token is. Ending it twice is the same as once.
   *
   * @throws what revoke throws
   */
  end(token: AccessToken, origin: Origin): Promise<void>
}

export interface SessionsOptions {
  clock: Clock
  accessTokens: AccessTokens
  revoke: Revoke
  /** The longest a refresh token waits to be used, and the longest a session lasts, in seconds. */
  idleSeconds: number
  absoluteSeconds: number
  /** Both, with `remember`. */
  rememberSeconds: number
}

const momentOf = (seconds: number) => new Date(seconds * 1000)
const secondsOf = (moment: Date) => Math.ceil(moment.getTime() / 1000)

/** Sessions live in Postgres alone; what ends them is a revocation. */
export function createSessions(options: SessionsOptions): Sessions {
  const { clock, accessTokens, revoke, idleSeconds, absoluteSeconds, rememberSeconds } = options

  return {
    async start(tx, { id: userId, generation, roles, amr, acr, remember }) {
      const now = inSeconds(clock)
      const end = now + (remember ? rememberSeconds : absoluteSeconds)
      const refreshEnd = Math.min(now + (remember ? rememberSeconds : idleSeconds), end)
      const id = randomUUID()
      const access = accessTokens.issue({
        sub: userId,
        sid: id,
        ver: generation,
        roles,
        authTime: now,
        amr,
        acr,
        notAfter: end,
      })
      const refreshToken = generateOpaqueToken()
      await tx.insert(sessions).values({
        id,
        userId,
        generation,
        authTime: momentOf(now),
        amr: [...amr],
        acr,
        remember,
        expiresAt: momentOf(end),
        accessExpMax: momentOf(access.exp),
      })
      await tx.insert(refreshTokens).values({
        hash: hashOpaqueToken(refreshToken),
        sessionId: id,
        expiresAt: momentOf(refreshEnd),
      })
      return {
        access_token: access.token,
        token_type: 'Bearer',
        expires_in: access.expiresIn,
        refresh_token: refreshToken,
        refresh_expires_in: refreshEnd - now,
        session_id: id,
      }
    },

    async end({ claims: { sid, exp } }, origin) {
      const lastExp = Math.max(exp, accessTokens.latestExpiry())
      await revoke({
        entries: [sessionEntry(sid, lastExp)],
        reason: 'logout',
        origin,
        async within(tx) {
          const [session] = await tx.select().from(sessions).where(eq(sessions.id, sid)).for('update')
          if (session?.endedAt) return []
          await tx
            .update(sessions)
            .set({ endedAt: new Date(clock.now()) })
            .where(eq(sessions.id, sid))
          // Another instance may issue longer tokens than this one.
          return [sessionEntry(sid, Math.max(lastExp, session ? secondsOf(session.accessExpMax) : 0))]
        },
      })
    },
  }
}
