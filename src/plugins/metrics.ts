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

/** What a worker answers with its metrics. */
export const metricsRequest = 'metrics'

export interface MetricsOptions {
  config: Pick<Config, 'host' | 'metricsPort' | 'workers'>
}

export default fp(
  async function metrics(app: FastifyInstance, { config }: MetricsOptions) {
    const registry = new Registry()
    app.decorate('metrics', registry)
    if (config.metricsPort === 0) return
    if (config.workers > 1) {
      // The process that started the workers serves them all together: see workers.
      const answer = async (message: unknown) => {
        if (message === metricsRequest) process.send?.(await registry.getMetricsAsJSON())
      }
      app.addHook('onReady', async () => void process.on('message', answer))
      return
    }

    const server = Fastify({ forceCloseConnections: true })
    serveMetrics(server, () => registry.metrics())
    app.addHook('onReady', async () => {
      await server.listen({ host: config.host, port: config.metricsPort })
    })
    app.addHook('onClose', () => server.close())
  },
  { name: 'metrics' },
)

export function serveMetrics(server: FastifyInstance, read: () => Promise<string>): void {
  server.get('/metrics', async (_request, reply) =>
    reply.type(Registry.PROMETHEUS_CONTENT_TYPE).send(await read()),
  )
}
