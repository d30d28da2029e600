/** latchkey/browser in a real browser: whoever is logged in stays so in every tab, and whoever is not is in none. */

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { type BrowserContext, chromium, type Page, type Request } from 'playwright-core'
import t, { type Test } from 'tap'
import type { Change, createSession, Session, SessionOptions } from '../../src/sdk/browser.ts'
import type { Environment } from '../../src/settings.ts'
import { postgresAndRedis, randomUser, startInstance, type User, withClient } from '../fixtures/app.ts'
import { bearer, call, logIn, post } from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { findChromium } from '../fixtures/install.ts'
import { startServer } from '../fixtures/process.ts'
import { type Relay, startRelay } from '../fixtures/relay.ts'
import { freePort } from '../fixtures/servers.ts'

// Most of them wait for tokens to expire.
t.jobs = 4

/** What the page below has in its window. */
declare const window: {
  createSession: typeof createSession
  session: Session
  changes: Change[]
  localStorage: { getItem(key: string): string | null; setItem(key: string, value: string): void }
  failure(error: unknown): { name: string; code: string; status?: number; retryAfterSeconds?: number }
}

const script = readFileSync(join(process.env.TEST_PREPARED as string, 'dist/sdk/browser.js'), 'utf8')
const html = `<!doctype html><title>a page</title><script type="module">
  import { createSession } from '/browser.js'
  window.createSession = createSession
  window.failure = ({ name, code, status, retryAfterSeconds }) => ({ name, code, status, retryAfterSeconds })
</script>`

const browser = await chromium.launch({
  executablePath: process.env.TEST_CHROMIUM || (findChromium() as string),
  // Root has no sandbox; and no name leads anywhere, as on a machine that is offline.
  args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost'],
})
t.teardown(() => browser.close())

/** @returns the port of a page that loads the module as it is shipped */
async function servePage(t: Test): Promise<number> {
  const server = createServer(({ url }, response) => {
    const isScript = url === '/browser.js'
    response
      .setHeader('content-type', isScript ? 'text/javascript' : 'text/html')
      .end(isScript ? script : html)
  }).listen(0)
  t.teardown(() => server.close())
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

const atHome = (url: string) => `http://localhost:${new URL(url).port}`

interface World {
  context: BrowserContext
  /** Where the service is, for pages. */
  baseUrl: string
  pageUrl: string
  user: User
  relay: Relay
  /** What refreshes are going on, and how many have begun. */
  refreshes: { open: Set<Request>; count: number; atOnce: number }
  /** How many answers were 401. */
  refused: { count: number }
  openTab(options?: Partial<SessionOptions> & { prepare?: string }): Promise<Page>
}

/** A browser of its own, a page on one origin and the service on another, of the same site. */
async function world(
  t: Test,
  { env, serve }: { env?: Environment; serve?: (cors: Environment) => Promise<string> } = {},
): Promise<World> {
  const pageUrl = `http://localhost:${await servePage(t)}`
  const cors = { CORS_ORIGINS: pageUrl, ISSUER: 'http://localhost', CLOCK_TOLERANCE_SECONDS: '0', ...env }
  const start = async () => (await startInstance(t, { stores: await postgresAndRedis(t), env: cors })).url
  const url = await (serve ? serve(cors) : start())
  const relay = await startRelay(t, url)
  const baseUrl = atHome(relay.url)
  const user = randomUser()
  await post(url, '/register', user)

  const context = await browser.newContext()
  t.teardown(() => context.close())
  const refreshes = { open: new Set<Request>(), count: 0, atOnce: 0 }
  context.on('request', (request) => {
    if (!request.url().endsWith('/refresh') || request.method() !== 'POST') return
    refreshes.open.add(request)
    refreshes.count++
    refreshes.atOnce = Math.max(refreshes.atOnce, refreshes.open.size)
  })
  const refused = { count: 0 }
  context.on('response', (response) => {
    if (response.status() === 401) refused.count++
  })
  for (const event of ['requestfinished', 'requestfailed'] as const)
    context.on(event as 'requestfinished', (request) => void refreshes.open.delete(request))

  async function openTab({ prepare, ...options }: Partial<SessionOptions> & { prepare?: string } = {}) {
    const page = await context.newPage()
    if (prepare) await page.addInitScript(prepare)
    await page.goto(pageUrl)
    await page.waitForFunction(() => window.createSession)
    await page.evaluate(
      (options) => {
        window.session = window.createSession(options)
        window.changes = []
        window.session.onChange((change) => window.changes.push(change))
      },
      { baseUrl, ...options },
    )
    return page
  }
  return { context, baseUrl, pageUrl, user, relay, refreshes, refused, openTab }
}

const enter = (page: Page, credentials: User & { remember?: boolean }) =>
  page.evaluate((credentials) => window.session.login(credentials), credentials)

/** @returns the status, or what was thrown */
const ask = (page: Page, url: string) =>
  page.evaluate(async (url) => {
    try {
      return (await window.session.fetch(url)).status
    } catch (error) {
      return window.failure(error)
    }
  }, url)

const userOf = (page: Page) => page.evaluate(() => window.session.user)
const restored = (page: Page) => page.evaluate(() => window.session.ready)
const reasonsOf = (page: Page) => page.evaluate(() => window.changes.map(({ reason }) => reason))
const leave = (page: Page, scope?: 'session' | 'others' | 'all') =>
  page.evaluate((scope) => window.session.logout(scope && { scope }).catch(window.failure), scope)
const expire = (page: Page) => page.waitForFunction(() => Date.now() > (window.session.expiresAt as number))

t.test('it is small, and needs nothing', async (t) => {
  t.ok(gzipSync(script).length <= 4_096, `${gzipSync(script).length} bytes as it is loaded`)
  t.notMatch(script, /^import|\brequire\(/m)
})

t.test('from log in to log out, and no token where others could find it', async (t) => {
  const { openTab, baseUrl, user, context, refreshes } = await world(t, {
    env: { ACCESS_TOKEN_TTL_SECONDS: '2' },
  })
  const page = await openTab()
  const said: string[] = []
  page.on('console', (message) => said.push(message.text()))
  t.equal(await restored(page), undefined)
  t.match(await ask(page, `${baseUrl}/protected`), { name: 'SessionError', code: 'logged_out' })
  const wrong = { ...user, password: 'wrong' }
  t.match(await page.evaluate((wrong) => window.session.login(wrong).catch(window.failure), wrong), {
    name: 'SessionError',
    code: 'invalid_credentials',
    status: 401,
  })

  const { id, sessionId } = await enter(page, user)
  t.strictSame(await userOf(page), { id, roles: [], sessionId })
  t.equal(await ask(page, `${baseUrl}/protected`), 200)
  await expire(page)
  const before = refreshes.count
  t.strictSame(
    await Promise.all(Array.from({ length: 5 }, () => ask(page, `${baseUrl}/protected`))),
    Array(5).fill(200),
  )
  t.equal(refreshes.count - before, 1, 'one refresh for all')

  const [cookie] = await context.cookies(baseUrl)
  t.match(cookie, { name: 'latchkey', httpOnly: true, sameSite: 'Strict', path: '/', expires: -1 })
  const visible = await page.evaluate<string>(
    'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML, location.href])',
  )
  for (const [where, text] of Object.entries({ visible, said: said.join(), urls: page.url() })) {
    t.notMatch(text, /eyJ/, `no access token in ${where}`)
    t.notOk(text.includes(cookie?.value as string), `no refresh token in ${where}`)
  }

  t.equal(await leave(page), undefined)
  t.equal(await userOf(page), undefined)
  t.strictSame(await context.cookies(baseUrl), [])
  t.match(await ask(page, `${baseUrl}/protected`), { code: 'logged_out' })
  t.strictSame(await reasonsOf(page), ['logged_in', 'logged_out'])

  await page.evaluate(`Storage.prototype.setItem = () => { throw new Error('full') }`)
  await page.evaluate(() => {
    window.session.onChange(() => {
      throw new Error('whoever is told')
    })
  })
  t.ok((await enter(page, user)).id, 'whatever goes wrong with who is told')
  t.equal(await leave(page), undefined, 'and where nothing can be kept')
  t.strictSame(await context.cookies(baseUrl), [])
  t.strictSame((await reasonsOf(page)).slice(2), ['logged_in', 'logged_out'])
  await page.reload()
  t.equal(await restored(await openTab()), undefined)
})

t.test(
  'the access token goes to latchkey, to the page’s own origin and to what is listed, and nowhere else',
  async (t) => {
    const { openTab, baseUrl, user, pageUrl } = await world(t)
    const page = await openTab({ apis: ['http://127.0.0.1:1'] })
    await enter(page, user)
    t.equal(await ask(page, `${baseUrl}/protected`), 200)
    t.equal(await ask(page, '/here'), 200)
    t.equal(await ask(page, `${pageUrl}/there`), 200)
    t.match(await ask(page, 'http://127.0.0.1:1/'), { name: 'SessionError', code: 'offline' })
    for (const url of [
      'http://127.0.0.1:2/',
      `${baseUrl.replace('localhost', 'localhost.evil.test')}/protected`,
    ])
      t.match(await ask(page, url), { name: 'SessionError', code: 'foreign_origin' }, url)
    t.match(await ask(page, 'http://'), { name: 'SessionError', code: 'invalid_request' })
  },
)

t.test('what one tab does, all do: log in, refresh, log out', async (t) => {
  const { openTab, baseUrl, user, context, refreshes } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await Promise.all([restored(one), restored(two)])
  const { id } = await enter(one, user)
  await eventually(t, async () => (await userOf(two))?.id === id)
  refreshes.count = 0
  const three = await openTab()
  t.equal((await restored(three))?.id, id, 'a new one is told by the others')
  t.equal(refreshes.count, 0)
  await one.close()
  await two.close()
  await three.close()
  const four = await openTab()
  t.equal((await restored(four))?.id, id, 'and by the cookie, where there are none')
  t.equal(refreshes.count, 1)

  const five = await openTab()
  await restored(five)
  await leave(four)
  for (const page of [four, five]) {
    await eventually(t, async () => (await userOf(page)) === undefined)
    t.match(await ask(page, `${baseUrl}/protected`), { code: 'logged_out' })
  }
  t.strictSame(await context.cookies(baseUrl), [])
})

/** Tabs that ask all the time, for so many tokens of five seconds. */
async function staysIn(t: Test, lifetimes: number, prepare?: string): Promise<void> {
  const { openTab, baseUrl, user, refreshes, refused, context } = await world(t, {
    env: { ACCESS_TOKEN_TTL_SECONDS: '5' },
  })
  const tabs = [
    await openTab(prepare ? { prepare } : {}),
    await openTab(prepare ? { prepare } : {}),
    await openTab(prepare ? { prepare } : {}),
  ]
  const first = tabs[0] as Page
  for (const page of tabs) await restored(page)
  await enter(first, user)
  for (const page of tabs) await eventually(t, async () => (await userOf(page)) !== undefined)
  refreshes.count = 0
  refreshes.atOnce = 0
  refused.count = 0
  const asked = await Promise.all(
    tabs.map((page) =>
      page.evaluate(
        async ({ url, ms }) => {
          const seen: Record<string, number> = {}
          for (const end = Date.now() + ms; Date.now() < end; ) {
            const { status } = await window.session.fetch(url)
            seen[status] = (seen[status] ?? 0) + 1
            await new Promise((resolve) => setTimeout(resolve, 40))
          }
          return seen
        },
        { url: `${baseUrl}/protected`, ms: lifetimes * 5_000 },
      ),
    ),
  )
  for (const seen of asked) t.strictSame(Object.keys(seen), ['200'], JSON.stringify(seen))
  for (const page of tabs) t.notMatch((await reasonsOf(page)).join(), /ended|logged_out/)
  t.equal(refreshes.atOnce, 1, 'one at a time')
  // Few are sent so late that they arrive too late.
  t.ok(refused.count <= refreshes.count * 1.5, `before a token expires, not after: ${refused.count}`)
  // Each is renewed when four seconds are over, and hardly earlier.
  t.ok(refreshes.count <= (lifetimes * 5) / 3.9 + 1, `${refreshes.count} refreshes`)
  t.equal((await context.cookies(baseUrl)).length, 1)
}

const minutes = Number(process.env.BROWSER_MINUTES ?? 0.5)

t.test('three tabs with tokens of five seconds stay in, by one refresh at a time', async (t) => {
  await staysIn(t, minutes * 12)
})

t.test('and so without Web Locks', async (t) => {
  await staysIn(t, 3, "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
})

t.test('a reply that is lost amid a refresh is repaired, by the same tab or by another', async (t) => {
  const { openTab, baseUrl, user, relay, refreshes } = await world(t, {
    env: { ACCESS_TOKEN_TTL_SECONDS: '2' },
  })
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)

  for (const next of [one, two]) {
    await Promise.all([one, two].map(expire))
    const before = refreshes.count
    relay.mute()
    const asking = ask(one, `${baseUrl}/protected`)
    await eventually(t, async () => refreshes.count > before)
    await new Promise((resolve) => setTimeout(resolve, 200))
    relay.cut()
    t.match(await asking, { name: 'SessionError', code: 'offline' })
    t.ok(await userOf(one), 'nobody is logged out')
    await relay.mend()
    await eventually(t, async () => (await ask(next, `${baseUrl}/protected`)) === 200)
  }
  t.strictSame([...(await reasonsOf(one)), ...(await reasonsOf(two))], ['logged_in', 'logged_in'])
})

t.test('offline, and after a sleep that was longer than the token, the session goes on', async (t) => {
  const { openTab, baseUrl, user, context } = await world(t, { env: { ACCESS_TOKEN_TTL_SECONDS: '2' } })
  const page = await openTab()
  await enter(page, user)
  await context.setOffline(true)
  t.match(await ask(page, `${baseUrl}/protected`), { name: 'SessionError', code: 'offline' })
  await expire(page)
  t.match(await ask(page, `${baseUrl}/protected`), { name: 'SessionError', code: 'offline' })
  const unknown = await openTabOffline(page)
  t.match(unknown, { code: 'offline' }, 'who begins offline does not know')
  await context.setOffline(false)
  await eventually(t, async () => (await ask(page, `${baseUrl}/protected`)) === 200)
  t.strictSame(await reasonsOf(page), ['logged_in'])
})

/** The page was loaded before; what it asks first has no answer. */
const openTabOffline = (page: Page) =>
  page.evaluate(async () => {
    // Another service, so that no other tab can tell.
    const session = window.createSession({ baseUrl: 'http://localhost:1' })
    return { ...(await session.ready.catch(window.failure)), user: session.user }
  })

t.test('while the service is started anew, and while it says 503, the session goes on', async (t) => {
  const { env: stores } = await postgresAndRedis(t)
  const port = await freePort()
  let start = async () => {}
  let server: Awaited<ReturnType<typeof startServer>> | undefined
  const { openTab, baseUrl, user, relay, refreshes } = await world(t, {
    env: { ACCESS_TOKEN_TTL_SECONDS: '2' },
    serve: async (cors) => {
      const env = { ...stores, ...cors, PORT: `${port}` }
      start = async () => {
        server = await startServer(t, { env })
      }
      await start()
      return server?.url as string
    },
  })
  const page = await openTab()
  await enter(page, user)
  server?.signal('SIGKILL')
  await server?.end
  await expire(page)
  t.match(await ask(page, `${baseUrl}/protected`), { code: 'offline' })
  await start()
  await relay.mend()
  await eventually(t, async () => (await ask(page, `${baseUrl}/protected`)) === 200, 10_000)

  await withClient(stores.DATABASE_URL as string, async (db) => {
    await db.query('begin')
    await db.query('lock table refresh_tokens in access exclusive mode')
    await expire(page)
    t.match(await ask(page, `${baseUrl}/protected`), { code: 'unavailable', status: 503 })
    const before = refreshes.count
    t.match(await ask(page, `${baseUrl}/protected`), { code: 'unavailable', status: 503 }, 'at once')
    t.equal(refreshes.count, before, 'and asks no more often than Retry-After says')
    await db.query('rollback')
  })
  await eventually(t, async () => (await ask(page, `${baseUrl}/protected`)) === 200, 10_000)
  t.strictSame(await reasonsOf(page), ['logged_in'])
})

t.test('a token that cannot be renewed yet is used for as long as it is good', async (t) => {
  const stores = await postgresAndRedis(t)
  const serve = async (env: Environment) => (await startInstance(t, { stores, env })).url
  const { openTab, baseUrl, user, refreshes } = await world(t, { serve })
  const page = await openTab()
  await enter(page, user)
  const { count } = refreshes
  await withClient(stores.env.DATABASE_URL as string, async (db) => {
    await db.query('begin')
    await db.query('lock table refresh_tokens in access exclusive mode')
    await page.evaluate(() => {
      const { expiresAt } = window.session
      Date.now = () => (expiresAt as number) - 1
    })
    t.equal(await ask(page, `${baseUrl}/protected`), 200)
    t.equal(refreshes.count, count + 1, 'after it was tried')
    await db.query('rollback')
  })
})

t.test(
  'a refresh token that was stolen ends the session in every tab, once its successor was used',
  async (t) => {
    const { openTab, baseUrl, user, context } = await world(t, {
      env: { ACCESS_TOKEN_TTL_SECONDS: '2', REFRESH_GRACE_SECONDS: '0' },
    })
    const [one, two] = [await openTab(), await openTab()]
    await enter(one, user)
    await eventually(t, async () => (await userOf(two)) !== undefined)
    const [stolen] = await context.cookies(baseUrl)
    for (let renewed = 0; renewed < 2; renewed++) {
      await expire(one)
      t.equal(await ask(one, `${baseUrl}/protected`), 200)
    }
    const replayed = await post(baseUrl, '/refresh', { refresh_token: stolen?.value })
    t.equal(replayed.body.code, 'refresh_token_reused')
    t.equal(await ask(one, `${baseUrl}/protected`), 401)
    for (const page of [one, two]) {
      await eventually(t, async () => (await userOf(page)) === undefined)
      t.strictSame(await reasonsOf(page), ['logged_in', 'ended'])
    }
  },
)

t.test('what ends elsewhere ends here, and new roles do not', async (t) => {
  const root = randomUser()
  const { openTab, baseUrl, user } = await world(t, {
    env: { BOOTSTRAP_ADMIN_USERNAME: root.username, BOOTSTRAP_ADMIN_PASSWORD: root.password },
  })
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)
  const elsewhere = await logIn(baseUrl, user)
  t.equal((await post(baseUrl, '/logout?scope=others', undefined, bearer(elsewhere.token))).status, 204)
  t.equal(await ask(two, `${baseUrl}/protected`), 401)
  for (const page of [one, two]) {
    await eventually(t, async () => (await userOf(page)) === undefined)
    t.strictSame(await reasonsOf(page), ['logged_in', 'ended'])
  }

  await enter(two, user)
  await leave(two, 'others')
  t.ok(await userOf(two), 'this one stays')
  t.equal(
    (await call(baseUrl, '/protected', { headers: bearer(elsewhere.token) })).body.code,
    'token_revoked',
  )
  const { id } = (await userOf(two)) as { id: string }
  const asRoot = { 'content-type': 'application/json', ...bearer((await logIn(baseUrl, root)).token) }
  const body = JSON.stringify({ roles: ['editor'] })
  const { status } = await call(baseUrl, `/admin/users/${id}/roles`, { method: 'PUT', headers: asRoot, body })
  t.equal(status, 200)
  t.equal(await ask(two, `${baseUrl}/protected`), 200, 'by another token, with the new ones')
  for (const page of [one, two]) await eventually(t, async () => (await userOf(page))?.roles[0] === 'editor')
  t.strictSame((await reasonsOf(two)).slice(2), ['logged_in', 'changed'])

  await leave(two, 'all')
  t.equal(await userOf(two), undefined)
})

/** Asks as if the token had expired, and does not wait. */
const renewSoon = (page: Page, url: string) =>
  page.evaluate((url) => {
    const { now } = Date
    Date.now = () => now() + 900_000
    window.session.fetch(url).catch(() => {})
  }, url)

/** @param ms how long ago the token has expired */
const setClock = (page: Page, ms: number) =>
  page.evaluate((ms) => {
    const now = (window.session.expiresAt as number) + ms
    Date.now = () => now
  }, ms)

t.test('whoever leaves is out in every tab, whatever the service says or does not', async (t) => {
  const { openTab, baseUrl, user, relay, context, refreshes } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  const { id } = await enter(one, user)
  await eventually(t, async () => (await userOf(two))?.id === id)
  relay.cut()
  t.match(await leave(one), { name: 'SessionError', code: 'offline' }, 'it says so')
  for (const page of [one, two]) await eventually(t, async () => (await userOf(page)) === undefined)
  t.equal((await context.cookies(baseUrl)).length, 1, 'which only an answer can clear')
  await relay.mend()
  const three = await openTab()
  t.equal(await restored(three), undefined, 'so whoever comes next leaves once more')
  t.strictSame(await context.cookies(baseUrl), [])

  await enter(three, user)
  relay.cut()
  await leave(three)
  await relay.mend()
  await enter(three, user)
  for (const page of [one, two, three]) await page.close()
  const four = await openTab()
  t.equal((await restored(four))?.id, id, 'unless somebody has logged in since then')

  const five = await openTab()
  await restored(five)
  relay.stall()
  await renewSoon(five, `${baseUrl}/protected`)
  await eventually(t, async () => refreshes.open.size > 0)
  await four.evaluate(() => void window.session.logout().catch(() => {}))
  for (const page of [four, five]) await eventually(t, async () => (await userOf(page)) === undefined, 2_000)
  await relay.mend()

  const six = await openTab()
  await enter(six, user)
  const seven = await openTab()
  await restored(seven)
  relay.delay(300)
  await renewSoon(seven, `${baseUrl}/protected`)
  await eventually(t, async () => refreshes.open.size > 0)
  t.equal(await leave(six), undefined, 'while another tab is getting a token')
  for (const page of [six, seven]) t.equal(await userOf(page), undefined)
  relay.delay(0)

  const reasons = await reasonsOf(six)
  await seven.evaluate((name) => {
    const held = { token: 'x', lifetime: 1, expiresAt: 1, user: { id: 'x', roles: [], sessionId: 'x' } }
    new BroadcastChannel(name).postMessage({ held, at: 1, reason: 'logged_in' })
  }, `latchkey ${baseUrl}`)
  t.equal(
    await ask(six, `${baseUrl}/protected`).then((thrown) => (thrown as { code: string }).code),
    'logged_out',
  )
  t.equal(await userOf(six), undefined)
  t.strictSame(await reasonsOf(six), reasons, 'and old news is none')
})

/** What the pages ask of the network waits for who is told here. */
async function hold(page: Page, url: string): Promise<{ goOn(): void; count(): number }> {
  let goOn = () => {}
  let count = 0
  const gone = new Promise<void>((resolve) => {
    goOn = resolve
  })
  await page.route(url, async (route) => {
    count++
    await gone
    await route.continue().catch(() => {})
  })
  return { goOn, count: () => count }
}

t.test('what is asked for one account is never asked again for another', async (t) => {
  const { openTab, baseUrl, user } = await world(t)
  const other = randomUser()
  await post(baseUrl, '/register', other)
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)
  const held = await hold(one, `${baseUrl}/protected`)
  const asked = ask(one, `${baseUrl}/protected`)
  await eventually(t, async () => held.count() > 0)
  await leave(two)
  const { id } = await enter(two, other)
  await eventually(t, async () => (await userOf(one))?.id === id)
  held.goOn()
  t.equal(await asked, 401)
  t.equal(held.count(), 1)
  t.equal(await ask(one, `${baseUrl}/protected`), 200, 'and what is asked from then on is theirs')

  const entering = await hold(two, `${baseUrl}/login`)
  const entered = enter(two, user)
  await eventually(t, async () => entering.count() > 0)
  const waiting = one.evaluate(async (url) => {
    const now = window.session.expiresAt as number
    Date.now = () => now
    return await window.session.fetch(url).catch(window.failure)
  }, `${baseUrl}/protected`)
  entering.goOn()
  await entered
  t.match(await waiting, { name: 'SessionError', code: 'logged_out' }, 'nor for the first time')
  t.equal((await userOf(one))?.id, (await userOf(two))?.id)
})

t.test('who logs in while another tab logs out stays in, and the session before has ended', async (t) => {
  const { openTab, baseUrl, user, context } = await world(t)
  const other = randomUser()
  await post(baseUrl, '/register', other)
  const [one, two] = [await openTab(), await openTab()]
  for (const scope of ['session', 'all'] as const) {
    await enter(one, user)
    await eventually(t, async () => (await userOf(two)) !== undefined)
    const loggingIn = await hold(two, `${baseUrl}/login`)
    const entered = enter(two, other)
    await eventually(t, async () => loggingIn.count() > 0)
    const left = leave(one, scope)
    await eventually(t, async () => (await userOf(one)) === undefined)
    loggingIn.goOn()
    const { id } = await entered
    t.equal(await left, undefined)
    for (const page of [one, two]) t.equal((await userOf(page))?.id, id)
    t.equal((await context.cookies(baseUrl)).length, 1)
    await two.unroute(`${baseUrl}/login`)
    t.equal(await countSessions(baseUrl, user), 1)
  }
  await enter(two, other)
  t.equal(await countSessions(baseUrl, other), 2, 'a login over a login ends the one before')
})

/** With the one that asks. */
async function countSessions(url: string, user: User): Promise<number> {
  const { token } = await logIn(url, user)
  const { body } = await call(url, '/sessions', { headers: bearer(token) })
  await post(url, '/logout', undefined, bearer(token))
  return body.sessions.length
}

t.test('whoever leaves and is gone stays out, though another tab was getting a token', async (t) => {
  const { openTab, baseUrl, user, context } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)
  const held = await hold(one, `${baseUrl}/refresh`)
  await renewSoon(one, `${baseUrl}/protected`)
  await eventually(t, async () => held.count() > 0)
  await two.evaluate(() => void window.session.logout({ scope: 'all' }))
  await eventually(t, async () => (await userOf(one)) === undefined)
  await two.close()
  held.goOn()
  await eventually(t, async () => (await context.cookies(baseUrl)).length === 0)
  t.equal(await userOf(one), undefined)
  t.strictSame(await reasonsOf(one), ['logged_in', 'logged_out'], 'and is not in for a moment')
})

t.test(
  'a tab that stands still amid a refresh keeps the others waiting for no longer than a deadline',
  async (t) => {
    const { openTab, baseUrl, user } = await world(t)
    const [one, two] = [await openTab(), await openTab()]
    await enter(one, user)
    await eventually(t, async () => (await userOf(two)) !== undefined)
    await one.evaluate(`void navigator.locks.request('latchkey ${baseUrl}', () => new Promise(() => {}))`)
    const aborted = await two.evaluate(async (url) => {
      const now = window.session.expiresAt as number
      Date.now = () => now
      const startedAt = performance.now()
      const thrown = await window.session
        .fetch(url, { signal: AbortSignal.timeout(100) })
        .catch(({ name }) => name)
      return { thrown, isSoon: performance.now() - startedAt < 2_000 }
    }, `${baseUrl}/protected`)
    t.strictSame(aborted, { thrown: 'TimeoutError', isSoon: true }, 'and whoever gives up is not kept')
    t.equal(await ask(two, `${baseUrl}/protected`), 200)
  },
)

t.test('whoever logs out everywhere is out at once, and waits ten seconds for an answer', async (t) => {
  const { openTab, user, relay } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)
  relay.stall()
  const startedAt = performance.now()
  const left = leave(one, 'all')
  for (const page of [one, two]) await eventually(t, async () => (await userOf(page)) === undefined, 2_000)
  t.match(await left, { name: 'SessionError', code: 'offline' })
  t.ok(performance.now() - startedAt < 15_000)
  await relay.mend()
})

t.test('a page that has left the other tabs goes on by itself', async (t) => {
  const { openTab, baseUrl, user, context } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await restored(two)
  await one.evaluate(() => window.session.close())
  await enter(one, user)
  await renewSoon(one, `${baseUrl}/protected`)
  t.equal(await ask(one, `${baseUrl}/protected`), 200)
  t.equal(await leave(one), undefined)
  t.strictSame(await context.cookies(baseUrl), [])
  t.strictSame(await reasonsOf(two), [], 'which hear nothing of it')
  const three = await openTab({ prepare: 'delete window.BroadcastChannel' })
  await enter(three, user)
  t.equal(await ask(three, `${baseUrl}/protected`), 200, 'as does one that cannot know of any')
})

t.test('a clock that is set back keeps nobody out', async (t) => {
  const { openTab, baseUrl, user, relay } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await leave(one)
  const hourAgo = `{ const now = Date.now; Date.now = () => now() - 3_600_000 }`
  const three = await openTab({ prepare: hourAgo })
  await restored(three)
  const { id } = await enter(three, user)
  for (const page of [one, two]) await eventually(t, async () => (await userOf(page))?.id === id)

  relay.cut()
  await setClock(two, 3_600_000)
  t.match(await ask(two, `${baseUrl}/protected`), { code: 'offline' })
  await relay.mend()
  await setClock(two, 1_000)
  await eventually(t, async () => (await ask(two, `${baseUrl}/protected`)) === 200, 5_000)
})

t.test('who is told to wait, waits, and so do the other tabs', async (t) => {
  const { openTab, baseUrl, pageUrl, user, context, refreshes } = await world(t)
  const [one, two] = [await openTab(), await openTab()]
  await enter(one, user)
  await eventually(t, async () => (await userOf(two)) !== undefined)
  await context.route(`${baseUrl}/refresh`, (route) =>
    route.fulfill({
      status: 503,
      headers: { ...allowed(pageUrl), 'retry-after': '30', 'content-type': 'text/html' },
      body: '<h1>Back soon</h1>',
    }),
  )
  const told = { name: 'SessionError', code: 'unavailable', status: 503, retryAfterSeconds: 30 }
  const { count } = refreshes
  for (const page of [one, two, one, two]) {
    await setClock(page, 0)
    t.match(await ask(page, `${baseUrl}/protected`), told)
  }
  t.equal(refreshes.count, count + 1)
})

t.test('what is not latchkey says neither that a session has ended nor that it was left', async (t) => {
  const { openTab, baseUrl, pageUrl, user, context } = await world(t)
  const gateway = (path: string, status: number) =>
    context.route(baseUrl + path, (route) =>
      route.fulfill({ status, json: { message: 'no' }, headers: allowed(pageUrl) }),
    )
  const page = await openTab()
  const { id } = await enter(page, user)
  await gateway('/refresh', 401)
  await setClock(page, 0)
  t.match(await ask(page, `${baseUrl}/protected`), { code: 'unavailable', status: 401 })
  t.equal((await userOf(page))?.id, id)
  await context.unroute(`${baseUrl}/refresh`)

  await gateway('/logout?scope=session', 503)
  t.match(await leave(page), { code: 'unavailable', status: 503 })
  await context.unroute(`${baseUrl}/logout?scope=session`)
  t.equal(await restored(await openTab()), undefined)
  t.equal(await countSessions(baseUrl, user), 1, 'so it is left once more')
})

/** What lets the page see answers that are not latchkey's. */
const allowed = (pageUrl: string) => ({
  'access-control-allow-origin': pageUrl,
  'access-control-allow-credentials': 'true',
  'access-control-expose-headers': 'retry-after',
})

t.test('who logs in after a logout that nobody answered has left before', async (t) => {
  const { openTab, baseUrl, user, relay } = await world(t)
  const page = await openTab()
  await enter(page, user)
  relay.cut()
  t.match(await leave(page), { code: 'offline' })
  await relay.mend()
  await enter(page, user)
  t.equal(await countSessions(baseUrl, user), 2)
})

t.test('an access token that nobody knows any more does not keep a session from being left', async (t) => {
  const stores = await postgresAndRedis(t)
  const serve = async (env: Environment) => (await startInstance(t, { stores, env })).url
  const { openTab, baseUrl, user, context } = await world(t, { serve })
  const page = await openTab()
  await enter(page, user)
  await page.route(`${baseUrl}/logout?scope=session`, (route) => {
    const { authorization, ...headers } = route.request().headers()
    const unknown = authorization && { authorization: 'Bearer e30.e30.e30' }
    return route.continue({ headers: { ...headers, ...unknown } })
  })
  t.equal(await leave(page), undefined)
  t.equal(await countSessions(baseUrl, user), 1)
  await page.unroute(`${baseUrl}/logout?scope=session`)

  await enter(page, user)
  await withClient(stores.env.DATABASE_URL as string, async (db) => {
    await db.query('begin')
    await db.query('lock table refresh_tokens in access exclusive mode')
    t.equal(await leave(page), undefined, 'nor does a cookie that cannot be looked up')
    await db.query('rollback')
  })
  t.equal(await countSessions(baseUrl, user), 1)

  await enter(page, user)
  await context.clearCookies()
  t.equal(await leave(page), undefined)
  t.equal(await countSessions(baseUrl, user), 1, 'nor does a cookie that was deleted')
})

t.test(
  'without Web Locks, a tab that was closed amid a refresh is waited for until its lease ends',
  async (t) => {
    const { openTab, baseUrl, user } = await world(t)
    const noLocks = `Object.defineProperty(navigator, 'locks', { value: undefined })`
    const page = await openTab({ prepare: noLocks })
    await enter(page, user)
    const { waitedMs, left } = await page.evaluate(
      async ({ url, key }) => {
        const startedAt = performance.now()
        const expiredAt = window.session.expiresAt as number
        Date.now = () => expiredAt + performance.now() - startedAt
        window.localStorage.setItem(key, `another ${Date.now() + 1_500}`)
        await window.session.fetch(url)
        return { waitedMs: performance.now() - startedAt, left: window.localStorage.getItem(key) }
      },
      { url: `${baseUrl}/protected`, key: `latchkey ${baseUrl} lease` },
    )
    t.ok(waitedMs >= 1_500 && waitedMs < 6_000, `${waitedMs} ms`)
    t.equal(left, null)

    const closed = await openTab({
      prepare: `${noLocks}
      for (const name of ['getItem', 'setItem', 'removeItem'])
        Storage.prototype[name] = () => { throw new Error('no') }`,
    })
    const startedAt = performance.now()
    await enter(closed, user)
    t.equal(await leave(closed), undefined)
    t.ok(performance.now() - startedAt < 8_000, 'where nothing can be kept, there is no lease to wait for')
  },
)

t.test('a request that is asked again is the same one', async (t) => {
  const { openTab, user, context, pageUrl } = await world(t)
  const page = await openTab()
  await enter(page, user)
  await setClock(page, -600_000)
  const seen: (string | null)[][] = []
  await context.route(`${pageUrl}/api`, (route) => {
    const request = route.request()
    seen.push([request.method(), request.postData(), request.headers()['x-mine'] ?? ''])
    return seen.length === 1
      ? route.fulfill({ status: 401, headers: { 'www-authenticate': 'Bearer error="invalid_token"' } })
      : route.fulfill({ status: 200 })
  })
  const status = await page.evaluate(async (url) => {
    const request = { method: 'PUT', body: 'a body', headers: { 'x-mine': 'yes' } }
    return (await window.session.fetch(url, request)).status
  }, `${pageUrl}/api`)
  t.equal(status, 200)
  t.strictSame(seen, Array(2).fill(['PUT', 'a body', 'yes']))
})

t.test('settings that are no addresses are refused by a typed error', async (t) => {
  const { openTab, user } = await world(t)
  const page = await openTab()
  await enter(page, user)
  const thrown = await page.evaluate(() =>
    [{ baseUrl: 'https://' }, { baseUrl: '/', apis: ['api.example.org'] }].map((options) => {
      try {
        return window.createSession(options).close()
      } catch (error) {
        return window.failure(error)
      }
    }),
  )
  t.match(thrown, Array(2).fill({ name: 'SessionError', code: 'invalid_request' }))
})

t.test('whatever an API answers by 401, the page gets it or a typed error', async (t) => {
  const { openTab, baseUrl, user, context, refreshes, pageUrl } = await world(t)
  const page = await openTab()
  await enter(page, user)
  const problem = 'application/problem+json'
  const challenge = 'Bearer error="invalid_token"'
  const answers: Record<string, [headers: Record<string, string>, body: string, isRenewed: boolean]> = {
    null: [{ 'content-type': problem }, 'null', false],
    'no JSON': [{ 'content-type': problem }, '<p>no</p>', false],
    'nothing at all': [{}, '', false],
    'a challenge alone': [{ 'www-authenticate': challenge }, '', true],
    'a challenge, and a code of its own': [
      { 'www-authenticate': challenge, 'content-type': 'application/json' },
      '{"code":1401}',
      true,
    ],
    'no token of latchkey': [
      { 'www-authenticate': challenge, 'content-type': problem },
      '{"code":"token_invalid"}',
      false,
    ],
    'no right to it': [{ 'www-authenticate': 'Bearer' }, '', false],
  }
  for (const [why, [headers, body, isRenewed]] of Object.entries(answers)) {
    await setClock(page, -600_000)
    await context.route(`${pageUrl}/api`, (route) => route.fulfill({ status: 401, body, headers }))
    const { count } = refreshes
    t.equal(await ask(page, `${pageUrl}/api`), 401, why)
    t.equal(refreshes.count - count, isRenewed ? 1 : 0, why)
    if (isRenewed) {
      t.equal(await ask(page, `${pageUrl}/api`), 401, why)
      t.equal(refreshes.count - count, 1, 'a token that is new is not renewed for it')
    }
    await context.unroute(`${pageUrl}/api`)
  }
  await context.route(`${baseUrl}/logout?scope=session`, (route) =>
    route.fulfill({ status: 502, body: 'null', headers: allowed(pageUrl) }),
  )
  t.match(await leave(page), { name: 'SessionError', status: 502 })
})

t.test('a proof and a new password keep this session in every tab, and in either mode', async (t) => {
  for (const keep of ['cookie', 'memory'] as const) {
    const { openTab, baseUrl, user } = await world(t, { env: { FRESH_SECONDS: '1' } })
    const [one, two] = [await openTab({ keep }), await openTab({ keep })]
    const { id } = await enter(one, user)
    await eventually(t, async () => (await userOf(two))?.id === id)
    const elsewhere = await logIn(baseUrl, user)
    const change = (currentPassword: string) =>
      two.evaluate((passwords) => window.session.changePassword(passwords).catch(window.failure), {
        currentPassword,
        newPassword: 'three blind mice went sailing',
      })
    const prove = (password: string) =>
      two.evaluate((password) => window.session.reauthenticate({ password }).catch(window.failure), password)
    await eventually(t, async () => {
      const thrown = (await change('wrong')) as { code: string }
      return thrown.code === 'reauthentication_required'
    })
    t.match(await prove('wrong'), { name: 'SessionError', code: 'invalid_current_password', status: 403 })
    t.equal(await prove(user.password), undefined)
    await renewSoon(two, `${baseUrl}/protected`)
    t.equal(await ask(two, `${baseUrl}/protected`), 200, `${keep}, by the refresh token that it had`)
    await eventually(t, async () => {
      t.equal(await prove(user.password), undefined)
      return (await change(user.password)) === undefined
    })
    for (const page of [one, two]) {
      t.equal(await ask(page, `${baseUrl}/protected`), 200, keep)
      await renewSoon(page, `${baseUrl}/protected`)
      t.equal(await ask(page, `${baseUrl}/protected`), 200, `${keep}, and by its refresh token`)
      t.strictSame(await reasonsOf(page), ['logged_in'])
    }
    t.equal((await call(baseUrl, '/protected', { headers: bearer(elsewhere.token) })).status, 401)
  }
})

t.test('a page of another site can neither read nor refresh nor log out', async (t) => {
  const { openTab, baseUrl, user, context, pageUrl } = await world(t)
  const page = await openTab()
  await enter(page, user)
  const evil = await context.newPage()
  await evil.goto(pageUrl.replace('localhost', '127.0.0.1'))
  const tried = await evil.evaluate(async (baseUrl) => {
    const outcomes: string[] = []
    for (const [method, path, init] of [
      ['POST', '/refresh', {}],
      ['POST', '/logout', {}],
      ['POST', '/logout?scope=all', { mode: 'no-cors' }],
      ['POST', '/refresh', { mode: 'no-cors' }],
      ['GET', '/sessions', {}],
    ] as const) {
      const sent = fetch(baseUrl + path, { method, credentials: 'include', ...init })
      outcomes.push(
        await sent.then(
          ({ type, status }) => `${type} ${status}`,
          (error) => error.name,
        ),
      )
    }
    return outcomes
  }, baseUrl)
  t.strictSame(tried, ['TypeError', 'TypeError', 'opaque 0', 'opaque 0', 'TypeError'], 'it sees nothing')
  await evil.setContent(
    `<form method="post" action="${baseUrl}/logout?scope=all"><button>free prizes</button></form>`,
  )
  await evil.locator('button').click()
  await evil.waitForURL(/logout/)
  t.equal(await ask(page, `${baseUrl}/protected`), 200)
  await page.close()
  t.ok(await restored(await openTab()), 'and changes nothing')
})

t.test('kept in memory, the session is in all tabs and outlives none', async (t) => {
  const { openTab, baseUrl, user, context, refreshes } = await world(t, {
    env: { ACCESS_TOKEN_TTL_SECONDS: '2' },
  })
  const one = await openTab({ keep: 'memory' })
  const { id } = await enter(one, user)
  t.strictSame(await context.cookies(baseUrl), [])
  const two = await openTab({ keep: 'memory' })
  t.equal((await restored(two))?.id, id)
  for (const page of [two, one, two]) {
    await expire(page)
    t.equal(await ask(page, `${baseUrl}/protected`), 200)
  }
  t.ok(refreshes.count > 0)
  await one.close()
  const three = await openTab({ keep: 'memory' })
  t.equal((await restored(three))?.id, id)
  await leave(two)
  await eventually(t, async () => (await userOf(three)) === undefined)
  await enter(two, user)
  await two.close()
  await three.close()
  t.equal(await restored(await openTab({ keep: 'memory' })), undefined)
})
