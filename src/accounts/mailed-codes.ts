/** Codes by mail as a second factor, for installations that want them: better than none, and no proof of a second thing. */
import { randomInt, timingSafeEqual } from 'node:crypto'
import { and, eq, gt } from 'drizzle-orm'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { mfaChallenges, users } from '../db/tables.ts'
import type { MailQueue } from '../mail/queue.ts'
import type { Letter } from '../mail/transport.ts'
import { hashOpaqueToken } from '../tokens/opaque-tokens.ts'

export interface MailedCodes {
  /** Has a code mailed to whose login this is, as soon as the transaction is committed. */
  send(tx: Database, challenge: Buffer, expiresAt: Date): Promise<void>
  isRight(mailedCode: Buffer, code: string): 'mail' | undefined
  /** @returns what is to be mailed, with another code each time */
  compose(challenge: Buffer): Promise<Letter | undefined>
}

export interface MailedCodesOptions {
  db: Database
  clock: Clock
  queue: MailQueue
  serviceName: string
}

export const loginCodeJob = 'login_code'

export const createMailedCodes = ({ db, clock, queue, serviceName }: MailedCodesOptions): MailedCodes => ({
  send: (tx, challenge, expiresAt) =>
    queue.add(tx, { kind: loginCodeJob, payload: { challenge: challenge.toString('hex') }, expiresAt }),

  isRight: (mailedCode, code) =>
    timingSafeEqual(mailedCode, hashOpaqueToken(code.replace(/\s/g, ''))) ? 'mail' : undefined,

  async compose(challenge) {
    const code = String(randomInt(100_000_000)).padStart(8, '0')
    const [challenged] = await db
      .update(mfaChallenges)
      .set({ mailedCode: hashOpaqueToken(code) })
      .from(users)
      .where(
        and(
          eq(mfaChallenges.hash, challenge),
          eq(users.id, mfaChallenges.userId),
          gt(mfaChallenges.expiresAt, new Date(clock.now())),
        ),
      )
      .returning({ email: users.email, username: users.username })
    if (!challenged?.email) return undefined
    return {
      to: challenged.email,
      subject: `${code} is your code for ${serviceName}`,
      text: `Somebody, you we hope, logs in to ${serviceName} as ${challenged.username} with the right password. The code is

  ${code}

It is good for five minutes. If it was not you, choose another password.
`,
    }
  },
})
