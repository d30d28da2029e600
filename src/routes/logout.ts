import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { NoContent } from '../schemas/no-content.ts'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

const description = `\
Ends the session of the presented token, with \`scope\` the others of its account, or all of them. To end its own session, an
access token may have expired or been revoked before, and a refresh token may have been used. To end others it must be live.`

/** Stands outside the guarded scope, for it takes old tokens too. */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/logout',
    {
      config: {
        failures: [
          'malformed_authorization',
          'missing_token',
          'token_invalid',
          'token_expired',
          'token_revoked',
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
      const { origin, body } = request
      const { scope = 'session' } = request.query
      const isOwn = scope === 'session'

      if (body?.refresh_token === undefined) {
        await (isOwn ? app.recognise(request) : app.authenticate(request))
      } else if (request.headers.authorization !== undefined) {
        throw new Outcome('invalid_request', {
          detail: 'Send the access token or the refresh token, not both.',
        })
      }
      const holder =
        body?.refresh_token === undefined
          ? request.accessToken.claims
          : await app.sessions.findHolder(body.refresh_token, isOwn ? 'known' : 'live')

      if (scope === 'session') await app.sessions.end(holder, origin)
      else if (scope === 'others') await app.sessions.endOthers(holder, origin)
      else await app.sessions.endAll(holder, origin)
      return reply.code(204).send()
    },
  )
}
