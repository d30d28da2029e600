import { and, inArray, lt, sql } from 'drizzle-orm'
import type { PurgeBatch } from '../db/purge.ts'
import { revocationHead, revocations } from '../db/tables.ts'

/**
 * Deletes entries that expired a day ago. The newest row stays: the tails know by it that the record is still the one that
 * they follow.
 */
export const deleteExpiredEntries: PurgeBatch = async (tx, limit) => {
  const expired = tx
    .select({ seq: revocations.seq })
    .from(revocations)
    .where(
      and(
        lt(revocations.expiresAt, sql`now() - interval '1 day'`),
        lt(revocations.seq, sql`(select ${revocationHead.seq} from ${revocationHead})`),
      ),
    )
    .limit(limit)
  const gone = await tx
    .delete(revocations)
    .where(inArray(revocations.seq, expired))
    .returning({ seq: revocations.seq })
  return gone.length
}
