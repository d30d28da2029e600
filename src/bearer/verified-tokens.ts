/**
 * Remembers tokens that were verified, for a signature costs more than all else about a request. It remembers nothing about
 * any other string, and not whether a token is still good: its time, its key and whether it was taken back are asked each time.
 */
export interface VerifiedTokens<Verified extends { presented: string }> {
  /** @param presented the text in which a token came, such as a whole header, so that nothing need be cut out of it first */
  find(presented: string): Verified | undefined
  /** Only after a full verification, and only what nobody can change from then on. */
  add(verified: Verified): void
}

/** The end of a signature: enough to tell tokens apart, without hashing all of each. */
const keyOf = (presented: string): string => presented.slice(-12)

/** @param max how many are remembered at least, while they are used; it never holds more than twice as many */
export function createVerifiedTokens<Verified extends { presented: string }>(
  max: number,
): VerifiedTokens<Verified> {
  // What was used since the last change of generations, and what was used before it: the next change forgets that.
  let young = new Map<string, Verified>()
  let old = new Map<string, Verified>()

  function put(key: string, verified: Verified): void {
    if (young.size >= max) {
      old = young
      young = new Map()
    }
    young.set(key, verified)
  }

  return {
    find(presented) {
      const key = keyOf(presented)
      const recent = young.get(key)
      const verified = recent ?? old.get(key)
      // Another token may end alike.
      if (verified?.presented !== presented) return undefined
      if (!recent) put(key, verified)
      return verified
    },
    add: (verified) => put(keyOf(verified.presented), verified),
  }
}
