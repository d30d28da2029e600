import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  customType,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { signingAlgorithms } from '../bearer/algorithms.ts'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const moment = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })

export const users = pgTable('users', {
  id: uuid().primaryKey(),
  /** The canonical form (accounts/usernames), so that uniqueness is the database's word. */
  username: text().notNull().unique(),
  email: text(),
  passwordHash: text('password_hash').notNull(),
  roles: text().array().notNull().default([]),
  /** Steps by one whenever everything issued before must die; tokens carry it as `ver`. */
  generation: integer().notNull().default(1),
  status: text({ enum: ['active', 'disabled'] })
    .notNull()
    .default('active'),
  createdAt: moment('created_at').notNull(),
})

export const sessions = pgTable(
  'sessions',
  {
    id: uuid().primaryKey(),
    /** Of two sessions of an account, the later one has the greater: it is drawn with the account locked. */
    ordinal: bigint({ mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
    userId: uuid('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    generation: integer().notNull(),
    authTime: moment('auth_time').notNull(),
    amr: text().array().notNull(),
    acr: text().notNull(),
    remember: boolean().notNull(),
    createdAt: moment('created_at').notNull(),
    /** The last login or refresh, and where that came from. */
    lastUsedAt: moment('last_used_at').notNull(),
    address: text().notNull().default(''),
    userAgent: text('user_agent').notNull().default(''),
    /** The idle end: the newest refresh token is good until then. */
    idleExpiresAt: moment('idle_expires_at').notNull(),
    /** The absolute end: no token of this session outlives it. */
    expiresAt: moment('expires_at').notNull(),
    /** The greatest `exp` of any access token issued under this session; a revocation must outlive it. */
    accessExpMax: moment('access_exp_max').notNull(),
    endedAt: moment('ended_at'),
  },
  (table) => [index().on(table.userId)],
)

/** Every refresh token that a session ever had: the second use of an old one must be noticed for as long as it lasts. */
export const refreshTokens = pgTable(
  'refresh_tokens',
  {
    /** SHA-256 of the token: whoever reads this table can present nothing. */
    hash: bytea().primaryKey(),
    sessionId: uuid('session_id')
      .notNull()
      .references(() => sessions.id, { onDelete: 'cascade' }),
    usedAt: moment('used_at'),
    /** The hash of the token that took its place. */
    successor: bytea(),
    /** That token itself, sealed under a key that only the holder of this one can derive; kept for the repeat of a request. */
    sealedSuccessor: bytea('sealed_successor'),
  },
  (table) => [
    index().on(table.sessionId),
    index('refresh_tokens_sealed_index').on(table.sessionId).where(sql`${table.sealedSuccessor} is not null`),
  ],
)

/** The record: what was taken back. No foreign keys, for a revocation outlives what it refers to. */
export const revocations = pgTable(
  'revocations',
  {
    /** Gapless, in commit order: see revocationHead. */
    seq: bigint({ mode: 'number' }).primaryKey(),
    /** Tells this row from another that a restored backup puts in its place. */
    nonce: uuid().notNull(),
    scope: text({ enum: ['token', 'session', 'generation', 'key'] }).notNull(),
    subject: text().notNull(),
    expiresAt: moment('expires_at').notNull(),
    reason: text().notNull(),
    recordedAt: moment('recorded_at').notNull().defaultNow(),
  },
  (table) => [index().on(table.expiresAt)],
)

/** One row, locked by every writer of revocations until it commits. */
export const revocationHead = pgTable(
  'revocation_head',
  {
    id: integer().primaryKey(),
    seq: bigint({ mode: 'number' }).notNull(),
    /** The greatest REVOCATION_FRESH_MS any instance was ever started with: every hold must cover it. */
    freshMs: integer('fresh_ms').notNull(),
  },
  (table) => [check('one_row', sql`${table.id} = 1`)],
)

/** The public members of a key (RFC 7518 §6, RFC 8037 §2): those of its kind. */
export interface PublicKeyMembers {
  kty: 'EC' | 'RSA' | 'OKP'
  crv?: string
  x?: string
  y?: string
  n?: string
  e?: string
}

export const signingKeys = pgTable(
  'signing_keys',
  {
    /** The RFC 7638 thumbprint of the public key. */
    kid: text().primaryKey(),
    alg: text({ enum: signingAlgorithms }).notNull(),
    /** `next` is published and not used yet, `retiring` is not used any more, until its last token has expired. */
    state: text({ enum: ['next', 'active', 'retiring', 'removed'] }).notNull(),
    publicJwk: jsonb('public_jwk').$type<PublicKeyMembers>().notNull(),
    /** PKCS #8 in PEM, sealed (db/sealing). Erased when the key is removed. */
    sealedPrivateKey: bytea('sealed_private_key'),
    createdAt: moment('created_at').notNull(),
    activeSince: moment('active_since'),
    retiringSince: moment('retiring_since'),
  },
  (table) => [
    uniqueIndex('one_active_key').on(table.state).where(sql`${table.state} = 'active'`),
    uniqueIndex('one_next_key').on(table.state).where(sql`${table.state} = 'next'`),
  ],
)

/** Services that ask for themselves. */
export const clients = pgTable('clients', {
  /** Its `client_id`, and the `sub` of its tokens. */
  id: uuid().primaryKey(),
  name: text().notNull(),
  scopes: text().array().notNull(),
  /** As of users: steps by one when everything issued before must die. */
  generation: integer().notNull().default(1),
  status: text({ enum: ['active', 'disabled'] })
    .notNull()
    .default('active'),
  createdAt: moment('created_at').notNull(),
})

/** Two for a while, when a client is given another one. */
export const clientSecrets = pgTable(
  'client_secrets',
  {
    /** SHA-256 of the secret: whoever reads this table can present nothing. */
    hash: bytea().primaryKey(),
    clientId: uuid('client_id')
      .notNull()
      .references(() => clients.id, { onDelete: 'cascade' }),
    createdAt: moment('created_at').notNull(),
    /** None for the newest one. */
    expiresAt: moment('expires_at'),
  },
  (table) => [index().on(table.clientId)],
)
