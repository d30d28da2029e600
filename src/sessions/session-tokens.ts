import type { sessions } from '../db/tables.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'

/** What a client gets to hold (RFC 6749 §5.1). Lifetimes are in seconds from now. */
export interface SessionTokens {
  access_token: string
  token_type: 'Bearer'
  expires_in: number
  refresh_token: string
  refresh_expires_in: number
  session_id: string
  /** For whoever keeps the refresh token; nobody is told. */
  remember: boolean
}

/** A session as its tokens tell of it. Times are in seconds since the epoch. */
export interface SessionFacts {
  id: string
  userId: string
  generation: number
  roles: readonly string[]
  authTime: number
  amr: readonly string[]
  acr: string
  remember: boolean
  idleExpiresAt: number
  expiresAt: number
}

export const sessionFacts = (row: typeof sessions.$inferSelect, roles: readonly string[]): SessionFacts => ({
  id: row.id,
  userId: row.userId,
  generation: row.generation,
  roles,
  authTime: epochSeconds(row.authTime),
  amr: row.amr,
  acr: row.acr,
  remember: row.remember,
  idleExpiresAt: epochSeconds(row.idleExpiresAt),
  expiresAt: epochSeconds(row.expiresAt),
})

export const epochSeconds = (moment: Date) => Math.floor(moment.getTime() / 1000)

/** Puts an access token next to the refresh token that the session has now. */
export const issueSessionTokens = (
  accessTokens: Pick<AccessTokens, 'issue'>,
  session: SessionFacts,
  refreshToken: string,
  now: number,
): SessionTokens => ({ ...issueAccessToken(accessTokens, session, now), refresh_token: refreshToken })

/** Issues an access token to whoever keeps the refresh token that the session has. */
export function issueAccessToken(
  accessTokens: Pick<AccessTokens, 'issue'>,
  session: SessionFacts,
  now: number,
): Omit<SessionTokens, 'refresh_token'> {
  const { token, expiresIn } = accessTokens.issue({
    sub: session.userId,
    sid: session.id,
    ver: session.generation,
    roles: session.roles,
    authTime: session.authTime,
    amr: session.amr,
    acr: session.acr,
    iat: now,
    notAfter: session.expiresAt,
  })
  return {
    access_token: token,
    token_type: 'Bearer',
    expires_in: expiresIn,
    refresh_expires_in: session.idleExpiresAt - now,
    session_id: session.id,
    remember: session.remember,
  }
}
