import type { TokenIdentity } from './entries.ts'
import { type Sources, sourcesOf } from './mode.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

export type RevocationCheck = (token: TokenIdentity) => Promise<Verdict>

export interface CheckOptions {
  tail: Pick<Tail, 'has' | 'catchUp'>
  index: Pick<RevocationIndex, 'has'> | undefined
  /** The index is asked only while the tail is not fresh. */
  mirror: boolean
  /** Told of every verdict, and of who could tell. */
  onVerdict(verdict: Verdict, by: Sources): void
}

/**
 * Whether a token was taken back. It is dead if the tail or the index says so. It is live only if somebody who must
 * know says so: the tail while it is fresh, else the index alone, for while the record cannot be read nothing can be
 * acknowledged, and the tail still refuses all that it knew.
 */
export function createCheck({ tail, index, mirror, onVerdict }: CheckOptions): RevocationCheck {
  return async function check(token) {
    const fresh = await tail.catchUp()
    const dead = tail.has(token)
    const inIndex = dead || (fresh && mirror) ? undefined : await index?.has(token)
    const by = sourcesOf(fresh || dead, inIndex !== undefined)
    const verdict = dead || inIndex || tail.has(token) ? 'revoked' : by === 'none' ? 'unknown' : 'live'
    onVerdict(verdict, by)
    return verdict
  }
}
