/** A session is what one login starts: it owns the refresh tokens and every access token issued under it, and it ends. */
import { randomUUID } from 'node:crypto'
import { and, desc, eq, isNull, sql } from 'drizzle-orm'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { alone } from '../db/durably.ts'
import { prepare } from '../db/prepared.ts'
import { refreshTokens, sessions, users } from '../db/tables.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import { describeDevice } from './devices.ts'
import type { SessionHolder } from './endings.ts'
import { isLive, momentInSql } from './liveness.ts'
import { epochSeconds, issueSessionTokens, type SessionTokens } from './session-tokens.ts'

/** Who starts a session, and how they proved who they are (`amr` of RFC 8176, `acr` as a NIST assurance level). */
export interface SessionOwner {
  id: string
  /** What must not have changed since the proof was made. */
  generation: number
  passwordHash: string
  amr: readonly string[]
  acr: string
  remember: boolean
  /** Where the proof came from. */
  address: string
  userAgent: string
}

/** What a session tells its owner. */
export interface SessionSummary {
  id: string
  created_at: string
  last_used_at: string
  /** The end if it is not used, and the absolute one. */
  idle_expires_at: string
  expires_at: string
  remember: boolean
  /** From where it was last used, and with what: for people. */
  address: string
  device: string
  /** Whether it is the one that asks. */
  current: boolean
}

export interface Sessions {
  /** @returns undefined if the owner is no longer as given, or disabled */
  start(owner: SessionOwner): Promise<SessionTokens | undefined>
  /** The live sessions of the holder's account, the youngest first. */
  list(holder: Pick<SessionHolder, 'sub' | 'sid'>): Promise<SessionSummary[]>
  /** Who holds this refresh token: one that could be used now, or any that was ever given. */
  findHolder(refreshToken: string, demand: 'live' | 'known'): Promise<SessionHolder | undefined>
}

export interface SessionsOptions {
  db: Database
  clock: Clock
  accessTokens: AccessTokens
  /** The longest a refresh token waits to be used, and the longest a session lasts, in seconds. */
  idleSeconds: number
  absoluteSeconds: number
  /** Both, with `remember`. */
  rememberSeconds: number
}

/** All times are in milliseconds since the epoch. */
interface NewSession {
  id: string
  userId: string
  generation: number
  passwordHash: string
  amr: string[]
  acr: string
  remember: boolean
  address: string
  userAgent: string
  startedAt: number
  authTime: number
  idleEnd: number
  end: number
  accessEnd: number
  refreshTokenHash: Buffer
}

const given = (name: keyof NewSession) => sql.placeholder(name)
const moment = (name: keyof NewSession) => momentInSql(given(name))

/**
 * One statement, one round trip. It waits for whoever changes the account, judges it by its state after the wait, and commits
 * durably whatever the server's default is. Nor does a login go on that has shown no code of an app that counts meanwhile.
 */
const insertSession = prepare<NewSession, { roles: string[] }>(
  sql`
    with owner as (
      select id, generation, roles from users
      where id = ${given('userId')} and generation = ${given('generation')}
        and password_hash = ${given('passwordHash')} and status = 'active'
        and (${given('acr')} = 'aal2' or not exists (
          select from totp_factors where user_id = users.id and confirmed_at is not null))
      for update
    ), session as (
      insert into sessions (id, user_id, generation, amr, acr, remember, auth_time, created_at, last_used_at,
        address, user_agent, idle_expires_at, expires_at, access_exp_max)
      select ${given('id')}, id, generation, ${given('amr')}, ${given('acr')},
        ${given('remember')}, ${moment('authTime')}, ${moment('startedAt')}, ${moment('startedAt')},
        ${given('address')}, ${given('userAgent')}, ${moment('idleEnd')}, ${moment('end')}, ${moment('accessEnd')} from owner
    ), token as (
      insert into refresh_tokens (hash, session_id) select ${given('refreshTokenHash')}, ${given('id')} from owner
    )
    select roles, set_config('synchronous_commit', 'on', true) from owner`,
  'new_session',
)

/** Sessions live in Postgres alone; what ends them is a revocation. */
export function createSessions(options: SessionsOptions): Sessions {
  const { db, clock, accessTokens, idleSeconds, absoluteSeconds, rememberSeconds } = options

  return {
    async start({ id: userId, generation, passwordHash, amr, acr, remember, address, userAgent }) {
      const startedAt = clock.now()
      const now = Math.floor(startedAt / 1000)
      const end = now + (remember ? rememberSeconds : absoluteSeconds)
      const idleEnd = Math.min(end, now + (remember ? rememberSeconds : idleSeconds))
      const refreshToken = generateOpaqueToken()
      const session = { id: randomUUID(), userId, generation, amr: [...amr], acr, remember }
      const row: NewSession = {
        ...session,
        passwordHash,
        address,
        userAgent,
        startedAt,
        authTime: now * 1000,
        idleEnd: idleEnd * 1000,
        end: end * 1000,
        accessEnd: Math.min(accessTokens.latestExpiry(now), end) * 1000,
        refreshTokenHash: hashOpaqueToken(refreshToken),
      }
      const [owner] = await alone(db, (db) => insertSession(db, row))
      if (!owner) return undefined
      const { roles } = owner
      const facts = { ...session, roles, authTime: now, idleExpiresAt: idleEnd, expiresAt: end }
      return issueSessionTokens(accessTokens, facts, refreshToken, now)
    },

    async list({ sub, sid }) {
      const live = await db
        .select({ session: sessions })
        .from(sessions)
        .innerJoin(users, eq(users.id, sessions.userId))
        .where(and(eq(sessions.userId, sub), isLive(clock.now())))
        .orderBy(desc(sessions.createdAt))
      return live.map(({ session }) => ({
        id: session.id,
        created_at: session.createdAt.toISOString(),
        last_used_at: session.lastUsedAt.toISOString(),
        idle_expires_at: session.idleExpiresAt.toISOString(),
        expires_at: session.expiresAt.toISOString(),
        remember: session.remember,
        address: session.address,
        device: describeDevice(session.userAgent),
        current: session.id === sid,
      }))
    },

    async findHolder(refreshToken, demand) {
      const isUsable = and(isNull(refreshTokens.usedAt), isLive(clock.now()))
      const [holder] = await db
        .select({
          sub: sessions.userId,
          sid: sessions.id,
          ver: sessions.generation,
          authTime: sessions.authTime,
        })
        .from(refreshTokens)
        .innerJoin(sessions, eq(sessions.id, refreshTokens.sessionId))
        .innerJoin(users, eq(users.id, sessions.userId))
        .where(
          and(
            eq(refreshTokens.hash, hashOpaqueToken(refreshToken)),
            demand === 'live' ? isUsable : undefined,
          ),
        )
      if (!holder) return undefined
      const { authTime, ...held } = holder
      return { ...held, auth_time: epochSeconds(authTime) }
    },
  }
}
