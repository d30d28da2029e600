/** The `error` values of a Bearer challenge (RFC 6750 §3.1). */
export type ChallengeError = 'invalid_request' | 'invalid_token' | 'insufficient_scope'

/**
 * The value of `WWW-Authenticate` for a refused request. A request without credentials gets no `error`
 * (RFC 6750 §3).
 */
export function bearerChallenge(error?: ChallengeError): string {
  return error ? `Bearer realm="latchkey", error="${error}"` : 'Bearer realm="latchkey"'
}
