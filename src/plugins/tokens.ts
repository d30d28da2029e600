/** What signs access tokens, and the keys that take turns at it while the service runs. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome } from '../outcomes.ts'
import { type AccessTokens, createAccessTokens } from '../tokens/access-tokens.ts'
import { generateKeyPair, type KeyPair, readKeyPair } from '../tokens/key-pair.ts'
import { createKeyRotation, type KeyRotation } from '../tokens/key-rotation.ts'
import { createSigningKeys, type SigningKeys } from '../tokens/signing-keys.ts'

declare module 'fastify' {
  interface FastifyInstance {
    signingKeys: SigningKeys & KeyRotation
    accessTokens: AccessTokens
  }
}

export interface TokensOptions {
  config: Pick<
    Config,
    | 'issuer'
    | 'audience'
    | 'firstPartyClientId'
    | 'accessTokenTtlSeconds'
    | 'jwksMaxAgeSeconds'
    | 'signingKeys'
  >
}

const followMs = 1_000

export default fp(
  async function tokens(app: FastifyInstance, { config }: TokensOptions) {
    const { clock, audit } = app
    const { db, sealer } = app.database
    const { alg, rotationSeconds, brought } = config.signingKeys
    const broughtPair = brought === undefined ? undefined : readBrought(brought)
    const first = () => broughtPair ?? generateKeyPair(alg)
    const keys = await createSigningKeys({ db, clock, sealer, audit, first })
    const accessTokens = createAccessTokens({
      keys,
      issuer: config.issuer,
      audience: config.audience,
      clientId: config.firstPartyClientId,
      ttlSeconds: config.accessTokenTtlSeconds,
    })
    const { revoke } = app.revocation
    const { jwksMaxAgeSeconds } = config
    const rotation = createKeyRotation({
      ...{ db, clock, sealer, audit, revoke, keys, alg },
      jwksMaxAgeSeconds,
      rotationSeconds,
    })
    if (brought !== undefined) await rotation.publish(brought, 'SIGNING_KEY').catch(tellWhyNot)

    /** It is there since an earlier start, usually. */
    function tellWhyNot(error: unknown): void {
      if (!(error instanceof Outcome)) throw error
      if (error.code === 'key_pending')
        app.log.warn('SIGNING_KEY is not taken: another key is to sign first. Start again after that')
    }

    let timer: NodeJS.Timeout | undefined
    let step = Promise.resolve()
    function follow(): void {
      step = rotation.advance().catch((err: unknown) => {
        if (!isDatabaseUnavailable(err)) app.log.error({ err }, 'the signing keys cannot be followed')
      })
      void step.then(() => {
        if (timer) timer = setTimeout(follow, followMs)
      })
    }
    // Not by a command: a shell may have other settings than those who serve.
    app.addHook('onListen', async () => {
      timer = setTimeout(follow, 0)
    })
    app.addHook('onClose', async () => {
      clearTimeout(timer)
      timer = undefined
      await step
    })

    app.decorate('signingKeys', { ...keys, ...rotation })
    app.decorate('accessTokens', accessTokens)
  },
  { name: 'tokens', dependencies: ['clock', 'audit', 'database', 'revocation'] },
)

/** @throws Error with one line */
function readBrought(text: string): KeyPair {
  try {
    return readKeyPair(text)
  } catch (error) {
    throw new Error(`SIGNING_KEY ${(error as Error).message}`)
  }
}
