import { inArray, lt, sql } from 'drizzle-orm'
import type { PurgeBatch } from '../db/purge.ts'
import { sessions } from '../db/tables.ts'

/** Deletes sessions whose absolute end was a day ago, and with them every refresh token they ever had. */
export const deleteExpiredSessions: PurgeBatch = async (tx, limit) => {
  const expired = tx
    .select({ id: sessions.id })
    .from(sessions)
    .where(lt(sessions.expiresAt, sql`now() - interval '1 day'`))
    .limit(limit)
  const gone = await tx.delete(sessions).where(inArray(sessions.id, expired)).returning({ id: sessions.id })
  return gone.length
}
