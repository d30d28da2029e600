import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { SessionList, SessionParams } from '../schemas/sessions.ts'

export const sessionsRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/sessions', { schema: { response: { 200: SessionList } } }, async (request, reply) => {
    reply.header('cache-control', 'no-store')
    return { sessions: await app.sessions.list(request.accessToken.claims) }
  })

  app.delete('/sessions/:sid', { schema: { params: SessionParams } }, async (request, reply) => {
    await app.sessions.endOwn(request.accessToken.claims, request.params.sid, request.origin)
    return reply.code(204).send()
  })
}
