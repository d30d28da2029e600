import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Account, RegistrationBody } from '../schemas/accounts.ts'

export const registerRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/register',
    {
      config: { failures: ['username_taken', 'weak_password', 'overloaded', 'unavailable'] },
      schema: {
        operationId: 'register',
        summary: 'Register an account',
        tags: ['Accounts'],
        body: RegistrationBody,
        response: { 201: Account },
      },
    },
    async (request, reply) => reply.code(201).send(await app.accounts.register(request.body, request.origin)),
  )
}
