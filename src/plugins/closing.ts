/** Closing waits for requests, not for connections: Node closes idle ones once, and would wait for those that fall idle later. */
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

const sweepMs = 50

export default fp(
  async function closing(app: FastifyInstance) {
    const { server } = app
    /** Connections on which no request has begun: Node does not count them as idle. */
    const unused = new Set<Socket>()

    server.on('connection', (socket: Socket) => {
      unused.add(socket)
      socket.once('close', () => unused.delete(socket))
    })
    server.on('request', ({ socket }) => unused.delete(socket))

    app.addHook('preClose', async () => {
      const sweep = setInterval(() => {
        server.closeIdleConnections()
        for (const socket of unused) socket.destroy()
      }, sweepMs)
      server.once('close', () => clearInterval(sweep))
    })
  },
  { name: 'closing' },
)
