/** Key pairs for signing (RFC 7518 §3, RFC 8037): made here or brought along, and good enough to be used. */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto'
import type { SigningAlgorithm } from '../bearer/algorithms.ts'
import type { PublicKeyMembers } from '../db/tables.ts'

export interface KeyPair {
  /** The thumbprint of the public key (RFC 7638). */
  kid: string
  alg: SigningAlgorithm
  publicJwk: PublicKeyMembers
  /** PKCS #8 in PEM. */
  privateKey: string
}

/** NIST SP 800-131A Rev. 2: less is not to be signed with. */
const minModulusBits = 2048
/** RFC 8017 has no upper bound, but whoever verifies has. */
const maxModulusBits = 4096
/** FIPS 186-5 §A.1.1 */
const minPublicExponent = 65_537n

const generators: Record<SigningAlgorithm, () => { privateKey: KeyObject }> = {
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => generateKeyPairSync('rsa', { modulusLength: minModulusBits }),
  EdDSA: () => generateKeyPairSync('ed25519'),
}

export const generateKeyPair = (alg: SigningAlgorithm): KeyPair => keyPairOf(generators[alg]().privateKey)

/**
 * Reads a private key, in PEM (PKCS #8, PKCS #1, SEC 1) or as a JWK.
 *
 * @throws Error with what is wrong about it, and nothing of the key
 */
export function readKeyPair(text: string): KeyPair {
  const jwk = readJwk(text)
  const keyPair = keyPairOf(jwk ? privateKeyOf({ key: jwk, format: 'jwk' }) : privateKeyOf(text))
  if (jwk?.alg !== undefined && jwk.alg !== keyPair.alg)
    throw new Error(`says that it is for another algorithm than ${keyPair.alg}`)
  const { use = 'sig', key_ops = ['sign'] } = jwk ?? {}
  if (use !== 'sig' || !(key_ops as unknown[]).includes?.('sign'))
    throw new Error('says that it is not for signing')
  // Of an Ed25519 key, OpenSSL makes the public half itself, and does not look at what stands there.
  if (jwk && Object.entries(keyPair.publicJwk).some(([member, value]) => jwk[member] !== value))
    throw mismatch()
  return keyPair
}

export const publicKeyPem = (publicJwk: PublicKeyMembers): string =>
  createPublicKey({ key: { ...publicJwk }, format: 'jwk' }).export({ type: 'spki', format: 'pem' }) as string

function readJwk(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return undefined
  }
}

function privateKeyOf(input: Parameters<typeof createPrivateKey>[0]): KeyObject {
  try {
    return createPrivateKey(input)
  } catch {
    throw new Error('is no private key in PEM or as a JWK, or is encrypted')
  }
}

function keyPairOf(privateKey: KeyObject): KeyPair {
  const alg = algorithmOf(privateKey)
  const publicKey = createPublicKey(privateKey)
  assertPair(privateKey, publicKey)
  const { kty, crv, n, e, x, y } = publicKey.export({ format: 'jwk' }) as Record<string, string>
  const publicJwk = JSON.parse(JSON.stringify({ kty, crv, n, e, x, y })) as PublicKeyMembers
  return {
    kid: thumbprint(publicJwk),
    alg,
    publicJwk,
    privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  }
}

/** @throws Error unless it is of a kind, and as strong, as an algorithm of ours needs */
function algorithmOf({ asymmetricKeyType, asymmetricKeyDetails = {} }: KeyObject): SigningAlgorithm {
  const { namedCurve, modulusLength = 0, publicExponent = 0n } = asymmetricKeyDetails
  if (asymmetricKeyType === 'ed25519') return 'EdDSA'
  if (asymmetricKeyType === 'ec' && namedCurve === 'prime256v1') return 'ES256'
  if (asymmetricKeyType !== 'rsa') throw new Error('must be an RSA, P-256 or Ed25519 key')
  if (modulusLength < minModulusBits || modulusLength > maxModulusBits)
    throw new Error(`must have ${minModulusBits} to ${maxModulusBits} bits`)
  if (publicExponent < minPublicExponent)
    throw new Error(`must have an exponent of at least ${minPublicExponent}`)
  return 'RS256'
}

/** Files are assembled by hand, and OpenSSL takes one half of them for the other's. */
function assertPair(privateKey: KeyObject, publicKey: KeyObject): void {
  const probe = Buffer.from('latchkey')
  const hash = privateKey.asymmetricKeyType === 'ed25519' ? null : 'sha256'
  const isPair = () => {
    try {
      return verify(hash, probe, publicKey, sign(hash, probe, privateKey))
    } catch {
      return false
    }
  }
  if (!isPair()) throw mismatch()
}

const mismatch = () => new Error('has a private and a public half that do not belong together')

/** The required members of its kind in lexical order, and no other (RFC 7638 §3.2, RFC 8037 §2). */
function thumbprint({ kty, crv, n, e, x, y }: PublicKeyMembers): string {
  const required = { EC: { crv, kty, x, y }, OKP: { crv, kty, x }, RSA: { e, kty, n } }[kty]
  return createHash('sha256').update(JSON.stringify(required)).digest('base64url')
}
