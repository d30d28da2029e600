import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Outcome } from '../outcomes.ts'
import { NoContent } from '../schemas/no-content.ts'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

const description = `\
Ends the session of the presented token, with \`scope\` the others of its account, or all of them. To end its own session, an
access token may have expired or been revoked before, and a refresh token may have been used. To end others it must be live.

A cookie is cleared whatever becomes of the request, unless \`scope\` is \`others\`.
Pages that have an access token send both.`

/** Stands outside the guarded scope, for it takes old tokens too, and refresh tokens. */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  const endsOthers = ({ query }: FastifyRequest) =>
    ((query as { scope?: string }).scope ?? 'session') !== 'session'

  app.post(
    '/logout',
    {
      // Whatever else is wrong with a request, whether it has a token is said first.
      async onRequest(request) {
        if (request.headers.authorization === undefined) return
        await (endsOthers(request) ? app.authenticate(request) : app.recognise(request))
      },
      async preValidation(request) {
        const { headers, body } = request
        const hasRefreshToken = typeof body === 'object' && body !== null && 'refresh_token' in body
        if (headers.authorization === undefined && !hasRefreshToken && !app.sessionCookie.read(request))
          throw new Outcome('missing_token')
        // Once more: the body may have been held back until the token was revoked.
        if (headers.authorization !== undefined && endsOthers(request)) await app.authenticate(request)
      },
      // Whatever becomes of it, who leaves is not kept here.
      async onSend(request, reply, payload) {
        if ((request.query as { scope?: string }).scope !== 'others') app.sessionCookie.clear(request, reply)
        return payload
      },
      config: {
        failures: [
          'malformed_authorization',
          'missing_token',
          'token_invalid',
          'token_expired',
          'token_revoked',
          'forbidden',
          'reauthentication_required',
          'cross_site',
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
        security: [{ bearerAuth: [] }, { sessionCookie: [] }, {}],
        querystring: LogoutQuery,
        body: LogoutBody,
        response: {
          204: NoContent('No instance accepts a token of what was ended any more.'),
        },
      },
    },
    async (request, reply) => {
      const { origin } = request
      const { scope = 'session' } = request.query
      const holder = await findHolder(app, request, scope === 'session' ? 'known' : 'live')
      if (scope === 'session') await app.sessions.end(holder, origin)
      else if (scope === 'others') await app.sessions.endOthers(holder, origin)
      else await app.sessions.endAll(holder, origin)
      return reply.code(204).send()
    },
  )
}

/** Whose session the presented token is of. A page that has an access token sends the cookie with it, whether it wants to or not. */
async function findHolder(
  { sessions, sessionCookie }: FastifyInstance,
  request: FastifyRequest<{ Body: { refresh_token?: string } | null }>,
  demand: 'live' | 'known',
) {
  const { accessToken, body } = request
  const kept = sessionCookie.read(request)
  if (body?.refresh_token !== undefined && (accessToken || kept !== undefined))
    throw new Outcome('invalid_request', {
      detail: 'Send one token: the access token, or the refresh token in the body or in the cookie.',
    })
  if (accessToken) {
    await sessionCookie.isOf(request, accessToken.claims.sid)
    return accessToken.claims
  }
  const refreshToken = body?.refresh_token ?? kept
  const found = refreshToken === undefined ? undefined : await sessions.findHolder(refreshToken, demand)
  if (!found) throw new Outcome('refresh_token_invalid')
  return found
}
