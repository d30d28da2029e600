/** Puts the pieces of revocation together and keeps the tail following while the service runs. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Audit } from '../audit/events.ts'
import type { Config } from '../config.ts'
import { createCheck, type RevocationCheck } from '../revocation/check.ts'
import { createMode, type RevocationMode } from '../revocation/mode.ts'
import { announceFreshness } from '../revocation/record.ts'
import { createRedisIndex } from '../revocation/redis-index.ts'
import { createIsRefused, type IsRefused } from '../revocation/refused.ts'
import { createRevoker, type Revoke } from '../revocation/revoke.ts'
import { createTail } from '../revocation/tail.ts'
import { createRevocationMetrics } from './revocation-metrics.ts'

declare module 'fastify' {
  interface FastifyInstance {
    revocation: RevocationCheck & {
      revoke: Revoke
      isRefused: IsRefused
      mode(): Promise<RevocationMode>
    }
  }
}

export interface RevocationOptions {
  config: Pick<Config, 'revocation'>
}

export default fp(
  async function revocation(app: FastifyInstance, { config }: RevocationOptions) {
    const { clock, audit, redis } = app
    const { db, tailDb, recordDb, shared } = app.database
    const { tailMs, freshMs } = config.revocation
    const mirror = config.revocation.mode === 'mirror'

    const tail = createTail({
      db: tailDb,
      clock,
      intervalMs: tailMs,
      freshMs: shared ? freshMs : Number.POSITIVE_INFINITY,
      onChange: (state, err) => {
        if (state === 'lost') app.log.error({ err }, 'the record of revocations does not answer')
        else app.log.info('the record of revocations answers again')
      },
    })
    const index =
      redis &&
      createRedisIndex({
        redis,
        clock,
        tail,
        freshMs,
        onChange: (state, err) => {
          if (state === 'unknown') app.log.error({ err }, 'the index of revocations does not answer')
          else app.log.info('the index of revocations answers')
        },
      })
    const mode = createMode({ tail, index, mirror })
    const metrics = createRevocationMetrics({ registry: app.metrics, tail, mode })
    const countedAudit: Audit = {
      record(event, origin) {
        metrics.countEvent(event.event)
        audit.record(event, origin)
      },
    }
    const revoker = createRevoker({
      db: recordDb,
      tail,
      index,
      audit: countedAudit,
      holds: shared,
      onHeld: metrics.observeHold,
    })

    app.addHook('onClose', async () => {
      tail.stop()
      index?.stop()
      await revoker.stop()
    })

    if (shared) await announceFreshness(db, freshMs)
    await index?.start()
    await tail.load()
    if (shared) await tail.follow()

    app.decorate('revocation', {
      ...createCheck({ tail, index, mirror, onVerdict: metrics.countCheck }),
      revoke: revoker.revoke,
      isRefused: createIsRefused({ tail, index }),
      mode,
    })
  },
  { name: 'revocation', dependencies: ['clock', 'metrics', 'audit', 'database', 'redis'] },
)
