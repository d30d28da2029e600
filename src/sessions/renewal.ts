/** What becomes of a session whose owner has proved once more who they are. Both belong to the transaction of a revocation. */
import { and, eq } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { refreshTokens, sessions, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { isLive } from './liveness.ts'
import { noteAccess } from './rotation.ts'
import { type SessionFacts, sessionFacts } from './session-tokens.ts'

/** How somebody has just proved who they are. */
export interface Proof {
  amr: readonly string[]
  acr: string
}

/** Times are in milliseconds since the epoch. */
export interface Continuation {
  now: number
  /** The `exp` of the access token that comes of it. */
  accessEnd: number
  address: string
  userAgent: string
}

/**
 * @param proof in place of the one that the session has
 * @throws Outcome `token_revoked` if the session has ended meanwhile
 */
export async function continueSession(
  tx: Database,
  sid: string,
  continuation: Continuation,
  proof?: Proof,
): Promise<SessionFacts> {
  const { now } = continuation
  const [live] = await tx
    .select({ roles: users.roles })
    .from(users)
    .innerJoin(sessions, eq(sessions.userId, users.id))
    .where(and(eq(sessions.id, sid), isLive(now)))
    .for('no key update')
  if (!live) throw new Outcome('token_revoked')
  await noteAccess(tx, sid, continuation)
  if (proof) {
    const authTime = new Date(Math.floor(now / 1000) * 1000)
    await tx
      .update(sessions)
      .set({ authTime, amr: [...proof.amr], acr: proof.acr })
      .where(eq(sessions.id, sid))
  }
  const [session] = await tx.select().from(sessions).where(eq(sessions.id, sid))
  return sessionFacts(session as typeof sessions.$inferSelect, live.roles)
}

/** Puts one refresh token in the place of all that a session ever had. What is gone was never one of ours: it ends nothing. */
export async function replaceRefreshTokens(tx: Database, sid: string, hash: Buffer): Promise<void> {
  await tx.delete(refreshTokens).where(eq(refreshTokens.sessionId, sid))
  await tx.insert(refreshTokens).values({ hash, sessionId: sid })
}
