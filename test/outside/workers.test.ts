/** Several processes on one machine: what is promised of instances holds between them, and they come and go together. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import type { Environment } from '../../src/settings.ts'
import { postgresAndRedis, type User, withClient } from '../fixtures/app.ts'
import { bearer, call, getProtected, logIn, logOut, registerAndLogIn } from '../fixtures/client.ts'
import { eventually } from '../fixtures/eventually.ts'
import { type Ending, launchServer, type RunningProcess } from '../fixtures/process.ts'
import { startRelay } from '../fixtures/relay.ts'
import { freePort, startRedis } from '../fixtures/servers.ts'

// Each is its own world, and mostly one process starting after another.
t.jobs = 2

const startsWithinMs = 20_000

t.test('a token that was taken back through one worker is refused by all', async (t) => {
  const redis = await startRedis()
  t.teardown(redis.stop)
  const { env } = await postgresAndRedis(t)
  const port = await freePort()
  const service = await startWorkers(t, 3, { ...env, REDIS_URL: redis.url, METRICS_PORT: `${port}` })
  const { url } = service
  const metrics = () => call(`http://127.0.0.1:${port}`, '/metrics')
  const user = await registerAndLogIn(url)

  await t.test('whichever it was', async (t) => {
    await takesBackThroughEach(t, service, user)
  })

  await t.test('and their metrics are told as those of one', async (t) => {
    const { status, headers, body } = await metrics()
    t.equal(status, 200)
    t.equal(headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
    const checks = [...body.matchAll(/^latchkey_checks_total\{.*\} (\d+)$/gm)]
    t.equal(
      checks.reduce((sum, [, count]) => sum + Number(count), 0),
      18,
      'of three tokens, each asked of three workers before and after',
    )
    t.match(body, 'latchkey_revocations_total{outcome="acknowledged"} 3\n', 'one by each')
    t.match(body, 'latchkey_live_entries 3\n', 'the same in each')
    t.match(body, 'latchkey_mode{mode="tail and index"} 1\n')
    t.match(body, /^latchkey_tail_age_seconds 0\./m)
    t.equal((await call(url, '/metrics')).status, 404)
  })

  await t.test('also by one that takes the place of another that was killed', async (t) => {
    const before = await reachAll(t, service)
    const [victim = 0, ...others] = before.keys()
    const { token: live } = await logIn(url, user)
    const { token: dead } = await logIn(url, user)
    process.kill(victim, 'SIGKILL')
    for (const pid of others) t.equal((await before.get(pid)?.('GET', '/protected', live))?.status, 200)
    await eventually(t, async () => service.ended().length === 1)
    t.match(service.ended(), [{ level: 50, worker: victim, signal: 'SIGKILL' }])
    t.equal((await getProtected(url, live)).status, 200, 'new connections go to the others')
    t.equal((await logOut(url, dead)).status, 204)

    await eventually(t, async () => service.living().length === 3, startsWithinMs)
    const after = await reachAll(t, service)
    t.strictSame(
      others.filter((pid) => !after.has(pid)),
      [],
    )
    await refusedByAll(t, service, after, dead)
    await letInByAll(t, after, live)
  })

  await t.test('and without Redis', async (t) => {
    await redis.kill('SIGSTOP')
    await takesBackThroughEach(t, service, user)
    t.match((await metrics()).body, 'latchkey_mode{mode="tail"} 1\n')
  })

  await t.test('SIGTERM lets all of them finish, and then it ends with 0', async (t) => {
    await finishesWhatIsUnderWay(t, service, env, user, () => service.signal('SIGTERM'))
  })
})

t.test('a worker that cannot be replaced while Postgres is away is tried once a second', async (t) => {
  const { env } = await postgresAndRedis(t)
  const relay = await startRelay(t, env.DATABASE_URL as string)
  const port = await freePort()
  const DATABASE_URL = relay.url
  const service = await startWorkers(t, 2, { ...env, DATABASE_URL, METRICS_PORT: `${port}` })
  const { token } = await registerAndLogIn(service.url)
  const [victim = 0] = service.living()
  relay.cut()
  process.kill(victim, 'SIGKILL')

  const attempts = () => service.log().filter(({ msg }) => msg.startsWith('a worker takes the place'))
  for (let count = 1; count <= 3; count++) {
    await eventually(t, async () => attempts().length === count, startsWithinMs)
    // Two of them fail at once.
    if (count < 3) process.kill(attempts().at(-1)?.worker ?? 0, 'SIGKILL')
  }
  const [first = 0, second = 0, third = 0] = attempts().map(({ time }) => time)
  t.ok(Math.min(second - first, third - second) > 700, `after ${second - first} and ${third - second} ms`)
  await eventually(t, async () => service.ended().length === 4, startsWithinMs)
  t.match(service.ended(), [{ worker: victim }, {}, {}, { code: 1 }])
  t.equal((await getProtected(service.url, token)).status, 200, 'the other one goes on')

  const { body } = await call(`http://127.0.0.1:${port}`, '/metrics')
  t.match(body, 'latchkey_mode{mode="index"} 1\n')

  await relay.mend()
  await eventually(t, async () => service.living().length === 2, startsWithinMs)
  await letInByAll(t, await reachAll(t, service), token)

  service.signal('SIGKILL')
  t.equal((await endsWithAll(t, service)).signal, 'SIGKILL', 'and no worker outlives who started it')
  await t.rejects(call(service.url, '/health/live'))
})

t.test('Ctrl-C, which reaches them all, is as good as SIGTERM', async (t) => {
  const { env } = await postgresAndRedis(t)
  const service = await startWorkers(t, 2, env)
  await finishesWhatIsUnderWay(t, service, env, await registerAndLogIn(service.url), () => {
    for (const pid of service.living()) process.kill(pid, 'SIGINT')
    service.signal('SIGINT')
  })
})

t.test('a worker that is frozen holds up neither metrics nor the end', async (t) => {
  const { env } = await postgresAndRedis(t)
  const port = await freePort()
  const service = await startWorkers(t, 2, {
    ...env,
    METRICS_PORT: `${port}`,
    SHUTDOWN_TIMEOUT_SECONDS: '1',
  })
  process.kill(service.living()[0] ?? 0, 'SIGSTOP')
  const { body } = await call(`http://127.0.0.1:${port}`, '/metrics')
  t.match(body, 'latchkey_mode{mode="tail and index"} 1\n')
  service.signal('SIGTERM')
  t.equal((await endsWithAll(t, service)).code, 1)
})

t.test('a start that cannot succeed is told in one line', async (t) => {
  const { env } = await postgresAndRedis(t)
  const taken = createServer()
  t.teardown(() => taken.close())
  await once(taken.listen(0, '127.0.0.1'), 'listening')
  const { port } = taken.address() as AddressInfo
  for (const name of ['PORT', 'METRICS_PORT'])
    refusedToStart(
      t,
      await endsWithAll(t, launch(t, 3, { ...env, [name]: `${port}` })),
      new RegExp(`EADDRINUSE.*${port}`),
    )

  const KEY_ENCRYPTION_SECRET = randomBytes(32).toString('base64')
  const wrong = launch(t, 3, { ...env, KEY_ENCRYPTION_SECRET })
  refusedToStart(t, await endsWithAll(t, wrong), /KEY_ENCRYPTION_SECRET/)
})

t.test('all workers start, or none stays', async (t) => {
  const { env } = await postgresAndRedis(t)
  const relay = await startRelay(t, env.DATABASE_URL as string)
  const service = launch(t, 2, { ...env, DATABASE_URL: relay.url })
  await service.listening
  relay.cut()
  const { code, stdout, stderr } = await endsWithAll(t, service)
  t.equal(code, 1)
  t.match(stderr, /^latchkey [^\n]+\n$/, 'one line')
  t.match(stdout, '"stopping"', 'the first one may finish what it has begun')
})

t.test('SIGTERM ends a start that is under way', async (t) => {
  const { env } = await postgresAndRedis(t)
  const relay = await startRelay(t, env.DATABASE_URL as string)
  const service = launch(t, 2, { ...env, DATABASE_URL: relay.url })
  await service.listening
  relay.stall()
  service.signal('SIGTERM')
  const { code, stderr } = await endsWithAll(t, service)
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
})

/** What the log tells of a worker, or of a request. */
interface Line {
  time: number
  pid: number
  msg: string
  worker?: number
  reqId?: string
}

interface Service extends RunningProcess {
  /** The ids of those that listen, as far as the log knows. */
  living(): number[]
  /** The deaths that were logged. */
  ended(): Line[]
  log(): Line[]
}

/** A request on a connection that stays with the worker that took it. */
type Ask = (
  method: string,
  path: string,
  token: string,
) => Promise<{ status: number | undefined; body: { code?: string; request_id?: string } }>

function launch(t: Test, count: number, env: Environment): Service {
  const started = launchServer(t, { env: { WORKERS: `${count}`, ...env } })
  let isOver = false
  void started.end.then(() => {
    isOver = true
  })
  const log = () =>
    started
      .stdout()
      .split('\n')
      .slice(0, -1)
      .map((line): Line => JSON.parse(line))
  const ended = () => log().filter(({ msg }) => msg === 'a worker ended')
  const listening = () =>
    log()
      .filter(({ msg }) => msg.startsWith('listening on'))
      .map(({ pid }) => pid)
  const living = () => listening().filter((pid) => !ended().some(({ worker }) => worker === pid))
  // A frozen one would not notice that the process that started it is gone, and hold on to its output.
  t.teardown(() => {
    if (!isOver) living().forEach(kill)
  })
  return { ...started, log, ended, living }
}

async function startWorkers(t: Test, count: number, env: Environment): Promise<Service & { url: string }> {
  const service = launch(t, count, env)
  const url = await Promise.race([service.listening, service.end])
  if (typeof url !== 'string') throw new Error(`the service did not start: ${JSON.stringify(url)}`)
  await eventually(t, async () => service.living().length === count, startsWithinMs)
  return { ...service, url }
}

/** Its output is closed when the last process that could write to it has ended. */
async function endsWithAll(t: Test, service: Service): Promise<Ending> {
  const impatience = setTimeout(() => {
    t.fail('somebody is left')
    service.living().forEach(kill)
  }, startsWithinMs)
  return await service.end.finally(() => clearTimeout(impatience))
}

/** Opens connections until each worker has taken one: who that was is in the log of a request that is refused. */
async function reachAll(t: Test, service: Service & { url: string }): Promise<Map<number, Ask>> {
  const asks = new Map<number, Ask>()
  await eventually(t, async () => {
    const ask = connectTo(t, service.url)
    asks.set(await whoRefused(t, service, await ask('GET', '/protected', 'none')), ask)
    return service.living().every((pid) => asks.has(pid))
  })
  return asks
}

function connectTo(t: Test, url: string): Ask {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  return async (method, path, token) => {
    const sent = request(url + path, { method, agent, headers: bearer(token) }).end()
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    const body = await text(response)
    return { status: response.statusCode, body: body === '' ? {} : JSON.parse(body) }
  }
}

async function whoRefused(t: Test, service: Service, { body }: Awaited<ReturnType<Ask>>): Promise<number> {
  const find = () => service.log().find(({ reqId }) => reqId === body.request_id)
  await eventually(t, async () => find() !== undefined)
  return find()?.pid ?? 0
}

/** Workers are told to end while each of two holds a logout. */
async function finishesWhatIsUnderWay(
  t: Test,
  service: Service & { url: string },
  env: Environment,
  user: User,
  tell: () => void,
): Promise<void> {
  const asks = [...(await reachAll(t, service)).values()].slice(0, 2)
  const sessions = await Promise.all(asks.map(() => logIn(service.url, user)))
  const died = service.ended().length
  await withClient(env.DATABASE_URL as string, async (client) => {
    const count = async () => (await client.query('select from revocations')).rowCount ?? 0
    const before = await count()
    const logouts = asks.map((ask, i) => ask('POST', '/logout', sessions[i]?.token ?? ''))
    await eventually(t, async () => (await count()) === before + 2)
    tell()
    for (const { status } of await Promise.all(logouts)) t.equal(status, 204)
  })
  const { code, stderr } = await endsWithAll(t, service)
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.equal(service.ended().length, died, 'nobody was taken for dead')
}

async function takesBackThroughEach(t: Test, service: Service & { url: string }, user: User): Promise<void> {
  const asks = await reachAll(t, service)
  for (const ask of asks.values()) {
    const { token } = await logIn(service.url, user)
    await letInByAll(t, asks, token)
    t.equal((await ask('POST', '/logout', token)).status, 204)
    await refusedByAll(t, service, asks, token)
  }
}

async function letInByAll(t: Test, asks: Map<number, Ask>, token: string): Promise<void> {
  const replies = await Promise.all([...asks.values()].map((ask) => ask('GET', '/protected', token)))
  for (const { status } of replies) t.equal(status, 200)
}

async function refusedByAll(t: Test, service: Service, asks: Map<number, Ask>, token: string): Promise<void> {
  const replies = await Promise.all([...asks.values()].map((ask) => ask('GET', '/protected', token)))
  for (const { status, body } of replies) t.strictSame([status, body.code], [401, 'token_revoked'])
  const pids = await Promise.all(replies.map((reply) => whoRefused(t, service, reply)))
  t.strictSame(pids, [...asks.keys()], 'each of them was asked')
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {} // it has ended
}

function refusedToStart(t: Test, { code, stdout, stderr }: Ending, because: RegExp): void {
  t.equal(code, 1)
  t.match(stderr, because)
  t.match(stderr, /^latchkey [^\n]+\n$/, 'one line')
  t.notMatch(stdout, 'listening on')
}
