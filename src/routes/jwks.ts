import { createHash } from 'node:crypto'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { NoContent } from '../schemas/no-content.ts'
import { Jwks, JwksHeaders } from '../schemas/tokens.ts'

export interface JwksOptions {
  maxAgeSeconds: number
}

export const jwksRoute: FastifyPluginAsyncTypebox<JwksOptions> = async (app, { maxAgeSeconds }) => {
  app.get(
    '/.well-known/jwks.json',
    {
      schema: {
        operationId: 'getJwks',
        summary: 'Fetch the keys that access tokens are validated with',
        tags: ['Tokens'],
        headers: JwksHeaders,
        response: { 200: Jwks, 304: NoContent('The keys are those of that `ETag`.') },
      },
    },
    async (request, reply) => {
      const jwks = app.signingKeys.jwks()
      const etag = `"${createHash('sha256').update(JSON.stringify(jwks)).digest('base64url')}"`
      reply.header('etag', etag).header('cache-control', `public, max-age=${maxAgeSeconds}`)
      // RFC 9110 §13.1.2: a list, compared weakly, for what compresses on the way makes tags weak.
      const known =
        request.headers['if-none-match']?.split(',').map((tag) => tag.trim().replace(/^W\//, '')) ?? []
      if (known.includes(etag) || known.includes('*')) return reply.code(304).send()
      return jwks
    },
  )
}
