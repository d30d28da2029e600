import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

/** Stands outside the guarded scope: an expired or revoked token may still end its session, and ending it twice is fine. */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/logout',
    { onRequest: app.recognise, schema: { querystring: LogoutQuery, body: LogoutBody } },
    async (request, reply) => {
      await app.sessions.end(request.accessToken, request.origin)
      return reply.code(204).send()
    },
  )
}
