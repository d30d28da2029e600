/** How long it takes from a launch to the first answer, and what the process holds while it idles. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Contestant, startBare, startLatchkey, startThroughNpm } from './contestants.ts'
import type { Chapter, Table } from './report.ts'
import { ratioOf, showSpread, spreadOf, takeTurns } from './rounds.ts'

const bare = 'bare route'

interface Start {
  readyMs: number
  idleMiB: number
}

export const start: Chapter = async ({ quick, startStores }) => {
  const stores = await startStores()
  await (await startLatchkey(stores)).end() // makes the schema and the key
  const homes = await mkdtemp(join(tmpdir(), 'latchkey-bench-'))
  let home = homes
  const measured =
    (launch: () => Promise<Pick<Contestant, 'readyMs' | 'residentBytes' | 'end'>>) =>
    async (): Promise<Start> => {
      const { readyMs, residentBytes, end } = await launch()
      await sleep(quick ? 200 : 3_000)
      const idleMiB = residentBytes() / 2 ** 20
      await end()
      return { readyMs, idleMiB }
    }
  try {
    const starts = await takeTurns(quick ? 1 : 5, {
      [bare]: measured(startBare),
      'latchkey, on Postgres and Redis': measured(() => startLatchkey(stores)),
      'npm start, in a new folder': measured(async () => {
        home = await mkdtemp(join(homes, 'home-'))
        return await startThroughNpm(home)
      }),
      // In the last new one, which in every second round is that of the round before.
      'npm start, once more': measured(() => startThroughNpm(home)),
    })
    return [table(starts)]
  } finally {
    await rm(homes, { recursive: true })
  }
}

function table(starts: Record<string, Start[]>): Table {
  const numbers = (name: string, figure: keyof Start) => (starts[name] ?? []).map((one) => one[figure])
  return {
    title: 'Starting, and waiting',
    about: `From the launch to the first 200, and what is resident in memory after three seconds in which nothing is asked: of the bare
route in a process of its own, of the built service whose schema is there already (/health/ready), and of \`npm start\` with its
embedded store, npm included, but not the build that it begins with.`,
    columns: ['', 'ready after, ms', 'times the bare route', 'idle, MiB', 'times the bare route'],
    rows: Object.keys(starts).map((name) => [
      name,
      ...(['readyMs', 'idleMiB'] as const).flatMap((figure) => [
        showSpread(spreadOf(numbers(name, figure)), 0),
        showSpread(ratioOf(numbers(name, figure), numbers(bare, figure)), 1),
      ]),
    ]),
  }
}
