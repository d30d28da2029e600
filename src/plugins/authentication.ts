/** The guard of every route that needs an access token: who stands inside the scope that has it is guarded. */
import type { FastifyInstance, onRequestHookHandler } from 'fastify'
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

    const recognise: onRequestHookHandler = (request, _reply, done) => {
      const presented = presentedToken(request.raw.rawHeaders)
      if ('failure' in presented) return done(new Outcome(presented.failure))
      inspectToken(request, presented.token)
        .then((token) => {
          request.accessToken = token
          done()
        })
        .catch(done)
    }

    app.decorate('recognise', recognise)
    app.decorate('authenticate', function authenticate(request, reply, done) {
      recognise.call(this, request, reply, (error) => {
        if (error) return done(error)
        const { kid, claims } = request.accessToken
        if (isExpired(claims, inSeconds(clock), config.clockToleranceSeconds))
          return done(new Outcome('token_expired'))
        check({ kid, ...claims }, (verdict) => {
          if (verdict === 'live') done()
          else done(new Outcome(verdict === 'revoked' ? 'token_revoked' : 'revocation_unknown'))
        })
      })
    })
  },
  { name: 'authentication', dependencies: ['clock', 'revocation', 'token-inspection'] },
)
