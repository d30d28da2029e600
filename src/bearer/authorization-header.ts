/** What the header said: a token, or one of the two ways in which there is none. */
export type PresentedToken = { token: string } | { failure: 'missing_token' | 'malformed_authorization' }

/** Stands for several `Authorization` headers, of which no reader may choose one. */
export const ambiguous = Symbol('several Authorization headers')

/**
 * The value of the only `Authorization` header of a request, if there is one.
 *
 * @param rawHeaders names and values in turn, as they came: Node keeps one `Authorization` header of several
 *   and drops the others silently, so that two readers of one request may see two different people
 */
export function authorizationOf(rawHeaders: readonly string[]): string | undefined | typeof ambiguous {
  let value: string | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string
    if (name.length !== 13 || name.toLowerCase() !== 'authorization') continue
    if (value !== undefined) return ambiguous
    value = rawHeaders[i + 1]
  }
  return value
}

/** Reads the bearer token of a request (RFC 6750 §2.1, RFC 9110 §11.6.2) from its raw headers. */
export function presentedToken(rawHeaders: readonly string[]): PresentedToken {
  const authorization = authorizationOf(rawHeaders)
  if (authorization === undefined) return { failure: 'missing_token' }
  if (authorization === ambiguous) return { failure: 'malformed_authorization' }

  const [scheme, token, ...more] = authorization.split(/[ \t]+/)
  if (scheme?.toLowerCase() !== 'bearer') return { failure: 'missing_token' }
  return token && more.length === 0 ? { token } : { failure: 'malformed_authorization' }
}
