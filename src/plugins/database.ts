/** The one Postgres of all instances, or the embedded one of this process; its schema is current before anything is served. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { type Connection, connectPostgres, type Database, openPglite } from '../db/connect.ts'
import { openDataFolder } from '../db/data-folder.ts'
import { isSchemaCurrent, migratePgliteSchema, migratePostgresSchema } from '../db/migrate.ts'
import { createSealer, type Sealer } from '../db/sealing.ts'

declare module 'fastify' {
  interface FastifyInstance {
    database: {
      db: Database
      /** A connection of its own for following the record: no crowd of logins may hold it up. */
      tailDb: Database
      /** Whether other processes may write to it. */
      shared: boolean
      sealer: Sealer
    }
  }
}

const connections = 10
const deadlineMs = 2_000
const tailDeadlineMs = 1_000

export interface DatabaseOptions {
  config: Pick<Config, 'database' | 'keyEncryptionSecret'>
}

export default fp(
  async function database(app: FastifyInstance, { config }: DatabaseOptions) {
    if ('url' in config.database) {
      const { url } = config.database
      const onIdleError = (err: Error) => app.log.warn({ err }, 'a Postgres connection broke')
      await migratePostgresSchema(url)
      const main = connectPostgres({ url, max: connections, deadlineMs, onIdleError })
      const tail = connectPostgres({ url, max: 1, deadlineMs: tailDeadlineMs, onIdleError })
      app.addHook('onClose', async () => void (await Promise.all([main.close(), tail.close()])))
      await provide(main, tail, true, config.keyEncryptionSecret as string)
    } else {
      const folder = await openDataFolder(config.database.folder)
      app.addHook('onClose', folder.release)
      const embedded = await openPglite(folder.postgresFolder)
      app.addHook('onClose', embedded.close)
      await migratePgliteSchema(embedded.db)
      await provide(embedded, embedded, false, config.keyEncryptionSecret ?? folder.keyEncryptionSecret)
    }

    async function provide(
      main: Connection,
      tail: Connection,
      shared: boolean,
      secret: string,
    ): Promise<void> {
      if (!(await isSchemaCurrent(main.db)))
        throw new Error('the database schema is behind: run latchkey migrate')
      app.decorate('database', { db: main.db, tailDb: tail.db, shared, sealer: createSealer(secret) })
    }
  },
  { name: 'database' },
)
