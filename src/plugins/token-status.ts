/** What those may know and do about a token who hold it, but are not whom it speaks for: introspection and revocation. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type AccessTokenClaims, isOfPerson } from '../bearer/claims.ts'
import { generationSubject } from '../bearer/revoked-entries.ts'
import type { Config } from '../config.ts'
import { Outcome, type OutcomeCode } from '../outcomes.ts'

export type TokenStatus =
  | { active: false }
  | ({ active: true; token_type?: 'Bearer' } & Partial<AccessTokenClaims>)

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * What is known of an access token or a refresh token (RFC 7662 §2.2).
     *
     * @throws Outcome `revocation_unknown` or `unavailable` rather than guessing
     */
    introspect(request: FastifyRequest, token: string): Promise<TokenStatus>
    /**
     * Takes a token back on behalf of the client that asks (RFC 7009). What is no token of ours, or dead, is done already.
     *
     * @throws Outcome `forbidden` for a token that the client has nothing to do with, and what revoke throws
     */
    revokePresented(request: FastifyRequest, token: string): Promise<void>
  }
}

export interface TokenStatusOptions {
  config: Pick<Config, 'firstPartyClientId'>
}

const dead: OutcomeCode[] = ['token_invalid', 'token_expired', 'token_revoked']

/** @returns undefined for a token that is dead */
const ifAlive = <T>(examined: Promise<T>): Promise<T | undefined> =>
  examined.catch((error: unknown) => {
    if (error instanceof Outcome && dead.includes(error.code)) return undefined
    throw error
  })

/** A refresh token has no dots. */
const isAccessToken = (token: string) => token.includes('.')

export default fp(
  async function tokenStatus(app: FastifyInstance, { config }: TokenStatusOptions) {
    const { isRefused } = app.revocation

    /** Of a refresh token that could be used now. */
    async function findLiveHolder(refreshToken: string) {
      const holder = await app.sessions.findHolder(refreshToken, 'live')
      if (!holder) return undefined
      const refused = await Promise.all([
        isRefused({ scope: 'session', subject: holder.sid }),
        isRefused({ scope: 'generation', subject: generationSubject(holder.sub, holder.ver) }),
      ])
      return refused.includes(true) ? undefined : holder
    }

    app.decorate('introspect', async (request, token) => {
      if (isAccessToken(token)) {
        const alive = await ifAlive(app.examineToken(request, token))
        if (!alive) return { active: false }
        const { claims } = alive
        const counting = isOfPerson(claims) && { roles: app.rolesOf(claims) }
        return { active: true, token_type: 'Bearer', ...claims, ...counting }
      }
      const holder = await findLiveHolder(token)
      return holder ? { active: true, client_id: config.firstPartyClientId, ...holder } : { active: false }
    })

    app.decorate('revokePresented', async (request, token) => {
      const { client, origin } = request
      const found = isAccessToken(token)
        ? (await ifAlive(app.examineToken(request, token)))?.claims
        : await app.sessions.findHolder(token, 'known')
      if (!found) return
      const isOwn = 'client_id' in found && found.client_id === client.id
      if (!isOwn && !client.scopes.includes('revoke')) throw new Outcome('forbidden')
      if ('sid' in found) await app.sessions.end(found, origin)
      else await app.clients.revokeToken(found, origin)
    })
  },
  {
    name: 'token-status',
    dependencies: ['authentication', 'authorization', 'clients', 'revocation', 'sessions'],
  },
)
