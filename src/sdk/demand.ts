import { type AccessTokenClaims, hasScope, isOfPerson } from '../bearer/claims.ts'

/** What a token must be good for, beyond being live. */
export interface Demand {
  scope?: string
  role?: string
  /** How strong the proof of a person must have been (RFC 9470): `aal2` is with a second factor. */
  acr?: string
}

/** What is misspelt or missing must not be a demand less. @throws TypeError */
export function assertDemand(demand: Demand): void {
  for (const [name, value] of Object.entries(demand)) {
    if (!['scope', 'role', 'acr'].includes(name)) throw new TypeError(`nothing can be demanded by ${name}`)
    if (typeof value !== 'string' || value === '')
      throw new TypeError(`the ${name} that is demanded is missing`)
  }
}

/** Why a token is not good for it, if it is not. */
export function lackOf(
  claims: AccessTokenClaims,
  { scope, role, acr }: Demand,
): 'forbidden' | 'reauthentication_required' | undefined {
  if (scope !== undefined && !hasScope(claims, scope)) return 'forbidden'
  if (role === undefined && acr === undefined) return undefined
  if (!isOfPerson(claims) || (role !== undefined && !claims.roles.includes(role))) return 'forbidden'
  return acr === undefined || claims.acr === acr ? undefined : 'reauthentication_required'
}
