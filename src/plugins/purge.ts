import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import {
  deleteExpiredChallenges,
  deleteExpiredMailTokens,
  deleteOldGuesses,
  deleteOldNetworks,
} from '../accounts/expired.ts'
import { deleteEventsAfter } from '../audit/expired.ts'
import type { Config } from '../config.ts'
import { createPurge } from '../db/purge.ts'
import { deleteExpiredEntries } from '../revocation/expired.ts'
import { deleteExpiredRefreshTokens, deleteExpiredSessions } from '../sessions/expired.ts'

export interface PurgeOptions {
  config: Pick<Config, 'auditDays'>
}

export default fp(
  async function purge(app: FastifyInstance, { config }: PurgeOptions) {
    const { start, stop } = createPurge({
      db: app.database.db,
      batches: [
        deleteExpiredEntries,
        deleteExpiredRefreshTokens,
        deleteExpiredSessions,
        deleteExpiredChallenges,
        deleteExpiredMailTokens,
        deleteOldGuesses,
        deleteOldNetworks,
        deleteEventsAfter(config.auditDays),
      ],
      onError: (err) => app.log.warn({ err }, 'what has expired was not purged'),
    })
    app.addHook('onReady', async () => start())
    app.addHook('onClose', async () => stop())
  },
  { name: 'purge', dependencies: ['database'] },
)
