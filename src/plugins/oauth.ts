/** What holds for every route below /oauth2: forms come in (RFC 6749 App. B), and failures leave in the standard's own form (§5.2). */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Outcome } from '../outcomes.ts'
import { oauthErrorHeadersOf, oauthErrorOf, oauthStatusOf } from './oauth-errors.ts'
import { reportOutcome } from './problems.ts'

const formMediaType = 'application/x-www-form-urlencoded'

declare module 'fastify' {
  interface FastifyInstance {
    /** Makes the scope it is called on one of OAuth. */
    speakOauth(this: FastifyInstance): void
  }
  interface FastifyContextConfig {
    /** In which form this route fails, if not in that of problem details. */
    failsAs?: 'oauth'
  }
}

export default fp(
  async function oauth(app: FastifyInstance) {
    app.decorate('speakOauth', function () {
      this.removeAllContentTypeParsers()
      this.addContentTypeParser(formMediaType, { parseAs: 'string' }, (_request, body, done) => {
        try {
          done(null, parseForm(body as string))
        } catch (error) {
          done(error as Error)
        }
      })
      this.addHook('onRoute', (route) => {
        route.config = { ...route.config, failsAs: 'oauth' }
        route.schema = { ...route.schema, consumes: [formMediaType] }
      })
      this.addHook('onRequest', (_request, reply, done) => {
        reply.header('cache-control', 'no-store').header('pragma', 'no-cache')
        done()
      })
      this.setErrorHandler((error, request, reply) => {
        const outcome = reportOutcome(error, request, oauthStatusOf)
        return reply
          .code(oauthStatusOf(outcome))
          .headers(oauthErrorHeadersOf(outcome))
          .type('application/json')
          .send(JSON.stringify(oauthErrorOf(outcome)))
      })
    })
  },
  { name: 'oauth', dependencies: ['problems', 'openapi'] },
)

/** RFC 6749 §3.2: what is empty was not sent, and nothing may be sent twice. */
function parseForm(text: string): Record<string, string> {
  const form: Record<string, string> = Object.create(null)
  for (const [name, value] of new URLSearchParams(text)) {
    if (value === '') continue
    if (name in form) throw new Outcome('invalid_request')
    form[name] = value
  }
  return form
}
