/** The verifier where requests come in: for Fastify, and for Express and whatever has its middleware. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyPluginAsync, FastifyPluginOptions } from 'fastify'
import fp from 'fastify-plugin'
import type { AccessTokenClaims } from '../bearer/claims.ts'
import { assertDemand, type Demand } from './demand.ts'
import { Refused } from './refused.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Behind a guard of `latchkey/verifier`: what the token says that was let through. */
    tokenClaims: AccessTokenClaims
  }
}

/** A request behind the middleware, of Node or of what extends it: `request as GuardedRequest<Request>`. */
export type GuardedRequest<Base = IncomingMessage> = Base & { tokenClaims: AccessTokenClaims }

export interface Guards {
  /** Guards all routes of the scope that it is registered in. */
  fastify: FastifyPluginAsync<Demand>
  /** Guards what comes behind it. */
  express(
    demand?: Demand,
  ): (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void
}

const problemMediaType = 'application/problem+json'

type Admit = (rawHeaders: readonly string[], demand: Demand) => Promise<AccessTokenClaims>

/** @param admit by a demand that was found good */
export const createGuards = (admit: Admit): Guards => ({
  // The rest is what Fastify has of its own among the options of a plugin.
  fastify: fp(async (app, options: FastifyPluginOptions) => {
    const { prefix, logLevel, logSerializers, ...demand } = options
    assertDemand(demand)
    if (!app.hasRequestDecorator('tokenClaims')) app.decorateRequest('tokenClaims')
    app.addHook('onRequest', async (request, reply) => {
      try {
        request.tokenClaims = await admit(request.raw.rawHeaders, demand)
      } catch (error) {
        if (!(error instanceof Refused)) throw error
        const { statusCode, headers, problem } = error
        return reply.code(statusCode).headers(headers).type(problemMediaType).send(JSON.stringify(problem))
      }
    })
  }),

  express: (demand = {}) => {
    assertDemand(demand)
    return (request, response, next) => {
      admit(request.rawHeaders, demand).then(
        (claims) => {
          ;(request as GuardedRequest).tokenClaims = claims
          next()
        },
        (error: unknown) => {
          if (!(error instanceof Refused)) return next(error)
          if (response.headersSent) return
          const { statusCode, headers, problem } = error
          response.writeHead(statusCode, { ...headers, 'Content-Type': problemMediaType })
          response.end(JSON.stringify(problem))
        },
      )
    }
  },
})
