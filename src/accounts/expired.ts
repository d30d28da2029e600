import { inArray, lt, type SQL, sql } from 'drizzle-orm'
import type { PgColumn, PgTable } from 'drizzle-orm/pg-core'
import type { PurgeBatch } from '../db/purge.ts'
import { familiarNetworks, guesses, mailTokens, mfaChallenges } from '../db/tables.ts'
import { familiarDays, mostInARow } from './guesses.ts'

/** By the place of a row: not all of these have a key of one column. */
const deleteWhere =
  (table: PgTable & { _: unknown }, isOver: SQL): PurgeBatch =>
  async (tx, limit) => {
    const place = sql`ctid`
    const over = tx.select({ place }).from(table).where(isOver).limit(limit)
    const gone = await tx.delete(table).where(inArray(place, over)).returning({ place })
    return gone.length
  }

const isBefore = (moment: PgColumn, age: string) => lt(moment, sql`now() - ${age}::interval`)

export const deleteExpiredChallenges = deleteWhere(mfaChallenges, isBefore(mfaChallenges.expiresAt, '1 day'))
export const deleteExpiredMailTokens = deleteWhere(mailTokens, isBefore(mailTokens.expiresAt, '1 day'))
export const deleteOldNetworks = deleteWhere(
  familiarNetworks,
  isBefore(familiarNetworks.seenAt, `${familiarDays} days`),
)

/** Not those by which an account takes no more: that lasts until somebody chooses another password. */
export const deleteOldGuesses = deleteWhere(
  guesses,
  sql`${isBefore(guesses.lastAt, '30 days')} and ${guesses.inARow} < ${mostInARow}`,
)
