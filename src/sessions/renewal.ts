/** What becomes of a session whose owner has proved once more who they are. Both belong to the transaction of a revocation. */
import { and, eq } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { refreshTokens, sessions, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { isLive } from './liveness.ts'
import { noteAccess } from './rotation.ts'
import { type SessionFacts, sessionFacts } from './session-tokens.ts'

/** Times are in milliseconds since the epoch. */
export interface Proof {
  now: number
  /** The `exp` of the access token that comes of it. */
  accessEnd: number
  amr: readonly string[]
  acr: string
  address: string
  userAgent: string
}

/** @throws Outcome `token_revoked` if the session has ended meanwhile */
export async function renewProof(tx: Database, sid: string, proof: Proof): Promise<SessionFacts> {
  const [live] = await tx
    .select({ roles: users.roles })
    .from(users)
    .innerJoin(sessions, eq(sessions.userId, users.id))
    .where(and(eq(sessions.id, sid), isLive(proof.now)))
    .for('no key update')
  if (!live) throw new Outcome('token_revoked')
  await noteAccess(tx, sid, proof)
  const [session] = await tx
    .update(sessions)
    .set({
      authTime: new Date(Math.floor(proof.now / 1000) * 1000),
      amr: [...proof.amr],
      acr: proof.acr,
    })
    .where(eq(sessions.id, sid))
    .returning()
  return sessionFacts(session as typeof sessions.$inferSelect, live.roles)
}

/** Puts one refresh token in the place of all that a session ever had. What is gone was never one of ours: it ends nothing. */
export async function replaceRefreshTokens(tx: Database, sid: string, hash: Buffer): Promise<void> {
  await tx.delete(refreshTokens).where(eq(refreshTokens.sessionId, sid))
  await tx.insert(refreshTokens).values({ hash, sessionId: sid })
}
