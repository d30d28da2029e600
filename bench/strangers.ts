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
  const shipped = await startLatchkey(stores)
  const spent = await startLatchkey(stores)
  const unlimited = await startLatchkey(stores, { FORGERY_RATE_MAX: '0' })
  const good = await issueTokens(stores.databaseUrl, distinctTokens)
  const unknown = await writeTokens(good)
  const forged = await writeTokens(good.map(forge))

  let from = 0
  /** @param refused whether none of the tokens is let through; else all of them are */
  const cpuOf =
    ({ url, cpuMicroseconds }: Contestant, tokens: string, { refused = false } = {}) =>
    async () => {
      const before = cpuMicroseconds()
      const how = { tokens, from, connections, seconds }
      const { requests, failed } = await load({ url: `${url}/protected`, ...how })
      const wrong = refused ? requests - failed : failed
      if (wrong > requests / 1000)
        throw new Error(`${wrong} of ${requests} replies are not what they should be`)
      from += requests
      return (cpuMicroseconds() - before) / requests
    }
  const measures = {
    'one signature check': () => signatureCheck(seconds),
    'a token seen for the first time': cpuOf(shipped, unknown),
    'a forged token': cpuOf(unlimited, forged, { refused: true }),
    'a forged token beyond the budget': cpuOf(spent, forged, { refused: true }),
  }
  await takeTurns(1, measures)
  const figures = await takeTurns(quick ? 1 : 7, measures)
  for (const { end } of [shipped, spent, unlimited]) await end()

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
