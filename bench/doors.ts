/** The ways in which others can validate a token: what each costs, whom, and how soon it knows of a revocation. */
import { setTimeout as delay, setImmediate as nextTick } from 'node:timers/promises'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { createVerifier, type Verifier } from '../src/sdk/verifier.ts'
import { type Contestant, createClient, issuer, startLatchkey } from './contestants.ts'
import type { Chapter, Table } from './report.ts'
import { numbers, showSpread, spreadOf, takeTurns } from './rounds.ts'

const scope = 'bench'

interface Door {
  /** Whether a token is let in. */
  isOpen(token: string): Promise<boolean>
  /** Without a word to the service: then as many are asked at once as it takes to be measured. */
  isLocal: boolean
  whenAway: string
}

interface Round {
  /** Microseconds of a processor for each token: of whoever asks, and of the service. */
  own: number
  service: number
}

export const doors: Chapter = async ({ quick, startStores }) => {
  const stores = await startStores()
  const unlimited = { RATE_MAX: '1000000000' }
  const revoking = await startLatchkey(stores, unlimited)
  const asked = await startLatchkey(stores, unlimited)
  const client = await createClient(stores, ['introspect', 'revocations:read', scope])
  const authorization = `Basic ${Buffer.from(`${client.client_id}:${client.client_secret}`).toString('base64')}`
  const post = (url: string, form: Record<string, string>) =>
    fetch(url, { method: 'POST', headers: { authorization }, body: new URLSearchParams(form) })
  const issue = async () => {
    const reply = await post(`${revoking.url}/oauth2/token`, { grant_type: 'client_credentials' })
    return ((await reply.json()) as { access_token: string }).access_token
  }

  const verifier = createVerifier({
    issuer,
    audience: issuer,
    url: asked.url,
    clientId: client.client_id,
    clientSecret: client.client_secret,
  })
  try {
    await verifier.ready
    const all = doorsOf(asked, verifier, post)
    const tokens = await Promise.all(Array.from({ length: 100 }, issue))
    const rounds = await takeTurns(
      quick ? 1 : 7,
      Object.fromEntries(Object.entries(all).map(([name, door]) => [name, () => cost(door, tokens, asked)])),
    )

    const delays: Record<string, number[]> = {}
    for (let i = 0; i < (quick ? 5 : 200); i++) {
      const token = await issue()
      const revoke = () => post(`${revoking.url}/oauth2/revoke`, { token })
      for (const [name, delay] of Object.entries(await timeRevocation(all, token, revoke)))
        delays[name] = [...(delays[name] ?? []), delay]
    }
    return [doorTable(all, rounds, delays)]
  } finally {
    verifier.close()
    for (const { end } of [revoking, asked]) await end()
  }
}

function doorsOf(
  { url }: Contestant,
  verifier: Verifier,
  post: (url: string, form: Record<string, string>) => Promise<Response>,
): Record<string, Door> {
  const keys = createRemoteJWKSet(new URL(`${url}/.well-known/jwks.json`))
  async function succeeds(work: Promise<unknown>): Promise<boolean> {
    try {
      await work
      return true
    } catch {
      return false
    }
  }
  return {
    '`latchkey/verifier`': {
      isOpen: (token) => succeeds(verifier.verify(['Authorization', `Bearer ${token}`])),
      isLocal: true,
      whenAway: 'goes on for `maxStalenessSeconds`, then 503',
    },
    introspection: {
      isOpen: async (token) =>
        ((await (await post(`${url}/oauth2/introspect`, { token })).json()) as { active: boolean }).active,
      isLocal: false,
      whenAway: 'no answer, so nobody gets in',
    },
    '`/forward-auth`': {
      isOpen: async (token) => {
        const { status } = await fetch(`${url}/forward-auth/scope/${scope}`, {
          headers: { authorization: `Bearer ${token}` },
        })
        return status === 200
      },
      isLocal: false,
      whenAway: 'the proxy answers 503',
    },
    'the keys alone (jose)': {
      isOpen: (token) => succeeds(jwtVerify(token, keys, { issuer, audience: issuer, typ: 'at+jwt' })),
      isLocal: true,
      whenAway: 'goes on',
    },
  }
}

/** One after the other, as one request of a backend would. */
async function cost(
  { isOpen, isLocal }: Door,
  tokens: readonly string[],
  service: Contestant,
): Promise<Round> {
  const times = isLocal ? 100 : 5
  // The stores have to share this processor, and may have had none of it for a while.
  await delay(500)
  for (const token of tokens) if (!(await isOpen(token))) throw new Error('a good token was refused')
  const [ownBefore, serviceBefore] = [process.cpuUsage(), service.cpuMicroseconds()]
  for (let i = 0; i < times; i++) for (const token of tokens) await isOpen(token)
  const { user, system } = process.cpuUsage(ownBefore)
  const checks = times * tokens.length
  return { own: (user + system) / checks, service: (service.cpuMicroseconds() - serviceBefore) / checks }
}

/** @returns milliseconds from the request that revokes to the first refusal at each door, if that comes before the token's end */
async function timeRevocation(all: Record<string, Door>, token: string, revoke: () => Promise<Response>) {
  const learning = Object.entries(all).filter(([name]) => !name.startsWith('the keys'))
  for (const [name, { isOpen }] of learning)
    if (!(await isOpen(token))) throw new Error(`${name} refuses a good token`)
  const from = performance.now()
  const acknowledged = revoke()
  const delays = await Promise.all(
    learning.map(async ([name, { isOpen }]) => {
      while (await isOpen(token)) await nextTick()
      return [name, performance.now() - from] as const
    }),
  )
  await acknowledged
  return Object.fromEntries(delays)
}

function doorTable(
  all: Record<string, Door>,
  rounds: Record<string, Round[]>,
  delays: Record<string, number[]>,
): Table {
  const at = (values: readonly number[], part: number) => {
    const ascending = values.toSorted((a, b) => a - b)
    return (ascending[Math.ceil(part * ascending.length) - 1] as number).toFixed(0)
  }
  return {
    title: 'Which door for whom',
    about: `What a token costs that comes again, asked about one after the other, and how long after the request that takes a token back each
door refuses it, on another instance than the one that was asked to. The acknowledgement of that request leaves after 260 ms.`,
    columns: [
      '',
      'asker’s CPU, µs',
      'service’s CPU, µs',
      'revoked after p50, ms',
      'p99, ms',
      'while latchkey is away',
    ],
    rows: Object.entries(all).map(([name, { whenAway }]) => {
      const learnt = delays[name]
      return [
        name,
        showSpread(spreadOf(numbers(rounds[name], 'own')), 1),
        spreadOf(numbers(rounds[name], 'service')).median.toFixed(0),
        ...(learnt ? [at(learnt, 0.5), at(learnt, 0.99)] : ['when it expires', 'when it expires']),
        whenAway,
      ]
    }),
  }
}
