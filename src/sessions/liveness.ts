import { type Placeholder, type SQL, sql } from 'drizzle-orm'
import { sessions, users } from '../db/tables.ts'

/** A moment for SQL that is written by hand. In milliseconds since the epoch. */
export const momentInSql = (ms: number | Placeholder): SQL => sql`to_timestamp(${ms}::float8 / 1000)`

/**
 * Whether a session can go on, as a condition on `sessions` joined with `users`: not ended, within its idle and absolute
 * limits, its owner not disabled, and of the account's present generation.
 */
export const isLive = (now: number | Placeholder): SQL => sql`
  ${sessions.endedAt} is null
  and ${sessions.idleExpiresAt} > ${momentInSql(now)}
  and ${sessions.expiresAt} > ${momentInSql(now)}
  and ${sessions.generation} = ${users.generation}
  and ${users.status} = 'active'`
