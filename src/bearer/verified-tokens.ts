import type { AccessToken } from './claims.ts'

/**
 * Remembers tokens that were verified, for a signature costs more than all else about a request. It remembers nothing about
 * any other string, and not whether a token is still good: its time, its key and whether it was taken back are asked each time.
 */
export interface VerifiedTokens {
  find(token: string): AccessToken | undefined
  /** Only after a full verification. Nobody can change what the token says from then on. */
  add(token: string, verified: AccessToken): void
}

/** The end of a signature: enough to tell tokens apart, and hashing all of a token would cost more than the rest of a look-up. */
const keyLength = 43

/** @param max how many are remembered at least, while they are used; it never holds more than twice as many */
export function createVerifiedTokens(max: number): VerifiedTokens {
  type Tokens = Map<string, { token: string; verified: AccessToken }>
  // What was used since the last change of generations, and what was used before it: the next change forgets that.
  let young: Tokens = new Map()
  let old: Tokens = new Map()

  function put(key: string, entry: { token: string; verified: AccessToken }): void {
    if (young.size >= max) {
      old = young
      young = new Map()
    }
    young.set(key, entry)
  }

  return {
    find(token) {
      const key = token.slice(-keyLength)
      const recent = young.get(key)
      const entry = recent ?? old.get(key)
      // Another token may end alike.
      if (entry?.token !== token) return undefined
      if (!recent) put(key, entry)
      return entry.verified
    },

    add(token, { kid, claims }) {
      Object.freeze(claims.roles)
      Object.freeze(claims.amr)
      const verified = Object.freeze({ kid, claims: Object.freeze(claims) })
      put(token.slice(-keyLength), { token, verified })
    },
  }
}
