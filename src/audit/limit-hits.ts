/** Whoever asks too often is told of once in each window, and not once for each request: a flood must not fill the trail. */
import type { Audit, LimitName, Origin } from './events.ts'

/** @param key whom the limit counts @param leftMs of the window */
export type NoteLimitHit = (limit: LimitName, key: string, leftMs: number, origin: Origin) => void

export interface LimitHitsOptions {
  audit: Audit
  /** In milliseconds, since whenever. */
  now?: () => number
}

/** How many are told of at a time: from whoever comes by more addresses than that, no more is learnt. */
const maxNoted = 1_000

export function createLimitHits({ audit, now = () => performance.now() }: LimitHitsOptions): NoteLimitHit {
  /** Until when they are not told of again. */
  const noted = new Map<string, number>()

  function forgetOver(at: number): void {
    for (const [key, until] of noted) if (until <= at) noted.delete(key)
  }

  return function note(limit, key, leftMs, origin) {
    const at = now()
    const name = `${limit} ${key}`
    if ((noted.get(name) ?? Number.NEGATIVE_INFINITY) > at) return
    if (noted.size >= maxNoted) forgetOver(at)
    if (noted.size >= maxNoted) return
    noted.set(name, at + leftMs)
    audit.record({ event: 'limit.exceeded', limit }, origin)
  }
}
