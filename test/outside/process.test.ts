import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { Agent, type ClientRequest, type IncomingMessage, request } from 'node:http'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { openDataFolder } from '../../src/db/data-folder.ts'
import type { Environment } from '../../src/settings.ts'
import { postgresAndRedis, withClient } from '../fixtures/app.ts'
import { call, getProtected, logIn, logOut, post, refresh, registerAndLogIn } from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { type Ending, launchServer, runCli, type ServerProcess, startServer } from '../fixtures/process.ts'

// Each is its own world, and mostly one process starting after another.
t.jobs = 2

t.test('a start waits for a migration, however long that takes', async (t) => {
  const { env } = await postgresAndRedis(t)
  await runCli(t, ['migrate'], { env })
  await withClient(env.DATABASE_URL as string, async (client) => {
    await client.query('begin; lock drizzle.__drizzle_migrations')
    const server = launchServer(t, { env })
    const ended = await Promise.race([server.end, delay(12_000)]) // Fastify gives a plugin 10 s
    t.equal(ended, undefined, 'it waits')
    await client.query('commit')
    t.type(await Promise.race([server.listening, server.end]), 'string', 'and then it listens')
  })
})

t.test('what an embedded service was told survives kill -9, a clean restart and a move', async (t) => {
  const cwd = temporaryFolder(t)
  const folder = join(cwd, 'data')
  const elsewhere = join(temporaryFolder(t), 'a-long-path-'.repeat(10)) // a socket's path has room for 107 bytes

  const interrupted = launchServer(t, { env: {}, cwd })
  await eventually(t, async () => existsSync(join(folder, 'postgres', 'global')), 20_000)
  interrupted.signal('SIGKILL')
  await interrupted.end

  const first = await startServer(t, { env: {}, cwd })
  t.equal(statSync(folder).mode & 0o777, 0o700, 'the folder is its owner’s alone')
  t.equal(statSync(join(folder, 'key-encryption-secret')).mode & 0o777, 0o600)
  await whatItTellsANewcomerToTryWorks(first)
  const user = await registerAndLogIn(first.url)
  const { token: loggedOut } = await logIn(first.url, user)
  const { body: jwks } = await call(first.url, '/.well-known/jwks.json')
  await refusesASecondProcess(first, folder, user.token)
  const { body: refreshed } = await refresh(first.url, user.refreshToken)
  t.equal((await logOut(first.url, loggedOut)).status, 204)
  first.signal('SIGKILL')
  t.equal((await first.end).signal, 'SIGKILL')
  await goesToOneOfMany(folder)

  const restarted = await startServer(t, { env: {}, cwd })
  await remembersAll(restarted)
  restarted.signal('SIGTERM')
  t.equal((await restarted.endsWithin(5_000)).code, 0)

  renameSync(folder, elsewhere)
  const moved = await startServer(t, { env: { DATA_DIR: elsewhere }, cwd })
  await remembersAll(moved)
  await refusesASecondProcess(moved, elsewhere, user.token)
  t.strictSame(readdirSync(dirname(elsewhere)), [basename(elsewhere)], 'its lock is where its data are')
  moved.signal('SIGINT')
  t.equal((await moved.endsWithin(5_000)).code, 0)

  async function whatItTellsANewcomerToTryWorks({ url, stdout }: ServerProcess) {
    await eventually(t, async () => stdout().includes('curl'))
    const curl = /curl -s (\S+) -H 'content-type: application\/json' \\\n +-d '(.+)'/.exec(stdout())
    const [, target = '', body] = curl ?? []
    t.equal(target, `${url}/register`)
    t.equal((await post(target, '', body)).status, 201)
  }

  async function refusesASecondProcess({ url }: ServerProcess, folder: string, token: string) {
    const second = await launchServer(t, { env: { DATA_DIR: folder }, cwd: '/' }).endsWithin(20_000)
    refusedToStart(t, second, /in use by another latchkey process/)
    t.equal((await getProtected(url, token)).status, 200, 'and the first goes on')
  }

  async function goesToOneOfMany(folder: string) {
    const tries = await Promise.allSettled(Array.from({ length: 8 }, () => openDataFolder(folder)))
    for (const tried of tries) {
      if (tried.status === 'fulfilled') await tried.value.release()
      else t.match(tried.reason, { message: /in use by another latchkey process/ })
    }
    t.equal(tries.filter(({ status }) => status === 'fulfilled').length, 1)
  }

  async function remembersAll({ url }: ServerProcess) {
    await logIn(url, user)
    t.equal((await getProtected(url, user.token)).status, 200)
    await refusesAsRevoked(t, url, loggedOut)
    const repeated = await refresh(url, user.refreshToken)
    t.equal(repeated.body.refresh_token, refreshed.refresh_token, 'the successor of a used refresh token')
    t.strictSame((await call(url, '/.well-known/jwks.json')).body, jwks)
  }
})

t.test('a data folder that cannot be used is told in one line', async (t) => {
  const parent = temporaryFolder(t)
  const taken = join(parent, 'taken')
  writeFileSync(taken, '')
  const unwritable = join(parent, 'unwritable')
  mkdirSync(unwritable, { mode: 0o500 })
  // Nothing is unwritable for root but what the kernel keeps to itself.
  const folders = [taken, join(taken, 'below'), process.getuid?.() === 0 ? '/proc' : unwritable]
  await Promise.all(
    folders.map(async (folder) => {
      const ending = await launchServer(t, { env: { DATA_DIR: folder } }).endsWithin(20_000)
      refusedToStart(t, ending, new RegExp(basename(folder)))
    }),
  )
})

t.test('a port that is taken is told in one line', async (t) => {
  const { env } = await postgresAndRedis(t)
  const { port } = await listenSilently(t)
  for (const name of ['PORT', 'METRICS_PORT']) {
    const ending = await launchServer(t, { env: { ...env, [name]: `${port}` } }).endsWithin(20_000)
    refusedToStart(t, ending, new RegExp(`in use.*${port}`))
  }
})

t.test('a secret that is no secret does not seal anything', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'key-encryption-secret'), '')
  const ending = await launchServer(t, { env: { DATA_DIR: folder } }).endsWithin(20_000)
  refusedToStart(t, ending, /key-encryption-secret is damaged/)
})

t.test('wrong settings are told all at once, and no secret with them', async (t) => {
  const env = { PORT: 'hunter2', NODE_ENV: 'production', KEY_ENCRYPTION_SECRET: 'hunter2' }
  const { code, stdout, stderr } = await launchServer(t, { env }).endsWithin(20_000)
  t.equal(code, 1)
  for (const name of ['PORT', 'DATABASE_URL', 'ISSUER', 'KEY_ENCRYPTION_SECRET'])
    t.match(stderr, new RegExp(`^ +${name} `, 'm'))
  t.notMatch(stdout + stderr, 'hunter2')
})

t.test('eight instances that start at once on an empty database all come up', async (t) => {
  const { env: stores } = await postgresAndRedis(t)
  const DATABASE_URL = await gather(t, stores.DATABASE_URL as string, 8)
  const env = { ...stores, DATABASE_URL, REDIS_URL: undefined } // Postgres alone makes them agree
  const instances = await Promise.all(Array.from({ length: 8 }, () => startServer(t, { env })))
  const [first, ...others] = instances as [ServerProcess, ...ServerProcess[]]

  await withClient(env.DATABASE_URL as string, async (client) => {
    const { rows } = await client.query('select kid from signing_keys')
    t.equal(rows.length, 1, 'one of them made the key')
    for (const { url } of instances) {
      const { keys } = (await call(url, '/.well-known/jwks.json')).body
      t.strictSame(
        keys.map(({ kid }: { kid: string }) => kid),
        [rows[0].kid],
      )
    }
  })

  await t.test('and a token is dead everywhere when the one that took it back is killed', async (t) => {
    const user = await registerAndLogIn(first.url)
    const { token: live } = await logIn(first.url, user)
    const under = await logIn(first.url, user)
    for (const { url } of instances) t.equal((await getProtected(url, user.token)).status, 200)
    t.equal((await logOut(first.url, user.token)).status, 204)
    const refreshing = refresh(first.url, under.refreshToken).catch(() => undefined)
    first.signal('SIGKILL')
    await Promise.all(others.map(({ url }) => refusesAsRevoked(t, url, user.token)))
    t.equal((await first.end).signal, 'SIGKILL')
    for (const { url } of others) t.equal((await getProtected(url, live)).status, 200, 'it, and nothing else')
    await refreshing
    const retries = await Promise.all(others.map(({ url }) => refresh(url, under.refreshToken)))
    t.ok(
      retries.every(({ status }) => status === 200),
      'a refresh that it was asked for is repeated elsewhere',
    )
    t.equal(new Set(retries.map(({ body }) => body.refresh_token)).size, 1)
  })

  await t.test('and they end when they are told to', async (t) => {
    for (const other of others) other.signal('SIGTERM')
    for (const other of others) t.equal((await other.endsWithin(5_000)).code, 0)
  })
})

t.test(
  'latchkey migrate brings a schema up to date, once or twice, and needs nothing but where it is',
  async (t) => {
    const { env } = await postgresAndRedis(t)
    const { DATABASE_URL } = env
    for (let time = 1; time <= 2; time++) {
      const { code, stdout, stderr } = await runCli(t, ['migrate'], {
        env: { NODE_ENV: 'production', DATABASE_URL },
      })
      t.strictSame({ code, stdout, stderr }, { code: 0, stdout: 'the schema is up to date\n', stderr: '' })
    }
    await withClient(env.DATABASE_URL as string, async (client) => {
      t.strictSame((await client.query('select * from users')).rows, [])
    })
  },
)

t.test('latchkey says what it cannot do', async (t) => {
  const [embedded, ...misused] = await Promise.all([
    runCli(t, ['migrate'], { env: {} }),
    ...[['frobnicate'], ['migrate', 'twice'], ['__proto__'], ['toString']].map((args) =>
      runCli(t, args, { env: {} }),
    ),
  ])
  t.equal(embedded?.code, 1)
  t.match(embedded?.stderr, /^latchkey migrate: .*DATABASE_URL.*\n$/)
  for (const { code, stdout, stderr } of misused) {
    t.equal(code, 2)
    t.match(stderr, /^usage: latchkey /)
    t.equal(stdout, '')
  }
})

t.test('a role that may not change the schema serves a current one, and none that is behind', async (t) => {
  const role = `role_${randomBytes(8).toString('hex')}`
  const admin = process.env.TEST_DATABASE_URL as string
  const password = randomBytes(16).toString('hex')
  await withClient(admin, (client) => client.query(`create role ${role} login password '${password}'`))
  t.teardown(() => withClient(admin, (client) => client.query(`drop role ${role}`)))

  const { env: owner } = await postgresAndRedis(t)
  const url = new URL(owner.DATABASE_URL as string)
  const asOwner = (sql: string) => withClient(owner.DATABASE_URL as string, (client) => client.query(sql))
  Object.assign(url, { username: role, password })
  const env = { ...owner, DATABASE_URL: url.href }

  await asOwner('revoke create on schema public from public')
  const onEmpty = await launchServer(t, { env }).endsWithin(20_000)
  refusedToStart(t, onEmpty, /schema.*latchkey migrate/)

  await runCli(t, ['migrate'], { env: owner })
  await asOwner(`grant usage on schema public, drizzle to ${role}`)
  await asOwner(`grant select, insert, update, delete on all tables in schema public to ${role}`)
  await asOwner(`grant select on all tables in schema drizzle to ${role}`)
  const server = await startServer(t, { env })
  const { token } = await registerAndLogIn(server.url)
  t.equal((await logOut(server.url, token)).status, 204)
  await refusesAsRevoked(t, server.url, token)

  await asOwner(`delete from drizzle.__drizzle_migrations
    where created_at = (select max(created_at) from drizzle.__drizzle_migrations)`)
  const onOld = await launchServer(t, { env }).endsWithin(20_000)
  refusedToStart(t, onOld, /schema.*latchkey migrate/)
  for (const { stdout, stderr } of [onEmpty, onOld]) t.notMatch(stdout + stderr, password)
})

t.test('a secret that does not open the keys of the database is told in one line', async (t) => {
  const { env } = await postgresAndRedis(t)
  const first = await startServer(t, { env })
  const secret = randomBytes(32).toString('base64')
  const other = await launchServer(t, { env: { ...env, KEY_ENCRYPTION_SECRET: secret } }).endsWithin(20_000)
  refusedToStart(t, other, /KEY_ENCRYPTION_SECRET/)
  for (const told of [secret, env.KEY_ENCRYPTION_SECRET as string])
    t.notOk((other.stdout + other.stderr).includes(told))
  t.equal((await call(first.url, '/health/ready')).status, 200, 'and the others go on')
})

t.test('without Postgres it does not start, and says so within seconds', async (t) => {
  const { env } = await postgresAndRedis(t)
  const given = new URL(env.DATABASE_URL as string)
  given.password ||= 'hunter2'
  const { password } = given
  const reaching = (change: Partial<URL>): Environment => {
    const url = Object.assign(new URL(given), change)
    return { ...env, DATABASE_URL: url.href }
  }
  const silent = await listenSilently(t)
  const closed = { hostname: '127.0.0.1', port: '1' }
  const endings = await Promise.all([
    launchServer(t, { env: reaching(closed) }).endsWithin(20_000),
    launchServer(t, { env: reaching({ hostname: '127.0.0.1', port: `${silent.port}` }) }).endsWithin(20_000),
    launchServer(t, { env: reaching({ pathname: '/nowhere_to_be_found' }) }).endsWithin(20_000),
    runCli(t, ['migrate'], { env: reaching(closed) }),
  ])
  for (const ending of endings) {
    refusedToStart(t, ending, /DATABASE_URL|Postgres|database/)
    t.notMatch(ending.stderr, /Failed query|Plugin/, 'which means nothing to an operator')
    t.notOk((ending.stdout + ending.stderr).includes(password), 'nor is the password of the URL told')
  }
})

t.test('without Redis it starts, serves, and says what is missing', async (t) => {
  const { env } = await postgresAndRedis(t)
  const silent = await listenSilently(t)
  await Promise.all(
    [1, silent.port].map(async (port) => {
      const server = await startServer(t, { env: { ...env, REDIS_URL: `redis://127.0.0.1:${port}` } })
      const ready = await call(server.url, '/health/ready')
      t.equal(ready.status, 200)
      t.strictSame(ready.body, { status: 'ready', mode: 'tail', missing: ['redis'] })
      const { token } = await registerAndLogIn(server.url)
      t.equal((await getProtected(server.url, token)).status, 200)
      t.equal((await logOut(server.url, token)).status, 204)
      await refusesAsRevoked(t, server.url, token)
      server.signal('SIGTERM')
      t.equal((await server.endsWithin(5_000)).code, 0)
    }),
  )
})

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} lets everybody finish, and then it ends with 0`, async (t) => {
    const { env } = await postgresAndRedis(t)
    const hashing = { ARGON2_MEMORY_KIB: '65536', ARGON2_PASSES: '8' }
    const server = await startServer(t, { env: { ...env, ...hashing } })
    const user = await registerAndLogIn(server.url)
    await keepConnectionOpen(t, server.url)

    const login = await begin(t, server.url, '/login')
    login.end(JSON.stringify({ username: user.username, password: user.password }))
    const answered = once(login, 'response')
    const logout = logOut(server.url, user.token) // whose client would use the connection again
    await withClient(env.DATABASE_URL as string, (client) =>
      eventually(t, async () => (await client.query('select from revocations')).rowCount === 1),
    )
    server.signal(signal) // while the one is hashed and the other held
    await delay(50)
    server.signal(signal) // as Ctrl-C does under npm, which passes its own on

    const [{ statusCode }] = (await answered) as [IncomingMessage]
    t.equal(statusCode, 200)
    t.equal((await logout).status, 204)
    const { code, stdout } = await server.endsWithin(2_000)
    t.equal(code, 0)
    t.match(stdout, '"stopping"')
  })
}

t.test('a connection on which nothing was asked yet holds up no end', async (t) => {
  const { env } = await postgresAndRedis(t)
  const server = await startServer(t, { env })
  const { port, hostname } = new URL(server.url)
  const sockets = ['', 'POST /login HTTP/1.1\r\nhost: a'].map((beginning) => {
    const socket = connect(Number(port), hostname).on('error', () => {})
    t.teardown(() => socket.destroy())
    socket.write(beginning)
    return once(socket, 'connect')
  })
  await Promise.all(sockets)
  await call(server.url, '/health/live') // by now it knows them all
  void server.signal('SIGTERM')
  t.equal((await server.endsWithin(2_000)).code, 0)
})

t.test('who never comes to an end is waited for no longer than SHUTDOWN_TIMEOUT_SECONDS', async (t) => {
  const { env } = await postgresAndRedis(t)
  const server = await startServer(t, { env: { ...env, SHUTDOWN_TIMEOUT_SECONDS: '1' } })
  const endless = await begin(t, server.url, '/login')
  const trickle = setInterval(() => endless.write(' '), 50)
  t.teardown(() => clearInterval(trickle))
  const told = performance.now()
  server.signal('SIGTERM')
  const { code, signal, stdout } = await server.endsWithin(20_000)
  const tookMs = performance.now() - told
  t.equal(signal, null, 'it ends itself')
  t.equal(code, 0)
  t.match(stdout, 'cut off')
  t.ok(tookMs > 900 && tookMs < 2_500, `after ${Math.round(tookMs)} ms`)
})

t.test('SIGTERM ends a start that is under way', async (t) => {
  const silent = await listenSilently(t)
  const DATABASE_URL = `postgres://latchkey@127.0.0.1:${silent.port}/latchkey`
  const server = launchServer(t, {
    env: { DATABASE_URL, KEY_ENCRYPTION_SECRET: randomBytes(32).toString('hex') },
  })
  await silent.reached
  server.signal('SIGTERM')
  const { code, stderr } = await server.endsWithin(1_500)
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
})

function refusedToStart(t: Test, { code, stdout, stderr }: Ending, because: RegExp): void {
  t.equal(code, 1)
  t.match(stderr, because)
  t.match(stderr, /^latchkey [^\n]+\n$/, 'one line')
  t.notMatch(stdout, 'listening on')
}

async function refusesAsRevoked(t: Test, url: string, token: string): Promise<void> {
  const { status, body } = await getProtected(url, token)
  t.strictSame([status, body.code], [401, 'token_revoked'])
}

function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-process-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A server that is there but says nothing, as one that hangs. */
async function listenSilently(t: Test): Promise<{ port: number; reached: Promise<unknown> }> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => void sockets.add(socket.on('error', () => {})))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const reached = once(server, 'connection')
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return { port: (server.address() as AddressInfo).port, reached }
}

/** @returns the URL of a relay to Postgres that lets nobody pass until so many have come */
async function gather(t: Test, url: string, count: number): Promise<string> {
  const { hostname, port } = new URL(url)
  const waiting: Socket[] = []
  const relay = createServer((client) => {
    waiting.push(client)
    if (waiting.length < count) return
    for (const socket of waiting.splice(0)) pass(socket)
    count = 0
  })
  const pass = (client: Socket) => {
    const postgres = connect(Number(port || 5432), hostname)
    client.on('error', () => postgres.destroy()).pipe(postgres)
    postgres.on('error', () => client.destroy()).pipe(client)
  }
  t.teardown(() => relay.close())
  await once(relay.listen(0, '127.0.0.1'), 'listening')
  const through = { hostname: '127.0.0.1', port: `${(relay.address() as AddressInfo).port}` }
  return Object.assign(new URL(url), through).href
}

/** A POST of which the server has begun to take the body: it is waiting for it. */
async function begin(t: Test, url: string, path: string): Promise<ClientRequest> {
  const headers = { 'content-type': 'application/json', expect: '100-continue' }
  const begun = request(url + path, { method: 'POST', headers, agent: false })
  begun.on('error', () => {})
  t.teardown(() => begun.destroy())
  begun.flushHeaders()
  await once(begun, 'continue')
  return begun
}

/** A client that has asked something and may ask again, but does not. */
async function keepConnectionOpen(t: Test, url: string): Promise<void> {
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const [response] = (await once(request(`${url}/health/live`, { agent }).end(), 'response')) as [
    IncomingMessage,
  ]
  response.resume()
  await once(response, 'end')
}
