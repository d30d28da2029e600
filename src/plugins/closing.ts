/**
 * Closing waits for requests, not for connections: Node closes idle ones once, and would wait for those that fall idle
 * later.
 */
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

const sweepMs = 50
/** A connection that is so old without a request is not about to bring one. */
const unusedMs = 500

export default fp(
  async function closing(app: FastifyInstance) {
    const { server } = app
    /** Connections on which no request has begun, and since when: Node does not count them as idle. */
    const unused = new Map<Socket, number>()

    server.on('connection', (socket: Socket) => {
      unused.set(socket, performance.now())
      socket.once('close', () => unused.delete(socket))
    })
    // A hook, and no second listener to Node's event, which every request would pass.
    app.addHook('onRequest', ({ raw }, _reply, done) => {
      unused.delete(raw.socket)
      done()
    })

    app.addHook('preClose', async () => {
      const sweep = setInterval(() => {
        server.closeIdleConnections()
        const limit = performance.now() - unusedMs
        for (const [socket, since] of unused) if (since < limit) socket.destroy()
      }, sweepMs)
      server.once('close', () => clearInterval(sweep))
    })
  },
  { name: 'closing' },
)
