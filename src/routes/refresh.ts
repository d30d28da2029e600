import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { RefreshBody, SessionTokens } from '../schemas/sessions.ts'

const description = `\
Of a session that a browser keeps, it is in the cookie and not in the body, on the way here as on the way back.

A refresh token is used once, and its successor is in the reply. When that was lost, send the same token again: the answer is
the newest successor that is unused. When an old token turns up later, it was stolen, and its session ends.`

export const refreshRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/refresh',
    {
      config: {
        failures: ['cross_site', 'refresh_token_invalid', 'refresh_token_reused', 'unavailable'],
      },
      schema: {
        operationId: 'refresh',
        summary: 'Exchange a refresh token for new tokens',
        description,
        tags: ['Sessions'],
        security: [{}, { sessionCookie: [] }],
        body: RefreshBody,
        response: { 200: SessionTokens },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const given = request.body?.refresh_token
      const kept = app.sessionCookie.read(request)
      if (given !== undefined && kept !== undefined)
        throw new Outcome('invalid_request', {
          detail: 'Send the refresh token in the body or in the cookie, not in both.',
        })
      const presented = given ?? kept
      if (presented === undefined) throw new Outcome('refresh_token_invalid')
      const tokens = await app.sessions.refresh(presented, request.origin)
      return kept === undefined ? tokens : app.sessionCookie.keep(reply, tokens)
    },
  )
}
