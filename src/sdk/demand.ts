import { type AccessTokenClaims, hasScope, isOfPerson } from '../bearer/claims.ts'

/** What a token must be good for, beyond being live. */
export interface Demand {
  scope?: string
  role?: string
}

/** What is misspelt or missing must not be a demand less. @throws TypeError */
export function assertDemand(demand: Demand): void {
  for (const [name, value] of Object.entries(demand)) {
    if (name !== 'scope' && name !== 'role') throw new TypeError(`nothing can be demanded by ${name}`)
    if (typeof value !== 'string' || value === '')
      throw new TypeError(`the ${name} that is demanded is missing`)
  }
}

export const isEnough = (claims: AccessTokenClaims, { scope, role }: Demand): boolean =>
  (scope === undefined || hasScope(claims, scope)) &&
  (role === undefined || (isOfPerson(claims) && claims.roles.includes(role)))
