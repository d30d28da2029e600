/**
 * The rows that the audit leaves in the database: written a moment after what they tell of, many at once, and never in the way of a
 * request. What cannot be written now is kept and written later, once.
 */
import { sql } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { auditEvents } from '../db/tables.ts'
import type { AuditRow } from './rows.ts'

export interface Trail {
  /** Never waits, never throws. */
  add(row: AuditRow): void
  /** Writes what is left, if that is possible now. */
  stop(): Promise<void>
}

export interface TrailOptions {
  db: Database
  log: Record<'info' | 'warn' | 'error', (line: object, message: string) => void>
}

/** The longest that a row waits to be written with others. */
const gatherMs = 50
const retryMs = 500
const batchSize = 500
/** Rows kept for later. Beyond it the oldest go: the log has them too. */
const maxKept = 10_000

/** Stop it before its database closes. */
export function createTrail({ db, log }: TrailOptions): Trail {
  const rows: AuditRow[] = []
  /** The rows that are being written, and the transaction that wrote them, if it is not known to have failed. */
  let batch: AuditRow[] = []
  let transaction: string | undefined
  /** How many of the next rows are written one by one, for one of them was refused. */
  let singly = 0
  let dropped = 0
  let isBehind = false
  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> | undefined
  let stopped = false

  function schedule(inMs: number): void {
    if (stopped || rows.length + batch.length === 0) return
    timer ??= setTimeout(() => {
      writing = write(batchSize)
    }, inMs)
  }

  /** Writes a batch, and others until fewer rows than that are left. */
  async function write(enough: number): Promise<void> {
    let next = gatherMs
    try {
      do await writeBatch()
      while (rows.length >= enough)
      if (dropped > 0) log.error({ dropped }, 'the audit trail is written again, without the oldest rows')
      else if (isBehind) log.info({}, 'the audit trail is written again')
      isBehind = false
      dropped = 0
    } catch (err) {
      if (!isBehind) log.warn({ err }, 'the audit trail cannot be written now')
      isBehind = true
      next = retryMs
    }
    timer = undefined
    schedule(next)
  }

  /** @throws Error if it cannot be done now: the batch is kept */
  async function writeBatch(): Promise<void> {
    if (transaction !== undefined && (await hasCommitted(transaction))) batch = []
    transaction = undefined
    if (batch.length === 0) batch = rows.splice(0, singly > 0 ? 1 : batchSize)
    if (batch.length === 0) return
    singly = Math.max(0, singly - 1)
    try {
      await durably(db, async (tx) => {
        const written = await tx
          .insert(auditEvents)
          .values(batch)
          .returning({ transaction: sql<string>`pg_current_xact_id()::text` })
        transaction = written[0]?.transaction
      })
    } catch (error) {
      if (isDatabaseUnavailable(error)) throw error
      refuse(error)
    }
    batch = []
    transaction = undefined
  }

  /** Whether a commit that was not answered was done. @throws Error while that is not decided */
  async function hasCommitted(id: string): Promise<boolean> {
    const status = sql<string | null>`pg_xact_status(${id}::xid8)`
    const [found] = await db
      .select({ status })
      .from(sql`(values (1)) as one`)
      .catch((error: unknown) => {
        if (isDatabaseUnavailable(error)) throw error
        // A database that was set back has never heard of it.
        return []
      })
    if (found?.status === 'in progress') throw new Error('rows of the audit trail are still being written')
    return found?.status === 'committed'
  }

  /** One row must not cost the others theirs. */
  function refuse(err: unknown): void {
    const [row] = batch
    if (batch.length > 1) {
      singly = batch.length
      rows.unshift(...batch)
    } else log.error({ err, event: row?.event }, 'a row of the audit trail was refused')
  }

  return {
    add(row) {
      rows.push(row)
      if (rows.length > maxKept) {
        rows.shift()
        dropped++
      }
      schedule(gatherMs)
    },
    async stop() {
      stopped = true
      clearTimeout(timer)
      await writing
      await write(1)
      const left = rows.length + batch.length
      if (left > 0) log.error({ dropped: dropped + left }, 'the audit trail ends without its last rows')
    },
  }
}
