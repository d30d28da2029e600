import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { NoContent } from '../schemas/no-content.ts'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

/** Stands outside the guarded scope: an expired or revoked token may still end its session, and ending it twice is fine. */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/logout',
    {
      onRequest: app.recognise,
      config: {
        failures: [
          'malformed_authorization',
          'missing_token',
          'token_invalid',
          'revocation_unknown',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'logOut',
        summary: 'Log out',
        description: 'Ends the session of the token, which may have expired or been revoked before.',
        tags: ['Sessions'],
        security: [{ bearerAuth: [] }],
        querystring: LogoutQuery,
        body: LogoutBody,
        response: {
          204: NoContent('No instance accepts a token of this session any more.'),
        },
      },
    },
    async (request, reply) => {
      await app.sessions.end(request.accessToken, request.origin)
      return reply.code(204).send()
    },
  )
}
