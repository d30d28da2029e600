import type { Audit, Origin } from '../audit/events.ts'
import { generationSubject } from '../bearer/revoked-entries.ts'
import type { IsRefused } from '../revocation/refused.ts'
import type { Endings } from '../sessions/endings.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'
import type { Sessions } from '../sessions/sessions.ts'
import type { Guesses } from './guesses.ts'

/** An account, as it was when its owner proved to be that. */
export interface ProvenUser {
  id: string
  generation: number
  passwordHash: string
}

export interface Admission {
  /**
   * The end of every login: starts the session.
   *
   * @param proof and whether its network is known to be one of the account's
   * @returns undefined if the account is no longer what it was. @throws what revoke throws when older sessions must end
   */
  admit(
    user: ProvenUser,
    proof: { amr: readonly string[]; acr: string; remember: boolean; isAtHome?: boolean },
    origin: Origin,
  ): Promise<SessionTokens | undefined>
}

export interface AdmissionOptions {
  sessions: Pick<Sessions & Endings, 'start' | 'endSurplus' | 'endForgottenGeneration'>
  isRefused: IsRefused
  guesses: Pick<Guesses, 'remember'>
  audit: Audit
}

export const createAdmission = ({ sessions, isRefused, guesses, audit }: AdmissionOptions): Admission => ({
  async admit({ id, generation, passwordHash }, { isAtHome = false, ...proof }, origin) {
    // A database that was set back to a backup, or that a logout never reached, would start a session that is dead already.
    if (await isRefused({ scope: 'generation', subject: generationSubject(id, generation) }))
      await sessions.endForgottenGeneration(id, generation, origin)
    const { address, network, userAgent } = origin
    const tokens = await sessions.start({ id, generation, passwordHash, ...proof, address, userAgent })
    if (!tokens) return undefined
    const { session_id: sid } = tokens
    if (!isAtHome) await guesses.remember(id, network)
    await sessions.endSurplus({ sub: id, sid }, origin)
    audit.record({ event: 'login.succeeded', sub: id, sid, amr: proof.amr }, origin)
    return tokens
  },
})
