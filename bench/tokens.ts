/**
 * Live tokens by the thousand, signed with the service's own key: a login each would take an hour of hashing, and no check
 * of a token looks at its session.
 */
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServerClock } from '../src/db/clock.ts'
import { connectPostgres } from '../src/db/connect.ts'
import { createSealer } from '../src/db/sealing.ts'
import { type AccessTokens, createAccessTokens } from '../src/tokens/access-tokens.ts'
import { generateKeyPair } from '../src/tokens/key-pair.ts'
import { createSigningKeys } from '../src/tokens/signing-keys.ts'
import { issuer, keyEncryptionSecret } from './contestants.ts'

/** Live for a day. @param databaseUrl of an instance that has started, for it makes the key */
export async function issueTokens(databaseUrl: string, count: number): Promise<string[]> {
  const { db, close } = connectPostgres({ url: databaseUrl, max: 1, deadlineMs: 10_000, onIdleError() {} })
  try {
    const keys = await createSigningKeys({
      db,
      clock: createServerClock(),
      sealer: createSealer(keyEncryptionSecret),
      audit: { record() {} },
      first: () => generateKeyPair('ES256'),
    })
    const accessTokens = createAccessTokens({
      keys,
      issuer,
      audience: issuer,
      clientId: 'latchkey',
      ttlSeconds: 86_400,
    })
    return Array.from({ length: count }, () => issue(accessTokens))
  } finally {
    await close()
  }
}

/** @returns a file with a token a line, which goes when this process does */
export async function writeTokens(tokens: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'latchkey-bench-'))
  process.once('exit', () => rmSync(folder, { recursive: true }))
  const file = join(folder, 'tokens')
  await writeFile(file, tokens.map((token) => `${token}\n`).join(''))
  return file
}

function issue(accessTokens: AccessTokens): string {
  const now = Math.floor(Date.now() / 1000)
  const { token } = accessTokens.issue({
    sub: randomUUID(),
    sid: randomUUID(),
    ver: 1,
    roles: [],
    authTime: now,
    amr: ['pwd'],
    acr: 'aal1',
    iat: now,
    notAfter: Number.POSITIVE_INFINITY,
  })
  return token
}
