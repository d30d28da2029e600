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
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { signingAlgorithms } from '../bearer/algorithms.ts'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const moment = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })

export const users = pgTable(
  'users',
  {
    id: uuid().primaryKey(),
    /** The canonical form (accounts/usernames), so that uniqueness is the database's word. */
    username: text().notNull().unique(),
    email: text(),
    /** When its owner has shown that they read it. */
    emailVerifiedAt: moment('email_verified_at'),
    passwordHash: text('password_hash').notNull(),
    roles: text().array().notNull().default([]),
    /** Steps by one whenever everything issued before must die; tokens carry it as `ver`. */
    generation: integer().notNull().default(1),
    status: text({ enum: ['active', 'disabled'] })
      .notNull()
      .default('active'),
    createdAt: moment('created_at').notNull(),
  },
  (table) => [index('users_email_index').on(sql`lower(${table.email})`)],
)

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

/** The authenticator app of an account. */
export const totpFactors = pgTable('totp_factors', {
  userId: uuid('user_id')
    .primaryKey()
    .references(() => users.id, { onDelete: 'cascade' }),
  /** The shared secret (RFC 6238), sealed (db/sealing). */
  sealedSecret: bytea('sealed_secret').notNull(),
  /** None while it is being set up: nobody has shown a code of it yet. */
  confirmedAt: moment('confirmed_at'),
  /** The newest time step of which a code was used; no code up to it is good any more. */
  lastStep: bigint('last_step', { mode: 'number' }).notNull().default(0),
})

/** Each is good once, in place of a code of the app; used ones are gone. */
export const recoveryCodes = pgTable(
  'recovery_codes',
  {
    /** SHA-256 of the code: whoever reads this table can present nothing. */
    hash: bytea().primaryKey(),
    userId: uuid('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
  },
  (table) => [index().on(table.userId)],
)

/** Logins whose password was right, and that wait for the second factor. */
export const mfaChallenges = pgTable(
  'mfa_challenges',
  {
    /** SHA-256 of the `mfa_token`. */
    hash: bytea().primaryKey(),
    userId: uuid('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** Of the account, when the password was shown: a new password or a ban voids the challenge. */
    generation: integer().notNull(),
    remember: boolean().notNull(),
    /** SHA-256 of the code that was mailed, where one was. */
    mailedCode: bytea('mailed_code'),
    expiresAt: moment('expires_at').notNull(),
  },
  (table) => [index().on(table.userId), index().on(table.expiresAt)],
)

/** What is mailed to prove that its reader owns an address: to verify that, or to choose another password. */
export const mailTokens = pgTable(
  'mail_tokens',
  {
    /** SHA-256 of the token. */
    hash: bytea().primaryKey(),
    userId: uuid('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    purpose: text({ enum: ['verify', 'reset'] }).notNull(),
    /** Of the account, when it was asked for: a new password, a ban or a logout everywhere voids it. */
    generation: integer().notNull(),
    /** Where it was sent. */
    email: text().notNull(),
    expiresAt: moment('expires_at').notNull(),
  },
  (table) => [index().on(table.userId), index().on(table.expiresAt)],
)

/** What is to be mailed. A job is there until its mail has been handed over, or until it is too late for it. */
export const mailJobs = pgTable(
  'mail_jobs',
  {
    id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    kind: text().notNull(),
    /** JSON, sealed (db/sealing): people type passwords where names belong. */
    sealedPayload: bytea('sealed_payload').notNull(),
    attempts: integer().notNull().default(0),
    /** When it is tried (again); whoever tries puts that off first. */
    dueAt: moment('due_at').notNull(),
    expiresAt: moment('expires_at').notNull(),
  },
  (table) => [index().on(table.dueAt)],
)

/** Wrong answers that an account was given, by whom: see accounts/guesses. */
export const guesses = pgTable(
  'guesses',
  {
    /** SHA-256 of the username in its canonical form, whether or not somebody has it. */
    account: bytea().notNull(),
    /**
     * Passwords from networks that the account has logged in from lately, and from others; codes from those, and from others; passwords
     * that a session shows once more. Of an address, in place of a username: mails.
     */
    kind: text({
      enum: ['familiar', 'strange', 'familiar_code', 'strange_code', 'session', 'mail'],
    }).notNull(),
    /** Since the window began. */
    recent: integer().notNull(),
    windowEndsAt: moment('window_ends_at').notNull(),
    /** Since the last right one. */
    inARow: integer('in_a_row').notNull(),
    lastAt: moment('last_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.account, table.kind] }), index().on(table.lastAt)],
)

/** From where an account has logged in: an IPv4 address, or the /64 of an IPv6 one. */
export const familiarNetworks = pgTable(
  'familiar_networks',
  {
    userId: uuid('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    network: text().notNull(),
    seenAt: moment('seen_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.userId, table.network] }), index().on(table.seenAt)],
)

/** What happened (audit/events), for whoever asks later. Rows are added, and go when they are old; none is ever changed. */
export const auditEvents = pgTable(
  'audit_events',
  {
    id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    at: moment('at').notNull(),
    event: text().notNull(),
    /** Whom or what it is about: a `sub`, a `kid` or a `jti`. */
    subject: text(),
    /** Who did it to them, if not they themselves: the `sub` of an admin, or `cli`. */
    actor: text(),
    requestId: text('request_id'),
    address: text(),
    /** The rest of the event. */
    details: jsonb().$type<Record<string, unknown>>().notNull(),
  },
  (table) => [
    index().on(table.at),
    index().on(table.subject, table.id),
    index().on(table.event, table.id),
    index('audit_events_actor_id_index').on(table.actor, table.id).where(sql`${table.actor} is not null`),
  ],
)
