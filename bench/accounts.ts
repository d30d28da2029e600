/** Accounts and sessions by the thousand, written straight to the database: to register and log in would take hours of hashing. */
import { type SQL, sql } from 'drizzle-orm'
import { createPasswords } from '../src/accounts/passwords.ts'
import { loadConfig } from '../src/config.ts'
import { connectPostgres, type Database } from '../src/db/connect.ts'

const accounts = 1000
export const password = 'correct horse battery'

/** @param n from 0 on; behind the last account comes the first again */
export const usernameOf = (n: number): string => `user${n % accounts}`

/** Of the nth session: that number, with zeros before it for its length. */
export const refreshTokenOf = (n: number): string => `${n}`.padStart(43, '0')

/** Its hash, in SQL. */
export const refreshTokenHash = (n: string): string => `sha256(lpad(${n}::text, 43, '0')::bytea)`

/** @param databaseUrl of an instance that has started, for it makes the tables */
export async function makeAccounts(databaseUrl: string): Promise<void> {
  const passwordHash = await (await createPasswords(loadConfig({}).passwords)).hash(password)
  await ask(
    databaseUrl,
    sql`
      insert into users (id, username, password_hash, created_at)
      select gen_random_uuid(), 'user' || n, ${passwordHash}, now() from generate_series(0, ${accounts - 1}::int) n`,
  )
}

/** Fresh sessions, a refresh token each. @param from the number of the first */
export async function makeSessions(databaseUrl: string, from: number, count: number): Promise<void> {
  const numbers = sql`generate_series(${from}::int, ${from + count - 1}::int) n`
  await ask(
    databaseUrl,
    sql`
      with owner as (
        select id, row_number() over () - 1 as place from users
      ), made as (
        insert into sessions (id, user_id, generation, auth_time, amr, acr, remember, created_at, last_used_at,
          idle_expires_at, expires_at, access_exp_max)
        select md5(n::text)::uuid, owner.id, 1, date_trunc('second', now()), '{pwd}', 'aal1', false, now(), now(),
          now() + interval '12 hours', now() + interval '7 days', now() + interval '15 minutes'
        from ${numbers} join owner on place = n % ${accounts}::int
      )
      insert into refresh_tokens (hash, session_id)
      select ${sql.raw(refreshTokenHash('n'))}, md5(n::text)::uuid from ${numbers}`,
  )
  // A table of that size has long been analysed.
  await ask(databaseUrl, sql`analyze`)
}

/** How many refresh tokens have been exchanged, and sessions ended. */
export async function countDone(databaseUrl: string): Promise<number> {
  const [done] = await ask<{ count: number }>(
    databaseUrl,
    sql`
      select ((select count(*) from refresh_tokens where used_at is not null)
        + (select count(*) from sessions where ended_at is not null))::int as count`,
  )
  return done?.count ?? 0
}

/** How many refresh tokens could be used that are not the only one of their session. */
export async function countBranches(databaseUrl: string): Promise<number> {
  const [found] = await ask<{ count: number }>(
    databaseUrl,
    sql`select (count(*) - count(distinct session_id))::int as count from refresh_tokens where used_at is null`,
  )
  return found?.count ?? 0
}

async function ask<Row>(url: string, statement: SQL): Promise<Row[]> {
  const { db, close } = connectPostgres({ url, max: 1, deadlineMs: 60_000, onIdleError() {} })
  try {
    return ((await (db as Database).execute(statement)) as unknown as { rows: Row[] }).rows
  } finally {
    await close()
  }
}
