/**
 * Wrong passwords and codes, counted in Postgres: so for all instances together, and while Redis is away. They are counted by the
 * name that was typed, whether or not somebody has it, so that nothing tells which.
 *
 * Strangers do not lock anybody out: where an account has logged in from lately, only what comes from there counts.
 */
import { createHash } from 'node:crypto'
import { eq, sql } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { prepare } from '../db/prepared.ts'
import { guesses } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { momentInSql } from '../sessions/liveness.ts'
import { canonicalUsername } from './usernames.ts'

export type GuessKind = (typeof guesses.$inferSelect)['kind']

/** What is guessed at: a password, by whoever it is or by a session of the account, or a code. */
export type Guessed = 'password' | 'own_password' | 'code'

/** One answer that is about to be judged. */
export interface Guess {
  /** @param sub whose account it is, if it is anybody's */
  wasWrong(sub?: string): Promise<void>
  wasRight(): Promise<void>
}

export interface Guesses {
  /**
   * Before an answer is judged, so that a burst of them gains nothing.
   *
   * @param username in any spelling
   * @throws Outcome `rate_limited`, `password_reset_required` if there were a hundred wrong ones without a right one
   */
  begin(username: string, guessed: Guessed, origin: Origin): Promise<Guess>
  /** After a login: what comes from there is no stranger's for a while. */
  remember(userId: string, network: string): Promise<void>
  /** Begins to count anew. */
  forget(tx: Database, username: string): Promise<void>
}

export interface GuessesOptions {
  db: Database
  clock: Clock
  /** Answers of strangers, and codes, good or bad; 0 is no limit. */
  limit: { max: number; windowSeconds: number }
  audit: Audit
}

/** NIST SP 800-63B-4 §3.2.2: consecutive failed attempts on a single account. */
const mostInARow = 100
const familiarSeconds = 30 * 86_400

/** Whoever is in a session is no stranger; of a password, it depends on where it comes from. */
const kindOf = { password: null, own_password: 'familiar', code: 'code' } as const

interface Attempt {
  account: Buffer
  username: string
  network: string
  kind: GuessKind | null
  now: number
  windowEnd: number
  familiarSince: number
}

interface Count {
  kind: GuessKind
  recent: number
  inARow: number
  /** In milliseconds since the epoch. */
  windowEndsAt: number
}

const given = (name: keyof Attempt) => sql.placeholder(name)
const now = momentInSql(given('now'))
// What a crash of Postgres forgets of this lets nobody in.
const hastily = sql`set_config('synchronous_commit', 'off', true)`

const countAttempt = prepare<Attempt, Count>(
  sql`
    insert into guesses (account, kind, recent, window_ends_at, in_a_row, last_at)
    select ${given('account')}::bytea, coalesce(${given('kind')}::text, case when exists (
        select from familiar_networks join users on users.id = familiar_networks.user_id
        where users.username = ${given('username')} and familiar_networks.network = ${given('network')}
          and familiar_networks.seen_at > ${momentInSql(given('familiarSince'))}
      ) then 'familiar' else 'strange' end), 1, ${momentInSql(given('windowEnd'))}, 0, ${now}
    on conflict (account, kind) do update set last_at = excluded.last_at,
      recent = case when guesses.window_ends_at > ${now} then guesses.recent + 1 else 1 end,
      window_ends_at = case when guesses.window_ends_at > ${now} then guesses.window_ends_at
        else excluded.window_ends_at end
    returning kind, recent, in_a_row as "inARow",
      extract(epoch from window_ends_at)::float8 * 1000 as "windowEndsAt", ${hastily}`,
  'guess',
)

const countWrong = prepare<{ account: Buffer; kind: GuessKind }, { inARow: number }>(
  sql`
    update guesses set in_a_row = in_a_row + 1
    where account = ${sql.placeholder('account')} and kind = ${sql.placeholder('kind')}
    returning in_a_row as "inARow", ${hastily}`,
  'wrong_guess',
)

const forgetKind = prepare<{ account: Buffer; kind: GuessKind }, object>(
  sql`
    delete from guesses where account = ${sql.placeholder('account')} and kind = ${sql.placeholder('kind')}
    returning ${hastily}`,
  'right_guess',
)

const rememberNetwork = prepare<{ userId: string; network: string; now: number }, object>(
  sql`
    insert into familiar_networks (user_id, network, seen_at)
    values (${sql.placeholder('userId')}, ${sql.placeholder('network')}, ${momentInSql(sql.placeholder('now'))})
    on conflict (user_id, network) do update set seen_at = excluded.seen_at
    returning ${hastily}`,
  'familiar_network',
)

export function createGuesses({ db, clock, limit, audit }: GuessesOptions): Guesses {
  return {
    async begin(name, guessed, origin) {
      const username = canonicalUsername(name) ?? name.toWellFormed().replaceAll('\0', '')
      const account = accountOf(username)
      const at = clock.now()
      const [count] = await countAttempt(db, {
        account,
        username,
        network: origin.network,
        kind: kindOf[guessed],
        now: at,
        windowEnd: at + limit.windowSeconds * 1000,
        familiarSince: at - familiarSeconds * 1000,
      })
      const { kind, recent, inARow, windowEndsAt } = count as Count
      if (inARow >= mostInARow) throw new Outcome('password_reset_required')
      if (kind !== 'familiar' && limit.max > 0 && recent > limit.max) {
        if (recent === limit.max + 1) audit.record({ event: 'limit.exceeded', limit: 'account' }, origin)
        throw new Outcome('rate_limited', { retryAfterSeconds: Math.ceil((windowEndsAt - at) / 1000) })
      }
      return {
        async wasWrong(sub) {
          const [counted] = await countWrong(db, { account, kind })
          if (counted?.inARow === mostInARow)
            audit.record({ event: 'guessing.ended', kind, ...(sub !== undefined && { sub }) }, origin)
        },
        async wasRight() {
          await forgetKind(db, { account, kind })
        },
      }
    },

    async remember(userId, network) {
      await rememberNetwork(db, { userId, network, now: clock.now() })
    },

    async forget(tx, username) {
      await tx.delete(guesses).where(eq(guesses.account, accountOf(username)))
    },
  }
}

/** Hashed: people type passwords where names belong. */
const accountOf = (username: string): Buffer => createHash('sha256').update(username).digest()
