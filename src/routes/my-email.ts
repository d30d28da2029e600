import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { EmailChangeBody } from '../schemas/accounts.ts'
import { NoContent } from '../schemas/no-content.ts'

export const myEmailRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.put(
    '/me/email',
    {
      config: { failures: ['reauthentication_required', 'unavailable'] },
      schema: {
        operationId: 'changeEmail',
        summary: 'Change my address',
        description:
          'Mails a link to it: when that is followed, the address is the one of the account. Sent once more, for the address that there is, it verifies that.',
        tags: ['Accounts'],
        body: EmailChangeBody,
        response: { 202: NoContent('There will be a mail.') },
      },
    },
    async ({ accessToken, body, origin }, reply) => {
      await app.accounts.addresses.change(accessToken.claims, body.email, origin)
      return reply.code(202).send()
    },
  )
}
