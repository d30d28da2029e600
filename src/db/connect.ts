import { PGlite } from '@electric-sql/pglite'
import { drizzle as drizzlePostgres, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import pg from 'pg'
import { isDatabaseUnavailable } from './errors.ts'
import type * as tables from './tables.ts'

/** Postgres or PGlite: the same tables and the same SQL behind one type. Inside a transaction use its `tx`, never this. */
export type Database = PgDatabase<PgQueryResultHKT, typeof tables>

export interface Connection {
  db: Database
  close(): Promise<void>
}

export interface PostgresOptions {
  url: string
  /** Connections at most. */
  max: number
  /** The longest that a statement, or the wait for a connection, may take before it fails; 0 for no limit. */
  deadlineMs: number
  /** The same for the wait alone, where statements may take long. */
  connectDeadlineMs?: number
  /** Told of connections that break while nobody uses them; the pool replaces them. */
  onIdleError(error: Error): void
}

/** Connects lazily: a server that is down is noticed by the first statement. */
export function connectPostgres({
  url,
  max,
  deadlineMs,
  connectDeadlineMs = deadlineMs,
  onIdleError,
}: PostgresOptions): Connection {
  const pool = new pg.Pool({
    connectionString: url,
    max,
    connectionTimeoutMillis: connectDeadlineMs,
    query_timeout: deadlineMs,
    application_name: 'latchkey',
  })
  pool.on('error', onIdleError)
  // One that breaks while it is in use fails the statements of its user; unheard, the event would end the process.
  pool.on('connect', (client) => client.on('error', () => {}))
  const db = drizzlePostgres(pool)
  return {
    db: Object.assign(db, { transaction: transactionOn(pool) }) as unknown as Database,
    close: () => pool.end(),
  }
}

/**
 * Transactions in place of Drizzle's own. Those keep the connection for ever if `begin` fails, and hand one on which a
 * statement missed its deadline back to the pool with that statement still in it, to hang its next user: an outage would
 * empty the pool for good.
 */
function transactionOn(pool: pg.Pool) {
  return async function transaction<T>(work: (tx: NodePgDatabase) => Promise<T>): Promise<T> {
    const client = await pool.connect()
    let broken = false
    try {
      await client.query('begin isolation level read committed')
      const result = await work(drizzlePostgres(client))
      await client.query('commit')
      return result
    } catch (error) {
      broken = isDatabaseUnavailable(error) || !(await succeeds(client.query('rollback')))
      throw error
    } finally {
      client.release(broken)
    }
  }
}

const succeeds = (attempt: Promise<unknown>): Promise<boolean> =>
  attempt.then(
    () => true,
    () => false,
  )

/** Opens the embedded database in a folder. Only one process may have it open: see data-folder. */
export async function openPglite(folder: string): Promise<Connection> {
  const client = await PGlite.create(folder)
  return { db: drizzlePglite(client) as unknown as Database, close: () => client.close() }
}
