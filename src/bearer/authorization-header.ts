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

/** Case does not matter to a scheme, and there may be more than one space behind it. */
const bearerScheme = /^bearer(?:[ \t]+|$)/i
const isOneWord = (text: string, from: number) =>
  text.length > from && text.indexOf(' ', from) < 0 && text.indexOf('\t', from) < 0

/** Reads the bearer token of a request (RFC 6750 §2.1, RFC 9110 §11.6.2) from its raw headers. */
export function presentedToken(rawHeaders: readonly string[]): PresentedToken {
  const [value, another] = authorizationValues(rawHeaders)
  if (value === undefined) return { failure: 'missing_token' }
  if (another !== undefined) return { failure: 'malformed_authorization' }

  // As nearly everybody writes it: an expression takes five times as long.
  if (value.slice(0, 7) === 'Bearer ' && isOneWord(value, 7)) return { token: value.slice(7) }
  const scheme = bearerScheme.exec(value)
  if (!scheme) return { failure: 'missing_token' }
  const [{ length }] = scheme
  return isOneWord(value, length) ? { token: value.slice(length) } : { failure: 'malformed_authorization' }
}
