import type { Audit, Origin } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { Outcome } from '../outcomes.ts'
import type { Proof } from '../sessions/renewal.ts'
import { byPassword, byPasswordAnd } from './proofs.ts'
import type { SecondFactors } from './second-factors.ts'

/**
 * Makes somebody who has shown their password show a code too, if they have a second factor. @returns what that proves
 *
 * @throws Outcome `mfa_required`, `invalid_code`, `rate_limited`, `password_reset_required`
 */
export type ProveFactor = (
  user: { id: string; username: string },
  sid: string,
  code: string | undefined,
  origin: Origin,
) => Promise<Proof>

export interface OwnFactorOptions {
  db: Database
  factors: Pick<SecondFactors, 'summarize' | 'judge' | 'use'>
  audit: Audit
}

export function createOwnFactor({ db, factors, audit }: OwnFactorOptions): ProveFactor {
  return async function proveFactor(user, sid, code, origin) {
    const { methods } = await factors.summarize(user.id)
    if (!methods.includes('totp')) return byPassword
    if (code === undefined) throw new Outcome('mfa_required', { members: { methods } })
    const method = await factors.judge(user, code, origin, () =>
      durably(db, (tx) => factors.use(tx, user.id, code)),
    )
    if (method) return byPasswordAnd[method]
    audit.record({ event: 'factor.refused', sub: user.id, sid }, origin)
    throw new Outcome('invalid_code')
  }
}
