import { eq } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { Guesses } from './guesses.ts'
import type { Passwords } from './passwords.ts'
import type { User } from './users.ts'

/**
 * Makes somebody who is logged in show their password once more. @returns their account, as it was then
 *
 * @throws Outcome `invalid_current_password`, `password_reset_required`, `overloaded`
 */
export type ProveOwner = (
  holder: { sub: string; sid: string },
  password: string,
  origin: Origin,
) => Promise<User>

export interface OwnPasswordOptions {
  db: Database
  passwords: Pick<Passwords, 'verify'>
  guesses: Pick<Guesses, 'begin'>
  audit: Audit
}

export function createOwnPassword({ db, passwords, guesses, audit }: OwnPasswordOptions): ProveOwner {
  return async function proveOwner({ sub, sid }, password, origin) {
    const [user] = await db.select().from(users).where(eq(users.id, sub))
    // Whose access token has outlived it.
    if (!user) throw new Outcome('token_revoked')
    const guess = await guesses.begin(user.username, 'own_password', origin)
    if (await passwords.verify(user.passwordHash, password)) {
      await guess.wasRight()
      return user
    }
    audit.record({ event: 'reauthentication.failed', sub, sid }, origin)
    await guess.wasWrong(sub)
    throw new Outcome('invalid_current_password')
  }
}
