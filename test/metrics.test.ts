/** What monitoring may read, where it reads it, and that nobody else can. */
import t, { type Test } from 'tap'
import type { Environment } from '../src/settings.ts'
import { postgresAndRedis, startInstance } from './fixtures/app.ts'
import { call, getProtected, logIn, logOut, registerAndLogIn } from './fixtures/client.ts'
import { freePort } from './fixtures/servers.ts'

async function withMetrics(t: Test, env: Environment = {}) {
  const port = await freePort()
  const { url } = await startInstance(t, {
    stores: await postgresAndRedis(t),
    env: { METRICS_PORT: `${port}`, ...env },
  })
  const metricsUrl = `http://127.0.0.1:${port}`
  const read = async () => {
    const { body } = await call(metricsUrl, '/metrics')
    return { text: body as string, value: (series: string) => readSeries(body, series) }
  }
  return { url, metricsUrl, read }
}

/** Of a series as Prometheus writes it; undefined where there is none. */
function readSeries(text: string, series: string): number | undefined {
  const line = text.split('\n').find((line) => line.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

t.test('what becomes of revocations and checks is counted, and nobody is named', async (t) => {
  const { url, read } = await withMetrics(t)
  const account = await registerAndLogIn(url)
  const { token } = await logIn(url, account)
  const before = await read()
  t.equal(before.value('latchkey_mode{mode="tail and index"}'), 1)
  t.equal(before.value('latchkey_mode{mode="tail"}'), 0)
  const live = 'latchkey_checks_total{mode="tail and index",outcome="live"}'
  t.equal(before.value(live), 0)

  t.equal((await getProtected(url, token)).status, 200)
  t.equal((await getProtected(url, token)).status, 200)
  t.equal((await logOut(url, token)).status, 204)
  t.equal((await getProtected(url, token)).status, 401)

  const after = await read()
  t.equal(after.value(live), 2)
  const revoked = /^latchkey_checks_total\{mode=".*",outcome="revoked"\} (\d+)$/gm
  const refusals = [...after.text.matchAll(revoked)].reduce((sum, [, count]) => sum + Number(count), 0)
  t.equal(refusals, 1)
  t.equal(after.value('latchkey_revocations_total{outcome="acknowledged"}'), 1)
  t.equal(
    (after.value('latchkey_live_entries') ?? 0) - (before.value('latchkey_live_entries') ?? 0),
    1,
    'the session that was logged out',
  )
  t.ok((after.value('latchkey_tail_age_seconds') ?? 1) < 0.25)
  t.equal(after.value('latchkey_hold_seconds_count'), 1)
  t.ok((after.value('latchkey_hold_seconds_sum') ?? 0) >= 0.26)
  for (const secret of [token, account.refreshToken, account.id, account.sid, account.username, '127.0.0.1'])
    t.notOk(after.text.includes(secret))
})

t.test('in mirror mode the tail alone answers', async (t) => {
  const { url, read } = await withMetrics(t, { REVOCATION_MODE: 'mirror' })
  const { token } = await registerAndLogIn(url)
  t.equal((await getProtected(url, token)).status, 200)
  const { value } = await read()
  t.equal(value('latchkey_mode{mode="tail"}'), 1)
  t.equal(value('latchkey_mode{mode="tail and index"}'), 0)
  t.equal(value('latchkey_checks_total{mode="tail",outcome="live"}'), 1)
})

t.test('they are on a port of their own, with nothing else', async (t) => {
  const { url, metricsUrl } = await withMetrics(t)
  const { status, headers } = await call(metricsUrl, '/metrics')
  t.equal(status, 200)
  t.equal(headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  t.match(await call(url, '/metrics'), { status: 404, body: { code: 'not_found' } })
  for (const path of ['/', '/login', '/health/live', '/metrics/']) {
    t.equal((await call(metricsUrl, path)).status, 404, path)
  }
})

t.test('without METRICS_PORT they are nowhere', async (t) => {
  const before = listening()
  await startInstance(t, { stores: await postgresAndRedis(t) })
  t.equal(listening() - before, 1, 'the service, and nothing else')
})

/** Servers of this process. */
const listening = () => process.getActiveResourcesInfo().filter((name) => name === 'TCPServerWrap').length
