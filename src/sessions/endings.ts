/** How sessions end, whoever ends them: always by a revocation, so that their live access tokens end with them. */
import { and, eq, inArray, isNull, ne, type SQL, sql } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { RevocationEntry } from '../bearer/revoked-entries.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { prepare } from '../db/prepared.ts'
import { sessions, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generationEntry, sessionEntry } from '../revocation/entries.ts'
import { isRecordedFor } from '../revocation/record.ts'
import type { Revoke } from '../revocation/revoke.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import type { AssertFresh } from './freshness.ts'
import { stepGeneration } from './generation.ts'
import { isLive } from './liveness.ts'

/** Somebody in a session, as a token of theirs tells. */
export interface SessionHolder {
  sub: string
  sid: string
  ver: number
  /** When they proved who they are, in seconds since the epoch. */
  auth_time: number
  /** When that token expires if it is an access token, in seconds since the epoch. */
  exp?: number
}

/** All of these throw what revoke throws. To end what has ended already is the same as to end it once. */
export interface Endings {
  /** Ends the holder's own session. */
  end(holder: SessionHolder, origin: Origin): Promise<void>
  /** Ends a session of the holder's account. @throws Outcome `not_found` if there is none with this id, and for another than their
   * own `reauthentication_required` */
  endOwn(holder: SessionHolder, sid: string, origin: Origin): Promise<void>
  /** Ends a session of an account, for whoever may. @throws Outcome `not_found` if there is none with this id */
  endOf(session: { sub: string; sid: string }, reason: string, origin?: Origin): Promise<void>
  /** Ends all other sessions of the holder's account. @throws Outcome `reauthentication_required` */
  endOthers(holder: SessionHolder, origin: Origin): Promise<void>
  /** Ends all sessions of the holder's account. @throws Outcome `token_revoked` if that token's generation has
   * just ended, by another logout or by new roles */
  endAll(holder: SessionHolder, origin: Origin): Promise<void>
  /** Ends a session of which an old refresh token was presented. */
  endStolen(session: { id: string; userId: string }, origin: Origin): Promise<void>
  /** Ends a session once more, whose end the database does not know (any more). */
  endForgotten(session: { sub: string; sid: string }, origin: Origin): Promise<void>
  /** The same for all sessions of a generation. Does nothing if the account has moved on. */
  endForgottenGeneration(sub: string, ver: number, origin: Origin): Promise<void>
  /** Resolves when every end that is recorded by now is known everywhere, or when that cannot be told. */
  awaitEnds(origin: Origin): Promise<void>
  /** Ends the oldest live sessions of an account that has too many with the one that has started. Those that start later do
   * not count: they do the same. */
  endSurplus(started: { sub: string; sid: string }, origin: Origin): Promise<void>
}

export interface EndingsOptions {
  db: Database
  clock: Clock
  accessTokens: Pick<AccessTokens, 'latestExpiry'>
  revoke: Revoke
  audit: Audit
  assertFresh: AssertFresh
  sessionsPerAccount: number
}

/** Why what the database does not know to have ended is ended once more. */
const forgotten = 'forgotten'

const given = (name: string) => sql.placeholder(name)

/** The live sessions of an account from before one of them, without the youngest. */
const selectSurplus = prepare<{ sub: string; sid: string; now: number; kept: number }, { id: string }>(
  sql`
    select sessions.id from sessions join users on users.id = sessions.user_id
    where sessions.user_id = ${given('sub')} and ${isLive(given('now'))}
      and sessions.ordinal < (select ordinal from sessions where id = ${given('sid')})
    order by sessions.ordinal desc offset ${given('kept')}`,
  'surplus',
)

export function createEndings(options: EndingsOptions): Endings {
  const { db, clock, accessTokens, revoke, audit, assertFresh, sessionsPerAccount } = options
  const latestExpiry = () => accessTokens.latestExpiry(inSeconds(clock))

  /** First of all where several sessions end: two that lock those of one account, each in its own order, would deadlock. */
  async function lockAccount(tx: Database, sub: string): Promise<void> {
    await tx.select({ id: users.id }).from(users).where(eq(users.id, sub)).for('update')
  }

  /** @returns what is to be recorded: nothing for those that have ended already */
  async function endRows(tx: Database, which: SQL | undefined): Promise<RevocationEntry[]> {
    const ended = await tx
      .update(sessions)
      .set({ endedAt: new Date(clock.now()) })
      .where(and(which, isNull(sessions.endedAt)))
      .returning({ id: sessions.id, accessExpMax: sessions.accessExpMax })
    return ended
      .map(({ id, accessExpMax }) => sessionEntry(id, Math.ceil(accessExpMax.getTime() / 1000)))
      .filter(({ expiresAt }) => expiresAt > inSeconds(clock))
  }

  /** @returns its id as it was issued: the index knows it in no other spelling */
  async function findOf(sub: string, sid: string): Promise<string> {
    const [found] = await db
      .select({ id: sessions.id })
      .from(sessions)
      .where(and(eq(sessions.id, sid), eq(sessions.userId, sub)))
    if (!found) throw new Outcome('not_found')
    return found.id
  }

  async function endSession(
    { sub, sid, exp = 0 }: { sub: string; sid: string; exp?: number },
    reason: string,
    origin?: Origin,
  ): Promise<void> {
    const entry = sessionEntry(sid, Math.max(exp, latestExpiry()))
    await revoke({
      entries: [entry],
      sub,
      reason,
      ...(origin && { origin }),
      async within(tx) {
        const [session] = await tx
          .select({ id: sessions.id })
          .from(sessions)
          .where(eq(sessions.id, sid))
          .for('update')
        // Without a row, the account is gone, and its sessions with it.
        const [recorded] = session ? await endRows(tx, eq(sessions.id, sid)) : [entry]
        // Another instance may issue longer tokens than this one.
        return recorded ? [{ ...entry, expiresAt: Math.max(entry.expiresAt, recorded.expiresAt) }] : []
      },
    })
  }

  async function endGeneration(sub: string, ver: number, reason: string, origin: Origin): Promise<void> {
    const entry = generationEntry(sub, ver, latestExpiry())
    await revoke({
      entries: [entry],
      reason,
      origin,
      async within(tx) {
        const [user] = await tx.select().from(users).where(eq(users.id, sub)).for('update')
        if (user?.generation !== ver) {
          // A login or a refresh that saw it refused before this was recorded has ended it on behalf of this one.
          if (await isRecordedFor(tx, entry, forgotten)) return []
          throw new Outcome('token_revoked')
        }
        const now = new Date(clock.now())
        return [await stepGeneration(tx, { user, survivors: 'none', latestExpiry: latestExpiry(), now })]
      },
    })
  }

  return {
    end: ({ sub, sid, exp = 0 }, origin) => endSession({ sub, sid, exp }, 'logout', origin),

    async endOwn(holder, sid, origin) {
      const own = await findOf(holder.sub, sid)
      if (own !== holder.sid) assertFresh(holder)
      await endSession({ sub: holder.sub, sid: own }, 'ended', origin)
    },

    endOf: async ({ sub, sid }, reason, origin) =>
      endSession({ sub, sid: await findOf(sub, sid) }, reason, origin),

    async endOthers(holder, origin) {
      assertFresh(holder)
      const { sub, sid } = holder
      await revoke({
        // They are not known before the account is locked: a login under way comes before this or after.
        entries: [],
        sub,
        reason: 'logout_others',
        origin,
        async within(tx) {
          await lockAccount(tx, sub)
          return await endRows(tx, and(eq(sessions.userId, sub), ne(sessions.id, sid)))
        },
      })
    },

    endAll: ({ sub, ver }, origin) => endGeneration(sub, ver, 'logout_all', origin),

    async endStolen({ id, userId }, origin) {
      audit.record({ event: 'refresh_token.reused', sub: userId, sid: id }, origin)
      await endSession({ sub: userId, sid: id }, 'refresh_token_reused', origin)
    },

    endForgotten: (session, origin) => endSession(session, forgotten, origin),

    async endForgottenGeneration(sub, ver, origin) {
      try {
        await endGeneration(sub, ver, forgotten, origin)
      } catch (error) {
        if (!(error instanceof Outcome && error.code === 'token_revoked')) throw error
      }
    },

    async awaitEnds(origin) {
      try {
        // To revoke nothing takes as long as to revoke something.
        await revoke({ entries: [], reason: 'awaited', origin })
      } catch (error) {
        if (!(error instanceof Outcome)) throw error
      }
    },

    async endSurplus({ sub, sid }, origin) {
      const surplus = await selectSurplus(db, { sub, sid, now: clock.now(), kept: sessionsPerAccount - 1 })
      if (surplus.length === 0) return
      const sids = surplus.map(({ id }) => id)
      await revoke({
        entries: [],
        sub,
        reason: 'too_many_sessions',
        origin,
        async within(tx) {
          await lockAccount(tx, sub)
          return await endRows(tx, inArray(sessions.id, sids))
        },
      })
    },
  }
}
