import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { TokenHolder } from '../schemas/tokens.ts'

/** The route to try a token on: it costs what the guard costs. */
export const protectedRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/protected',
    {
      schema: {
        operationId: 'getProtected',
        summary: 'Try a token',
        tags: ['Tokens'],
        response: { 200: TokenHolder },
      },
    },
    (request, reply) => {
      const { sub, sid, roles, exp } = request.accessToken.claims
      reply.send({ sub, sid, roles, exp })
    },
  )
}
