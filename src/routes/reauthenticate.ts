import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ReauthenticationBody } from '../schemas/accounts.ts'
import { SessionTokens } from '../schemas/sessions.ts'

const description = `\
For what answers \`reauthentication_required\` (RFC 9470). The session goes on: the reply has an access token with a new
\`auth_time\`, the presented one is dead, and the refresh token stays what it is. Whoever has a second factor shows a code of it too.`

export const reauthenticateRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/reauthenticate',
    {
      preHandler: app.limitLogins,
      config: {
        failures: [
          'invalid_current_password',
          'mfa_required',
          'invalid_code',
          'password_reset_required',
          'overloaded',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'reauthenticate',
        summary: 'Prove once more who you are',
        description,
        tags: ['Sessions'],
        body: ReauthenticationBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { accessToken, body, origin } = request
      return await app.accounts.reauthenticate(accessToken.claims, body, origin)
    },
  )
}
