/** Runs the finished image as a container would: its command, environment and health check, as a user who owns nothing there. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { getProtected, registerAndLogIn } from '../../test/fixtures/client.ts'
import { freePort, startPostgres, startRedis } from '../../test/fixtures/servers.ts'
import { type Image, machinePath } from './image.ts'
import type { StartOptions, Workshop } from './workshop.ts'

/** @throws Error with what the service said if it does not start, answer and stop */
export async function checkContainer(image: Image, workshop: Workshop, say: (line: string) => void) {
  const { command, healthCheck } = image
  if (!command || !healthCheck) throw new Error('Dockerfile: the last stage needs CMD and HEALTHCHECK')
  if (image.user === 'root') throw new Error('Dockerfile: the last stage runs as root')
  const port = await freePort()
  const stores = await Promise.all([startPostgres(), startRedis()])
  const [postgres, redis] = stores
  const options: StartOptions = {
    cwd: image.folder,
    owner: nobody(),
    env: {
      PATH: machinePath(),
      ...image.env,
      PORT: `${port}`,
      ISSUER: 'https://auth.example.org',
      DATABASE_URL: postgres.url,
      REDIS_URL: redis.url,
      KEY_ENCRYPTION_SECRET: randomBytes(32).toString('base64'),
    },
  }
  const isHealthy = async () => {
    const { code } = await workshop.start(healthCheck.command, options).endsWithin(healthCheck.timeoutSeconds)
    return code === 0
  }

  try {
    checkArgon2(options, say)
    if (await isHealthy()) throw new Error('HEALTHCHECK: healthy, though nothing runs')

    const service = workshop.start(command, options)
    const ended = service.endsWithin(healthCheck.startPeriodSeconds + 60)
    const early = ended.then(
      ({ code, signal }) => Promise.reject(new Error(`CMD ended with ${code ?? signal}\n${service.said()}`)),
      (error: Error) => Promise.reject(new Error(`CMD cannot be run: ${error.message}`)),
    )
    early.catch(() => {})
    for (const deadline = Date.now() + healthCheck.startPeriodSeconds * 1000; ; await sleep(500)) {
      if (await Promise.race([isHealthy(), early])) break
      if (Date.now() > deadline) throw new Error(`HEALTHCHECK: never healthy\n${service.said()}`)
    }
    say('the service is healthy by its own health check')

    // Not the address that the health check asks: other containers come from elsewhere.
    const url = `http://${process.platform === 'linux' ? '127.0.0.2' : '127.0.0.1'}:${port}`
    await fetch(url).catch((cause) => {
      throw new Error(`the service cannot be reached from outside: HOST is ${image.env.HOST}`, { cause })
    })
    const { token } = await registerAndLogIn(url)
    assert.equal((await getProtected(url, token)).status, 200)
    say('somebody registered, logged in and was let in')

    service.signal('SIGTERM')
    const { code, signal, leftOthersRunning } = await ended
    const left = leftOthersRunning ? ', and others kept running' : ''
    if (code !== 0 || leftOthersRunning)
      throw new Error(`SIGTERM: CMD ended with ${code ?? signal}${left}\n${service.said()}`)
    say('SIGTERM ended it with 0, and nothing is left of it')
  } finally {
    await Promise.all(stores.map((store) => store.stop()))
  }
}

/** Hashes, verifies a hash that was given, and tells which binary did it and in what time. */
const argon2Script = `
  const argon2 = require('argon2')
  const options = { memoryCost: 19456, timeCost: 2, parallelism: 1 }
  void (async () => {
    let hash, fastest = Infinity
    for (let i = 0; i < 20; i++) {
      const start = performance.now()
      hash = await argon2.hash('correct horse battery', options)
      fastest = Math.min(fastest, performance.now() - start)
    }
    const [given = hash] = process.argv.slice(1)
    const verified = await argon2.verify(given, 'correct horse battery') && !(await argon2.verify(given, 'another'))
    const binaries = process.report.getReport().sharedObjects.filter((path) => path.includes('argon2'))
    process.stdout.write(JSON.stringify({ hash, verified, fastest, binaries }))
  })()`

/** @throws Error unless the rebuilt binary is what gets loaded, and the other one understands its hashes */
function checkArgon2({ cwd, env, owner }: StartOptions, say: (line: string) => void): void {
  const run = (more: Record<string, string>, ...given: string[]) => {
    const { status, signal, stdout, stderr } = spawnSync('node', ['-e', argon2Script, ...given], {
      cwd,
      env: { ...env, ...more },
      ...owner,
      encoding: 'utf8',
      timeout: 30_000,
    })
    if (status !== 0) throw new Error(`argon2 does not work: ${signal ?? status}\n${stderr}`)
    return JSON.parse(stdout) as { hash: string; verified: boolean; fastest: number; binaries: string[] }
  }
  const rebuilt = run({})
  assert.deepEqual(rebuilt.binaries, [join(cwd, 'node_modules/argon2/build/Release/argon2.node')])
  assert.ok(rebuilt.verified)
  const shipped = run({ PREBUILDS_ONLY: '1' }, rebuilt.hash)
  assert.ok(shipped.binaries.every((path) => path.includes('/prebuilds/')))
  assert.ok(shipped.verified, 'the two binaries of argon2 do not understand each other')
  const ms = ({ fastest }: { fastest: number }) => `${fastest.toFixed(1)} ms`
  say(
    `the argon2 built here is what runs: ${ms(rebuilt)} a hash, ${ms(shipped)} with the one that it came with`,
  )
}

/** In the image it runs as a user to whom nothing belongs. Only root can become one here. */
function nobody(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const id = (flag: string) => Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }))
  return { uid: id('-u'), gid: id('-g') }
}
