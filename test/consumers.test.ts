/** Those for whom this service is: other people's programs, with other people's libraries, in their own processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { decodeProtectedHeader } from 'jose'
import t, { type Test } from 'tap'
import { postgresAndRedis } from './fixtures/app.ts'
import { bearer, call, logIn, logOut, type Reply, registerAndLogIn } from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { ensureFlask, python } from './fixtures/install.ts'
import { runCli, startServer } from './fixtures/process.ts'
import { freePort } from './fixtures/servers.ts'

/** The service, at the address that its tokens and documents tell. */
async function startHere(t: Test) {
  const { env: stores } = await postgresAndRedis(t)
  const port = await freePort()
  const env = { ...stores, PORT: `${port}`, ISSUER: `http://127.0.0.1:${port}` }
  const server = await startServer(t, { env })
  const latchkey = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCli(t, ['--json', ...args], { env })
    t.equal(code, 0, stderr)
    return JSON.parse(stdout)
  }
  return { ...server, latchkey }
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
  const app = spawn(python, [fileURLToPath(new URL('../examples/flask/app.py', import.meta.url))], {
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
})
