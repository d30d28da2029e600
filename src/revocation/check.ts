import type { TokenIdentity } from './entries.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

export type RevocationCheck = (token: TokenIdentity, done: (verdict: Verdict) => void) => void

/**
 * Whether a token was taken back. It is dead if the tail or the index says so. It is live only if somebody who must
 * know says so: the tail while it is fresh, else the index alone, for while the record cannot be read nothing can be
 * acknowledged, and the tail still refuses all that it knew.
 */
export function createCheck({
  tail,
  index,
}: {
  tail: Tail
  index: RevocationIndex | undefined
}): RevocationCheck {
  return function check(token, done) {
    if (tail.has(token)) done('revoked')
    else if (index) index.has(token, decide)
    else decide(undefined)

    function decide(dead: boolean | undefined): void {
      if (dead) done('revoked')
      else
        tail.catchUp((fresh) =>
          done(tail.has(token) ? 'revoked' : fresh || dead === false ? 'live' : 'unknown'),
        )
    }
  }
}
