import { randomUUID } from 'node:crypto'
import type { PersonClaims, ServiceClaims } from '../bearer/claims.ts'
import type { SigningKeys } from './signing-keys.ts'

/** What a session says about its owner and about how they came in. All times in seconds since the epoch. */
export interface AccessTokenSubject {
  sub: string
  sid: string
  ver: number
  roles: readonly string[]
  authTime: number
  amr: readonly string[]
  acr: string
  iat: number
  /** No token outlives its session. */
  notAfter: number
}

/** A service, as its client account says of it. `iat` is in seconds since the epoch. */
export interface ServiceTokenSubject {
  clientId: string
  ver: number
  scopes: readonly string[]
  iat: number
}

export interface IssuedToken {
  token: string
  /** Seconds from `iat`. */
  expiresIn: number
}

export interface AccessTokens {
  /** Issues a token (RFC 9068). */
  issue(subject: AccessTokenSubject): IssuedToken
  /** Issues a token to a service, for itself. */
  issueToService(subject: ServiceTokenSubject): IssuedToken
  /** The greatest `exp` of a token issued at a moment, were its session endless. In seconds since the epoch. */
  latestExpiry(iat: number): number
}

export interface AccessTokensOptions {
  keys: Pick<SigningKeys, 'sign'>
  issuer: string
  audience: string
  clientId: string
  ttlSeconds: number
}

/** So much of a lifetime may be left out at random: clients that began together must not all come back at once. */
const jitter = 0.05

export function createAccessTokens(options: AccessTokensOptions): AccessTokens {
  const { keys, issuer, audience, clientId, ttlSeconds } = options
  const expiryOf = (iat: number) => iat + ttlSeconds - Math.floor(Math.random() * jitter * ttlSeconds)

  return {
    latestExpiry: (iat) => iat + ttlSeconds,

    issue({ sub, sid, ver, roles, authTime, amr, acr, iat, notAfter }) {
      const exp = Math.min(expiryOf(iat), notAfter)
      const claims: PersonClaims = {
        iss: issuer,
        aud: audience,
        sub,
        client_id: clientId,
        iat,
        exp,
        jti: randomUUID(),
        sid,
        ver,
        roles,
        auth_time: authTime,
        amr,
        acr,
      }
      return { token: keys.sign(claims), expiresIn: exp - iat }
    },

    issueToService({ clientId, ver, scopes, iat }) {
      const exp = expiryOf(iat)
      const claims: ServiceClaims = {
        iss: issuer,
        aud: audience,
        sub: clientId,
        client_id: clientId,
        iat,
        exp,
        jti: randomUUID(),
        ver,
        scope: scopes.join(' '),
      }
      return { token: keys.sign(claims), expiresIn: exp - iat }
    },
  }
}
