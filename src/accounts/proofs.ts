/** How somebody has proved who they are, and what that is worth. */
import type { Proof } from '../sessions/renewal.ts'

export type FactorMethod = 'totp' | 'recovery_code'

/** Somebody who is logged in, as their access token says. */
export interface ProvenHolder {
  sub: string
  sid: string
  ver: number
  auth_time: number
  acr: string
}

export const byPassword: Proof = { amr: ['pwd'], acr: 'aal1' }

/** By password and one of these (RFC 8176, NIST SP 800-63B-4 §2): a mailbox is nothing that one has. */
export const byPasswordAnd: Record<FactorMethod | 'mail', Proof> = {
  totp: { amr: ['pwd', 'otp', 'mfa'], acr: 'aal2' },
  recovery_code: { amr: ['pwd', 'recovery_code', 'mfa'], acr: 'aal2' },
  mail: { amr: ['pwd', 'mail'], acr: 'aal1' },
}
