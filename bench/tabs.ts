/** What people with three tabs feel of refreshes: whether it ever logs them out, and how often their browser asks. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { SessionError } from '../src/sdk/browser.ts'
import type { Session } from '../src/sdk/browser-session.ts'
import { countBranches, makeAccounts, makeSessions, refreshTokenOf } from './accounts.ts'
import { type Browser, openBrowser, type Sharing } from './browser.ts'
import { issuer, startLatchkey } from './contestants.ts'
import type { Chapter, Table } from './report.ts'

const tabsEach = 3
const ttlSeconds = 30
/** How long a tab waits between a reply and its next request, on average. */
const pauseMs = 3_000
const lostPart = 0.01

interface Client extends Browser {
  /** How often a tab took the session for ended, which nobody ended. */
  logouts: number
  /** How often the service could not answer. */
  unavailable: number
}

export const tabs: Chapter = async ({ quick, startStores }) => {
  const minutes = quick ? 1 : 10
  const share = quick ? 0.1 : 1
  const stores = await startStores()
  // All browsers have one address here: counted as ever, but not refused.
  const settings = { ACCESS_TOKEN_TTL_SECONDS: `${ttlSeconds}`, RATE_MAX: '1000000000' }
  const instances = [await startLatchkey(stores, settings), await startLatchkey(stores, settings)]
  await makeAccounts(stores.databaseUrl)
  await makeSessions(stores.databaseUrl, 0, 1100 * share)

  let n = 0
  const open = (count: number, sharing: Sharing): Client[] =>
    Array.from({ length: count * share }, () => ({
      ...openBrowser({
        origin: issuer,
        instanceUrls: instances.map(({ url }) => url),
        refreshToken: refreshTokenOf(n++),
        sharing,
        lostPart,
      }),
      logouts: 0,
      unavailable: 0,
    }))
  const groups = {
    'with Web Locks': open(500, 'locks'),
    'without Web Locks': open(500, 'storage'),
    'each tab for itself': open(100, 'nothing'),
  }
  const end = performance.now() + minutes * 60_000
  await Promise.all(
    Object.values(groups)
      .flat()
      .map((client) => browse(client, end)),
  )
  const branches = await countBranches(stores.databaseUrl)
  await Promise.all(instances.map((instance) => instance.end()))
  return [table(groups, branches, minutes)]
}

/** Opens the tabs at some time in the first lifetime. */
async function browse(client: Client, end: number): Promise<void> {
  await sleep(Math.random() * ttlSeconds * 1000)
  await Promise.all(Array.from({ length: tabsEach }, () => work(client, client.openTab(), end)))
}

async function work(client: Client, session: Session, end: number): Promise<void> {
  session.onChange(({ user }) => {
    if (!user) client.logouts++
  })
  while (performance.now() < end) {
    try {
      const { status } = await session.fetch(`${issuer}/protected`)
      if (status === 401) client.logouts++
      else if (status !== 200) client.unavailable++
    } catch (error) {
      const { code, status = 503 } = error as SessionError
      if (code === 'logged_out' || status === 401) client.logouts++
      // A page is told of a lost reply, and asks again.
      else if (code !== 'offline') client.unavailable++
    }
    await sleep(-Math.log(1 - Math.random()) * pauseMs)
  }
  session.close()
}

function table(
  groups: Readonly<Record<string, readonly Client[]>>,
  branches: number,
  minutes: number,
): Table {
  const rowOf = (name: string, group: readonly Client[]): string[] => {
    const sum = (figure: (client: Client) => number) =>
      group.reduce((total, client) => total + figure(client), 0)
    return [
      name,
      `${group.length}`,
      `${sum(({ seen }) => seen.requests)}`,
      `${sum(({ seen }) => seen.lost)}`,
      `${sum(({ unavailable }) => unavailable)}`,
      `${sum(({ seen }) => seen.refreshes)}`,
      refreshesPerLife(group).toFixed(3),
      `${Math.max(...group.map(({ seen }) => seen.refreshesAtOnce))}`,
      `${sum(({ logouts }) => logouts)}`,
    ]
  }
  return {
    title: 'Staying logged in',
    about: `Browsers with ${tabsEach} tabs each, for ${minutes} min, on two instances that answer at random. A browser's tabs share a session in a
cookie. Each tab loads \`latchkey/browser\` for itself, asks for /protected, waits for ${pauseMs / 1000} s on average, and asks again. Access
tokens live for ${ttlSeconds} s, or up to a twentieth less. Of all replies, those to refreshes too, ${lostPart * 100} % are lost on their way. Without Web Locks,
tabs agree by localStorage; the last browsers let them agree by nothing, to compare.

Refreshes are counted as they are sent, repeated ones too, and a token's life is what its reply says (\`expires_in\`). Meant to be no
false logout, at most 1.05 refreshes in a life, and never a second branch of a session's refresh tokens: there were ${branches}.`,
    columns: [
      '',
      'browsers',
      'requests',
      'replies lost',
      '503',
      'refreshes',
      'in a token’s life',
      'at a time, at most',
      'false logouts',
    ],
    rows: Object.entries(groups).map(([name, group]) => rowOf(name, group)),
  }
}

/** All refreshes but the first of each browser, by the lives that its tokens would fill between the first and the last. */
function refreshesPerLife(clients: readonly Client[]): number {
  let refreshes = 0
  let lives = 0
  for (const { seen } of clients) {
    refreshes += seen.refreshes - 1
    lives += ((seen.lastAt - seen.firstAt) / 1000) * (seen.tokens / seen.lifetimeSeconds)
  }
  return refreshes / lives
}
