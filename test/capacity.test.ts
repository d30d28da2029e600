/** What a million live entries cost an instance. */
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { migratePostgresSchema } from '../src/db/migrate.ts'
import { postgresAndRedis, withClient } from './fixtures/app.ts'
import type { Capacity } from './fixtures/load-record.ts'

const million = 1_000_000

t.test(
  'a million live entries are loaded in 5 s and kept in 64 MB, also while they come and go',
  async (t) => {
    const { env } = await postgresAndRedis(t)
    const url = env.DATABASE_URL as string
    await migratePostgresSchema(url)
    await insertAMillion(url)
    const { loadMs, size, loadedMb, renewedMb, found, mistaken } = await capacityOf(url)
    t.equal(size, million)
    t.equal(found, 1_000)
    t.equal(mistaken, 0)
    t.ok(loadMs < 5_000, `loaded in ${Math.round(loadMs)} ms`)
    t.ok(loadedMb < 64, `${Math.round(loadedMb)} MB once they are loaded`)
    t.ok(renewedMb < 64, `at most ${Math.round(renewedMb)} MB while they come and go`)
  },
)

/** They end one after the other, within the hour after the next minute. */
async function insertAMillion(url: string): Promise<void> {
  await withClient(url, async (client) => {
    // The planner knows nothing of them, as after the restore of a backup.
    await client.query('alter table revocations set unlogged, set (autovacuum_enabled = off)')
    await client.query('update revocation_head set seq = $1', [million])
    await client.query(
      `insert into revocations (seq, nonce, scope, subject, expires_at, reason)
        select i, $1, (array['session', 'token', 'session', 'token', 'generation'])[1 + i / 1000 % 5],
          gen_random_uuid() || case i / 1000 % 5 when 4 then ':' || i % 7 else '' end,
          now() + interval '1 minute' + i * interval '3.6 ms', 'test'
        from generate_series(1, $2::int) i`,
      [randomUUID(), million],
    )
  })
}

async function capacityOf(url: string): Promise<Capacity> {
  const program = fileURLToPath(new URL('fixtures/load-record.ts', import.meta.url))
  // tap gets into every Node that is spawned, through this variable.
  const { NODE_OPTIONS, ...env } = process.env
  const args = ['--expose-gc', '--import=tsx', program, url]
  const { stdout } = await promisify(execFile)(process.execPath, args, { env, timeout: 60_000 })
  return JSON.parse(stdout)
}
