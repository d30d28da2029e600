import { and, eq } from 'drizzle-orm'
import type { Audit, LoginFailure, Origin } from '../audit/events.ts'
import { generationSubject } from '../bearer/revoked-entries.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { IsRefused } from '../revocation/refused.ts'
import type { Endings } from '../sessions/endings.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'
import type { Sessions } from '../sessions/sessions.ts'
import type { Passwords } from './passwords.ts'
import { findUserByName, type LoginUser } from './users.ts'

export interface LoginRequest {
  username: string
  password: string
  remember?: boolean
}

/** @throws Outcome `invalid_credentials` for every cause alike, `overloaded`, and what revoke throws when older sessions must end */
export type LogIn = (request: LoginRequest, origin: Origin) => Promise<SessionTokens>

export interface LoginOptions {
  db: Database
  passwords: Passwords
  sessions: Pick<Sessions & Endings, 'start' | 'endSurplus' | 'endForgottenGeneration'>
  isRefused: IsRefused
  audit: Audit
}

export function createLogin({ db, passwords, sessions, isRefused, audit }: LoginOptions): LogIn {
  return async function logIn(request, origin) {
    const tokens = (await attempt(request, origin)) ?? (await attempt(request, origin))
    if (!tokens) throw refused('changed', origin)
    return tokens
  }

  /**
   * @returns undefined if the account changed while its password was being checked. It is then looked at once more: a
   *   new password or a ban that was faster wins, and a mere re-hash by a login next to this one does no harm
   */
  async function attempt({ username, password, remember = false }: LoginRequest, origin: Origin) {
    const user = await findUserByName(db, username)
    const matches = await passwords.verify(user?.passwordHash, password)
    if (!user) throw refused('unknown', origin)
    if (!matches) throw refused('wrong_password', origin, user)
    if (user.status !== 'active') throw refused('disabled', origin, user)
    // A database that was set back to a backup, or that a logout never reached, would start a session that is dead already.
    if (await isRefused({ scope: 'generation', subject: generationSubject(user.id, user.generation) }))
      await sessions.endForgottenGeneration(user.id, user.generation, origin)
    const passwordHash = passwords.needsRehash(user.passwordHash)
      ? await rehash(user, password)
      : user.passwordHash

    const { id, generation } = user
    const { address, userAgent } = origin
    const proof = { passwordHash, amr: ['pwd'], acr: 'aal1', address, userAgent }
    const tokens = await sessions.start({ id, generation, ...proof, remember })
    if (!tokens) return undefined
    await sessions.endSurplus({ sub: id, sid: tokens.session_id }, origin)
    audit.record({ event: 'login.succeeded', sub: user.id, sid: tokens.session_id }, origin)
    return tokens
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

  function refused(reason: LoginFailure, origin: Origin, user?: LoginUser): Outcome {
    audit.record({ event: 'login.failed', reason, ...(user && { sub: user.id }) }, origin)
    return new Outcome('invalid_credentials', { reason })
  }
}
