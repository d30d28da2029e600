/** What the audit has told so far, for whoever asks. */
import { and, desc, eq, lt } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { auditEvents } from '../db/tables.ts'

/** An event as an admin sees it. What it does not have is absent. */
export interface PastEvent {
  id: number
  at: string
  event: string
  subject?: string
  actor?: string
  request_id?: string
  address?: string
  details: Record<string, unknown>
}

/** Which events are listed: all of these must hold. */
export interface EventFilter {
  subject?: string
  event?: string
  actor?: string
}

export interface History {
  /** The newest first, a page at a time. `cursor` is the `next_cursor` of the page before, whatever was added since. */
  list(filter: EventFilter, cursor?: string): Promise<{ events: PastEvent[]; next_cursor?: string }>
}

const pageSize = 100

export const createHistory = ({ db }: { db: Database }): History => ({
  async list({ subject, event, actor }, cursor) {
    const page = await db
      .select()
      .from(auditEvents)
      .where(
        and(
          cursor === undefined ? undefined : lt(auditEvents.id, Number(cursor)),
          subject === undefined ? undefined : eq(auditEvents.subject, subject),
          event === undefined ? undefined : eq(auditEvents.event, event),
          actor === undefined ? undefined : eq(auditEvents.actor, actor),
        ),
      )
      .orderBy(desc(auditEvents.id))
      .limit(pageSize)
    const last = page.length === pageSize ? page.at(-1) : undefined
    return { events: page.map(pastEvent), ...(last && { next_cursor: `${last.id}` }) }
  },
})

const pastEvent = (row: typeof auditEvents.$inferSelect): PastEvent => ({
  id: row.id,
  at: row.at.toISOString(),
  event: row.event,
  ...(row.subject !== null && { subject: row.subject }),
  ...(row.actor !== null && { actor: row.actor }),
  ...(row.requestId !== null && { request_id: row.requestId }),
  ...(row.address !== null && { address: row.address }),
  details: row.details,
})
