import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Outcome } from '../outcomes.ts'
import { Live, Ready } from '../schemas/health.ts'

export const healthRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/health/live',
    {
      schema: {
        operationId: 'getLiveness',
        summary: 'Is this instance running?',
        tags: ['Health'],
        response: { 200: Live },
      },
    },
    async () => ({ status: 'live' as const }),
  )

  // An instance is ready while it can tell live tokens from dead ones. Refusing traffic for one lost store would turn a
  // degradation into an outage.
  app.get(
    '/health/ready',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'getReadiness',
        summary: 'Should this instance be sent requests?',
        tags: ['Health'],
        response: { 200: Ready },
      },
    },
    async () => {
      const { mode, missing } = await app.revocation.mode()
      if (mode === 'none') throw new Outcome('unavailable', { detail: `Missing: ${missing.join(', ')}.` })
      return { status: 'ready' as const, mode, missing }
    },
  )
}
