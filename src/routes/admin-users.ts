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
    { schema: { querystring: AccountPageQuery, response: { 200: AccountPage } } },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return await app.accounts.listUsers(request.query.cursor)
    },
  )

  app.put(
    '/admin/users/:id/roles',
    { schema: { params: AccountParams, body: RolesBody, response: { 200: ManagedAccount } } },
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { params, body, accessToken, origin } = request
      return await app.accounts.setRoles(params.id, body.roles, accessToken.claims.sub, origin)
    },
  )
}
