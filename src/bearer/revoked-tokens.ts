/** What was taken back, in the memory of whoever checks tokens: to look a token up takes well under a microsecond. */
import { createIdTable, idWords, writeId } from './id-table.ts'
import { parseGenerationSubject, type RevocationEntry, type TokenIdentity } from './revoked-entries.ts'

export interface RevokedTokens {
  /** Refuses these from now on. */
  add(entries: readonly RevocationEntry[]): void
  prepare(token: TokenIdentity): PreparedToken
  /** Whether a token is refused, in any scope. */
  has(token: PreparedToken): boolean
  /** Whether this is among what it refuses. */
  refuses(entry: Pick<RevocationEntry, 'scope' | 'subject'>): boolean
  readonly size: number
}

/** A token as it is looked up. Made once, for a token comes again and again. */
export interface PreparedToken extends TokenIdentity {
  /** The jti, the sid and the generation, as id-table writes them. */
  ids: Uint32Array
  /** How much had been added when it was last looked up in vain: until there is more, it would be in vain again. */
  searched: { until: number }
}

/** @param now seconds since the epoch: what has expired makes room */
export function createRevokedTokens(now: () => number): RevokedTokens {
  const ids = createIdTable(now)
  const kids = new Set<string>()
  let additions = 0

  return {
    add(entries) {
      additions += entries.length
      for (const { scope, subject, expiresAt } of entries) {
        if (scope === 'key') kids.add(subject)
        else if (scope === 'generation') {
          const { sub, ver } = parseGenerationSubject(subject)
          ids.add(sub, ver, expiresAt)
        } else ids.add(subject, 0, expiresAt)
      }
    },
    prepare({ kid, claims }) {
      const { jti, sub, sid = sub, ver }: TokenIdentity['claims'] = claims
      const written = new Uint32Array(3 * idWords)
      writeId(jti, 0, written, 0)
      writeId(sid, 0, written, idWords)
      writeId(sub, ver, written, 2 * idWords)
      return { kid, claims, ids: written, searched: { until: -1 } }
    },
    has(token) {
      if (token.searched.until === additions) return false
      const found =
        ids.hasWritten(token.ids, 0) ||
        ids.hasWritten(token.ids, idWords) ||
        ids.hasWritten(token.ids, 2 * idWords) ||
        kids.has(token.kid)
      if (!found) token.searched.until = additions
      return found
    },
    refuses({ scope, subject }) {
      if (scope === 'key') return kids.has(subject)
      if (scope !== 'generation') return ids.has(subject, 0)
      const { sub, ver } = parseGenerationSubject(subject)
      return ids.has(sub, ver)
    },
    get size() {
      return ids.size + kids.size
    },
  }
}
