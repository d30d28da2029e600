/** The one Postgres of all instances, or the embedded one; its schema is current before anything is served. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { connectPostgres, type Database, openPglite } from '../db/connect.ts'
import { openDataFolder } from '../db/data-folder.ts'
import { migratePgliteSchema, migratePostgresSchema } from '../db/migrate.ts'
import { createSealer, type Sealer } from '../db/sealing.ts'

declare module 'fastify' {
  interface FastifyInstance {
    database: {
      db: Database
      /** A connection of its own for following the record: no crowd of logins may hold it up. */
      tailDb: Database
      /** One for those who begin to follow it elsewhere: they read much, and logins must not stand in line behind them. */
      feedDb: Database
      /** One connection for writing the record: a frozen instance must not stand in line for its head more than once. */
      recordDb: Database
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
      const feed = connectPostgres({ url, max: 1, deadlineMs, onIdleError })
      const record = connectPostgres({ url, max: 1, deadlineMs, onIdleError })
      app.addHook(
        'onClose',
        async () => void (await Promise.all([main, tail, feed, record].map(({ close }) => close()))),
      )
      const sealer = createSealer(config.keyEncryptionSecret as string)
      app.decorate('database', {
        db: main.db,
        tailDb: tail.db,
        feedDb: feed.db,
        recordDb: record.db,
        shared: true,
        sealer,
      })
    } else {
      const folder = await openDataFolder(config.database.folder)
      app.addHook('onClose', folder.release)
      const { db, close } = await openPglite(folder.postgresFolder)
      app.addHook('onClose', close)
      await migratePgliteSchema(db)
      const sealer = createSealer(config.keyEncryptionSecret ?? folder.keyEncryptionSecret)
      app.decorate('database', { db, tailDb: db, feedDb: db, recordDb: db, shared: false, sealer })
    }
  },
  { name: 'database' },
)
