/** Another password for whoever has lost theirs, by way of an address that is known to be read by them. */
import { and, eq, isNotNull, or, sql } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { users } from '../db/tables.ts'
import type { MailQueue } from '../mail/queue.ts'
import type { Letter } from '../mail/transport.ts'
import { Outcome } from '../outcomes.ts'
import type { Revoke } from '../revocation/revoke.ts'
import { stepGeneration } from '../sessions/generation.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import type { Guesses } from './guesses.ts'
import type { MailTokens } from './mail-tokens.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import { canonicalUsername } from './usernames.ts'

export interface ForgottenAccount {
  /** In any spelling. */
  username?: string
  email?: string
}

export interface Recovery {
  /** Whether or not there is such an account: who that is, and whether they can be mailed to, is looked up when the mail is due. */
  forgot(account: ForgottenAccount): Promise<void>
  /** @returns what is to be mailed: to each account of that name or address, where the address is verified */
  compose(account: ForgottenAccount): Promise<Letter[]>
  /**
   * Gives the account another password and ends all its sessions. The second factor stays. When it resolves, no instance accepts what was
   * issued before.
   *
   * @throws Outcome `invalid_token`, `weak_password`, `invalid_request`, `overloaded`, and what revoke throws
   */
  reset(reset: { token: string; new_password: string }, origin: Origin): Promise<void>
}

export interface RecoveryOptions {
  db: Database
  clock: Clock
  queue: MailQueue | undefined
  mailTokens: MailTokens
  accessTokens: Pick<AccessTokens, 'latestExpiry'>
  passwordRules: PasswordRules
  passwords: Pick<Passwords, 'hash'>
  guesses: Pick<Guesses, 'forget'>
  revoke: Revoke
  audit: Audit
  /** The page that the links lead to. */
  appUrl: string
  serviceName: string
}

export const forgotJob = 'forgot'

/** Of one address. */
const mostAccounts = 5

export function createRecovery(options: RecoveryOptions): Recovery {
  const { db, clock, queue, mailTokens, accessTokens, passwordRules, passwords, guesses, revoke, audit } =
    options
  const { appUrl, serviceName } = options

  return {
    async forgot({ username, email }) {
      const payload = { ...(username !== undefined && { username }), ...(email !== undefined && { email }) }
      if (!queue) throw new Outcome('unavailable', { detail: 'This service sends no mail.' })
      await durably(db, (tx) => queue.add(tx, { kind: forgotJob, payload }))
    },

    async compose({ username = '', email = '' }) {
      const found = await db
        .select()
        .from(users)
        .where(
          and(
            or(
              eq(users.username, canonicalUsername(username) ?? ''),
              eq(sql`lower(${users.email})`, email.toLowerCase()),
            ),
            isNotNull(users.emailVerifiedAt),
            eq(users.status, 'active'),
          ),
        )
        .limit(mostAccounts)
      const letters: Letter[] = []
      for (const user of found) {
        const to = user.email as string
        const token = await durably(db, (tx) =>
          mailTokens.issue(tx, { userId: user.id, purpose: 'reset', email: to }),
        )
        if (token !== undefined) letters.push(letterOf(to, user.username, token))
      }
      return letters
    },

    async reset({ token, new_password }, origin) {
      const { userId } = await mailTokens.find(db, token, 'reset')
      const [account] = await db.select().from(users).where(eq(users.id, userId))
      if (!account) throw new Outcome('invalid_token')
      passwordRules.assertAcceptable(new_password, account)
      const passwordHash = await passwords.hash(new_password)
      await revoke({
        entries: [],
        reason: 'password_reset',
        origin,
        async within(tx) {
          const [user] = await tx.select().from(users).where(eq(users.id, userId)).for('update')
          const { email } = await mailTokens.take(tx, token, 'reset')
          if (user?.status !== 'active' || user.email !== email) throw new Outcome('invalid_token')
          await tx.update(users).set({ passwordHash }).where(eq(users.id, userId))
          await guesses.forget(tx, user.username)
          const latestExpiry = accessTokens.latestExpiry(inSeconds(clock))
          const now = new Date(clock.now())
          return [await stepGeneration(tx, { user, survivors: 'none', latestExpiry, now })]
        },
      })
      audit.record({ event: 'account.password_reset', sub: userId }, origin)
    },
  }

  function letterOf(to: string, username: string, token: string): Letter {
    return {
      to,
      subject: `Another password for ${serviceName}`,
      text: `Somebody, you we hope, has forgotten the password of ${username} at ${serviceName}. Choose another one here, within the hour:

  ${new URL(`#reset=${token}`, appUrl).href}

It was not you? Then do nothing, and nothing changes.
`,
    }
  }
}
