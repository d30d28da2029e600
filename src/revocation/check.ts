import type { TokenIdentity } from './entries.ts'
import { type Sources, sourcesOf } from './mode.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

/** Calls back, at once where it can: every guarded request comes through here, and a promise for each costs as much as the look-up. */
export type RevocationCheck = (token: TokenIdentity, done: (verdict: Verdict) => void) => void

export interface CheckOptions {
  tail: Pick<Tail, 'has' | 'isFresh' | 'catchUp'>
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
  function judge(token: TokenIdentity, fresh: boolean, done: (verdict: Verdict) => void): void {
    const tell = (verdict: Verdict, by: Sources) => {
      onVerdict(verdict, by)
      done(verdict)
    }
    if (tail.has(token)) tell('revoked', 'tail')
    else if (!index || (fresh && mirror)) tell(fresh ? 'live' : 'unknown', fresh ? 'tail' : 'none')
    else
      index.has(token, (dead) => {
        const by = sourcesOf(fresh, dead !== undefined)
        tell(dead ? 'revoked' : by === 'none' ? 'unknown' : 'live', by)
      })
  }

  return function check(token, done) {
    if (tail.isFresh()) judge(token, true, done)
    else void tail.catchUp().then((fresh) => judge(token, fresh, done))
  }
}
