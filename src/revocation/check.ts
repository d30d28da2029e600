import type { PreparedToken } from '../bearer/revoked-tokens.ts'
import { type Sources, sourcesOf } from './mode.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** `unknown` is neither: it must refuse, but not call the token revoked. */
export type Verdict = 'live' | 'revoked' | 'unknown'

export interface RevocationCheck {
  prepare: Tail['prepare']
  /** Calls back: every guarded request comes through here, and a promise for each would cost more than the check. */
  check(token: PreparedToken, done: (verdict: Verdict) => void): void
}

export interface CheckOptions {
  tail: Pick<Tail, 'prepare' | 'has' | 'isFresh' | 'catchUp'>
  index: Pick<RevocationIndex, 'has'> | undefined
  /** The index is asked only while the tail is not fresh. */
  mirror: boolean
  /** Told of every verdict, and of who could tell. */
  onVerdict(verdict: Verdict, by: Sources): void
}

interface Question {
  token: PreparedToken
  done(verdict: Verdict): void
}

/**
 * Whether a token was taken back. It is dead if the tail or the index says so. It is live only if somebody who must
 * know says so: the tail while it is fresh, else the index alone, for while the record cannot be read nothing can be
 * acknowledged, and the tail still refuses all that it knew.
 *
 * The questions of one tick are answered together, at its end. Replies that are written one by one each find their reader
 * asleep, and to wake it costs more than the check.
 */
export function createCheck({ tail, index, mirror, onVerdict }: CheckOptions): RevocationCheck {
  let asked: Question[] = []

  function answer({ done }: Question, verdict: Verdict, by: Sources): void {
    onVerdict(verdict, by)
    done(verdict)
  }

  function conclude(question: Question, fresh: boolean, inIndex: boolean | undefined): void {
    const by = sourcesOf(fresh, inIndex !== undefined)
    answer(question, inIndex ? 'revoked' : by === 'none' ? 'unknown' : 'live', by)
  }

  function judge(questions: readonly Question[], fresh: boolean): void {
    for (const question of questions) {
      if (tail.has(question.token)) answer(question, 'revoked', 'tail')
      else if (!index || (fresh && mirror)) conclude(question, fresh, undefined)
      else index.has(question.token, (inIndex) => conclude(question, fresh, inIndex))
    }
  }

  function judgeAll(): void {
    const questions = asked
    asked = []
    if (tail.isFresh()) judge(questions, true)
    else void tail.catchUp().then((fresh) => judge(questions, fresh))
  }

  return {
    prepare: tail.prepare,
    check(token, done) {
      if (asked.push({ token, done }) === 1) setImmediate(judgeAll)
    },
  }
}
