/** Passwords, stored as Argon2id. Hashing is meant to be expensive, so only so much of it happens at a time. */
import { randomBytes } from 'node:crypto'
import argon2 from 'argon2'
import fastq from 'fastq'
import { Outcome } from '../outcomes.ts'
import { readImportedHash } from './imported-hashes.ts'

export interface Passwords {
  /** @returns a PHC string. @throws Outcome `overloaded` */
  hash(password: string): Promise<string>
  /** Takes as long for nobody's hash (undefined) as for somebody's wrong password. @throws Outcome `overloaded` */
  verify(hash: string | undefined, password: string): Promise<boolean>
  /** Whether a hash was made elsewhere, or with less memory or fewer passes than today's. */
  needsRehash(hash: string): boolean
}

export interface PasswordsOptions {
  memoryKib: number
  passes: number
  parallelism: number
  /** Hashes at a time: each takes a thread of libuv's pool, which others need too. */
  concurrency: number
  /** How many may wait for their turn; later callers are turned away. */
  queueMax: number
}

/** How many are handed on at once, at most. */
const mostTogether = 8

/** Every character counts, and however a keyboard composes it, it is the same character. */
const canonical = (password: string) => password.normalize('NFC')

export async function createPasswords(options: PasswordsOptions): Promise<Passwords> {
  const { memoryKib, passes, parallelism, concurrency, queueMax } = options
  const parameters = { memoryCost: memoryKib, timeCost: passes, parallelism }
  const queue = fastq.promise((job: () => Promise<unknown>) => job(), concurrency)

  const done: (() => void)[] = []

  async function inTurn<T>(job: () => Promise<T>): Promise<T> {
    if (queue.running() >= concurrency && queue.length() >= queueMax) throw new Outcome('overloaded')
    try {
      return (await queue.push(job)) as T
    } finally {
      await goOnTogether()
    }
  }

  /**
   * A hash empties the processor's caches, and whatever runs between two of them runs cold. So while others wait for their
   * turn, those who had theirs go on together: nobody waits for more than are behind.
   */
  function goOnTogether(): Promise<void> {
    return new Promise((resolve) => {
      done.push(resolve)
      if (done.length === mostTogether || done.length > queue.length())
        for (const goOn of done.splice(0)) goOn()
    })
  }

  const hash = (password: string) =>
    inTurn(() => argon2.hash(canonical(password), { type: argon2.argon2id, ...parameters }))
  const nobodysHash = await hash(randomBytes(16).toString('base64'))

  return {
    hash,
    verify(stored = nobodysHash, password) {
      const checkImported = readImportedHash(stored)
      return inTurn(() => checkImported?.(password) ?? argon2.verify(stored, canonical(password)))
    },
    needsRehash(stored) {
      const [, memory, time] = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),/.exec(stored) ?? []
      return !(Number(memory) >= memoryKib && Number(time) >= passes)
    },
  }
}
