import { eq, inArray, lt, sql } from 'drizzle-orm'
import type { PurgeBatch } from '../db/purge.ts'
import { refreshTokens, sessions } from '../db/tables.ts'

const isOver = lt(sessions.expiresAt, sql`now() - interval '1 day'`)

/**
 * Deletes refresh tokens of sessions whose absolute end was a day ago. Before those sessions: one may have had thousands, and
 * a batch must be done within the deadline of a statement.
 */
export const deleteExpiredRefreshTokens: PurgeBatch = async (tx, limit) => {
  const expired = tx
    .select({ hash: refreshTokens.hash })
    .from(refreshTokens)
    .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
    .where(isOver)
    .limit(limit)
  const gone = await tx
    .delete(refreshTokens)
    .where(inArray(refreshTokens.hash, expired))
    .returning({ hash: refreshTokens.hash })
  return gone.length
}

/** Deletes the sessions themselves. Those that somebody is about to change are left for the next time. */
export const deleteExpiredSessions: PurgeBatch = async (tx, limit) => {
  const expired = tx
    .select({ id: sessions.id })
    .from(sessions)
    .where(isOver)
    .limit(limit)
    .for('update', { skipLocked: true })
  const gone = await tx.delete(sessions).where(inArray(sessions.id, expired)).returning({ id: sessions.id })
  return gone.length
}
