/** What a client gets for itself (RFC 6749 §4.4), and what it takes back (RFC 7009). */
import type { Audit, Origin } from '../audit/events.ts'
import type { ServiceClaims } from '../bearer/claims.ts'
import { parseScope } from '../bearer/scopes.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import { Outcome } from '../outcomes.ts'
import { tokenEntry } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import type { Client } from './clients.ts'

/** RFC 6749 §5.1. Lifetimes are in seconds. */
export interface ClientToken {
  access_token: string
  token_type: 'Bearer'
  expires_in: number
  scope: string
}

export interface Grants {
  /**
   * @param scope what it asks for; without, all that it may have
   * @throws Outcome `invalid_scope`
   */
  grant(client: Client, scope: string | undefined, origin: Origin): ClientToken
  /** Takes back a token that a service was issued. @throws what revoke throws */
  revokeToken(claims: ServiceClaims, origin: Origin): Promise<void>
}

export interface GrantsOptions {
  clock: Clock
  audit: Audit
  revoke: Revoke
  accessTokens: Pick<AccessTokens, 'issueToService'>
}

export const createGrants = ({ clock, audit, revoke, accessTokens }: GrantsOptions): Grants => ({
  grant(client, scope, origin) {
    const scopes = scope === undefined ? client.scopes : [...new Set(parseScope(scope))]
    if (scopes.length === 0 && scope !== undefined) throw new Outcome('invalid_scope')
    if (!scopes.every((one) => client.scopes.includes(one))) throw new Outcome('invalid_scope')
    const { token, expiresIn } = accessTokens.issueToService({
      clientId: client.id,
      ver: client.generation,
      scopes,
      iat: inSeconds(clock),
    })
    audit.record({ event: 'client.token_issued', client: client.id, scopes }, origin)
    return { access_token: token, token_type: 'Bearer', expires_in: expiresIn, scope: scopes.join(' ') }
  },

  revokeToken: ({ sub, jti, exp }, origin) =>
    revoke({ entries: [tokenEntry(jti, exp)], sub, reason: 'revoked', origin }),
})
