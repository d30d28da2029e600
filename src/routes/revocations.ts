import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { FeedHeaders, FeedQuery, FeedReply } from '../schemas/revocations.ts'

const description = `\
For services whose token has the scope \`revocations:read\`. Without a cursor it begins with all that is refused now; the cursor of
each page leads to the next, and that of the last one to whatever is taken back from then on.

As \`text/event-stream\` it goes on by itself: each \`revocation\` has the \`id\` to go on after it, and a \`heartbeat\` says that
nothing is missing up to there. It ends with an \`end\` and a \`code\` when its token has expired or was taken back.`

export const revocationsRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/revocations',
    {
      // A stream without a body would never end.
      exposeHeadRoute: false,
      config: { failures: ['cursor_expired', 'unavailable'] },
      schema: {
        operationId: 'readRevocations',
        summary: 'Follow what is taken back',
        description,
        tags: ['Tokens'],
        querystring: FeedQuery,
        headers: FeedHeaders,
        response: { 200: FeedReply },
      },
    },
    async (request, reply) => {
      const { accept = '', 'last-event-id': lastEventId } = request.headers
      const { cursor } = request.query
      reply.header('cache-control', 'no-store')
      if (!/\btext\/event-stream\b/i.test(accept)) return app.revocationFeed.read(cursor)
      const stream = await app.revocationFeed.open(request, lastEventId ?? cursor)
      // nginx would hold it back.
      return reply.type('text/event-stream').header('x-accel-buffering', 'no').send(stream)
    },
  )
}
