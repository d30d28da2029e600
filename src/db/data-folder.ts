/** The folder of the embedded store: `postgres/` for PGlite, a generated secret, and the lock that keeps it to one process. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { lockFolder } from './folder-lock.ts'

export interface DataFolder {
  postgresFolder: string
  /** For sealing signing keys; made at first use, readable by the owner alone. */
  keyEncryptionSecret: string
  release(): Promise<void>
}

/** @throws Error with one clear line if another process has the folder open */
export async function openDataFolder(folder: string): Promise<DataFolder> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const lock = await lockFolder(folder)
  return {
    postgresFolder: join(folder, 'postgres'),
    keyEncryptionSecret: await readOrMakeSecret(join(folder, 'key-encryption-secret')),
    release: () => new Promise((done) => lock.close(() => done())),
  }
}

/** @throws Error with one clear line if what stands there is no secret */
async function readOrMakeSecret(path: string): Promise<string> {
  if (!existsSync(path)) {
    // Under its own name only when it is whole, whatever ends the process meanwhile.
    await writeFile(`${path}.new`, randomBytes(32).toString('base64url'), { mode: 0o600, flush: true })
    await rename(`${path}.new`, path)
  }
  const secret = await readFile(path, 'utf8')
  if (secret.length < 32)
    throw new Error(`${path} is damaged: restore it, or remove the folder to start over`)
  return secret
}
