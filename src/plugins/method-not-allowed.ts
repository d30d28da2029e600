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
    const urls = new Set<string>()

    for (const method of METHODS) {
      if (method !== 'CONNECT' && !app.supportedMethods.includes(method)) app.addHttpMethod(method)
    }

    app.addHook('onRoute', ({ url }) => {
      // Of all paths (@fastify/cors): it makes none known.
      if (url !== '*') urls.add(url)
    })

    app.decorate('refuseOtherMethods', () => {
      for (const url of [...urls]) {
        // The router is asked, for a hook is not told of everything that it has: not of the slash behind a prefix.
        const has = (method: string) => app.hasRoute({ url, method: method as HTTPMethods })
        const allow = app.supportedMethods.filter(has).join(', ')
        const others = app.supportedMethods.filter((method) => !has(method)) as HTTPMethods[]
        if (others.length === 0) continue
        app.route({
          url,
          schema: { hide: true },
          method: others,
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
