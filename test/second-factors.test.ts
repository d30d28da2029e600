/** Authenticator apps: what a login takes, that no code works twice, and that nobody takes a factor away who has not shown it. */
import { pbkdf2Sync } from 'node:crypto'
import { decodeJwt } from 'jose'
import { TOTP, URI } from 'otpauth'
import t, { type Test } from 'tap'
import { issuer, withClient } from './fixtures/app.ts'
import {
  bearer,
  call,
  createService,
  getProtected,
  type LoggedIn,
  logIn,
  post,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Pair, startPair } from './fixtures/pair.ts'
import { runCli } from './fixtures/process.ts'
import { giveFactor } from './fixtures/second-factor.ts'

interface Enrolled extends LoggedIn {
  /** What the app shows, by default now. */
  code(at?: number): string
  recoveryCodes: string[]
}

const appOf = (uri: string) => URI.parse(uri) as TOTP

const enrol = (url: string, token: string) => post(url, '/mfa/totp', undefined, bearer(token))
const confirm = (url: string, token: string, code: string) =>
  post(url, '/mfa/totp/verify', { code }, bearer(token))
const remove = (url: string, token: string) =>
  call(url, '/mfa/totp', { method: 'DELETE', headers: bearer(token) })
const reauthenticate = (url: string, token: string, body: object) =>
  post(url, '/reauthenticate', body, bearer(token))
const complete = (url: string, mfa_token: string, code: string, more: object = {}) =>
  post(url, '/login/mfa', { mfa_token, code, ...more })

/** Somebody with an app. The step of the code that confirmed it is over. */
async function enrolled({ a, clock }: Pair): Promise<Enrolled> {
  const user = await registerAndLogIn(a.url)
  const { body } = await enrol(a.url, user.token)
  const app = appOf(body.otpauth_uri)
  const code = (at = clock.now()) => app.generate({ timestamp: at })
  const confirmed = await confirm(a.url, user.token, code())
  if (confirmed.status !== 200) throw new Error(`not confirmed: ${JSON.stringify(confirmed.body)}`)
  clock.advance(60)
  return { ...user, code, recoveryCodes: confirmed.body.recovery_codes }
}

/** The first half of a login. */
async function challenged(url: string, { username, password }: LoggedIn): Promise<string> {
  const { status, body } = await post(url, '/login', { username, password })
  if (status !== 403) throw new Error(`not challenged: ${status}`)
  return body.mfa_token
}

/** Both halves, with a code that was not used before. */
async function logInWith(w: Pair, user: Enrolled, code?: string): Promise<Reply> {
  w.clock.advance(30)
  return await complete(w.b.url, await challenged(w.a.url, user), code ?? user.code())
}

t.test('an app is set up by a URI or a picture, and counts when it has shown a code', async (t) => {
  const { a, query } = await startPair(t, { SERVICE_NAME: 'Ye Olde Orders' })
  const user = await registerAndLogIn(a.url)
  const none = { methods: [], recovery_codes_left: 0 }
  const summary = async () => (await call(a.url, '/mfa', { headers: bearer(user.token) })).body
  t.strictSame(await summary(), none)

  const { status, headers, body } = await enrol(a.url, user.token)
  t.equal(status, 201)
  t.equal(headers.get('cache-control'), 'no-store')
  const app = appOf(body.otpauth_uri)
  t.ok(app instanceof TOTP)
  t.match(app, { issuer: 'Ye Olde Orders', label: user.username, algorithm: 'SHA1', digits: 6, period: 30 })
  t.equal(app.secret.base32, body.secret)
  t.equal(app.secret.bytes.length, 20, '160 bits')
  t.match(body.qr_svg, /^<svg .*<\/svg>\s*$/s)
  t.strictSame(await summary(), none, 'it does not count yet')
  t.ok((await logIn(a.url, user)).token, 'nor does a login take it')

  t.strictSame(refusalOf(await confirm(a.url, user.token, '000 00x')), refusal('invalid_code'))
  const confirmed = await confirm(a.url, user.token, app.generate())
  t.equal(confirmed.status, 200)
  t.equal(confirmed.headers.get('cache-control'), 'no-store')
  t.strictSame(await summary(), { methods: ['totp', 'recovery_code'], recovery_codes_left: 10 })
  t.strictSame(refusalOf(await enrol(a.url, user.token)), refusal('already_enrolled'))
  t.equal((await getProtected(a.url, user.token)).status, 200, 'the session goes on')

  // Whoever reads the tables can present nothing of it.
  const kept = JSON.stringify([
    await query('select * from totp_factors'),
    await query('select * from recovery_codes'),
  ])
  const raw = Buffer.from(app.secret.bytes)
  for (const secret of [body.secret, ...confirmed.body.recovery_codes, raw.toString('hex'), [...raw].join()])
    t.notOk(kept.includes(secret))
  const [{ sealed_secret } = {}] = await query('select sealed_secret from totp_factors')
  t.notOk((sealed_secret as Buffer).includes(raw))
  const log = a.log.join('')
  t.match(log, /"event":"factor.enrolled"/)
  for (const secret of [body.secret, app.generate(), ...confirmed.body.recovery_codes])
    t.notOk(log.includes(`"${secret}"`))
})

t.test('of two enrolments at once the last one that was begun can be confirmed', async (t) => {
  const { a, b, clock } = await startPair(t)
  const user = await registerAndLogIn(a.url)
  const [one, two] = [await enrol(a.url, user.token), await enrol(b.url, user.token)]
  t.not(one.body.secret, two.body.secret)
  const codeOf = ({ body }: Reply) => appOf(body.otpauth_uri).generate({ timestamp: clock.now() })
  t.strictSame(refusalOf(await confirm(a.url, user.token, codeOf(one))), refusal('invalid_code'))
  const replies = await Promise.all([
    confirm(a.url, user.token, codeOf(two)),
    confirm(b.url, user.token, codeOf(two)),
  ])
  t.strictSame(replies.map(({ status }) => status).sort(), [200, 403], 'once')
  const left = await call(a.url, '/mfa', { headers: bearer(user.token) })
  t.equal(left.body.recovery_codes_left, 10)

  const other = await registerAndLogIn(a.url)
  const many = await Promise.all(
    Array.from({ length: 6 }, (_, i) => enrol([a, b][i % 2]?.url as string, other.token)),
  )
  t.ok(many.every(({ status }) => status === 201))
  const statuses: number[] = []
  for (const begun of many) statuses.push((await confirm(a.url, other.token, codeOf(begun))).status)
  t.equal(statuses.filter((status) => status === 200).length, 1, 'whoever was last')
})

t.test('an enrolment that begins while another is confirmed is not confirmed by that', async (t) => {
  const w = await startPair(t)
  const { a, clock, stores, query } = w
  const user = await registerAndLogIn(a.url)
  const app = appOf((await enrol(a.url, user.token)).body.otpauth_uri)
  await withClient(stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    await client.query(`update totp_factors set sealed_secret = 'another one'`)
    const confirming = confirm(a.url, user.token, app.generate({ timestamp: clock.now() }))
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
    await eventually(t, async () => (await query(waiting)).length > 0)
    await client.query('commit')
    t.strictSame(refusalOf(await confirming), refusal('invalid_code'))
  })
})

t.test('with an app, a login takes a code of it, and its tokens say so', async (t) => {
  const w = await startPair(t)
  const { a, b, clock, query } = w
  const user = await enrolled(w)
  const before = (await query('select id from sessions')).length
  const { username, password } = user
  const first = await post(a.url, '/login', { username, password, remember: true })
  t.equal(first.status, 403)
  t.equal(first.headers.get('cache-control'), 'no-store')
  const { mfa_token, methods, ...problem } = first.body
  t.match(problem, { code: 'mfa_required', status: 403 })
  t.match(mfa_token, /^[\w-]{43}$/)
  t.strictSame(methods, ['totp', 'recovery_code'])
  t.notOk('access_token' in first.body)
  t.equal((await query('select id from sessions')).length, before, 'no session has started')
  t.equal((await getProtected(a.url, mfa_token)).status, 401, 'it is good for nothing else')
  t.equal((await refresh(a.url, mfa_token)).status, 401)

  const spaced = user.code().replace(/(...)(...)/, ' $1 $2 ')
  const second = await complete(b.url, mfa_token, spaced)
  t.equal(second.status, 200)
  t.equal(second.headers.get('cache-control'), 'no-store')
  t.match(decodeJwt(second.body.access_token), {
    amr: ['pwd', 'otp', 'mfa'],
    acr: 'aal2',
    auth_time: Math.floor(clock.now() / 1000),
  })
  t.ok(second.body.refresh_expires_in > 86_400, 'it is remembered, as the first half asked')
  const renewed = await refresh(a.url, second.body.refresh_token)
  t.match(decodeJwt(renewed.body.access_token), { amr: ['pwd', 'otp', 'mfa'], acr: 'aal2' })

  const wrong = await post(a.url, '/login', { username, password: 'not my password at all' })
  t.strictSame(refusalOf(wrong), refusal('invalid_credentials'), 'who has no password learns of no factor')
  const basic = { authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` }
  t.equal((await post(a.url, '/login', undefined, basic)).body.code, 'mfa_required')

  const log = [...a.log, ...b.log].join('')
  t.match(log, /"event":"login.challenged"/)
  t.match(log, /"event":"login.succeeded",.*"amr":\["pwd","otp","mfa"\]/)
  t.notOk(log.includes(mfa_token))
})

t.test('the session may be in a cookie', async (t) => {
  const w = await startPair(t)
  const user = await enrolled(w)
  const token = await challenged(w.a.url, user)
  const strange = await complete(w.a.url, token, user.code(), { session: 'cookie' })
  t.strictSame(refusalOf(strange), refusal('cross_site'), 'the code is not used up by it')
  const { status, headers, body } = await post(
    w.a.url,
    '/login/mfa',
    { mfa_token: token, code: user.code(), session: 'cookie' },
    { origin: issuer },
  )
  t.equal(status, 200)
  t.notOk('refresh_token' in body)
  t.match(headers.getSetCookie()[0], /^__Host-latchkey=/)
})

t.test('a code is good in its step and in the next one, and never twice', async (t) => {
  const w = await startPair(t)
  const { a, b, clock } = w
  const user = await enrolled(w)
  const now = clock.now()
  const step = 30_000
  for (const [name, at] of Object.entries({
    'two steps old': now - 2 * step,
    'of a clock ahead': now + step,
  })) {
    const reply = await complete(a.url, await challenged(a.url, user), user.code(at))
    t.strictSame(refusalOf(reply), refusal('invalid_code'), name)
  }
  const slow = user.code(now - step)
  t.equal((await complete(a.url, await challenged(a.url, user), slow)).status, 200, 'the step before')
  t.strictSame(
    refusalOf(await complete(b.url, await challenged(b.url, user), slow)),
    refusal('invalid_code'),
    'twice',
  )

  const tokens = await Promise.all(Array.from({ length: 8 }, () => challenged(a.url, user)))
  const replies = await Promise.all(
    tokens.map((token, i) => complete([a, b][i % 2]?.url as string, token, user.code())),
  )
  t.equal(replies.filter(({ status }) => status === 200).length, 1, 'one of those who show it at once')
  for (const lost of replies.filter(({ status }) => status !== 200))
    t.strictSame(refusalOf(lost), refusal('invalid_code'))
  const older = await complete(a.url, await challenged(a.url, user), user.code(now - step))
  t.strictSame(refusalOf(older), refusal('invalid_code'), 'nor one from before the last that was used')
  const byProof = await reauthenticate(a.url, user.token, { password: user.password, code: user.code() })
  t.strictSame(refusalOf(byProof), refusal('invalid_code'), 'nor at another door')
})

t.test('a login that is over cannot be completed', async (t) => {
  const w = await startPair(t)
  const { a, b, clock, query } = w
  const user = await enrolled(w)
  const over = refusal('mfa_token_invalid')
  const other = await enrolled(w)

  const used = await challenged(a.url, user)
  t.equal((await complete(a.url, used, user.code())).status, 200)
  t.strictSame(refusalOf(await complete(b.url, used, user.recoveryCodes[0] as string)), over, 'used')
  clock.advance(30)

  const late = await challenged(a.url, user)
  clock.advance(301)
  t.strictSame(refusalOf(await complete(a.url, late, user.code())), over, 'after five minutes')

  const cut = await challenged(a.url, user)
  for (const rubbish of [cut.slice(0, -1), `${cut}x`, '', 'x', user.token, user.refreshToken])
    t.strictSame(refusalOf(await complete(a.url, rubbish, user.code())), over, 'truncated, or another kind')
  const foreign = await complete(a.url, await challenged(a.url, other), user.code())
  t.strictSame(refusalOf(foreign), refusal('invalid_code'), 'with somebody else’s code')

  for (const [name, change] of Object.entries({
    'a new generation': 'update users set generation = generation + 1 where id = $1',
    'a ban': `update users set status = 'disabled' where id = $1`,
  })) {
    const token = await challenged(a.url, user)
    await query(change, [user.id])
    t.strictSame(refusalOf(await complete(a.url, token, user.code())), over, `${name} in between`)
  }
  for (const wrong of [
    {},
    { code: '123456' },
    { mfa_token: cut },
    { mfa_token: cut, code: '' },
    { mfa_token: cut, code: 123456 },
  ])
    t.equal((await post(a.url, '/login/mfa', wrong)).body.code, 'invalid_request', JSON.stringify(wrong))
})

t.test('ten recovery codes stand in for the app, each once', async (t) => {
  const w = await startPair(t)
  const { a } = w
  const user = await enrolled(w)
  t.equal(new Set(user.recoveryCodes).size, 10)
  const [first = '', second = '', third = ''] = user.recoveryCodes
  t.match(first, /^[a-z2-7]{5}(-[a-z2-7]{5,6}){4}$/, '26 characters of Base32 have 128 bits')
  const { status, body } = await logInWith(w, user, first)
  t.equal(status, 200)
  t.match(decodeJwt(body.access_token), { amr: ['pwd', 'recovery_code', 'mfa'], acr: 'aal2' })
  t.strictSame(refusalOf(await logInWith(w, user, first)), refusal('invalid_code'), 'twice')
  const shouted = second.toUpperCase().replaceAll('-', ' ')
  t.equal((await logInWith(w, user, shouted)).status, 200, 'however it is typed')
  const other = await enrolled(w)
  t.strictSame(refusalOf(await logInWith(w, other, third)), refusal('invalid_code'), 'somebody else’s')

  const session = (await logInWith(w, user)).body
  const summary = async () => (await call(a.url, '/mfa', { headers: bearer(session.access_token) })).body
  t.equal((await summary()).recovery_codes_left, 8)
  const weak = await post(a.url, '/mfa/recovery-codes', undefined, bearer(user.token))
  t.equal(
    weak.body.code,
    'reauthentication_required',
    'who logged in before the app was there has not shown it',
  )
  t.match(weak.headers.get('www-authenticate'), /max_age="600", acr_values="aal2"$/)
  const renewed = await post(a.url, '/mfa/recovery-codes', undefined, bearer(session.access_token))
  t.equal(renewed.status, 200)
  t.equal(renewed.headers.get('cache-control'), 'no-store')
  t.equal((await summary()).recovery_codes_left, 10)
  t.strictSame(
    refusalOf(await logInWith(w, user, third)),
    refusal('invalid_code'),
    'the ones before are void',
  )
  t.equal((await logInWith(w, user, renewed.body.recovery_codes[9])).status, 200)
})

t.test('of those who complete one login at once one does, and no code of another is used up', async (t) => {
  const w = await startPair(t)
  const user = await enrolled(w)
  const token = await challenged(w.a.url, user)
  const codes = user.recoveryCodes.slice(0, 6)
  const replies = await Promise.all(
    codes.map((code, i) => complete([w.a, w.b][i % 2]?.url as string, token, code)),
  )
  t.equal(replies.filter(({ status }) => status === 200).length, 1)
  t.equal((await w.query('select hash from recovery_codes')).length, 9)
})

t.test('a session says no more of a factor that was taken away', async (t) => {
  const w = await startPair(t)
  const user = await enrolled(w)
  const { body } = await logInWith(w, user)
  t.equal((await remove(w.a.url, body.access_token)).status, 204)
  const renewed = await refresh(w.b.url, body.refresh_token)
  t.match(decodeJwt(renewed.body.access_token), { amr: ['pwd'], acr: 'aal1' })
})

t.test('a factor is changed by a fresh login alone, and taken away by whoever has shown it', async (t) => {
  const w = await startPair(t)
  const { a, b, clock } = w
  const user = await enrolled(w)
  const stale = refusal('reauthentication_required')
  const weak = await remove(a.url, user.token)
  t.equal(weak.body.code, 'reauthentication_required', 'a session from before')
  t.match(weak.headers.get('www-authenticate'), /acr_values="aal2"/)
  const session = (await logInWith(w, user)).body
  clock.advance(601)
  t.equal((await post(a.url, '/mfa/totp', { x: 1 }, bearer(session.access_token))).status, 400)
  for (const refused of [
    await enrol(a.url, user.token),
    await confirm(a.url, user.token, user.code()),
    await remove(a.url, session.access_token),
  ])
    t.equal(refused.body.code, stale.body.code)

  const { password } = user
  const unproven = await reauthenticate(a.url, session.access_token, { password })
  t.match(unproven.body, { code: 'mfa_required', methods: ['totp', 'recovery_code'] })
  t.notOk('mfa_token' in unproven.body, 'the code goes into the same request')
  const wrong = await reauthenticate(a.url, session.access_token, { password, code: '000000' })
  t.strictSame(refusalOf(wrong), refusal('invalid_code'))
  t.equal((await getProtected(b.url, session.access_token)).status, 200, 'whoever is wrong loses nothing')
  const proven = await reauthenticate(b.url, session.access_token, { password, code: user.code() })
  t.equal(proven.status, 200)
  t.match(decodeJwt(proven.body.access_token), { amr: ['pwd', 'otp', 'mfa'], acr: 'aal2' })

  t.equal((await remove(a.url, proven.body.access_token)).status, 204)
  t.ok((await logIn(b.url, user)).token, 'a login takes the password alone')
  t.strictSame(refusalOf(await remove(a.url, proven.body.access_token)), refusal('not_found'))
  t.match(a.log.join(''), /"event":"factor.removed"/)
  const again = await enrol(a.url, proven.body.access_token)
  t.equal(again.status, 201, 'and it can be set up anew')
  t.equal((await remove(a.url, proven.body.access_token)).status, 204, 'or left, before it was')
})

t.test(
  'a session that began before the app is raised by a proof, and a new password lowers none',
  async (t) => {
    const w = await startPair(t)
    const { a } = w
    const user = await enrolled(w)
    const raised = await reauthenticate(a.url, user.token, { password: user.password, code: user.code() })
    t.match(decodeJwt(raised.body.access_token), { acr: 'aal2' })
    const changed = await call(a.url, '/me/password', {
      method: 'PUT',
      headers: { ...bearer(raised.body.access_token), 'content-type': 'application/json' },
      body: JSON.stringify({
        current_password: user.password,
        new_password: 'three blind mice went sailing',
      }),
    })
    t.equal(changed.status, 200)
    const { auth_time } = decodeJwt(raised.body.access_token)
    t.match(decodeJwt(changed.body.access_token), { acr: 'aal2', amr: ['pwd', 'otp', 'mfa'], auth_time })
  },
)

t.test('a role can take a second factor, wherever it is demanded', async (t) => {
  const w = await startPair(t, { SECOND_FACTOR_ROLES: 'admin,auditor' })
  const { a, b, query } = w
  const user = await registerAndLogIn(a.url)
  await query(`update users set roles = '{admin,editor}' where id = $1`, [user.id])
  const plain = await logIn(a.url, user)
  const admin = (url: string, token: string) => call(url, '/admin/users', { headers: bearer(token) })
  const forward = (path: string, token: string) =>
    call(b.url, `/forward-auth${path}`, { headers: bearer(token) })
  for (const refused of [await admin(b.url, plain.token), await forward('/role/admin', plain.token)]) {
    t.match([refused.status, refused.body.code], [401, 'reauthentication_required'])
    t.equal(
      refused.headers.get('www-authenticate'),
      'Bearer realm="latchkey", error="insufficient_user_authentication", acr_values="aal2"',
    )
  }
  t.equal((await forward('/role/editor', plain.token)).status, 200, 'others do not')
  const service = await createService(a, 'introspect')
  const told = await call(b.url, '/oauth2/introspect', {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${service.id}:${service.secret}`).toString('base64')}` },
    body: new URLSearchParams({ token: plain.token }),
  })
  t.strictSame(told.body.roles, ['editor'], 'nor are those who ask about the token')
  t.equal(
    (await forward('', plain.token)).headers.get('x-auth-roles'),
    'editor',
    'applications are not told of it',
  )
  t.equal(
    (await forward('/role/auditor', plain.token)).body.code,
    'forbidden',
    'who does not have it is not asked',
  )

  const { body } = await enrol(a.url, plain.token)
  const app = appOf(body.otpauth_uri)
  await confirm(a.url, plain.token, app.generate({ timestamp: w.clock.now() }))
  w.clock.advance(30)
  const code = app.generate({ timestamp: w.clock.now() })
  const proven = await reauthenticate(a.url, plain.token, { password: user.password, code })
  const { access_token } = proven.body
  t.equal((await admin(b.url, access_token)).status, 200)
  t.equal((await forward('/role/admin', access_token)).status, 200)
  t.equal((await forward('', access_token)).headers.get('x-auth-roles'), 'admin,editor')
})

t.test('an admin takes a factor away from whoever has lost it', async (t) => {
  const w = await startPair(t)
  const { a, b, stores, query } = w
  const user = await enrolled(w)
  const root = await registerAndLogIn(a.url)
  await query(`update users set roles = '{admin}' where id = $1`, [root.id])
  const { token } = await logIn(a.url, root)
  const take = (id: string, by: string) =>
    call(b.url, `/admin/users/${id}/mfa`, { method: 'DELETE', headers: bearer(by) })
  t.strictSame(refusalOf(await take(user.id, user.token)), refusal('forbidden'))
  w.clock.advance(601)
  t.equal(
    (await take(root.id, token)).body.code,
    'reauthentication_required',
    'not by a token that was found',
  )
  const { body } = await reauthenticate(a.url, token, { password: root.password })
  t.equal((await take(user.id, body.access_token)).status, 204)
  t.ok((await logIn(a.url, user)).token)
  t.equal((await getProtected(a.url, user.token)).status, 200, 'its sessions go on')
  t.match(b.log.join(''), new RegExp(`"event":"factor.removed","sub":"${user.id}","by":"${root.id}"`))
  t.strictSame(refusalOf(await take(root.sid, body.access_token)), refusal('not_found'))

  const other = await enrolled(w)
  const env = { ...stores.env, ISSUER: 'https://auth.test' }
  const { code, stdout } = await runCli(t, ['users', 'remove-mfa', other.username], { env })
  t.strictSame([code, stdout], [0, 'removed\n'])
  t.ok((await logIn(a.url, other)).token)
})

/** Somebody whose password takes a second to check, as others hashed it. */
async function slow({ a, query }: Pair) {
  const user = await registerAndLogIn(a.url)
  const hash = pbkdf2Sync(user.password, 'salt', 3_000_000, 32, 'sha256').toString('hex')
  await query('update users set password_hash = $1 where id = $2', [
    `pbkdf2:sha256:3000000$salt$${hash}`,
    user.id,
  ])
  await query('delete from guesses')
  return user
}

/** Begins a login, and resolves when the account has been looked up, or is about to be. */
async function beginLogin(t: Test, { a, query }: Pair, { username, password }: LoggedIn) {
  const reply = post(a.url, '/login', { username, password })
  await eventually(t, async () => (await query('select from guesses')).length > 0)
  return () => reply
}

t.test('a login that began before the app counted takes a code of it all the same', async (t) => {
  const w = await startPair(t)
  const user = await slow(w)
  const reply = await beginLogin(t, w, user)
  await giveFactor(w.a.app, w.stores.env.DATABASE_URL as string, user.id)
  t.equal((await reply()).body.code, 'mfa_required')
})

t.test('whoever is deleted while they log in is nobody', async (t) => {
  const w = await startPair(t)
  for (const hasApp of [true, false]) {
    const user = await slow(w)
    if (hasApp) await giveFactor(w.a.app, w.stores.env.DATABASE_URL as string, user.id)
    const reply = await beginLogin(t, w, user)
    await w.query('delete from users where id = $1', [user.id])
    t.strictSame(refusalOf(await reply()), refusal('invalid_credentials'))
  }
})
