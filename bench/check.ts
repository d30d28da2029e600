/** What the guard of a route costs: the same route with and without it, and guarded as one usually does. */
import { createPublicKey, type JsonWebKey } from 'node:crypto'
import { type Contestant, startBare, startLatchkey, startRecipe } from './contestants.ts'
import { measure, type Rounds, warmUp } from './guarded.ts'
import type { Chapter, Table } from './report.ts'
import { median, numbers, ratioOf, type Spread, showSpread } from './rounds.ts'
import { issueTokens, writeTokens } from './tokens.ts'

const bare = 'bare route'

export const check: Chapter = async ({ quick, startStores }) => {
  const distinctTokens = quick ? 1_000 : 10_000
  const stores = await startStores()
  const latchkey = await startLatchkey(stores)
  const publicKey = await publicKeyOf(latchkey)
  const contestants: Record<string, Contestant> = {
    [bare]: await startBare(),
    'latchkey, default': latchkey,
    'latchkey, mirror': await startLatchkey(stores, { REVOCATION_MODE: 'mirror' }),
    '@fastify/jwt alone': await startRecipe(publicKey),
    '@fastify/jwt and EXISTS': await startRecipe(publicKey, stores.redisUrl),
  }
  const tokens = await writeTokens(await issueTokens(stores.databaseUrl, distinctTokens))
  await warmUp(contestants, tokens, distinctTokens)

  const turns = quick ? { tokens, rounds: 1, seconds: 1 } : { tokens, rounds: 9, seconds: 2 }
  const crowd = await measure(contestants, { ...turns, connections: 64, pauseMs: 0 })
  const few = await measure(contestants, { ...turns, connections: 8, pauseMs: 0 })
  const calm = await measure(contestants, { ...turns, ...halfOf(crowd) })
  for (const { end } of Object.values(contestants)) await end()
  return [cpuTable(crowd, few, distinctTokens), timeTable(calm, crowd)]
}

async function publicKeyOf({ url }: Contestant): Promise<string> {
  const { keys } = (await (await fetch(`${url}/.well-known/jwks.json`)).json()) as { keys: JsonWebKey[] }
  return createPublicKey({ key: keys[0] as JsonWebKey, format: 'jwk' }).export({
    type: 'spki',
    format: 'pem',
  }) as string
}

/** Half of what the default can take, for everybody: so many connections that each has to wait for its next request. */
function halfOf(crowd: Rounds): { connections: number; pauseMs: number } {
  const connections = 128
  const perSecond = median(crowd['latchkey, default'], 'perSecond') / 2
  return { connections, pauseMs: Math.round((connections / perSecond) * 1000) }
}

function cpuTable(crowd: Rounds, few: Rounds, distinctTokens: number): Table {
  const share = (rounds: Rounds, name: string): Spread =>
    ratioOf(numbers(rounds[bare], 'cpu'), numbers(rounds[name], 'cpu'))
  const names = Object.keys(crowd)
  return {
    title: 'Checking a token',
    about: `GET /protected by ${distinctTokens.toLocaleString('en')} different live ES256 tokens in rotation, as fast as one core
answers. The share is the CPU that a request takes on the bare route, of what it takes here: at 1.00 the guard would be free.
Meant to be at least 0.85 by default and 0.92 in mirror mode at 64 connections, 0.60 and 0.85 at 8.`,
    columns: [
      '',
      'share, 64 connections',
      'CPU, µs',
      'requests/s',
      'share, 8 connections',
      'CPU, µs',
      'requests/s',
    ],
    rows: names.map((name) => [
      name,
      ...[crowd, few].flatMap((rounds) => [
        showSpread(share(rounds, name)),
        median(rounds[name], 'cpu').toFixed(1),
        median(rounds[name], 'perSecond').toFixed(0),
      ]),
    ]),
    chart: {
      file: 'check',
      title: 'What a guarded route keeps of a bare one',
      groups: ['64 connections', '8 connections'],
      bars: names.map((name) => ({ name, shares: [share(crowd, name), share(few, name)] })),
    },
  }
}

function timeTable(calm: Rounds, crowd: Rounds): Table {
  return {
    title: 'How long a reply takes',
    about: `The same for everybody at half of the load that latchkey's default can take, which is nearly all that the recipes can. Its p99 is
meant to be within twice the bare route's.`,
    columns: ['', 'requests/s', 'of its most', 'p50, ms', 'p99, ms', "times the bare route's p99"],
    rows: Object.entries(calm).map(([name, rounds]) => [
      name,
      median(rounds, 'perSecond').toFixed(0),
      (median(rounds, 'perSecond') / median(crowd[name], 'perSecond')).toFixed(2),
      median(rounds, 'p50').toFixed(2),
      median(rounds, 'p99').toFixed(2),
      showSpread(ratioOf(numbers(rounds, 'p99'), numbers(calm[bare], 'p99'))),
    ]),
  }
}
