/** What is written down when something is taken back. */
import { generationSubject, type RevocationEntry } from '../bearer/revoked-entries.ts'

/** Entries outlive what they refuse by this much, so that no difference between clocks revives it. */
export const marginSeconds = 300

/** @param exp of the token */
export const tokenEntry = (jti: string, exp: number): RevocationEntry => ({
  scope: 'token',
  subject: jti,
  expiresAt: exp + marginSeconds,
})

/** @param lastExp the greatest `exp` of any access token issued under the session */
export const sessionEntry = (sid: string, lastExp: number): RevocationEntry => ({
  scope: 'session',
  subject: sid,
  expiresAt: lastExp + marginSeconds,
})

/** @param lastExp the same, under that generation of the account */
export const generationEntry = (sub: string, ver: number, lastExp: number): RevocationEntry => ({
  scope: 'generation',
  subject: generationSubject(sub, ver),
  expiresAt: lastExp + marginSeconds,
})

/** @param lastExp the same, signed with that key */
export const keyEntry = (kid: string, lastExp: number): RevocationEntry => ({
  scope: 'key',
  subject: kid,
  expiresAt: lastExp + marginSeconds,
})
