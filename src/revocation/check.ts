import type { TokenIdentity } from './entries.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

export type RevocationCheck = (token: TokenIdentity) => Promise<Verdict>

export interface CheckOptions {
  tail: Pick<Tail, 'has' | 'catchUp'>
  index: Pick<RevocationIndex, 'has'> | undefined
}

/**
 * Whether a token was taken back. It is dead if the tail or the index says so. It is live only if somebody who must
 * know says so: the tail while it is fresh, else the index alone, for while the record cannot be read nothing can be
 * acknowledged, and the tail still refuses all that it knew.
 */
export function createCheck({ tail, index }: CheckOptions): RevocationCheck {
  return async function check(token) {
    if (tail.has(token)) return 'revoked'
    const dead = await index?.has(token)
    if (dead) return 'revoked'
    const fresh = await tail.catchUp()
    if (tail.has(token)) return 'revoked'
    return fresh || dead === false ? 'live' : 'unknown'
  }
}
