import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ServerMetadata } from '../schemas/oauth.ts'

export interface MetadataOptions {
  issuer: string
  maxAgeSeconds: number
}

const withSecret = ['client_secret_basic', 'client_secret_post']

/** RFC 8414. Its addresses come from ISSUER, never from what a request says. */
export const metadataRoute: FastifyPluginAsyncTypebox<MetadataOptions> = async (
  app,
  { issuer, maxAgeSeconds },
) => {
  const at = (path: string) => `${issuer.replace(/\/$/, '')}${path}`
  const metadata = {
    issuer,
    jwks_uri: at('/.well-known/jwks.json'),
    token_endpoint: at('/oauth2/token'),
    introspection_endpoint: at('/oauth2/introspect'),
    revocation_endpoint: at('/oauth2/revoke'),
    grant_types_supported: ['client_credentials', 'refresh_token'],
    response_types_supported: [],
    token_endpoint_auth_methods_supported: [...withSecret, 'none'],
    introspection_endpoint_auth_methods_supported: withSecret,
    revocation_endpoint_auth_methods_supported: withSecret,
    revocation_feed_endpoint: at('/revocations'),
    forward_auth_endpoint: at('/forward-auth'),
    scopes_supported: ['introspect', 'revoke', 'revocations:read'],
    service_documentation: at('/docs'),
  }
  app.get(
    '/.well-known/oauth-authorization-server',
    {
      schema: {
        operationId: 'getServerMetadata',
        summary: 'Fetch where everything is',
        tags: ['OAuth'],
        response: { 200: ServerMetadata },
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', `public, max-age=${maxAgeSeconds}`)
      return metadata
    },
  )
}
