/**
 * For proxies that ask before they let a request through. The rest of what they send is their client's, and means nothing here:
 * no method, no query, no body. So all is said before a body would be read or anything validated.
 */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods, RouteOptions } from 'fastify'
import { RoleParams } from '../schemas/accounts.ts'
import { ScopeParams } from '../schemas/clients.ts'
import { LetThrough } from '../schemas/forward-auth.ts'

type AnyClaims = FastifyRequest['scopedToken']['claims']

const description = `\
Any method is answered alike, and neither the query nor a body is looked at. What every guarded route refuses is refused, in one
of the statuses that proxies pass on.`

/** The document has GET, which stands for all. */
function onAnyMethod(
  app: FastifyInstance,
  { schema, config, ...options }: Omit<RouteOptions, 'method' | 'handler'>,
): void {
  // A preflight that a proxy asks about is for what stands behind it.
  const route = { ...options, config: { ...config, cors: false as const } }
  const others = app.supportedMethods.filter((method) => method !== 'GET' && method !== 'HEAD')
  const handler = () => {}
  app.route({ ...route, handler, method: 'GET', schema: { ...schema, description, tags: ['Tokens'] } })
  app.route({ ...route, handler, method: others as HTTPMethods[], schema: { hide: true } })
}

/** For people. */
export const forwardAuthRoutes: FastifyPluginAsyncTypebox = async (app) => {
  onAnyMethod(app, {
    url: '/forward-auth',
    onRequest: letPersonThrough,
    schema: {
      operationId: 'forwardAuth',
      summary: 'Ask for a proxy whether a request may pass',
      response: { 200: LetThrough },
    },
  })

  onAnyMethod(app, {
    url: '/forward-auth/role/:role',
    onRequest: [demandRole, letPersonThrough],
    config: { failures: ['forbidden', 'reauthentication_required'] },
    schema: {
      operationId: 'forwardAuthByRole',
      summary: 'Ask for a proxy whether a request of somebody with this role may pass',
      params: RoleParams,
      response: { 200: LetThrough },
    },
  })
}

/** For whoever was granted something, which services are. */
export const forwardAuthScopeRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.demandScope(({ params }) => (params as { scope: string }).scope)
  onAnyMethod(app, {
    url: '/forward-auth/scope/:scope',
    onRequest: ({ scopedToken }, reply) => letThrough(scopedToken.claims, reply),
    schema: {
      operationId: 'forwardAuthByScope',
      summary: 'Ask for a proxy whether a request by a token with this scope may pass',
      params: ScopeParams,
      response: { 200: LetThrough },
    },
  })
}

/** What is no role's name is nobody's role. */
async function demandRole({ params, accessToken, server }: FastifyRequest): Promise<void> {
  const { role } = params as { role: string }
  server.assertRoles(accessToken.claims, { anyOf: [role] })
}

const letPersonThrough = ({ accessToken }: FastifyRequest, reply: FastifyReply) =>
  letThrough(accessToken.claims, reply)

/** None of these can split a header or a list: three are UUIDs, and roles have a grammar (bearer/claims). */
function letThrough(claims: AnyClaims, reply: FastifyReply): void {
  const { sub, jti, sid = '' } = claims as AnyClaims & { sid?: string }
  reply
    .headers({
      'cache-control': 'no-store',
      'x-auth-subject': sub,
      'x-auth-session': sid,
      'x-auth-roles': reply.server.rolesOf(claims).join(','),
      'x-auth-jti': jti,
    })
    .send()
}
