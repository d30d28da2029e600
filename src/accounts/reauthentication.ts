import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import { tokenEntry } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import { continueSession } from '../sessions/renewal.ts'
import { issueAccessToken, type SessionFacts, type SessionTokens } from '../sessions/session-tokens.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import type { ProveFactor } from './own-factor.ts'
import { assertUnchanged, type ProveOwner } from './own-password.ts'

/** Somebody who is logged in, as the access token says that they present. */
export interface Holder {
  sub: string
  sid: string
  ver: number
  jti: string
  exp: number
}

/**
 * Gives another access token, of the same session, that says when and how its owner has proved who they are. The presented one is
 * dead then, and the refresh token is what it was. Where there is a second factor, it takes a code of it too.
 *
 * @throws Outcome `invalid_current_password`, `mfa_required`, `invalid_code`, `password_reset_required`, `rate_limited`, `overloaded`,
 *   `token_revoked` if the session has ended meanwhile, and what revoke throws
 */
export type Reauthenticate = (
  holder: Holder,
  proof: { password: string; code?: string },
  origin: Origin,
) => Promise<Omit<SessionTokens, 'refresh_token'>>

export interface ReauthenticationOptions {
  clock: Clock
  accessTokens: AccessTokens
  proveOwner: ProveOwner
  proveFactor: ProveFactor
  revoke: Revoke
  audit: Audit
}

export function createReauthentication(options: ReauthenticationOptions): Reauthenticate {
  const { clock, accessTokens, proveOwner, proveFactor, revoke, audit } = options

  return async function reauthenticate(holder, { password, code }, origin) {
    const user = await proveOwner(holder, password, origin)
    const proof = await proveFactor(user, holder.sid, code, origin)
    const { sub, sid, jti, exp } = holder
    const now = clock.now()
    const iat = Math.floor(now / 1000)
    const accessEnd = accessTokens.latestExpiry(iat) * 1000
    let session = undefined as SessionFacts | undefined
    await revoke({
      entries: [],
      reason: 'reauthenticated',
      origin,
      async within(tx) {
        await assertUnchanged(tx, holder)
        session = await continueSession(tx, sid, { now, accessEnd, ...origin }, proof)
        return [tokenEntry(jti, exp)]
      },
    })
    audit.record({ event: 'session.reauthenticated', sub, sid }, origin)
    return issueAccessToken(accessTokens, session as SessionFacts, iat)
  }
}
