import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { type AccessTokens, createAccessTokens } from '../tokens/access-tokens.ts'
import { createSigningKeys, type SigningKeys } from '../tokens/signing-keys.ts'

declare module 'fastify' {
  interface FastifyInstance {
    signingKeys: SigningKeys
    accessTokens: AccessTokens
  }
}

export interface TokensOptions {
  config: Pick<Config, 'issuer' | 'audience' | 'firstPartyClientId' | 'accessTokenTtlSeconds'>
}

export default fp(
  async function tokens(app: FastifyInstance, { config }: TokensOptions) {
    const { clock, audit } = app
    const { db, sealer } = app.database
    const keys = await createSigningKeys({ db, clock, sealer, audit })
    app.decorate('signingKeys', keys)
    app.decorate(
      'accessTokens',
      createAccessTokens({
        keys,
        issuer: config.issuer,
        audience: config.audience,
        clientId: config.firstPartyClientId,
        ttlSeconds: config.accessTokenTtlSeconds,
      }),
    )
  },
  { name: 'tokens', dependencies: ['clock', 'audit', 'database'] },
)
