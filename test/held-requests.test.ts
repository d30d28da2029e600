/** What was asked for with a token before that was taken back, and would happen after: it does not. */
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { randomUser } from './fixtures/app.ts'
import { bearer, call, logIn, logOut, post, registerAndLogIn } from './fixtures/client.ts'
import { makeAdmin, type Pair, startPair } from './fixtures/pair.ts'

type Held = () => Promise<{ status: number | undefined; code: string | undefined }>

/** Sends all of a request but its body, and resolves when the service waits for that, of whatever length it is if it has none. */
async function hold(t: Test, url: string, [method, path, body]: Asked, token: string): Promise<Held> {
  const bytes = body && JSON.stringify(body)
  const length = bytes ? { 'content-length': bytes.length } : { 'transfer-encoding': 'chunked' }
  const headers = { ...bearer(token), 'content-type': 'application/json', expect: '100-continue', ...length }
  const sent = request(`${url}${path}`, { method, headers })
  t.teardown(() => sent.destroy())
  sent.flushHeaders()
  await once(sent, 'continue')
  return async () => {
    const replied = once(sent, 'response') as Promise<[IncomingMessage]>
    sent.end(bytes)
    const [reply] = await replied
    const { code } = JSON.parse((await text(reply)) || '{}')
    return { status: reply.statusCode, code }
  }
}

type Asked = [method: string, path: string, body?: object]

const dead = { status: 401, code: 'token_revoked' }

const claimsOf = (token: string) =>
  decodeJwt(token) as { sub: string; sid: string; ver: number; auth_time: number; acr: string }
const origin = { requestId: 'x', address: '127.0.0.1', network: '127.0.0.1', userAgent: '' }
const state = async ({ query }: Pair) =>
  await query(
    `select username, status, roles, generation, email, (select count(*) from totp_factors) from users order by username`,
  )

t.test('a body that is held back until its token is revoked is refused, whatever it asks for', async (t) => {
  const w = await startPair(t)
  const { a, b } = w
  const user = await registerAndLogIn(a.url)
  await post(a.url, '/mfa/totp', undefined, bearer(user.token))
  const other = await logIn(a.url, user)
  const asking: Asked[] = [
    ['POST', '/mfa/totp'],
    ['POST', '/mfa/totp/verify', { code: '000000' }],
    ['POST', '/mfa/recovery-codes'],
    ['DELETE', '/mfa/totp'],
    ['PUT', '/me/email', { email: 'eve@example.org' }],
    [
      'PUT',
      '/me/password',
      { current_password: user.password, new_password: 'three blind mice went sailing' },
    ],
    ['POST', '/reauthenticate', { password: user.password }],
    ['POST', '/logout?scope=others'],
  ]
  const held = await Promise.all(asking.map((asked) => hold(t, a.url, asked, user.token)))
  t.equal((await logOut(b.url, user.token)).status, 204)
  const before = await state(w)
  for (const [i, go] of held.entries()) t.strictSame(await go(), dead, `${asking[i]}`)
  t.strictSame(await state(w), before)
  t.equal((await call(a.url, '/me', { headers: bearer(other.token) })).status, 200)
})

t.test('an admin who is banned does nothing more, by a body that is held back', async (t) => {
  const w = await startPair(t)
  const { a, b } = w
  const { admin, ask } = await makeAdmin(w)
  const rogue = await registerAndLogIn(a.url)
  await ask('PUT', `/users/${rogue.id}/roles`, { roles: ['admin'] })
  const { token } = await logIn(a.url, rogue)
  const asking: Asked[] = [
    ['PUT', `/admin/users/${rogue.id}/status`, { status: 'active' }],
    ['PUT', `/admin/users/${admin.id}/roles`, { roles: [] }],
    ['POST', '/admin/users', { ...randomUser(), roles: ['admin'] }],
    ['POST', '/admin/clients', { name: 'mine', scopes: ['introspect'] }],
  ]
  const held = await Promise.all(
    asking.map((asked, i) => hold(t, [a, b][i % 2]?.url as string, asked, token)),
  )
  t.equal((await ask('PUT', `/users/${rogue.id}/status`, { status: 'disabled' })).status, 200)
  const before = await state(w)
  for (const [i, go] of held.entries()) t.strictSame(await go(), dead, `${asking[i]}`)
  t.strictSame(await state(w), before)
})

t.test('nor does what they were let through with, and that takes its time', async (t) => {
  const w = await startPair(t)
  const { a } = w
  const { accounts } = a.app
  const { ask } = await makeAdmin(w)
  const rogue = await registerAndLogIn(a.url)
  await ask('PUT', `/users/${rogue.id}/roles`, { roles: ['admin'] })
  const claims = claimsOf((await logIn(a.url, rogue)).token)
  t.equal((await ask('PUT', `/users/${rogue.id}/status`, { status: 'disabled' })).status, 200)
  const before = await state(w)
  const actor = { by: claims.sub, ver: claims.ver, origin }
  const asked: Record<string, () => Promise<unknown>> = {
    'another admin': () => accounts.createUser({ ...randomUser(), roles: ['admin'] }, actor),
    'their own account': () => accounts.setStatus(rogue.id, 'active', actor),
    'another role': () => accounts.setRoles(rogue.id, ['admin', 'auditor'], actor),
    'a deletion': () => accounts.deleteUser(rogue.id, actor),
    'a factor of somebody': () => accounts.removeFactors(rogue.id, actor),
    'an app': () => accounts.factors.enrol(claims),
    'a code of it': () => accounts.factors.confirm(claims, '000000', origin),
    'its codes': () => accounts.factors.renewRecoveryCodes(claims, origin),
    'an end of it': () => accounts.factors.remove(claims, origin),
  }
  for (const [name, doing] of Object.entries(asked)) await t.rejects(doing(), { code: 'token_revoked' }, name)
  t.strictSame(await state(w), before)
})
