import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { LogoutBody, LogoutQuery } from '../schemas/sessions.ts'

/**
 * Stands outside the guarded scope: an expired or revoked token may still end its own session, and ending that twice is fine.
 * To end others takes a live one.
 */
export const logoutRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post('/logout', { schema: { querystring: LogoutQuery, body: LogoutBody } }, async (request, reply) => {
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
  })
}
