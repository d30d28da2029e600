/** What it costs that very much was taken back: each check of what was not, and each entry in Redis and in memory. */
import { randomUUID } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { Redis } from 'ioredis'
import type { RevocationEntry } from '../src/bearer/revoked-entries.ts'
import { createServerClock } from '../src/db/clock.ts'
import { migratePostgresSchema } from '../src/db/migrate.ts'
import { readLiveEntries } from '../src/revocation/record.ts'
import { createRedisIndex } from '../src/revocation/redis-index.ts'
import { createTail } from '../src/revocation/tail.ts'
import { capacityOf, recordLiveEntries, withDatabase } from '../test/fixtures/live-entries.ts'
import type { Capacity } from '../test/fixtures/load-record.ts'
import { type Contestant, type Stores, startLatchkey } from './contestants.ts'
import { measure, type Rounds, warmUp } from './guarded.ts'
import type { Chapter, Table } from './report.ts'
import { numbers, ratioOf, showSpread, spreadOf, takeTurns } from './rounds.ts'
import { issueTokens, writeTokens } from './tokens.ts'

const modes = { default: 'redis', mirror: 'mirror' }
type Mode = keyof typeof modes

/** Stores in which so many entries are live. */
interface Filled extends Stores {
  size: number
  redisBytes: number
}

interface Footprint {
  size: number
  redisBytes: number
  /** Undefined where what each entry takes is lost among what does not grow with them. */
  capacity: Capacity | undefined
  residentBytes: number
  readyMs: number
}

const clock = createServerClock()
/** Nothing ends while it is measured. */
const liveSeconds = 86_400
const enoughToDivide = 100_000

export const entries: Chapter = async ({ quick, startStores }) => {
  const sizes = quick ? [1, 100_000] : [1, 1_000, 100_000, 1_000_000]
  const usedModes: Mode[] = quick ? ['default'] : ['default', 'mirror']
  const stores = await startStores()
  await migratePostgresSchema(stores.databaseUrl)
  // With the key that signs them: copies of this database take them all.
  const distinctTokens = quick ? 1_000 : 10_000
  const tokens = await writeTokens(await issueTokens(stores.databaseUrl, distinctTokens))
  const filled: Filled[] = []
  for (const size of sizes) filled.push(await fill(stores, size, filled.length))

  const contestants: Record<string, Contestant> = {}
  for (const mode of usedModes)
    for (const each of filled)
      contestants[nameOf(mode, each.size)] = await startLatchkey(each, { REVOCATION_MODE: modes[mode] })
  await warmUp(contestants, tokens, distinctTokens)
  const turns = quick ? { rounds: 1, seconds: 1 } : { rounds: 7, seconds: 2 }
  const rounds = await measure(contestants, { ...turns, tokens, connections: 64, pauseMs: 0 })
  const lookUps = await timeLookUps(filled, quick ? 3 : 20)

  const footprints: Footprint[] = []
  for (const { size, redisBytes, databaseUrl } of filled) {
    const { residentBytes, readyMs } = contestants[nameOf('default', size)] as Contestant
    const capacity = size < enoughToDivide ? undefined : await capacityOf(databaseUrl)
    footprints.push({ size, redisBytes, capacity, residentBytes: residentBytes(), readyMs })
  }
  for (const { end } of Object.values(contestants)) await end()
  return [checkTable(sizes, usedModes, rounds, lookUps), footprintTable(footprints)]
}

const nameOf = (mode: Mode, size: number) => `${mode}, ${size}`

/** A copy of the database, with so many entries in its record, and the same ones in one of the databases of that Redis. */
async function fill(stores: Stores, size: number, at: number): Promise<Filled> {
  const name = `entries_${size}`
  const databaseUrl = withPath(stores.databaseUrl, name)
  const redisUrl = withPath(stores.redisUrl, `${at}`)
  await withDatabase(withPath(stores.databaseUrl, 'postgres'), (db) =>
    db.execute(sql.raw(`create database ${name} template latchkey`)),
  )
  await recordLiveEntries(databaseUrl, size, liveSeconds)
  return { size, databaseUrl, redisUrl, redisBytes: await writeIndex({ databaseUrl, redisUrl }) }
}

function withPath(url: string, path: string): string {
  const other = new URL(url)
  other.pathname = path
  return other.href
}

/** As latchkey writes it itself. @returns bytes by which Redis has grown */
async function writeIndex({ databaseUrl, redisUrl }: Stores): Promise<number> {
  const pages: (readonly RevocationEntry[])[] = []
  await withDatabase(databaseUrl, (db) => readLiveEntries(db, 2_000, (page) => pages.push(page)))
  const redis = new Redis(redisUrl)
  const usedBytes = async () => Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1])
  const never = Number.NEGATIVE_INFINITY
  const tail = { lastLook: () => ({ sentAt: never, serverTime: never }) }
  const index = createRedisIndex({ redis, clock, tail, freshMs: 0, onChange() {} })
  try {
    const before = await usedBytes()
    for (const page of pages) await index.write(page)
    return (await usedBytes()) - before
  } finally {
    redis.disconnect()
  }
}

/** Microseconds of CPU for each look into a tail alone, without a server around it, by tokens that live. */
async function timeLookUps(filled: readonly Filled[], rounds: number): Promise<Record<string, number[]>> {
  const tokens = Array.from({ length: 10_000 }, () => {
    const [jti, sid, sub] = [randomUUID(), randomUUID(), randomUUID()]
    return { kid: 'a thumbprint', claims: { jti, sid, sub, ver: 1 } }
  })
  const measures: Record<string, () => Promise<number>> = {}
  for (const { size, databaseUrl } of filled) {
    const tail = await withDatabase(databaseUrl, async (db) => {
      const loaded = createTail({ db, clock, intervalMs: 100, freshMs: 250, onChange() {} })
      await loaded.load()
      return loaded
    })
    const prepared = tokens.map((token) => tail.prepare(token))
    measures[size] = async () => {
      const before = process.cpuUsage()
      for (let turn = 0; turn < 5; turn++) {
        // While nothing is added, a token that was looked up in vain is not looked up again.
        tail.add([{ scope: 'token', subject: randomUUID(), expiresAt: 0 }])
        for (const token of prepared) tail.has(token)
      }
      const { user, system } = process.cpuUsage(before)
      return (user + system) / 5 / prepared.length
    }
  }
  await takeTurns(1, measures) // compiles
  return await takeTurns(rounds, measures)
}

function checkTable(
  sizes: readonly number[],
  usedModes: readonly Mode[],
  rounds: Rounds,
  lookUps: Record<string, number[]>,
): Table {
  const figures: Record<string, (size: number) => readonly number[]> = {
    ...Object.fromEntries(
      usedModes.map((mode) => [
        `${mode}: CPU, µs`,
        (size: number) => numbers(rounds[nameOf(mode, size)], 'cpu'),
      ]),
    ),
    'the look alone, µs': (size) => lookUps[size] as number[],
  }
  return {
    title: 'Checking a token while others are taken back',
    about: `GET /protected by live tokens, at 64 connections, of processes with so many live entries each in the record, in the tail
and in a database of Redis of their own. Beside what a request takes of the processor stands how many times that is of what it
takes among one entry. The look alone is the one into the tail, without a server around it,
by tokens since whose last look another was taken back.`,
    columns: ['live entries', ...Object.keys(figures).flatMap((name) => [name, 'times'])],
    rows: sizes.map((size) => [
      size.toLocaleString('en'),
      ...Object.values(figures).flatMap((of) => [
        spreadOf(of(size)).median.toFixed(2),
        showSpread(ratioOf(of(size), of(1))),
      ]),
    ]),
  }
}

function footprintTable(footprints: readonly Footprint[]): Table {
  const mebi = 2 ** 20
  return {
    title: 'What an entry takes',
    about: `In Redis, by which its memory grew for each entry: meant to be at most 200 bytes. In the tail, what is kept after the garbage
is collected, once loaded and at most while as many expire as come: meant to be at most 64 bytes. The process is one of those
above after its load, and its start is one start, from the launch to the first 200 of /health/ready.`,
    columns: [
      'live entries',
      'in Redis, bytes each',
      'in the tail, bytes each',
      'at most',
      'process, MiB',
      'start, ms',
    ],
    rows: footprints.map(({ size, redisBytes, capacity, residentBytes, readyMs }) => [
      size.toLocaleString('en'),
      capacity ? (redisBytes / size).toFixed(0) : '',
      capacity ? ((capacity.loadedMb * mebi) / size).toFixed(0) : '',
      capacity ? ((capacity.renewedMb * mebi) / size).toFixed(0) : '',
      (residentBytes / mebi).toFixed(0),
      readyMs.toFixed(0),
    ]),
  }
}
