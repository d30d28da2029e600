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
    assertDemand(demand)
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

  express: (demand = {}) => {
    assertDemand(demand)
    return (request, response, next) => {
      verify(request.rawHeaders, demand).then(
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

/** What Fastify has of its own among the options of a plugin. */
const ofFastify = ['prefix', 'logLevel', 'logSerializers']

/** What is misspelt or missing must not be a demand less. */
function assertDemand(demand: Demand): void {
  for (const [name, value] of Object.entries(demand)) {
    if (ofFastify.includes(name)) continue
    if (name !== 'scope' && name !== 'role') throw new TypeError(`nothing can be demanded by ${name}`)
    if (typeof value !== 'string' || value === '')
      throw new TypeError(`the ${name} that is demanded is missing`)
  }
}
