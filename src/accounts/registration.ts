import { randomUUID } from 'node:crypto'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { isUniqueViolation } from '../db/errors.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { type Actor, assertActor } from './actors.ts'
import type { Addresses } from './addresses.ts'
import type { Guesses } from './guesses.ts'
import { isImportable } from './imported-hashes.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import { canonicalUsername, usernameLength } from './usernames.ts'
import type { User } from './users.ts'

export interface NewAccount {
  username: string
  email?: string
  /** Whether somebody knows already that its owner reads it. */
  email_verified?: boolean
  /** Never the registering person's to choose. */
  roles?: readonly string[]
  /** One of the two; the hash is what another system made of it. */
  password?: string
  password_hash?: string
}

/**
 * Makes an account.
 *
 * @param actor who does, if it is not the person
 * @throws Outcome `invalid_request`, `weak_password`, `username_taken`, `overloaded`, `token_revoked` if the actor was faster banned
 */
export type Register = (account: NewAccount, origin?: Origin, actor?: Actor) => Promise<User>

export interface RegistrationOptions {
  db: Database
  clock: Clock
  passwordRules: PasswordRules
  passwords: Pick<Passwords, 'hash'>
  addresses: Pick<Addresses, 'askToVerify'>
  guesses: Pick<Guesses, 'forgetAll' | 'remember'>
  audit: Audit
}

export function createRegistration({
  db,
  clock,
  passwordRules,
  passwords,
  addresses,
  guesses,
  audit,
}: RegistrationOptions): Register {
  async function hashOf({ username, email, password, password_hash }: NewAccount): Promise<string> {
    if (password_hash === undefined && password !== undefined) {
      passwordRules.assertAcceptable(password, { username, email })
      return await passwords.hash(password)
    }
    if (password_hash === undefined || password !== undefined)
      throw new Outcome('invalid_request', { detail: 'Send a password, or the hash of one.' })
    if (!isImportable(password_hash))
      throw new Outcome('invalid_request', {
        detail: 'This is no hash by Argon2, bcrypt, scrypt or PBKDF2 that can be checked here.',
      })
    return password_hash
  }

  return async function register(account, origin, actor) {
    const { email, email_verified = false, roles = [] } = account
    const username = canonicalUsername(account.username)
    if (username === undefined) {
      throw new Outcome('invalid_request', {
        detail: `A username has ${usernameLength.min} to ${usernameLength.max} visible characters, without spaces or colons.`,
      })
    }
    const now = new Date(clock.now())
    const user = {
      id: randomUUID(),
      username,
      email: email ?? null,
      emailVerifiedAt: email !== undefined && email_verified ? now : null,
      passwordHash: await hashOf({ ...account, username }),
      roles: [...roles].sort(),
      createdAt: now,
    }
    try {
      const inserted = await durably(db, async (tx) => {
        if (actor) await assertActor(tx, actor)
        const [inserted] = await tx.insert(users).values(user).returning()
        const made = inserted as User
        if (email !== undefined && !email_verified) await addresses.askToVerify(tx, made, email)
        // What was guessed before there was anything to guess at must not keep its owner out, nor where they come from.
        await guesses.forgetAll(tx, username)
        if (origin && !actor) await guesses.remember(user.id, origin.network, tx)
        return made
      })
      audit.record(
        { event: 'account.registered', sub: user.id, ...(actor && { by: actor.by, roles }) },
        origin,
      )
      return inserted
    } catch (error) {
      if (isUniqueViolation(error, 'users_username_unique')) throw new Outcome('username_taken')
      throw error
    }
  }
}
