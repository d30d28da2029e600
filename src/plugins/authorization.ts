/** The guard of routes that need a role. It stands behind the one that needs a token. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { meetsDemand, type RoleDemand } from '../bearer/roles.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Guards every route of the scope it is called on, behind demandAccessToken. A token's roles are those of today: a change
     * of them ends its generation.
     */
    demandRoles(this: FastifyInstance, demand: RoleDemand): void
  }
}

export default fp(
  async function authorization(app: FastifyInstance) {
    app.decorate('demandRoles', function (demand) {
      this.addHook('onRequest', async ({ accessToken }) => {
        if (!meetsDemand(accessToken.claims.roles, demand)) throw new Outcome('forbidden')
      })
    })
  },
  { name: 'authorization', dependencies: ['authentication', 'openapi'] },
)
