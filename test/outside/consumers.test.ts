/** Those for whom this service is: other people's programs, with other people's libraries, in their own processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { decodeProtectedHeader } from 'jose'
import t, { type Test } from 'tap'
import { postgresAndRedis } from '../fixtures/app.ts'
import {
  bearer,
  call,
  type LoggedIn,
  logIn,
  logOut,
  type Reply,
  registerAndLogIn,
} from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { ensureFlask, python } from '../fixtures/install.ts'
import { launchExample, runCli, startServer } from '../fixtures/process.ts'
import { freePort } from '../fixtures/servers.ts'

/** The service, at the address that its tokens and documents tell. */
async function startHere(t: Test) {
  const { env: stores } = await postgresAndRedis(t)
  const port = await freePort()
  const env = { ...stores, PORT: `${port}`, ISSUER: `http://127.0.0.1:${port}` }
  const start = () => startServer(t, { env })
  const server = await start()
  const latchkey = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCli(t, ['--json', ...args], { env })
    t.equal(code, 0, stderr)
    return JSON.parse(stdout)
  }
  return { ...server, start, latchkey }
}

// Whoever has no Flask can do without; CI cannot.
const withoutFlask = ensureFlask()
const skip = process.env.CI === 'true' ? false : (withoutFlask ?? false)

t.test('an application in Flask guards its own routes with our tokens', { skip }, async (t) => {
  const { url, latchkey, signal } = await startHere(t)
  const [{ client_id, client_secret }] = await latchkey(
    'clients',
    'create',
    'reports',
    '--scope',
    'introspect',
  )
  const port = await freePort()
  const app = spawn(python, [fileURLToPath(new URL('../../examples/flask/app.py', import.meta.url))], {
    env: { ISSUER: url, CLIENT_ID: client_id, CLIENT_SECRET: client_secret, PORT: `${port}` },
    stdio: 'ignore',
  })
  t.teardown(async () => {
    app.kill('SIGKILL')
    if (app.exitCode === null && app.signalCode === null) await once(app, 'exit')
  })
  const ask = (path: string, token?: string): Promise<Reply> =>
    call(`http://127.0.0.1:${port}`, path, token === undefined ? {} : { headers: bearer(token) })
  await eventually(
    t,
    () =>
      ask('/reports').then(
        () => true,
        () => false,
      ),
    20_000,
  )

  const user = await registerAndLogIn(url)
  t.equal((await ask('/reports')).status, 401, 'nobody')
  for (const path of ['/reports', '/transfers'])
    t.match(await ask(path, user.token), { status: 200, body: { sub: user.id } })
  const forged = user.token.replace(/.{10}$/, 'A'.repeat(10))
  for (const token of [forged, 'rubbish', user.refreshToken])
    t.match((await ask('/transfers', token)).status, /^4(01|22)$/, 'not ours')

  t.equal((await logOut(url, user.token)).status, 204)
  t.equal((await ask('/transfers', user.token)).status, 401, 'whoever asks knows of a logout at once')
  t.equal((await ask('/reports', user.token)).status, 200, 'and whoever does not, when the token expires')

  // In an emergency the next key signs although no verifier has fetched it yet: one that it does not know makes it look.
  const [{ kid }] = await latchkey('keys', 'list')
  await latchkey('keys', 'remove', '--', kid)
  let after = user.token
  await eventually(t, async () => {
    after = (await logIn(url, user)).token
    return decodeProtectedHeader(after).kid !== kid
  })
  for (const path of ['/reports', '/transfers']) t.equal((await ask(path, after)).status, 200)

  signal('SIGSTOP')
  t.equal((await ask('/transfers', after)).status, 503, 'no answer lets nobody in')
  t.equal((await ask('/reports', after)).status, 200, 'what is checked here goes on')
  signal('SIGCONT')
  signal('SIGKILL')
  const [, ...rest] = after.split('.')
  const head = Buffer.from(JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: 'new' })).toString('base64url')
  const { status } = await ask('/reports', [head, ...rest].join('.'))
  t.equal(status, 503, 'and where a key cannot be asked for, nobody is called wrong')
})

t.test('two backends follow one feed, while the service dies and starts again under them', async (t) => {
  const { url, latchkey, start, signal, end } = await startHere(t)
  const [{ client_id, client_secret }] = await latchkey(
    'clients',
    'create',
    'app',
    '--scope',
    'revocations:read',
  )
  const credentials = { ISSUER: url, CLIENT_ID: client_id, CLIENT_SECRET: client_secret }
  const ports = await Promise.all([freePort(), freePort()])
  for (const port of ports) launchExample(t, 'node/app.js', { env: { ...credentials, PORT: `${port}` } })
  const ask = (token: string) =>
    Promise.all(ports.map((port) => call(`http://127.0.0.1:${port}`, '/reports', { headers: bearer(token) })))
  const statuses = async (token: string) => (await ask(token)).map(({ status }) => status)
  const users = await Promise.all(Array.from({ length: 3 }, () => registerAndLogIn(url)))
  const [early, late, good] = users as [LoggedIn, LoggedIn, LoggedIn]
  await eventually(
    t,
    () =>
      statuses(early.token).then(
        () => true,
        () => false,
      ),
    10_000,
  )

  for (const { token, id } of users)
    t.match(await ask(token), [
      { status: 200, body: { sub: id } },
      { status: 200, body: { sub: id } },
    ])
  t.equal((await logOut(url, early.token)).status, 204)
  for (const { status, body } of await ask(early.token))
    t.strictSame(
      { status, code: body.code },
      { status: 401, code: 'token_revoked' },
      'once it is acknowledged',
    )

  signal('SIGKILL')
  await end
  t.strictSame(await statuses(good.token), [200, 200], 'nobody needs the service for what is known')
  t.strictSame(await statuses(early.token), [401, 401])
  await start()
  t.equal((await logOut(url, late.token)).status, 204)
  await eventually(t, async () => (await statuses(late.token)).every((status) => status === 401))
  t.strictSame(await statuses(good.token), [200, 200])
  t.strictSame(await statuses(early.token), [401, 401])
  t.match(
    await call(`http://127.0.0.1:${ports[0]}`, '/reports', { method: 'POST', headers: bearer(good.token) }),
    {
      status: 403,
      body: { code: 'forbidden' },
    },
  )
})
