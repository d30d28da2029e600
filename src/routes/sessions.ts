import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { NoContent } from '../schemas/no-content.ts'
import { SessionList, SessionParams } from '../schemas/sessions.ts'

export const sessionsRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/sessions',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listSessions',
        summary: 'List my sessions',
        tags: ['Sessions'],
        response: { 200: SessionList },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return { sessions: await app.sessions.list(request.accessToken.claims) }
    },
  )

  app.delete(
    '/sessions/:sid',
    {
      config: { failures: ['not_found', 'reauthentication_required', 'unavailable'] },
      schema: {
        operationId: 'endSession',
        summary: 'End one of my sessions',
        tags: ['Sessions'],
        params: SessionParams,
        response: { 204: NoContent('No instance accepts a token of that session any more.') },
      },
    },
    async (request, reply) => {
      await app.sessions.endOwn(request.accessToken.claims, request.params.sid, request.origin)
      return reply.code(204).send()
    },
  )
}
