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

/**
 * Locks an account whose owner has proved to be that a moment ago.
 *
 * @throws Outcome `token_revoked` if another password, which may be what this one was proved by, or a ban was faster
 */
export async function assertUnchanged(
  tx: Database,
  { sub, ver }: { sub: string; ver: number },
): Promise<User> {
  // No more than that: who notes a network of theirs holds its row, and asks for the account's.
  const [user] = await tx.select().from(users).where(eq(users.id, sub)).for('no key update')
  if (user?.generation !== ver) throw new Outcome('token_revoked')
  return user
}

export interface OwnPasswordOptions {
  db: Database
  passwords: Pick<Passwords, 'verify'>
  guesses: Pick<Guesses, 'judge'>
  audit: Audit
}

export function createOwnPassword({ db, passwords, guesses, audit }: OwnPasswordOptions): ProveOwner {
  return async function proveOwner({ sub, sid }, password, origin) {
    const [user] = await db.select().from(users).where(eq(users.id, sub))
    // Whose access token has outlived it.
    if (!user) throw new Outcome('token_revoked')
    const isOwner = await guesses.judge(user.username, 'own_password', origin, () =>
      passwords.verify(user.passwordHash, password),
    )
    if (isOwner) return user
    audit.record({ event: 'reauthentication.failed', sub, sid }, origin)
    throw new Outcome('invalid_current_password')
  }
}
