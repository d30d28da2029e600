/** The guard of routes that need a role. It stands behind the one that needs a token. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type AccessTokenClaims, isOfPerson, type PersonClaims } from '../bearer/claims.ts'
import { meetsDemand, type RoleDemand } from '../bearer/roles.ts'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Guards every route of the scope it is called on, behind demandAccessToken. A token's roles are those of today: a change
     * of them ends its generation.
     */
    demandRoles(this: FastifyInstance, demand: RoleDemand): void
    /** The same for one request. @throws Outcome `forbidden`, `reauthentication_required` if it takes a second factor */
    assertRoles(claims: PersonClaims, demand: RoleDemand): void
    /** Those that count, of a person: some may take a second factor. */
    rolesOf(claims: AccessTokenClaims): readonly string[]
  }
}

export interface AuthorizationOptions {
  config: Pick<Config, 'secondFactorRoles'>
}

const acr = 'aal2'

export default fp(
  async function authorization(app: FastifyInstance, { config }: AuthorizationOptions) {
    const { secondFactorRoles } = config
    function rolesOf(claims: AccessTokenClaims): readonly string[] {
      if (!isOfPerson(claims)) return []
      if (secondFactorRoles.length === 0 || claims.acr === acr) return claims.roles
      return claims.roles.filter((role) => !secondFactorRoles.includes(role))
    }

    function assertRoles(claims: PersonClaims, demand: RoleDemand): void {
      if (meetsDemand(rolesOf(claims), demand)) return
      if (meetsDemand(claims.roles, demand)) throw new Outcome('reauthentication_required', { acr })
      throw new Outcome('forbidden')
    }

    app.decorate('rolesOf', rolesOf)
    app.decorate('assertRoles', assertRoles)
    app.decorate('demandRoles', function (demand) {
      this.describeRoutes({ failures: ['reauthentication_required'] })
      this.addHook('onRequest', async ({ accessToken }) => assertRoles(accessToken.claims, demand))
    })
  },
  { name: 'authorization', dependencies: ['authentication', 'openapi'] },
)
