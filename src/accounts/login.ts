import { and, eq } from 'drizzle-orm'
import type { Audit, LoginFailure, Origin } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'
import type { Admission } from './admission.ts'
import type { Guess, Guesses } from './guesses.ts'
import type { Challenge } from './mfa-login.ts'
import type { Passwords } from './passwords.ts'
import { byPassword } from './proofs.ts'
import { findUserByName, type LoginUser } from './users.ts'

export interface LoginRequest {
  username: string
  password: string
  remember?: boolean
}

/**
 * @throws Outcome `invalid_credentials` for every cause alike, `mfa_required` if the password was right and is not enough,
 *   `rate_limited`, `password_reset_required`, `overloaded`, and what revoke throws when older sessions must end
 */
export type LogIn = (request: LoginRequest, origin: Origin) => Promise<SessionTokens>

export interface LoginOptions {
  db: Database
  passwords: Passwords
  guesses: Pick<Guesses, 'begin'>
  challenge: Challenge
  admission: Admission
  audit: Audit
}

export function createLogin(options: LoginOptions): LogIn {
  const { db, passwords, guesses, challenge, admission, audit } = options

  return async function logIn(request, origin) {
    const guess = await guesses.begin(request.username, 'password', origin)
    const tokens = (await attempt(request, guess, origin)) ?? (await attempt(request, guess, origin))
    if (!tokens) throw await refused('changed', guess, origin)
    return tokens
  }

  /**
   * @returns undefined if the account changed while its password was being checked. It is then looked at once more: a
   *   new password or a ban that was faster wins, and a mere re-hash by a login next to this one does no harm
   */
  async function attempt(
    { username, password, remember = false }: LoginRequest,
    guess: Guess,
    origin: Origin,
  ): Promise<SessionTokens | undefined> {
    const user = await findUserByName(db, username)
    const matches = await passwords.verify(user?.passwordHash, password)
    if (!user) throw await refused('unknown', guess, origin)
    if (!matches) throw await refused('wrong_password', guess, origin, user)
    if (user.status !== 'active') throw await refused('disabled', guess, origin, user)
    const passwordHash = passwords.needsRehash(user.passwordHash)
      ? await rehash(user, password)
      : user.passwordHash
    const proven = { ...user, passwordHash }

    await challenge(proven, { remember, guess, origin })
    await guess.wasRight()
    return await admission.admit(proven, { ...byPassword, remember, isAtHome: guess.isAtHome }, origin)
  }

  /** Stores the password anew, unless it has changed. @returns its new hash */
  async function rehash({ id, passwordHash }: LoginUser, password: string): Promise<string> {
    const newHash = await passwords.hash(password)
    await db
      .update(users)
      .set({ passwordHash: newHash })
      .where(and(eq(users.id, id), eq(users.passwordHash, passwordHash)))
    return newHash
  }

  async function refused(
    reason: LoginFailure,
    guess: Guess,
    origin: Origin,
    user?: LoginUser,
  ): Promise<Outcome> {
    await guess.wasWrong()
    audit.record({ event: 'login.failed', reason, ...(user && { sub: user.id }) }, origin)
    return new Outcome('invalid_credentials', { reason })
  }
}
