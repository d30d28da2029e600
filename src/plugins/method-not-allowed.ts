/** Fastify answers an unknown method on a known path by 404; HTTP wants 405 and Allow (RFC 9110 §15.5.6). */
import { METHODS } from 'node:http'
import type { FastifyInstance, HTTPMethods } from 'fastify'
import fp from 'fastify-plugin'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Call once, when all routes are there. */
    refuseOtherMethods(): void
  }
}

export default fp(
  async function methodNotAllowed(app: FastifyInstance) {
    const methodsOf = new Map<string, Set<string>>()

    for (const method of METHODS) {
      if (method !== 'CONNECT' && !app.supportedMethods.includes(method)) app.addHttpMethod(method)
    }

    app.addHook('onRoute', ({ url, method }) => {
      const methods = methodsOf.get(url) ?? new Set()
      for (const name of [method].flat()) methods.add(name)
      methodsOf.set(url, methods)
    })

    app.decorate('refuseOtherMethods', () => {
      for (const [url, methods] of [...methodsOf]) {
        const allow = [...methods].join(', ')
        app.route({
          url,
          method: app.supportedMethods.filter((method) => !methods.has(method)) as HTTPMethods[],
          onRequest: (_request, reply, done) => {
            reply.header('allow', allow)
            done(new Outcome('method_not_allowed'))
          },
          handler: () => {},
        })
      }
    })
  },
  { name: 'method-not-allowed' },
)
