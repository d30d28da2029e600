import type { RevocationEntry } from '../bearer/revoked-entries.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

/**
 * Whether something is refused already, recorded or not. What the database takes for live may be refused all the same: it was
 * set back to a backup, or whoever ended it died before the commit.
 */
export type IsRefused = (entry: Pick<RevocationEntry, 'scope' | 'subject'>) => Promise<boolean>

export interface IsRefusedOptions {
  tail: Pick<Tail, 'refuses'>
  index: Pick<RevocationIndex, 'holds'> | undefined
}

export const createIsRefused = ({ tail, index }: IsRefusedOptions): IsRefused =>
  async function isRefused(entry) {
    return tail.refuses(entry) || ((await index?.holds(entry)) ?? false)
  }
