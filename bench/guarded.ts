/** Load on GET /protected, by live tokens in rotation, and what each request costs whoever answers it. */
import type { Contestant } from './contestants.ts'
import { type Load, load, type Seen } from './load.ts'
import { takeTurns } from './rounds.ts'

export interface Round extends Seen {
  /** Microseconds that the server had of its processor for each request. */
  cpu: number
}

export type Rounds = Record<string, Round[]>

export interface Turns extends Omit<Load, 'url' | 'from'> {
  rounds: number
}

export async function measure(
  contestants: Readonly<Record<string, Contestant>>,
  { rounds, ...how }: Turns,
): Promise<Rounds> {
  const roundOf = ({ url, cpuMicroseconds }: Contestant) => {
    let from = 0
    return async (): Promise<Round> => {
      const before = cpuMicroseconds()
      const seen = await load({ url: `${url}/protected`, from, ...how })
      if (seen.failed > seen.requests / 1000) throw new Error(`${url} failed ${seen.failed} times`)
      from += seen.requests
      return { ...seen, cpu: (cpuMicroseconds() - before) / seen.requests }
    }
  }
  const measures = Object.entries(contestants).map(([name, one]) => [name, roundOf(one)] as const)
  return await takeTurns(rounds, Object.fromEntries(measures))
}

/** Until everything is compiled and every token was verified. */
export async function warmUp(
  contestants: Readonly<Record<string, Contestant>>,
  tokens: string,
  distinctTokens: number,
): Promise<void> {
  const how = { tokens, connections: 64, seconds: 1, pauseMs: 0 }
  for (const { url } of Object.values(contestants))
    for (let from = 0; from < 2 * distinctTokens; )
      from += (await load({ url: `${url}/protected`, from, ...how })).requests
}
