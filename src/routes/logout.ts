import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { NoContent } from '../schemas/no-content.ts'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

const description = `\
Ends the session of the presented token, with \`scope\` the others of its account, or all of them. To end its own session, an
access token may have expired or been revoked before, and a refresh token may have been used. To end others it must be live.`

/** Stands outside the guarded scope, for it takes old tokens too, and refresh tokens. */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/logout',
    {
      // Whatever else is wrong with a request, whether it has a token is said first.
      async onRequest(request) {
        if (request.headers.authorization === undefined) return
        const { scope = 'session' } = request.query as { scope?: string }
        await (scope === 'session' ? app.recognise(request) : app.authenticate(request))
      },
      async preValidation({ headers, body }) {
        const hasRefreshToken = typeof body === 'object' && body !== null && 'refresh_token' in body
        if (headers.authorization === undefined && !hasRefreshToken) throw new Outcome('missing_token')
      },
      config: {
        failures: [
          'malformed_authorization',
          'missing_token',
          'token_invalid',
          'token_expired',
          'token_revoked',
          'forbidden',
          'refresh_token_invalid',
          'revocation_unknown',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'logOut',
        summary: 'Log out',
        description,
        tags: ['Sessions'],
        security: [{ bearerAuth: [] }, {}],
        querystring: LogoutQuery,
        body: LogoutBody,
        response: {
          204: NoContent('No instance accepts a token of what was ended any more.'),
        },
      },
    },
    async (request, reply) => {
      const { origin, accessToken } = request
      const { scope = 'session' } = request.query
      const refreshToken = request.body?.refresh_token
      if (accessToken && refreshToken !== undefined) {
        throw new Outcome('invalid_request', {
          detail: 'Send the access token or the refresh token, not both.',
        })
      }
      const holder =
        refreshToken === undefined
          ? accessToken.claims
          : await app.sessions.findHolder(refreshToken, scope === 'session' ? 'known' : 'live')

      if (scope === 'session') await app.sessions.end(holder, origin)
      else if (scope === 'others') await app.sessions.endOthers(holder, origin)
      else await app.sessions.endAll(holder, origin)
      return reply.code(204).send()
    },
  )
}
