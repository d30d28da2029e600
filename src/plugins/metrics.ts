/** What monitoring reads, in Prometheus's format, on a port of its own: it is not for everybody. */
import Fastify, { type FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Registry } from 'prom-client'
import type { Config } from '../config.ts'

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Registry
  }
}

export interface MetricsOptions {
  config: Pick<Config, 'host' | 'metricsPort'>
}

export default fp(
  async function metrics(app: FastifyInstance, { config }: MetricsOptions) {
    const registry = new Registry()
    app.decorate('metrics', registry)
    if (config.metricsPort === 0) return

    const server = Fastify({ forceCloseConnections: true })
    server.get('/metrics', async (_request, reply) =>
      reply.type(registry.contentType).send(await registry.metrics()),
    )
    app.addHook('onReady', async () => {
      await server.listen({ host: config.host, port: config.metricsPort })
    })
    app.addHook('onClose', () => server.close())
  },
  { name: 'metrics' },
)
