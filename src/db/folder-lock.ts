/**
 * A lock on a folder, held by one process. A listening socket is the lock: the kernel drops it with its process, however
 * that ends, and unlike a process id it cannot be mistaken for somebody else's after a restart. It gets its name,
 * `lock.<n>`, when it already listens, and a name is never used twice: of many that find the last holder dead, one gets
 * the next name.
 */
import { randomBytes } from 'node:crypto'
import { link, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { createConnection, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

/** @throws Error with one clear line if another process holds the folder */
export async function lockFolder(folder: string): Promise<Server> {
  return await withShortPath(folder, async (short) => {
    const unnamed = `lock-${randomBytes(6).toString('hex')}`
    const lock = await listen(join(short, unnamed))
    try {
      for (;;) {
        const last = Math.max(0, ...(await lockNumbers(folder)))
        if (last > 0 && (await answers(join(short, `lock.${last}`))))
          throw new Error(`${folder} is in use by another latchkey process`)
        if (!(await claimName(join(folder, unnamed), join(folder, `lock.${last + 1}`)))) continue
        const others = (await lockNumbers(folder)).filter((number) => number !== last + 1)
        if (others.some((number) => number > last)) continue
        for (const number of others) await rm(join(folder, `lock.${number}`), { force: true })
        return lock
      }
    } catch (error) {
      lock.close()
      throw error
    } finally {
      await rm(join(folder, unnamed), { force: true })
    }
  })
}

async function lockNumbers(folder: string): Promise<number[]> {
  const names = await readdir(folder)
  return names.flatMap((name) => /^lock\.(\d+)$/.exec(name)?.[1] ?? []).map(Number)
}

/** @returns whether the name was still to be had */
async function claimName(path: string, newPath: string): Promise<boolean> {
  try {
    await link(path, newPath)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** The path of a socket is limited to 107 bytes, on macOS to 103, and a longer one is cut off without a word. */
const socketFolderBytes = 80

/** Gives `work` a path of the folder that leaves room for the name of a socket: a link, where its own does not. */
async function withShortPath<T>(folder: string, work: (path: string) => Promise<T>): Promise<T> {
  const path = resolve(folder)
  if (Buffer.byteLength(path) <= socketFolderBytes) return await work(path)
  const shortcut = await mkdtemp(join(tmpdir(), 'latchkey-'))
  try {
    await symlink(path, join(shortcut, 'to'))
    return await work(join(shortcut, 'to'))
  } finally {
    await rm(shortcut, { recursive: true })
  }
}

function listen(path: string): Promise<Server> {
  return new Promise((done, fail) => {
    const server = createServer((socket) => socket.destroy())
    server.once('error', fail)
    server.listen(path, () => done(server.unref()))
  })
}

function answers(path: string): Promise<boolean> {
  return new Promise((done, fail) => {
    const socket = createConnection(path, () => {
      socket.destroy()
      done(true)
    })
    socket.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNREFUSED' || error.code === 'ENOENT' ? done(false) : fail(error),
    )
  })
}
