/** The document, and a page to read and try it on: all from here, nothing inline, so that the page works offline and under a CSP. */
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'

const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Without what is empty everywhere here. */
const css =
  '.swagger-ui .response-col_links { display: none } .swagger-ui .body-param__text { min-height: 8em }'

export const docsRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())

  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers({ 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' })
    done()
  })
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: contentSecurityPolicy,
    theme: { title: 'latchkey', css: [{ filename: 'latchkey.css', content: css }] },
    uiConfig: { layout: 'BaseLayout', tryItOutEnabled: true },
    // What is tried out goes where the page came from: the issuer may be another address of this service.
    transformSpecification: (document) => ({ ...document, servers: undefined }),
    transformSpecificationClone: false,
  })
}
