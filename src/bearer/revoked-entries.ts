/**
 * What can be taken back: one token, one session, one generation of an account, one signing key. Each entry refuses
 * every token under it, on its own. The identity is always an id that latchkey made, never the token's string:
 * several strings verify as one token.
 */
import type { AccessTokenClaims } from './claims.ts'

export type RevocationScope = 'token' | 'session' | 'generation' | 'key'

export interface RevocationEntry {
  scope: RevocationScope
  /** The `jti`, the `sid`, `<sub>:<ver>` or the `kid`. */
  subject: string
  /** When nothing under it can be alive any more, in seconds since the epoch. */
  expiresAt: number
}

/** What of a token is looked up. */
export interface TokenIdentity {
  kid: string
  /** A service has no session: its `sub` stands for it, which is the id of none. */
  claims: Pick<AccessTokenClaims, 'jti' | 'sub' | 'ver'> & { sid?: string }
}

export const generationSubject = (sub: string, ver: number): string => `${sub}:${ver}`

export function parseGenerationSubject(subject: string): { sub: string; ver: number } {
  const [sub = '', ver] = subject.split(':')
  return { sub, ver: Number(ver) }
}
