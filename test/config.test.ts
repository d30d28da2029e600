import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { loadConfig } from '../src/config.ts'
import type { RedisAddress } from '../src/redis-address.ts'
import { ConfigError, type Environment } from '../src/settings.ts'

const goodSecret = 'nKx0v1Wd7ZqT3uYb9sLr5mPe8hJf2cAg'
const production: Environment = {
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://latchkey@db.test/latchkey',
  KEY_ENCRYPTION_SECRET: goodSecret,
  ISSUER: 'https://auth.test',
}

/** Every setting that is a number, with one that is not its default and that it takes. */
const numbers: Record<string, string> = {
  PORT: '8080',
  SHUTDOWN_TIMEOUT_SECONDS: '25',
  WORKERS: '4',
  METRICS_PORT: '9464',
  REVOCATION_TAIL_MS: '50',
  REVOCATION_FRESH_MS: '500',
  ACCESS_TOKEN_TTL_SECONDS: '60',
  REFRESH_TOKEN_TTL_SECONDS: '3600',
  SESSION_TTL_SECONDS: '7200',
  REMEMBER_TTL_SECONDS: '86400',
  REFRESH_GRACE_SECONDS: '5',
  SESSIONS_PER_ACCOUNT: '3',
  FRESH_SECONDS: '60',
  CLOCK_TOLERANCE_SECONDS: '2',
  JWKS_MAX_AGE_SECONDS: '60',
  KEY_ROTATION_DAYS: '30',
  CLIENT_SECRET_OVERLAP_SECONDS: '3600',
  PASSWORD_MIN_LENGTH: '12',
  ARGON2_MEMORY_KIB: '65536',
  ARGON2_PASSES: '3',
  ARGON2_PARALLELISM: '2',
  ARGON2_CONCURRENCY: '1',
  ARGON2_QUEUE_MAX: '10',
  RATE_MAX: '20',
  RATE_WINDOW_SECONDS: '30',
  LOGIN_RATE_MAX: '4',
  LOGIN_RATE_WINDOW_SECONDS: '500',
  FORGERY_RATE_MAX: '7',
  FORGERY_RATE_WINDOW_SECONDS: '70',
  ACCOUNT_RATE_MAX: '9',
  ACCOUNT_RATE_WINDOW_SECONDS: '90',
  AUDIT_DAYS: '30',
}

/** What is wrong with the settings: a line each, that begins with a name. */
function problemsOf(env: Environment): readonly string[] {
  try {
    loadConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
  return []
}

const namesOf = (problems: readonly string[]) => problems.map((problem) => problem.split(' ', 1)[0])

function fileWith(t: Test, content: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-config-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'secret')
  writeFileSync(file, content)
  return file
}

t.test('without any setting it is a service on the loopback with an embedded store', async (t) => {
  t.strictSame(loadConfig({}), {
    host: '127.0.0.1',
    port: 3000,
    logLevel: 'info',
    shutdownTimeoutSeconds: 10,
    workers: 1,
    trustProxy: [],
    database: { folder: './data' },
    redis: undefined,
    rateRedis: undefined,
    revocation: { mode: 'redis', tailMs: 100, freshMs: 250 },
    metricsPort: 0,
    issuer: 'http://localhost:3000',
    corsOrigins: [],
    audience: 'http://localhost:3000',
    firstPartyClientId: 'latchkey',
    accessTokenTtlSeconds: 900,
    refreshTokenTtlSeconds: 43_200,
    sessionTtlSeconds: 604_800,
    rememberTtlSeconds: 2_592_000,
    refreshGraceSeconds: 30,
    sessionsPerAccount: 100,
    freshSeconds: 600,
    clockToleranceSeconds: 5,
    jwksMaxAgeSeconds: 300,
    signingKeys: { alg: 'ES256', rotationSeconds: 90 * 86_400, brought: undefined },
    keyEncryptionSecret: undefined,
    clientSecretOverlapSeconds: 86_400,
    serviceName: 'latchkey',
    passwordMinLength: 15,
    passwords: {
      memoryKib: 19_456,
      passes: 2,
      parallelism: 1,
      // Of libuv's four threads one is left to everybody else.
      concurrency: Math.min(availableParallelism(), 3),
      queueMax: 250,
    },
    limits: {
      address: { max: 1000, windowSeconds: 60 },
      login: { max: 300, windowSeconds: 900 },
      forgery: { max: 1000, windowSeconds: 60 },
      account: { max: 20, windowSeconds: 900 },
    },
    mail: { target: { outboxFolder: 'data/outbox' }, from: 'latchkey@localhost' },
    appUrl: 'http://localhost:3000',
    mailSecondFactor: false,
    secondFactorRoles: [],
    auditDays: 365,
    firstAdmin: undefined,
  })
  t.strictSame(loadConfig({ PORT: '8080' }).issuer, 'http://localhost:8080')
})

t.test('every setting arrives where it belongs', async (t) => {
  const config = loadConfig({
    ...production,
    ...numbers,
    HOST: '::',
    LOG_LEVEL: 'warn',
    REDIS_URL: 'rediss://:pass@redis.test:6380/1',
    RATE_REDIS_URL: 'redis://rate.test/2',
    REVOCATION_MODE: 'mirror',
    TRUST_PROXY: '192.0.2.1, 10.0.0.0/8,2001:db8::/32',
    BOOTSTRAP_ADMIN_USERNAME: 'root',
    BOOTSTRAP_ADMIN_PASSWORD: 'correct horse battery staple',
    CORS_ORIGINS: 'https://app.test, http://localhost:5173',
    AUDIENCE: 'https://api.test',
    FIRST_PARTY_CLIENT_ID: 'front',
    JWT_ALG: 'EdDSA',
    SIGNING_KEY: 'a private key',
    SERVICE_NAME: 'Ye Olde Orders',
    SMTP_URL: 'smtps://ada:pass@mail.test',
    MAIL_FROM: 'Orders <no-reply@orders.test>',
    APP_URL: 'https://app.test/account',
    MAIL_SECOND_FACTOR: 'on',
    SECOND_FACTOR_ROLES: 'admin, billing',
  })
  t.strictSame(config, {
    host: '::',
    port: 8080,
    logLevel: 'warn',
    shutdownTimeoutSeconds: 25,
    workers: 4,
    trustProxy: ['192.0.2.1', '10.0.0.0/8', '2001:db8::/32'],
    database: { url: 'postgres://latchkey@db.test/latchkey' },
    redis: { url: 'rediss://:pass@redis.test:6380/1' },
    rateRedis: { url: 'redis://rate.test/2' },
    revocation: { mode: 'mirror', tailMs: 50, freshMs: 500 },
    metricsPort: 9464,
    issuer: 'https://auth.test',
    corsOrigins: ['https://app.test', 'http://localhost:5173'],
    audience: 'https://api.test',
    firstPartyClientId: 'front',
    accessTokenTtlSeconds: 60,
    refreshTokenTtlSeconds: 3600,
    sessionTtlSeconds: 7200,
    rememberTtlSeconds: 86_400,
    refreshGraceSeconds: 5,
    sessionsPerAccount: 3,
    freshSeconds: 60,
    clockToleranceSeconds: 2,
    jwksMaxAgeSeconds: 60,
    signingKeys: { alg: 'EdDSA', rotationSeconds: 30 * 86_400, brought: 'a private key' },
    keyEncryptionSecret: goodSecret,
    clientSecretOverlapSeconds: 3600,
    serviceName: 'Ye Olde Orders',
    passwordMinLength: 12,
    passwords: { memoryKib: 65_536, passes: 3, parallelism: 2, concurrency: 1, queueMax: 10 },
    limits: {
      address: { max: 20, windowSeconds: 30 },
      login: { max: 4, windowSeconds: 500 },
      forgery: { max: 7, windowSeconds: 70 },
      account: { max: 9, windowSeconds: 90 },
    },
    mail: { target: { smtpUrl: 'smtps://ada:pass@mail.test' }, from: 'Orders <no-reply@orders.test>' },
    appUrl: 'https://app.test/account',
    mailSecondFactor: true,
    secondFactorRoles: ['admin', 'billing'],
    auditDays: 30,
    firstAdmin: { username: 'root', password: 'correct horse battery staple' },
  })
  t.equal(loadConfig({ ...production }).audience, 'https://auth.test', 'whose tokens, if nobody says')
  t.strictSame(loadConfig({ DATA_DIR: '/var/lib/latchkey' }).database, { folder: '/var/lib/latchkey' })
})

t.test('Redis is one server, a Cluster or found through Sentinels', async (t) => {
  const addresses: Record<string, RedisAddress> = {
    'redis://redis.test': { url: 'redis://redis.test' },
    'redis://:a,b@redis.test:6379/1': { url: 'redis://:a,b@redis.test:6379/1' },
    'rediss://user:p%40ss@[::1]:6380': { url: 'rediss://user:p%40ss@[::1]:6380' },
    'redis://a.test,redis://b.test:2': {
      nodes: ['redis://a.test', 'redis://b.test:2'],
      tls: false,
      credentials: {},
    },
    'rediss://user:p%40,ss@a.test:1,rediss://b.test:2,rediss://c.test:3': {
      nodes: ['rediss://user:p%40,ss@a.test:1', 'rediss://b.test:2', 'rediss://c.test:3'],
      tls: true,
      credentials: { username: 'user', password: 'p@,ss' },
    },
    'sentinel://a.test,b.test:26380,[::1]:26381/latchkey': {
      sentinels: [
        { host: 'a.test', port: 26_379 },
        { host: 'b.test', port: 26_380 },
        { host: '::1', port: 26_381 },
      ],
      name: 'latchkey',
      credentials: {},
    },
    'sentinel://user:p%40ss@a.test/latchkey': {
      sentinels: [{ host: 'a.test', port: 26_379 }],
      name: 'latchkey',
      credentials: { username: 'user', password: 'p@ss' },
    },
    'sentinel://:pass@a.test/latchkey': {
      sentinels: [{ host: 'a.test', port: 26_379 }],
      name: 'latchkey',
      credentials: { password: 'pass' },
    },
  }
  for (const [url, address] of Object.entries(addresses)) {
    t.strictSame(loadConfig({ REDIS_URL: url }).redis, address, url)
    t.strictSame(loadConfig({ RATE_REDIS_URL: url }).rateRedis, address, url)
  }
})

t.test('what is wrong with where Redis is, is told by what it seems meant to be', async (t) => {
  const shapes: [string, RegExp][] = [
    ['a.test:6379', /starts with redis:\/\/ or rediss:\/\//],
    ['redis://a.test,b.test', /a host in every node/],
    ['redis://:%zz@a.test', /% only before two hexadecimal digits/],
    ['sentinel://a.test', /sentinel:\/\/host:port,host:port\/<name of the master>/],
  ]
  for (const [url, problem] of shapes) t.match(problemsOf({ REDIS_URL: url }).join(), problem, url)
})

t.test('nothing of it can be changed later', async (t) => {
  const config = loadConfig({ ...production, REDIS_URL: 'sentinel://:pass@a.test,b.test/latchkey' })
  const isFrozen = (value: unknown): boolean =>
    typeof value !== 'object' ||
    value === null ||
    (Object.isFrozen(value) && Object.values(value).every(isFrozen))
  t.ok(isFrozen(config))
  t.throws(() => Object.assign(config.passwords, { minLength: 1 }), TypeError)
})

t.test('all problems are told together, by name and never with the value', async (t) => {
  const marker = 'hunter2'
  const bad: Environment = {
    ...Object.fromEntries(Object.keys(numbers).map((name) => [name, marker])),
    LOG_LEVEL: marker,
    DATABASE_URL: `mysql://latchkey:${marker}@db.test/latchkey`,
    REDIS_URL: `http://:${marker}@redis.test`,
    RATE_REDIS_URL: `http://:${marker}@redis.test`,
    REVOCATION_MODE: marker,
    TRUST_PROXY: marker,
    CORS_ORIGINS: marker,
    ISSUER: `ftp://${marker}.test`,
    APP_URL: `ftp://${marker}.test`,
    SMTP_URL: `http://:${marker}@mail.test`,
    MAIL_SECOND_FACTOR: marker,
    SECOND_FACTOR_ROLES: `${marker}, `,
    KEY_ENCRYPTION_SECRET: marker,
  }
  const expected = Object.keys(bad).sort()
  t.strictSame(namesOf(problemsOf(bad)).sort(), expected)
  t.throws(() => loadConfig(bad), { name: 'ConfigError' })
  try {
    loadConfig(bad)
  } catch (error) {
    const { message, stack } = error as Error
    t.notMatch(`${message}${stack}`, marker)
    t.equal(message.split('\n').length, 1 + expected.length, 'a line each')
    for (const name of expected) t.match(message, new RegExp(`^ +${name} `, 'm'))
  }
  for (const [name, value] of Object.entries(bad)) {
    const problems = problemsOf({ KEY_ENCRYPTION_SECRET: goodSecret, [name]: value })
    t.strictSame(namesOf(problems), [name], `${name} alone`)
    t.notMatch(problems.join(), marker)
  }
})

t.test('a URL that is none, or another service’s, is told by name alone', async (t) => {
  const marker = 'hunter2'
  for (const [name, values] of Object.entries({
    DATABASE_URL: [
      marker,
      `//${marker}`,
      `http://${marker}@db.test`,
      `postgres://a:${marker}#1@db.test/b`,
      `postgres://${marker}:1,b:2/db`,
    ],
    REDIS_URL: [
      marker,
      `${marker}:6379`,
      `postgres://${marker}`,
      `redis://a.test,${marker}`,
      `redis://:${marker}@`,
      `redis://:${marker}%ZZ@a.test`,
      `redis://:${marker}@a.test,redis://`,
      `redis://a.test,redis://${marker}:x`,
      `redis:///${marker}`,
      `redis:${marker}`,
      `REDISS://${marker}`, // ioredis would connect without TLS
      `redis://:${marker}%FF@a.test`,
      `sentinel://${marker}`,
      `sentinel://${marker}/`,
      `sentinel://${marker}:x/name`,
      `sentinel://a.test,,${marker}/name`,
      `sentinel://${marker}@/name`,
      `sentinel://:${marker}%ZZ@a.test/name`,
    ],
    RATE_REDIS_URL: [marker, `${marker}:6379`, `postgres://${marker}`],
    ISSUER: [marker, `auth.${marker}.test`, `javascript:${marker}`],
    SMTP_URL: [marker, `${marker}:25`, `http://${marker}`],
    APP_URL: [marker, `javascript:${marker}`],
  })) {
    for (const value of values) {
      const problems = problemsOf({ KEY_ENCRYPTION_SECRET: goodSecret, [name]: value })
      t.strictSame(namesOf(problems), [name], value)
      t.notMatch(problems.join(), marker)
    }
  }
})

t.test('mails leave by a server, and in production by nothing else', async (t) => {
  t.equal(loadConfig(production).mail, undefined, 'nothing is left in a folder that others may read')
  t.strictSame(problemsOf({ ...production, SMTP_URL: 'smtp://mail.test' }), [
    'MAIL_FROM is missing, but SMTP_URL is set: an address, or Name <address>',
  ])
  t.strictSame(problemsOf({ ...production, MAIL_SECOND_FACTOR: 'on' }), ['MAIL_SECOND_FACTOR needs SMTP_URL'])
  const file = fileWith(t, 'smtp://mail.test\n')
  const { mail } = loadConfig({ ...production, SMTP_URL_FILE: file, MAIL_FROM: 'a@b.test' })
  t.strictSame(mail?.target, { smtpUrl: 'smtp://mail.test' })
})

t.test('a number is written in digits, within its limits, or refused', async (t) => {
  const spellings = [
    ' 5',
    '5 ',
    '5\n',
    '1e3',
    '0x10',
    '-1',
    '+5',
    '1.5',
    '5.',
    '1_000',
    '5s',
    'NaN',
    'Infinity',
  ]
  const rubbish = [...spellings, ' ', 'true', '٥', '９', '9'.repeat(16), '9'.repeat(400)]
  for (const name of Object.keys(numbers)) {
    for (const value of rubbish)
      t.strictSame(namesOf(problemsOf({ [name]: value })), [name], `${name}=${value}`)

    const [problem = ''] = problemsOf({ [name]: 'x' })
    const [, min, max] = /from (\d+) to (\d+)/.exec(problem)?.map(Number) ?? []
    if (min === undefined || max === undefined) throw new Error(`${problem} does not tell the limits`)
    // Where two settings must fit each other, the other one is chosen to.
    const fitting = {
      DATABASE_URL: production.DATABASE_URL,
      KEY_ENCRYPTION_SECRET: goodSecret,
      REVOCATION_TAIL_MS: '10',
      REVOCATION_FRESH_MS: '60000',
      ARGON2_MEMORY_KIB: '4194304',
    }
    for (const value of [min, max])
      t.strictSame(
        namesOf(problemsOf({ ...fitting, [name]: `${value}` })).filter((wrong) => wrong === name),
        [],
        `${name}=${value}`,
      )
    for (const value of [min - 1, max + 1])
      t.strictSame(namesOf(problemsOf({ ...fitting, [name]: `${value}` })), [name], `${name}=${value}`)
  }
})

t.test('an empty setting is one that is not set', async (t) => {
  const names = [
    'HOST',
    'LOG_LEVEL',
    'DATABASE_URL',
    'REDIS_URL',
    'RATE_REDIS_URL',
    'REVOCATION_MODE',
    'TRUST_PROXY',
    'CORS_ORIGINS',
    'BOOTSTRAP_ADMIN_USERNAME',
    'BOOTSTRAP_ADMIN_PASSWORD',
    'BOOTSTRAP_ADMIN_PASSWORD_FILE',
    'ISSUER',
    'AUDIENCE',
    'KEY_ENCRYPTION_SECRET',
  ]
  const empty = [
    ...names,
    'DATA_DIR',
    'FIRST_PARTY_CLIENT_ID',
    'KEY_ENCRYPTION_SECRET_FILE',
    ...Object.keys(numbers),
  ]
  t.strictSame(loadConfig(Object.fromEntries(empty.map((name) => [name, '']))), loadConfig({}))
})

t.test('settings that do not fit each other are refused', async (t) => {
  t.strictSame(namesOf(problemsOf({ REVOCATION_TAIL_MS: '200', REVOCATION_FRESH_MS: '399' })), [
    'REVOCATION_FRESH_MS',
  ])
  t.strictSame(problemsOf({ REVOCATION_TAIL_MS: '200', REVOCATION_FRESH_MS: '400' }), [])
  t.match(
    problemsOf({ ARGON2_MEMORY_KIB: '1024', ARGON2_PARALLELISM: '255' }).join(),
    /ARGON2_MEMORY_KIB/,
    'RFC 9106 §3.1: at least 8 KiB for each lane',
  )
})

t.test('a secret may stand in a file', async (t) => {
  const url = 'postgres://latchkey:from-a-file@db.test/latchkey'
  const config = loadConfig({
    DATABASE_URL_FILE: fileWith(t, `${url}\n`),
    REDIS_URL_FILE: fileWith(t, 'redis://:from-a-file@redis.test\n'),
    KEY_ENCRYPTION_SECRET_FILE: fileWith(t, `${goodSecret}\n`),
    RATE_REDIS_URL_FILE: fileWith(t, 'redis://:from-a-file@rate.test\n'),
    BOOTSTRAP_ADMIN_USERNAME: 'root',
    BOOTSTRAP_ADMIN_PASSWORD_FILE: fileWith(t, 'from a file\n'),
  })
  t.strictSame(config.database, { url })
  t.strictSame(config.redis, { url: 'redis://:from-a-file@redis.test' })
  t.strictSame(config.rateRedis, { url: 'redis://:from-a-file@rate.test' })
  t.strictSame(config.firstAdmin, { username: 'root', password: 'from a file' })
  t.equal(config.keyEncryptionSecret, goodSecret, 'without the line end that editors add')
})

t.test('a secret in a file is judged as any other, and told as little', async (t) => {
  const marker = 'hunter2'
  const files: Environment = {
    DATABASE_URL_FILE: fileWith(t, `mysql://latchkey:${marker}@db.test`),
    REDIS_URL_FILE: fileWith(t, marker),
    KEY_ENCRYPTION_SECRET_FILE: fileWith(t, marker),
  }
  const problems = problemsOf(files)
  t.strictSame(namesOf(problems).sort(), ['DATABASE_URL', 'KEY_ENCRYPTION_SECRET', 'REDIS_URL'])
  t.notMatch(problems.join(), marker)
  const example = fileWith(t, 'change-me-change-me-change-me-change-me')
  t.strictSame(
    namesOf(
      problemsOf({ ...production, KEY_ENCRYPTION_SECRET: undefined, KEY_ENCRYPTION_SECRET_FILE: example }),
    ),
    ['KEY_ENCRYPTION_SECRET'],
  )
})

t.test('a secret that is set twice, or whose file cannot be read, is told by name', async (t) => {
  const marker = 'hunter2'
  const secrets = {
    DATABASE_URL: 'postgres://db.test',
    REDIS_URL: 'redis://redis.test',
    RATE_REDIS_URL: 'redis://rate.test',
    KEY_ENCRYPTION_SECRET: goodSecret,
    BOOTSTRAP_ADMIN_PASSWORD: 'correct horse battery staple',
  }
  for (const [name, value] of Object.entries(secrets)) {
    const env = { ...secrets, BOOTSTRAP_ADMIN_USERNAME: 'root', [`${name}_FILE`]: fileWith(t, value) }
    t.strictSame(problemsOf(env), [`${name} and ${name}_FILE are both set`])
  }
  for (const path of [`/nowhere/${marker}`, tmpdir()]) {
    const problems = problemsOf({ REDIS_URL_FILE: path })
    t.strictSame(problems, ['REDIS_URL_FILE cannot be read'])
    const [first] = problemsOf({
      ...production,
      KEY_ENCRYPTION_SECRET: undefined,
      KEY_ENCRYPTION_SECRET_FILE: path,
    })
    t.equal(first, 'KEY_ENCRYPTION_SECRET_FILE cannot be read')
  }
})

t.test('Postgres needs a secret for the keys it keeps', async (t) => {
  t.strictSame(namesOf(problemsOf({ DATABASE_URL: 'postgres://db.test' })), ['KEY_ENCRYPTION_SECRET'])
  t.strictSame(problemsOf({ DATABASE_URL: 'postgres://db.test', KEY_ENCRYPTION_SECRET: goodSecret }), [])
})

t.test('workers share a database and the cores', async (t) => {
  t.match(problemsOf({ WORKERS: '2' }), [/^WORKERS needs DATABASE_URL/])
  t.strictSame(problemsOf({ WORKERS: '1' }), [])
  const cores = availableParallelism()
  for (const [WORKERS, share] of [
    ['2', Math.max(1, Math.min(Math.floor(cores / 2), 3))],
    ['64', Math.max(1, Math.min(Math.floor(cores / 64), 3))],
  ] as const)
    t.equal(loadConfig({ ...production, WORKERS }).passwords.concurrency, share)
  t.equal(loadConfig({ ...production, WORKERS: '64', ARGON2_CONCURRENCY: '3' }).passwords.concurrency, 3)
})

t.test('production takes what it needs and nothing less', async (t) => {
  t.strictSame(problemsOf(production), [])
  t.strictSame(namesOf(problemsOf({ NODE_ENV: 'production' })).sort(), [
    'DATABASE_URL',
    'ISSUER',
    'KEY_ENCRYPTION_SECRET',
  ])
  for (const name of ['DATABASE_URL', 'ISSUER', 'KEY_ENCRYPTION_SECRET']) {
    t.strictSame(namesOf(problemsOf({ ...production, [name]: undefined })), [name])
    t.strictSame(namesOf(problemsOf({ ...production, [name]: '' })), [name])
  }
  t.strictSame(
    namesOf(problemsOf({ ...production, DATABASE_URL: undefined, DATA_DIR: '/var/lib/latchkey' })),
    ['DATABASE_URL'],
    'an embedded store',
  )
})

t.test('production refuses a secret that is short or an example', async (t) => {
  for (const secret of [
    goodSecret.slice(0, 31),
    'change-me-change-me-change-me-change-me',
    'CHANGEME-0123456789-abcdefghijklmnop',
    'this-is-the-example-0123456789-abcdef',
    'super-secret-0123456789-abcdefghijklm',
    'Password-0123456789-abcdefghijklmnopq',
    'a'.repeat(64),
    '0123012301230123012301230123012301230123',
  ]) {
    const problems = problemsOf({ ...production, KEY_ENCRYPTION_SECRET: secret })
    t.strictSame(namesOf(problems), ['KEY_ENCRYPTION_SECRET'], secret)
    t.notMatch(problems.join(), secret)
  }
})

t.test('production refuses an example as the first admin’s password', async (t) => {
  const withPassword = (password: string, env: Environment = production) =>
    problemsOf({ ...env, BOOTSTRAP_ADMIN_USERNAME: 'root', BOOTSTRAP_ADMIN_PASSWORD: password })
  for (const password of [
    'change-me-now-please',
    'Password123456789',
    'an example of a phrase',
    'a nanosecond is a foot long',
    'a'.repeat(20),
  ]) {
    const problems = withPassword(password)
    t.strictSame(namesOf(problems), ['BOOTSTRAP_ADMIN_PASSWORD'], password)
    t.notMatch(problems.join(), password)
    t.strictSame(withPassword(password, {}), [], `${password}, on a developer’s machine`)
  }
  t.strictSame(withPassword('correct horse battery staple'), [])
})

t.test('a first admin has a name and a password', async (t) => {
  const [name, password] = ['BOOTSTRAP_ADMIN_USERNAME', 'BOOTSTRAP_ADMIN_PASSWORD']
  t.strictSame(problemsOf({ [name]: 'hunter2' }), [`${password} is missing, but ${name} is set`])
  t.strictSame(problemsOf({ [password]: 'hunter2' }), [`${name} is missing, but ${password} is set`])
})

t.test('an origin is written as browsers write it, and there is none for everybody', async (t) => {
  for (const origins of [
    'https://app.test',
    'http://localhost:5173',
    'https://a.test,https://b.test:8443',
    'http://[::1]:81',
  ])
    t.strictSame(problemsOf({ CORS_ORIGINS: origins }), [], origins)
  for (const origins of [
    '*',
    'null',
    'app.test',
    'https://app.test/',
    'https://app.test/login',
    'https://APP.test',
    'https://app.test:443',
    'https://*.app.test',
    'https://user@app.test',
    'file://app.test',
    'https://app.test https://b.test',
    'https://app.test,',
    'https://',
    ' ',
  ])
    t.strictSame(namesOf(problemsOf({ CORS_ORIGINS: origins })), ['CORS_ORIGINS'], origins)
})

t.test('a proxy is an address or a network, and never everybody', async (t) => {
  for (const proxies of [
    '127.0.0.1',
    '::1',
    '::ffff:10.0.0.1',
    '10.0.0.0/8',
    '2001:db8::/32',
    '192.0.2.1/32',
    '2001:db8::1/128',
    '10.0.0.1,10.0.0.2 , fd00::/8',
  ]) {
    t.strictSame(problemsOf({ TRUST_PROXY: proxies }), [], proxies)
    t.strictSame(
      loadConfig({ TRUST_PROXY: proxies }).trustProxy,
      proxies.split(',').map((proxy) => proxy.trim()),
    )
  }
  for (const proxies of [
    'true',
    'yes',
    '*',
    '1',
    'loopback',
    'proxy.test',
    ' ',
    '10.0.0.1,',
    ',10.0.0.1',
    '10.0.0.1 10.0.0.2',
    '10.0.0.1;10.0.0.2',
    '10.0.0.1,true',
    '10.0.0',
    '010.0.0.1',
    '10.0.0.1:8080',
    '[::1]',
    '0.0.0.0/0',
    '::/0',
    '10.0.0.0/00',
    '10.0.0.0/08',
    '10.0.0.0/33',
    '2001:db8::/129',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '10.0.0.0/-1',
    '10.0.0.0/8.0',
    '10.0.0.0/255.0.0.0',
    '/8',
  ])
    t.strictSame(namesOf(problemsOf({ TRUST_PROXY: proxies })), ['TRUST_PROXY'], proxies)
})
