import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { KeyParams, NextKeyBody, SigningKey, SigningKeys } from '../schemas/keys.ts'
import { NoContent } from '../schemas/no-content.ts'

export const adminKeysRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/admin/keys',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listKeys',
        summary: 'List the signing keys',
        tags: ['Administration'],
        response: { 200: SigningKeys },
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', 'no-store')
      return { keys: await app.signingKeys.list() }
    },
  )

  app.post(
    '/admin/keys',
    {
      config: { failures: ['key_pending', 'key_known', 'unavailable'] },
      schema: {
        operationId: 'rotateKeys',
        summary: 'Make or bring the key that signs next',
        description: 'It is published at once, and signs as soon as no verifier can have missed it.',
        tags: ['Administration'],
        body: NextKeyBody,
        response: { 201: SigningKey },
      },
    },
    async ({ body, accessToken, origin }, reply) => {
      reply.code(201).header('cache-control', 'no-store')
      return await app.signingKeys.publish(body?.private_key, accessToken.claims.sub, origin)
    },
  )

  app.delete(
    '/admin/keys/:kid',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'removeKey',
        summary: 'Take a signing key back',
        description:
          'Every token that it signed is dead, also the one that asks if it is among them. If it is the active one, the next one, or a new one, signs from now on.',
        tags: ['Administration'],
        params: KeyParams,
        response: { 204: NoContent('No instance accepts a token of this key any more.') },
      },
    },
    async ({ params, accessToken, origin }, reply) => {
      await app.signingKeys.remove(params.kid, accessToken.claims.sub, origin)
      return reply.code(204).send()
    },
  )
}
