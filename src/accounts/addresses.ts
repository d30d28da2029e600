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
import type { MayWriteTo } from './mailbox-limit.ts'
import type { Notices } from './notices.ts'
import type { ProvenHolder } from './proofs.ts'
import type { User } from './users.ts'

export interface Addresses {
  /** Has a link mailed to whoever is to have this address, as soon as the transaction is committed; nothing, where nothing can be mailed. */
  askToVerify(tx: Database, user: Pick<User, 'id' | 'generation'>, email: string): Promise<void>
  /** The same for somebody who is logged in; the address is theirs when the link has been followed. @throws Outcome `reauthentication_required` */
  change(holder: ProvenHolder, email: string, origin: Origin): Promise<void>
  /** @returns what is to be mailed */
  composeVerification(
    job: { userId?: string; generation?: string; email?: string },
    attempt: number,
  ): Promise<Letter | undefined>
  /** @throws Outcome `invalid_token` */
  verify(token: string, origin: Origin): Promise<void>
}

export interface AddressesOptions {
  db: Database
  clock: Clock
  queue: MailQueue | undefined
  mailTokens: MailTokens
  mayWriteTo: MayWriteTo
  notices: Pick<Notices, 'tell'>
  assertFresh: AssertFresh
  audit: Audit
  /** The page that the links lead to. */
  appUrl: string
  serviceName: string
}

export const verificationJob = 'verification'

export function createAddresses(options: AddressesOptions): Addresses {
  const { db, clock, queue, mailTokens, mayWriteTo, notices, assertFresh, audit, appUrl, serviceName } =
    options

  async function askToVerify(
    tx: Database,
    { id, generation }: Pick<User, 'id' | 'generation'>,
    email: string,
  ): Promise<void> {
    const payload = { userId: id, generation: `${generation}`, email }
    await queue?.add(tx, { kind: verificationJob, payload })
  }

  return {
    askToVerify,

    async change(holder, email, origin) {
      assertFresh(holder)
      if (!queue) throw new Outcome('unavailable', { detail: 'This service sends no mail.' })
      const { sub, sid, ver } = holder
      await durably(db, (tx) => askToVerify(tx, { id: sub, generation: ver }, email))
      audit.record({ event: 'account.email_asked', sub, sid }, origin)
    },

    async composeVerification({ userId = '', generation = '', email = '' }, attempt) {
      const [user] = await db
        .select()
        .from(users)
        .where(and(eq(users.id, userId), eq(users.generation, Number(generation))))
      if (!user || (attempt === 1 && !(await mayWriteTo(email, verificationJob, user.id)))) return undefined
      const token = await mailTokens.issue(user, 'verify', email)
      // No name: whoever chose it may not be who reads this.
      return {
        to: email,
        subject: `Is this your address at ${serviceName}?`,
        text: `Somebody at ${serviceName} says that this is their address. If that is you, say so here, within a day:

  ${new URL(`#verify=${token}`, appUrl).href}

It is not you? Then do nothing, and nothing comes of it.
`,
      }
    },

    async verify(token, origin) {
      const verified = await durably(db, async (tx) => {
        const { user, email } = await mailTokens.take(tx, token, 'verify', origin)
        await tx
          .update(users)
          .set({ email, emailVerifiedAt: new Date(clock.now()) })
          .where(eq(users.id, user.id))
        if (user.email !== email) await notices.tell(tx, user, 'email_changed')
        return user.id
      })
      audit.record({ event: 'account.email_verified', sub: verified }, origin)
    },
  }
}
