import { existsSync } from 'node:fs'
import { Redis } from 'ioredis'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Server, startPostgres, startRedis } from './fixtures/servers.ts'

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

function connectRedis(t: Test, { url }: Server): Redis {
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
