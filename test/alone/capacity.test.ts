/** What a million live entries cost an instance. */
import t from 'tap'
import { migratePostgresSchema } from '../../src/db/migrate.ts'
import { postgresAndRedis } from '../fixtures/app.ts'
import { capacityOf, recordLiveEntries } from '../fixtures/live-entries.ts'

const million = 1_000_000

t.test(
  'a million live entries are loaded in 5 s and kept in 64 MB, also while they come and go',
  async (t) => {
    const { env } = await postgresAndRedis(t)
    const url = env.DATABASE_URL as string
    await migratePostgresSchema(url)
    await recordLiveEntries(url, million, 60)
    const { loadMs, size, loadedMb, renewedMb, found, mistaken } = await capacityOf(url)
    t.equal(size, million)
    t.equal(found, 1_000)
    t.equal(mistaken, 0)
    t.ok(loadMs < 5_000, `loaded in ${Math.round(loadMs)} ms`)
    t.ok(loadedMb < 64, `${Math.round(loadedMb)} MB once they are loaded`)
    t.ok(renewedMb < 64, `at most ${Math.round(renewedMb)} MB while they come and go`)
  },
)
