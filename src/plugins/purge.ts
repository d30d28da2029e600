import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import {
  deleteExpiredChallenges,
  deleteExpiredMailTokens,
  deleteOldGuesses,
  deleteOldNetworks,
} from '../accounts/expired.ts'
import { createPurge } from '../db/purge.ts'
import { deleteExpiredEntries } from '../revocation/expired.ts'
import { deleteExpiredRefreshTokens, deleteExpiredSessions } from '../sessions/expired.ts'

export default fp(
  async function purge(app: FastifyInstance) {
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
      ],
      onError: (err) => app.log.warn({ err }, 'what has expired was not purged'),
    })
    app.addHook('onReady', async () => start())
    app.addHook('onClose', async () => stop())
  },
  { name: 'purge', dependencies: ['database'] },
)
