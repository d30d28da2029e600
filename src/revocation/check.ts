import type { TokenIdentity } from './entries.ts'
import { type Sources, sourcesOf } from './mode.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { PreparedForTail, Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

/** What is asked about a token. Made once, for a token comes again and again. */
export interface PreparedToken extends PreparedForTail {
  /** The keys of the index. */
  keys: readonly string[]
}

export interface RevocationCheck {
  prepare(token: TokenIdentity): PreparedToken
  /** Calls back, at once where it can: every guarded request comes through here. */
  check(token: PreparedToken, done: (verdict: Verdict) => void): void
}

export interface CheckOptions {
  tail: Pick<Tail, 'prepare' | 'has' | 'isFresh' | 'catchUp'>
  index: Pick<RevocationIndex, 'prepare' | 'has'> | undefined
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
  type Done = (verdict: Verdict) => void

  function tell(verdict: Verdict, by: Sources, done: Done): void {
    onVerdict(verdict, by)
    done(verdict)
  }

  function conclude(fresh: boolean, inIndex: boolean | undefined, done: Done): void {
    const by = sourcesOf(fresh, inIndex !== undefined)
    tell(inIndex ? 'revoked' : by === 'none' ? 'unknown' : 'live', by, done)
  }

  function judge(token: PreparedToken, fresh: boolean, done: Done): void {
    if (tail.has(token)) tell('revoked', 'tail', done)
    else if (!index || (fresh && mirror)) conclude(fresh, undefined, done)
    else index.has(token.keys, (inIndex) => conclude(fresh, inIndex, done))
  }

  return {
    prepare: (token) => ({
      kid: token.kid,
      ids: tail.prepare(token),
      keys: index?.prepare(token) ?? [],
    }),

    check(token, done) {
      if (tail.isFresh()) judge(token, true, done)
      else void tail.catchUp().then((fresh) => judge(token, fresh, done))
    },
  }
}
