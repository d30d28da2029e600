import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Account, RegistrationBody } from '../schemas/accounts.ts'

export const registerRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/register',
    { schema: { body: RegistrationBody, response: { 201: Account } } },
    async (request, reply) => reply.code(201).send(await app.accounts.register(request.body, request.origin)),
  )
}
