/** openapi.yaml says what the service does, the service does what openapi.yaml says, and neither does more. */
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { FastifyInstance } from 'fastify'
import { decodeJwt, decodeProtectedHeader, exportPKCS8, generateKeyPair, SignJWT } from 'jose'
import { type TOTP, URI } from 'otpauth'
import t, { type Test } from 'tap'
import { createManualClock, postgresAndRedis, startInstance, type User, withClient } from './fixtures/app.ts'
import {
  bearer,
  call,
  exchange,
  type LoggedIn,
  logIn,
  logOut,
  post,
  type Reply,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import {
  codesOf,
  faultsOf,
  type Operation,
  openapiFile,
  operationsOf,
  readDocument,
  type Schema,
} from './fixtures/openapi.ts'
import { endGuessing, giveFactor, giveMailToken } from './fixtures/second-factor.ts'
import { startPostgres, startRedis } from './fixtures/servers.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)
const document = readDocument()
const operations = operationsOf(document)
const operation = (id: string) => operations.find(({ operationId }) => operationId === id) as Operation

t.test('openapi.yaml is what `npm run openapi` writes', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'latchkey-openapi-test-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const file = join(folder, 'openapi.yaml')
  await run(process.execPath, ['--import=tsx', '.ci/openapi.ts', file], { cwd: root })
  t.equal(await readFile(openapiFile, 'utf8'), await readFile(file, 'utf8'))
})

t.test('Redocly has nothing to say about it', async (t) => {
  const redocly = join(root, 'node_modules', '@redocly', 'cli', 'bin', 'cli.js')
  const args = [redocly, 'lint', openapiFile, '--extends=recommended', '--format=json']
  const env = { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' }
  // It ends with 1 where there is an error; what it found is on stdout all the same.
  const { stdout } = await run(process.execPath, args, { cwd: root, env }).catch((error) => error)
  const { totals, problems } = JSON.parse(stdout)
  t.strictSame(problems, [])
  t.strictSame(totals, { errors: 0, warnings: 0, ignored: 0 })
})

t.test('it has every path and method that is served, but for those that show it', async (t) => {
  const urls = new Set<string>()
  const watch = (message: unknown) =>
    (message as { fastify: FastifyInstance }).fastify.addHook('onRoute', ({ url }) => void urls.add(url))
  subscribe('fastify.initialization', watch)
  const { app } = await startInstance(t, { stores: await postgresAndRedis(t) })
  unsubscribe('fastify.initialization', watch)

  const served: string[] = []
  for (const url of urls) {
    if (url === '/openapi.json' || url.startsWith('/docs')) continue
    const known = app.supportedMethods.filter((method) => method !== 'HEAD')
    const methods: string[] = []
    for (const method of known) {
      const { statusCode } = await app.inject({ url, method: method as 'GET' })
      if (statusCode !== 405) methods.push(method)
    }
    const path = url.replace(/:(\w+)/g, '{$1}')
    const told = operations.filter((asked) => asked.path === path)
    // OpenAPI has no word for any method: it is said in words, and then it has to be each of them.
    if (told[0]?.description?.startsWith('Any method is answered alike')) {
      t.strictSame(methods, known, `${path} has every method`)
      served.push(`GET ${path}`)
    } else served.push(...methods.map((method) => `${method} ${path}`))
  }
  t.strictSame(served.sort(), operations.map(({ method, path }) => `${method} ${path}`).sort())
})

t.test('the running service tells the same, of itself', async (t) => {
  const { url } = await startInstance(t, {
    stores: await postgresAndRedis(t),
    env: { ISSUER: 'https://auth.test/here' },
  })
  const { status, headers, body } = await call(url, '/openapi.json')
  t.equal(status, 200)
  t.equal(headers.get('content-type'), 'application/json; charset=utf-8')
  t.strictSame(body, { ...document, servers: [{ url: 'https://auth.test/here' }] })
})

t.test('its examples are examples of what they stand with', async (t) => {
  let seen = 0
  JSON.stringify(document, (key, value) => {
    if (key === 'components' || !value?.examples) return value
    for (const example of Object.values<Example>(value.examples)) {
      const faults = faultsOf(document, value.schema ?? value, plainOf(example))
      t.strictSame(faults, [], JSON.stringify(example))
      seen++
    }
    return value
  })
  t.ok(seen > 20)
})

type Example = { $ref?: string } | string

/** An example stands there itself or, as those of failures do, among the components. */
function plainOf(example: Example): unknown {
  const name = typeof example === 'object' && example.$ref?.split('/').at(-1)
  return name ? document.components.examples[name]?.value : example
}

/** What a failure of this code is called in the reply: below /oauth2, several share a word. */
function wordOf({ path }: Operation, code: string): string {
  const name = path.startsWith('/oauth2/') ? `OauthError.${code}` : code
  const { value } = document.components.examples[name] as { value: { code?: string; error?: string } }
  return (value.code ?? value.error) as string
}

/** What no example can say because a running service hands it out, by the name that a body or a path has for it. */
type Given = Record<string, string>

interface Asking {
  given?: Given
  headers?: Record<string, string>
  /** In place of the example; null is no body at all. */
  body?: unknown
}

/** As the document says and no more: what is optional and has no example stays away. */
function exampleOf(schema: Schema | undefined, given: Given = {}): Record<string, unknown> | null {
  if (!schema?.properties) return null
  const members = Object.entries(schema.properties).slice(0, schema.maxProperties)
  return Object.fromEntries(members.map(([name, { examples }]) => [name, examples?.[0] ?? given[name]]))
}

function ask(
  url: string,
  { method, path, mediaType, ...asked }: Operation,
  asking: Asking = {},
): Promise<Reply> {
  const { given = {}, headers, body = exampleOf(asked.body, given) } = asking
  const write = (value: object) => {
    const json = JSON.stringify(value)
    return mediaType === 'application/json' ? json : new URLSearchParams(JSON.parse(json)).toString()
  }
  return call(
    url,
    path.replace(/\{(\w+)\}/g, (_, name) => `${given[name]}`),
    {
      method,
      headers: { ...(body !== null && { 'content-type': mediaType }), ...headers },
      ...(body !== null && { body: typeof body === 'string' ? body : write(body as object) }),
    },
  )
}

function assertSaid(t: Test, { operationId, responses }: Operation, { status, headers, body }: Reply): void {
  const name = `${operationId} ${status}`
  const response = responses[status]
  const [type = null, media] = Object.entries(response?.content ?? {})[0] ?? []
  t.ok(response, `${name} is documented`)
  t.equal(headers.get('content-type')?.split(';')[0] ?? null, type, `${name} is of the documented type`)
  if (media) t.strictSame(faultsOf(document, media.schema, body), [], `${name} has the documented form`)
  else t.equal(body, '', `${name} has no body`)
  for (const header of ['WWW-Authenticate', 'Retry-After']) {
    const isDocumented = response?.headers?.[header] !== undefined
    // Only some codes of such a status have a challenge: what is no good request, or of a strange page, has none.
    const examples = media?.examples ?? {}
    if (
      isDocumented &&
      ['invalid_request', 'cross_site', 'invalid_current_password', 'invalid_code'].some(
        (code) => code in examples,
      )
    )
      continue
    t.equal(headers.has(header), isDocumented, `${name} ${header}`)
  }
}

const noBody = { body: null }
const basicOf = ({ client_id, client_secret }: { client_id: string; client_secret: string }) =>
  basic({ username: client_id, password: client_secret })
const ada = exampleOf(operation('logIn').body) as unknown as User
const basic = ({ username, password }: User) => ({
  authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`,
})

/** An admin, so that no operation is closed to them. */
async function registerAdmin(url: string, databaseUrl: string): Promise<LoggedIn> {
  const user = await registerAndLogIn(url)
  await giveRoles(databaseUrl, user.id, ['admin'])
  return { ...user, ...(await logIn(url, user)) }
}

const allScopes = ['introspect', 'revoke', 'revocations:read']
/** These want a token that was granted something. */
const ofServices = new Set(['forwardAuthByScope', 'readRevocations'])

async function grantedTo(
  app: FastifyInstance,
  { client_id, client_secret }: { client_id: string; client_secret: string },
): Promise<string> {
  const client = await app.clients.authenticate(client_id, client_secret)
  return app.clients.grant(client, undefined, { requestId: '', address: '', network: '', userAgent: '' })
    .access_token
}

const giveRoles = (databaseUrl: string, id: string, roles: string[]) =>
  withClient(databaseUrl, (client) => client.query('update users set roles = $2 where id = $1', [id, roles]))

interface Holding {
  app: FastifyInstance
  url: string
  databaseUrl: string
  token: string
}

/** Gives them an app. @returns a token that says that they have shown a code of it */
async function raise({ app, url, databaseUrl, token }: Holding, { password }: User): Promise<string> {
  const shown = await giveFactor(app, databaseUrl, decodeJwt(token).sub as string)
  const { body } = await post(url, '/reauthenticate', { password, code: shown.generate() }, bearer(token))
  return body.access_token
}

/** What reaches somebody by another way than a reply to them. */
async function givenTo(
  { operationId }: Operation,
  { app, url, databaseUrl, token }: Holding,
): Promise<Given> {
  if (operationId === 'removeTotp') await post(url, '/mfa/totp', undefined, bearer(token))
  if (operationId === 'confirmTotp') {
    const { body } = await post(url, '/mfa/totp', undefined, bearer(token))
    return { code: (URI.parse(body.otpauth_uri) as TOTP).generate() }
  }
  const user = await registerAndLogIn(url)
  if (operationId === 'verifyEmail') return { token: await giveMailToken(databaseUrl, user.id, 'verify') }
  if (operationId === 'resetPassword') return { token: await giveMailToken(databaseUrl, user.id, 'reset') }
  if (operationId !== 'completeLogin') return {}
  const app_ = await giveFactor(app, databaseUrl, user.id)
  const { body } = await post(url, '/login', { username: user.username, password: user.password })
  return { mfa_token: body.mfa_token, code: app_.generate() }
}

t.test('whoever asks as it says is answered as it says', async (t) => {
  const stores = await postgresAndRedis(t)
  const { app, url } = await startInstance(t, { stores })
  const databaseUrl = stores.env.DATABASE_URL as string
  const register = operation('register')
  const registered = await ask(url, register)
  assertSaid(t, register, registered)
  t.equal(registered.status, 201)
  await giveRoles(databaseUrl, registered.body.id, ['admin'])
  // One that closes its account closes its own last, and then there is another password.
  const changePassword = operation('changePassword')
  const others = operations.filter((other) => other !== register && other !== changePassword)
  for (const asked of [...others, changePassword]) {
    const service = await app.clients.create({ name: 'x', scopes: allScopes }, 'test')
    const { id } = await registerAndLogIn(url)
    const seen = new Set<string>()
    const see = (reply: Reply): Reply => {
      assertSaid(t, asked, reply)
      seen.add(`${reply.status}`)
      return reply
    }
    // An empty list is no demand.
    for (const demand of asked.security.length > 0 ? asked.security : [{}]) {
      await withClient(databaseUrl, (client) => client.query('delete from totp_factors'))
      const { token: plain, refreshToken, sid } = await logIn(url, ada)
      const token =
        asked.operationId === 'renewRecoveryCodes'
          ? await raise({ app, url, databaseUrl, token: plain }, ada)
          : plain
      const { kid = '' } = decodeProtectedHeader(token)
      const given = {
        refresh_token: refreshToken,
        sid,
        id,
        jti: randomUUID(),
        kid,
        token,
        role: 'admin',
        scope: 'introspect',
        client_id: service.client_id,
        ...(await givenTo(asked, { app, url, databaseUrl, token })),
      }
      if ('bearerAuth' in demand) {
        const own = ofServices.has(asked.operationId) ? await grantedTo(app, service) : token
        see(await ask(url, asked, { given, headers: bearer(own), ...(asked.isBodyOptional && noBody) }))
      } else if ('sessionCookie' in demand) {
        const headers = { cookie: `__Host-latchkey=${refreshToken}`, origin: 'https://auth.test' }
        see(await ask(url, asked, { headers, ...noBody }))
      } else if ('basicAuth' in demand) {
        see(await ask(url, asked, { headers: basic(ada), ...noBody }))
      } else if ('clientBasic' in demand) {
        see(await ask(url, asked, { given, headers: basicOf(service) }))
      } else {
        const { client_secret } = service
        const { headers } = see(await ask(url, asked, { given: { ...given, client_secret } }))
        const etag = headers.get('etag')
        if (etag) see(await ask(url, asked, { headers: { 'if-none-match': etag } }))
      }
    }
    const documented = Object.keys(asked.responses).filter((status) => status < '400')
    t.strictSame([...seen].sort(), documented, asked.operationId)
  }
})

t.test('every code that it says an operation can fail by is seen from it, and no other', async (t) => {
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
  t.teardown(() => Promise.all([postgres.stop(), redis.stop()]))
  const { env } = await postgresAndRedis(t)
  const stores = { env: { ...env, DATABASE_URL: postgres.url, REDIS_URL: redis.url } }
  const clock = createManualClock()
  const { app, url } = await startInstance(t, {
    stores,
    clock,
    env: { ARGON2_MEMORY_KIB: '16384', ARGON2_CONCURRENCY: '1', ARGON2_QUEUE_MAX: '1' },
  })
  const limited = await startInstance(t, { stores, clock, env: { RATE_MAX: '1', FORGERY_RATE_MAX: '1' } })
  const strict = await startInstance(t, { stores, clock, env: { SECOND_FACTOR_ROLES: 'admin' } })

  const seen = new Map(operations.map((asked) => [asked, new Set<string>()]))
  async function see(asked: Operation, replying: Promise<Reply>): Promise<void> {
    const reply = await replying
    if (reply.status < 400) return
    assertSaid(t, asked, reply)
    seen.get(asked)?.add(reply.body.code ?? reply.body.error)
  }

  const service = await app.clients.create({ name: 'x', scopes: allScopes }, 'test')
  const plain = await app.clients.create({ name: 'x', scopes: [] }, 'test')

  const expired = await registerAndLogIn(url)
  clock.advance(305)
  const stale = await registerAdmin(url, postgres.url)
  const { sid: besideStale } = await logIn(url, stale)
  clock.advance(601)
  const revoked = await registerAndLogIn(url)
  await logOut(url, revoked.token)
  const refused = ['x', await grantedTo(app, plain), expired.token, revoked.token]

  /** A refresh token whose successor has been used, after the grace. */
  async function oldRefreshToken(): Promise<string> {
    const { refreshToken } = await registerAndLogIn(url)
    const refresh = (token: string) => post(url, '/refresh', { refresh_token: token })
    await refresh((await refresh(refreshToken)).body.refresh_token)
    clock.advance(31)
    return refreshToken
  }

  const given = {
    id: randomUUID(),
    sid: randomUUID(),
    jti: randomUUID(),
    client_id: randomUUID(),
    kid: '0'.repeat(43),
    refresh_token: 'x',
    token: 'x',
    mfa_token: 'x',
    code: '000000',
  }
  // A new key last: one whose time has long come when the clock jumps would leave the one before no time to retire.
  const rotateKeys = operation('rotateKeys')
  for (const asked of [...operations.filter((other) => other !== rotateKeys), rotateKeys]) {
    const { method, path, body } = asked
    // Fresh ones for each operation, for some operations end sessions.
    const { token: live, password } = await registerAdmin(url, postgres.url)
    const nobody = await registerAndLogIn(url)
    await withClient(postgres.url, (client) => client.query('delete from users where id = $1', [nobody.id]))
    await see(asked, exchange(url, `${method} ${path} HTTP/1.1\r\nconnection: close\r\n\r\n`))
    if (method !== 'GET') {
      const text = { 'content-type': 'text/plain' }
      await see(asked, ask(url, asked, { headers: bearer(live), body: ' '.repeat(20_000) }))
      await see(asked, ask(url, asked, { headers: { ...bearer(live), ...text }, body: 'x' }))
    }
    if (body) {
      for (const headers of [{}, bearer(live)]) {
        await see(asked, ask(url, asked, { given, headers, body: { ...exampleOf(body), password: 'short' } }))
        await Promise.all(Array.from({ length: 9 }, () => see(asked, ask(url, asked, { given, headers }))))
      }
      const weak = { current_password: password, new_password: 'short' }
      if ('new_password' in (body.properties ?? {}))
        await see(asked, ask(url, asked, { headers: bearer(live), body: weak }))
      if ('refresh_token' in (body.properties ?? {})) {
        const stolen = { ...given, refresh_token: await oldRefreshToken() }
        await see(asked, ask(url, asked, { given: stolen }))
      }
    }
    await see(asked, ask(url, asked, { given, ...noBody }))
    const ofStrangers = { ...bearer(live), cookie: '__Host-latchkey=x', origin: 'https://other.test' }
    const keeping = { given: { ...given, session: 'cookie' }, headers: ofStrangers }
    const isLogin = body?.properties && 'session' in body.properties
    await see(asked, ask(url, asked, { ...keeping, ...(asked.isBodyOptional && !isLogin && noBody) }))
    await see(asked, ask(url, asked, { given, ...noBody, headers: { authorization: 'Bearer' } }))
    const forAll = asked.operationId === 'logOut' ? { ...asked, path: `${path}?scope=all` } : asked
    for (const token of [...refused, nobody.token]) {
      for (const asking of [asked, forAll])
        await see(
          asked,
          ask(url, asking, { given, headers: bearer(token), ...(asked.isBodyOptional && noBody) }),
        )
    }
    const forOthers = asked.operationId === 'logOut' ? { ...asked, path: `${path}?scope=others` } : asked
    const aboutOther = { given: { ...given, sid: besideStale }, headers: bearer(stale.token) }
    await see(asked, ask(url, forOthers, { ...aboutOther, ...(asked.isBodyOptional && noBody) }))
    await see(asked, ask(url, asked, { given, headers: bearer(live) }))
    if (asked.path.startsWith('/admin') || asked.operationId === 'forwardAuthByRole')
      await see(asked, ask(strict.url, asked, { given: { ...given, role: 'admin' }, headers: bearer(live) }))
    for (const headers of [{}, bearer(live.replace(/.{10}$/, 'A'.repeat(10)))])
      for (let time = 0; time < 2; time++) await see(asked, ask(limited.url, asked, { given, headers }))
  }

  const guarded = await registerAdmin(url, postgres.url)
  await giveFactor(app, postgres.url, guarded.id)
  const { username, password, token: ofGuarded } = guarded
  const headers = bearer(ofGuarded)
  const { body: challenge } = await post(url, '/login', { username, password })
  const challenged = { mfa_token: challenge.mfa_token, code: '000000' }
  const chosen = { current_password: password, new_password: password }
  const token = await giveMailToken(postgres.url, (await registerAndLogIn(url)).id, 'reset')
  const reset = operation('resetPassword')
  await see(reset, ask(url, reset, { body: { token, new_password: 'short' } }))
  await Promise.all(Array.from({ length: 9 }, () => see(reset, ask(url, reset, { given: { token } }))))
  const unguarded = await registerAdmin(url, postgres.url)
  for (const { name, who = guarded, ...asking } of [
    { name: 'logIn', body: { username, password } },
    { name: 'completeLogin', body: challenged },
    { name: 'enrolTotp', headers },
    { name: 'reauthenticate', headers, body: { password } },
    { name: 'reauthenticate', headers, body: { password, code: '000000' } },
    { name: 'changePassword', headers: bearer(unguarded.token), body: chosen, who: unguarded },
    { name: 'confirmTotp', headers: bearer(unguarded.token), body: { code: '000000' }, who: unguarded },
  ]) {
    const asked = operation(name)
    await withClient(postgres.url, (client) => client.query('delete from guesses'))
    await see(asked, ask(url, asked, asking))
    await endGuessing(postgres.url, who.username)
    await see(asked, ask(url, asked, asking))
  }

  clock.advance(1_000)
  const { token: watching } = await registerAdmin(url, postgres.url)
  const isNextUsed = async () => {
    const { body } = await ask(url, operation('listKeys'), { headers: bearer(watching) })
    return body.keys.every(({ state }: { state: string }) => state !== 'next')
  }
  await eventually(t, isNextUsed)

  const readRevocations = operation('readRevocations')
  const reading = bearer(await grantedTo(app, service))
  const gone = { ...readRevocations, path: `/revocations?cursor=999.${randomUUID()}` }
  await see(readRevocations, ask(url, gone, { headers: reading }))
  const { privateKey } = await generateKeyPair('ES256')
  const held = new Map<Operation, string[]>()
  for (const asked of operations) {
    const { token } = await registerAdmin(url, postgres.url)
    const header = { alg: 'ES256', typ: 'at+jwt', kid: 'perhaps-new' }
    const ofNewKey = await new SignJWT(decodeJwt(token)).setProtectedHeader(header).sign(privateKey)
    held.set(asked, [token, ofNewKey])
  }
  const last = await registerAdmin(url, postgres.url)
  await withClient(postgres.url, (client) =>
    client.query("update users set roles = '{}' where id <> $1", [last.id]),
  )
  const grantToken = operation('grantToken')
  for (const body of [
    { grant_type: 'client_credentials', scope: 'introspect' },
    { grant_type: 'password' },
    { grant_type: 'refresh_token', refresh_token: 'x' },
  ])
    await see(grantToken, ask(url, grantToken, { headers: basicOf(plain), body }))
  for (const asked of [operation('introspectToken'), operation('revokeToken')])
    await see(asked, ask(url, asked, { given: { token: last.token }, headers: basicOf(plain) }))
  const { privateKey: brought } = await generateKeyPair('ES256', { extractable: true })
  const body = { private_key: await exportPKCS8(brought) }
  for (const asking of [{ body }, { body }, noBody]) {
    await see(rotateKeys, ask(url, rotateKeys, { headers: bearer(last.token), ...asking }))
  }
  for (const asked of ['setRoles', 'setStatus', 'deleteUser'].map(operation))
    await see(asked, ask(url, asked, { given: { id: last.id }, headers: bearer(last.token) }))

  const seeAll = async () => {
    for (const [asked, tokens] of held) {
      await see(asked, ask(url, asked, { given }))
      if (asked.security.some((demand) => 'clientBasic' in demand))
        await see(asked, ask(url, asked, { given: { token: 'x' }, headers: basicOf(service) }))
      for (const token of tokens)
        await see(
          asked,
          ask(url, asked, { given, headers: bearer(token), ...(asked.isBodyOptional && noBody) }),
        )
    }
    await see(readRevocations, ask(url, readRevocations, { headers: reading }))
  }
  await postgres.kill('SIGKILL')
  await seeAll()
  await redis.kill('SIGKILL')
  await eventually(t, async () => (await call(url, '/health/ready')).status === 503)
  await seeAll()

  for (const [asked, codes] of seen) {
    const documented = new Set(codesOf(asked).map((code) => wordOf(asked, code)))
    for (const bug of ['internal_error', 'server_error']) documented.delete(bug)
    t.strictSame([...codes].sort(), [...documented].sort(), asked.operationId)
  }
})
