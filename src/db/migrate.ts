import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import { migrate as migratePostgres } from 'drizzle-orm/node-postgres/migrator'
import type { PgliteDatabase } from 'drizzle-orm/pglite'
import { migrate as migratePglite } from 'drizzle-orm/pglite/migrator'
import { connectPostgres, type Database } from './connect.ts'
import { explainDatabaseError, isNotPermitted } from './errors.ts'

const migrationsFolder = fileURLToPath(new URL('../../migrations', import.meta.url))

/** Any number, as long as every instance takes the same. */
const advisoryLock = 5_252_437

/**
 * Brings a Postgres schema up to date. Many instances may start at once: one migrates, the others wait for it on an
 * advisory lock. A schema that is current already is left alone, so that the service can run as a role that may not
 * change it.
 *
 * @throws Error with one clear line
 */
export async function migratePostgresSchema(url: string): Promise<void> {
  const connection = connectPostgres({
    url,
    max: 2,
    deadlineMs: 0,
    connectDeadlineMs: 5_000,
    onIdleError: () => {},
  })
  const { db } = connection
  try {
    if (await isSchemaCurrent(db)) return
    await db.transaction(async (lock) => {
      await lock.execute(sql`select pg_advisory_xact_lock(${advisoryLock})`)
      await migratePostgres(db as unknown as NodePgDatabase, { migrationsFolder })
    })
  } catch (error) {
    const problem = isNotPermitted(error)
      ? 'the database schema is behind, and this role may not change it: run latchkey migrate'
      : explainDatabaseError(error)
    throw new Error(problem, { cause: error })
  } finally {
    await connection.close()
  }
}

/** The same for the embedded store, which nobody else can have open. */
export async function migratePgliteSchema(db: Database): Promise<void> {
  await migratePglite(db as unknown as PgliteDatabase, { migrationsFolder })
}

/** Whether every migration that this build was made with has been applied. */
async function isSchemaCurrent(db: Database): Promise<boolean> {
  const journal = JSON.parse(await readFile(`${migrationsFolder}/meta/_journal.json`, 'utf8')) as {
    entries: { when: number }[]
  }
  const [found] = await db
    .select({ exists: sql<boolean>`to_regclass('drizzle.__drizzle_migrations') is not null` })
    .from(sql`(values (1)) as one`)
  if (!found?.exists) return false
  const [applied] = await db
    .select({ latest: sql`max(created_at)`.mapWith(Number) })
    .from(sql`drizzle.__drizzle_migrations`)
  return journal.entries.every((entry) => entry.when <= (applied?.latest ?? 0))
}
