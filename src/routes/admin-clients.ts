import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import {
  ClientBody,
  ClientPage,
  ClientPageQuery,
  ClientParams,
  ClientWithSecret,
} from '../schemas/clients.ts'
import { NoContent } from '../schemas/no-content.ts'

export const adminClientsRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/admin/clients',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listClients',
        summary: 'List the accounts of services',
        tags: ['Administration'],
        querystring: ClientPageQuery,
        response: { 200: ClientPage },
      },
    },
    async ({ query }) => await app.clients.list(query.cursor),
  )

  app.post(
    '/admin/clients',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'createClient',
        summary: 'Make an account for a service',
        description:
          'Of the scopes, `introspect`, `revoke` and `revocations:read` open doors of this service. All others mean what those say who demand them.',
        tags: ['Administration'],
        body: ClientBody,
        response: { 201: ClientWithSecret },
      },
    },
    async ({ body, accessToken, origin }, reply) => {
      reply.code(201)
      return await app.clients.create(body, accessToken.claims.sub, origin)
    },
  )

  app.post(
    '/admin/clients/:client_id/secret',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'renewClientSecret',
        summary: 'Give a service another secret',
        description: 'The one before is good for a while longer, so that it can be replaced everywhere.',
        tags: ['Administration'],
        params: ClientParams,
        response: { 201: ClientWithSecret },
      },
    },
    async ({ params, accessToken, origin }, reply) => {
      reply.code(201)
      return await app.clients.renewSecret(params.client_id, accessToken.claims.sub, origin)
    },
  )

  app.delete(
    '/admin/clients/:client_id',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'disableClient',
        summary: 'Close the account of a service',
        tags: ['Administration'],
        params: ClientParams,
        response: { 204: NoContent('No instance accepts a token or a secret of it any more.') },
      },
    },
    async ({ params, accessToken, origin }, reply) => {
      await app.clients.disable(params.client_id, accessToken.claims.sub, origin)
      return reply.code(204).send()
    },
  )
}
