import { inArray, lt, sql } from 'drizzle-orm'
import type { PurgeBatch } from '../db/purge.ts'
import { auditEvents } from '../db/tables.ts'

/** Deletes events that are older than this. The table itself refuses to lose any that are younger than a day. */
export const deleteEventsAfter =
  (days: number): PurgeBatch =>
  async (tx, limit) => {
    const expired = tx
      .select({ id: auditEvents.id })
      .from(auditEvents)
      .where(lt(auditEvents.at, sql`now() - make_interval(days => ${days})`))
      .limit(limit)
    const gone = await tx
      .delete(auditEvents)
      .where(inArray(auditEvents.id, expired))
      .returning({ id: auditEvents.id })
    return gone.length
  }
