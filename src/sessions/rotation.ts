/**
 * Refresh token rotation in SQL. Both functions lock the account, then the session, then the token, and judge what they
 * find by its state after the wait: whoever changed one of them first has won.
 */
import { and, eq, gt, isNotNull, type Placeholder, type SQL, sql } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { prepare } from '../db/prepared.ts'
import { refreshTokens, sessions, users } from '../db/tables.ts'
import { isLive, momentInSql } from './liveness.ts'
import { type SessionFacts, sessionFacts } from './session-tokens.ts'

/** All times are in milliseconds since the epoch. */
export interface Rotation {
  hash: Buffer
  successor: Buffer
  /** The successor itself, for whoever still holds the token that it replaces. */
  sealedSuccessor: Buffer
  now: number
  /** The idle end of the session from now on, and the same with `remember`. */
  idleEnd: number
  rememberEnd: number
  /** The `exp` of the access token that comes along. */
  accessEnd: number
  /** Successors sealed before this are needed no more. */
  graceStart: number
  address: string
  userAgent: string
}

/** What a session's `access_exp_max` becomes with a token that ends so; no token outlives its session. */
const greatestAccessEnd = (accessEnd: number | Placeholder) =>
  sql`greatest(${sessions.accessExpMax}, least(${momentInSql(accessEnd)}, ${sessions.expiresAt}))`

const epoch = (column: SQL) => sql`extract(epoch from ${column})::float8`

const given = (name: keyof Rotation): Placeholder => sql.placeholder(name)

/** One statement, one round trip. It commits durably whatever the server's default is, for the successor is acknowledged. */
const rotation = prepare<Rotation, SessionFacts>(
  sql`
    with presented as (
      select refresh_tokens.hash, sessions.*, users.roles,
        least(
          case when remember then ${momentInSql(given('rememberEnd'))} else ${momentInSql(given('idleEnd'))} end,
          sessions.expires_at
        ) as idle_end
      from users
      join sessions on sessions.user_id = users.id
      join refresh_tokens on refresh_tokens.session_id = sessions.id
      where refresh_tokens.hash = ${given('hash')} and refresh_tokens.used_at is null and ${isLive(given('now'))}
      for share of users for no key update of sessions, refresh_tokens
    ), used as (
      update refresh_tokens set used_at = ${momentInSql(given('now'))}, successor = ${given('successor')},
        sealed_successor = ${given('sealedSuccessor')}
      from presented where refresh_tokens.hash = presented.hash
    ), made as (
      insert into refresh_tokens (hash, session_id) select ${given('successor')}::bytea, id from presented
    ), forgotten as (
      update refresh_tokens set sealed_successor = null
      from presented
      where refresh_tokens.session_id = presented.id and refresh_tokens.hash <> presented.hash
        and refresh_tokens.sealed_successor is not null
        and refresh_tokens.used_at < ${momentInSql(given('graceStart'))}
    ), prolonged as (
      update sessions set last_used_at = ${momentInSql(given('now'))}, idle_expires_at = presented.idle_end,
        address = ${given('address')}, user_agent = ${given('userAgent')},
        access_exp_max = ${greatestAccessEnd(given('accessEnd'))}
      from presented where sessions.id = presented.id
    )
    select id, user_id as "userId", generation, roles, amr, acr, remember,
      ${epoch(sql`auth_time`)} as "authTime", ${epoch(sql`idle_end`)} as "idleExpiresAt",
      ${epoch(sql`expires_at`)} as "expiresAt", set_config('synchronous_commit', 'on', true)
    from presented`,
  'rotation',
)

/**
 * Uses up a refresh token that is unused and of a live session, and puts its successor in its place.
 *
 * @returns the session as it is now, or undefined if the token cannot be used (once more)
 */
export async function rotate(db: Database, values: Rotation): Promise<SessionFacts | undefined> {
  const [rotated] = await rotation(db, values)
  return rotated
}

/** Locks the live session that a refresh token belongs to, used or not. */
export async function lockSession(
  tx: Database,
  hash: Buffer,
  now: number,
): Promise<SessionFacts | undefined> {
  const [found] = await tx
    .select({ session: sessions, roles: users.roles })
    .from(users)
    .innerJoin(sessions, eq(sessions.userId, users.id))
    .innerJoin(refreshTokens, eq(refreshTokens.sessionId, sessions.id))
    .where(and(eq(refreshTokens.hash, hash), isLive(now)))
    .for('no key update')
  return found && sessionFacts(found.session, found.roles)
}

/** Whether a refresh token is of a session that has ended, and an access token of it may be alive somewhere. */
export async function hasJustEnded(db: Database, hash: Buffer, now: number): Promise<boolean> {
  const [ended] = await db
    .select({ id: sessions.id })
    .from(refreshTokens)
    .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
    .where(
      and(
        eq(refreshTokens.hash, hash),
        isNotNull(sessions.endedAt),
        gt(sessions.accessExpMax, new Date(now)),
      ),
    )
  return ended !== undefined
}

/** Notes that a session gets another access token without a rotation. Times are in milliseconds since the epoch. */
export async function noteAccess(
  tx: Database,
  id: string,
  { now, accessEnd, address, userAgent }: Pick<Rotation, 'now' | 'accessEnd' | 'address' | 'userAgent'>,
): Promise<void> {
  await tx
    .update(sessions)
    .set({
      lastUsedAt: new Date(now),
      address,
      userAgent,
      accessExpMax: greatestAccessEnd(accessEnd),
    })
    .where(eq(sessions.id, id))
}

/** A refresh token of a session, with what is left of the one that took its place. */
export interface Link {
  /** In milliseconds since the epoch. */
  usedAt: number | null
  sealedSuccessor: Uint8Array | null
}

/** A refresh token and those that came after it, in order. The last one is unused. */
export async function findSuccession(tx: Database, hash: Buffer): Promise<Link[]> {
  const { rows } = (await tx.execute(sql`
    with recursive succession as (
      select used_at, successor, sealed_successor, 0 as step from refresh_tokens where hash = ${hash}
      union all
      select next.used_at, next.successor, next.sealed_successor, step + 1
      from succession join refresh_tokens next on next.hash = succession.successor
    )
    select ${epoch(sql`used_at`)} * 1000 as "usedAt", sealed_successor as "sealedSuccessor"
    from succession order by step`)) as unknown as { rows: Link[] }
  return rows
}
