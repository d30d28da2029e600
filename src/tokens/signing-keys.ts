/**
 * The keys that sign access tokens: shared by all instances through Postgres, the private part sealed at rest.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { ne } from 'drizzle-orm'
import { createSigner } from 'fast-jwt'
import type { Audit } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import type { Sealer } from '../db/sealing.ts'
import { type EcPublicJwk, signingKeys } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generateKeyPair, publicKeyPem } from './key-pair.ts'

/** A public key as RFC 7517 writes it, ready to publish. */
export interface PublicJwk extends EcPublicJwk {
  kid: string
  alg: string
  use: 'sig'
}

/** A public key that tokens may be verified with. */
export interface PublicKey {
  kid: string
  pem: string
}

export interface SigningKeys {
  /** Signs claims with the active key. The header is exactly `alg`, `kid`, `typ: at+jwt` (RFC 9068 §2.1). */
  sign(claims: object): string
  /**
   * The public key of a `kid`, or undefined if no such key may be trusted. An unknown kid re-reads the keys, rarely.
   *
   * @throws Outcome `revocation_unknown` if they cannot be read now: there may be such a key
   */
  findPublicKey(kid: string): Promise<PublicKey | undefined>
  /** The same as far as is known here, without reading anything. */
  knownPublicKey(kid: string): PublicKey | undefined
  /** The keys that verifiers may trust (RFC 7517 §5). */
  jwks(): { keys: PublicJwk[] }
}

export interface SigningKeysOptions {
  db: Database
  clock: Clock
  sealer: Sealer
  audit: Audit
}

interface LoadedKeys {
  sign: (claims: object) => string
  publicKeys: Map<string, PublicKey>
  jwks: { keys: PublicJwk[] }
}

const rereadMs = 1_000
/** How long a check waits for the keys to be read anew. */
const patienceMs = 150
const sealingPurpose = (kid: string) => `signing key ${kid}`

/**
 * Loads the keys, making the first one if there is none.
 *
 * @throws Error if a private key does not open with the given secret
 */
export async function createSigningKeys({
  db,
  clock,
  sealer,
  audit,
}: SigningKeysOptions): Promise<SigningKeys> {
  let readAt = Number.NEGATIVE_INFINITY
  let reading: Promise<void> | undefined
  let loaded = await load()

  async function load(): Promise<LoadedKeys> {
    const startedAt = performance.now()
    const rows = await db
      .select()
      .from(signingKeys)
      .where(ne(signingKeys.state, 'removed'))
      .orderBy(signingKeys.createdAt, signingKeys.kid)
    const active = rows.find((row) => row.state === 'active')
    if (!active) {
      await createFirst()
      return await load()
    }
    readAt = startedAt
    return {
      sign: createSigner({
        key: open(active.kid, active.sealedPrivateKey),
        algorithm: active.alg,
        kid: active.kid,
        header: { alg: active.alg, typ: 'at+jwt' },
      }) as (claims: object) => string,
      publicKeys: new Map(rows.map(({ kid, publicJwk }) => [kid, { kid, pem: publicKeyPem(publicJwk) }])),
      jwks: {
        keys: rows.map(({ kid, alg, publicJwk }) => ({ ...publicJwk, kid, alg, use: 'sig' as const })),
      },
    }
  }

  function open(kid: string, sealed: Buffer): string {
    try {
      return sealer.open(sealingPurpose(kid), sealed).toString()
    } catch {
      throw new Error('KEY_ENCRYPTION_SECRET does not open the signing key in the database')
    }
  }

  /** Of many instances that start together on an empty database, one makes the key that all of them use. */
  async function createFirst(): Promise<void> {
    const { kid, publicJwk, privateKey } = generateKeyPair()
    const sealedPrivateKey = sealer.seal(sealingPurpose(kid), Buffer.from(privateKey))
    const made = await db
      .insert(signingKeys)
      .values({
        kid,
        alg: 'ES256',
        state: 'active',
        publicJwk,
        sealedPrivateKey,
        createdAt: new Date(clock.now()),
      })
      .onConflictDoNothing()
      .returning({ kid: signingKeys.kid })
    if (made.length > 0) audit.record({ event: 'signing_key.created', kid })
  }

  async function reread(): Promise<void> {
    reading ??= load()
      .then((keys) => {
        loaded = keys
      })
      .finally(() => {
        reading = undefined
      })
    await reading
  }

  return {
    sign: (claims) => loaded.sign(claims),
    async findPublicKey(kid) {
      if (!loaded.publicKeys.has(kid) && (reading || performance.now() - readAt > rereadMs)) {
        await Promise.race([reread(), delay(patienceMs).then(giveUp)])
      }
      return loaded.publicKeys.get(kid)
    },
    knownPublicKey: (kid) => loaded.publicKeys.get(kid),
    jwks: () => loaded.jwks,
  }
}

function giveUp(): never {
  throw new Outcome('revocation_unknown', { reason: 'an unknown kid, and the keys cannot be read' })
}
