import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import {
  AccountPage,
  AccountPageQuery,
  AccountParams,
  ManagedAccount,
  RolesBody,
} from '../schemas/accounts.ts'

export const adminUsersRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/admin/users',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listUsers',
        summary: 'List the accounts',
        description: 'In the order of their names, a page at a time.',
        tags: ['Administration'],
        querystring: AccountPageQuery,
        response: { 200: AccountPage },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return await app.accounts.listUsers(request.query.cursor)
    },
  )

  app.put(
    '/admin/users/:id/roles',
    {
      config: { failures: ['not_found', 'last_admin', 'unavailable'] },
      schema: {
        operationId: 'setRoles',
        summary: 'Replace the roles of an account',
        description:
          'Its live access tokens are dead at once. Its sessions go on, and have the new roles from their next refresh.',
        tags: ['Administration'],
        params: AccountParams,
        body: RolesBody,
        response: { 200: ManagedAccount },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { params, body, accessToken, origin } = request
      return await app.accounts.setRoles(params.id, body.roles, accessToken.claims.sub, origin)
    },
  )
}
