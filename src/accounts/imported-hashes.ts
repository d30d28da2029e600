/**
 * Hashes that other systems made of passwords, so that people can come from there with the passwords they have: bcrypt, and scrypt
 * and PBKDF2 as Werkzeug (Flask) and passlib write them. They are only checked, and only until a login makes an Argon2id of its own.
 */
import { pbkdf2, scrypt, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import bcrypt from 'bcrypt'

/** The password is taken as it was typed, for none of these systems normalises it. */
export type CheckPassword = (password: string) => Promise<boolean>

/** What a hash may cost: whoever logs in for the first time would wait for more. */
const most = {
  bcryptRounds: 2 ** 16,
  iterations: 5_000_000,
  memoryBytes: 256 * 2 ** 20,
  passes: 16,
  parallelism: 16,
}

/** Less than this the libraries do not take. */
const least = { bcryptRounds: 2 ** 4, argon2KibPerLane: 8 }

interface Format {
  pattern: RegExp
  /** @returns undefined if it costs too much */
  read(parts: string[]): CheckPassword | undefined
}

const formats: Format[] = [
  {
    pattern: /^(\$2[aby]\$(\d\d)\$[./\w]{53})$/,
    read: ([hash = '', cost]) => {
      const rounds = 2 ** Number(cost)
      if (rounds < least.bcryptRounds || rounds > most.bcryptRounds) return undefined
      // PHP's name for the same.
      const known = hash.replace(/^\$2y/, '$2b')
      return (password) => bcrypt.compare(password, known)
    },
  },
  {
    pattern: /^pbkdf2:(sha1|sha256|sha512):(\d+)\$([^$]+)\$((?:[\da-f]{2}){16,64})$/,
    read: ([digest = '', iterations, salt = '', hash = '']) =>
      readPbkdf2(digest, Number(iterations), Buffer.from(salt), Buffer.from(hash, 'hex')),
  },
  {
    pattern: /^\$pbkdf2(?:-(sha256|sha512))?\$(\d+)\$([./\w]*)\$([./\w]{22,86})$/,
    read: ([digest = 'sha1', iterations, salt = '', hash = '']) =>
      readPbkdf2(digest, Number(iterations), fromAdaptedBase64(salt), fromAdaptedBase64(hash)),
  },
  {
    pattern: /^scrypt:(\d+):(\d+):(\d+)\$([^$]+)\$((?:[\da-f]{2}){16,64})$/,
    read: ([N, r, p, salt = '', hash = '']) =>
      readScrypt({ N: Number(N), r: Number(r), p: Number(p) }, Buffer.from(salt), Buffer.from(hash, 'hex')),
  },
  {
    pattern: /^\$scrypt\$ln=(\d\d?),r=(\d+),p=(\d+)\$([+/\w]*)\$([+/\w]{22,86})$/,
    read: ([ln, r, p, salt = '', hash = '']) =>
      readScrypt(
        { N: 2 ** Number(ln), r: Number(r), p: Number(p) },
        Buffer.from(salt, 'base64'),
        Buffer.from(hash, 'base64'),
      ),
  },
]

/** Argon2 as others write it, which is checked as our own. */
const argon2Hash = /^\$argon2(?:id|i|d)\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[+/\w]{11,}\$[+/\w]{16,}$/

/** Whether a password can be checked against this hash at a cost that is bearable. */
export function isImportable(hash: string): boolean {
  const [, kib, passes, lanes] = argon2Hash.exec(hash)?.map(Number) ?? []
  if (kib === undefined || passes === undefined || lanes === undefined)
    return readImportedHash(hash) !== undefined
  return (
    kib >= least.argon2KibPerLane * lanes &&
    passes >= 1 &&
    lanes >= 1 &&
    kib * 1024 <= most.memoryBytes &&
    passes <= most.passes &&
    lanes <= most.parallelism
  )
}

/** @returns undefined if the hash is in none of these formats, or costs too much to check */
export function readImportedHash(hash: string): CheckPassword | undefined {
  for (const { pattern, read } of formats) {
    const [, ...parts] = pattern.exec(hash) ?? []
    if (parts.length > 0) return read(parts)
  }
  return undefined
}

/** passlib's base64, which has a dot for the plus sign, and no padding. */
const fromAdaptedBase64 = (text: string) => Buffer.from(text.replaceAll('.', '+'), 'base64')

function readPbkdf2(
  digest: string,
  iterations: number,
  salt: Buffer,
  hash: Buffer,
): CheckPassword | undefined {
  if (iterations < 1 || iterations > most.iterations) return undefined
  return async (password) =>
    timingSafeEqual(await promisify(pbkdf2)(password, salt, iterations, hash.length, digest), hash)
}

const deriveByScrypt = promisify<string, Buffer, number, object, Buffer>(scrypt)

function readScrypt(
  cost: { N: number; r: number; p: number },
  salt: Buffer,
  hash: Buffer,
): CheckPassword | undefined {
  const { N, r, p } = cost
  const bytes = 128 * N * r
  // RFC 7914 §2.
  const isPossible = N > 1 && Number.isInteger(Math.log2(N)) && Math.log2(N) < 16 * r
  if (!isPossible || r < 1 || p < 1 || bytes > most.memoryBytes || p > most.parallelism) return undefined
  // Besides its table, it needs a little for each lane.
  const maxmem = bytes + 128 * r * (p + 2) + 1024
  return async (password) =>
    timingSafeEqual(await deriveByScrypt(password, salt, hash.length, { ...cost, maxmem }), hash)
}
