/** What a proxy is told about its clients: by any method, whatever else they sent, and in no status but 200, 401, 403 and 503. */
import { request } from 'node:http'
import { sql } from 'drizzle-orm'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { createManualClock, embedded, startInstance } from './fixtures/app.ts'
import {
  bearer,
  call,
  createService,
  exchange,
  getProtected,
  logIn,
  logOut,
  type Refusal,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'

const stores = await embedded(t)
const { app, url } = await startInstance(t, { stores })

/** Behind the back of the service, which takes only names by its grammar. */
async function somebody(roles: string[] = []) {
  const user = await registerAndLogIn(url)
  const list = sql.param(roles)
  await app.database.db.execute(sql`update users set roles = ${list}::text[] where id = ${user.id}`)
  return { ...user, ...(await logIn(url, user)) }
}

const ask = (token: string, path = '/forward-auth', init: RequestInit = {}): Promise<Reply> =>
  call(url, path, { ...init, headers: { ...bearer(token), ...init.headers } })

/** A refusal as others see it, but for its status. */
function inStatus(status: 401 | 403 | 503, { body, ...seen }: Refusal, retryAfter?: string): Refusal {
  const titles = { 401: 'Unauthorized', 403: 'Forbidden', 503: 'Service Unavailable' }
  return {
    ...seen,
    status,
    ...(retryAfter && { retryAfter }),
    body: { ...body, status, title: titles[status] },
  }
}

function assertRefused(t: Test, reply: Reply, expected: Refusal, name: string): void {
  t.strictSame(refusalOf(reply), expected, name)
  t.equal(reply.headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
}

function assertLetThrough(t: Test, { status, headers, body }: Reply, token: string, name: string): void {
  t.strictSame([status, body, headers.get('content-length')], [200, '', '0'], name)
  t.equal(headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
  const { sub, sid = '', roles = [], jti } = decodeJwt(token)
  t.strictSame(
    [...headers].filter(([name]) => name.startsWith('x-')),
    [
      ['x-auth-jti', jti],
      ['x-auth-roles', (roles as string[]).join(',')],
      ['x-auth-session', sid],
      ['x-auth-subject', sub],
    ],
    name,
  )
}

t.test('who has a live token gets through, and whose it is stands in the headers', async (t) => {
  for (const roles of [[], ['editor'], ['a.b-c_1', 'editor', 'zoo:keeper']]) {
    const { token } = await somebody(roles)
    assertLetThrough(t, await ask(token), token, `roles ${roles}`)
  }
})

t.test('every method is answered alike', async (t) => {
  const { token } = await somebody(['editor'])
  const { token: service } = await createService({ app, url }, 'orders:read')
  const tokens = {
    '/forward-auth': token,
    '/forward-auth/role/editor': token,
    '/forward-auth/scope/orders:read': service,
  }
  const methods = app.supportedMethods
  t.ok(
    ['GET', 'HEAD', 'POST', 'OPTIONS', 'TRACE', 'PROPFIND', 'QUERY'].every((name) => methods.includes(name)),
  )
  for (const [path, token] of Object.entries(tokens))
    for (const method of methods) {
      const name = `${method} ${path}`
      assertLetThrough(t, await answerTo(method, path, bearer(token)), token, name)
      const { status, headers } = await answerTo(method, path, {})
      t.strictSame([status, headers.get('www-authenticate')], [401, 'Bearer realm="latchkey"'], name)
    }
})

/** fetch refuses some methods. */
const answerTo = (method: string, path: string, headers: Record<string, string>): Promise<Reply> =>
  new Promise((resolve, reject) => {
    const asking = request(url + path, { method, headers }, async (response) => {
      let body = ''
      for await (const chunk of response) body += chunk
      const fields = new Headers(Object.entries(response.headers) as [string, string][])
      resolve({ status: response.statusCode ?? 0, headers: fields, body })
    })
    asking.on('error', reject).end()
  })

t.test('the query and the body of the proxy’s client change nothing', async (t) => {
  const { token } = await somebody()
  for (const query of ['?', '?role=admin', '?/orders/1?a=b', '?%zz', '?a=1&a=2&__proto__=x', '?%00'])
    assertLetThrough(t, await ask(token, `/forward-auth${query}`), token, query)

  const bodies: Record<string, RequestInit> = {
    JSON: { body: '{"a":1}', headers: { 'content-type': 'application/json' } },
    'no JSON': { body: '{', headers: { 'content-type': 'application/json' } },
    'of no known type': { body: 'x', headers: { 'content-type': 'image/png' } },
    'of no type that there could be': { body: 'x', headers: { 'content-type': ';;;' } },
    'of 100 kB': { body: 'x'.repeat(100_000), headers: { 'content-type': 'text/plain' } },
    'that is none, of a type': { headers: { 'content-type': 'application/json', 'content-length': '0' } },
  }
  for (const [name, init] of Object.entries(bodies)) {
    assertLetThrough(t, await ask(token, '/forward-auth', { method: 'POST', ...init }), token, name)
    const reply = await call(url, '/forward-auth', { method: 'PUT', ...init })
    assertRefused(t, reply, refusal('missing_token'), `${name}, without a token`)
  }
  const head = `host: x\r\nauthorization: Bearer ${token}\r\nconnection: close\r\n`
  for (const [name, framing] of Object.entries({
    'a length whose body stayed behind': 'content-length: 5\r\n\r\n',
    'a GET with a body': 'content-length: 5\r\n\r\nhello',
    'a GET in chunks': 'transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
    'what it expects': 'expect: 100-continue\r\ncontent-length: 0\r\n\r\n',
  })) {
    const { status } = await exchange(url, `GET /forward-auth HTTP/1.1\r\n${head}${framing}`)
    t.ok(status === 200 || (name.startsWith('what') && status === 100), `${name}: ${status}`)
  }
})

t.test('who is refused by a guarded route is refused here, with its challenge', async (t) => {
  const { token } = await somebody()
  const { token: revoked } = await somebody()
  t.equal((await logOut(url, revoked)).status, 204)
  const malformed = inStatus(401, refusal('malformed_authorization'))
  const rows: [string, Refusal, string[]][] = [
    ['no token', refusal('missing_token'), []],
    ['another scheme', refusal('missing_token'), ['Basic YTpi']],
    ['nothing behind the scheme', malformed, ['Bearer']],
    ['two tokens', malformed, [`Bearer ${token} ${token}`]],
    ['two tokens in a list', malformed, [`Bearer ${token}, Bearer ${token}`]],
    ['two headers', malformed, [`Bearer ${token}`, `Bearer ${token}`]],
    ['rubbish', refusal('token_invalid'), ['Bearer x']],
    ['a forged signature', refusal('token_invalid'), [`Bearer ${token.slice(0, -6)}AAAAAA`]],
    ['taken back', refusal('token_revoked'), [`Bearer ${revoked}`]],
  ]
  for (const path of ['/forward-auth', '/forward-auth/role/editor', '/forward-auth/scope/orders:read'])
    for (const [name, expected, values] of rows) {
      const fields = values.map((value) => `authorization: ${value}\r\n`).join('')
      const asked = `GET ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${fields}\r\n`
      assertRefused(t, await exchange(url, asked), expected, `${path}: ${name}`)
    }
})

t.test('a token is refused from the moment at which its logout is acknowledged', async (t) => {
  const { token } = await somebody(['editor'])
  for (const path of ['/forward-auth', '/forward-auth/role/editor'])
    assertLetThrough(t, await ask(token, path), token, path)
  t.equal((await logOut(url, token)).status, 204)
  for (const path of ['/forward-auth', '/forward-auth/role/editor'])
    assertRefused(t, await ask(token, path), refusal('token_revoked'), path)
})

t.test('a role that is demanded is had as it is written, or the answer is no', async (t) => {
  const { token } = await somebody(['a', 'editor', 'zoo:keeper'])
  for (const path of [
    'editor',
    'a',
    'zoo:keeper',
    'zoo%3Akeeper',
    '%65ditor',
    'editor?role=admin',
    'editor?',
  ])
    assertLetThrough(t, await ask(token, `/forward-auth/role/${path}`), token, path)
  for (const path of [
    ...['admin', 'editors', 'edito', 'zoo', 'keeper', 'zoo:', 'z'],
    ...['Editor', 'EDITOR', 'editor%20', '%20editor', 'editor,admin', 'a,editor', 'editor;a', '*', '.*', '1'],
    ...[
      'editor%00',
      'editor%0a',
      'editor%0d%0ax-auth-roles:admin',
      '%c3%a9',
      '%d0%b0',
      '__proto__',
      'length',
    ],
    ...['0', 'a'.repeat(65), '%2e', '%2F', ''],
  ])
    assertRefused(t, await ask(token, `/forward-auth/role/${path}`), refusal('forbidden'), path)
})

t.test(
  'a scope that is demanded was granted to a service as it is written, or the answer is no',
  async (t) => {
    const { id, token } = await createService({ app, url }, 'A.b-c_1', 'a', 'orders/read', 'orders:read')
    t.equal(decodeJwt(token).sub, id)
    for (const path of [
      ...['orders:read', 'a', 'A.b-c_1', 'orders%3Aread', '%6frders:read', 'orders%2Fread'],
      ...['orders:read?scope=admin', 'orders:read?'],
    ])
      assertLetThrough(t, await ask(token, `/forward-auth/scope/${path}`), token, path)
    for (const path of [
      ...[
        'admin',
        'orders',
        'orders:',
        'orders:rea',
        'orders:reads',
        'read',
        ':read',
        'A',
        'b',
        'orders%252Fread',
      ],
      ...[
        'Orders:read',
        'orders:read%20',
        '%20orders:read',
        'a%20orders:read',
        'a+orders:read',
        'a,orders:read',
      ],
      ...[
        'orders:read%00',
        'orders:read%0a',
        'a%0d%0ax-auth-subject:root',
        '%c3%a9',
        '%d0%b0',
        '*',
        '.*',
        '%2e',
      ],
      ...['__proto__', 'length', '0', 'a'.repeat(65), '%20', ''],
    ])
      assertRefused(t, await ask(token, `/forward-auth/scope/${path}`), refusal('forbidden'), path)

    const { token: person } = await somebody(['orders:read', 'admin'])
    const { token: nothing } = await createService({ app, url })
    for (const path of ['orders:read', 'admin', 'undefined', '%20', ''])
      for (const [name, token] of Object.entries({ person, nothing }))
        assertRefused(
          t,
          await ask(token, `/forward-auth/scope/${path}`),
          refusal('forbidden'),
          `${name}: ${path}`,
        )
    for (const path of ['/forward-auth', '/forward-auth/role/a'])
      assertRefused(t, await ask(token, path), refusal('forbidden'), `a service at ${path}`)
  },
)

t.test('a service’s token that was taken back or has expired is no good for any scope', async (t) => {
  const clock = createManualClock()
  const instance = await startInstance(t, { stores: await embedded(t), clock })
  const [one, other] = [await createService(instance, 'read'), await createService(instance, 'read')]
  const ask = ({ token }: typeof one, path: string) =>
    call(instance.url, `/forward-auth/scope/${path}`, { headers: bearer(token) })
  for (const service of [one, other])
    assertLetThrough(t, await ask(service, 'read'), service.token, 'at first')
  await instance.app.clients.disable(one.id, 'test')
  for (const path of ['read', 'write'])
    assertRefused(t, await ask(one, path), refusal('token_revoked'), `taken back: ${path}`)
  assertLetThrough(t, await ask(other, 'read'), other.token, 'another')
  clock.advance(906)
  for (const path of ['read', 'write'])
    assertRefused(t, await ask(other, path), refusal('token_expired'), `expired: ${path}`)
})

t.test('whatever stands behind /forward-auth, a proxy is told what it can pass on', async (t) => {
  const { token } = await somebody(['editor'])
  const nothing = inStatus(403, refusal('not_found'))
  const invalid = inStatus(403, refusal('invalid_request'))
  for (const [path, expected] of [
    ['/', nothing],
    ['//', nothing],
    ['/role', nothing],
    ['/roles/editor', nothing],
    ['/role/editor/', nothing],
    ['/role/editor/x', nothing],
    ['//role/editor', nothing],
    ['/scope', nothing],
    ['/scopes/read', nothing],
    ['/scope/read/', nothing],
    ['/scope/orders/read', nothing],
    [`/role/${'a'.repeat(200)}`, invalid],
    [`/scope/${'a'.repeat(200)}`, invalid],
    ['/role/%zz', invalid],
    ['/scope/%zz', invalid],
    ['/%', invalid],
  ] as const)
    for (const method of ['GET', 'POST', 'OPTIONS']) {
      const reply = await ask(token, `/forward-auth${path}`, { method })
      assertRefused(t, reply, expected, `${method} ${path}`)
    }
  for (const [name, lines, status] of [
    ['no Host', '', 403],
    ['an expectation that nobody meets', 'host: x\r\nexpect: the moon\r\n', 403],
  ] as const) {
    const asked = `GET /forward-auth HTTP/1.1\r\n${lines}connection: close\r\n\r\n`
    t.equal((await exchange(url, asked)).status, status, name)
  }
  const elsewhere = await ask(token, '/forward-authority')
  assertRefused(t, elsewhere, refusal('not_found'), 'another name is no business of a proxy’s')
})

t.test('neither a role nor a subject can split a header, or make one', async (t) => {
  const { token } = await somebody(Array.from({ length: 32 }, (_, i) => `${'r'.repeat(62)}${i + 10}`))
  assertLetThrough(t, await ask(token), token, 'as many and as long as there may be')

  for (const role of [
    ...['a,admin', ',', 'a, admin', ' admin', 'admin ', 'a b', 'a\tb', 'a;b', 'a"b', 'a=b', 'a\\b', 'Admin'],
    ...['a\r\nx-auth-roles: admin', 'a\nb', 'admin\n', 'a\u0085b', 'é', '\u0430dmin', 'admin\u200b', '1a'],
    ...['-a', ':', 'a'.repeat(65), '__proto__'],
  ]) {
    const { token } = await somebody(['editor', role])
    t.strictSame(decodeJwt(token).roles, ['editor', role], 'it is in the token, with our own signature')
    for (const path of ['/forward-auth', '/forward-auth/role/editor', '/forward-auth/role/admin']) {
      const reply = await ask(token, path)
      assertRefused(t, reply, refusal('token_invalid'), `${path} ${JSON.stringify(role)}`)
      t.notOk([...reply.headers.keys()].some((name) => name.startsWith('x-')))
    }
    t.equal((await getProtected(url, token)).body.code, 'token_invalid', 'nor does anybody else take it')
  }
})

t.test('while forgeries are too many, a good new token may wait, and nobody is logged out', async (t) => {
  const { url } = await startInstance(t, { stores: await embedded(t), env: { FORGERY_RATE_MAX: '1' } })
  const [seen, unseen] = [await registerAndLogIn(url), await registerAndLogIn(url)]
  const ask = (token: string) => call(url, '/forward-auth', { headers: bearer(token) })
  t.equal((await ask(seen.token)).status, 200)
  t.equal((await ask(seen.token.replace(/.{10}$/, 'A'.repeat(10)))).status, 401)

  const reply = await ask(unseen.token)
  const retryAfter = reply.headers.get('retry-after') ?? ''
  t.match(retryAfter, /^\d\d$/, 'as long as the window takes')
  assertRefused(t, reply, inStatus(503, refusal('rate_limited'), retryAfter), 'not seen before')
  assertLetThrough(t, await ask(seen.token), seen.token, 'seen before')
})
