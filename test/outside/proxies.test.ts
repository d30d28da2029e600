/** What deploy/forward-auth promises, by the proxies themselves: nobody gets past one of them whom latchkey would refuse. */
import { readFileSync } from 'node:fs'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { embedded, randomUser, startInstance } from '../fixtures/app.ts'
import {
  bearer,
  call,
  createServiceAs,
  exchange,
  logIn,
  logOut,
  type Reply,
  refusal,
  registerAndLogIn,
} from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { ensureProxies } from '../fixtures/install.ts'
import { startServer } from '../fixtures/process.ts'
import {
  deployFolder,
  type ProxyName,
  type Received,
  startProxy,
  startUpstream,
} from '../fixtures/proxies.ts'

const missing = ensureProxies()
const identity = ['x-auth-jti', 'x-auth-roles', 'x-auth-session', 'x-auth-subject']
const hostOf = (url: string) => new URL(url).host

/** What reached an upstream under a name that some servers take for one of ours: without - and _, in any case. */
function identityIn({ rawHeaders }: Received): Record<string, string[]> {
  const found: Record<string, string[]> = {}
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = `${rawHeaders[i]}`.toLowerCase().replace(/[^a-z0-9]/g, '-')
    if (name.startsWith('x-auth-')) found[name] = [...(found[name] ?? []), rawHeaders[i + 1] as string]
  }
  // Without roles, nginx sends no header of them.
  return { 'x-auth-roles': [''], ...found }
}

function identityOf(token: string): Record<string, string[]> {
  const { sub, sid, roles, jti } = decodeJwt(token)
  return {
    'x-auth-roles': [(roles as string[]).join(',')],
    'x-auth-jti': [jti as string],
    'x-auth-session': [sid as string],
    'x-auth-subject': [sub as string],
  }
}

async function setUp(t: Test) {
  const root = randomUser()
  const { env } = await embedded(t)
  const latchkey = await startServer(t, {
    env: {
      ...env,
      BOOTSTRAP_ADMIN_USERNAME: root.username,
      BOOTSTRAP_ADMIN_PASSWORD: root.password,
      TRUST_PROXY: '127.0.0.1',
    },
  })
  const [app, admin] = [await startUpstream(t), await startUpstream(t)]
  return { latchkey, root, app, admin }
}

for (const proxy of ['nginx', 'HAProxy', 'Caddy'] as ProxyName[]) {
  t.test(`behind ${proxy}`, { skip: missing ?? false }, async (t) => {
    const { latchkey, root, app, admin } = await setUp(t)
    const behind = { latchkey: hostOf(latchkey.url), app: app.address, admin: admin.address }
    const url = await startProxy(t, proxy, behind)
    const ask = (path: string, token?: string, init: RequestInit = {}): Promise<Reply> =>
      call(url, path, { ...init, headers: { ...(token && bearer(token)), ...init.headers } })

    /** What of this reaches the upstreams. */
    async function reaching(act: () => Promise<unknown>): Promise<Received[]> {
      const before = [app.received.length, admin.received.length]
      await act()
      return [...app.received.slice(before[0]), ...admin.received.slice(before[1])]
    }

    async function assertRefused(
      t: Test,
      asking: () => Promise<Reply>,
      code: 'missing_token' | 'malformed_authorization' | 'token_invalid' | 'token_revoked' | 'forbidden',
      name: string,
    ): Promise<void> {
      let reply: Reply | undefined
      const reached = await reaching(async () => {
        reply = await asking()
      })
      const { status, headers, body } = reply as unknown as Reply
      t.strictSame(reached, [], `${name}: nothing reaches the upstream`)
      // nginx refuses the second Authorization header itself, and shows a page of its own.
      if (proxy === 'nginx' && status === 400) return
      t.equal(status, code === 'forbidden' ? 403 : 401, name)
      t.equal(headers.get('www-authenticate'), refusal(code).challenge, `${name}: with the challenge`)
      if (proxy !== 'nginx') t.equal(body.code, code, `${name}: with the problem`)
    }

    t.test('a live token gets through, and the upstream is told whose it is', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      const { token: admins } = await logIn(latchkey.url, root)
      for (const [path, holder] of [
        ['/orders/1?a=b', token],
        ['/orders/1?a=b', admins],
        ['/admin/users?a=%20', admins],
      ] as const) {
        const reached = await reaching(async () => {
          const reply = await ask(path, holder)
          t.strictSame([reply.status, reply.body], [200, 'the upstream’s own words'])
          t.strictSame(
            [...reply.headers.keys()].filter((name) => name.startsWith('x-auth')),
            [],
            'nobody else is',
          )
        })
        t.strictSame(
          reached.map((received) => [received.url, identityIn(received)]),
          [[path, identityOf(holder)]],
        )
      }
    })

    t.test('nobody says for themselves who they are, however they spell it', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      const spellings = identity.flatMap((name) => [
        name,
        name.toUpperCase(),
        name.replaceAll('-', '_'),
        name.replace('-', '_'),
        name.replace(/-(?=\w+$)/, '_'),
      ])
      const forged = spellings.flatMap((name) => [`${name}: admin`, `${name}: root`])
      const lines = [`host: ${hostOf(url)}`, `authorization: Bearer ${token}`]
      const attempts: Record<string, string[]> = {
        'all at once': [...lines, ...forged, 'connection: close'],
        'behind the token': [...forged, ...lines, 'connection: close'],
        'away from the upstream': [...lines, `connection: close, ${identity.join(', ')}`],
        'away, in another case': [
          ...lines,
          'connection: close',
          `connection: ${identity.join(',').toUpperCase()}`,
        ],
      }
      for (const name of spellings) attempts[name] = [...lines, `${name}: admin`, 'connection: close']
      for (const [name, fields] of Object.entries(attempts)) {
        const [received, ...more] = await reaching(() =>
          exchange(url, `GET / HTTP/1.1\r\n${fields.join('\r\n')}\r\n\r\n`),
        )
        t.strictSame(more, [])
        t.strictSame(received && identityIn(received), identityOf(token), name)
        const onwards = received?.rawHeaders.filter((_, i, all) => /^connection$/i.test(all[i - 1] ?? ''))
        t.notMatch(String(onwards), /x.auth/i, `${name}: and no further proxy takes it away`)
      }
    })

    t.test('a token is refused from the moment at which its logout is acknowledged', async (t) => {
      for (let round = 0; round < 5; round++) {
        const { token } = await registerAndLogIn(latchkey.url)
        t.equal((await ask('/', token)).status, 200)
        t.equal((await logOut(latchkey.url, token)).status, 204)
        await assertRefused(t, () => ask('/', token), 'token_revoked', `round ${round}`)
      }
    })

    t.test('who lacks the role that a path demands gets 403, however the path is spelled', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      await assertRefused(t, () => ask('/admin/users', token), 'forbidden', 'the path')
      const spellings = [
        '//admin/',
        '/%61dmin/',
        '/x/../admin/',
        '/./admin/',
        '/ADMIN/',
        '/admin',
        '/admin;x/',
      ]
      for (const path of spellings) {
        const head = `GET ${path} HTTP/1.1\r\nhost: ${hostOf(url)}\r\nauthorization: Bearer ${token}\r\nconnection: close\r\n\r\n`
        const asking = () => exchange(url, head)
        if (proxy !== 'HAProxy') await assertRefused(t, asking, 'forbidden', path)
        else {
          // It does not compare paths as an upstream may, so what is for admins is on a server of its own.
          await asking()
          t.strictSame(
            admin.received.filter((received) => received.url === path),
            [],
            path,
          )
        }
      }
    })

    t.test('a path can demand a scope, and the upstream is told which service came', async (t) => {
      const { token: person } = await logIn(latchkey.url, root)
      const [reader, other] = [
        await createServiceAs(person, latchkey.url, 'reports:read'),
        await createServiceAs(person, latchkey.url, 'reports:write'),
      ]
      const demanding = await startProxy(t, proxy, behind, '/forward-auth/scope/reports:read')
      const askThere = (token: string) => call(demanding, '/admin/reports', { headers: bearer(token) })
      const reached = await reaching(async () => t.match(await askThere(reader.token), { status: 200 }))
      const { jti } = decodeJwt(reader.token)
      t.match(reached.map(identityIn), [
        { 'x-auth-subject': [reader.id], 'x-auth-jti': [jti], 'x-auth-roles': [''] },
      ])
      for (const token of [other.token, person])
        await assertRefused(t, () => askThere(token), 'forbidden', 'without it')
    })

    t.test('without a token, or with more than one, nobody gets through', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      const rows: [Parameters<typeof assertRefused>[2], string[]][] = [
        ['missing_token', []],
        ['missing_token', ['Basic YTpi']],
        ['malformed_authorization', ['Bearer']],
        ['malformed_authorization', [`Bearer ${token}, Bearer ${token}`]],
        ['malformed_authorization', [`Bearer ${token}`, `Bearer ${token}`]],
        ['malformed_authorization', [`Bearer ${token}`, 'Basic YTpi']],
        ['malformed_authorization', ['Basic YTpi', `Bearer ${token}`]],
        ['token_invalid', ['Bearer x']],
        ['token_invalid', [`Bearer ${token.slice(0, -6)}AAAAAA`]],
      ]
      for (const [code, values] of rows)
        for (const method of ['GET', 'POST', 'OPTIONS']) {
          const fields = values.map((value) => `authorization: ${value}\r\n`).join('')
          const head = `${method} / HTTP/1.1\r\nhost: ${hostOf(url)}\r\ncontent-length: 0\r\nconnection: close\r\n${fields}\r\n`
          await assertRefused(t, () => exchange(url, head), code, `${method} ${values}`)
        }
      const asking = () => ask('/', undefined, { headers: { 'x-auth-subject': 'admin' } })
      await assertRefused(t, asking, 'missing_token', 'who only says who they are')
    })

    t.test('nobody asks latchkey through the proxy as the proxy does', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      for (const path of ['/forward-auth', '/forward-auth/', '/forward-auth?', '/forward-auth/role/admin']) {
        const { headers } = await ask(path, token)
        const told = [...headers.keys()].filter((name) => name.startsWith('x-auth'))
        t.strictSame(told, [], path)
      }
    })

    t.test('a request arrives as it was sent, with its method and its body', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      const big = 'x'.repeat(300_000)
      for (const [method, body, type] of [
        ['POST', '{"a":1}', 'application/json'],
        ['POST', big, 'image/png'],
        ['PUT', '{', 'application/json'],
        ['PATCH', 'x', 'text/plain;;'],
        ['DELETE', '', 'text/plain'],
        ['OPTIONS', '', 'text/plain'],
        ['HEAD', '', 'text/plain'],
      ] as const) {
        const init = { method, headers: { 'content-type': type }, ...(body !== '' && { body }) }
        const reached = await reaching(async () =>
          t.equal((await ask('/x', token, init)).status, 200, method),
        )
        t.strictSame(
          reached.map((received) => [received.method, received.body === body]),
          [[method, true]],
        )
      }
      const chunked = `POST /x HTTP/1.1\r\nhost: ${hostOf(url)}\r\nauthorization: Bearer ${token}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`
      const reached = await reaching(() => exchange(url, chunked))
      t.strictSame(
        reached.map(({ body }) => body),
        ['hello'],
      )
    })

    t.test('whatever a client sends besides, it is not for latchkey to be unable to answer', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      const large = Object.fromEntries(['x-a', 'x-b', 'x-c'].map((name) => [name, 'x'.repeat(7_000)]))
      const { status } = await ask('/orders/1', token, { headers: large })
      // nginx hands on the one header that counts; the others refuse so much, by themselves or by latchkey's answer.
      if (proxy === 'nginx') t.equal(status, 200)
      else t.ok(status === 400 || status === 431, `${status}`)
    })

    t.test('what the upstream answers stays as it is, failures too', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      for (const status of [201, 401, 403, 404, 500, 502, 503]) {
        const reply = await ask(`/status/${status}`, token)
        t.strictSame([reply.status, reply.body], [status, 'the upstream’s own words'])
      }
    })

    t.test('with latchkey frozen, and with none, it is 503 and nobody gets through', async (t) => {
      const { token } = await registerAndLogIn(latchkey.url)
      t.equal((await ask('/', token)).status, 200)
      const assertUnknown = async (name: string) => {
        const start = performance.now()
        const reached = await reaching(async () => {
          const replies = await Promise.all([ask('/', token), ask('/admin/', token), ask('/')])
          for (const { status, headers } of replies)
            t.strictSame([status, headers.get('retry-after')], [503, '1'], name)
        })
        t.strictSame(reached, [], name)
        const took = performance.now() - start
        t.ok(took < 8_000, `${name}: after ${Math.round(took)} ms`)
      }
      latchkey.signal('SIGSTOP')
      await assertUnknown('frozen')
      latchkey.signal('SIGCONT')
      await eventually(t, async () => (await ask('/', token)).status === 200)
      latchkey.signal('SIGKILL')
      await latchkey.end
      await assertUnknown('gone')
    })
  })

  t.test(
    `behind ${proxy}, too many forgeries are their client's own`,
    { skip: missing ?? false },
    async (t) => {
      const env = { FORGERY_RATE_MAX: '1', TRUST_PROXY: '127.0.0.1' }
      const latchkey = await startInstance(t, { stores: await embedded(t), env })
      const app = await startUpstream(t)
      const behind = { latchkey: hostOf(latchkey.url), app: app.address, admin: app.address }
      const url = await startProxy(t, proxy, behind)
      const { token } = await registerAndLogIn(latchkey.url)
      const told = { 'x-forwarded-for': '203.0.113.7' }
      t.equal(
        (await call(url, '/', { headers: { ...bearer(token.replace(/.{10}$/, 'A'.repeat(10))), ...told } }))
          .status,
        401,
      )

      const { status, headers } = await call(url, '/', { headers: { ...bearer(token), ...told } })
      t.equal(status, 503, 'a token that was not seen before waits')
      t.match(headers.get('retry-after'), /^\d\d$/, 'for as long as latchkey says')
      t.strictSame(app.received, [])
      const { token: unseen } = await registerAndLogIn(latchkey.url)
      const named = await call(latchkey.url, '/forward-auth', { headers: { ...bearer(unseen), ...told } })
      t.equal(named.status, 200, 'whom that client pretended to be does not')

      await app.stop()
      const gone = await call(url, '/', { headers: bearer(unseen) })
      t.equal(gone.status, proxy === 'HAProxy' ? 503 : 502, 'and an application that is gone is not latchkey')
      t.equal(gone.headers.get('retry-after'), null)
    },
  )
}

t.test('what is not run says so, and names each header that it hands on and takes away', async (t) => {
  for (const name of ['traefik.yaml', 'envoy.yaml']) {
    const text = readFileSync(`${deployFolder}${name}`, 'utf8')
    t.match(text, /^# NOT RUN /, name)
    const strings: string[] = []
    JSON.stringify(parse(text), (key, value) => {
      strings.push(key.toLowerCase(), ...(typeof value === 'string' ? [value.toLowerCase()] : []))
      return value
    })
    for (const header of identity)
      t.ok(strings.filter((text) => text === header).length >= 2, `${name}: ${header}`)
  }
  const traefik = parse(readFileSync(`${deployFolder}${'traefik.yaml'}`, 'utf8')).http
  const headers = ['X-Auth-Subject', 'X-Auth-Session', 'X-Auth-Roles', 'X-Auth-Jti']
  for (const [name, { middlewares }] of Object.entries<{ middlewares: string[] }>(traefik.routers)) {
    const [strip, asking] = middlewares.map((middleware) => traefik.middlewares[middleware])
    t.strictSame(asking.forwardAuth.authResponseHeaders, headers, name)
    t.match(asking.forwardAuth.address, /\/forward-auth(\/role\/[a-z]+)?$/)
    const removed = Object.keys(strip.headers.customRequestHeaders)
    for (const header of headers) {
      t.ok(removed.includes(header), header)
      t.ok(removed.includes(header.replaceAll('-', '_')), `${header} with underscores`)
    }
    t.ok(Object.values(strip.headers.customRequestHeaders).every((value) => value === ''))
  }

  const envoy = parse(readFileSync(`${deployFolder}${'envoy.yaml'}`, 'utf8'))
  const manager = envoy.static_resources.listeners[0].filter_chains[0].filters[0].typed_config
  const asking = manager.http_filters[0].typed_config
  t.equal(asking.failure_mode_allow, false)
  t.equal(asking.http_service.path_prefix, '/forward-auth?')
  const { patterns } = asking.http_service.authorization_response.allowed_upstream_headers
  t.strictSame(patterns.map(({ exact }: { exact: string }) => exact).sort(), identity)
  const { mutations } = manager.early_header_mutation_extensions[0].typed_config
  t.strictSame(mutations.map(({ remove }: { remove: string }) => remove).sort(), identity)
  t.equal(manager.common_http_protocol_options.headers_with_underscores_action, 'DROP_HEADER')
})
