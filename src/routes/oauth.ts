import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { NoContent } from '../schemas/no-content.ts'
import { Introspection, OneTokenForm, TokenForm, TokenReply } from '../schemas/oauth.ts'

const tags = ['OAuth']
const security = [{ clientBasic: [] }, {}]

export interface TokenRouteOptions {
  /** Of those who have no secret: first-party apps, whose refresh tokens speak for themselves. */
  publicClientId: string
}

/** RFC 6749. There is no password grant: RFC 9700 §2.4. */
export const oauthTokenRoute: FastifyPluginAsyncTypebox<TokenRouteOptions> = async (
  app,
  { publicClientId },
) => {
  app.post(
    '/oauth2/token',
    {
      config: {
        failures: [
          'invalid_client',
          'invalid_scope',
          'unsupported_grant_type',
          'refresh_token_invalid',
          'refresh_token_reused',
          'unavailable',
        ],
      },
      schema: {
        operationId: 'grantToken',
        summary: 'Get an access token',
        description:
          '`client_credentials` for a service, `refresh_token` for an app of this service, which sends its `client_id` and no secret.',
        tags,
        security,
        body: TokenForm,
        response: { 200: TokenReply },
      },
    },
    async (request) => {
      const { grant_type, scope, refresh_token, client_id, client_secret } = request.body
      if (grant_type === 'client_credentials') {
        await app.authenticateClient(request)
        return app.clients.grant(request.client, scope, request.origin)
      }
      if (grant_type !== 'refresh_token') throw new Outcome('unsupported_grant_type')
      if (refresh_token === undefined) throw new Outcome('invalid_request')
      // None was granted that it could be of (RFC 6749 §6).
      if (scope !== undefined) throw new Outcome('invalid_scope')
      if (request.headers.authorization !== undefined || client_secret !== undefined) {
        await app.authenticateClient(request)
        // It is somebody; but no refresh token was ever issued to a service.
        throw new Outcome('refresh_token_invalid')
      }
      if (client_id !== publicClientId) throw new Outcome('invalid_client')
      const { access_token, token_type, expires_in, ...session } = await app.sessions.refresh(
        refresh_token,
        request.origin,
      )
      return { access_token, token_type, expires_in, refresh_token: session.refresh_token }
    },
  )
}

/** RFC 7662. */
export const oauthIntrospectRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/oauth2/introspect',
    {
      preHandler: app.demandClient('introspect'),
      config: { failures: ['invalid_client', 'forbidden', 'revocation_unknown', 'unavailable'] },
      schema: {
        operationId: 'introspectToken',
        summary: 'Ask whether a token is good, and whose',
        description: 'For services with the scope `introspect`.',
        tags,
        security,
        body: OneTokenForm,
        response: { 200: Introspection },
      },
    },
    (request) => app.introspect(request, request.body.token),
  )
}

/** RFC 7009. */
export const oauthRevokeRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/oauth2/revoke',
    {
      preHandler: app.authenticateClient,
      config: { failures: ['invalid_client', 'forbidden', 'revocation_unknown', 'unavailable'] },
      schema: {
        operationId: 'revokeToken',
        summary: 'Take a token back',
        description:
          "A person's token takes its session with it. For services with the scope `revoke`, and for whoever the token was issued to. What is no token, or is dead, is no failure.",
        tags,
        security,
        body: OneTokenForm,
        response: { 200: NoContent('No instance accepts it any more.') },
      },
    },
    async (request, reply) => {
      await app.revokePresented(request, request.body.token)
      return reply.code(200).send()
    },
  )
}
