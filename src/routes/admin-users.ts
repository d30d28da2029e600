import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import {
  AccountPage,
  AccountPageQuery,
  AccountParams,
  ManagedAccount,
  NewAccountBody,
  ReasonQuery,
  RecallBody,
  Recalled,
  RolesBody,
  StatusBody,
  TokenParams,
} from '../schemas/accounts.ts'
import { NoContent } from '../schemas/no-content.ts'

const actorOf = ({ accessToken: { claims }, origin }: FastifyRequest) => ({
  by: claims.sub,
  ver: claims.ver,
  origin,
})
const tags = ['Administration']

export const adminUsersRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/admin/users',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listUsers',
        summary: 'List the accounts',
        description: 'In the order of their names, a page at a time.',
        tags,
        querystring: AccountPageQuery,
        response: { 200: AccountPage },
      },
    },
    async ({ query: { cursor, ...filter } }) => await app.accounts.listUsers(filter, cursor),
  )

  app.post(
    '/admin/users',
    {
      config: { failures: ['username_taken', 'weak_password', 'overloaded', 'unavailable'] },
      schema: {
        operationId: 'createUser',
        summary: 'Make an account for somebody',
        description:
          'With a password, or with the hash of one from another system, which the first login replaces by one of our own.',
        tags,
        body: NewAccountBody,
        response: { 201: ManagedAccount },
      },
    },
    async (request, reply) =>
      reply.code(201).send(await app.accounts.createUser(request.body, actorOf(request))),
  )

  app.get(
    '/admin/users/:id',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'getUser',
        summary: 'Show an account',
        tags,
        params: AccountParams,
        response: { 200: ManagedAccount },
      },
    },
    async ({ params }) => await app.accounts.findUser(params.id),
  )

  app.delete(
    '/admin/users/:id',
    {
      config: { failures: ['not_found', 'last_admin', 'unavailable'] },
      schema: {
        operationId: 'deleteUser',
        summary: 'Delete an account',
        tags,
        params: AccountParams,
        response: { 204: NoContent('No instance accepts anything that it was issued any more.') },
      },
    },
    async (request, reply) => {
      await app.accounts.deleteUser(request.params.id, actorOf(request))
      return reply.code(204).send()
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
        tags,
        params: AccountParams,
        body: RolesBody,
        response: { 200: ManagedAccount },
      },
    },
    async (request) => await app.accounts.setRoles(request.params.id, request.body.roles, actorOf(request)),
  )

  app.put(
    '/admin/users/:id/status',
    {
      config: { failures: ['not_found', 'last_admin', 'unavailable'] },
      schema: {
        operationId: 'setStatus',
        summary: 'Close an account, or open it again',
        description:
          'Whoever is disabled cannot log in, and nothing that they were issued is accepted any more.',
        tags,
        params: AccountParams,
        body: StatusBody,
        response: { 200: ManagedAccount },
      },
    },
    async (request) => await app.accounts.setStatus(request.params.id, request.body.status, actorOf(request)),
  )

  app.post(
    '/admin/users/:id/revoke',
    {
      config: { failures: ['not_found', 'unavailable'] },
      schema: {
        operationId: 'revokeUser',
        summary: 'End what an account was issued',
        description: 'One session of it, or everything. The account stays open: they can log in again.',
        tags,
        params: AccountParams,
        body: RecallBody,
        response: { 200: Recalled },
      },
    },
    async (request) => ({
      sessions: await app.accounts.recall(request.params.id, request.body, actorOf(request)),
    }),
  )

  app.delete(
    '/admin/users/:id/mfa',
    {
      config: { failures: ['not_found', 'reauthentication_required', 'unavailable'] },
      schema: {
        operationId: 'removeFactors',
        summary: 'Take the second factor from an account',
        description:
          'For whoever has lost their app and their recovery codes. Takes a recent login. Their sessions go on.',
        tags,
        params: AccountParams,
        response: { 204: NoContent('A login takes the password alone.') },
      },
    },
    async (request, reply) => {
      app.sessions.assertFresh(request.accessToken.claims)
      await app.accounts.removeFactors(request.params.id, actorOf(request))
      return reply.code(204).send()
    },
  )

  app.delete(
    '/admin/tokens/:jti',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'revokeTokenById',
        summary: 'End one access token',
        description: 'By its `jti`, whosever it is. Its session goes on. That there is none is not noticed.',
        tags,
        params: TokenParams,
        querystring: ReasonQuery,
        response: { 204: NoContent('No instance accepts that token any more.') },
      },
    },
    async (request, reply) => {
      await app.accounts.recallToken(request.params.jti, request.query.reason, actorOf(request))
      return reply.code(204).send()
    },
  )
}
