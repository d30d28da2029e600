/** Encryption at rest for what must be read again (AES-256-GCM). What need not be read again is hashed instead. */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'

const nonceBytes = 12
const tagBytes = 16

/**
 * Seals bytes under keys derived from one secret. `purpose` binds a sealed value to its place: moved elsewhere it does not
 * open.
 */
export interface Sealer {
  seal(purpose: string, plain: Buffer): Buffer
  /** @throws Error if the secret, the purpose or a single bit differs */
  open(purpose: string, sealed: Buffer): Buffer
}

/** @param secret high-entropy text; this derives keys, it does not stretch passwords */
export function createSealer(secret: string): Sealer {
  const keyFor = (purpose: string) => Buffer.from(hkdfSync('sha256', secret, '', `latchkey ${purpose}`, 32))

  return {
    seal(purpose, plain) {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv('aes-256-gcm', keyFor(purpose), nonce)
      const sealed = Buffer.concat([cipher.update(plain), cipher.final()])
      return Buffer.concat([nonce, cipher.getAuthTag(), sealed])
    },

    open(purpose, sealed) {
      const nonce = sealed.subarray(0, nonceBytes)
      const decipher = createDecipheriv('aes-256-gcm', keyFor(purpose), nonce, { authTagLength: tagBytes })
      decipher.setAuthTag(sealed.subarray(nonceBytes, nonceBytes + tagBytes))
      return Buffer.concat([decipher.update(sealed.subarray(nonceBytes + tagBytes)), decipher.final()])
    },
  }
}
