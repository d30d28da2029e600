/**
 * What an access token says (RFC 9068). A signature proves who wrote a token, not that every claim has the
 * type that the reader expects: `exp: 1e999`, an empty `jti` or a `sub` that is a list all sign well. So each
 * claim's shape is checked here, after the signature, and whatever is not exactly right is refused.
 */
import { isRole } from './roles.ts'
import { parseScope } from './scopes.ts'

interface CommonClaims {
  iss: string
  aud: string
  /** The account, or the client (a UUID). */
  sub: string
  client_id: string
  /** Seconds since the epoch, as are `exp` and `auth_time`. */
  iat: number
  exp: number
  /** This token (a UUID). */
  jti: string
  /** The generation of the account or client under which it was issued, from 1. */
  ver: number
}

export interface PersonClaims extends CommonClaims {
  /** The session it belongs to (a UUID). */
  sid: string
  roles: readonly string[]
  auth_time: number
  /** How the person proved who they are (RFC 8176). */
  amr: readonly string[]
  acr: string
}

/** Of a service, which is its own client. */
export interface ServiceClaims extends CommonClaims {
  /** What it may do, with spaces between (RFC 6749 §3.3). */
  scope: string
}

/** No token lives longer, in seconds, whatever an instance is set to: for whoever ends what others have issued. */
export const longestLifetimeSeconds = 86_400

export type AccessTokenClaims = PersonClaims | ServiceClaims

export const isOfPerson = (claims: AccessTokenClaims): claims is PersonClaims => 'sid' in claims

/** Whether it was granted this scope. */
export const hasScope = (claims: AccessTokenClaims, scope: string): boolean =>
  'scope' in claims && parseScope(claims.scope)?.includes(scope) === true

/** A token whose signature and claims hold, with the key that signed it. Whether it was taken back is another question. */
export interface AccessToken<Claims = AccessTokenClaims> {
  kid: string
  claims: Claims
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

const isText = (value: unknown) => typeof value === 'string' && value !== ''
export const isId = (value: unknown): value is string => typeof value === 'string' && uuid.test(value)
const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) > 0
/** A revocation outlives what it refuses, so its end must still be a date that Postgres and JavaScript can write. */
const isMoment = (value: unknown) => isCount(value) && (value as number) < 100_000_000_000
const isTexts = (value: unknown) => Array.isArray(value) && value.every(isText)
const isScope = (value: unknown) =>
  typeof value === 'string' && (value === '' || parseScope(value) !== undefined)
const isRoles = (value: unknown) => isTexts(value) && (value as string[]).every(isRole)

type Shapes<Claims> = Record<keyof Claims, (value: unknown) => boolean>

const shapesOfAll: Shapes<CommonClaims> = {
  iss: isText,
  aud: isText,
  sub: isId,
  client_id: isText,
  iat: isMoment,
  exp: isMoment,
  jti: isId,
  ver: isCount,
}
const shapesOfPerson: Shapes<PersonClaims> = {
  ...shapesOfAll,
  sid: isId,
  roles: isRoles,
  auth_time: isMoment,
  amr: isTexts,
  acr: isText,
}
const shapesOfService: Shapes<ServiceClaims> = { ...shapesOfAll, scope: isScope }

/** What is wrong with a token whose signature holds, for a log, or undefined if all is well. */
export function faultOf(header: object, payload: Record<string, unknown>): string | undefined {
  // Exactly alg, kid and typ: what else could stand there, such as crit, nobody here understands.
  if (Object.keys(header).length !== 3) return 'header'
  const claim = misshapenClaim(payload)
  return claim && `claim ${claim}`
}

/** The name of the first claim of a decoded payload that is missing or misshapen, or undefined if all are well. */
export function misshapenClaim(payload: Record<string, unknown>): string | undefined {
  const isService = 'scope' in payload && payload.sub === payload.client_id
  const shapes: Record<string, (value: unknown) => boolean> = isService ? shapesOfService : shapesOfPerson
  for (const name in shapes) {
    if (!shapes[name]?.(payload[name])) return name
  }
  // What says both would be taken for the one by some and for the other by others.
  return isService && 'sid' in payload ? 'sid' : undefined
}

/** Of a token without a fault. Frozen: every request that brings this token will see these. */
export function freezeClaims(payload: object): AccessTokenClaims {
  const claims = payload as AccessTokenClaims
  for (const part of [claims, ...Object.values(claims)]) Object.freeze(part)
  return claims
}

/** Whether a token's life is over (RFC 7519 §4.1.4). `now` is in seconds since the epoch, `tolerance` in seconds. */
export function isExpired(claims: Pick<AccessTokenClaims, 'exp'>, now: number, tolerance: number): boolean {
  return now >= claims.exp + tolerance
}

/** Whether a token was issued in the verifier's future, further than its clock can be wrong. The same units. */
export function isFromTheFuture(
  claims: Pick<AccessTokenClaims, 'iat'>,
  now: number,
  tolerance: number,
): boolean {
  return claims.iat > now + tolerance
}
