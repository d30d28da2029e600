/**
 * The keys that sign access tokens: shared by all instances through Postgres, the private part sealed at rest.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { createSigner } from 'fast-jwt'
import type { Audit } from '../audit/events.ts'
import type { SigningAlgorithm } from '../bearer/algorithms.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import type { Sealer } from '../db/sealing.ts'
import type { PublicKeyMembers } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { type KeyPair, publicKeyPem } from './key-pair.ts'
import { findKeys, insertKey, openPrivateKey, type StoredKey } from './stored-keys.ts'

/** A public key as RFC 7517 writes it, ready to publish. */
export interface PublicJwk extends PublicKeyMembers {
  kid: string
  alg: SigningAlgorithm
  use: 'sig'
}

/** A public key that tokens may be verified with, by this algorithm and no other. */
export interface PublicKey {
  kid: string
  alg: SigningAlgorithm
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
  /** Takes in what has changed by now. @returns the keys as they are stored */
  reload(): Promise<readonly StoredKey[]>
}

export interface SigningKeysOptions {
  db: Database
  clock: Clock
  sealer: Sealer
  audit: Audit
  /** The key to begin with, where there is none. */
  first(): KeyPair
}

interface LoadedKeys {
  stored: readonly StoredKey[]
  sign: (claims: object) => string
  publicKeys: Map<string, PublicKey>
  jwks: { keys: PublicJwk[] }
}

const rereadMs = 1_000
/** How long a check waits for the keys to be read anew. */
const patienceMs = 150

const isActive = ({ state }: StoredKey) => state === 'active'

const isSame = (before: readonly StoredKey[], now: readonly StoredKey[]) =>
  before.length === now.length &&
  before.every(({ kid, state }, i) => kid === now[i]?.kid && state === now[i]?.state)

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
  first,
}: SigningKeysOptions): Promise<SigningKeys> {
  /** When it was last asked for a key that it did not know, and could look. */
  let askedAt = Number.NEGATIVE_INFINITY
  let reading: Promise<void> | undefined
  let loaded = await load()

  async function load(known?: LoadedKeys): Promise<LoadedKeys> {
    const stored = await findKeys(db)
    const active = stored.find(isActive)
    if (!active) {
      // Of many instances that start together on an empty database, one makes the key that all of them use.
      const made = await insertKey(db, sealer, first(), 'active', new Date(clock.now()))
      if (made) audit.record({ event: 'signing_key.active', kid: made.kid })
      else if (!(await findKeys(db)).some(isActive))
        throw new Error('SIGNING_KEY was removed: bring another one')
      return await load(known)
    }
    return known && isSame(known.stored, stored) ? known : open(stored, active)
  }

  function open(stored: readonly StoredKey[], active: StoredKey): LoadedKeys {
    const { kid, alg } = active
    const key = openPrivateKey(sealer, active)
    return {
      stored,
      sign: createSigner({ key, algorithm: alg, kid, header: { alg, typ: 'at+jwt' } }) as LoadedKeys['sign'],
      publicKeys: new Map(
        stored.map(({ kid, alg, publicJwk }) => [kid, { kid, alg, pem: publicKeyPem(publicJwk) }]),
      ),
      jwks: {
        keys: stored.map(({ kid, alg, publicJwk }) => ({ ...publicJwk, kid, alg, use: 'sig' as const })),
      },
    }
  }

  async function reread(): Promise<void> {
    reading ??= load(loaded)
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
      if (!loaded.publicKeys.has(kid) && (reading || performance.now() - askedAt > rereadMs)) {
        const asked = performance.now()
        await Promise.race([reread(), delay(patienceMs).then(giveUp)])
        askedAt = asked
      }
      return loaded.publicKeys.get(kid)
    },
    knownPublicKey: (kid) => loaded.publicKeys.get(kid),
    jwks: () => loaded.jwks,
    async reload() {
      // What is being read may have been read before the change.
      await reading?.catch(() => {})
      await reread()
      return loaded.stored
    },
  }
}

function giveUp(): never {
  throw new Outcome('revocation_unknown', { reason: 'an unknown kid, and the keys cannot be read' })
}
