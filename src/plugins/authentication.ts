/** The guard of every route that needs an access token: routes registered inside its scope are guarded. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { presentedToken } from '../bearer/authorization-header.ts'
import { type AccessToken, isExpired } from '../bearer/claims.ts'
import type { Config } from '../config.ts'
import { inSeconds } from '../db/clock.ts'
import { Outcome, type OutcomeCode } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Guards every route of the scope it is called on: lets through live tokens only, by the Bearer table of the README. */
    demandAccessToken(this: FastifyInstance): void
    /** The same for one request, where it depends on the request. */
    authenticate(request: FastifyRequest): Promise<void>
    /** For what ends a session: a token that was ours is enough, expired or revoked. */
    recognise(request: FastifyRequest): Promise<void>
  }
  interface FastifyRequest {
    /** Behind a guard: the token that was let through. */
    accessToken: AccessToken
  }
}

const refusals: OutcomeCode[] = [
  'malformed_authorization',
  'missing_token',
  'token_invalid',
  'token_expired',
  'token_revoked',
  'revocation_unknown',
]

export interface AuthenticationOptions {
  config: Pick<Config, 'clockToleranceSeconds'>
}

export default fp(
  async function authentication(app: FastifyInstance, { config }: AuthenticationOptions) {
    const { clock, inspectToken } = app
    const { check } = app.revocation

    // Without a guard there is no token, and reading one throws rather than answering for nobody.
    app.decorateRequest('accessToken')

    async function inspectPresented(request: FastifyRequest): Promise<AccessToken> {
      const presented = presentedToken(request.raw.rawHeaders)
      if ('failure' in presented) throw new Outcome(presented.failure)
      return await inspectToken(request, presented.token)
    }

    app.decorate('recognise', async (request: FastifyRequest) => {
      request.accessToken = await inspectPresented(request)
    })

    app.decorate('authenticate', async (request: FastifyRequest) => {
      const token = await inspectPresented(request)
      const { kid, claims } = token
      if (isExpired(claims, inSeconds(clock), config.clockToleranceSeconds))
        throw new Outcome('token_expired')
      const verdict = await check({ kid, ...claims })
      if (verdict === 'revoked') throw new Outcome('token_revoked')
      if (verdict === 'unknown') throw new Outcome('revocation_unknown')
      request.accessToken = token
    })

    app.decorate('demandAccessToken', function () {
      this.addHook('onRequest', this.authenticate)
      this.describeRoutes({ security: [{ bearerAuth: [] }], failures: refusals })
    })
  },
  { name: 'authentication', dependencies: ['clock', 'openapi', 'revocation', 'token-inspection'] },
)
