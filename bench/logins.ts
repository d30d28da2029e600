/** What a login costs beside its hash, and what a flood of them does to everybody else. */
import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { isOnPath } from '../test/fixtures/install.ts'
import { makeAccounts, password, usernameOf } from './accounts.ts'
import { type Contestant, startArgon2, startLatchkey } from './contestants.ts'
import { keycloak } from './keycloak.ts'
import { load } from './load.ts'
import type { BenchOptions, Chapter, Table } from './report.ts'
import { ratioOf, showSpread, spreadOf, takeTurns } from './rounds.ts'
import { issueTokens, writeTokens } from './tokens.ts'

const connections = 16
const floodSize = 200
/** Some 200 a second. */
const asking = { connections: 10, pauseMs: 50 }

interface Round {
  perSecond: number
  /** Milliseconds that the server had of its processor for each. */
  cpu: number
}

interface Flood {
  /** Milliseconds. */
  p50: number
  p99: number
  /** Seconds until the last login was answered. */
  lastReply: number
  /** How many logins were answered 200, and 503. */
  ok: number
  unavailable: number
}

export const logins: Chapter = async (options) => {
  const stores = await options.startStores()
  const binaries: Record<string, Record<string, string>> = {
    'the stock binary of argon2': {},
    ...(await buildForHardware(options)),
  }
  const contestants: Record<string, Contestant> = {}
  for (const [binary, env] of Object.entries(binaries)) {
    // All logins come from one address, which is allowed a thousand requests a minute: counted as ever, but not refused.
    contestants[`login, ${binary}`] = await startLatchkey(stores, { ...env, RATE_MAX: '1000000000' })
    const bare = await startArgon2(env)
    contestants[`verify, ${binary}`] = bare
    contestants[`bare login, ${binary}`] = bare
  }
  await makeAccounts(stores.databaseUrl)

  const rounds = await measure(contestants, options)
  const tokens = await writeTokens(await issueTokens(stores.databaseUrl, 1))
  const [[name, latchkey]] = Object.entries(contestants) as [[string, Contestant]]
  const perSecond = spreadOf((rounds[name] ?? []).map((round) => round.perSecond)).median
  const seconds = Math.max(1, Math.floor(floodSize / perSecond))
  const floods: Flood[] = []
  for (let round = 0; round < (options.quick ? 1 : 5); round++)
    floods.push(await flood(latchkey, tokens, seconds))
  const peak = latchkey.peakBytes()
  for (const { end } of new Set(Object.values(contestants))) await end()
  return [loginTable(Object.keys(binaries), rounds), floodTable(floods, peak)]
}

/**
 * The package comes with a binary for the oldest processor. The same source, compiled for this one, leaves less time for others.
 *
 * @returns where it is for whoever loads it; nothing without a compiler, or where there is no time for it
 */
async function buildForHardware({ quick }: BenchOptions): Promise<Record<string, Record<string, string>>> {
  if (quick || !['make', 'c++', 'npm'].every(isOnPath)) return {}
  const modules = fileURLToPath(new URL('../node_modules', import.meta.url))
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-argon2-'))
  process.once('exit', () => rmSync(folder, { recursive: true }))
  const copy = join(folder, 'argon2')
  cpSync(join(modules, 'argon2'), copy, { recursive: true })
  symlinkSync(modules, join(folder, 'node_modules'))
  const flags = '-O3 -march=native'
  await promisify(execFile)('npm', ['run', 'install'], {
    cwd: copy,
    env: { ...process.env, CFLAGS: flags, CXXFLAGS: flags, npm_config_build_from_source: 'true' },
  })
  return { 'built for the hardware': { ARGON2_PREBUILD: copy } }
}

async function measure(contestants: Record<string, Contestant>, { quick }: BenchOptions) {
  let next = 0
  const roundOf =
    (name: string, { url, cpuMicroseconds }: Contestant, seconds: number) =>
    async () => {
      const startedAt = performance.now()
      const cpuBefore = cpuMicroseconds()
      const done = name.startsWith('verify')
        ? Number(await (await fetch(`${url}/?seconds=${seconds}`)).text())
        : await logInFor(url, seconds, () => next++)
      return {
        perSecond: (done * 1000) / (performance.now() - startedAt),
        cpu: (cpuMicroseconds() - cpuBefore) / 1000 / done,
      }
    }
  const measures = (seconds: number) =>
    Object.fromEntries(Object.entries(contestants).map(([name, one]) => [name, roundOf(name, one, seconds)]))
  await takeTurns(1, measures(quick ? 0.5 : 15)) // compiles: logins come too seldom to be hot soon
  return await takeTurns(quick ? 2 : 7, measures(quick ? 0.5 : 5))
}

/** From all connections at once, and until the last one is answered. @returns how many were */
async function logInFor(url: string, seconds: number, next: () => number): Promise<number> {
  const end = performance.now() + seconds * 1000
  let done = 0
  async function logInAgain() {
    for (; performance.now() < end; done++) {
      const status = await logIn(url, next())
      if (status !== 200) throw new Error(`a login was answered ${status}`)
    }
  }
  await Promise.all(Array.from({ length: connections }, logInAgain))
  return done
}

async function logIn(url: string, account: number): Promise<number> {
  const reply = await fetch(`${url}/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ username: usernameOf(account), password }),
  })
  await reply.arrayBuffer()
  return reply.status
}

/** So many logins at once, while others ask. @param seconds for how long they do */
async function flood({ url }: Contestant, tokens: string, seconds: number): Promise<Flood> {
  const asked = load({ url: `${url}/protected`, tokens, from: 0, ...asking, seconds })
  const startedAt = performance.now()
  const replies = await Promise.all(Array.from({ length: floodSize }, (_, account) => logIn(url, account)))
  const lastReply = (performance.now() - startedAt) / 1000
  const { p50, p99, failed } = await asked
  if (failed > 0) throw new Error(`/protected failed ${failed} times`)
  const answered = (status: number) => replies.filter((reply) => reply === status).length
  return { p50, p99, lastReply, ok: answered(200), unavailable: answered(503) }
}

function loginTable(binaries: readonly string[], rounds: Record<string, Round[]>): Table {
  const numbers = (name: string, figure: keyof Round) => (rounds[name] ?? []).map((round) => round[figure])
  const median = (name: string, figure: keyof Round) => spreadOf(numbers(name, figure)).median
  const rowOf = (who: string, binary: string): string[] => {
    const [login, verify] = [`${who}, ${binary}`, `verify, ${binary}`]
    const share = ratioOf(numbers(login, 'perSecond'), numbers(verify, 'perSecond'))
    const cpuShare = ratioOf(numbers(verify, 'cpu'), numbers(login, 'cpu'))
    return [
      login,
      showSpread(share),
      showSpread(cpuShare),
      median(login, 'perSecond').toFixed(1),
      median(verify, 'perSecond').toFixed(1),
      (median(login, 'cpu') - median(verify, 'cpu')).toFixed(2),
    ]
  }
  return {
    title: 'Logging in',
    about: `POST /login from ${connections} connections, on one core, beside a process there that does nothing but
\`argon2.verify\` with the same parameters and as many at a time. All is as shipped but RATE_MAX: the load comes from one address.
Meant to be at least 0.95 of its throughput with the stock binary, and 0.85 with one that is built for the hardware (a row that is
missing where there is no compiler, and with --quick). A bare login is a Fastify route that verifies a password and does nothing
else: more than it keeps, nobody can. ${keycloak.about}`,
    columns: [
      '',
      'share of the throughput',
      'of the CPU',
      'logins/s',
      'verified/s',
      'CPU beside the hash, ms',
    ],
    rows: [
      ...binaries.flatMap((binary) => [rowOf('login', binary), rowOf('bare login', binary)]),
      [keycloak.name, '', '', `${keycloak.logins}`, '', ''],
    ],
  }
}

function floodTable(floods: readonly Flood[], peakBytes: number): Table {
  const show = (figure: keyof Flood, digits: number) =>
    showSpread(spreadOf(floods.map((flood) => flood[figure])), digits)
  return {
    title: 'A flood of logins',
    about: `${floodSize} logins at once on one core, and GET /protected asked steadily meanwhile, by ${asking.connections} connections that pause ${asking.pauseMs} ms.
Its p99 is meant to be under 100 ms, and the process under 512 MiB.`,
    columns: [
      "/protected's p50, ms",
      'p99, ms',
      'peak memory, MiB',
      'logins answered 200',
      'answered 503',
      'the last after, s',
    ],
    rows: [
      [
        show('p50', 1),
        show('p99', 1),
        (peakBytes / 2 ** 20).toFixed(0),
        show('ok', 0),
        show('unavailable', 0),
        show('lastReply', 1),
      ],
    ],
  }
}
