/**
 * The refresh token of a session that a browser keeps, in a cookie which no script can read. A browser sends cookies whichever
 * page asks, so who asks is judged by what pages cannot forge: Origin, and Fetch Metadata where there is some.
 */
import fastifyCookie from '@fastify/cookie'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'

declare module 'fastify' {
  interface FastifyInstance {
    sessionCookie: {
      /** @throws Outcome `cross_site` for another site's page, `invalid_request` where no cookie can be kept safely */
      assertUsable(request: FastifyRequest): void
      /** The refresh token that came in it. @throws Outcome `cross_site` */
      read(request: FastifyRequest): string | undefined
      /** Whether it came with the access token of its session. @throws Outcome `cross_site`, and `invalid_request` for another session's */
      isOf(request: FastifyRequest, sid: string): Promise<boolean>
      /** Leaves the refresh token in it. @returns the rest, which scripts may see */
      keep(reply: FastifyReply, tokens: SessionTokens): Omit<SessionTokens, 'refresh_token'>
      /** Whatever came of the request. Of other sites' pages, nothing. */
      clear(request: FastifyRequest, reply: FastifyReply): void
    }
  }
}

export interface SessionCookieOptions {
  config: Pick<Config, 'issuer' | 'corsOrigins'>
}

const loopback = /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/

export default fp(
  async function sessionCookie(app: FastifyInstance, { config }: SessionCookieOptions) {
    const { protocol, hostname, origin: ours } = new URL(config.issuer)
    const isSecure = protocol === 'https:'
    const isSafe = isSecure || loopback.test(hostname)
    const origins = new Set([ours, ...config.corsOrigins])
    // With __Host- no other host can set it, not even one of the same domain. It needs https, and the path /.
    const name = isSecure ? '__Host-latchkey' : 'latchkey'
    await app.register(fastifyCookie, {
      parseOptions: { path: '/', httpOnly: true, secure: isSecure, sameSite: 'strict' },
    })

    function isOurs({ headers }: FastifyRequest): boolean {
      const { origin = '', 'sec-fetch-site': site } = headers
      return site === 'same-origin' || (origins.has(origin) && site !== 'cross-site')
    }

    function assertOurs(request: FastifyRequest): void {
      if (!isOurs(request)) throw new Outcome('cross_site')
    }

    function read(request: FastifyRequest): string | undefined {
      const token = request.cookies[name]
      if (token !== undefined) assertOurs(request)
      return token
    }

    app.decorate('sessionCookie', {
      assertUsable(request) {
        if (!isSafe)
          throw new Outcome('invalid_request', { detail: 'Without https there is no session in a cookie.' })
        assertOurs(request)
      },
      read,
      async isOf(request, sid) {
        const token = read(request)
        const holder = token === undefined ? undefined : await app.sessions.findHolder(token, 'known')
        if (holder && holder.sid !== sid)
          throw new Outcome('invalid_request', {
            detail: 'The access token and the cookie are of different sessions.',
          })
        return holder !== undefined
      },
      keep(reply, { refresh_token, ...tokens }) {
        const lifetime = tokens.remember ? { maxAge: tokens.refresh_expires_in } : {}
        reply.setCookie(name, refresh_token, lifetime)
        return tokens
      },
      clear(request, reply) {
        // Nobody has looked at them, if it was refused before.
        if (request.cookies?.[name] !== undefined && isOurs(request)) reply.clearCookie(name)
      },
    })
  },
  { name: 'session-cookie', dependencies: ['sessions'] },
)
