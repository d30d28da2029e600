/** The address of an account. It counts for nothing until somebody has shown that they read it. */
import { and, eq } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { users } from '../db/tables.ts'
import type { MailQueue } from '../mail/queue.ts'
import type { Letter } from '../mail/transport.ts'
import { Outcome } from '../outcomes.ts'
import type { AssertFresh } from '../sessions/freshness.ts'
import type { MailTokens } from './mail-tokens.ts'
import type { ProvenHolder } from './second-factors.ts'

export interface Addresses {
  /** Has a link mailed to whoever is to have this address, as soon as the transaction is committed; nothing, where nothing can be mailed. */
  askToVerify(tx: Database, userId: string, email: string): Promise<void>
  /** The same for somebody who is logged in; the address is theirs when the link has been followed. @throws Outcome `reauthentication_required` */
  change(holder: ProvenHolder, email: string): Promise<void>
  /** @returns what is to be mailed */
  composeVerification(job: { userId?: string; email?: string }): Promise<Letter[]>
  /** To an address that is an account's no more. */
  composeFarewell(job: { email?: string; username?: string }): Promise<Letter[]>
  /** @throws Outcome `invalid_token` */
  verify(token: string, origin: Origin): Promise<void>
}

export interface AddressesOptions {
  db: Database
  clock: Clock
  queue: MailQueue | undefined
  mailTokens: MailTokens
  assertFresh: AssertFresh
  audit: Audit
  /** The page that the links lead to. */
  appUrl: string
  serviceName: string
}

export const verificationJob = 'verification'
export const farewellJob = 'farewell'

export function createAddresses(options: AddressesOptions): Addresses {
  const { db, clock, queue, mailTokens, assertFresh, audit, appUrl, serviceName } = options

  async function askToVerify(tx: Database, userId: string, email: string): Promise<void> {
    await queue?.add(tx, { kind: verificationJob, payload: { userId, email } })
  }

  return {
    askToVerify,

    async change(holder, email) {
      assertFresh(holder)
      if (!queue) throw new Outcome('unavailable', { detail: 'This service sends no mail.' })
      await durably(db, (tx) => askToVerify(tx, holder.sub, email))
    },

    async composeVerification({ userId = '', email = '' }) {
      const [user] = await db.select().from(users).where(eq(users.id, userId))
      if (!user) return []
      const token = await durably(db, (tx) => mailTokens.issue(tx, { userId, purpose: 'verify', email }))
      if (token === undefined) return []
      return [
        {
          to: email,
          subject: `Is this your address at ${serviceName}?`,
          text: `${user.username} at ${serviceName} says that this is their address. If that is you, say so here, within a day:

  ${new URL(`#verify=${token}`, appUrl).href}

It is not you? Then do nothing, and you will not be written to again.
`,
        },
      ]
    },

    async composeFarewell({ email = '', username = '' }) {
      return [
        {
          to: email,
          subject: `This is not your address at ${serviceName} any more`,
          text: `${username} at ${serviceName} has another address now. If that was not you, log in and end your other sessions, and tell
whoever runs ${serviceName}.
`,
        },
      ]
    },

    async verify(token, origin) {
      const verified = await durably(db, async (tx) => {
        const { userId, email } = await mailTokens.take(tx, token, 'verify')
        const [user] = await tx
          .select()
          .from(users)
          .where(and(eq(users.id, userId), eq(users.status, 'active')))
          .for('update')
        if (!user) throw new Outcome('invalid_token')
        await tx
          .update(users)
          .set({ email, emailVerifiedAt: new Date(clock.now()) })
          .where(eq(users.id, userId))
        const { username } = user
        if (user.emailVerifiedAt && user.email && user.email !== email)
          await queue?.add(tx, { kind: farewellJob, payload: { email: user.email, username } })
        return userId
      })
      audit.record({ event: 'account.email_verified', sub: verified }, origin)
    },
  }
}
