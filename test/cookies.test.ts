/** Sessions that a browser keeps: what is in the cookie, whose pages may use it, and what other origins' pages are shown. */
import t, { type Test } from 'tap'
import type { Environment } from '../src/settings.ts'
import {
  createManualClock,
  embedded,
  postgresAndRedis,
  randomUser,
  type Stores,
  startInstance,
} from './fixtures/app.ts'
import {
  bearer,
  call,
  getProtected,
  logIn,
  post,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { startRelay } from './fixtures/relay.ts'

const app = 'https://app.auth.test'
const ours = 'https://auth.test'
const fromApp = { origin: app }
const crossSite = refusal('cross_site')
const name = '__Host-latchkey'

async function world(t: Test, env: Environment = {}, given?: Stores) {
  const stores = given ?? (await embedded(t))
  const clock = createManualClock()
  const { url } = await startInstance(t, {
    stores,
    clock,
    env: { CORS_ORIGINS: app, ...env },
  })
  /** @returns the reply, and what a browser keeps of it */
  async function enter({ remember = false, headers = fromApp as Record<string, string> } = {}) {
    const user = randomUser()
    await post(url, '/register', user)
    const reply = await post(url, '/login', { ...user, remember, session: 'cookie' }, headers)
    t.equal(reply.status, 200)
    return { user, reply, kept: keptOf(reply), token: reply.body.access_token as string }
  }
  const isLive = async (token: string) => (await getProtected(url, token)).status === 200
  return { url, clock, enter, isLive }
}

const cookiesOf = ({ headers }: Reply) => headers.getSetCookie()
/** The refresh token in it. */
const keptOf = (reply: Reply) => /=([\w-]{43});/.exec(cookiesOf(reply)[0] ?? '')?.[1] as string
const cookie = (value: string) => ({ cookie: `theme=dark; ${name}=${value}`, ...fromApp })

t.test('the refresh token is in a cookie that no script can read, and nowhere else', async (t) => {
  const { url, enter } = await world(t)
  const { reply, kept, token } = await enter()
  const { body, headers } = reply
  t.strictSame(Object.keys(body).sort(), [
    'access_token',
    'expires_in',
    'refresh_expires_in',
    'session_id',
    'token_type',
  ])
  t.strictSame(
    cookiesOf(reply),
    [`${name}=${kept}; Path=/; HttpOnly; Secure; SameSite=Strict`],
    'gone with the browser',
  )
  t.equal(headers.get('cache-control'), 'no-store')

  const remembered = await enter({ remember: true })
  const lifetime = 2_592_000
  t.equal(remembered.reply.body.refresh_expires_in, lifetime)
  t.strictSame(cookiesOf(remembered.reply), [
    `${name}=${remembered.kept}; Max-Age=${lifetime}; Path=/; HttpOnly; Secure; SameSite=Strict`,
  ])

  for (const body of [undefined, {}]) {
    const renewed = await post(url, '/refresh', body, cookie(kept))
    t.equal(renewed.status, 200)
    t.notOk('refresh_token' in renewed.body)
    t.equal(renewed.body.session_id, reply.body.session_id)
    t.not(keptOf(renewed), kept, 'a new one each time')
    t.strictSame(cookiesOf(renewed), [
      `${name}=${keptOf(renewed)}; Path=/; HttpOnly; Secure; SameSite=Strict`,
    ])
  }
  const again = await post(url, '/refresh', undefined, cookie(remembered.kept))
  t.match(cookiesOf(again)[0], /; Max-Age=2592000;/, 'still remembered')
  t.equal((await getProtected(url, token)).status, 200)
})

t.test('who does not ask for a cookie gets none', async (t) => {
  const { url } = await world(t)
  const user = randomUser()
  await post(url, '/register', user)
  for (const body of [user, { ...user, session: 'body' }]) {
    const reply = await post(url, '/login', body, fromApp)
    t.ok(reply.body.refresh_token)
    const renewed = await refresh(url, reply.body.refresh_token)
    t.ok(renewed.body.refresh_token)
    t.strictSame([...cookiesOf(reply), ...cookiesOf(renewed)], [])
  }
  t.match(await post(url, '/login', { ...user, session: 'header' }, fromApp), {
    status: 400,
    body: { code: 'invalid_request' },
  })
})

t.test('a lost reply is repeated into the cookie, and a stolen cookie ends the session', async (t) => {
  const { url, clock, enter, isLive } = await world(t)
  const { kept, token } = await enter()
  const lost = await post(url, '/refresh', undefined, cookie(kept))
  const repeated = await post(url, '/refresh', undefined, cookie(kept))
  t.equal(keptOf(repeated), keptOf(lost), 'never a second branch')
  t.equal((await post(url, '/refresh', undefined, cookie(keptOf(repeated)))).status, 200)
  clock.advance(31)
  const stolen = await post(url, '/refresh', undefined, cookie(kept))
  t.strictSame(refusalOf(stolen), refusal('refresh_token_reused'))
  t.notOk(await isLive(token))
})

t.test('a page of another site can neither enter, nor stay, nor leave by the cookie', async (t) => {
  const { url, enter, isLive } = await world(t)
  const { user, kept, token } = await enter()
  const strangers: Record<string, Record<string, string>> = {
    'another origin': { origin: 'https://evil.test' },
    'an origin that ends alike': { origin: `https://evil-${app.slice(8)}` },
    'one that begins alike': { origin: `${app}.evil.test` },
    'the same by http': { origin: app.replace('https', 'http') },
    'with a port': { origin: `${app}:8443` },
    'a sandboxed page': { origin: 'null' },
    'an empty origin': { origin: '' },
    'two origins': { origin: `${app}, ${app}` },
    'nothing said': {},
    'a sibling host': { 'sec-fetch-site': 'same-site' },
    'another site by Fetch Metadata': { 'sec-fetch-site': 'cross-site' },
    'a listed origin of another site': { ...fromApp, 'sec-fetch-site': 'cross-site' },
    'typed into the address bar': { 'sec-fetch-site': 'none' },
  }
  for (const [who, headers] of Object.entries(strangers)) {
    const sent = { cookie: `${name}=${kept}`, ...headers }
    const replies = await Promise.all([
      post(url, '/login', { ...user, session: 'cookie' }, headers),
      post(url, '/refresh', undefined, sent),
      ...['session', 'others', 'all'].map((scope) => post(url, `/logout?scope=${scope}`, undefined, sent)),
      post(url, '/logout', undefined, { ...sent, ...bearer(token) }),
    ])
    for (const reply of replies) {
      t.strictSame(refusalOf(reply), crossSite, who)
      t.strictSame(cookiesOf(reply), [], `${who}: and the cookie stays as it is`)
    }
  }
  t.ok(await isLive(token))
  for (const headers of [
    { origin: ours },
    { 'sec-fetch-site': 'same-origin' },
    { ...fromApp, 'sec-fetch-site': 'same-site' },
  ])
    t.equal((await post(url, '/refresh', undefined, { cookie: `${name}=${kept}`, ...headers })).status, 200)
  t.equal((await enter({ headers: { origin: ours } })).reply.status, 200)
})

t.test('to leave takes the cookie, or the access token, or both of one session', async (t) => {
  const { url, enter, isLive } = await world(t)
  const cleared = [
    `${name}=; Max-Age=0; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Secure; SameSite=Strict`,
  ]

  for (const withToken of [false, true]) {
    for (const scope of ['session', 'all']) {
      const { kept, token } = await enter()
      const headers = { ...cookie(kept), ...(withToken && bearer(token)) }
      const left = await post(url, `/logout?scope=${scope}`, undefined, headers)
      t.equal(left.status, 204, `${scope}, ${withToken}`)
      t.strictSame(cookiesOf(left), cleared)
      t.notOk(await isLive(token))
    }
    const { user, kept, token } = await enter()
    const other = await logIn(url, user)
    const left = await post(url, '/logout?scope=others', undefined, {
      ...cookie(kept),
      ...(withToken && bearer(token)),
    })
    t.equal(left.status, 204)
    t.strictSame(cookiesOf(left), [], 'this one stays')
    t.strictSame([await isLive(token), await isLive(other.token)], [true, false])
  }

  const [one, another] = [await enter(), await enter()]
  const mixed = await post(url, '/logout', undefined, { ...cookie(one.kept), ...bearer(another.token) })
  t.strictSame(
    refusalOf(mixed),
    refusal('invalid_request', 'The access token and the cookie are of different sessions.'),
  )
  t.ok((await isLive(one.token)) && (await isLive(another.token)), 'neither has ended')
  const forged = await post(url, '/logout', undefined, {
    ...cookie('x'.repeat(43)),
    ...bearer(another.token),
  })
  t.equal(forged.status, 204, 'a cookie of no session is none')
  t.notOk(await isLive(another.token))
})

t.test(
  'a cookie that is missing, forged, old, or not alone is refused, and leaving clears it all the same',
  async (t) => {
    const { url, enter } = await world(t)
    const invalid = refusal('refresh_token_invalid')
    const { kept, token } = await enter()
    const { kept: dead } = await enter()
    t.equal((await post(url, '/logout', undefined, cookie(dead))).status, 204)

    for (const headers of [
      {},
      fromApp,
      { ...fromApp, cookie: 'theme=dark' },
      { ...fromApp, cookie: `latchkey=${kept}` },
    ]) {
      t.strictSame(refusalOf(await post(url, '/refresh', undefined, headers)), invalid)
      t.strictSame(refusalOf(await post(url, '/logout', undefined, headers)), refusal('missing_token'))
    }
    for (const value of ['', 'x', 'x'.repeat(43), '%00', '%', `${kept}x`, token, '"', '\u00e9', dead]) {
      t.strictSame(refusalOf(await post(url, '/refresh', undefined, cookie(value))), invalid, value)
      if (value === dead) continue
      const left = await post(url, '/logout', undefined, cookie(value))
      t.strictSame(refusalOf(left), value === '' ? refusal('missing_token') : invalid, value)
      t.match(cookiesOf(left)[0], /^__Host-latchkey=; Max-Age=0/, `cleared: ${value}`)
    }

    const { refreshToken } = await registerAndLogIn(url)
    for (const path of ['/refresh', '/logout']) {
      const both = await post(url, path, { refresh_token: refreshToken }, cookie(kept))
      t.match(both, { status: 400, body: { code: 'invalid_request' } }, path)
    }
    t.equal((await refresh(url, kept)).status, 200, 'nothing was used up')
    t.strictSame(refusalOf(await getProtected(url, kept)), refusal('token_invalid'), 'it is no access token')
  },
)

t.test('whatever keeps a logout from being done, the cookie is cleared', async (t) => {
  const stores = await postgresAndRedis(t)
  const relay = await startRelay(t, stores.env.DATABASE_URL as string)
  const { url } = await startInstance(t, {
    stores,
    env: { DATABASE_URL: relay.url, CORS_ORIGINS: app, RATE_MAX: '5', RATE_WINDOW_SECONDS: '60' },
  })
  const user = randomUser()
  await post(url, '/register', user)
  const kept = keptOf(await post(url, '/login', { ...user, session: 'cookie' }, fromApp))
  relay.cut()
  for (const code of ['unavailable', 'unavailable', 'unavailable', 'rate_limited'] as const) {
    const left = await post(url, '/logout', undefined, cookie(kept))
    t.equal(left.body.code, code, 'it says so')
    t.match(cookiesOf(left)[0], /^__Host-latchkey=; Max-Age=0/)
    t.equal(left.headers.get('access-control-allow-origin'), app)
  }
})

t.test('by http there is a cookie at home only', async (t) => {
  const stores = await postgresAndRedis(t)
  for (const issuer of [
    'http://localhost:3000',
    'http://127.0.0.1:3000',
    'http://[::1]:3000',
    'http://auth.localhost',
  ]) {
    const { enter } = await world(t, { ISSUER: issuer }, stores)
    const { reply, kept } = await enter()
    t.strictSame(cookiesOf(reply), [`latchkey=${kept}; Path=/; HttpOnly; SameSite=Strict`], issuer)
  }
  for (const issuer of [
    'http://auth.test',
    'http://192.0.2.1:3000',
    'http://localhost.evil.test',
    'http://evillocalhost',
  ]) {
    const { url } = await world(t, { ISSUER: issuer }, stores)
    const user = randomUser()
    await post(url, '/register', user)
    const reply = await post(url, '/login', { ...user, session: 'cookie' }, fromApp)
    t.strictSame(
      refusalOf(reply),
      refusal('invalid_request', 'Without https there is no session in a cookie.'),
      issuer,
    )
    t.equal((await post(url, '/login', user, fromApp)).status, 200)
  }
})

t.test('a page of a listed origin sees all replies, and no other page sees any', async (t) => {
  const { url } = await world(t, { RATE_MAX: '3', RATE_WINDOW_SECONDS: '60' })
  const exposed = 'WWW-Authenticate, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset'
  const corsOf = ({ headers }: Reply) => ({
    origin: headers.get('access-control-allow-origin'),
    credentials: headers.get('access-control-allow-credentials'),
    exposed: headers.get('access-control-expose-headers'),
    vary: headers.get('vary'),
  })
  const asks: [number, () => (headers: Record<string, string>) => Promise<Reply>][] = [
    [200, () => (headers) => call(url, '/health/live', { headers })],
    [401, () => (headers) => call(url, '/protected', { headers })],
    [404, () => (headers) => call(url, '/nowhere', { headers })],
    [405, () => (headers) => post(url, '/protected', undefined, headers)],
    [400, () => (headers) => post(url, '/login', {}, headers)],
    [429, () => (headers) => post(url, '/login', {}, headers)],
  ]
  for (const [status, ask] of asks) {
    const seen = await ask()(fromApp)
    if (status !== 429) t.equal(seen.status, status)
    t.strictSame(corsOf(seen), { origin: app, credentials: 'true', exposed, vary: 'Origin' }, `${status}`)
    for (const origin of ['https://evil.test', 'null', `${app}.evil.test`, app.toUpperCase()])
      t.strictSame(
        corsOf(await ask()({ origin })),
        { origin: null, credentials: null, exposed: null, vary: 'Origin' },
        `${status}, ${origin}`,
      )
  }
  t.equal((await post(url, '/login', {}, fromApp)).status, 429)

  const preflight = (origin: string, path = '/login') =>
    call(url, path, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,content-type',
      },
    })
  for (const path of ['/login', '/sessions/x', '/admin/users', '/oauth2/token', '/nowhere']) {
    const { status, headers, body } = await preflight(app, path)
    t.strictSame([status, body], [204, ''], path)
    t.strictSame(
      ['origin', 'credentials', 'methods', 'headers'].map((name) =>
        headers.get(`access-control-allow-${name}`),
      ),
      [app, 'true', 'GET, HEAD, POST, PUT, PATCH, DELETE', 'authorization,content-type'],
    )
    t.equal(headers.get('access-control-max-age'), '7200')
  }
  const bare = await call(url, '/login', { method: 'OPTIONS', headers: fromApp })
  t.strictSame([bare.status, bare.body], [204, ''], 'one that asks for nothing')
  const stranger = await preflight('https://evil.test')
  t.strictSame([stranger.status, corsOf(stranger).origin], [405, null])
  t.equal((await preflight(app, '/forward-auth')).status, 401, 'which is the answer to another question')
})

t.test('without CORS_ORIGINS only its own pages use it', async (t) => {
  const { url, enter } = await world(t, { CORS_ORIGINS: '' })
  const { headers } = await call(url, '/health/live', { headers: fromApp })
  t.strictSame(
    [...headers.keys()].filter((name) => name.startsWith('access-control')),
    [],
  )
  t.equal((await call(url, '/login', { method: 'OPTIONS', headers: fromApp })).status, 405)
  t.equal((await enter({ headers: { origin: ours } })).reply.status, 200)
  const { user } = await enter({ headers: { 'sec-fetch-site': 'same-origin' } })
  t.strictSame(refusalOf(await post(url, '/login', { ...user, session: 'cookie' }, fromApp)), crossSite)
})
