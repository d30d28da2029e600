/** The verifier where requests come in: for Fastify, and for Express and whatever has its middleware. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type { AccessTokenClaims } from '../bearer/claims.ts'
import { Refused } from './refused.ts'
import type { Demand, Verifier } from './verifier.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Behind a guard of `latchkey/verifier`: what the token says that was let through. */
    tokenClaims: AccessTokenClaims
  }
}

export type GuardedRequest = IncomingMessage & { tokenClaims: AccessTokenClaims }

export interface Guards {
  /** Guards all routes of the scope that it is registered in. */
  fastify: FastifyPluginAsync<Demand>
  /** Guards what comes behind it. */
  express(
    demand?: Demand,
  ): (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void
}

const problemMediaType = 'application/problem+json'

export const createGuards = (verify: Verifier['verify']): Guards => ({
  fastify: fp(async (app, demand) => {
    if (!app.hasRequestDecorator('tokenClaims')) app.decorateRequest('tokenClaims')
    app.addHook('onRequest', async (request, reply) => {
      try {
        request.tokenClaims = await verify(request.raw.rawHeaders, demand)
      } catch (error) {
        if (!(error instanceof Refused)) throw error
        const { statusCode, headers, problem } = error
        return reply.code(statusCode).headers(headers).type(problemMediaType).send(JSON.stringify(problem))
      }
    })
  }),

  express: (demand) => (request, response, next) => {
    verify(request.rawHeaders, demand).then(
      (claims) => {
        ;(request as GuardedRequest).tokenClaims = claims
        next()
      },
      (error: unknown) => {
        if (!(error instanceof Refused)) return next(error)
        const { statusCode, headers, problem } = error
        response.writeHead(statusCode, { ...headers, 'Content-Type': problemMediaType })
        response.end(JSON.stringify(problem))
      },
    )
  },
})
