/**
 * An address is written to so often in an hour, by whomever it was given: nobody's mailbox is to be filled from here. Each kind of mail is
 * counted by itself: whoever registers with somebody's address must not use up the links that recover their account.
 */
import { createHash } from 'node:crypto'
import { sql } from 'drizzle-orm'
import type { Audit } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { alone } from '../db/durably.ts'
import { guesses } from '../db/tables.ts'

/** @param kind of the mail that would go there. @param sub whose account it would be about, for the audit */
export type MayWriteTo = (email: string, kind: string, sub: string) => Promise<boolean>

const most = 5
const windowMs = 3_600_000

export function createMailboxLimit({
  db,
  clock,
  audit,
}: {
  db: Database
  clock: Clock
  audit: Audit
}): MayWriteTo {
  return async function mayWriteTo(email, kind, sub) {
    const now = new Date(clock.now())
    const windowEndsAt = new Date(now.getTime() + windowMs)
    // No username has a space in it: none begins to count this anew.
    const account = createHash('sha256').update(`${kind} ${email.toLowerCase()}`).digest()
    const isOpen = sql`${guesses.windowEndsAt} > ${now.toISOString()}::timestamptz`
    const [count] = await alone(db, (db) =>
      db
        .insert(guesses)
        .values({ account, kind: 'mail', recent: 1, windowEndsAt, inARow: 0, lastAt: now })
        .onConflictDoUpdate({
          target: [guesses.account, guesses.kind],
          set: {
            lastAt: now,
            recent: sql`case when ${isOpen} then ${guesses.recent} + 1 else 1 end`,
            windowEndsAt: sql`case when ${isOpen} then ${guesses.windowEndsAt} else excluded.window_ends_at end`,
          },
        })
        .returning({ recent: guesses.recent }),
    )
    const may = (count?.recent ?? 0) <= most
    if (!may) audit.record({ event: 'mail.withheld', kind, sub })
    return may
  }
}
