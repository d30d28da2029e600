import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { RefreshBody, SessionTokens } from '../schemas/sessions.ts'

export const refreshRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/refresh',
    { schema: { body: RefreshBody, response: { 200: SessionTokens } } },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return await app.sessions.refresh(request.body.refresh_token, request.origin)
    },
  )
}
