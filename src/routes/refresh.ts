import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { RefreshBody, SessionTokens } from '../schemas/sessions.ts'

const description = `\
A refresh token is used once, and its successor is in the reply. When that was lost, send the same token again: the answer is
the newest successor that is unused. When an old token turns up later, it was stolen, and its session ends.`

export const refreshRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/refresh',
    {
      config: { failures: ['refresh_token_invalid', 'refresh_token_reused', 'unavailable'] },
      schema: {
        operationId: 'refresh',
        summary: 'Exchange a refresh token for new tokens',
        description,
        tags: ['Sessions'],
        body: RefreshBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return await app.sessions.refresh(request.body.refresh_token, request.origin)
    },
  )
}
