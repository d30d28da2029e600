/** Services: how they prove who they are, what they get, and what they may know of others' tokens and do to them. */
import { randomUUID } from 'node:crypto'
import { createRemoteJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import * as oauth from 'oauth4webapi'
import t, { type Test } from 'tap'
import {
  createManualClock,
  embedded,
  type Instance,
  postgresAndRedis,
  randomUser,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import {
  assertLifetime,
  bearer,
  call,
  createService,
  getProtected,
  logIn,
  logOut,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { runCli, startServer } from './fixtures/process.ts'
import { startPostgres } from './fixtures/servers.ts'

interface Service {
  client_id: string
  client_secret: string
}

type Form = Record<string, string> | [string, string][]

const root = { ...randomUser(), username: 'root' }
const asAdmin = { BOOTSTRAP_ADMIN_USERNAME: root.username, BOOTSTRAP_ADMIN_PASSWORD: root.password }
const overlap = 86_400
const inactive = { active: false }

const basic = ({ client_id, client_secret }: Service) => ({
  authorization: `Basic ${Buffer.from(`${client_id}:${client_secret}`).toString('base64')}`,
})

const submit = (
  url: string,
  path: string,
  form: Form,
  headers: Record<string, string> = {},
): Promise<Reply> =>
  call(url, path, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded', ...headers },
    body: new URLSearchParams(form).toString(),
  })

const grant = (url: string, service: Service, form: Record<string, string> = {}): Promise<Reply> =>
  submit(url, '/oauth2/token', { grant_type: 'client_credentials', ...form }, basic(service))
const introspect = (url: string, service: Service, token: string): Promise<Reply> =>
  submit(url, '/oauth2/introspect', { token }, basic(service))
const revoke = (url: string, service: Service, token: string): Promise<Reply> =>
  submit(url, '/oauth2/revoke', { token }, basic(service))

/** All that a service can tell from a refusal. */
function assertRefused(t: Test, reply: Reply, status: number, error: string, name: string): void {
  const { headers, body } = reply
  t.strictSame(
    { status: reply.status, ...body },
    { status, error, error_description: String(body.error_description) },
    name,
  )
  t.ok(body.error_description, name)
  t.match(headers.get('content-type'), /^application\/json/, name)
  t.equal(
    headers.get('www-authenticate'),
    status === 401 ? 'Basic realm="latchkey", charset="UTF-8"' : null,
    name,
  )
  t.strictSame([headers.get('cache-control'), headers.get('pragma')], ['no-store', 'no-cache'], name)
  t.equal(headers.get('retry-after'), status === 503 ? '1' : null, name)
}

async function world(t: Test, storesOf: typeof embedded) {
  const stores = await storesOf(t)
  const clock = createManualClock()
  const start = () => startInstance(t, { stores, clock, env: asAdmin })
  const a = await start()
  const b = storesOf === embedded ? a : await start()
  async function administer(method: string, path: string, body?: object): Promise<Reply> {
    const { token } = await logIn(a.url, root)
    return await call(a.url, path, {
      method,
      headers: { ...bearer(token), ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    })
  }
  async function createService(...scopes: string[]): Promise<Service> {
    const { status, body } = await administer('POST', '/admin/clients', { name: 'a service', scopes })
    t.equal(status, 201)
    return body
  }
  return { stores, clock, a, b, administer, createService }
}

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(storesOf === embedded ? 'embedded' : 'Postgres and Redis, two instances', async (t) => {
    const { stores, clock, a, b, administer, createService } = await world(t, storesOf)
    const gateway = await createService('introspect', 'revoke')
    const both = (ask: (instance: Instance) => Promise<Reply>) => Promise.all([a, b].map(ask))

    t.test('a service gets a token for what it asks and may have', async (t) => {
      const service = await createService('read', 'write', 'read:all')
      const { status, headers, body } = await grant(a.url, service, { scope: 'write read' })
      t.equal(status, 200)
      t.strictSame([headers.get('cache-control'), headers.get('pragma')], ['no-store', 'no-cache'])
      const { access_token, expires_in, ...rest } = body
      t.strictSame(rest, { token_type: 'Bearer', scope: 'write read' })
      assertLifetime(t, expires_in, 900)
      const { iat, exp, jti, ...claims } = decodeJwt(access_token)
      t.strictSame(claims, {
        iss: 'https://auth.test',
        aud: 'https://auth.test',
        sub: service.client_id,
        client_id: service.client_id,
        ver: 1,
        scope: 'write read',
      })
      t.equal((exp as number) - (iat as number), expires_in)
      t.ok(jti)
      t.equal((await grant(b.url, service)).body.scope, 'read read:all write', 'all, if it does not say')

      t.strictSame((await introspect(b.url, gateway, access_token)).body, {
        active: true,
        token_type: 'Bearer',
        ...decodeJwt(access_token),
      })
      for (const { url } of [a, b]) {
        for (const _round of ['cold', 'warm'])
          t.strictSame(refusalOf(await getProtected(url, access_token)), refusal('forbidden'), 'not a person')
        t.equal((await logOut(url, access_token)).status, 403)
      }
      for (const scope of ['admin', 'read admin', 'read  write', ' read', 'read\twrite', '"read"', 'é'])
        assertRefused(t, await grant(a.url, service, { scope }), 400, 'invalid_scope', scope)
    })

    t.test('it proves who it is in the header or in the form, and in one of them', async (t) => {
      const service = await createService('read')
      const token = (form: Form, headers?: Record<string, string>) =>
        submit(a.url, '/oauth2/token', form, headers)
      const type: [string, string] = ['grant_type', 'client_credentials']
      const { client_id, client_secret } = service
      t.equal((await token([type, ['client_id', client_id], ['client_secret', client_secret]])).status, 200)
      t.equal(
        (await token([type, ['client_id', client_id]], basic(service))).status,
        200,
        'the same id again',
      )
      const encoded = { client_id: encodeURIComponent(client_id).replaceAll('-', '%2D'), client_secret }
      t.equal((await token([type], basic(encoded))).status, 200, 'as RFC 6749 wants it encoded')
      t.equal(
        (await token([type, ['resource', 'x'], ['scope', '']], basic(service))).status,
        200,
        'what nobody knows, and what is empty',
      )

      const wrong = {
        client_id,
        client_secret: client_secret.replace(/^./, (first) => (first === 'A' ? 'B' : 'A')),
      }
      const nobody = { client_id: randomUUID(), client_secret }
      const refused: Record<string, [Form, Record<string, string>?]> = {
        nothing: [[type]],
        'an id alone': [[type, ['client_id', client_id]]],
        'a wrong secret': [[type], basic(wrong)],
        'a wrong secret in the form': [
          [type, ['client_id', client_id], ['client_secret', wrong.client_secret]],
        ],
        nobody: [[type], basic(nobody)],
        'no id at all': [[type], basic({ client_id: 'billing', client_secret })],
        'a person': [[type], basic({ client_id: root.username, client_secret: root.password })],
        'an access token': [[type], bearer((await registerAndLogIn(a.url)).token)],
        'the secret of another': [[type], basic({ client_id: gateway.client_id, client_secret })],
      }
      for (const [name, [form, headers]] of Object.entries(refused))
        assertRefused(t, await token(form, headers), 401, 'invalid_client', name)

      const malformed: Record<string, [Form, Record<string, string>?]> = {
        'two secrets': [[type, ['client_id', client_id], ['client_secret', client_secret]], basic(service)],
        'two ids': [[type, ['client_id', gateway.client_id]], basic(service)],
        'a parameter twice': [[type, type], basic(service)],
        'a parameter twice, one empty': [[type, ['scope', 'read'], ['scope', 'read']], basic(service)],
        'no grant': [[['scope', 'read']], basic(service)],
        'an empty grant': [[['grant_type', '']], basic(service)],
        'Basic that is none': [[type], { authorization: 'Basic !' }],
        'Basic that cannot be decoded': [[type], basic({ client_id: '%zz', client_secret })],
      }
      for (const [name, [form, headers]] of Object.entries(malformed))
        assertRefused(t, await token(form, headers), 400, 'invalid_request', name)
      assertRefused(
        t,
        await token([['grant_type', 'password']], basic(service)),
        400,
        'unsupported_grant_type',
        'password',
      )
      const big = await token([type, ['scope', 'x'.repeat(20_000)]], basic(service))
      assertRefused(t, big, 413, 'invalid_request', 'a form that is too big')
      const json = await call(a.url, '/oauth2/token', {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...basic(service) },
        body: '{"grant_type":"client_credentials"}',
      })
      assertRefused(t, json, 415, 'invalid_request', 'JSON')
      for (const line of [...a.log, ...b.log]) t.notMatch(line, client_secret)
    })

    t.test('an app refreshes by the standard too, and nobody does with the password', async (t) => {
      const user = await registerAndLogIn(a.url)
      const ask = (form: Record<string, string>, headers?: Record<string, string>) =>
        submit(b.url, '/oauth2/token', { grant_type: 'refresh_token', ...form }, headers)
      const first = await ask({ refresh_token: user.refreshToken, client_id: 'latchkey' })
      t.equal(first.status, 200)
      t.equal(decodeJwt(first.body.access_token).sid, user.sid)
      t.not(first.body.refresh_token, user.refreshToken)
      const { refresh_token } = first.body
      assertRefused(t, await ask({ refresh_token }), 401, 'invalid_client', 'no client')
      assertRefused(
        t,
        await ask({ refresh_token, client_id: gateway.client_id }),
        401,
        'invalid_client',
        'another',
      )
      assertRefused(t, await ask({ refresh_token }, basic(gateway)), 400, 'invalid_grant', 'a service')
      assertRefused(t, await ask({ client_id: 'latchkey' }), 400, 'invalid_request', 'no token')
      const more = await ask({ refresh_token, client_id: 'latchkey', scope: 'admin' })
      assertRefused(t, more, 400, 'invalid_scope', 'a scope that was never granted')
      for (const rubbish of ['x', refresh_token.toLowerCase(), user.token])
        assertRefused(
          t,
          await ask({ refresh_token: rubbish, client_id: 'latchkey' }),
          400,
          'invalid_grant',
          'rubbish',
        )
      t.equal((await ask({ refresh_token, client_id: 'latchkey' })).status, 200, 'none of which used it up')
      clock.advance(31)
      const stolen = await ask({ refresh_token: user.refreshToken, client_id: 'latchkey' })
      assertRefused(t, stolen, 400, 'invalid_grant', 'a stolen one')
      t.strictSame(refusalOf(await getProtected(a.url, first.body.access_token)), refusal('token_revoked'))
    })

    t.test('introspection tells all of what lives, and of what is dead nothing but that', async (t) => {
      const user = await registerAndLogIn(a.url)
      for (const _round of ['cold', 'warm']) {
        for (const { body } of await both(({ url }) => introspect(url, gateway, user.token)))
          t.strictSame(body, { active: true, token_type: 'Bearer', ...decodeJwt(user.token) })
      }
      const { body } = await introspect(a.url, gateway, user.refreshToken)
      const { auth_time } = decodeJwt(user.token)
      const known = { sub: user.id, sid: user.sid, ver: 1, auth_time }
      t.strictSame(body, { active: true, client_id: 'latchkey', ...known })

      const used = await registerAndLogIn(a.url)
      await refresh(a.url, used.refreshToken)
      const gone = await registerAndLogIn(a.url)
      t.equal((await logOut(a.url, gone.token)).status, 204)
      const dead = {
        'a token that was logged out': gone.token,
        'its refresh token': gone.refreshToken,
        'a used refresh token': used.refreshToken,
        'a forged one': `${user.token.slice(0, -10)}AAAAAAAAAA`,
        rubbish: 'rubbish',
        'rubbish with dots': 'x.y.z',
        'a header and a token': `Bearer ${user.token}`,
      }
      for (const [name, token] of Object.entries(dead)) {
        for (const _round of ['cold', 'warm']) {
          for (const reply of await both(({ url }) => introspect(url, gateway, token)))
            t.strictSame([reply.status, reply.body], [200, inactive], name)
        }
      }
      // As when a database was set back to a backup from before the logout.
      const forgotten = await registerAndLogIn(a.url)
      const expiresAt = Math.floor(clock.now() / 1000) + 3600
      const entries = [{ scope: 'session' as const, subject: forgotten.sid, expiresAt }]
      await a.app.revocation.revoke({ entries, reason: 'test' })
      t.strictSame(
        (await introspect(b.url, gateway, forgotten.refreshToken)).body,
        inactive,
        'whose end was forgotten',
      )

      clock.advance(906)
      t.strictSame((await introspect(a.url, gateway, user.token)).body, inactive, 'an expired one')

      const service = await createService('read')
      const token = (await grant(a.url, service)).body.access_token
      assertRefused(
        t,
        await introspect(a.url, service, token),
        403,
        'insufficient_scope',
        'without the scope',
      )
      assertRefused(t, await submit(a.url, '/oauth2/introspect', { token }), 401, 'invalid_client', 'nobody')
      assertRefused(
        t,
        await submit(a.url, '/oauth2/introspect', {}, basic(gateway)),
        400,
        'invalid_request',
        'nothing',
      )
      const hinted = await submit(
        a.url,
        '/oauth2/introspect',
        { token, token_type_hint: 'saml' },
        basic(gateway),
      )
      t.equal(hinted.body.active, true, 'a hint that nobody knows')
    })

    t.test('what is revoked is dead at every door when it is answered, and nothing else is', async (t) => {
      const service = await createService('read')
      const [taken, kept] = [0, 1].map(async () => (await grant(a.url, service)).body.access_token as string)
      const [own, other] = [await taken, await kept] as [string, string]
      const [byAccess, byRefresh] = [await registerAndLogIn(a.url), await registerAndLogIn(a.url)]
      const bystander = await logIn(a.url, byAccess)
      t.equal((await revoke(b.url, service, own)).status, 200, 'its own, without the scope')
      t.equal((await revoke(b.url, gateway, byAccess.token)).status, 200)
      t.equal((await revoke(a.url, gateway, byRefresh.refreshToken)).status, 200)
      for (const instance of [a, b]) {
        for (const token of [
          own,
          byAccess.token,
          byRefresh.token,
          byAccess.refreshToken,
          byRefresh.refreshToken,
        ])
          t.strictSame((await introspect(instance.url, gateway, token)).body, inactive)
        for (const { token } of [byAccess, byRefresh])
          t.strictSame(refusalOf(await getProtected(instance.url, token)), refusal('token_revoked'))
        t.equal((await introspect(instance.url, gateway, other)).body.active, true)
        t.equal((await getProtected(instance.url, bystander.token)).status, 200)
      }
      t.equal((await refresh(a.url, byRefresh.refreshToken)).status, 401)

      for (const token of ['rubbish', 'x.y.z', own, byAccess.token, byRefresh.refreshToken])
        t.equal((await revoke(a.url, gateway, token)).status, 200, 'once more, and what is nothing')
      for (const token of [
        bystander.token,
        bystander.refreshToken,
        (await grant(a.url, gateway)).body.access_token,
      ])
        assertRefused(t, await revoke(a.url, service, token), 403, 'insufficient_scope', 'not its own')
      t.equal((await getProtected(a.url, bystander.token)).status, 200)
      assertRefused(t, await submit(a.url, '/oauth2/revoke', { token: own }), 401, 'invalid_client', 'nobody')
    })

    t.test('a secret that was renewed is good for a while, however often that is done', async (t) => {
      const service = await createService('read')
      const renewed = await administer('POST', `/admin/clients/${service.client_id}/secret`)
      t.equal(renewed.status, 201)
      t.equal(renewed.body.client_id, service.client_id)
      t.not(renewed.body.client_secret, service.client_secret)
      for (const one of [service, renewed.body]) t.equal((await grant(b.url, one)).status, 200)
      clock.advance(overlap - 1)
      t.equal((await grant(b.url, service)).status, 200)
      clock.advance(1)
      assertRefused(t, await grant(b.url, service), 401, 'invalid_client', 'the old one')
      t.equal((await grant(b.url, renewed.body)).status, 200)
      const third = await administer('POST', `/admin/clients/${service.client_id}/secret`)
      await administer('POST', `/admin/clients/${service.client_id}/secret`)
      for (const one of [renewed.body, third.body]) t.equal((await grant(b.url, one)).status, 200)
      clock.advance(overlap)
      for (const one of [renewed.body, third.body])
        assertRefused(t, await grant(b.url, one), 401, 'invalid_client', 'the old ones')
    })

    t.test('an account that is closed ends its tokens and its secrets', async (t) => {
      const service = await createService('introspect')
      const { access_token } = (await grant(a.url, service)).body
      t.equal((await introspect(b.url, gateway, access_token)).body.active, true)
      t.equal((await administer('DELETE', `/admin/clients/${service.client_id}`)).status, 204)
      for (const { url } of [a, b]) {
        t.strictSame((await introspect(url, gateway, access_token)).body, inactive)
        assertRefused(t, await grant(url, service), 401, 'invalid_client', 'no more of them')
        assertRefused(
          t,
          await introspect(url, service, access_token),
          401,
          'invalid_client',
          'no more answers',
        )
      }
      for (const [method, path] of [
        ['DELETE', `/admin/clients/${service.client_id}`],
        ['POST', `/admin/clients/${service.client_id}/secret`],
        ['DELETE', `/admin/clients/${randomUUID()}`],
      ] as const)
        t.strictSame(refusalOf(await administer(method, path)), refusal('not_found'))
      const { clients } = (await administer('GET', '/admin/clients')).body
      t.match(
        clients.find(({ client_id }: Service) => client_id === service.client_id),
        { name: 'a service', scopes: ['introspect'], status: 'disabled' },
      )
      t.notMatch(JSON.stringify(clients), /secret/)
    })

    t.test('however many there are, a page leads to the next, and each stands on one', async (t) => {
      const made = await Promise.all(
        Array.from({ length: 101 }, () => a.app.clients.create({ name: 'many', scopes: [] }, 'test')),
      )
      const listed: string[] = []
      let path = '/admin/clients'
      for (let pages = 1; ; pages++) {
        const { status, body } = await administer('GET', path)
        t.equal(status, 200)
        listed.push(...body.clients.map(({ client_id }: Service) => client_id))
        if (body.next_cursor === undefined) {
          t.equal(pages, 2)
          break
        }
        t.equal(body.clients.length, 100)
        path = `/admin/clients?cursor=${body.next_cursor}`
      }
      t.equal(new Set(listed).size, listed.length)
      t.strictSame(
        made.filter(({ client_id }) => !listed.includes(client_id)),
        [],
      )
      t.equal((await administer('GET', '/admin/clients?cursor=x')).status, 400)
    })

    t.test('accounts of services are an admin’s, and secrets are nobody’s', async (t) => {
      const { token } = await registerAndLogIn(a.url)
      for (const [method, path] of [
        ['GET', '/admin/clients'],
        ['POST', '/admin/clients'],
        ['POST', `/admin/clients/${gateway.client_id}/secret`],
        ['DELETE', `/admin/clients/${gateway.client_id}`],
      ] as const) {
        t.equal((await call(a.url, path, { method })).status, 401)
        t.equal((await call(a.url, path, { method, headers: bearer(token) })).status, 403)
        const own = (await grant(a.url, gateway)).body.access_token
        t.equal((await call(a.url, path, { method, headers: bearer(own) })).status, 403, 'not a service’s')
      }
      for (const body of [
        { name: '', scopes: [] },
        { name: 'x' },
        { name: 'x', scopes: ['a b'] },
        { name: 'x', scopes: ['a', 'a'] },
        { name: 'x', scopes: [], client_secret: 'mine' },
      ])
        t.equal((await administer('POST', '/admin/clients', body)).status, 400)
      if ('DATABASE_URL' in stores.env) {
        const dump = await withClient(stores.env.DATABASE_URL as string, async (client) =>
          JSON.stringify(
            (
              await client.query('select c.*, encode(s.hash, $1) from clients c, client_secrets s', [
                'escape',
              ])
            ).rows,
          ),
        )
        t.notMatch(dump, gateway.client_secret)
      }
    })
  })
}

t.test('oauth4webapi finds everything by itself, and is content with it', async (t) => {
  const stores = await postgresAndRedis(t)
  const first = await startServer(t, { env: { ...stores.env, ...asAdmin, NODE_ENV: 'development' } })
  const issuer = new URL(first.url)
  first.signal('SIGTERM')
  await first.end
  // Its issuer is where it is, as a discovering client demands.
  const server = await startServer(t, {
    env: { ...stores.env, ...asAdmin, ISSUER: issuer.href.replace(/\/$/, ''), PORT: issuer.port },
  })
  const made = await runCli(
    t,
    ['clients', 'create', 'billing', '--scope', 'introspect', '--scope', 'revoke', '--json'],
    {
      env: { ISSUER: issuer.href.replace(/\/$/, ''), ...stores.env },
    },
  )
  const [service] = JSON.parse(made.stdout) as [Service]
  const insecure = { [oauth.allowInsecureRequests]: true }
  const as = await oauth.processDiscoveryResponse(
    issuer,
    await oauth.discoveryRequest(issuer, { ...insecure, algorithm: 'oauth2' }),
  )
  const client: oauth.Client = { client_id: service.client_id }
  for (const auth of [
    oauth.ClientSecretBasic(service.client_secret),
    oauth.ClientSecretPost(service.client_secret),
  ]) {
    const granted = await oauth.processClientCredentialsResponse(
      as,
      client,
      await oauth.clientCredentialsGrantRequest(as, client, auth, { scope: 'introspect' }, insecure),
    )
    t.match(granted, { token_type: 'bearer', expires_in: Number, scope: 'introspect' })
    const { payload } = await jwtVerify(
      granted.access_token,
      createRemoteJWKSet(new URL(as.jwks_uri as string)),
      {
        issuer: as.issuer,
        audience: as.issuer,
        typ: 'at+jwt',
      },
    )
    t.equal(payload.sub, service.client_id)
    const ask = async () =>
      await oauth.processIntrospectionResponse(
        as,
        client,
        await oauth.introspectionRequest(as, client, auth, granted.access_token, insecure),
      )
    t.match(await ask(), { active: true, sub: service.client_id })
    await oauth.processRevocationResponse(
      await oauth.revocationRequest(as, client, auth, granted.access_token, insecure),
    )
    t.strictSame(await ask(), inactive)
  }
  const user = await registerAndLogIn(server.url)
  const app: oauth.Client = { client_id: 'latchkey' }
  const refreshed = await oauth.processRefreshTokenResponse(
    as,
    app,
    await oauth.refreshTokenGrantRequest(as, app, oauth.None(), user.refreshToken, insecure),
  )
  t.equal((await getProtected(server.url, refreshed.access_token)).status, 200)
})

t.test(
  'what ends a client or a key outlives every token of it, whichever instance issued that',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const brief = await startInstance(t, { stores, env: { ACCESS_TOKEN_TTL_SECONDS: '60' } })
    const generous = await startInstance(t, { stores, env: { ACCESS_TOKEN_TTL_SECONDS: '86400' } })
    const client = await createService(generous, 'read')
    const person = await registerAndLogIn(generous.url)
    const { exp = 0 } = decodeJwt(client.token)
    await brief.app.clients.disable(client.id, 'test')
    await brief.app.signingKeys.remove(decodeProtectedHeader(person.token).kid as string, 'test')
    await withClient(stores.env.DATABASE_URL as string, async (db) => {
      const { rows } = await db.query(
        'select scope, extract(epoch from expires_at)::float8 as end from revocations order by seq',
      )
      t.strictSame(
        rows.map(({ scope }) => scope),
        ['generation', 'key'],
      )
      for (const { scope, end } of rows) t.ok(end >= exp + 300, `${scope}: ${end} is after ${exp}`)
    })
  },
)

t.test('a name is short, and does nothing to a terminal', async (t) => {
  const { app } = await startInstance(t, { stores: await embedded(t) })
  for (const name of ['', 'x'.repeat(201), 'a\nb', '\u001b[2J', '\u0000', '\u009b'])
    await t.rejects(
      app.clients.create({ name, scopes: [] }, 'cli'),
      { code: 'invalid_request' },
      JSON.stringify(name),
    )
  for (const name of ['x'.repeat(200), 'Büro für Rechnungen', '請求'])
    await t.resolves(app.clients.create({ name, scopes: [] }, 'cli'))
})

t.test('from a shell, an account is made, renewed and closed as by an admin', async (t) => {
  const stores = await postgresAndRedis(t)
  const env = { ISSUER: 'https://auth.test', ...stores.env }
  const server = await startServer(t, { env })
  const clients = async (...args: string[]) => await runCli(t, ['clients', ...args], { env })
  const [gateway, service] = (await Promise.all(
    [['gateway', '--scope', 'introspect'], ['billing']].map(
      async (args) => JSON.parse((await clients('create', ...args, '--json')).stdout)[0] as Service,
    ),
  )) as [Service, Service]
  const token = (await grant(server.url, service)).body.access_token
  t.equal((await introspect(server.url, gateway, token)).body.active, true)
  const [renewed] = JSON.parse((await clients('renew', service.client_id, '--json')).stdout)
  t.equal((await grant(server.url, renewed)).status, 200)
  t.match(await clients('disable', service.client_id), { code: 0, stdout: 'disabled\n' })
  t.strictSame(
    (await introspect(server.url, gateway, token)).body,
    inactive,
    'an exit code of 0 is as good as a 204',
  )
  t.match(
    JSON.parse((await clients('list', '--json')).stdout)
      .map(({ status }: { status: string }) => status)
      .sort(),
    ['active', 'disabled'],
  )
  for (const id of [service.client_id, 'x'])
    t.match(await clients('disable', id), { code: 1, stderr: /latchkey clients disable: / })
  t.match(await clients('create', 'x', '--scope', 'a b'), { code: 1, stderr: /not a scope/ })
  for (const args of [[], ['create'], ['list', '--scope', 'x'], ['disable']])
    t.match(await clients(...args), { code: 2, stderr: /^usage: / })
})

t.test('while Postgres is away, a service is told 503 and nothing is guessed', async (t) => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.stop())
  const stores = await postgresAndRedis(t)
  stores.env = { ...stores.env, DATABASE_URL: postgres.url }
  const { app, url } = await startInstance(t, { stores })
  const { client_id, client_secret } = await app.clients.create(
    { name: 'x', scopes: ['introspect', 'revoke'] },
    'test',
  )
  const service = { client_id, client_secret }
  const { token } = await registerAndLogIn(url)
  await postgres.kill('SIGKILL')
  for (const reply of [
    await grant(url, service),
    await introspect(url, service, token),
    await revoke(url, service, token),
  ])
    assertRefused(t, reply, 503, 'temporarily_unavailable', 'away')
})
