#!/usr/bin/env node
/** The second door into the same rooms: what an operator does from a shell. To end with 0 is as good as a 2xx. */
import './kept-tick.ts'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { FastifyInstance } from 'fastify'
import { isScopeToken } from './bearer/scopes.ts'
import { loadConfig, loadDatabaseUrl } from './config.ts'
import { migratePostgresSchema } from './db/migrate.ts'
import { Outcome } from './outcomes.ts'
import { problemOf } from './plugins/problem-details.ts'

const usage = `usage: latchkey                     serves; the settings are in the environment
       latchkey migrate             brings the schema of DATABASE_URL up to date
       latchkey keys list           lists the signing keys
       latchkey keys rotate         makes the key that signs next
       latchkey keys import FILE    takes a private key (PEM or JWK) for the one that signs next
       latchkey keys remove KID     takes a key back, and with it every token that it signed
       latchkey clients list        lists the accounts of services
       latchkey clients create NAME [--scope SCOPE]...
                                    makes one, and tells its secret this once
       latchkey clients renew ID    gives it another secret
       latchkey clients disable ID  closes it, with every token that it was issued

       --json                       tells it to a program
       --                           before a KID that begins with a dash
`

/** Who does, for the audit. */
const by = 'cli'

/** What a command tells: a sentence, or rows. */
type Told = string | readonly object[]

interface Command {
  operands: 0 | 1
  run(operand: string, scopes: readonly string[]): Promise<Told | undefined>
}

const commands: Record<string, Command> = {
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
    run: () => withService(listClients),
  },
  'clients create': {
    operands: 1,
    async run(name, scopes) {
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
}

async function listClients({ clients }: FastifyInstance): Promise<Told> {
  const listed: object[] = []
  let cursor: string | undefined
  do {
    const page = await clients.list(cursor)
    listed.push(...page.clients)
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

function tell(told: Told, json: boolean): string {
  if (json) return JSON.stringify(told)
  return typeof told === 'string' ? told : told.map((row) => Object.values(row).join('  ')).join('\n')
}

/** @returns undefined for what is not a command */
function parse(args: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: {
        json: { type: 'boolean', default: false },
        scope: { type: 'string', multiple: true, default: [] },
      },
      allowPositionals: true,
    })
    const words = positionals[0] === 'keys' || positionals[0] === 'clients' ? 2 : 1
    const name = positionals.slice(0, words).join(' ') || 'serve'
    const operands = positionals.slice(words)
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (command?.operands !== operands.length) return undefined
    if (values.scope.length > 0 && name !== 'clients create') return undefined
    return { name, operand: operands[0] ?? '', scopes: values.scope, json: values.json, run: command.run }
  } catch {
    return undefined
  }
}

/** An outcome in the words that a client reads, everything else in its own. */
function explain(error: unknown): string {
  if (error instanceof Outcome) return problemOf(error, '').detail
  return error instanceof Error ? error.message : String(error)
}

const asked = parse(process.argv.slice(2))
if (!asked) {
  process.stderr.write(usage)
  process.exitCode = 2
} else {
  try {
    const told = await asked.run(asked.operand, asked.scopes)
    if (told !== undefined) process.stdout.write(`${tell(told, asked.json)}\n`)
  } catch (error) {
    process.stderr.write(`latchkey ${asked.name}: ${explain(error)}\n`)
    process.exitCode = 1
  }
}
