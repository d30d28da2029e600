/**
 * What the number of entries costs a check: in mirror mode, where a live token needs nothing but the tail. The tails take turns
 * in each round, so that whatever else the machine does reaches all of them. Run it by `npx tsx bench/check-cost.ts`.
 */
import { randomUUID } from 'node:crypto'
import { createServerClock } from '../src/db/clock.ts'
import type { Database } from '../src/db/connect.ts'
import { createCheck } from '../src/revocation/check.ts'
import type { TokenIdentity } from '../src/revocation/entries.ts'
import { createTail } from '../src/revocation/tail.ts'

const sizes = [1, 1_000, 100_000, 1_000_000]
const rounds = 30
const checksPerRound = 50_000

const kid = 'YVp2rzC8iLZsOFHlc8K0Tj5Ir0DfuUDpvVVbXbSaxQk'
const tokens: TokenIdentity[] = Array.from({ length: 10_000 }, () => ({
  jti: randomUUID(),
  sid: randomUUID(),
  sub: randomUUID(),
  ver: 1,
  kid,
}))

function checkAmong(size: number): () => Promise<number> {
  const tail = createTail({
    db: undefined as unknown as Database, // never asked: nothing loads, and nothing follows
    clock: createServerClock(),
    intervalMs: 100,
    freshMs: Number.POSITIVE_INFINITY,
    onChange() {},
  })
  const expiresAt = Date.now() / 1000 + 3600
  for (let i = 0; i < size; i++) tail.add([{ scope: 'session', subject: randomUUID(), expiresAt }])
  const check = createCheck({
    tail: { has: tail.has, catchUp: async () => true },
    index: undefined,
    mirror: true,
    onVerdict() {},
  })
  /** @returns microseconds of CPU per check */
  return async () => {
    const before = process.cpuUsage()
    for (let i = 0; i < checksPerRound; i++) await check(tokens[i % tokens.length] as TokenIdentity)
    const { user, system } = process.cpuUsage(before)
    return (user + system) / checksPerRound
  }
}

const measures = sizes.map(checkAmong)
for (const measure of measures) await measure() // compiles

const costs: number[][] = sizes.map(() => [])
for (let round = 0; round < rounds; round++) {
  // Whoever is first in one round is last in the next.
  const order = [...measures.keys()]
  if (round % 2) order.reverse()
  for (const at of order) costs[at]?.push(await (measures[at] as () => Promise<number>)())
}

const [one = []] = costs
const lines = sizes.map((size, at) => {
  const own = sorted(costs[at] as number[])
  const ratios = sorted((costs[at] as number[]).map((cost, round) => cost / (one[round] as number)))
  const spread = [0.1, 0.9].map((part) => quantile(ratios, part).toFixed(2)).join('–')
  return `| ${size.toLocaleString('en')} | ${quantile(own, 0.5).toFixed(2)} | ${quantile(ratios, 0.5).toFixed(2)} | ${spread} |`
})
process.stdout.write(`| entries | µs of CPU a check | times that among one entry | 10–90 % of ${rounds} rounds |
|---:|---:|---:|---:|
${lines.join('\n')}
`)

function sorted(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b)
}

function quantile(ascending: readonly number[], part: number): number {
  return ascending[Math.round(part * (ascending.length - 1))] as number
}
