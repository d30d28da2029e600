/** What tokens cost that nobody has seen before, good and forged ones, in signature checks: that much has to be paid. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Contestant, startLatchkey } from './contestants.ts'
import { load } from './load.ts'
import { serverCore } from './machine.ts'
import type { Chapter } from './report.ts'
import { ratioOf, showSpread, spreadOf, takeTurns } from './rounds.ts'
import { issueTokens, writeTokens } from './tokens.ts'

/** More than an instance remembers, so that each is forgotten before it comes again. */
const distinctTokens = 60_000
const connections = 64

export const strangers: Chapter = async ({ quick, startStores }) => {
  const stores = await startStores()
  const seconds = quick ? 1 : 3
  const unlimited = await startLatchkey(stores, { FORGERY_RATE_MAX: '0' })
  const limited = await startLatchkey(stores)
  const good = await issueTokens(stores.databaseUrl, distinctTokens)
  const [known, unknown, forged] = await Promise.all(
    [good.slice(0, 10_000), good, good.slice(0, 10_000).map(forge)].map(writeTokens),
  )

  let from = 0
  const cpuOf =
    (contestant: Contestant, tokens = '') =>
    async () => {
      const before = contestant.cpuMicroseconds()
      const { requests } = await load({
        url: `${contestant.url}/protected`,
        tokens,
        from,
        connections,
        seconds,
        pauseMs: 0,
      })
      from += requests
      return (contestant.cpuMicroseconds() - before) / requests
    }
  const measures = {
    'one signature check': () => signatureCheck(seconds),
    'a known token': cpuOf(limited, known),
    'a token seen for the first time': cpuOf(unlimited, unknown),
    'a forged token': cpuOf(unlimited, forged),
    'a forged token beyond the budget': cpuOf(limited, forged),
  }
  await takeTurns(1, measures)
  const figures = await takeTurns(quick ? 1 : 7, measures)
  for (const { end } of [unlimited, limited]) await end()

  const check = figures['one signature check']
  return [
    {
      title: 'Tokens that nobody has seen before',
      about: `GET /protected at ${connections} connections, whole requests, in signature checks (ES256, \`crypto.verify\` on the same core).
A token that is seen for the first time and a forged one are meant to cost at most two. An address has a budget of forged ones;
beyond it no signature is checked for it.`,
      columns: ['', 'signature checks', 'CPU, µs'],
      rows: Object.entries(figures).map(([name, cpu]) => [
        name,
        showSpread(ratioOf(cpu, check)),
        spreadOf(cpu).median.toFixed(1),
      ]),
    },
  ]
}

/** A signature of the right length, of nobody. */
const forge = (token: string) => token.replace(/.{20}$/, (end) => [...end].toReversed().join(''))

/** @returns microseconds of CPU */
async function signatureCheck(seconds: number): Promise<number> {
  const script = fileURLToPath(new URL('signature-check.ts', import.meta.url))
  const { stdout } = await promisify(execFile)('taskset', [
    '-c',
    serverCore,
    process.execPath,
    '--import=tsx',
    script,
    `${seconds}`,
  ])
  return Number(stdout)
}
