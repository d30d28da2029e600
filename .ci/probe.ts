/** Starts what `npm run build` made, as production would, twice over one Postgres and one Redis, and uses it once. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { bearer, call, getProtected, logOut, registerAndLogIn } from '../test/fixtures/client.ts'
import { startPostgres, startRedis } from '../test/fixtures/servers.ts'

const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])

const env = {
  PATH: process.env.PATH,
  NODE_ENV: 'production',
  PORT: '0',
  ISSUER: 'https://auth.example.org',
  DATABASE_URL: postgres.url,
  REDIS_URL: redis.url,
  KEY_ENCRYPTION_SECRET: randomBytes(32).toString('base64'),
}

async function start() {
  const child = spawn(process.execPath, ['dist/server.js'], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  for await (const line of createInterface({ input: child.stdout })) {
    const url = /listening on (http:[^"]+)/.exec(line)?.[1]
    if (url) {
      child.stdout.resume()
      return { child, url }
    }
  }
  throw new Error('the built service did not start')
}

const instances = await Promise.all([start(), start()])
try {
  const [a, b] = instances.map(({ url }) => url) as [string, string]
  const { token, username } = await registerAndLogIn(a)
  assert.equal((await getProtected(b, token)).status, 200)
  assert.equal((await call(b, '/me', { headers: bearer(token) })).body.username, username)
  assert.equal((await logOut(a, token)).status, 204)
  assert.equal((await getProtected(b, token)).body.code, 'token_revoked')
  assert.equal((await call(b, '/health/ready')).body.mode, 'tail and index')
  for (const { child } of instances) {
    child.kill('SIGTERM')
    assert.deepEqual(await once(child, 'exit'), [0, null])
  }
  process.stdout.write('the built service answers, refuses and stops as it should\n')
} finally {
  for (const { child } of instances) child.kill('SIGKILL')
  await Promise.all([postgres.stop(), redis.stop()])
}
