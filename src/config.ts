/** The environment, read once. All problems are told together, by the name of the setting and never with its value. */
import { availableParallelism } from 'node:os'
import { type SigningAlgorithm, signingAlgorithms } from './bearer/algorithms.ts'
import { longestLifetimeSeconds } from './bearer/claims.ts'
import {
  isExample,
  type Limit,
  type MailTarget,
  readCorsOrigins,
  readDatabaseUrl,
  readFirstAdmin,
  readLimit,
  readMail,
  readRedisAddress,
  readRoles,
  readTrustProxy,
} from './compound-settings.ts'

import type { RedisAddress } from './redis-address.ts'
import { type Environment, readSettings } from './settings.ts'

export type Config = Readonly<{
  host: string
  port: number
  logLevel: string
  shutdownTimeoutSeconds: number
  /** Processes that serve; one is this process itself. */
  workers: number
  /** Addresses and CIDRs of proxies whose X-Forwarded-For is believed. */
  trustProxy: string[]
  /** Postgres, or the folder of the embedded store. */
  database: { url: string } | { folder: string }
  redis: RedisAddress | undefined
  /** Where requests are counted, if not in the same Redis. */
  rateRedis: RedisAddress | undefined
  revocation: { mode: RevocationMode; tailMs: number; freshMs: number }
  /** Where metrics are served; 0 is nowhere. */
  metricsPort: number
  issuer: string
  /** Of pages that may ask from a browser, and use the cookie of a session. */
  corsOrigins: string[]
  audience: string
  firstPartyClientId: string
  accessTokenTtlSeconds: number
  refreshTokenTtlSeconds: number
  sessionTtlSeconds: number
  rememberTtlSeconds: number
  refreshGraceSeconds: number
  sessionsPerAccount: number
  /** How long ago somebody may have proved who they are, for what takes more than a live session. */
  freshSeconds: number
  clockToleranceSeconds: number
  jwksMaxAgeSeconds: number
  signingKeys: {
    /** Of the keys that are made. */
    alg: SigningAlgorithm
    /** How long a key signs; 0 for ever. */
    rotationSeconds: number
    /** A private key that was brought along: PEM or a JWK. */
    brought: string | undefined
  }
  /** Undefined with the embedded store: its folder keeps a generated one. */
  keyEncryptionSecret: string | undefined
  /** How long the secret of a client is good that another one has replaced. */
  clientSecretOverlapSeconds: number
  /** What people know this service by. */
  serviceName: string
  passwordMinLength: number
  passwords: {
    memoryKib: number
    passes: number
    parallelism: number
    concurrency: number
    queueMax: number
  }
  limits: { address: Limit; login: Limit; forgery: Limit; account: Limit }
  /** Where mails go, and from whom they come; undefined where there are none. */
  mail: { target: MailTarget; from: string } | undefined
  /** The page that links in mails lead to. */
  appUrl: string
  /** Whether a code by mail is a second factor, for accounts that have no better one. */
  mailSecondFactor: boolean
  /** Roles that count only for whoever has shown a second factor. */
  secondFactorRoles: string[]
  /** How long the audit trail is kept. */
  auditDays: number
  /** Made at a start at which there is no admin. */
  firstAdmin: { username: string; password: string } | undefined
}>

/** Whether checks ask the index and the tail, or the tail alone while it is fresh. */
export type RevocationMode = (typeof revocationModes)[number]

const day = 86_400
const revocationModes = ['redis', 'mirror'] as const

/** @throws ConfigError */
export function loadConfig(env: Environment): Config {
  const settings = readSettings(env)
  const { text, integer, oneOf, secret, url, problem } = settings

  const production = env.NODE_ENV === 'production'
  const port = integer('PORT', { default: 3000, min: 0, max: 65_535 })
  const databaseUrl = readDatabaseUrl(settings)
  const dataFolder = text('DATA_DIR') ?? './data'
  const workers = integer('WORKERS', { default: 1, min: 1, max: 64 })
  const keyEncryptionSecret = secret('KEY_ENCRYPTION_SECRET')
  const issuer = url('ISSUER', text('ISSUER'), ['https:', 'http:'])
  const firstAdmin = readFirstAdmin(settings)
  const tailMs = integer('REVOCATION_TAIL_MS', { default: 100, min: 10, max: 10_000 })
  const freshMs = integer('REVOCATION_FRESH_MS', { default: 250, min: 50, max: 60_000 })
  const threads = Number(env.UV_THREADPOOL_SIZE ?? 4) || 4

  const memoryKib = integer('ARGON2_MEMORY_KIB', { default: 19_456, min: 1024, max: 4_194_304 })
  const parallelism = integer('ARGON2_PARALLELISM', { default: 1, min: 1, max: 255 })

  if (memoryKib < 8 * parallelism)
    problem('ARGON2_MEMORY_KIB', 'must be at least eight times ARGON2_PARALLELISM')
  if (freshMs < 2 * tailMs) problem('REVOCATION_FRESH_MS', 'must be at least twice REVOCATION_TAIL_MS')
  if (workers > 1 && databaseUrl === undefined)
    problem('WORKERS', 'needs DATABASE_URL: the embedded store is for one process')
  if (keyEncryptionSecret !== undefined) {
    if (keyEncryptionSecret.length < 32) problem('KEY_ENCRYPTION_SECRET', 'must have at least 32 characters')
    else if (production && isExample(keyEncryptionSecret))
      problem('KEY_ENCRYPTION_SECRET', 'is an example: make one of your own')
  } else if (databaseUrl !== undefined || production) {
    problem('KEY_ENCRYPTION_SECRET', 'is missing (openssl rand -base64 32)')
  }
  const mail = readMail(settings, { production, dataFolder })
  const mailSecondFactor = oneOf('MAIL_SECOND_FACTOR', 'off', ['on', 'off']) === 'on'
  if (mailSecondFactor && mail === undefined) problem('MAIL_SECOND_FACTOR', 'needs SMTP_URL')
  if (production) {
    if ((text('DATABASE_URL') ?? text('DATABASE_URL_FILE')) === undefined)
      problem('DATABASE_URL', 'is missing: the embedded store is not for production')
    if (firstAdmin && isExample(firstAdmin.password))
      problem('BOOTSTRAP_ADMIN_PASSWORD', 'is an example: make one of your own')
    if (text('ISSUER') === undefined) problem('ISSUER', 'is missing: the public URL of this service')
  }

  const config: Config = {
    host: text('HOST') ?? '127.0.0.1',
    port,
    logLevel: oneOf('LOG_LEVEL', 'info', ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']),
    shutdownTimeoutSeconds: integer('SHUTDOWN_TIMEOUT_SECONDS', { default: 10, min: 1, max: 3600 }),
    workers,
    trustProxy: readTrustProxy(settings),
    database: databaseUrl === undefined ? { folder: dataFolder } : { url: databaseUrl },
    redis: readRedisAddress(settings, 'REDIS_URL'),
    rateRedis: readRedisAddress(settings, 'RATE_REDIS_URL'),
    revocation: { mode: oneOf('REVOCATION_MODE', 'redis', revocationModes), tailMs, freshMs },
    metricsPort: integer('METRICS_PORT', { default: 0, min: 0, max: 65_535 }),
    issuer: issuer ?? `http://localhost:${port}`,
    corsOrigins: readCorsOrigins(settings),
    audience: text('AUDIENCE') ?? issuer ?? `http://localhost:${port}`,
    firstPartyClientId: text('FIRST_PARTY_CLIENT_ID') ?? 'latchkey',
    accessTokenTtlSeconds: integer('ACCESS_TOKEN_TTL_SECONDS', {
      default: 900,
      min: 1,
      max: longestLifetimeSeconds,
    }),
    refreshTokenTtlSeconds: integer('REFRESH_TOKEN_TTL_SECONDS', {
      default: day / 2,
      min: 1,
      max: 3650 * day,
    }),
    sessionTtlSeconds: integer('SESSION_TTL_SECONDS', { default: 7 * day, min: 1, max: 3650 * day }),
    rememberTtlSeconds: integer('REMEMBER_TTL_SECONDS', { default: 30 * day, min: 1, max: 3650 * day }),
    refreshGraceSeconds: integer('REFRESH_GRACE_SECONDS', { default: 30, min: 0, max: 3600 }),
    sessionsPerAccount: integer('SESSIONS_PER_ACCOUNT', { default: 100, min: 1, max: 100_000 }),
    freshSeconds: integer('FRESH_SECONDS', { default: 600, min: 1, max: day }),
    clockToleranceSeconds: integer('CLOCK_TOLERANCE_SECONDS', { default: 5, min: 0, max: 60 }),
    jwksMaxAgeSeconds: integer('JWKS_MAX_AGE_SECONDS', { default: 300, min: 1, max: day }),
    signingKeys: {
      alg: oneOf('JWT_ALG', 'ES256', signingAlgorithms),
      rotationSeconds: integer('KEY_ROTATION_DAYS', { default: 90, min: 0, max: 3650 }) * day,
      brought: secret('SIGNING_KEY'),
    },
    keyEncryptionSecret,
    clientSecretOverlapSeconds: integer('CLIENT_SECRET_OVERLAP_SECONDS', {
      default: day,
      min: 0,
      max: 90 * day,
    }),
    serviceName: text('SERVICE_NAME') ?? 'latchkey',
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', { default: 15, min: 8, max: 64 }),
    passwords: {
      memoryKib,
      passes: integer('ARGON2_PASSES', { default: 2, min: 1, max: 1000 }),
      parallelism,
      // One thread of libuv's pool stays free for everybody else.
      concurrency: integer('ARGON2_CONCURRENCY', {
        default: Math.max(1, Math.min(Math.floor(availableParallelism() / workers), threads - 1)),
        min: 1,
        max: Math.max(1, threads - 1),
      }),
      queueMax: integer('ARGON2_QUEUE_MAX', { default: 250, min: 0, max: 1_000_000 }),
    },
    limits: {
      address: readLimit(settings, 'RATE', { max: 1000, windowSeconds: 60 }),
      login: readLimit(settings, 'LOGIN_RATE', { max: 300, windowSeconds: 900 }),
      forgery: readLimit(settings, 'FORGERY_RATE', { max: 1000, windowSeconds: 60 }),
      account: readLimit(settings, 'ACCOUNT_RATE', { max: 20, windowSeconds: 900 }),
    },
    mail,
    appUrl: url('APP_URL', text('APP_URL'), ['https:', 'http:']) ?? issuer ?? `http://localhost:${port}`,
    mailSecondFactor,
    secondFactorRoles: readRoles(settings, 'SECOND_FACTOR_ROLES'),
    auditDays: integer('AUDIT_DAYS', { default: 365, min: 1, max: 3650 }),
    firstAdmin,
  }
  settings.assertSound()
  return deepFreeze(config)
}

/**
 * The one setting that migrating needs.
 *
 * @throws ConfigError
 */
export function loadDatabaseUrl(env: Environment): string | undefined {
  const settings = readSettings(env)
  const url = readDatabaseUrl(settings)
  settings.assertSound()
  return url
}

function deepFreeze<T extends object>(value: T): T {
  for (const member of Object.values(value))
    if (typeof member === 'object' && member !== null) deepFreeze(member)
  return Object.freeze(value)
}
