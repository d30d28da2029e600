/**
 * For proxies that ask before they let a request through. The rest of what they send is their client's, and means nothing here:
 * no method, no query, no body. So all is said before a body would be read or anything validated.
 */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest, HTTPMethods, RouteOptions } from 'fastify'
import { Outcome } from '../outcomes.ts'
import { RoleParams } from '../schemas/accounts.ts'
import { LetThrough } from '../schemas/forward-auth.ts'

const description = `\
Any method is answered alike, and neither the query nor a body is looked at. What every guarded route refuses is refused, in one
of the statuses that proxies pass on.`

export const forwardAuthRoutes: FastifyPluginAsyncTypebox = async (app) => {
  /** The document has GET, which stands for all. */
  function onAnyMethod({ schema, ...route }: Omit<RouteOptions, 'method' | 'handler'>): void {
    const others = app.supportedMethods.filter((method) => method !== 'GET' && method !== 'HEAD')
    const handler = () => {}
    app.route({ ...route, handler, method: 'GET', schema: { ...schema, description, tags: ['Tokens'] } })
    app.route({ ...route, handler, method: others as HTTPMethods[], schema: { hide: true } })
  }

  onAnyMethod({
    url: '/forward-auth',
    onRequest: letThrough,
    schema: {
      operationId: 'forwardAuth',
      summary: 'Ask for a proxy whether a request may pass',
      response: { 200: LetThrough },
    },
  })

  onAnyMethod({
    url: '/forward-auth/role/:role',
    onRequest: [demandRole, letThrough],
    config: { failures: ['forbidden'] },
    schema: {
      operationId: 'forwardAuthByRole',
      summary: 'Ask for a proxy whether a request of somebody with this role may pass',
      params: RoleParams,
      response: { 200: LetThrough },
    },
  })
}

/** What is no role's name is nobody's role. */
async function demandRole({ params, accessToken }: FastifyRequest): Promise<void> {
  const { role } = params as { role: string }
  if (!accessToken.claims.roles.includes(role)) throw new Outcome('forbidden')
}

/** None of these can split a header or a list: three are UUIDs, and roles have a grammar (bearer/claims). */
function letThrough({ accessToken }: FastifyRequest, reply: FastifyReply): void {
  const { sub, sid, roles, jti } = accessToken.claims
  reply
    .headers({
      'cache-control': 'no-store',
      'x-auth-subject': sub,
      'x-auth-session': sid,
      'x-auth-roles': roles.join(','),
      'x-auth-jti': jti,
    })
    .send()
}
