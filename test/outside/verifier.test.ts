/** The verifier, as backends have it: it answers by the Bearer table without asking anybody, and learns of what is taken back. */

import { randomUUID } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import { decodeProtectedHeader } from 'jose'
import t, { type Test } from 'tap'
import type { RevocationEntry } from '../../src/bearer/revoked-entries.ts'
import { fromSecurityEvent, type SecurityEvent, toSecurityEvent } from '../../src/bearer/security-events.ts'
import { createVerifier, type Demand, type VerifierOptions } from '../../src/sdk/verifier.ts'
import {
  createManualClock,
  type Instance,
  postgresAndRedis,
  randomUser,
  startInstance,
  withClient,
} from '../fixtures/app.ts'
import {
  bearer,
  call,
  createService,
  logIn,
  logOut,
  post,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
  type Service,
} from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { startRelay } from '../fixtures/relay.ts'
import { giveFactor } from '../fixtures/second-factor.ts'

const root = { ...randomUser(), username: 'root' }
const asAdmin = { BOOTSTRAP_ADMIN_USERNAME: root.username, BOOTSTRAP_ADMIN_PASSWORD: root.password }
const audience = 'https://auth.test'

interface Backend {
  fastify: string
  express: string
  states: string[]
  verifier: ReturnType<typeof createVerifier>
}

/** A backend of each kind behind one verifier. */
async function startBackend(
  t: Test,
  service: Pick<Instance, 'url'>,
  client: Service,
  { demand = {}, ...options }: Partial<VerifierOptions> & { demand?: Demand } = {},
): Promise<Backend> {
  const states: string[] = []
  const onChange = (state: string) => void states.push(state)
  const verifier = createVerifier({
    issuer: audience,
    audience,
    url: service.url,
    clientId: client.id,
    clientSecret: client.secret,
    onChange,
    ...options,
  })
  t.teardown(() => verifier.close())

  const app = Fastify()
  await app.register(verifier.fastify, demand)
  app.all('/', async ({ tokenClaims }) => ({ sub: tokenClaims.sub }))
  const fastify = await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => app.close())

  const guard = verifier.express(demand)
  const express = await listen(t, (request, response) =>
    guard(request, response, (error) => {
      const { tokenClaims } = request as IncomingMessage & { tokenClaims: { sub: string } }
      response.statusCode = error ? 500 : 200
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ sub: tokenClaims?.sub }))
    }),
  )
  return { fastify, express, states, verifier }
}

async function listen(t: Test, handler: RequestListener): Promise<string> {
  const server = createServer(handler).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const askBoth = ({ fastify, express }: Backend, headers: Record<string, string>): Promise<[Reply, Reply]> =>
  Promise.all([call(fastify, '/', { headers }), call(express, '/', { headers })])

/** From both kinds of backend, which must say the same. */
async function ask(t: Test, backend: Backend, headers: Record<string, string> | string): Promise<Reply> {
  const [one, other] = await askBoth(backend, typeof headers === 'string' ? bearer(headers) : headers)
  t.strictSame(refusalOf(other), refusalOf(one))
  return one
}

/** Until both say so: at the moment of a change, one may be asked before it and the other after. */
const eventuallyBoth = (
  t: Test,
  backend: Backend,
  token: string,
  isSo: (reply: Reply) => boolean,
  withinMs?: number,
) => eventually(t, async () => (await askBoth(backend, bearer(token))).every(isSo), withinMs)

/** Apart from the id of a request, which is whosever the request was. */
function assertRefused(t: Test, reply: Reply, code: Parameters<typeof refusal>[0], name: string): void {
  const { body, ...rest } = refusal(code)
  const { request_id, ...problem } = body
  const { body: seen, ...said } = refusalOf(reply)
  const { request_id: none, ...told } = seen as typeof body
  t.strictSame({ ...said, told, none }, { ...rest, told: problem, none: undefined }, name)
}

t.test('a backend answers by the Bearer table of the service', async (t) => {
  const stores = await postgresAndRedis(t)
  const clock = createManualClock()
  const service = await startInstance(t, { stores, clock })
  const client = await createService(service, 'revocations:read', 'reports:read')
  const backend = await startBackend(t, service, client)
  await backend.verifier.ready
  const user = await registerAndLogIn(service.url)
  const check = async (headers: Record<string, string> | string, code: Parameters<typeof refusal>[0]) => {
    for (const time of ['cold', 'warm'])
      assertRefused(
        t,
        await ask(t, backend, headers),
        code,
        `${code} ${time} ${JSON.stringify(headers).slice(0, 60)}`,
      )
  }

  for (const _time of ['cold', 'warm'])
    t.match(await ask(t, backend, user.token), { status: 200, body: { sub: user.id } })
  t.match(
    await ask(t, backend, { authorization: `bearer \t ${user.token} ` }),
    { status: 200 },
    'oddly spelled',
  )
  t.match(await ask(t, backend, client.token), { status: 200 }, 'a service')

  await check({}, 'missing_token')
  await check({ authorization: 'Basic abc' }, 'missing_token')
  await check({ authorization: 'Bearer' }, 'malformed_authorization')
  await check({ authorization: `Bearer ${user.token} x` }, 'malformed_authorization')
  const [head = '', payload = '', signature = ''] = user.token.split('.')
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const header = JSON.parse(Buffer.from(head, 'base64url').toString())
  const forgeries = {
    rubbish: 'rubbish',
    'signed by nobody': `${head}.${payload}.${signature.slice(0, -8)}AAAAAAAA`,
    unsigned: `${encode({ ...header, alg: 'none' })}.${payload}.`,
    'of an unknown key': `${encode({ ...header, kid: 'unknown' })}.${payload}.${signature}`,
    'of another algorithm': `${encode({ ...header, alg: 'HS256' })}.${payload}.${signature}`,
    'a refresh token': user.refreshToken,
  }
  for (const forgery of Object.values(forgeries)) await check(forgery, 'token_invalid')

  clock.advance(-2_000)
  await check((await logIn(service.url, user)).token, 'token_expired')
  clock.advance(2_060)
  await check((await logIn(service.url, user)).token, 'token_invalid')
  clock.advance(-60)

  t.equal((await logOut(service.url, user.token)).status, 204)
  await check(user.token, 'token_revoked')
})

t.test('what is not for this audience, or of another issuer, is refused', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const client = await createService(service, 'revocations:read')
  const { token } = await registerAndLogIn(service.url)
  for (const wrong of [{ audience: 'https://other.test' }, { issuer: 'https://other.test' }]) {
    const backend = await startBackend(t, service, client, wrong)
    // The feed is the service's, whatever is wrong with the tokens.
    await backend.verifier.ready
    assertRefused(t, await ask(t, backend, token), 'token_invalid', JSON.stringify(wrong))
  }
})

t.test('a guard can demand a scope or a role', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores, env: asAdmin })
  const client = await createService(service, 'revocations:read', 'reports:read')
  const granted = client.token
  const { token: adminToken } = await logIn(service.url, root)
  const { token } = await registerAndLogIn(service.url)

  const ofScope = await startBackend(t, service, client, { demand: { scope: 'reports:read' } })
  const ofRole = await startBackend(t, service, client, { demand: { role: 'admin' } })
  await Promise.all([ofScope.verifier.ready, ofRole.verifier.ready])
  t.equal((await ask(t, ofScope, granted)).status, 200)
  assertRefused(t, await ask(t, ofScope, token), 'forbidden', 'a person has no scope')
  t.equal((await ask(t, ofRole, adminToken)).status, 200)
  for (const other of [granted, token])
    assertRefused(t, await ask(t, ofRole, other), 'forbidden', 'no such role')
})

t.test('a guard can demand a second factor, and says so', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const client = await createService(service, 'revocations:read')
  const user = await registerAndLogIn(service.url)
  const shown = await giveFactor(service.app, stores.env.DATABASE_URL as string, user.id)
  const proof = { password: user.password, code: shown.generate() }
  const backend = await startBackend(t, service, client, { demand: { acr: 'aal2' } })
  await backend.verifier.ready
  const refused = await ask(t, backend, user.token)
  t.match([refused.status, refused.body.code], [401, 'reauthentication_required'])
  t.equal(
    refused.headers.get('www-authenticate'),
    'Bearer realm="latchkey", error="insufficient_user_authentication", acr_values="aal2"',
  )
  t.equal((await ask(t, backend, client.token)).body.code, 'forbidden', 'a service has none')
  const proven = await post(service.url, '/reauthenticate', proof, bearer(user.token))
  t.equal((await ask(t, backend, proven.body.access_token)).status, 200)
})

t.test('whatever was taken back is refused by the time that it is acknowledged', async (t) => {
  const stores = await postgresAndRedis(t)
  const [a, b] = await Promise.all([1, 2].map(() => startInstance(t, { stores, env: asAdmin })))
  const [one, other] = [a as Instance, b as Instance]
  const client = await createService(one, 'revocations:read')
  const before = await registerAndLogIn(one.url)
  t.equal((await logOut(other.url, before.token)).status, 204)

  const backend = await startBackend(t, one, client)
  await backend.verifier.ready
  assertRefused(t, await ask(t, backend, before.token), 'token_revoked', 'before the backend was there')

  const user = await registerAndLogIn(one.url)
  const second = await logIn(one.url, user)
  t.equal((await ask(t, backend, user.token)).status, 200)
  t.equal((await logOut(other.url, user.token)).status, 204)
  assertRefused(t, await ask(t, backend, user.token), 'token_revoked', 'one session, on the other instance')
  t.equal((await ask(t, backend, second.token)).status, 200)
  t.equal((await post(other.url, '/logout?scope=all', undefined, bearer(second.token))).status, 204)
  assertRefused(t, await ask(t, backend, second.token), 'token_revoked', 'all of them')

  const granted = client.token
  t.equal((await ask(t, backend, granted)).status, 200)
  const form = {
    method: 'POST',
    body: new URLSearchParams({
      token: granted,
      client_id: client.id,
      client_secret: client.secret,
    }),
  }
  t.equal((await call(other.url, '/oauth2/revoke', form)).status, 200)
  assertRefused(t, await ask(t, backend, granted), 'token_revoked', 'one token')

  const third = await logIn(one.url, user)
  t.equal((await ask(t, backend, third.token)).status, 200)
  const { kid } = decodeProtectedHeader(third.token)
  const asRoot = bearer((await logIn(one.url, root)).token)
  t.equal((await call(other.url, `/admin/keys/${kid}`, { method: 'DELETE', headers: asRoot })).status, 204)
  assertRefused(t, await ask(t, backend, third.token), 'token_revoked', 'a key, with all that it signed')
  // What the next key signs is good here before anybody has fetched it.
  await eventually(t, async () => {
    const { token } = await logIn(one.url, user)
    return (await askBoth(backend, bearer(token))).every(({ status }) => status === 200)
  })
})

t.test(
  'while the service is away, a backend goes on with what it knows, until that is too old',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const service = await startInstance(t, { stores })
    const client = await createService(service, 'revocations:read')
    const relay = await startRelay(t, service.url)
    const [seen, unseen, dead, doomed, later] = await Promise.all(
      Array.from({ length: 5 }, async () => (await registerAndLogIn(service.url)).token),
    )
    const patient = await startBackend(t, relay, client, { maxStalenessSeconds: 3_600 })
    const strict = await startBackend(t, relay, client, { maxStalenessSeconds: 3 })
    for (const { verifier } of [patient, strict]) await verifier.ready
    t.equal((await logOut(service.url, dead as string)).status, 204)
    for (const backend of [patient, strict]) t.equal((await ask(t, backend, seen as string)).status, 200)

    relay.cut()
    t.equal((await logOut(service.url, doomed as string)).status, 204)
    t.equal((await ask(t, strict, seen as string)).status, 200, 'not too old yet')
    await eventuallyBoth(t, strict, seen as string, ({ status }) => status === 503)
    assertRefused(
      t,
      await ask(t, strict, seen as string),
      'revocation_unknown',
      'too old: 503, and nobody is logged out',
    )
    assertRefused(
      t,
      await ask(t, strict, dead as string),
      'token_revoked',
      'what is known to be dead stays dead',
    )
    for (const token of [seen, unseen])
      t.equal((await ask(t, patient, token as string)).status, 200, 'old enough for it')
    t.strictSame([strict.states, patient.states], [['lost'], ['lost']])
    const { now } = Date
    Date.now = () => now() + 700_000
    const muchLater = await ask(t, patient, later as string)
    Date.now = now
    t.equal(muchLater.status, 200, 'and so is one that it sees for the first time')

    await relay.mend()
    for (const backend of [strict, patient]) {
      await eventuallyBoth(t, backend, doomed as string, ({ status }) => status === 401, 10_000)
      assertRefused(t, await ask(t, backend, doomed as string), 'token_revoked', 'what it missed')
      t.equal((await ask(t, backend, seen as string)).status, 200)
      t.strictSame(backend.states, ['lost', 'following'])
    }
  },
)

t.test('a backend that cannot follow says 503, or asks about each token if it was told to', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const client = await createService(service, 'introspect')
  const { token } = await registerAndLogIn(service.url)
  assertRefused(
    t,
    await ask(t, await startBackend(t, service, client), token),
    'revocation_unknown',
    'refuses',
  )

  const relay = await startRelay(t, service.url)
  const asking = await startBackend(t, relay, client, { whenStale: 'introspect' })
  t.equal((await ask(t, asking, token)).status, 200)
  t.equal((await logOut(service.url, token)).status, 204)
  assertRefused(t, await ask(t, asking, token), 'token_revoked', 'asks')
  relay.cut()
  assertRefused(t, await ask(t, asking, token), 'revocation_unknown', 'and has no answer')
})

t.test('a stream whose token expires goes on with another one, without a gap', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores, env: { ACCESS_TOKEN_TTL_SECONDS: '60' } })
  const clock = createManualClock()
  const old = await startInstance(t, { stores, clock })
  const client = await createService(service, 'revocations:read')
  const cursors: unknown[] = []
  const watch = (message: unknown) => {
    const { url, headers } = (message as { request: IncomingMessage }).request
    if (url === '/revocations') cursors.push(headers['last-event-id'])
  }
  subscribe('http.server.request.start', watch)
  t.teardown(() => unsubscribe('http.server.request.start', watch))
  const backend = await startBackend(t, old, client)
  await backend.verifier.ready
  const user = await registerAndLogIn(service.url)
  t.equal((await ask(t, backend, user.token)).status, 200)
  clock.advance(1_000)
  const grants = () => old.log.filter((line) => line.includes('client.token_issued')).length
  await eventually(t, async () => grants() >= 2)
  t.equal((await logOut(service.url, user.token)).status, 204)
  assertRefused(t, await ask(t, backend, user.token), 'token_revoked', 'by the next stream')
  t.strictSame(backend.states, [])
  t.equal(cursors[0], undefined)
  t.match(cursors[1], /^\d/, 'from where the first one ended')
})

t.test(
  'a backup that was restored under the feed is read from its beginning, and nothing is forgotten',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const service = await startInstance(t, { stores })
    const client = await createService(service, 'revocations:read')
    const backend = await startBackend(t, service, client)
    await backend.verifier.ready
    const [before, after] = await Promise.all([registerAndLogIn(service.url), registerAndLogIn(service.url)])
    t.equal((await logOut(service.url, before.token)).status, 204)
    await withClient(stores.env.DATABASE_URL as string, async (db) => {
      await db.query('delete from revocations where subject = $1', [before.sid])
      await db.query('update revocation_head set seq = (select coalesce(max(seq), 0) from revocations)')
    })
    t.equal((await logOut(service.url, after.token)).status, 204)
    for (const { token } of [before, after])
      await eventuallyBoth(t, backend, token, ({ body }) => body.code === 'token_revoked')
  },
)

t.test(
  'a clock that jumps ahead forgets nothing, and what was true before it jumped is not believed',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const clock = createManualClock()
    const service = await startInstance(t, { stores, clock })
    const client = await createService(service, 'revocations:read')
    const backend = await startBackend(t, service, client)
    await backend.verifier.ready
    const early = await registerAndLogIn(service.url)
    t.equal((await logOut(service.url, early.token)).status, 204)
    assertRefused(t, await ask(t, backend, early.token), 'token_revoked', 'before')

    const { now } = Date
    t.teardown(() => {
      Date.now = now
    })
    Date.now = () => now() + 3_600_000
    clock.advance(3_600)
    const late = await registerAndLogIn(service.url)
    // Enough for every part of the set to grow, and to drop what has expired.
    await withClient(stores.env.DATABASE_URL as string, async (db) => {
      await db.query('begin')
      const { rows } = await db.query('update revocation_head set seq = seq + 1000 returning seq')
      await db.query(
        `insert into revocations (seq, nonce, scope, subject, expires_at, reason)
       select $1::bigint - 1000 + n, gen_random_uuid(), 'token', gen_random_uuid()::text, now() + interval '3 hours', 'test'
       from generate_series(1, 1000) n`,
        [rows[0].seq],
      )
      await db.query('commit')
    })
    t.equal((await logOut(service.url, late.token)).status, 204)
    await eventuallyBoth(t, backend, late.token, ({ body }) => body.code === 'token_revoked')
    t.strictSame(backend.states, ['lost', 'following'], 'it asked anew')

    Date.now = now
    clock.advance(-3_600)
    await eventuallyBoth(t, backend, early.token, ({ body }) => body.code !== 'revocation_unknown')
    assertRefused(t, await ask(t, backend, early.token), 'token_revoked', 'and after')
  },
)

t.test('a cursor that the service does not understand is given up', async (t) => {
  const cursors: unknown[] = []
  const url = await listen(t, (request, response) => {
    if (request.url !== '/revocations') return response.end('{"access_token": "x"}')
    cursors.push(request.headers['last-event-id'])
    if (cursors.length === 2) return response.writeHead(400).end()
    return response
      .writeHead(200, { 'content-type': 'text/event-stream' })
      .end('id: old\nevent: heartbeat\ndata: {}\n\n')
  })
  const verifier = createVerifier({
    issuer: audience,
    audience,
    url,
    clientId: 'x',
    clientSecret: 'x',
    onChange() {},
  })
  t.teardown(() => verifier.close())
  await eventually(t, async () => cursors.length >= 3)
  t.strictSame(cursors.slice(0, 3), [undefined, 'old', undefined])
})

t.test('an event that cannot be read is no event', async (t) => {
  const iss = audience
  const at = { iss, jti: randomUUID(), iat: 1 }
  const entries: RevocationEntry[] = [
    { scope: 'token', subject: randomUUID(), expiresAt: 2 },
    { scope: 'session', subject: randomUUID(), expiresAt: 2 },
    { scope: 'generation', subject: `${randomUUID()}:3`, expiresAt: 2 },
    { scope: 'key', subject: 'k', expiresAt: 2 },
  ]
  for (const entry of entries) {
    const event = toSecurityEvent(entry, at)
    t.strictSame(fromSecurityEvent(event), entry)
    const rubbish = entry.scope === 'key' ? '' : entry.subject.replace(/^./, 'x')
    t.throws(
      () => fromSecurityEvent(toSecurityEvent({ ...entry, subject: rubbish }, at)),
      TypeError,
      entry.scope,
    )
    const [[type, detail]] = Object.entries(event.events) as [[string, { expires_at: number }]]
    for (const wrong of [
      { ...event, events: { 'urn:other': detail } },
      { ...event, events: { [type]: { ...detail, expires_at: Number.NaN } } },
      { ...event, events: { [type]: { ...detail, ver: 'x' } }, sub_id: { format: 'iss_sub', iss, sub: 'x' } },
      { ...event, sub_id: { format: 'opaque', id: '' } },
      { ...event, sub_id: { format: 'email', email: 'a@b.test' } },
    ])
      t.throws(
        () => fromSecurityEvent(wrong as SecurityEvent),
        TypeError,
        `${entry.scope} ${JSON.stringify(wrong)}`,
      )
  }
})

t.test('a request that was answered meanwhile is left alone', async (t) => {
  const client = { clientId: 'x', clientSecret: 'x' }
  const verifier = createVerifier({
    issuer: audience,
    audience,
    url: 'http://127.0.0.1:1',
    ...client,
    onChange() {},
  })
  t.teardown(() => verifier.close())
  const guard = verifier.express()
  const url = await listen(t, (request, response) => {
    response.end('timed out')
    guard(request, response, () => t.fail('nobody is let in'))
  })
  t.match(await call(url, '/'), { status: 200, body: 'timed out' })
})

t.test('a feed that ends as soon as it begins is asked for less and less often', async (t) => {
  let streams = 0
  const url = await listen(t, (request, response) => {
    if (request.url !== '/revocations') response.end('{"access_token": "x"}')
    else {
      streams++
      response.writeHead(200, { 'content-type': 'text/event-stream' }).end('retry: 500\n\n')
    }
  })
  const states: string[] = []
  const verifier = createVerifier({
    issuer: audience,
    audience,
    url,
    clientId: 'x',
    clientSecret: 'x',
    onChange: (state) => void states.push(state),
  })
  t.teardown(() => verifier.close())
  await eventually(t, async () => streams >= 3)
  const startedAt = performance.now()
  await eventually(t, async () => streams >= 5)
  t.ok(performance.now() - startedAt > 400, 'two more took their time')
  t.strictSame(states, ['lost'])
})

t.test('who is not let in is told at once, and is let in when it is', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const client = await createService(service, 'introspect')
  for (const wrong of [{ clientSecret: 'wrong' }, {}]) {
    const { verifier, states } = await startBackend(t, service, client, wrong)
    await t.rejects(verifier.ready, /oauth2\/token answered 40[01] .*invalid_(client|scope)/)
    t.strictSame(states, ['lost'])
  }

  let isLetIn = false
  const url = await listen(t, (request, response) => {
    if (request.url === '/revocations')
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write('event: heartbeat\ndata: {}\n\n')
    else if (isLetIn) response.end('{"access_token": "x"}')
    else response.writeHead(401).end()
  })
  const { verifier, states } = await startBackend(t, { url }, { id: 'x', secret: 'x', token: 'x' })
  await t.rejects(verifier.ready)
  isLetIn = true
  await eventually(t, async () => states.includes('following'))
  verifier.close()

  const closed = await startBackend(t, service, client)
  closed.verifier.close()
  await t.rejects(closed.verifier.ready, /closed/)
})

t.test('a token that reads the feed is asked for once, and anew when it is good no more', async (t) => {
  let grants = 0
  const presented: unknown[] = []
  const answers = ['', 'event: end\ndata: {"code": "token_expired"}\n\n', 401, '']
  const url = await listen(t, (request, response) => {
    if (request.url === '/oauth2/token') return response.end(`{"access_token": "${++grants}"}`)
    if (request.url !== '/revocations') return response.end()
    const answer = answers[presented.length]
    presented.push(request.headers.authorization)
    if (typeof answer === 'number') return response.writeHead(answer).end()
    return response
      .writeHead(200, { 'content-type': 'text/event-stream' })
      .end(`event: heartbeat\ndata: {}\n\n${answer ?? ''}`)
  })
  await startBackend(t, { url }, { id: 'x', secret: 'x', token: 'x' })
  await eventually(t, async () => presented.length >= 5)
  t.strictSame(
    presented.slice(0, 5),
    [1, 1, 2, 3, 3].map((number) => `Bearer ${number}`),
  )
})

t.test('while the record does not answer, a stream that goes on is lost all the same', async (t) => {
  let isCurrent = true
  const url = await listen(t, (request, response) => {
    if (request.url !== '/revocations') return response.end('{"access_token": "x"}')
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const timer = setInterval(
      () => response.write(isCurrent ? 'event: heartbeat\ndata: {}\n\n' : ':\n\n'),
      50,
    )
    return response.once('close', () => clearInterval(timer))
  })
  const { states, verifier } = await startBackend(t, { url }, { id: 'x', secret: 'x', token: 'x' })
  await verifier.ready
  isCurrent = false
  await eventually(t, async () => states.includes('lost'), 10_000)
  isCurrent = true
  await eventually(t, async () => states.includes('following'))
  t.strictSame(states, ['lost', 'following'])
  verifier.close()
})

t.test('what a feed tells is as old as it was when it was told, however late it arrives', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const { token } = await registerAndLogIn(service.url)
  let streams = 0
  const url = await listen(t, async (request, response) => {
    if (request.url === '/oauth2/token') return response.end('{"access_token": "x"}')
    if (request.url !== '/revocations')
      return response.end(JSON.stringify((await call(service.url, request.url as string)).body))
    streams++
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const openedAt = performance.now()
    // The second stream is on time; the first is of its beginning, for ever.
    const timer = setInterval(() => {
      const elapsed_ms = streams > 1 ? performance.now() - openedAt : 0
      response.write(`event: heartbeat\ndata: ${JSON.stringify({ elapsed_ms })}\n\n`)
    }, 50)
    return response.once('close', () => clearInterval(timer))
  })
  const backend = await startBackend(
    t,
    { url },
    { id: 'x', secret: 'x', token: 'x' },
    { maxStalenessSeconds: 3 },
  )
  await backend.verifier.ready
  t.equal((await ask(t, backend, token)).status, 200)
  await eventuallyBoth(t, backend, token, ({ status }) => status === 503)
  t.equal(streams, 1, 'while it goes on')
  t.strictSame(backend.states, [])
  await eventuallyBoth(t, backend, token, ({ status }) => status === 200, 10_000)
  t.strictSame([streams, backend.states], [2, ['lost', 'following']], 'another one is better')
  backend.verifier.close()
})

t.test('what is missing or misspelt is no demand less: it stops the start', async (t) => {
  const whole = { issuer: audience, audience, clientId: 'x', clientSecret: 'x' }
  for (const wrong of [
    { audience: undefined },
    { issuer: '' },
    { clientSecret: undefined },
    { clockToleranceSeconds: '5' },
    { clockToleranceSeconds: Number.NaN },
    { clockToleranceSeconds: 301 },
    { maxStalenessSeconds: Number.POSITIVE_INFINITY },
    { maxStalenessSeconds: 1 },
    { whenStale: 'accept' },
    { maxStaleness: 5 },
  ])
    t.throws(
      () => createVerifier({ ...whole, ...wrong } as VerifierOptions),
      TypeError,
      JSON.stringify(wrong),
    )

  const verifier = createVerifier({ ...whole, url: 'http://127.0.0.1:1', onChange() {} })
  t.teardown(() => verifier.close())
  for (const wrong of [
    { roles: 'admin' },
    { scopes: 'x' },
    { role: undefined },
    { scope: '' },
    { acr: '' },
  ]) {
    t.throws(() => verifier.express(wrong as Demand), TypeError, JSON.stringify(wrong))
    await t.rejects(verifier.verify([], wrong as Demand), TypeError, JSON.stringify(wrong))
    const app = Fastify()
    await t.rejects(
      async () => app.register(verifier.fastify, wrong as Demand),
      TypeError,
      JSON.stringify(wrong),
    )
  }
})

t.test('whatever goes wrong with who is told of a loss, the feed is followed', async (t) => {
  const stores = await postgresAndRedis(t)
  const service = await startInstance(t, { stores })
  const client = await createService(service, 'revocations:read')
  const relay = await startRelay(t, service.url)
  const warnings: string[] = []
  const hear = ({ message }: Error) => void warnings.push(message)
  process.on('warning', hear)
  t.teardown(() => process.off('warning', hear))
  const backend = await startBackend(t, relay, client, {
    onChange(state) {
      throw new Error(`told ${state}`)
    },
  })
  await backend.verifier.ready
  relay.cut()
  await eventually(t, async () => warnings.includes('told lost'))
  await relay.mend()
  await eventually(t, async () => warnings.includes('told following'), 10_000)
})
