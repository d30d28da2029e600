/** The rotation of a refresh token as SQL alone: the statement that latchkey sends, under Postgres's own load generator. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { drizzle } from 'drizzle-orm/node-postgres'
import type pg from 'pg'
import type { Database } from '../src/db/connect.ts'
import { createSealer } from '../src/db/sealing.ts'
import { type Rotation, rotate } from '../src/sessions/rotation.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../src/tokens/opaque-tokens.ts'
import { findPgbench } from '../test/fixtures/install.ts'
import { refreshTokenHash } from './accounts.ts'
import { serverCore } from './machine.ts'

/** As many as latchkey has connections for its requests. */
const clients = 10

/**
 * Exchanges refresh tokens of the sessions (accounts.ts) from a number on, on the core that latchkey has otherwise.
 *
 * @returns how many a second
 */
export async function refreshUnderPgbench(databaseUrl: string, from: number, count: number): Promise<number> {
  const program = findPgbench()
  if (!program) throw new Error('pgbench is missing')
  const running = promisify(execFile)('taskset', [
    '-c',
    serverCore,
    program,
    '--no-vacuum',
    '--protocol=prepared',
    `--client=${clients}`,
    `--transactions=${count / clients}`,
    `--define=next=${from}`,
    '--file=-',
    databaseUrl,
  ])
  running.child.stdin?.end(await rotationScript())
  const { stdout } = await running
  return Number(/^tps = ([\d.]+)/m.exec(stdout)?.[1])
}

/** Each client in turn takes the next session. */
async function rotationScript(): Promise<string> {
  const presented = generateOpaqueToken()
  const successor = generateOpaqueToken()
  const now = Date.now()
  const rotation: Rotation = {
    hash: hashOpaqueToken(presented),
    successor: hashOpaqueToken(successor),
    sealedSuccessor: createSealer(presented).seal('', Buffer.from(successor)),
    now,
    idleEnd: now + 43_200_000,
    rememberEnd: now + 2_592_000_000,
    accessEnd: now + 900_000,
    graceStart: now - 30_000,
    address: '127.0.0.1',
    userAgent: 'pgbench',
  }
  const { text, values } = await statementOf((db) => rotate(db, rotation))
  const statement = text.replaceAll(/\$(\d+)/g, (_, place) => {
    const value = values[Number(place) - 1]
    if (value === rotation.hash) return refreshTokenHash(':n')
    if (value === rotation.successor) return "sha256(concat('successor of ', :n::text)::bytea)"
    if (value === rotation.sealedSuccessor)
      return `decode('${rotation.sealedSuccessor.toString('hex')}', 'hex')`
    return typeof value === 'string' ? `'${value}'` : `${value}`
  })
  return `\\set n :next + :client_id\n\\set next :next + ${clients}\n${statement};\n`
}

/** What is sent to Postgres by whoever uses a database that answers nothing. */
async function statementOf(
  use: (db: Database) => Promise<unknown>,
): Promise<{ text: string; values: unknown[] }> {
  const sent: { text: string; values: unknown[] }[] = []
  const client = {
    async query({ text }: pg.QueryConfig, values: unknown[]) {
      sent.push({ text, values })
      return { rows: [] }
    },
  }
  await use(drizzle(client as unknown as pg.Client) as unknown as Database)
  return sent[0] as { text: string; values: unknown[] }
}
