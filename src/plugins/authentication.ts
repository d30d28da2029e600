/** The guard of every route that needs an access token: routes registered inside its scope are guarded. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { presentedToken } from '../bearer/authorization-header.ts'
import { type AccessToken, isExpired } from '../bearer/claims.ts'
import type { Config } from '../config.ts'
import { inSeconds } from '../db/clock.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** For onRequest: lets through live tokens only, by the Bearer table of the README. */
    authenticate(request: FastifyRequest): Promise<void>
    /** For onRequest of routes that end sessions: a token that was ours is enough, expired or revoked. */
    recognise(request: FastifyRequest): Promise<void>
  }
  interface FastifyRequest {
    /** Behind a guard: the token that was let through. */
    accessToken: AccessToken
  }
}

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
  },
  { name: 'authentication', dependencies: ['clock', 'revocation', 'token-inspection'] },
)
