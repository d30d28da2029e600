/** Key pairs for ES256 (RFC 7518 §3.4). */
import { createHash, createPublicKey, generateKeyPairSync } from 'node:crypto'
import type { EcPublicJwk } from '../db/tables.ts'

export interface KeyPair {
  /** The thumbprint of the public key (RFC 7638). */
  kid: string
  publicJwk: EcPublicJwk
  /** PKCS #8 in PEM. */
  privateKey: string
}

export function generateKeyPair(): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  const publicJwk = createPublicKey(publicKey).export({ format: 'jwk' }) as unknown as EcPublicJwk
  return { kid: thumbprint(publicJwk), publicJwk, privateKey }
}

export const publicKeyPem = (publicJwk: EcPublicJwk): string =>
  createPublicKey({ key: { ...publicJwk }, format: 'jwk' }).export({ type: 'spki', format: 'pem' }) as string

/** The required members in lexical order, and no other. */
const thumbprint = ({ crv, kty, x, y }: EcPublicJwk): string =>
  createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url')
