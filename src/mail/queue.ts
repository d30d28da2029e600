/**
 * What is to be mailed waits in Postgres: no request waits for a mail server, and no mail is lost with a process. A mail may be sent
 * twice, if whoever sent it dies before the job is struck off.
 */
import { asc, eq, inArray, lte, sql } from 'drizzle-orm'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import type { Sealer } from '../db/sealing.ts'
import { mailJobs } from '../db/tables.ts'
import type { Letter, SendLetter } from './transport.ts'

export interface MailJob {
  kind: string
  /** What its composer needs; no secret that could be presented. */
  payload: Record<string, string>
  /** When it is too late for it. A day from now, usually. */
  expiresAt?: Date
}

export interface MailQueue {
  /** To be mailed when this transaction is committed. */
  add(tx: Database, job: MailJob): Promise<void>
}

/**
 * What to mail for a job, each kind by its own: nothing, where there is nobody to mail to. One letter at most, for a job is tried again as
 * a whole; whatever is for several people becomes a job each.
 *
 * @param attempt from 1: what was mailed before may have arrived
 */
export type Composers = Record<
  string,
  (payload: Record<string, string>, attempt: number) => Promise<Letter | undefined>
>

export interface MailQueueOptions {
  db: Database
  clock: Clock
  sealer: Sealer
}

const purpose = 'mail job'
const patienceMs = 86_400_000

export const createMailQueue = ({ clock, sealer }: Omit<MailQueueOptions, 'db'>): MailQueue => ({
  async add(tx, { kind, payload, expiresAt }) {
    const dueAt = new Date(clock.now())
    await tx.insert(mailJobs).values({
      kind,
      sealedPayload: sealer.seal(purpose, Buffer.from(JSON.stringify(payload))),
      dueAt,
      expiresAt: expiresAt ?? new Date(dueAt.getTime() + patienceMs),
    })
  },
})

export interface MailWorkerOptions extends MailQueueOptions {
  composers: Composers
  send: SendLetter
  /** Told of a mail that was not taken, and whether that was the last try. */
  onFailure(failure: { kind: string; attempts: number; error: unknown; isLast: boolean }): void
}

/** For as long as an attempt may take, and longer each time: a minute, two, four, an hour at most. In seconds. */
const nextAttempt = sql`least(60 * power(2, ${mailJobs.attempts}), 3600)`

export interface MailWorker {
  /** Mails what is due, one after the other: what is soon of no use any more comes first. */
  mailAll(): Promise<void>
  /** The one that is on its way is the last. */
  stop(): void
}

export function createMailWorker(options: MailWorkerOptions): MailWorker {
  const { db, clock, sealer, composers, send, onFailure } = options
  let stopped = false

  /** Whoever takes one has it until it is due again: nobody holds a lock while a mail server thinks. */
  async function take() {
    const now = new Date(clock.now())
    const due = db
      .select({ id: mailJobs.id })
      .from(mailJobs)
      .where(lte(mailJobs.dueAt, now))
      .orderBy(asc(mailJobs.expiresAt))
      .limit(1)
      .for('update', { skipLocked: true })
    const [job] = await durably(db, (tx) =>
      tx
        .update(mailJobs)
        .set({
          dueAt: sql`${now.toISOString()}::timestamptz + ${nextAttempt} * interval '1 second'`,
          attempts: sql`${mailJobs.attempts} + 1`,
        })
        .where(inArray(mailJobs.id, due))
        .returning(),
    )
    return job
  }

  async function mailAll(): Promise<void> {
    for (let job = await take(); job; job = stopped ? undefined : await take()) {
      const { id, kind, attempts, sealedPayload, expiresAt } = job
      const isLate = clock.now() > expiresAt.getTime()
      try {
        if (isLate) throw new Error('it is too late')
        const payload = JSON.parse(sealer.open(purpose, sealedPayload).toString())
        const compose = composers[kind]
        // One that runs a newer version may know it.
        if (!compose) throw new Error('nobody knows what that is')
        const letter = await compose(payload, attempts)
        if (letter) await send(letter)
      } catch (error) {
        onFailure({ kind, attempts, error, isLast: isLate })
        if (!isLate) continue
      }
      await durably(db, (tx) => tx.delete(mailJobs).where(eq(mailJobs.id, id)))
    }
  }

  return {
    mailAll,
    stop() {
      stopped = true
    },
  }
}
