/** What takes the password once more: that a live session is not enough, that a proof is worth it, and what a new password ends. */
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { issuer, type Stores, withClient } from './fixtures/app.ts'
import {
  bearer,
  call,
  getProtected,
  type LoggedIn,
  logIn,
  logOut,
  post,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Pair, startPair } from './fixtures/pair.ts'

const newPassword = 'three blind mice went sailing'

const reauthenticate = (url: string, token: string, password: string) =>
  post(url, '/reauthenticate', { password }, bearer(token))

const changePassword = (
  url: string,
  { token, password }: Pick<LoggedIn, 'token' | 'password'>,
  chosen = newPassword,
  headers: Record<string, string> = {},
): Promise<Reply> =>
  call(url, '/me/password', {
    method: 'PUT',
    headers: { 'content-type': 'application/json', ...bearer(token), ...headers },
    body: JSON.stringify({ current_password: password, new_password: chosen }),
  })

const endOne = (url: string, token: string, sid: string) =>
  call(url, `/sessions/${sid}`, { method: 'DELETE', headers: bearer(token) })

async function assertLive(t: Test, { a, b }: Pair, tokens: string[], name: string): Promise<void> {
  for (const { url } of [a, b])
    for (const token of tokens) t.equal((await getProtected(url, token)).status, 200, name)
}

async function assertDead(t: Test, { a, b }: Pair, tokens: string[], name: string): Promise<void> {
  for (const { url } of [a, b])
    for (const token of tokens)
      t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_revoked'), name)
}

t.test('a session that is older than its proof ends nobody else’s and changes no password', async (t) => {
  const w = await startPair(t)
  const { a, b, clock } = w
  const user = await registerAndLogIn(a.url)
  const other = await logIn(a.url, user)
  clock.advance(600)
  const third = await logIn(b.url, user)
  t.equal((await endOne(a.url, user.token, third.sid)).status, 204, 'at ten minutes it still may')

  clock.advance(1)
  const stale = refusal('reauthentication_required')
  const headers = bearer(user.token)
  for (const { url } of [a, b]) {
    t.strictSame(refusalOf(await endOne(url, user.token, other.sid)), stale, 'one other')
    t.strictSame(refusalOf(await post(url, '/logout?scope=others', undefined, headers)), stale, 'all others')
    const byRefreshToken = { refresh_token: user.refreshToken }
    t.strictSame(
      refusalOf(await post(url, '/logout?scope=others', byRefreshToken)),
      stale,
      'by a refresh token',
    )
    t.strictSame(refusalOf(await changePassword(url, user)), stale, 'the password')
  }
  await assertLive(t, w, [user.token, other.token], 'nothing has ended')
  t.equal((await logIn(a.url, user)).username, user.username, 'nor changed')

  const { body } = await refresh(a.url, user.refreshToken)
  t.strictSame(
    refusalOf(await endOne(a.url, body.access_token, other.sid)),
    stale,
    'a refresh proves nothing',
  )
  t.equal((await endOne(a.url, other.token, other.sid)).status, 204, 'whoever goes needs no proof')
  t.equal((await post(b.url, '/logout?scope=all', undefined, bearer(body.access_token))).status, 204)
})

t.test('how long a proof is fresh can be set', async (t) => {
  const { a, clock } = await startPair(t, { FRESH_SECONDS: '60' })
  const user = await registerAndLogIn(a.url)
  clock.advance(61)
  const { headers } = await changePassword(a.url, user)
  t.match(headers.get('www-authenticate'), /, max_age="60"$/)
})

t.test(
  'a proof makes the session fresh, and the token that asked for it is dead when it is given',
  async (t) => {
    const w = await startPair(t)
    const { a, b, clock } = w
    const user = await registerAndLogIn(a.url)
    const other = await logIn(a.url, user)
    clock.advance(700)
    const wrong = await reauthenticate(a.url, user.token, 'not my password at all')
    t.strictSame(refusalOf(wrong), refusal('invalid_current_password'))
    await assertLive(t, w, [user.token], 'whoever is wrong loses nothing')

    const { status, headers, body } = await reauthenticate(a.url, user.token, user.password)
    t.equal(status, 200)
    t.equal(headers.get('cache-control'), 'no-store')
    t.strictSame(Object.keys(body).sort(), [
      'access_token',
      'expires_in',
      'refresh_expires_in',
      'session_id',
      'token_type',
    ])
    await assertDead(t, w, [user.token], 'everywhere')
    const [before, after] = [decodeJwt(user.token), decodeJwt(body.access_token)]
    const now = Math.floor(clock.now() / 1000)
    t.match(after, { sid: before.sid, sub: before.sub, ver: 1, auth_time: now, amr: ['pwd'], acr: 'aal1' })

    const refreshed = await refresh(b.url, user.refreshToken)
    t.equal(refreshed.status, 200, 'the refresh token is what it was')
    t.equal(decodeJwt(refreshed.body.access_token).auth_time, now, 'and knows of the proof')
    t.equal((await endOne(b.url, body.access_token, other.sid)).status, 204)
  },
)

t.test('a new password ends whatever was issued before, and this session goes on', async (t) => {
  const w = await startPair(t)
  const { a, b } = w
  const user = await registerAndLogIn(a.url)
  const sibling = await refresh(a.url, user.refreshToken)
  const others = [await logIn(a.url, user), await logIn(b.url, user)]
  const stranger = await registerAndLogIn(a.url)

  const { status, headers, body } = await changePassword(a.url, user)
  t.equal(status, 200)
  t.equal(headers.get('cache-control'), 'no-store')
  await assertDead(
    t,
    w,
    [user.token, sibling.body.access_token, ...others.map(({ token }) => token)],
    'tokens',
  )
  for (const token of [
    user.refreshToken,
    sibling.body.refresh_token,
    ...others.map((one) => one.refreshToken),
  ])
    t.strictSame(refusalOf(await refresh(b.url, token)), refusal('refresh_token_invalid'), 'refresh tokens')
  await assertLive(t, w, [body.access_token, stranger.token], 'and what an old one did ends nothing')
  t.equal(body.session_id, user.sid)
  t.match(decodeJwt(body.access_token), { sid: user.sid, ver: 2 })

  const renewed = await refresh(b.url, body.refresh_token)
  t.equal(renewed.status, 200)
  t.equal(decodeJwt(renewed.body.access_token).ver, 2)
  const { body: listed } = await call(a.url, '/sessions', { headers: bearer(renewed.body.access_token) })
  t.strictSame(
    listed.sessions.map(({ id }: { id: string }) => id),
    [user.sid],
  )
  t.strictSame(refusalOf(await post(b.url, '/login', credentials(user))), refusal('invalid_credentials'))
  t.ok((await logIn(b.url, { ...user, password: newPassword })).token)
})

const credentials = ({ username, password }: Pick<LoggedIn, 'username' | 'password'>) => ({
  username,
  password,
})

t.test('a password that is not changed ends nothing', async (t) => {
  const w = await startPair(t)
  const { a } = w
  const user = await registerAndLogIn(a.url)
  const wrong = await changePassword(a.url, { ...user, password: 'not my password at all' })
  t.strictSame(refusalOf(wrong), refusal('invalid_current_password'))
  for (const weak of ['too short', 'passwordpassword', `it is ${user.username}!`])
    t.match((await changePassword(a.url, user, weak)).body, { status: 422, code: 'weak_password' })
  t.equal((await changePassword(a.url, user, 'x'.repeat(257))).status, 400)
  await assertLive(t, w, [user.token], 'nothing')
  t.equal((await refresh(a.url, user.refreshToken)).status, 200)
  t.ok((await logIn(a.url, user)).token)
})

t.test('where the session is in a cookie, its new refresh token is too', async (t) => {
  const { a, b } = await startPair(t)
  const { url } = a
  const user = await registerAndLogIn(url)
  const origin = { origin: issuer }
  const login = await post(url, '/login', { ...credentials(user), session: 'cookie' }, origin)
  const cookie = login.headers.getSetCookie()[0]?.split(';')[0] as string
  const kept = { token: login.body.access_token, password: user.password }

  const strange = await changePassword(url, kept, newPassword, { cookie, origin: 'https://evil.test' })
  t.strictSame(refusalOf(strange), refusal('cross_site'))
  const mixed = await changePassword(url, user, newPassword, { cookie, ...origin })
  t.strictSame(
    refusalOf(mixed),
    refusal('invalid_request', 'The access token and the cookie are of different sessions.'),
  )
  const { status, headers, body } = await changePassword(url, kept, newPassword, { cookie, ...origin })
  t.equal(status, 200)
  t.notOk('refresh_token' in body)
  const renewed = headers.getSetCookie()[0]?.split(';')[0] as string
  t.equal((await post(b.url, '/refresh', undefined, { cookie: renewed, ...origin })).status, 200)
  t.equal((await post(b.url, '/refresh', undefined, { cookie, ...origin })).status, 401)
})

t.test(
  'a password is changed by one of those who try at once, and by nobody who was logged out',
  async (t) => {
    const w = await startPair(t)
    const { a, b, stores } = w
    const user = await registerAndLogIn(a.url)
    let { password } = user
    for (const name of ['of two sessions', 'of one']) {
      const one = await logIn(a.url, { ...user, password })
      const two = name === 'of one' ? one : await logIn(b.url, { ...user, password })
      const replies = await Promise.all([
        changePassword(a.url, one, `${newPassword}, one ${name}`),
        changePassword(b.url, two, `${newPassword}, two ${name}`),
      ])
      t.strictSame(replies.map(({ status }) => status).sort(), [200, 401], name)
      const loser = replies.find(({ status }) => status === 401) as Reply
      t.strictSame(refusalOf(loser), refusal('token_revoked'), name)
      password = `${newPassword}, ${replies[0]?.status === 200 ? 'one' : 'two'} ${name}`
    }
    const mine = await logIn(a.url, { ...user, password })

    // Both have passed the guard, and wait for the account.
    for (const [name, ask] of Object.entries({
      'a new password': () => changePassword(a.url, { ...mine, password }),
      'a proof': () => reauthenticate(a.url, mine.token, password),
    })) {
      const session = await logIn(a.url, { ...user, password })
      mine.token = session.token
      await withClient(stores.env.DATABASE_URL as string, async (client) => {
        await client.query('begin')
        await client.query('select from users where id = $1 for update', [user.id])
        const asking = ask()
        await waitForLocks(t, stores, 1)
        await client.query('update sessions set ended_at = now() where id = $1', [session.sid])
        await client.query('commit')
        t.strictSame(refusalOf(await asking), refusal('token_revoked'), `${name}, after a logout`)
      })
    }
    t.ok((await logIn(a.url, { ...user, password })).token, 'and the password is what it was')
  },
)

/** From a connection of its own: within a transaction, the statistics stand still. */
async function waitForLocks(t: Test, { env }: Stores, count: number): Promise<void> {
  const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
  await withClient(env.DATABASE_URL as string, (watcher) =>
    eventually(t, async () => (await watcher.query(waiting)).rowCount === count),
  )
}

t.test('a proof by the old password that is under way comes to nothing', async (t) => {
  const w = await startPair(t)
  const { a, b, stores } = w
  const user = await registerAndLogIn(a.url)
  await withClient(stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    await client.query('select from users where id = $1 for update', [user.id])
    const changing = changePassword(a.url, user)
    await waitForLocks(t, stores, 1)
    const proving = reauthenticate(b.url, user.token, user.password)
    await waitForLocks(t, stores, 2)
    await client.query('commit')
    t.equal((await changing).status, 200)
    t.strictSame(refusalOf(await proving), refusal('token_revoked'))
  })
})

t.test('a login with the old password that is under way comes to nothing', async (t) => {
  const { a, b, stores } = await startPair(t)
  const user = await registerAndLogIn(a.url)
  await withClient(stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    await client.query('select from users where id = $1 for no key update', [user.id])
    const changing = changePassword(a.url, user)
    await waitForLocks(t, stores, 1)
    const entering = post(b.url, '/login', credentials(user))
    await waitForLocks(t, stores, 2)
    await client.query('commit')
    t.equal((await changing).status, 200)
    t.strictSame(refusalOf(await entering), refusal('invalid_credentials'))
  })
})

t.test('guesses at the password of a session are counted, wherever they are made', async (t) => {
  const { a } = await startPair(t, { LOGIN_RATE_MAX: '3', LOGIN_RATE_WINDOW_SECONDS: '900' })
  const { url } = a
  const user = await registerAndLogIn(url)
  for (let guess = 0; guess < 3; guess++) {
    const wrong =
      guess % 2
        ? reauthenticate(url, user.token, `${guess}`)
        : changePassword(url, { ...user, password: 'x' })
    t.equal((await wrong).status, 403)
  }
  t.equal((await reauthenticate(url, user.token, user.password)).body.code, 'rate_limited')
  t.equal((await changePassword(url, user)).body.code, 'rate_limited')
  t.equal((await logOut(url, user.token)).status, 204, 'and to leave takes none')
})

t.test('a proof is told in the log, and no password is', async (t) => {
  const { a } = await startPair(t)
  const user = await registerAndLogIn(a.url)
  await reauthenticate(a.url, user.token, 'not my password at all')
  const { body } = await reauthenticate(a.url, user.token, user.password)
  await changePassword(a.url, { ...user, token: body.access_token })
  const log = a.log.join('')
  for (const event of ['reauthentication.failed', 'session.reauthenticated', 'account.password_changed'])
    t.match(log, new RegExp(`"event":"${event}","sub":"${user.id}","sid":"${user.sid}"`))
  for (const secret of [user.password, newPassword, 'not my password at all', body.access_token])
    t.notOk(log.includes(secret))
})
