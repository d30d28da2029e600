/** The folder of the embedded store: `postgres/` for PGlite, one generated secret, and the lock that keeps it to one process. */
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
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

async function readOrMakeSecret(path: string): Promise<string> {
  try {
    await writeFile(path, randomBytes(32).toString('base64url'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
  return await readFile(path, 'utf8')
}
