import { sql } from 'drizzle-orm'
import type { Database } from './connect.ts'
import { isSerializationFailure } from './errors.ts'
import { prepare } from './prepared.ts'

/** How long a writer may be silent, in milliseconds, before Postgres ends it: others wait for its locks. */
const silenceMs = 1_000

const setDurable = prepare<object, object>(
  sql`select set_config('synchronous_commit', 'on', true),
             set_config('idle_in_transaction_session_timeout', ${String(silenceMs)}, true)`,
)

/**
 * Runs `work` in a transaction whose commit has reached the disk when it returns, whatever the server's default is:
 * with `synchronous_commit = off` a crash loses what was acknowledged. An instance that freezes in it holds others up for
 * no longer than it may be silent.
 */
export function durably<T>(db: Database, work: (tx: Database) => Promise<T>): Promise<T> {
  return db.transaction(async (tx) => {
    await setDurable(tx, {})
    return await work(tx)
  })
}

/**
 * Runs one statement by itself, in one round trip. Where somebody has set the database to another isolation than read committed, it
 * cannot judge what it has waited for: there, it runs once more, in a transaction.
 */
export function alone<T>(db: Database, statement: (db: Database) => Promise<T>): Promise<T> {
  return statement(db).catch((error: unknown) => {
    if (!isSerializationFailure(error)) throw error
    return durably(db, statement)
  })
}
