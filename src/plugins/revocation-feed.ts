/** The feed as it leaves: in pages, or as server-sent events that go on for as long as their reader may see them. */
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { type SecurityEvent, toSecurityEvent } from '../bearer/security-events.ts'
import type { Config } from '../config.ts'
import { createFeed, type FeedPage } from '../revocation/feed.ts'
import { presentations } from './problem-details.ts'
import { reportOutcome } from './problems.ts'

declare module 'fastify' {
  interface FastifyInstance {
    revocationFeed: {
      /** @throws Outcome `cursor_expired`, `invalid_request` */
      read(
        cursor: string | undefined,
      ): Promise<{ events: SecurityEvent[]; cursor: string; more_available: boolean }>
      /** The same, on and on (text/event-stream), until the request's token is not good for it any more. */
      open(request: FastifyRequest, cursor: string | undefined): Promise<Readable>
    }
  }
}

/** What a token must be granted to read it. */
export const feedScope = 'revocations:read'
/** After so long whoever reads is asked once more for a right to it, and told that nothing is missing. */
const heartbeatMs = 2_000
/** How soon a reader comes back whose stream has ended. */
const retryMs = 500
/** Who takes nothing of what was sent for so long has gone, as Node's timeout of a socket tells. */
const stalledMs = 10_000
/** The same, once the service stops: they can go on elsewhere. */
const stalledAtTheEndMs = 500

export interface RevocationFeedOptions {
  config: Pick<Config, 'issuer'>
}

export default fp(
  async function revocationFeed(app: FastifyInstance, { config: { issuer } }: RevocationFeedOptions) {
    const { feedDb, tailDb } = app.database
    const feed = createFeed({ db: feedDb, tailDb })
    /** That streams are on. */
    const sockets = new Set<Socket>()
    // Streams end before the connections that they are on are waited for; who does not take the rest is not.
    app.addHook('preClose', async () => {
      feed.stop()
      for (const socket of sockets) socket.setTimeout(stalledAtTheEndMs)
    })

    const toEvent = (entry: FeedPage['entries'][number]): SecurityEvent =>
      toSecurityEvent(entry, {
        iss: issuer,
        jti: entry.nonce as string,
        iat: Math.floor(entry.recordedAt.getTime() / 1000),
      })

    /** Taken from as fast as its reader reads, and no faster. */
    async function* tell(request: FastifyRequest, pages: AsyncIterable<FeedPage>) {
      yield `retry: ${retryMs}\n\n`
      const startedAt = performance.now()
      let dueAt = startedAt + heartbeatMs
      let wasLast = false
      try {
        for await (const { entries, cursor, isLast } of pages) {
          const isDue = performance.now() >= dueAt
          if (isDue) {
            await app.authenticateForScope(request, feedScope)
            dueAt = performance.now() + heartbeatMs
          }
          const told = entries.map((entry) => toText('revocation', toEvent(entry), entry.cursor))
          // However long it is on its way, its reader knows when that was.
          const elapsed_ms = Math.floor(performance.now() - startedAt)
          if (isLast && (isDue || !wasLast)) told.push(toText('heartbeat', { cursor, elapsed_ms }, cursor))
          // Nothing can be said while the record does not answer, but that somebody is there.
          else if (isDue) told.push(':\n\n')
          wasLast = isLast
          if (told.length > 0) yield told.join('')
        }
      } catch (error) {
        const { code } = reportOutcome(error, request, ({ code }) => presentations[code].status)
        yield toText('end', { code })
      }
    }

    app.decorate('revocationFeed', {
      async read(from) {
        const { entries, cursor, isLast } = await feed.read(from)
        return { events: entries.map(toEvent), cursor, more_available: !isLast }
      },
      async open(request, cursor) {
        const pages = await feed.follow(cursor)
        const { socket } = request.raw
        socket.setTimeout(stalledMs)
        sockets.add(socket)
        return Readable.from(tell(request, pages)).once('close', () => sockets.delete(socket))
      },
    })
  },
  { name: 'revocation-feed', dependencies: ['database', 'authentication', 'problems'] },
)

const toText = (event: string, data: object, id?: string): string =>
  `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`
