import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** What answers the checks now, and which store does not answer. */
export interface RevocationMode {
  mode: 'tail and index' | 'tail' | 'index' | 'none'
  missing: ('postgres' | 'redis')[]
}

export interface ModeOptions {
  tail: Pick<Tail, 'isFresh'>
  index: Pick<RevocationIndex, 'isKnown'> | undefined
}

export function createMode({ tail, index }: ModeOptions): () => RevocationMode {
  return function mode() {
    const missing: RevocationMode['missing'] = []
    if (!tail.isFresh()) missing.push('postgres')
    if (index && !index.isKnown()) missing.push('redis')
    if (tail.isFresh()) return { mode: index?.isKnown() ? 'tail and index' : 'tail', missing }
    return { mode: index?.isKnown() ? 'index' : 'none', missing }
  }
}
