/** Tables whose rows outlive their use do not grow for ever: batches go now and then, by one instance at a time. */
import { sql } from 'drizzle-orm'
import type { Database } from './connect.ts'
import { durably } from './durably.ts'

/** Deletes at most `limit` rows that are of no use any more. @returns how many */
export type PurgeBatch = (tx: Database, limit: number) => Promise<number>

export interface Purge {
  start(): void
  stop(): void
}

export interface PurgeOptions {
  db: Database
  batches: readonly PurgeBatch[]
  onError(error: unknown): void
}

const everyMs = 600_000
const batchSize = 1_000
/** Any number, as long as every instance takes the same. */
const advisoryLock = 5_252_438

/** One that freezes amid a batch loses it, and so its turn, as any writer does (durably). @returns how many rows went */
export async function purge(db: Database, batch: PurgeBatch): Promise<number> {
  for (let purged = 0; ; ) {
    const gone = await durably(db, async (tx) => ((await isMine(tx)) ? await batch(tx, batchSize) : 0))
    purged += gone
    if (gone < batchSize) return purged
  }
}

async function isMine(tx: Database): Promise<boolean> {
  const lock = sql<boolean>`pg_try_advisory_xact_lock(${advisoryLock})`
  const [mine] = await tx.select({ lock }).from(sql`(values (1)) as one`)
  return mine?.lock ?? false
}

/** Purges while the service runs. */
export function createPurge({ db, batches, onError }: PurgeOptions): Purge {
  let timer: NodeJS.Timeout | undefined

  async function purgeAll(): Promise<void> {
    try {
      for (const batch of batches) await purge(db, batch)
    } catch (error) {
      onError(error)
    }
  }

  return {
    start() {
      timer = setInterval(() => void purgeAll(), everyMs)
    },
    stop: () => clearInterval(timer),
  }
}
