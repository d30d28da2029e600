/** Opaque tokens: 256 random bits that mean nothing by themselves. They are stored as hashes only. */
import { createHash, randomBytes } from 'node:crypto'

/** 43 characters of base64url. */
export const generateOpaqueToken = (): string => randomBytes(32).toString('base64url')

/** SHA-256; a slow hash would protect guessable secrets, and these are not. */
export const hashOpaqueToken = (token: string): Buffer => createHash('sha256').update(token).digest()
