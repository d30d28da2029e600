/**
 * The one function that turns a presented token into claims: signature, algorithm, key, type, issuer and audience through
 * @fastify/jwt, then the shape of every claim. Time and revocation are the caller's questions: logging out takes old
 * tokens too.
 */
import fastifyJwt, { type Secret } from '@fastify/jwt'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import {
  type AccessToken,
  type AccessTokenClaims,
  isFromTheFuture,
  misshapenClaim,
} from '../bearer/claims.ts'
import { createVerifiedTokens } from '../bearer/verified-tokens.ts'
import type { Config } from '../config.ts'
import { inSeconds } from '../db/clock.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome } from '../outcomes.ts'
import type { PreparedToken } from '../revocation/check.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * @param presented the text in which the token came, by which it can be recalled
     * @throws Outcome `token_invalid`, `rate_limited` for an address that sent too many such, or `revocation_unknown` where a key
     *   that may exist cannot be looked up
     */
    inspectToken(request: FastifyRequest, token: string, presented: string): Promise<InspectedToken>
    /** The same at once, and at next to no cost, for a text whose token was inspected before; undefined for any other. */
    recallToken(presented: string): InspectedToken | undefined
  }
  interface FastifyRequest {
    /** Handed to @fastify/jwt, which takes a token from a request only. */
    tokenToVerify: string
  }
}

export interface InspectedToken extends AccessToken, PreparedToken {
  presented: string
}

interface DecodedToken {
  header: { kid?: unknown }
  payload: Record<string, unknown>
}

/** Some 2 kB each. */
const rememberedTokens = 25_000

export interface TokenInspectionOptions {
  config: Pick<Config, 'issuer' | 'audience' | 'clockToleranceSeconds'>
}

export default fp(
  async function tokenInspection(app: FastifyInstance, { config }: TokenInspectionOptions) {
    const { clock, signingKeys, forgeryBudget } = app
    const { prepare } = app.revocation
    const verifiedTokens = createVerifiedTokens<InspectedToken>(rememberedTokens)
    const isEarly = (claims: AccessTokenClaims) =>
      isFromTheFuture(claims, inSeconds(clock), config.clockToleranceSeconds)

    async function findKey(_request: FastifyRequest, token: DecodedToken): Promise<string> {
      const { kid } = token.header
      const key = typeof kid === 'string' ? await signingKeys.findPublicKey(kid) : undefined
      if (key === undefined) throw new Outcome('token_invalid', { reason: 'unknown kid' })
      return key
    }

    app.decorateRequest('tokenToVerify', '')
    await app.register(fastifyJwt, {
      // The types know only secrets that are sent through a callback.
      secret: { public: findKey as unknown as Secret },
      decode: { complete: true },
      verify: {
        algorithms: ['ES256'],
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
      return known && signingKeys.isTrusted(known.kid) && !isEarly(known.claims) ? known : undefined
    })

    app.decorate('inspectToken', async (request, token, presented) => {
      await forgeryBudget.assertLeft(request)
      try {
        const verified = Object.freeze({ presented, ...(await inspect(request, token)) })
        verifiedTokens.add(verified)
        return verified
      } catch (error) {
        if (error instanceof Outcome && error.code === 'token_invalid') await forgeryBudget.spend(request)
        throw error
      }
    })

    async function inspect(request: FastifyRequest, token: string): Promise<AccessToken & PreparedToken> {
      request.tokenToVerify = token
      const { header, payload } = await verify(request)
      // Exactly alg, kid and typ: what else could stand there, such as crit, nobody here understands.
      if (Object.keys(header).length !== 3) throw new Outcome('token_invalid', { reason: 'header' })
      const claim = misshapenClaim(payload)
      if (claim) throw new Outcome('token_invalid', { reason: `claim ${claim}` })
      const claims = payload as unknown as AccessTokenClaims
      if (isEarly(claims)) throw new Outcome('token_invalid', { reason: 'issued in the future' })
      // Every request that brings this token will see these.
      for (const part of [claims, claims.roles, claims.amr]) Object.freeze(part)
      return { claims, ...prepare({ ...claims, kid: header.kid as string }) }
    }
  },
  { name: 'token-inspection', dependencies: ['clock', 'limits', 'revocation', 'tokens'] },
)

/** The library reports the faults of a token by a dozen codes and several statuses. They are all one outcome. */
async function verify(request: FastifyRequest): Promise<DecodedToken> {
  try {
    return await request.jwtVerify<DecodedToken>()
  } catch (error) {
    if (error instanceof Outcome) throw error
    if (isDatabaseUnavailable(error)) throw new Outcome('revocation_unknown', { cause: error })
    const { code } = error as { code?: string }
    throw new Outcome('token_invalid', { reason: code ?? 'unreadable', cause: error })
  }
}
