/**
 * The one function that turns a presented token into claims: signature, algorithm, key, type, issuer and audience through
 * @fastify/jwt, then the shape of every claim. Time and revocation are the caller's questions: logging out takes old
 * tokens too.
 */
import fastifyJwt, { type Secret } from '@fastify/jwt'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { signingAlgorithms } from '../bearer/algorithms.ts'
import { type AccessTokenClaims, faultOf, freezeClaims } from '../bearer/claims.ts'
import type { PreparedToken } from '../bearer/revoked-tokens.ts'
import { createVerifiedTokens } from '../bearer/verified-tokens.ts'
import type { Config } from '../config.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome } from '../outcomes.ts'
import type { PublicKey } from '../tokens/signing-keys.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * @param presented the text in which the token came, by which it can be recalled
     * @throws Outcome `token_invalid`, or `revocation_unknown` where a key that may exist cannot be looked up
     */
    inspectToken(request: FastifyRequest, token: string, presented: string): Promise<InspectedToken>
    /** The same at once, and at next to no cost, for a text whose token was inspected before; undefined for any other. */
    recallToken(presented: string): InspectedToken | undefined
  }
  interface FastifyRequest {
    /** Handed to @fastify/jwt, which takes a token from a request only. */
    tokenToVerify: string
    /** And handed back: the key that it was checked with, if there is such a key. */
    verifiedWith: PublicKey | undefined
  }
}

export interface InspectedToken extends PreparedToken {
  claims: AccessTokenClaims
  presented: string
}

interface DecodedToken {
  header: { kid?: unknown; alg?: unknown }
  payload: Record<string, unknown>
}

type KeyFound = (error: Error | null, pem?: string) => void

/** Some 2 kB each: nobody but us makes them, so nobody can make them longer. */
const rememberedTokens = 25_000

export interface TokenInspectionOptions {
  config: Pick<Config, 'issuer' | 'audience'>
}

export default fp(
  async function tokenInspection(app: FastifyInstance, { config }: TokenInspectionOptions) {
    const { signingKeys } = app
    const { prepare } = app.revocation
    const verifiedTokens = createVerifiedTokens<InspectedToken>(rememberedTokens)

    /** Calls back at once where it can: then the whole verification is one step. */
    function findKey(request: FastifyRequest, { header: { kid, alg } }: DecodedToken, done: KeyFound): void {
      function give(key: PublicKey | undefined): void {
        if (key && key.alg !== alg)
          done(new Outcome('token_invalid', { reason: 'not the algorithm of its key' }))
        else if (key) {
          request.verifiedWith = key
          done(null, key.pem)
        } else done(new Outcome('token_invalid', { reason: 'unknown kid' }))
      }
      const known = typeof kid === 'string' ? signingKeys.knownPublicKey(kid) : undefined
      if (known || typeof kid !== 'string') give(known)
      else signingKeys.findPublicKey(kid).then(give, done)
    }

    app.decorateRequest('tokenToVerify', '')
    app.decorateRequest('verifiedWith')
    await app.register(fastifyJwt, {
      // The types know only secrets that are sent through a callback.
      secret: { public: findKey as unknown as Secret },
      decode: { complete: true },
      verify: {
        algorithms: [...signingAlgorithms],
        checkTyp: 'at+jwt',
        allowedIss: config.issuer,
        allowedAud: config.audience,
        ignoreExpiration: true,
        complete: true,
        extractToken: (request) => request.tokenToVerify,
      },
    })

    app.decorate('recallToken', (presented) => {
      const known = verifiedTokens.find(presented)
      return known && signingKeys.knownPublicKey(known.kid) ? known : undefined
    })

    app.decorate('inspectToken', async (request, token, presented) => {
      request.tokenToVerify = token
      const claims = claimsOf(await withoutStacks(() => request.jwtVerify<DecodedToken>()).catch(refuse))
      // Not the header's own string: all tokens of a key share one, which is then at hand when they are looked up.
      const { kid } = request.verifiedWith as PublicKey
      const verified = Object.freeze({ presented, ...prepare({ kid, claims }), claims })
      verifiedTokens.add(verified)
      return verified
    })
  },
  { name: 'token-inspection', dependencies: ['revocation', 'tokens'] },
)

function claimsOf({ header, payload }: DecodedToken): AccessTokenClaims {
  const reason = faultOf(header, payload)
  if (reason) throw new Outcome('token_invalid', { reason })
  return freezeClaims(payload)
}

/** The library reports the faults of a token by a dozen codes and several statuses. They are all one outcome. */
function refuse(error: unknown): never {
  if (error instanceof Outcome) throw error
  if (isDatabaseUnavailable(error)) throw new Outcome('revocation_unknown', { cause: error })
  const { code } = error as { code?: string }
  throw new Outcome('token_invalid', { reason: code ?? 'unreadable', cause: error })
}

/** The library makes several errors of a forged token, and nobody reads their stacks, which take microseconds each. */
function withoutStacks<T>(work: () => T): T {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return work()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}
