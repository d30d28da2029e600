/** The `error` values of a Bearer challenge (RFC 6750 §3.1, RFC 9470 §3). */
export type ChallengeError =
  | 'invalid_request'
  | 'invalid_token'
  | 'insufficient_scope'
  | 'insufficient_user_authentication'

/**
 * The value of `WWW-Authenticate` for a refused request. A request without credentials gets no `error`
 * (RFC 6750 §3).
 *
 * @param proof how long ago the person may have proved who they are, and how strong that proof must be (RFC 9470 §3)
 */
export function bearerChallenge(
  error?: ChallengeError,
  { maxAgeSeconds, acr }: { maxAgeSeconds?: number | undefined; acr?: string | undefined } = {},
): string {
  const parameters = { realm: 'latchkey', error, max_age: maxAgeSeconds, acr_values: acr }
  const told = Object.entries(parameters).filter(([, value]) => value !== undefined)
  return `Bearer ${told.map(([name, value]) => `${name}="${value}"`).join(', ')}`
}
