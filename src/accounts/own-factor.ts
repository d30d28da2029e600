import type { Origin } from '../audit/events.ts'
import { Outcome } from '../outcomes.ts'
import type { Proof } from '../sessions/renewal.ts'
import type { Guesses } from './guesses.ts'
import { proofsWith } from './mfa-login.ts'
import type { SecondFactors } from './second-factors.ts'

/**
 * Makes somebody who has shown their password show a code too, if they have a second factor. @returns what that proves
 *
 * @throws Outcome `mfa_required`, `invalid_code`, `rate_limited`, `password_reset_required`
 */
export type ProveFactor = (
  user: { id: string; username: string },
  code: string | undefined,
  origin: Origin,
) => Promise<Proof>

export interface OwnFactorOptions {
  factors: Pick<SecondFactors, 'summarize' | 'use'>
  guesses: Pick<Guesses, 'begin'>
}

export function createOwnFactor({ factors, guesses }: OwnFactorOptions): ProveFactor {
  return async function proveFactor({ id: sub, username }, code, origin) {
    const { methods } = await factors.summarize(sub)
    if (!methods.includes('totp')) return { amr: ['pwd'], acr: 'aal1' }
    if (code === undefined) throw new Outcome('mfa_required', { members: { methods } })
    const guess = await guesses.begin(username, 'code', origin)
    const method = await factors.use(sub, code)
    if (method) {
      await guess.wasRight()
      return proofsWith[method]
    }
    await guess.wasWrong(sub)
    throw new Outcome('invalid_code')
  }
}
