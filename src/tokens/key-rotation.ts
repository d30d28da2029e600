/**
 * The life of a signing key. It is published before it signs, for longer than a verifier may keep the JWKS without looking, and
 * stays published until the last token that it signed has expired. Each step is taken with all keys locked, by whichever
 * instance comes first.
 */
import { eq } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { SigningAlgorithm } from '../bearer/algorithms.ts'
import { longestLifetimeSeconds } from '../bearer/claims.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import type { Sealer } from '../db/sealing.ts'
import { signingKeys } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { keyEntry, marginSeconds } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import { generateKeyPair, type KeyPair, readKeyPair } from './key-pair.ts'
import type { SigningKeys } from './signing-keys.ts'
import { findKeys, insertKey, lockKeys, type StoredKey } from './stored-keys.ts'

/** A key, as an admin sees it. */
export interface ManagedKey {
  kid: string
  alg: SigningAlgorithm
  state: StoredKey['state']
  created_at: string
  /** When it will sign, of one that does not yet. */
  active_from?: string
}

export interface KeyRotation {
  list(): Promise<ManagedKey[]>
  /**
   * Publishes the key that will sign next: one that is made, or a private key that was brought along (PEM or JWK).
   *
   * @param by who does, for the audit
   * @throws Outcome `key_pending` if there is one already, `key_known` for one that is or was here, and `invalid_request` for
   *   one that cannot be used
   */
  publish(brought: string | undefined, by: string, origin?: Origin): Promise<ManagedKey>
  /** Takes the steps that are due by now. */
  advance(): Promise<void>
  /**
   * Takes a key back: every token that it signed is dead when this resolves. If it is the one that signs, the next one does
   * from now on, published long enough or not.
   *
   * @throws Outcome `not_found`, and what revoke throws
   */
  remove(kid: string, by: string, origin?: Origin): Promise<void>
}

export interface KeyRotationOptions {
  db: Database
  clock: Clock
  sealer: Sealer
  audit: Audit
  revoke: Revoke
  keys: Pick<SigningKeys, 'reload'>
  /** Of the keys that are made. */
  alg: SigningAlgorithm
  /** How long verifiers may keep the JWKS. */
  jwksMaxAgeSeconds: number
  /** How long a key signs; 0 for ever. */
  rotationSeconds: number
}

/** On top of the max-age: instances read of a new key once a second, and what is cached on the way is given again. */
const publishMarginSeconds = 60

type Step = { to: 'next' } | { to: 'active' | 'removed'; key: StoredKey }

export function createKeyRotation(options: KeyRotationOptions): KeyRotation {
  const { db, clock, sealer, audit, revoke, keys, alg } = options
  const publishSeconds = options.jwksMaxAgeSeconds + publishMarginSeconds
  const now = () => new Date(clock.now())

  const activeFrom = ({ createdAt }: StoredKey) => createdAt.getTime() + publishSeconds * 1000
  /** No token outlives this, whichever instance signed it last. */
  const lastExpiry = (since: Date) => since.getTime() + (longestLifetimeSeconds + marginSeconds) * 1000
  const rotatesAt = ({ activeSince, createdAt }: StoredKey) =>
    options.rotationSeconds === 0
      ? Number.POSITIVE_INFINITY
      : (activeSince ?? createdAt).getTime() + (options.rotationSeconds - publishSeconds) * 1000

  function dueStep(stored: readonly StoredKey[]): Step | undefined {
    const byState = (state: StoredKey['state']) => stored.find((key) => key.state === state)
    const [next, active] = [byState('next'), byState('active')]
    if (next && activeFrom(next) <= clock.now()) return { to: 'active', key: next }
    if (!next && active && rotatesAt(active) <= clock.now()) return { to: 'next' }
    const over = stored.find(
      ({ retiringSince }) => retiringSince !== null && lastExpiry(retiringSince) <= clock.now(),
    )
    return over && { to: 'removed', key: over }
  }

  async function take(tx: Database, step: Step): Promise<void> {
    if (step.to === 'active') await activate(tx, step.key.kid)
    else if (step.to === 'removed') await erase(tx, step.key.kid)
    else await insertKey(tx, sealer, generateKeyPair(alg), 'next', now())
  }

  async function activate(tx: Database, kid: string): Promise<void> {
    await tx
      .update(signingKeys)
      .set({ state: 'retiring', retiringSince: now() })
      .where(eq(signingKeys.state, 'active'))
    await tx.update(signingKeys).set({ state: 'active', activeSince: now() }).where(eq(signingKeys.kid, kid))
  }

  const erase = (tx: Database, kid: string) =>
    tx
      .update(signingKeys)
      .set({ state: 'removed', retiringSince: null, sealedPrivateKey: null })
      .where(eq(signingKeys.kid, kid))

  const managed = (key: StoredKey): ManagedKey => ({
    kid: key.kid,
    alg: key.alg,
    state: key.state,
    created_at: key.createdAt.toISOString(),
    ...(key.state === 'next' && { active_from: new Date(activeFrom(key)).toISOString() }),
  })

  return {
    list: async () => (await findKeys(db)).map(managed),

    async publish(brought, by, origin) {
      const keyPair = brought === undefined ? generateKeyPair(alg) : read(brought)
      const published = await durably(db, (tx) => insertKey(tx, sealer, keyPair, 'next', now()))
      if (!published) {
        const pending = (await findKeys(db)).find(({ state }) => state === 'next')
        throw new Outcome(pending && pending.kid !== keyPair.kid ? 'key_pending' : 'key_known')
      }
      audit.record({ event: 'signing_key.next', kid: published.kid, by }, origin)
      await keys.reload()
      return managed(published)
    },

    async advance() {
      while (dueStep(await keys.reload())) {
        const step = await durably(db, async (tx) => {
          // Somebody else may have taken it meanwhile.
          const due = dueStep(await lockKeys(tx))
          if (due) await take(tx, due)
          return due
        })
        if (step && 'key' in step) audit.record({ event: `signing_key.${step.to}`, kid: step.key.kid })
      }
    },

    async remove(kid, by, origin) {
      const entry = keyEntry(kid, inSeconds(clock) + longestLifetimeSeconds)
      const isKnown = async (of: Promise<StoredKey[]>) => (await of).some((key) => key.kid === kid)
      if (!(await isKnown(findKeys(db)))) throw new Outcome('not_found')
      await revoke({
        entries: [entry],
        reason: 'key_removed',
        ...(origin && { origin }),
        async within(tx) {
          const stored = await lockKeys(tx)
          const removed = stored.find((key) => key.kid === kid)
          if (!removed) return [entry]
          await erase(tx, kid)
          if (removed.state === 'active') {
            const next = stored.find(({ state }) => state === 'next')
            if (next) await activate(tx, next.kid)
            else await insertKey(tx, sealer, generateKeyPair(alg), 'active', now())
          }
          return [entry]
        },
      })
      audit.record({ event: 'signing_key.removed', kid, by }, origin)
      await keys.reload()
    },
  }
}

function read(brought: string): KeyPair {
  try {
    return readKeyPair(brought)
  } catch (error) {
    throw new Outcome('invalid_request', { detail: `The private key ${(error as Error).message}.` })
  }
}
