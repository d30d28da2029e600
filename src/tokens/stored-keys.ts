/** Signing keys in the database, shared by all instances, the private part sealed. */
import { asc, ne } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import type { Sealer } from '../db/sealing.ts'
import { signingKeys } from '../db/tables.ts'
import type { KeyPair } from './key-pair.ts'

export type StoredKey = typeof signingKeys.$inferSelect

const sealingPurpose = (kid: string) => `signing key ${kid}`

/** @returns undefined if this one has ever been there, or another one has this state */
export async function insertKey(
  db: Database,
  sealer: Sealer,
  { kid, alg, publicJwk, privateKey }: KeyPair,
  state: 'next' | 'active',
  now: Date,
): Promise<StoredKey | undefined> {
  const [inserted] = await db
    .insert(signingKeys)
    .values({
      kid,
      alg,
      state,
      publicJwk,
      sealedPrivateKey: sealer.seal(sealingPurpose(kid), Buffer.from(privateKey)),
      createdAt: now,
      activeSince: state === 'active' ? now : null,
    })
    .onConflictDoNothing()
    .returning()
  return inserted
}

const selectKeys = (db: Database) =>
  db
    .select()
    .from(signingKeys)
    .where(ne(signingKeys.state, 'removed'))
    .orderBy(asc(signingKeys.createdAt), asc(signingKeys.kid))

/** The keys that may be trusted, the oldest first. */
export const findKeys = async (db: Database): Promise<StoredKey[]> => await selectKeys(db)

/** The same, as they stay until the transaction ends. */
export const lockKeys = async (tx: Database): Promise<StoredKey[]> => await selectKeys(tx).for('update')

/** @returns PKCS #8 in PEM. @throws Error if this is not the secret that it was sealed with */
export function openPrivateKey(sealer: Sealer, { kid, sealedPrivateKey }: StoredKey): string {
  try {
    return sealer.open(sealingPurpose(kid), sealedPrivateKey as Buffer).toString()
  } catch {
    throw new Error('KEY_ENCRYPTION_SECRET does not open the signing key in the database')
  }
}
