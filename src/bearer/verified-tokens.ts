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

/**
 * 32 bits of the signature, from its last six characters: enough to tell tokens apart. A number, for a string would have to be
 * cut out and hashed, and its twin in the map fetched from memory to be compared with.
 */
function keyOf(presented: string): number {
  let key = 0
  for (let at = Math.max(0, presented.length - 6); at < presented.length; at++)
    key = (key << 6) ^ presented.charCodeAt(at)
  return key
}

/** @param max how many are remembered at least, while they are used; it never holds more than twice as many */
export function createVerifiedTokens<Verified extends { presented: string }>(
  max: number,
): VerifiedTokens<Verified> {
  // What was used since the last change of generations, and what was used before it: the next change forgets that.
  let young = new Map<number, Verified>()
  let old = new Map<number, Verified>()

  function put(key: number, verified: Verified): void {
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
