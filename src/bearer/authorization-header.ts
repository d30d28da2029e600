/** What the header said: a token, or one of the two ways in which there is none. */
export type PresentedToken = { token: string } | { failure: 'missing_token' | 'malformed_authorization' }

/**
 * The values of all `Authorization` headers of a request.
 *
 * @param rawHeaders names and values in turn, as they came: Node keeps one `Authorization` header of several
 *   and drops the others silently, so that two readers of one request may see two different people
 */
export function authorizationValues(rawHeaders: readonly string[]): string[] {
  const values: string[] = []
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string
    if (name.length === 13 && name.toLowerCase() === 'authorization') values.push(rawHeaders[i + 1] as string)
  }
  return values
}

/** Reads the bearer token of a request (RFC 6750 §2.1, RFC 9110 §11.6.2) from its raw headers. */
export function presentedToken(rawHeaders: readonly string[]): PresentedToken {
  const [value, another] = authorizationValues(rawHeaders)
  if (value === undefined) return { failure: 'missing_token' }
  if (another !== undefined) return { failure: 'malformed_authorization' }

  const [scheme, token, ...more] = value.split(/[ \t]+/)
  if (scheme?.toLowerCase() !== 'bearer') return { failure: 'missing_token' }
  return token && more.length === 0 ? { token } : { failure: 'malformed_authorization' }
}
