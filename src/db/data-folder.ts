/** The folder of the embedded store: `postgres/` for PGlite, one generated secret, and the lock that keeps it to one process. */
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createConnection, createServer, type Server } from 'node:net'
import { join, relative, resolve } from 'node:path'

export interface DataFolder {
  postgresFolder: string
  /** For sealing signing keys; made at first use, readable by the owner alone. */
  keyEncryptionSecret: string
  release(): Promise<void>
}

/** @throws Error with one clear line if another process has the folder open */
export async function openDataFolder(folder: string): Promise<DataFolder> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const lock = await takeLock(folder)
  return {
    postgresFolder: join(folder, 'postgres'),
    keyEncryptionSecret: await readOrMakeSecret(join(folder, 'key-encryption-secret')),
    release: () => new Promise((done) => lock.close(() => done())),
  }
}

/**
 * A listening socket is the lock: the kernel drops it with its process, however that ends, and unlike a process id
 * it cannot be mistaken for somebody else's after a restart.
 */
async function takeLock(folder: string): Promise<Server> {
  const path = shortest(join(resolve(folder), 'lock'))
  try {
    return await listen(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
  }
  if (await answers(path)) throw new Error(`${folder} is in use by another latchkey process`)
  await rm(path, { force: true })
  return await listen(path)
}

/** The path of a socket is limited to about 100 bytes. */
function shortest(path: string): string {
  const fromHere = relative('.', path)
  return fromHere.length < path.length ? fromHere : path
}

function listen(path: string): Promise<Server> {
  return new Promise((done, fail) => {
    const server = createServer((socket) => socket.destroy())
    server.once('error', fail)
    server.listen(path, () => done(server.unref()))
  })
}

function answers(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = createConnection(path, () => {
      socket.destroy()
      done(true)
    })
    socket.once('error', () => done(false))
  })
}

async function readOrMakeSecret(path: string): Promise<string> {
  try {
    await writeFile(path, randomBytes(32).toString('base64url'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
  return await readFile(path, 'utf8')
}
