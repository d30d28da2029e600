/** The page at /docs, in a real browser: it can be read and tried, it needs nobody else, and it keeps to its own policy. */
import { chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { type Instance, postgresAndRedis, startInstance } from '../fixtures/app.ts'
import { call, post } from '../fixtures/client.ts'
import { findChromium } from '../fixtures/install.ts'
import { operationsOf, readDocument } from '../fixtures/openapi.ts'

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
]

/** A service that is reached by another address than its issuer, as behind a proxy. */
const start = async (t: Test): Promise<Instance> =>
  await startInstance(t, { stores: await postgresAndRedis(t), env: { ISSUER: 'https://auth.test' } })

const browser = await chromium.launch({
  executablePath: process.env.TEST_CHROMIUM || (findChromium() as string),
  // Root has no sandbox; and no name leads anywhere, as on a machine that is offline.
  args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
})
t.teardown(() => browser.close())

t.test('at either address a reader can try the whole life of a token', async (t) => {
  const { url } = await start(t)
  for (const path of ['/docs', '/docs/']) {
    const page = await browser.newPage()

    // What breaks the policy is an error on the console.
    const complaints: string[] = []
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
    })
    page.on('pageerror', (error) => complaints.push(`${error}`))
    page.on('requestfailed', (request) => complaints.push(`failed: ${request.url()}`))
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url())
      if (origin !== url && protocol !== 'data:') complaints.push(`elsewhere: ${request.url()}`)
    })

    await page.goto(url + path)
    await page.locator('.opblock').first().waitFor()
    t.equal(await page.title(), 'latchkey')
    t.equal(await page.locator('.opblock').count(), operationsOf(readDocument()).length, 'every operation')

    t.match(await execute(page, 'getLiveness'), { status: '200', body: { status: 'live' } })
    if (path === '/docs') t.match(await execute(page, 'register'), { status: '201' })
    const { status, body } = await execute(page, 'logIn')
    t.equal(status, '200')
    await authorize(page, body.access_token)
    t.match(await execute(page, 'getProtected'), { status: '200', body: { sid: body.session_id } })
    t.match(await execute(page, 'getMe'), { status: '200', body: { username: 'ada' } })
    t.strictSame(complaints, [])
  }
})

/** Presses "Execute", with what the page fills in by itself. */
async function execute(page: Page, operationId: string) {
  const operation = page.locator(`[id$="-${operationId}"]`)
  if (!(await operation.locator('.execute').isVisible()))
    await operation.locator('.opblock-summary-control').click()
  await operation.locator('.execute').click()
  const reply = operation.locator('.live-responses-table .response')
  await reply.waitFor()
  const status = await reply.locator('.response-col_status').innerText()
  const body = await reply.locator('.highlight-code .microlight').first().innerText()
  return { status: status.trim(), body: JSON.parse(body) }
}

async function authorize(page: Page, token: string): Promise<void> {
  await page.locator('.auth-wrapper .authorize').click()
  await page.locator('#auth-bearer-value').fill(token)
  await page.locator('.auth-container', { hasText: 'bearerAuth' }).locator('button.authorize').click()
  await page.locator('.close-modal').click()
}

t.test('every file of it has the policy, and nothing else has', async (t) => {
  const { url } = await start(t)
  for (const path of ['/docs', '/docs/', '/docs/json', '/docs/static/swagger-ui-bundle.js']) {
    const { status, headers } = await call(url, path)
    t.equal(status, 200, path)
    t.strictSame(headers.get('content-security-policy')?.split('; '), policy, path)
    t.equal(headers.get('x-content-type-options'), 'nosniff', path)
    t.equal(headers.get('referrer-policy'), 'no-referrer', path)
  }
  const { headers } = await call(url, '/health/live')
  t.equal(headers.get('content-security-policy'), null)
})

t.test('what is not there, or not so, is refused as everywhere', async (t) => {
  const { url } = await start(t)
  for (const path of [
    '/docs/nothing',
    '/docs/static',
    '/docs/static/nothing.js',
    '/docs/static/%2e%2e/index.js',
  ]) {
    const { status, body } = await call(url, path)
    t.strictSame([status, body.code], [404, 'not_found'], path)
  }
  for (const path of ['/docs', '/docs/', '/docs/json', '/docs/static/swagger-ui.css', '/openapi.json']) {
    const { status, headers, body } = await post(url, path, {})
    t.strictSame([status, headers.get('allow'), body.code], [405, 'GET, HEAD', 'method_not_allowed'], path)
    t.equal((await call(url, path, { method: 'HEAD' })).status, 200, path)
  }
})
