import { and, eq, isNull, max } from 'drizzle-orm'
import type { RevocationEntry } from '../bearer/revoked-entries.ts'
import type { Database } from '../db/connect.ts'
import { sessions, users } from '../db/tables.ts'
import { generationEntry } from '../revocation/entries.ts'

export interface GenerationStep {
  /** As locked by the caller. */
  user: { id: string; generation: number }
  /** Which sessions of this generation go on under the next one, from their next refresh. The others end. */
  survivors: 'none' | 'all' | { sid: string }
  /** The `exp` of an access token issued now, in seconds since the epoch. */
  latestExpiry: number
  now: Date
}

/**
 * Ends a generation of an account: every access token that was issued under it is dead, and a login in the same second is
 * not.
 *
 * @returns what is to be recorded in the same transaction
 */
export async function stepGeneration(
  tx: Database,
  { user, survivors, latestExpiry, now }: GenerationStep,
): Promise<RevocationEntry> {
  const next = user.generation + 1
  await tx.update(users).set({ generation: next }).where(eq(users.id, user.id))
  const [longest] = await tx
    .select({ end: max(sessions.accessExpMax) })
    .from(sessions)
    .where(eq(sessions.userId, user.id))
  const going = and(
    eq(sessions.userId, user.id),
    eq(sessions.generation, user.generation),
    isNull(sessions.endedAt),
  )
  if (survivors !== 'none') {
    const surviving = survivors === 'all' ? going : and(going, eq(sessions.id, survivors.sid))
    await tx.update(sessions).set({ generation: next }).where(surviving)
  }
  if (survivors !== 'all') await tx.update(sessions).set({ endedAt: now }).where(going)
  const end = Math.max(latestExpiry, Math.ceil((longest?.end?.getTime() ?? 0) / 1000))
  return generationEntry(user.id, user.generation, end)
}
