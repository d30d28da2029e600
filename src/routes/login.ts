import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { LoginBody, MfaLoginBody } from '../schemas/accounts.ts'
import { SessionTokens } from '../schemas/sessions.ts'

export const loginRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/login',
    {
      preValidation: app.acceptBasicCredentials,
      preHandler: app.limitLogins,
      config: {
        failures: [
          'invalid_credentials',
          'mfa_required',
          'password_reset_required',
          'cross_site',
          'overloaded',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'logIn',
        summary: 'Log in',
        description: 'Credentials are in the body or, without a body, in the header (HTTP Basic).',
        tags: ['Sessions'],
        security: [{}, { basicAuth: [] }],
        body: LoginBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { session = 'body', ...credentials } = request.body
      if (session === 'cookie') app.sessionCookie.assertUsable(request)
      const tokens = await app.accounts.logIn(credentials, request.origin)
      return session === 'cookie' ? app.sessionCookie.keep(reply, tokens) : tokens
    },
  )

  app.post(
    '/login/mfa',
    {
      config: {
        failures: [
          'mfa_token_invalid',
          'invalid_code',
          'password_reset_required',
          'cross_site',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'completeLogin',
        summary: 'Log in: the second factor',
        description: 'For what /login has answered by `mfa_required`, within five minutes.',
        tags: ['Sessions'],
        body: MfaLoginBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { session = 'body', ...shown } = request.body
      if (session === 'cookie') app.sessionCookie.assertUsable(request)
      const tokens = await app.accounts.completeLogin(shown, request.origin)
      return session === 'cookie' ? app.sessionCookie.keep(reply, tokens) : tokens
    },
  )
}
