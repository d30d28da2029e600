/** The example in a real browser, by its labels and its keyboard, as people use it. */
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { TOTP } from 'otpauth'
import { chromium, type Locator, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { eventually } from '../fixtures/eventually.ts'
import { failExamplePage, startExamplePage } from '../fixtures/example-page.ts'
import { findChromium } from '../fixtures/install.ts'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const browser = await chromium.launch({
  executablePath: process.env.TEST_CHROMIUM || (findChromium() as string),
  args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost'],
})
t.teardown(() => browser.close())
// Beside what was built for the tests, as it is beside what was built for everybody.
const prepared = process.env.TEST_PREPARED as string
cpSync('examples/spa', join(prepared, 'examples/spa'), { recursive: true })
const { url, outbox, stop } = await startExamplePage(prepared)

const password = 'correct horse battery'
const labelled = (page: Page, label: string) => page.getByLabel(label, { exact: true })
const button = (page: Page, name: string | RegExp) => page.getByRole('button', { name })
const notice = (page: Page) => page.getByRole('status').first()

const focused = (page: Page) => page.evaluate<string>('document.activeElement.textContent')

async function signIn(page: Page, username: string, how: 'Sign in' | 'Sign up' = 'Sign in'): Promise<void> {
  await labelled(page, 'Username').fill(username)
  await labelled(page, 'Password').fill(password)
  await button(page, how).click()
}

/** By WCAG 2.2, levels A and AA, in light and in dark, on a desk and on a phone. */
async function assertAccessible(t: Test, page: Page, name: string): Promise<void> {
  for (const colorScheme of ['light', 'dark'] as const) {
    for (const width of [1280, 320]) {
      await page.emulateMedia({ colorScheme })
      await page.setViewportSize({ width, height: 800 })
      const violations = await page.evaluate<{ id: string; nodes: unknown[] }[]>(
        'axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }).then(({ violations }) => violations)',
      )
      const where = `${name}, ${colorScheme}, ${width} px`
      t.strictSame(
        violations.map(({ id, nodes }) => [id, JSON.stringify(nodes)]),
        [],
        where,
      )
      const [content, screen] = await page.evaluate<number[]>(
        '[document.documentElement.scrollWidth, innerWidth]',
      )
      t.ok(Number(content) <= Number(screen), `${where}: nothing to scroll sideways`)
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 })
}

t.test('sign up, sign in, ask, see and end sessions, leave', async (t) => {
  const context = await browser.newContext()
  const page = await context.newPage()
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(`${error}`))
  page.on('console', (message) => {
    // A 401 is how the page learns that nobody is logged in, or that a login is too old.
    if (message.type() === 'error' && !/\b(401|403|409)\b/.test(message.text()))
      complaints.push(message.text())
  })
  await context.addInitScript(axe)
  await page.goto(url)

  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  await assertAccessible(t, page, 'the entrance')
  await labelled(page, 'Username').fill('ada')
  await labelled(page, 'Password').fill('wrong')
  await page.keyboard.press('Enter')
  await page.getByText('Nobody has this username and this password.').waitFor()
  t.equal(await labelled(page, 'Password').getAttribute('aria-invalid'), 'true')
  await assertAccessible(t, page, 'the entrance, with what is wrong')
  await labelled(page, 'Password').fill(password)
  await page.getByLabel('Remember me on this device').check()
  await button(page, 'Sign up').click()
  await page.getByRole('heading', { name: 'Hello, ada' }).waitFor()
  const signedUpAt = Date.now()
  t.equal(await notice(page).innerText(), '', 'what was wrong is forgotten')
  t.equal(await focused(page), 'Hello, ada', 'the keyboard is there too')
  t.match(await page.locator('#token-ends').innerText(), /^in \d+ s/)

  await button(page, 'Ask a protected route').press('Enter')
  await page.getByText(/^It knows you as/).waitFor()
  t.equal(await focused(page), 'Ask a protected route', 'it stays where it was')
  await page.getByText(/in \d+ s; the next request renews it/).waitFor()
  const monthsAway = async (id: string) =>
    (Date.parse((await page.locator(id).getAttribute('datetime')) as string) - Date.now()) / 86_400_000
  for (const id of ['#idle-ends', '#session-ends']) t.ok(Math.abs((await monthsAway(id)) - 30) < 0.1, id)

  const other = await browser.newContext({ userAgent: 'PostmanRuntime/7.39.0' })
  const elsewhere = await other.newPage()
  await elsewhere.goto(url)
  await signIn(elsewhere, 'ada')
  await elsewhere.getByRole('heading', { name: 'Hello, ada' }).waitFor()

  await page.reload()
  const sessions = page.getByRole('list', { name: 'Where you are logged in' }).getByRole('listitem')
  await sessions.nth(1).waitFor()
  await assertAccessible(t, page, 'home')
  t.match((await sessions.allInnerTexts()).join(), /PostmanRuntime[\s\S]*Chrome on Linux\s+this one/)
  // By then it is older than FRESH_SECONDS, which is 1, by any second's beginning.
  await page.waitForTimeout(Math.max(0, signedUpAt + 2_100 - Date.now()))
  await button(page, /End the session of PostmanRuntime/).press('Enter')
  const dialog = page.getByRole('dialog', { name: 'Is it you?' })
  await dialog.waitFor()
  await assertAccessible(t, page, 'the dialog')
  await page.keyboard.press('Escape')
  await page.getByText('Nothing has changed.').waitFor()
  for (const [shown, said] of [
    ['wrong', 'This is not your password.'],
    [password, /^The session of PostmanRuntime.* has ended\.$/],
  ] as const) {
    await button(page, /End the session of PostmanRuntime/).press('Enter')
    await labelled(page, 'Your password').fill(shown)
    await page.keyboard.press('Enter')
    await page.getByText(said).waitFor()
  }
  t.equal(await sessions.count(), 1)
  t.equal(await focused(page), 'Where you are logged in')
  await button(elsewhere, 'Ask a protected route').click()
  await elsewhere.getByText('Your session has ended: sign in again.').waitFor()

  const tab = await context.newPage()
  await tab.goto(url)
  await tab.getByRole('heading', { name: 'Hello, ada' }).waitFor()
  await button(page, 'Log out everywhere').click()
  for (const one of [page, tab]) await one.getByText('You are logged out, in every tab.').waitFor()
  await tab.reload()
  await tab.getByRole('heading', { name: 'Welcome' }).waitFor()

  await signIn(page, 'ada', 'Sign up')
  await page.getByText('Somebody has this username already.').waitFor()
  await button(page, 'Sign in').click()
  await button(page, 'Log out').first().click()
  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  t.strictSame(complaints, [])
  await context.close()
  await other.close()
})

t.test('an app is set up, asked for, and taken away again', async (t) => {
  const context = await browser.newContext()
  await context.addInitScript(axe)
  const page = await context.newPage()
  await page.goto(url)
  await signIn(page, 'barbara', 'Sign up')
  await page.getByText('None: your password alone lets anybody in.').waitFor()
  const dialog = page.getByRole('dialog', { name: 'Is it you?' })
  /** Until it is there, what asks for a proof gets one: a login is old after a second here. */
  const untilThere = async (there: Locator, code?: () => string) => {
    while (!(await there.isVisible())) {
      await Promise.race([there.waitFor(), labelled(page, 'Your password').waitFor()])
      if (!(await dialog.isVisible())) continue
      await labelled(page, 'Your password').fill(password)
      if (code) await labelled(page, 'A code of your app, or a recovery code').fill(code())
      await page.keyboard.press('Enter')
      await dialog.waitFor({ state: 'hidden' })
    }
  }
  const qr = page.getByRole('img', { name: 'The same as a QR code' })
  await button(page, 'Set up an authenticator app').press('Enter')
  await untilThere(qr)
  t.ok(Number(await page.evaluate('document.querySelector("#qr").naturalWidth')) > 0, 'it is a picture')
  await assertAccessible(t, page, 'the enrolment')
  const app = new TOTP({ secret: await page.locator('#secret').innerText() })
  await labelled(page, 'The code that it shows').fill(app.generate())
  await page.keyboard.press('Enter')
  const codes = page.getByRole('list', { name: 'Recovery codes' }).getByRole('listitem')
  await untilThere(codes.first())
  const [first = '', second = ''] = await codes.allInnerTexts()
  await page.getByText('Your app, and 10 recovery codes.').waitFor()
  await assertAccessible(t, page, 'the recovery codes')

  await button(page, 'Log out').first().click()
  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  t.notMatch(await page.content(), first, 'nothing of it is left')
  await signIn(page, 'barbara')
  await dialog.waitFor()
  t.equal(await labelled(page, 'Your password').isVisible(), false, 'only what is missing')
  await assertAccessible(t, page, 'the dialog for a code')
  await labelled(page, 'A code of your app, or a recovery code').fill('000000')
  await page.keyboard.press('Enter')
  await page.getByText('This code is wrong, too old, or used.').waitFor()
  await button(page, 'Sign in').click()
  await labelled(page, 'A code of your app, or a recovery code').fill(first)
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Hello, barbara' }).waitFor()
  await page.getByText('Your app, and 9 recovery codes.').waitFor()
  await button(page, 'Remove the app').press('Enter')
  await untilThere(page.getByText('None: your password alone lets anybody in.'), () => second)
  await context.close()
})

t.test('an address is verified by its link, and a lost password replaced', async (t) => {
  const context = await browser.newContext()
  await context.addInitScript(axe)
  const page = await context.newPage()
  await page.goto(url)
  await signIn(page, 'margaret', 'Sign up')
  await page.getByText('None: whoever loses their password here').waitFor()
  await labelled(page, 'Another address').fill('margaret@example.org')
  await page.keyboard.press('Enter')
  const there = page.getByText('There is a mail at that address')
  await Promise.race([there.waitFor(), labelled(page, 'Your password').waitFor()])
  if (!(await there.isVisible())) {
    await labelled(page, 'Your password').fill(password)
    await page.keyboard.press('Enter')
    await there.waitFor()
  }
  const links = () => {
    const mails = existsSync(outbox)
      ? readdirSync(outbox)
          .filter((name) => !name.startsWith('.'))
          .sort()
      : []
    return mails.map((name) => /http\S+/.exec(readFileSync(join(outbox, name), 'utf8'))?.[0] as string)
  }
  await eventually(t, async () => links().length === 1)
  t.ok(links()[0]?.startsWith(`${url}/#verify=`))
  await page.goto(links()[0] as string)
  await page.getByText('Your address is verified.').waitFor()
  await page.getByText('margaret@example.org, verified').waitFor()

  await button(page, 'Log out').first().click()
  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  await labelled(page, 'Username').fill('margaret')
  await button(page, 'Forgot your password?').press('Enter')
  await page.getByText('If there is such an account').waitFor()
  await eventually(t, async () => links().length === 2)
  const other = await context.newPage()
  await other.goto(links()[1] as string)
  await other.getByRole('heading', { name: 'Another password' }).waitFor()
  await assertAccessible(t, other, 'another password')
  await labelled(other, 'Your new password').fill('too short')
  await other.keyboard.press('Enter')
  await other.getByText('A password needs at least 15 characters.').waitFor()
  await labelled(other, 'Your new password').fill('battery of correct horses')
  await other.keyboard.press('Enter')
  await other.getByText('That is your password now: sign in.').waitFor()
  await labelled(other, 'Username').fill('margaret')
  await labelled(other, 'Password').fill('battery of correct horses')
  await button(other, 'Sign in').click()
  await other.getByText('margaret@example.org, verified').waitFor()
  await context.close()
})

t.test('who leaves while the service is away is told so, and who comes stays in', async (t) => {
  const context = await browser.newContext()
  await context.addInitScript(axe)
  const page = await context.newPage()
  await page.goto(url)
  await signIn(page, 'grace', 'Sign up')
  await page.getByRole('heading', { name: 'Hello, grace' }).waitFor()

  await context.route(/\/refresh$/, (route) => route.abort())
  await page.reload()
  await page.getByRole('heading', { name: 'One moment' }).waitFor()
  await page.getByText('There is no connection.').waitFor()
  await assertAccessible(t, page, 'waiting')
  await context.unroute(/\/refresh$/)
  await eventually(t, async () => {
    await button(page, 'Try again')
      .click({ timeout: 200 })
      .catch(() => {})
    return await page.getByRole('heading', { name: 'Hello, grace' }).isVisible()
  })

  await context.route(/\/logout\?/, (route) => route.abort())
  await button(page, 'Log out everywhere').click()
  await page.getByText('You are logged out here. Elsewhere it may go on').waitFor()
  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  await context.unroute(/\/logout\?/)
  await context.close()
})

t.test('nobody sees what belongs to whoever was here before', async (t) => {
  const context = await browser.newContext()
  const page = await context.newPage()
  await page.goto(url)
  await signIn(page, 'hedy', 'Sign up')
  await page.getByRole('heading', { name: 'Hello, hedy' }).waitFor()
  await button(page, 'Log out').first().click()
  await page.getByRole('heading', { name: 'Welcome' }).waitFor()
  t.notMatch(await page.content(), /hedy/)
  await context.route(/\/(me|sessions)$/, (route) => route.abort())
  await signIn(page, 'radia', 'Sign up')
  await page.getByRole('heading', { name: 'Hello,' }).waitFor()
  t.notMatch(await page.content(), /hedy/)
  await context.close()
})

t.test('where the port of the page is taken, it says so and leaves nothing running', async (t) => {
  const taken = new URL(url).port
  const { code, stderr, port } = await failExamplePage(prepared, taken)
  t.equal(code, 1)
  t.match(stderr, /PAGE_PORT chooses another port/)
  await t.rejects(fetch(`http://localhost:${port}/health/live`))
})

t.test('one signal ends the page and the service', async (t) => {
  t.equal(await stop(), 0)
  await t.rejects(fetch(url))
})
