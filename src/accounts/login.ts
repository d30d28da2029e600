import { eq } from 'drizzle-orm'
import type { Audit, LoginFailure, Origin } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generationSubject } from '../revocation/entries.ts'
import type { IsRefused } from '../revocation/refused.ts'
import type { Endings } from '../sessions/endings.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'
import type { Sessions } from '../sessions/sessions.ts'
import type { Passwords } from './passwords.ts'
import { findUserByName, type LoginUser, lockUser } from './users.ts'

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
  sessions: Pick<Sessions & Endings, 'start' | 'findSurplus' | 'endSurplus' | 'endForgottenGeneration'>
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
    const newHash = passwords.needsRehash(user.passwordHash) ? await passwords.hash(password) : undefined

    const started = await durably(db, async (tx) => {
      const current = await lockUser(tx, user.id)
      if (!current || !isUnchanged(user, current)) return undefined
      if (newHash) await tx.update(users).set({ passwordHash: newHash }).where(eq(users.id, user.id))
      const { id, generation, roles } = current
      const tokens = await sessions.start(tx, { id, generation, roles, amr: ['pwd'], acr: 'aal1', remember })
      return { tokens, surplus: await sessions.findSurplus(tx, { sub: id, sid: tokens.session_id }) }
    })
    if (!started) return undefined
    const { tokens, surplus } = started
    await sessions.endSurplus(user.id, surplus, origin)
    audit.record({ event: 'login.succeeded', sub: user.id, sid: tokens.session_id }, origin)
    return tokens
  }

  function refused(reason: LoginFailure, origin: Origin, user?: LoginUser): Outcome {
    audit.record({ event: 'login.failed', reason, ...(user && { sub: user.id }) }, origin)
    return new Outcome('invalid_credentials', { reason })
  }
}

const isUnchanged = (read: LoginUser, current: LoginUser): boolean =>
  current.generation === read.generation &&
  current.passwordHash === read.passwordHash &&
  current.status === read.status
