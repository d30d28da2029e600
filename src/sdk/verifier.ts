/**
 * `latchkey/verifier`, for backends on Node that take latchkey's tokens. A token is verified here, by the keys of the service, and
 * looked up among what was taken back, which the feed brings here as it happens: no request asks anybody anything.
 */
import { createRemoteJWKSet, errors, jwtVerify } from 'jose'
import { signingAlgorithms } from '../bearer/algorithms.ts'
import { authorizationOf, presentedToken } from '../bearer/authorization-header.ts'
import {
  type AccessTokenClaims,
  faultOf,
  freezeClaims,
  isExpired,
  isFromTheFuture,
} from '../bearer/claims.ts'
import { rightNow } from '../bearer/moments.ts'
import { createRevokedTokens, type PreparedToken } from '../bearer/revoked-tokens.ts'
import { createVerifiedTokens } from '../bearer/verified-tokens.ts'
import { assertDemand, type Demand, lackOf } from './demand.ts'
import { createFeedReader } from './feed-reader.ts'
import { createGuards, type GuardedRequest, type Guards } from './guards.ts'
import { Refused } from './refused.ts'
import { createServiceClient } from './service-client.ts'

export type { AccessTokenClaims, Demand, GuardedRequest }
export { Refused }

export interface VerifierOptions {
  /** The service's ISSUER. */
  issuer: string
  /** Its AUDIENCE. */
  audience: string
  /** Where it is reached from here, if not at its issuer. */
  url?: string
  /** A client with the scope `revocations:read`, and `introspect` if that is to be asked. */
  clientId: string
  clientSecret: string
  /** For how long it may be unknown whether something was taken back: 10 by default. The service tells every 2 seconds. */
  maxStalenessSeconds?: number
  /** What to do beyond it: refuse with 503 `revocation_unknown` (the default), or ask the service about each token. */
  whenStale?: 'refuse' | 'introspect'
  /** By how much clocks may differ: 5 by default. */
  clockToleranceSeconds?: number
  /** Told when the feed is lost, and why, and when it is followed again. Without it, Node's warnings tell of the loss. */
  onChange?(state: 'following' | 'lost', cause?: unknown): void
}

export interface Verifier extends Guards {
  /**
   * Whose request it is.
   *
   * @param rawHeaders of the request, as Node has them: names and values in turn
   * @throws Refused, and TypeError for a demand that is none
   */
  verify(rawHeaders: readonly string[], demand?: Demand): Promise<AccessTokenClaims>
  /**
   * Resolves when all is known that was taken back before. Until then it is stale. Rejects where the service does not take this
   * client, which is tried on, or when this is closed before.
   */
  readonly ready: Promise<void>
  /** Ends the feed. */
  close(): void
}

interface VerifiedToken extends PreparedToken {
  claims: AccessTokenClaims
  presented: string
}

/** Some 2 kB each. */
const rememberedTokens = 25_000
/** How often a token with an unknown kid may cause a look for new keys. Strangers have such tokens too, and good ones wait for it. */
const jwksCooldownMs = 250
const deadlineMs = 2_000

export function createVerifier({
  issuer,
  audience,
  url = issuer,
  clientId,
  clientSecret,
  maxStalenessSeconds = 10,
  whenStale = 'refuse',
  clockToleranceSeconds = 5,
  onChange = warnOfLoss,
  ...others
}: VerifierOptions): Verifier {
  for (const name of Object.keys(others)) throw new TypeError(`nothing is set by ${name}`)
  assertTexts({ issuer, audience, url, clientId, clientSecret })
  assertSeconds({ maxStalenessSeconds }, 3, 86_400)
  // Whoever starts anew is not told of what has been dead for 300 s.
  assertSeconds({ clockToleranceSeconds }, 0, 60)
  if (whenStale !== 'refuse' && whenStale !== 'introspect')
    throw new TypeError('whenStale is refuse or introspect')

  const now = () => Math.floor(Date.now() / 1000)
  const started = rightNow()
  /** For what is forgotten when it has expired: it never jumps ahead, and lags behind where the machine was suspended. */
  const nowAtMost = () =>
    Math.min(now(), Math.floor((started.wall + performance.now() - started.steady) / 1000))
  const at = (path: string) => `${url.replace(/\/$/, '')}${path}`
  const service = createServiceClient({ at, clientId, clientSecret, deadlineMs })
  const keys = createRemoteJWKSet(new URL(at('/.well-known/jwks.json')), {
    // A key is good until the feed says otherwise, whether or not the service is there.
    cacheMaxAge: Number.POSITIVE_INFINITY,
    cooldownDuration: jwksCooldownMs,
    timeoutDuration: deadlineMs,
  })
  const verified = createVerifiedTokens<VerifiedToken>(rememberedTokens)
  const revoked = createRevokedTokens(nowAtMost)
  const feed = createFeedReader({
    url: at('/revocations'),
    getToken: (signal) => service.getToken('revocations:read', signal),
    onEntry: (entry) => revoked.add([entry]),
    onChange,
  })

  /** By its signature and its claims; not yet whether it is good now. */
  async function inspect(rawHeaders: readonly string[]): Promise<VerifiedToken> {
    const presented = presentedToken(rawHeaders)
    if ('failure' in presented) throw new Refused(presented.failure)
    // As it is usually spaced: no other way to write it takes more memory.
    const usual = `Bearer ${presented.token}`
    const known = verified.find(usual)
    if (known) return known
    const { kid, claims } = await verifySignature(presented.token)
    const token = Object.freeze({ presented: usual, ...revoked.prepare({ kid, claims }), claims })
    verified.add(token)
    return token
  }

  async function verifySignature(token: string): Promise<{ kid: string; claims: AccessTokenClaims }> {
    const options = {
      issuer,
      audience,
      typ: 'at+jwt',
      algorithms: [...signingAlgorithms],
      // The time is asked at each use.
      currentDate: new Date(0),
    }
    const { payload, protectedHeader } = await jwtVerify(token, keys, options).catch(refuse)
    const { kid } = protectedHeader
    if (kid === undefined || faultOf(protectedHeader, payload)) throw new Refused('token_invalid')
    return { kid, claims: freezeClaims(payload) }
  }

  async function assertLive(token: VerifiedToken): Promise<void> {
    if (isFromTheFuture(token.claims, now(), clockToleranceSeconds)) throw new Refused('token_invalid')
    if (isExpired(token.claims, now(), clockToleranceSeconds)) throw new Refused('token_expired')
    if (revoked.has(token)) throw new Refused('token_revoked')
    if (feed.ageMs() < maxStalenessSeconds * 1000) return
    if (whenStale === 'refuse') throw new Refused('revocation_unknown')
    // Each request anew: an answer on its way to another one may be from before a revocation.
    const isActive = await service.introspect(token.presented.slice('Bearer '.length)).catch((cause) => {
      throw new Refused('revocation_unknown', { cause })
    })
    if (!isActive) throw new Refused('token_revoked')
  }

  async function admit(rawHeaders: readonly string[], demand: Demand): Promise<AccessTokenClaims> {
    const authorization = authorizationOf(rawHeaders)
    const known = typeof authorization === 'string' ? verified.find(authorization) : undefined
    const token = known ?? (await inspect(rawHeaders))
    await assertLive(token)
    const lack = lackOf(token.claims, demand)
    if (lack) throw new Refused(lack, demand)
    return token.claims
  }

  async function verify(rawHeaders: readonly string[], demand: Demand = {}): Promise<AccessTokenClaims> {
    assertDemand(demand)
    return await admit(rawHeaders, demand)
  }

  feed.start()
  // Not by the first request; and whoever is away later is not missed.
  keys.reload().catch(() => {})
  return { verify, ...createGuards(admit), ready: feed.ready, close: feed.stop }
}

const warnOfLoss = (state: string, cause?: unknown): void => {
  if (state === 'lost') process.emitWarning(`latchkey: the feed of revocations is lost: ${cause}`)
}

/** Settings often come from an environment, and what is missing there must not be a demand less. */
function assertTexts(options: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(options))
    if (typeof value !== 'string' || value === '') throw new TypeError(`${name} is missing`)
}

function assertSeconds(options: Record<string, unknown>, min: number, max: number): void {
  for (const [name, value] of Object.entries(options))
    if (typeof value !== 'number' || !(value >= min && value <= max))
      throw new TypeError(`${name} is a number from ${min} to ${max}`)
}

/** What is wrong with a token, and not with whoever was asked for the keys. */
const faultOfToken = /^ERR_(JW[ST]_|JOSE_(ALG|NOT)_|JWKS_(NO|MULTIPLE)_)/

function refuse(error: unknown): never {
  const isFaulty = error instanceof errors.JOSEError && faultOfToken.test(error.code)
  throw new Refused(isFaulty ? 'token_invalid' : 'revocation_unknown', { cause: error })
}
