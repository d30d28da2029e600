import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { EmailVerificationBody, ForgottenPasswordBody, PasswordResetBody } from '../schemas/accounts.ts'
import { NoContent } from '../schemas/no-content.ts'

const tags = ['Accounts']

/** For whoever is not logged in, and reads the mail of an account. */
export const recoveryRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/password/forgot',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'forgotPassword',
        summary: 'Ask for another password',
        description:
          'Mails a link to the verified address of the account, if there is one. The reply is the same if there is none.',
        tags,
        body: ForgottenPasswordBody,
        response: { 202: NoContent('If there is such an account, there will be a mail.') },
      },
    },
    async (request, reply) => {
      await app.accounts.recovery.forgot(request.body, request.origin)
      return reply.code(202).send()
    },
  )

  app.post(
    '/password/reset',
    {
      config: { failures: ['invalid_token', 'weak_password', 'overloaded', 'unavailable'] },
      schema: {
        operationId: 'resetPassword',
        summary: 'Choose another password',
        description:
          'With the token of the mail. All sessions of the account have ended then; its second factor stays what it is.',
        tags,
        body: PasswordResetBody,
        response: { 204: NoContent('No instance accepts anything that was issued before.') },
      },
    },
    async (request, reply) => {
      await app.accounts.recovery.reset(request.body, request.origin)
      return reply.code(204).send()
    },
  )

  app.post(
    '/email/verify',
    {
      config: { failures: ['invalid_token', 'unavailable'] },
      schema: {
        operationId: 'verifyEmail',
        summary: 'Show that an address is mine',
        description: 'With the token of the mail that was sent there.',
        tags,
        body: EmailVerificationBody,
        response: { 204: NoContent('The address is verified.') },
      },
    },
    async (request, reply) => {
      await app.accounts.addresses.verify(request.body.token, request.origin)
      return reply.code(204).send()
    },
  )
}
