import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/** What answers the checks now, and which store does not answer. */
export interface RevocationMode {
  mode: 'tail and index' | 'tail' | 'index' | 'none'
  missing: ('postgres' | 'redis')[]
}

export interface ModeOptions {
  tail: Pick<Tail, 'catchUp'>
  index: Pick<RevocationIndex, 'isKnown'> | undefined
}

/** Waits for the tail as a check would. */
export function createMode({ tail, index }: ModeOptions): () => Promise<RevocationMode> {
  return async function mode() {
    const fresh = await tail.catchUp()
    const known = index?.isKnown() ?? false
    const missing: RevocationMode['missing'] = []
    if (!fresh) missing.push('postgres')
    if (index && !known) missing.push('redis')
    if (fresh) return { mode: known ? 'tail and index' : 'tail', missing }
    return { mode: known ? 'index' : 'none', missing }
  }
}
