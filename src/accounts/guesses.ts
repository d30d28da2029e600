/**
 * Wrong passwords and codes, counted in Postgres: so for all instances together, and while Redis is away. They are counted by the
 * name that was typed, whether or not somebody has it, so that nothing tells which.
 *
 * Strangers do not lock anybody out: where an account has logged in from lately, only what comes from there counts. Wrong codes are
 * counted apart from wrong passwords, for another password is no remedy.
 */
import { createHash } from 'node:crypto'
import { and, eq, notInArray, sql } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { alone } from '../db/durably.ts'
import { prepare } from '../db/prepared.ts'
import { familiarNetworks, guesses } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { momentInSql } from '../sessions/liveness.ts'
import { canonicalUsername } from './usernames.ts'

type GuessKind = (typeof guesses.$inferSelect)['kind']

/** What is guessed at: a password, by whoever it is or in a session of the account, or a code. */
export type Guessed = 'password' | 'own_password' | 'code'

/** One answer that is about to be judged. */
export interface Guess {
  /** Whether the account has logged in from there within a day: then there is nothing to remember. */
  isAtHome: boolean
  wasWrong(): Promise<void>
  /** @throws Outcome `password_reset_required` if it came in a burst that had a hundred wrong ones before */
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
  /** All of that around a judgement. @returns what that has found, or undefined if the answer was wrong */
  judge<T>(
    username: string,
    guessed: Guessed,
    origin: Origin,
    judgement: () => Promise<T | undefined | false>,
  ): Promise<T | undefined>
  /** What comes from there is no stranger's for a while. @param tx that it belongs to, if it does */
  remember(userId: string, network: string, tx?: Database): Promise<void>
  /** Begins to count wrong passwords anew, but not wrong codes: whoever reads somebody's mail must not try more of those. */
  forgetPasswords(tx: Database, username: string): Promise<void>
  /** Begins to count all anew. @returns whether there was an end to any of it */
  forgetAll(tx: Database, username: string): Promise<boolean>
  /** What comes from where the account is known is a stranger's again: the one who knew its password may be among them. */
  forgetNetworks(tx: Database, userId: string): Promise<void>
}

export interface GuessesOptions {
  db: Database
  clock: Clock
  /** Answers of strangers, and codes, good or bad; 0 is no limit. */
  limit: { max: number; windowSeconds: number }
  audit: Audit
}

/** NIST SP 800-63B-4 §3.2.2: consecutive failed attempts on a single account. */
export const mostInARow = 100
export const familiarDays = 30
const endOfCodes = 'This account was sent too many wrong codes: show a recovery code, or ask an admin.'

const kindsOf = {
  password: { familiar: 'familiar', strange: 'strange' },
  code: { familiar: 'familiar_code', strange: 'strange_code' },
  own_password: { familiar: 'session', strange: 'session' },
} as const satisfies Record<Guessed, Record<'familiar' | 'strange', GuessKind>>
/** Of these there are so many in a window: those of strangers, and of all codes, which are short. */
const limited: GuessKind[] = ['strange', 'familiar_code', 'strange_code']
const codes: GuessKind[] = ['familiar_code', 'strange_code']

interface Attempt {
  account: Buffer
  username: string
  network: string
  /** What it is if it comes from a network of the account, and if not. */
  familiar: GuessKind
  strange: GuessKind
  now: number
  windowEnd: number
  familiarSince: number
  homeSince: number
}

interface Count {
  kind: GuessKind
  recent: number
  inARow: number
  /** In milliseconds since the epoch. */
  windowEndsAt: number
  /** Whose name it is. */
  sub: string | null
  isAtHome: boolean
}

const given = (name: keyof Attempt) => sql.placeholder(name)
const now = momentInSql(given('now'))
// What a crash of Postgres forgets of this lets nobody in.
const hastily = sql`set_config('synchronous_commit', 'off', true)`

const countAttempt = prepare<Attempt, Count>(
  sql`
    with owner as (select id from users where username = ${given('username')}), seen as (
      select seen_at from familiar_networks join owner on owner.id = familiar_networks.user_id
      where familiar_networks.network = ${given('network')}
        and familiar_networks.seen_at > ${momentInSql(given('familiarSince'))}
    )
    insert into guesses (account, kind, recent, window_ends_at, in_a_row, last_at)
    select ${given('account')}::bytea, case when exists (select from seen) then ${given('familiar')}::text
      else ${given('strange')} end, 1, ${momentInSql(given('windowEnd'))}, 0, ${now}
    on conflict (account, kind) do update set last_at = excluded.last_at,
      recent = case when guesses.window_ends_at > ${now} then guesses.recent + 1 else 1 end,
      window_ends_at = case when guesses.window_ends_at > ${now} then guesses.window_ends_at
        else excluded.window_ends_at end
    returning kind, recent, in_a_row as "inARow", (select id from owner) as sub,
      exists (select from seen where seen_at > ${momentInSql(given('homeSince'))}) as "isAtHome",
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

const isOf = sql`account = ${sql.placeholder('account')} and kind = ${sql.placeholder('kind')}`

/** Deletes the row unless it has come to its end meanwhile. @returns the row, as it was */
const forgetKind = prepare<{ account: Buffer; kind: GuessKind }, { inARow: number }>(
  sql`
    with gone as (delete from guesses where ${isOf} and in_a_row < ${sql.raw(`${mostInARow}`)})
    select in_a_row as "inARow", ${hastily} from guesses where ${isOf}`,
  'right_guess',
)

const rememberNetwork = prepare<{ userId: string; network: string; now: number }, object>(
  sql`
    insert into familiar_networks (user_id, network, seen_at)
    select id, ${sql.placeholder('network')}, ${momentInSql(sql.placeholder('now'))} from users
    where id = ${sql.placeholder('userId')} for key share
    on conflict (user_id, network) do update set seen_at = excluded.seen_at`,
)

export function createGuesses({ db, clock, limit, audit }: GuessesOptions): Guesses {
  async function begin(name: string, guessed: Guessed, origin: Origin): Promise<Guess> {
    const username = canonicalUsername(name) ?? name.toWellFormed().replaceAll('\0', '')
    const account = accountOf(username)
    const at = clock.now()
    const attempt: Attempt = {
      account,
      username,
      network: origin.network,
      ...kindsOf[guessed],
      now: at,
      windowEnd: at + limit.windowSeconds * 1000,
      familiarSince: at - familiarDays * 86_400_000,
      homeSince: at - 86_400_000,
    }
    const [count] = await alone(db, (db) => countAttempt(db, attempt))
    const { kind, recent, inARow, windowEndsAt, sub, isAtHome } = count as Count
    const about = sub === null ? {} : { sub }
    const end = () =>
      new Outcome('password_reset_required', codes.includes(kind) ? { detail: endOfCodes } : {})
    if (inARow >= mostInARow) {
      audit.record({ event: 'guess.refused', kind, ...about }, origin)
      throw end()
    }
    if (limited.includes(kind) && limit.max > 0 && recent > limit.max) {
      if (recent === limit.max + 1)
        audit.record({ event: 'limit.exceeded', limit: 'account', ...about }, origin)
      throw new Outcome('rate_limited', { retryAfterSeconds: Math.ceil((windowEndsAt - at) / 1000) })
    }
    return {
      isAtHome,
      async wasWrong() {
        const [counted] = await alone(db, (db) => countWrong(db, { account, kind }))
        if (counted?.inARow === mostInARow) audit.record({ event: 'guessing.ended', kind, ...about }, origin)
      },
      async wasRight() {
        // Most logins are from home, and alone there: nothing is to be forgotten, and there was no burst to come with.
        if (kind === 'familiar' && inARow === 0 && recent === 1) return
        const [counted] = await alone(db, (db) => forgetKind(db, { account, kind }))
        if (counted && counted.inARow >= mostInARow) throw end()
      },
    }
  }

  return {
    begin,

    async judge(username, guessed, origin, judgement) {
      const guess = await begin(username, guessed, origin)
      const found = await judgement()
      if (found) await guess.wasRight()
      else await guess.wasWrong()
      return found || undefined
    },

    async remember(userId, network, tx) {
      const familiar = { userId, network, now: clock.now() }
      await (tx ? rememberNetwork(tx, familiar) : alone(db, (db) => rememberNetwork(db, familiar)))
    },

    async forgetPasswords(tx, username) {
      await tx
        .delete(guesses)
        .where(and(eq(guesses.account, accountOf(username)), notInArray(guesses.kind, codes)))
    },

    async forgetAll(tx, username) {
      const gone = await tx
        .delete(guesses)
        .where(eq(guesses.account, accountOf(username)))
        .returning({ inARow: guesses.inARow })
      return gone.some(({ inARow }) => inARow >= mostInARow)
    },

    async forgetNetworks(tx, userId) {
      await tx.delete(familiarNetworks).where(eq(familiarNetworks.userId, userId))
    },
  }
}

/** Hashed: people type passwords where names belong. */
const accountOf = (username: string): Buffer => createHash('sha256').update(username).digest()
