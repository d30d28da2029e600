/** Another password for whoever has lost theirs, by way of an address that is known to be read by them. */
import { and, asc, eq, isNotNull, or, sql } from 'drizzle-orm'
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
import type { MayWriteTo } from './mailbox-limit.ts'
import type { Notices } from './notices.ts'
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
  forgot(account: ForgottenAccount, origin: Origin): Promise<void>
  /** Has a link mailed to each account of that name or address, where the address is verified. */
  answer(account: ForgottenAccount): Promise<undefined>
  /** @returns what is to be mailed */
  composeLink(job: { userId?: string }, attempt: number): Promise<Letter | undefined>
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
  guesses: Pick<Guesses, 'forgetPasswords' | 'forgetNetworks' | 'remember'>
  mayWriteTo: MayWriteTo
  notices: Pick<Notices, 'tell'>
  revoke: Revoke
  audit: Audit
  /** The page that the links lead to. */
  appUrl: string
  serviceName: string
}

export const forgotJob = 'forgot'
export const resetJob = 'reset'

/** Of one address. */
const mostAccounts = 5

const canReset = and(isNotNull(users.emailVerifiedAt), eq(users.status, 'active'))

export function createRecovery(options: RecoveryOptions): Recovery {
  const { db, clock, queue, mailTokens, accessTokens, passwordRules, passwords, guesses, revoke, audit } =
    options
  const { mayWriteTo, notices, appUrl, serviceName } = options

  return {
    async forgot({ username, email }, origin) {
      const payload = { ...(username !== undefined && { username }), ...(email !== undefined && { email }) }
      if (!queue) throw new Outcome('unavailable', { detail: 'This service sends no mail.' })
      await durably(db, (tx) => queue.add(tx, { kind: forgotJob, payload }))
      audit.record({ event: 'recovery.asked' }, origin)
    },

    async answer({ username = '', email = '' }) {
      const found = await db
        .select({ id: users.id })
        .from(users)
        .where(
          and(
            or(
              eq(users.username, canonicalUsername(username) ?? ''),
              eq(sql`lower(${users.email})`, email.toLowerCase()),
            ),
            canReset,
          ),
        )
        .orderBy(asc(users.createdAt))
        .limit(mostAccounts)
      await durably(db, async (tx) => {
        for (const { id: userId } of found) await queue?.add(tx, { kind: resetJob, payload: { userId } })
      })
      return undefined
    },

    async composeLink({ userId = '' }, attempt) {
      const [user] = await db
        .select()
        .from(users)
        .where(and(eq(users.id, userId), canReset))
      const to = user?.email
      if (!to || (attempt === 1 && !(await mayWriteTo(to, resetJob, userId)))) return undefined
      const token = await mailTokens.issue(user, 'reset', to)
      return {
        to,
        subject: `Another password for ${serviceName}`,
        text: `Somebody, you we hope, has forgotten the password of ${user.username} at ${serviceName}. Choose another one here, within the hour:

  ${new URL(`#reset=${token}`, appUrl).href}

It was not you? Then do nothing, and nothing changes.
`,
      }
    },

    async reset({ token, new_password }, origin) {
      const { user } = await mailTokens.find(token, 'reset', origin)
      passwordRules.assertAcceptable(new_password, user)
      const passwordHash = await passwords.hash(new_password)
      await revoke({
        entries: [],
        reason: 'password_reset',
        origin,
        async within(tx) {
          const { user } = await mailTokens.take(tx, token, 'reset', origin)
          await tx.update(users).set({ passwordHash }).where(eq(users.id, user.id))
          await notices.tell(tx, user, 'password_changed')
          await guesses.forgetPasswords(tx, user.username)
          await guesses.forgetNetworks(tx, user.id)
          await guesses.remember(user.id, origin.network, tx)
          const latestExpiry = accessTokens.latestExpiry(inSeconds(clock))
          const now = new Date(clock.now())
          return [await stepGeneration(tx, { user, survivors: 'none', latestExpiry, now })]
        },
      })
      audit.record({ event: 'account.password_reset', sub: user.id }, origin)
    },
  }
}
