import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Audit, createAudit, type Origin } from '../audit/events.ts'
import { networkOf } from './client-network.ts'

declare module 'fastify' {
  interface FastifyInstance {
    audit: Audit
  }
  interface FastifyRequest {
    /** Where this request came from, as the audit tells it. */
    readonly origin: Origin
  }
}

export default fp(
  async function audit(app: FastifyInstance) {
    app.decorate('audit', createAudit({ log: app.log }))
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
  { name: 'audit' },
)
