import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { Account } from '../schemas/accounts.ts'

export const meRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/me',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'getMe',
        summary: 'Show my account',
        tags: ['Accounts'],
        response: { 200: Account },
      },
    },
    async (request, reply) => {
      const account = await app.accounts.find(request.accessToken.claims.sub)
      if (!account) throw new Outcome('not_found')
      reply.header('cache-control', 'no-store')
      return account
    },
  )
}
