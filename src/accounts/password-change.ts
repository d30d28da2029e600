import { eq } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import { users } from '../db/tables.ts'
import type { Revoke } from '../revocation/revoke.ts'
import type { AssertFresh } from '../sessions/freshness.ts'
import { stepGeneration } from '../sessions/generation.ts'
import { continueSession, replaceRefreshTokens } from '../sessions/renewal.ts'
import { issueSessionTokens, type SessionFacts, type SessionTokens } from '../sessions/session-tokens.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import type { Guesses } from './guesses.ts'
import type { Notices } from './notices.ts'
import { assertUnchanged, type ProveOwner } from './own-password.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import type { Holder } from './reauthentication.ts'

export interface PasswordChange {
  current_password: string
  new_password: string
}

/**
 * Gives an account another password. The session that asks goes on, with the tokens that this resolves with; all others have ended,
 * and whatever was issued before is dead.
 *
 * @throws Outcome `reauthentication_required`, `invalid_current_password`, `password_reset_required`, `weak_password`, `invalid_request`, `overloaded`,
 *   `token_revoked` if the session has ended meanwhile, and what revoke throws
 */
export type ChangePassword = (
  holder: Holder & { auth_time: number },
  change: PasswordChange,
  origin: Origin,
) => Promise<SessionTokens>

export interface PasswordChangeOptions {
  clock: Clock
  accessTokens: AccessTokens
  assertFresh: AssertFresh
  proveOwner: ProveOwner
  passwordRules: PasswordRules
  passwords: Pick<Passwords, 'hash'>
  guesses: Pick<Guesses, 'forgetNetworks' | 'remember'>
  notices: Pick<Notices, 'tell'>
  revoke: Revoke
  audit: Audit
}

export function createPasswordChange(options: PasswordChangeOptions): ChangePassword {
  const {
    clock,
    accessTokens,
    assertFresh,
    proveOwner,
    passwordRules,
    passwords,
    guesses,
    notices,
    revoke,
    audit,
  } = options

  return async function changePassword(holder, { current_password, new_password }, origin) {
    assertFresh(holder)
    const { sub, sid } = holder
    passwordRules.assertAcceptable(new_password, await proveOwner(holder, current_password, origin))
    const passwordHash = await passwords.hash(new_password)
    const refreshToken = generateOpaqueToken()
    const now = clock.now()
    const iat = Math.floor(now / 1000)
    const latestExpiry = accessTokens.latestExpiry(iat)
    let session = undefined as SessionFacts | undefined
    await revoke({
      entries: [],
      reason: 'password_changed',
      origin,
      async within(tx) {
        const user = await assertUnchanged(tx, holder)
        await tx.update(users).set({ passwordHash }).where(eq(users.id, sub))
        await notices.tell(tx, user, 'password_changed')
        await guesses.forgetNetworks(tx, sub)
        await guesses.remember(sub, origin.network, tx)
        const survivors = { sid }
        const entry = await stepGeneration(tx, { user, survivors, latestExpiry, now: new Date(now) })
        const accessEnd = latestExpiry * 1000
        session = await continueSession(tx, sid, { now, accessEnd, ...origin })
        await replaceRefreshTokens(tx, sid, hashOpaqueToken(refreshToken))
        return [entry]
      },
    })
    audit.record({ event: 'account.password_changed', sub, sid }, origin)
    return issueSessionTokens(accessTokens, session as SessionFacts, refreshToken, iat)
  }
}
