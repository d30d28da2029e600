import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import t, { type Test } from 'tap'
import { eventually } from '../fixtures/eventually.ts'
import {
  replyLoading,
  replyMisconfigured,
  replyNoAuth,
  replyOutOfMemory,
  replyReadOnly,
} from '../fixtures/redis-replies.ts'
import { tell } from '../fixtures/redis-topologies.ts'
import { startRelay } from '../fixtures/relay.ts'
import { type Server, startPostgres, startRedis } from '../fixtures/servers.ts'

const patienceMs = 700

t.test('Postgres is frozen and thawed, and keeps what it committed through kill -9', async (t) => {
  const server = await startPostgres()
  t.teardown(server.stop)
  const client = connectPostgres(t, server)
  await client.query('create table note (text text)')
  await client.query(`insert into note values ('kept')`)

  await server.kill('SIGSTOP')
  await t.rejects(client.query('select 1'), /timeout/, 'on a connection that was open before')
  await t.rejects(client.query('select 1'), /timeout/, 'on a new one')
  await server.kill('SIGCONT')
  await client.query('select 1')

  await server.kill('SIGKILL')
  t.equal(server.pid, undefined)
  await t.rejects(client.query('select 1'))
  await server.start()
  const { rows } = await client.query('select text from note')
  t.strictSame(rows, [{ text: 'kept' }])
})

t.test('Redis is frozen and thawed, and forgets all on kill -9', async (t) => {
  const server = await startRedis()
  t.teardown(server.stop)
  const client = connectRedis(t, server)
  await client.set('key', 'value')

  await server.kill('SIGSTOP')
  await t.rejects(client.get('key'), /timed out/)
  await server.kill('SIGCONT')
  t.equal(await client.get('key'), 'value')

  await server.kill('SIGKILL')
  await server.start()
  t.equal(await client.get('key'), null)
})

t.test('nothing is left after stop, not even of a frozen server', async (t) => {
  for (const server of await Promise.all([startPostgres(), startRedis()])) {
    const { pid, dir } = server
    await server.kill('SIGSTOP')
    t.ok(isAlive(pid))
    await server.stop()
    t.notOk(isAlive(pid))
    t.notOk(existsSync(dir))
  }
})

t.test('a relay', async (t) => {
  const server = await startRedis()
  t.teardown(server.stop)
  const relayed = async (t: Test) => {
    const relay = await startRelay(t, server.url)
    return { relay, ...(await talkTo(t, relay.url)) }
  }

  t.test('resets: what is open hears RST, what is new is served', async (t) => {
    const { relay, socket } = await relayed(t)
    const failed = once(socket, 'error')
    relay.reset()
    const [error] = await failed
    t.equal(error.code, 'ECONNRESET')
    const { ask } = await talkTo(t, relay.url)
    t.equal(await ask('PING'), '+PONG')
  })

  t.test('stalls: nothing passes, not even a FIN, on what is open and on what is new', async (t) => {
    const { relay, ...early } = await relayed(t)
    const ended = once(early.socket, 'close')
    relay.stall()
    const late = await talkTo(t, relay.url)
    const other = await talkTo(t, server.url)
    for (const { socket } of [early, late]) socket.write('SET stalled yes\r\n')
    await other.ask('CLIENT KILL TYPE normal')
    await sleep(100) // what passes does so in a few
    t.equal(await other.ask('EXISTS stalled'), ':0')
    t.strictSame([early.heard(), late.heard()], ['', ''])
    t.notOk(early.socket.readableEnded || late.socket.readableEnded)
    await relay.mend()
    await ended
    const { ask } = await talkTo(t, relay.url)
    t.equal(await ask('PING'), '+PONG')
  })

  t.test('delays, each way, and keeps the order', async (t) => {
    const { relay, socket, heard, ask } = await relayed(t)
    relay.delay(100)
    const start = performance.now()
    const words = ['first', 'later', 'third']
    for (const word of words) socket.write(`ECHO ${word}\r\n`)
    await eventually(t, async () => heard().endsWith('third\r\n'))
    t.ok(performance.now() - start > 195)
    t.equal(heard(), words.map((word) => `$5\r\n${word}\r\n`).join(''))
    relay.delay(0)
    t.equal(await ask('PING'), '+PONG')
  })
})

t.test('Redis replies for real', async (t) => {
  const server = await startRedis()
  t.teardown(server.stop)
  await tell(server, 'SET', 'kept', 'yes')
  const cases = [
    { provoke: replyLoading, write: /^-LOADING /, read: /^-LOADING / },
    { provoke: replyReadOnly, write: /^-READONLY /, read: /yes$/ },
    { provoke: replyOutOfMemory, write: /^-OOM /, read: /yes$/ },
    { provoke: replyMisconfigured, write: /^-MISCONF /, read: /yes$/ },
    { provoke: replyNoAuth, write: /^-NOAUTH /, read: /^-NOAUTH / },
  ]
  for (const { provoke, write, read } of cases) {
    const undo = await provoke(server)
    const { ask } = await talkTo(t, server.url)
    t.match(await ask('SET key value'), write, provoke.name)
    t.match(await ask('GET kept'), read, provoke.name)
    await undo()
    t.equal(await ask('SET key value'), '+OK', 'undone')
    t.match(await ask('GET kept'), /yes$/)
    t.equal(await ask('DBSIZE'), ':2')
    await ask('DEL key')
  }
})

function connectPostgres(t: Test, { url }: Server): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    connectionTimeoutMillis: patienceMs,
    query_timeout: patienceMs,
  })
  pool.on('error', () => {}) // an idle connection that broke
  t.teardown(() => pool.end())
  return pool
}

/** By hand, for what a client would hide. */
async function talkTo(t: Test, url: string) {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  t.teardown(() => socket.destroy())
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk
  })
  await once(socket, 'connect')
  socket.on('error', () => {})
  return {
    socket,
    heard: () => text,
    async ask(command: string): Promise<string> {
      text = ''
      socket.write(`${command}\r\n`)
      await eventually(t, async () => text.endsWith('\r\n'))
      return text.trimEnd()
    },
  }
}

function connectRedis(t: Test, { url }: Pick<Server, 'url'>): Redis {
  const client = new Redis(url, { commandTimeout: patienceMs })
  client.on('error', () => {}) // each call rejects by itself
  t.teardown(() => client.disconnect())
  return client
}

function isAlive(pid: number | undefined): boolean {
  try {
    return pid !== undefined && process.kill(pid, 0)
  } catch {
    return false
  }
}
