/** Codes of authenticator apps (RFC 6238): six digits by SHA-1, a new one each thirty seconds, which is what every app knows. */
import { Secret, TOTP } from 'otpauth'
import QRCode from 'qrcode'

/** In seconds. */
const period = 30

/** What an app is told to make codes for an account. */
export interface Enrolment {
  /** In Base32 (RFC 4648 §6), to type in. */
  secret: string
  otpauth_uri: string
  /** That URI as a picture. */
  qr_svg: string
}

/** 160 bits (RFC 4226 §4). */
export const generateTotpSecret = (): Buffer => Buffer.from(new Secret({ size: 20 }).bytes)

export async function describeEnrolment(
  secret: Buffer,
  { issuer, username }: { issuer: string; username: string },
): Promise<Enrolment> {
  const totp = new TOTP({ issuer, label: username, secret: secretOf(secret), period })
  const otpauth_uri = totp.toString()
  return {
    secret: totp.secret.base32,
    otpauth_uri,
    qr_svg: await QRCode.toString(otpauth_uri, { type: 'svg' }),
  }
}

/**
 * The time step of which this is the code: the present one, or the one before, for whoever types slowly.
 *
 * @param now in milliseconds since the epoch
 */
export function findTimeStep(secret: Buffer, code: string, now: number): number | undefined {
  const delta = new TOTP({ secret: secretOf(secret), period }).validate({
    token: code,
    timestamp: now,
    window: 1,
  })
  return delta === null || delta > 0 ? undefined : Math.floor(now / (period * 1000)) + delta
}

// A Buffer may be a view of a larger memory.
const secretOf = (secret: Buffer) => new Secret({ buffer: new Uint8Array(secret).buffer })
