import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { NoContent } from '../schemas/no-content.ts'
import { CodeBody, Enrolment, FactorSummary, NoBody, RecoveryCodes } from '../schemas/second-factors.ts'

const tags = ['Accounts']

export const mfaRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/mfa',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'getFactors',
        summary: 'Show my second factor',
        tags,
        response: { 200: FactorSummary },
      },
    },
    async ({ accessToken }) => await app.accounts.factors.summarize(accessToken.claims.sub),
  )

  app.post(
    '/mfa/totp',
    {
      config: { failures: ['reauthentication_required', 'already_enrolled', 'unavailable'] },
      schema: {
        operationId: 'enrolTotp',
        summary: 'Set up an authenticator app',
        description: 'RFC 6238. The last one that was begun is the one that can be confirmed.',
        tags,
        body: NoBody,
        response: { 201: Enrolment },
      },
    },
    async ({ accessToken }, reply) =>
      reply.code(201).send(await app.accounts.factors.enrol(accessToken.claims)),
  )

  app.post(
    '/mfa/totp/verify',
    {
      config: {
        failures: ['reauthentication_required', 'invalid_code', 'password_reset_required', 'unavailable'],
      },
      schema: {
        operationId: 'confirmTotp',
        summary: 'Confirm the authenticator app',
        description: 'By a first code of it. From now on a login takes one.',
        tags,
        body: CodeBody,
        response: { 200: RecoveryCodes },
      },
    },
    async ({ accessToken, body, origin }) => ({
      recovery_codes: await app.accounts.factors.confirm(accessToken.claims, body.code, origin),
    }),
  )

  app.delete(
    '/mfa/totp',
    {
      config: { failures: ['not_found', 'reauthentication_required', 'unavailable'] },
      schema: {
        operationId: 'removeTotp',
        summary: 'Remove the authenticator app',
        description: 'Takes a recent login with it. The recovery codes go too.',
        tags,
        response: { 204: NoContent('A login takes the password alone.') },
      },
    },
    async ({ accessToken, origin }, reply) => {
      await app.accounts.factors.remove(accessToken.claims, origin)
      return reply.code(204).send()
    },
  )

  app.post(
    '/mfa/recovery-codes',
    {
      config: { failures: ['not_found', 'reauthentication_required', 'unavailable'] },
      schema: {
        operationId: 'renewRecoveryCodes',
        summary: 'Get other recovery codes',
        description: 'Takes a recent login with the second factor. The ones before are good no more.',
        tags,
        body: NoBody,
        response: { 200: RecoveryCodes },
      },
    },
    async ({ accessToken, origin }) => ({
      recovery_codes: await app.accounts.factors.renewRecoveryCodes(accessToken.claims, origin),
    }),
  )
}
