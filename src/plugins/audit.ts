import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Audit, createAudit, type Origin } from '../audit/events.ts'
import { createHistory, type History } from '../audit/history.ts'
import { createTrail } from '../audit/trail.ts'
import { networkOf } from './client-network.ts'

declare module 'fastify' {
  interface FastifyInstance {
    audit: Audit & History
  }
  interface FastifyRequest {
    /** Where this request came from, as the audit tells it. */
    readonly origin: Origin
  }
}

export default fp(
  async function audit(app: FastifyInstance) {
    const { clock, log } = app
    const { db } = app.database
    const trail = createTrail({ db, log })
    // Hooks of onClose run from the last one to the first: after those of all who record, and before the database's.
    app.addHook('onClose', async () => await trail.stop())
    app.decorate('audit', { ...createAudit({ log, clock, trail }), ...createHistory({ db }) })
    app.decorateRequest('origin', {
      getter() {
        const { 'user-agent': userAgent = '' } = this.headers
        return {
          requestId: this.id,
          address: this.ip ?? '',
          network: networkOf(this),
          userAgent: userAgent.slice(0, 256),
        }
      },
    })
  },
  { name: 'audit', dependencies: ['clock', 'database'] },
)
