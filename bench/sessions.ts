/** What keeping and ending a session costs: refreshes beside the same SQL under pgbench, and logouts beside their hold. */
import { loadConfig } from '../src/config.ts'
import { countDone, makeAccounts, makeSessions } from './accounts.ts'
import { startLatchkey } from './contestants.ts'
import { keycloak } from './keycloak.ts'
import { load, type Seen } from './load.ts'
import { refreshUnderPgbench } from './pgbench.ts'
import type { BenchOptions, Chapter, Table } from './report.ts'
import { median, numbers, ratioOf, showSpread, spreadOf, takeTurns } from './rounds.ts'

const refreshConnections = 32
const logoutConnections = { few: 8, crowd: 128 }
/** More than one core answers in a second: nobody may run out of sessions. */
const most = { refreshes: 8000, logouts: 1000 }
/** The margin stands in revocation/revoke. */
const holdMs = loadConfig({}).revocation.freshMs + 10

interface Round extends Seen {
  /** Microseconds that the server had of its processor for each request. */
  cpu: number
  /** The part of the time for which it had it. */
  busy: number
}

type Measure<Figures> = (seconds: number) => Promise<Figures>

export const sessions: Chapter = async (options) => {
  const { databaseUrl, redisUrl } = await options.startStores()
  // The load comes from one address, which is allowed a thousand requests a minute: counted as ever, but not refused.
  const latchkey = await startLatchkey({ databaseUrl, redisUrl }, { RATE_MAX: '1000000000' })
  await makeAccounts(databaseUrl)
  let next = 0

  /** Uses the refresh tokens of fresh sessions. @throws Error if more is told than the database knows of */
  async function useSessions<Figures>(count: number, use: (from: number) => Promise<[Figures, number]>) {
    const from = next
    next += count
    await makeSessions(databaseUrl, from, count)
    const before = await countDone(databaseUrl)
    const [figures, told] = await use(from)
    const done = (await countDone(databaseUrl)) - before
    if (told > done || told > count)
      throw new Error(`${told} of ${count} are told to be done, and ${done} are`)
    return figures
  }

  const post =
    (path: string, connections: number, mostPerSecond: number): Measure<Round> =>
    (seconds) =>
      useSessions(seconds * mostPerSecond, async (from) => {
        const before = latchkey.cpuMicroseconds()
        const seen = await load({ url: `${latchkey.url}${path}`, from, connections, seconds })
        if (seen.failed > 0) throw new Error(`${path} failed ${seen.failed} times`)
        const cpu = latchkey.cpuMicroseconds() - before
        return [{ ...seen, cpu: cpu / seen.requests, busy: cpu / 1e6 / seconds }, seen.requests]
      })

  const sqlAlone: Measure<number> = (seconds) => {
    const count = seconds * 1000
    return useSessions(count, async (from) => [await refreshUnderPgbench(databaseUrl, from, count), count])
  }

  const tables = [
    await measureRefreshes(post('/refresh', refreshConnections, most.refreshes), sqlAlone, options),
    await measureLogouts(
      post('/logout', logoutConnections.few, most.logouts),
      post('/logout', logoutConnections.crowd, most.logouts),
      options,
    ),
  ]
  await latchkey.end()
  return tables
}

async function measureRefreshes(
  throughHttp: Measure<Round>,
  sqlAlone: Measure<number>,
  { quick }: BenchOptions,
): Promise<Table> {
  const seconds = quick ? 1 : 3
  const rounds: Round[] = []
  const measures = {
    latchkey: async () => {
      const round = await throughHttp(seconds)
      rounds.push(round)
      return round.perSecond
    },
    sql: () => sqlAlone(seconds),
  }
  await takeTurns(1, measures)
  rounds.length = 0
  const { latchkey, sql } = await takeTurns(quick ? 2 : 11, measures)
  return {
    title: 'Refreshing',
    about: `POST /refresh from ${refreshConnections} connections, a fresh session each time, on one core; beside it the same SQL by pgbench on that
core, prepared, from as many clients as latchkey has connections. Postgres has the other cores. All is as shipped but RATE_MAX:
the load comes from one address. Meant to be at least 0.60 of pgbench. ${keycloak.about}`,
    columns: ['', 'share of pgbench', 'refreshes/s', 'CPU, µs', 'its core works', 'p50, ms', 'p99, ms'],
    rows: [
      ['pgbench', '', spreadOf(sql).median.toFixed(0), '', '', '', ''],
      [
        'latchkey',
        showSpread(ratioOf(latchkey, sql)),
        spreadOf(latchkey).median.toFixed(0),
        median(rounds, 'cpu').toFixed(0),
        `${(median(rounds, 'busy') * 100).toFixed(0)} %`,
        median(rounds, 'p50').toFixed(1),
        median(rounds, 'p99').toFixed(1),
      ],
      [keycloak.name, '', `${keycloak.refreshes}`, '', '', '', ''],
    ],
  }
}

async function measureLogouts(
  few: Measure<Round>,
  crowd: Measure<Round>,
  { quick }: BenchOptions,
): Promise<Table> {
  // So long that the hold, for which nobody is answered yet, does not count.
  const seconds = quick ? 1 : 10
  const measures = { few: () => few(seconds), crowd: () => crowd(seconds) }
  if (!quick) await takeTurns(1, measures)
  const rounds = await takeTurns(quick ? 1 : 5, measures)
  const rowOf = (name: 'few' | 'crowd'): string[] => [
    `${logoutConnections[name]}`,
    median(rounds[name], 'perSecond').toFixed(0),
    showSpread(spreadOf(numbers(rounds[name], 'p50')), 0),
    showSpread(spreadOf(numbers(rounds[name], 'p99')), 0),
    showSpread(spreadOf(numbers(rounds[name], 'p50').map((ms) => ms - holdMs)), 0),
    showSpread(spreadOf(numbers(rounds[name], 'p99').map((ms) => ms - holdMs)), 0),
    median(rounds[name], 'cpu').toFixed(0),
  ]
  return {
    title: 'Logging out',
    about: `POST /logout with the refresh token of a fresh session each time, on one core. Of each reply's time, ${holdMs} ms are the hold: until
then, another instance may not have looked.`,
    columns: [
      'connections',
      'logouts/s',
      'p50, ms',
      'p99, ms',
      'p50 without the hold',
      'p99 without the hold',
      'CPU, µs',
    ],
    rows: [rowOf('few'), rowOf('crowd')],
  }
}
