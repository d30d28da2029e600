/** The guard of every route that needs an access token: who stands inside the scope that has it is guarded. */
import type { FastifyInstance, FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import { presentedToken } from '../bearer/authorization-header.ts'
import { type AccessToken, isExpired } from '../bearer/claims.ts'
import type { Config } from '../config.ts'
import { inSeconds } from '../db/clock.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** For onRequest: lets through live tokens only, by the Bearer table of the README. */
    authenticate: onRequestHookHandler
    /** For onRequest of who ends sessions: a token that was ours is enough, expired or revoked. */
    recognise: onRequestHookHandler
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

    app.decorate('recognise', (request, _reply, done) => {
      inspectPresented(request)
        .then((token) => {
          request.accessToken = token
          done()
        })
        .catch(done)
    })

    app.decorate('authenticate', (request, _reply, done) => {
      inspectPresented(request)
        .then((token) => {
          const { kid, claims } = token
          if (isExpired(claims, inSeconds(clock), config.clockToleranceSeconds))
            throw new Outcome('token_expired')
          check({ kid, ...claims }, (verdict) => {
            if (verdict !== 'live')
              return done(new Outcome(verdict === 'revoked' ? 'token_revoked' : 'revocation_unknown'))
            request.accessToken = token
            done()
          })
        })
        .catch(done)
    })
  },
  { name: 'authentication', dependencies: ['clock', 'revocation', 'token-inspection'] },
)
