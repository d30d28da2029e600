/** The guard of routes that need a role. It stands behind the one that needs a token. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { meetsDemand, type RoleDemand } from '../bearer/roles.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** For onRequest, after authenticate. A token's roles are those of today: a change of them ends its generation. */
    requireRoles(demand: RoleDemand): (request: FastifyRequest) => Promise<void>
  }
}

export default fp(
  async function authorization(app: FastifyInstance) {
    app.decorate('requireRoles', (demand) => async (request) => {
      if (!meetsDemand(request.accessToken.claims.roles, demand)) throw new Outcome('forbidden')
    })
  },
  { name: 'authorization', dependencies: ['authentication'] },
)
