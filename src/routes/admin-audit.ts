import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { AuditPage, AuditQuery } from '../schemas/audit.ts'

export const adminAuditRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/admin/audit',
    {
      config: { failures: ['unavailable'] },
      schema: {
        operationId: 'listEvents',
        summary: 'Read the audit trail',
        description:
          'In the order in which it was written, the newest first, a page at a time. What happens is in it a moment later. What one request brought about has one `request_id`.',
        tags: ['Administration'],
        querystring: AuditQuery,
        response: { 200: AuditPage },
      },
    },
    async ({ query: { cursor, ...filter } }, reply) => {
      reply.header('cache-control', 'no-store')
      return await app.audit.list(filter, cursor)
    },
  )
}
