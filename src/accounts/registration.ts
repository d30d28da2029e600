import { randomUUID } from 'node:crypto'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { isUniqueViolation } from '../db/errors.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import { canonicalUsername, usernameLength } from './usernames.ts'
import { type Account, accountOf } from './users.ts'

export interface RegistrationRequest {
  username: string
  password: string
  email?: string
}

/**
 * Makes an account. `roles` are the caller's to give, never the registering person's.
 *
 * @throws Outcome `invalid_request`, `weak_password`, `username_taken`, `overloaded`
 */
export type Register = (
  request: RegistrationRequest,
  origin?: Origin,
  roles?: readonly string[],
) => Promise<Account>

export interface RegistrationOptions {
  db: Database
  clock: Clock
  passwordRules: PasswordRules
  passwords: Pick<Passwords, 'hash'>
  audit: Audit
}

export function createRegistration({
  db,
  clock,
  passwordRules,
  passwords,
  audit,
}: RegistrationOptions): Register {
  return async function register({ username, password, email }, origin, roles = []) {
    const canonical = canonicalUsername(username)
    if (canonical === undefined) {
      throw new Outcome('invalid_request', {
        detail: `A username has ${usernameLength.min} to ${usernameLength.max} visible characters, without spaces or colons.`,
      })
    }
    passwordRules.assertAcceptable(password, { username: canonical, email })
    const user = {
      id: randomUUID(),
      username: canonical,
      email: email ?? null,
      passwordHash: await passwords.hash(password),
      roles: [...roles],
      createdAt: new Date(clock.now()),
    }
    try {
      const [inserted] = await durably(db, (tx) => tx.insert(users).values(user).returning())
      audit.record({ event: 'account.registered', sub: user.id }, origin)
      return accountOf(inserted as typeof users.$inferSelect)
    } catch (error) {
      if (isUniqueViolation(error, 'users_username_unique')) throw new Outcome('username_taken')
      throw error
    }
  }
}
