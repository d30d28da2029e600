/** The record does not grow for ever: a day after an entry has expired, its row goes. */
import { and, inArray, lt, sql } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { revocationHead, revocations } from '../db/tables.ts'

export interface Purge {
  start(): void
  stop(): void
}

export interface PurgeOptions {
  db: Database
  onError(error: unknown): void
}

const everyMs = 600_000
const batchSize = 1_000
/** Any number, as long as every instance takes the same. */
const advisoryLock = 5_252_438

/**
 * Removes what has been expired for a day, in batches, by one instance at a time. The newest row stays: the tails know by
 * it that the record is still the one that they follow.
 *
 * @returns how many rows went
 */
export async function purgeExpired(db: Database): Promise<number> {
  for (let purged = 0; ; ) {
    const batch = await db.transaction(purgeBatch)
    purged += batch
    if (batch < batchSize) return purged
  }
}

async function purgeBatch(tx: Database): Promise<number> {
  const lock = sql<boolean>`pg_try_advisory_xact_lock(${advisoryLock})`
  const [mine] = await tx.select({ lock }).from(revocationHead)
  if (!mine?.lock) return 0
  const expired = tx
    .select({ seq: revocations.seq })
    .from(revocations)
    .where(
      and(
        lt(revocations.expiresAt, sql`now() - interval '1 day'`),
        lt(revocations.seq, sql`(select ${revocationHead.seq} from ${revocationHead})`),
      ),
    )
    .limit(batchSize)
  const gone = await tx
    .delete(revocations)
    .where(inArray(revocations.seq, expired))
    .returning({ seq: revocations.seq })
  return gone.length
}

/** Purges now and then while the service runs. */
export function createPurge({ db, onError }: PurgeOptions): Purge {
  let timer: NodeJS.Timeout | undefined
  return {
    start() {
      timer = setInterval(() => void purgeExpired(db).catch(onError), everyMs)
    },
    stop: () => clearInterval(timer),
  }
}
