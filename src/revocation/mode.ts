import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** Who answers whether something was taken back. */
export type Sources = (typeof allSources)[number]

export const allSources = ['tail and index', 'tail', 'index', 'none'] as const

export const sourcesOf = (tail: boolean, index: boolean): Sources =>
  tail ? (index ? 'tail and index' : 'tail') : index ? 'index' : 'none'

/** Who answers the checks now, and which store does not answer. */
export interface RevocationMode {
  mode: Sources
  missing: ('postgres' | 'redis')[]
}

export interface ModeOptions {
  tail: Pick<Tail, 'catchUp'>
  index: Pick<RevocationIndex, 'isKnown'> | undefined
  /** The index is asked only while the tail is not fresh. */
  mirror: boolean
}

/** Waits for the tail as a check would. */
export function createMode({ tail, index, mirror }: ModeOptions): () => Promise<RevocationMode> {
  return async function mode() {
    const fresh = await tail.catchUp()
    const known = index?.isKnown() ?? false
    const missing: RevocationMode['missing'] = []
    if (!fresh) missing.push('postgres')
    if (index && !known) missing.push('redis')
    return { mode: sourcesOf(fresh, known && !(fresh && mirror)), missing }
  }
}
