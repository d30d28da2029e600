import { PGlite } from '@electric-sql/pglite'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import pg from 'pg'
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
  /** Told of connections that break while nobody uses them; the pool replaces them. */
  onIdleError(error: Error): void
}

/** Connects lazily: a server that is down is noticed by the first statement. */
export function connectPostgres({ url, max, deadlineMs, onIdleError }: PostgresOptions): Connection {
  const pool = new pg.Pool({
    connectionString: url,
    max,
    connectionTimeoutMillis: deadlineMs,
    query_timeout: deadlineMs,
    // A connection whose statement missed its deadline still has that statement in it. Only in this mode does
    // pg destroy such a connection; otherwise a transaction hands it back to the pool, to hang its next user.
    pipeline: true,
    application_name: 'latchkey',
  })
  pool.on('error', onIdleError)
  return { db: drizzlePostgres(pool) as unknown as Database, close: () => pool.end() }
}

/** Opens the embedded database in a folder. Only one process may have it open: see data-folder. */
export async function openPglite(folder: string): Promise<Connection> {
  const client = await PGlite.create(folder)
  return { db: drizzlePglite(client) as unknown as Database, close: () => client.close() }
}
