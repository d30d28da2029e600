/** What stands in for an authenticator app: ten codes, each good once, kept as hashes. */
import { randomBytes } from 'node:crypto'
import { and, count, eq } from 'drizzle-orm'
import { Secret } from 'otpauth'
import type { Database } from '../db/connect.ts'
import { recoveryCodes } from '../db/tables.ts'
import { hashOpaqueToken } from '../tokens/opaque-tokens.ts'

const codeCount = 10

/** However it was typed. */
export const canonicalCode = (code: string): string => code.replace(/[\s-]/g, '').toLowerCase()

/** 128 bits, in Base32, with dashes for whoever copies it from paper. */
const generateRecoveryCode = (): string =>
  new Secret({ buffer: new Uint8Array(randomBytes(16)).buffer }).base32
    .toLowerCase()
    .replace(/.{5}(?=..)/g, '$&-')

/** @returns the new ones: they are told this once */
export async function replaceRecoveryCodes(tx: Database, userId: string): Promise<string[]> {
  const codes = Array.from({ length: codeCount }, generateRecoveryCode)
  const rows = codes.map((code) => ({ hash: hashOpaqueToken(canonicalCode(code)), userId }))
  await deleteRecoveryCodes(tx, userId)
  await tx.insert(recoveryCodes).values(rows)
  return codes
}

export async function deleteRecoveryCodes(tx: Database, userId: string): Promise<void> {
  await tx.delete(recoveryCodes).where(eq(recoveryCodes.userId, userId))
}

/** Of those who show one at once, one has. @param code in its canonical form */
export async function useRecoveryCode(tx: Database, userId: string, code: string): Promise<boolean> {
  const used = await tx
    .delete(recoveryCodes)
    .where(and(eq(recoveryCodes.hash, hashOpaqueToken(code)), eq(recoveryCodes.userId, userId)))
    .returning({ hash: recoveryCodes.hash })
  return used.length > 0
}

export async function countRecoveryCodes(db: Database, userId: string): Promise<number> {
  const [codes] = await db
    .select({ left: count() })
    .from(recoveryCodes)
    .where(eq(recoveryCodes.userId, userId))
  return codes?.left ?? 0
}
