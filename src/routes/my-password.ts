import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { PasswordChangeBody } from '../schemas/accounts.ts'
import { SessionTokens } from '../schemas/sessions.ts'

const description = `\
This session goes on with the tokens of the reply; where the cookie came along, the refresh token is in the cookie. All others have
ended, and whatever was issued before is dead.`

export const myPasswordRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.put(
    '/me/password',
    {
      preHandler: app.limitLogins,
      config: {
        failures: [
          'cross_site',
          'reauthentication_required',
          'invalid_current_password',
          'password_reset_required',
          'weak_password',
          'overloaded',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'changePassword',
        summary: 'Change my password',
        description,
        tags: ['Accounts'],
        body: PasswordChangeBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { accessToken, body, origin } = request
      const isKept = await app.sessionCookie.isOf(request, accessToken.claims.sid)
      const tokens = await app.accounts.changePassword(accessToken.claims, body, origin)
      return isKept ? app.sessionCookie.keep(reply, tokens) : tokens
    },
  )
}
