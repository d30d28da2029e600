/** What several processes on one machine answer together. */
import { type Contestant, startLatchkey } from './contestants.ts'
import { measure, warmUp } from './guarded.ts'
import { allCores, coreCount } from './machine.ts'
import type { Chapter } from './report.ts'
import { median, numbers, ratioOf, showSpread } from './rounds.ts'
import { issueTokens, writeTokens } from './tokens.ts'

const distinctTokens = 1_000

export const workers: Chapter = async ({ quick, startStores }) => {
  const stores = await startStores()
  const contestants: Record<string, Contestant> = {}
  for (const count of [1, coreCount])
    contestants[count] = await startLatchkey(stores, { WORKERS: `${count}` }, allCores)
  const tokens = await writeTokens(await issueTokens(stores.databaseUrl, distinctTokens))
  // Each process verifies for itself.
  await warmUp(contestants, tokens, distinctTokens * 10 * coreCount)
  const turns = quick ? { rounds: 1, seconds: 1 } : { rounds: 9, seconds: 2 }
  const rounds = await measure(contestants, { ...turns, tokens, connections: 64, pauseMs: 0 })
  for (const { end } of Object.values(contestants)) await end()
  return [
    {
      title: 'Several processes on one machine',
      about: `GET /protected by known tokens at 64 connections, with all ${coreCount} cores for the service. Load, Postgres and Redis
have to share them, so that this is less than what machines of their own would give.`,
      columns: ['WORKERS', 'requests/s', 'times', 'CPU, µs', 'times'],
      rows: Object.entries(rounds).map(([count, figures]) => [
        count,
        ...(['perSecond', 'cpu'] as const).flatMap((figure) => [
          median(figures, figure).toFixed(figure === 'cpu' ? 1 : 0),
          showSpread(ratioOf(numbers(figures, figure), numbers(rounds['1'], figure))),
        ]),
      ]),
    },
  ]
}
