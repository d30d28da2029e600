/** Load on GET /protected, by live tokens in rotation, and what each request costs whoever answers it. */
import type { Contestant } from './contestants.ts'
import { type Load, load, type Seen } from './load.ts'
import { spreadOf, takeTurns } from './rounds.ts'

export interface Round extends Seen {
  /** Microseconds that the server had of its processor for each request. */
  cpu: number
}

export type Rounds = Record<string, Round[]>

export interface Turns extends Omit<Load, 'url' | 'from'> {
  /** Beside one that does not count, in which everybody compiles, and verifies every token once. */
  rounds: number
}

export async function measure(
  contestants: Readonly<Record<string, Contestant>>,
  { rounds, ...how }: Turns,
): Promise<Rounds> {
  let from = 0
  const roundOf =
    ({ url, cpuMicroseconds }: Contestant) =>
    async (): Promise<Round> => {
      const before = cpuMicroseconds()
      const seen = await load({ url: `${url}/protected`, from, ...how })
      if (seen.failed > seen.requests / 1000) throw new Error(`${url} failed ${seen.failed} times`)
      from += seen.requests
      return { ...seen, cpu: (cpuMicroseconds() - before) / seen.requests }
    }
  const measures = Object.fromEntries(Object.entries(contestants).map(([name, one]) => [name, roundOf(one)]))
  await takeTurns(1, measures)
  return await takeTurns(rounds, measures)
}

export const numbers = (rounds: readonly Round[] = [], figure: keyof Round) =>
  rounds.map((round) => round[figure])

export const median = (rounds: readonly Round[] | undefined, figure: keyof Round) =>
  spreadOf(numbers(rounds, figure)).median
