/** What an operator does from a shell, by the rooms of the service that HTTP leads to as well. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { parseArgs } from 'node:util'
import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { Check } from 'typebox/value'
import { isRole } from './bearer/roles.ts'
import { isScopeToken } from './bearer/scopes.ts'
import { loadConfig, loadDatabaseUrl } from './config.ts'
import { migratePostgresSchema } from './db/migrate.ts'
import { Outcome } from './outcomes.ts'
import { problemOf } from './plugins/problem-details.ts'
import { NewAccountBody, Reason } from './schemas/accounts.ts'
import { Id } from './schemas/id.ts'

/** Who does, for the audit. */
const by = 'cli'

/** What a command tells: a sentence, or rows. */
export type Told = string | readonly object[]

export const options = {
  json: { type: 'boolean', default: false },
  scope: { type: 'string', multiple: true, default: [] as string[] },
  role: { type: 'string', multiple: true, default: [] as string[] },
  email: { type: 'string' },
  'email-verified': { type: 'boolean', default: false },
  query: { type: 'string' },
  status: { type: 'string' },
  session: { type: 'string' },
  reason: { type: 'string' },
  'dry-run': { type: 'boolean', default: false },
} as const

type Options = ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>['values']

interface Command {
  operands: 0 | 1
  /** What it takes besides --json. */
  options?: readonly (keyof Options)[]
  run(operand: string, options: Options): Promise<Told | undefined>
}

export const commands: Record<string, Command> = {
  serve: {
    operands: 0,
    async run() {
      await import('./server.ts')
      return undefined
    },
  },
  migrate: {
    operands: 0,
    async run() {
      const url = loadDatabaseUrl(process.env)
      if (url === undefined)
        throw new Error('DATABASE_URL is not set: an embedded store is migrated when it starts')
      await migratePostgresSchema(url)
      return 'the schema is up to date'
    },
  },
  'keys list': {
    operands: 0,
    run: () => withService(({ signingKeys }) => signingKeys.list()),
  },
  'keys rotate': {
    operands: 0,
    run: () => withService(async ({ signingKeys }) => [await signingKeys.publish(undefined, by)]),
  },
  'keys import': {
    operands: 1,
    run: (file) =>
      withService(async ({ signingKeys }) => [await signingKeys.publish(readFileSync(file, 'utf8'), by)]),
  },
  'keys remove': {
    operands: 1,
    run: (kid) =>
      withService(async ({ signingKeys }) => {
        await signingKeys.remove(kid, by)
        return 'removed'
      }),
  },
  'clients list': {
    operands: 0,
    run: () =>
      withService(({ clients }) =>
        listAll(async (cursor) => {
          const { clients: rows, next_cursor } = await clients.list(cursor)
          return { rows, next_cursor }
        }),
      ),
  },
  'clients create': {
    operands: 1,
    options: ['scope'],
    async run(name, { scope: scopes }) {
      const wrong = scopes.find((scope) => !isScopeToken(scope))
      if (wrong !== undefined) throw new Error(`${wrong} is not a scope`)
      return await withService(async ({ clients }) => [await clients.create({ name, scopes }, by)])
    },
  },
  'clients renew': {
    operands: 1,
    run: (id) => withService(async ({ clients }) => [await clients.renewSecret(id, by)]),
  },
  'clients disable': {
    operands: 1,
    run: (id) =>
      withService(async ({ clients }) => {
        await clients.disable(id, by)
        return 'disabled'
      }),
  },
  'users list': {
    operands: 0,
    options: ['query', 'role', 'status'],
    async run(_, { query, role: [role, another], status }) {
      if (another !== undefined) throw new Error('one role at a time')
      const filter = {
        ...given({ query, role }),
        ...(status !== undefined && { status: assertStatus(status) }),
      }
      return await withService(({ accounts }) =>
        listAll(async (cursor) => {
          const { users, next_cursor } = await accounts.listUsers(filter, cursor)
          return { rows: users, next_cursor }
        }),
      )
    },
  },
  'users create': {
    operands: 1,
    options: ['email', 'email-verified', 'role'],
    run: (username, { email, 'email-verified': email_verified, role }) =>
      withService(async ({ accounts }) => {
        const password = randomBytes(18).toString('base64url')
        const account = {
          username,
          password,
          roles: assertRoles(role),
          ...given({ email }),
          ...(email_verified && { email_verified }),
        }
        assertAccount(account)
        return [{ ...(await accounts.createUser(account, { by })), password }]
      }),
  },
  'users import': {
    operands: 1,
    run: (file) => withService((app) => importUsers(app, file)),
  },
  'users roles': {
    operands: 1,
    options: ['role'],
    run: onUser(async ({ accounts }, id, { role }) => [
      await accounts.setRoles(id, assertRoles(role), { by }),
    ]),
  },
  'users disable': {
    operands: 1,
    run: onUser(async ({ accounts }, id) => [await accounts.setStatus(id, 'disabled', { by })]),
  },
  'users enable': {
    operands: 1,
    run: onUser(async ({ accounts }, id) => [await accounts.setStatus(id, 'active', { by })]),
  },
  'users revoke': {
    operands: 1,
    options: ['session', 'reason', 'dry-run'],
    run: onUser(({ accounts }, id, { session, reason, 'dry-run': dry_run }) =>
      accounts.recall(
        id,
        {
          dry_run,
          ...given({ session_id: session && assertId(session), reason: reason && assertReason(reason) }),
        },
        { by },
      ),
    ),
  },
  'tokens revoke': {
    operands: 1,
    options: ['reason'],
    async run(jti, { reason }) {
      const id = assertId(jti)
      return await withService(async ({ accounts }) => {
        await accounts.recallToken(id, reason && assertReason(reason), { by })
        return 'revoked'
      })
    },
  },
  'users remove-mfa': {
    operands: 1,
    run: onUser(async ({ accounts }, id) => {
      await accounts.removeFactors(id, { by })
      return 'removed'
    }),
  },
  'users delete': {
    operands: 1,
    run: onUser(async ({ accounts }, id) => {
      await accounts.deleteUser(id, { by })
      return 'deleted'
    }),
  },
}

/** Those that were asked for. */
function given<T extends object>(options: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never
}

/** With the id of the account that has this name. */
function onUser(work: (app: FastifyInstance, id: string, options: Options) => Promise<Told>): Command['run'] {
  return (username, options) =>
    withService(async (app) => work(app, await app.accounts.findIdByName(username), options))
}

function assertRoles(roles: readonly string[]): readonly string[] {
  const wrong = roles.find((role) => !isRole(role))
  if (wrong !== undefined) throw new Error(`${wrong} is not a role`)
  return [...new Set(roles)]
}

function assertStatus(status: string): 'active' | 'disabled' {
  if (status === 'active' || status === 'disabled') return status
  throw new Error(`${status} is no status: active or disabled`)
}

function assertReason(reason: string): string {
  if (Check(Reason, reason)) return reason
  throw new Error('a reason has at most 200 characters, and nothing that controls a terminal')
}

function assertId(id: string): string {
  if (Check(Id, id)) return id
  throw new Error(`${id} is no id`)
}

/** @throws Error at the end, if there was an account that could not be made; the others are */
async function importUsers({ accounts }: FastifyInstance, file: string): Promise<Told> {
  const lines = readFileSync(file, 'utf8').split('\n')
  const problems: string[] = []
  let count = 0
  for (const [at, line] of lines.entries()) {
    if (line.trim() === '') continue
    try {
      await accounts.createUser(readImported(line), { by })
      count++
    } catch (error) {
      problems.push(`line ${at + 1}: ${explain(error)}`)
    }
  }
  if (problems.length > 0) throw new Error([`${count} accounts made, but not`, ...problems].join('\n  '))
  return `${count} accounts made`
}

/** @throws Error with one clear line, and nothing of what stands there */
function readImported(line: string) {
  let account: unknown
  try {
    account = JSON.parse(line)
  } catch {}
  assertAccount(account)
  return account
}

function assertAccount(account: unknown): asserts account is Static<typeof NewAccountBody> {
  if (!Check(NewAccountBody, account)) throw new Error('this is no account')
}

async function listAll<Row extends object>(
  read: (cursor?: string) => Promise<{ rows: readonly Row[]; next_cursor?: string | undefined }>,
): Promise<Told> {
  const listed: Row[] = []
  let cursor: string | undefined
  do {
    const page = await read(cursor)
    listed.push(...page.rows)
    cursor = page.next_cursor
  } while (cursor !== undefined)
  return listed
}

/** In all of the service but its ports. It logs to stderr: stdout is for what was asked. */
async function withService<T>(work: (app: FastifyInstance) => Promise<T>): Promise<T> {
  const { buildApp } = await import('./app.ts')
  const app = await buildApp({ ...loadConfig(process.env), metricsPort: 0 }, { logTo: process.stderr })
  try {
    return await work(app)
  } finally {
    await app.close()
  }
}

/** An outcome in the words that a client reads, everything else in its own. */
export function explain(error: unknown): string {
  if (error instanceof Outcome) return problemOf(error, '').detail
  return error instanceof Error ? error.message : String(error)
}
