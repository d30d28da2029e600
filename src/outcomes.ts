/**
 * The closed list of ways in which a request can fail. The core throws these and knows nothing of HTTP;
 * plugins/problems gives each one its status, its challenge and its words.
 */
export type OutcomeCode =
  | 'invalid_request'
  | 'malformed_authorization'
  | 'invalid_credentials'
  | 'mfa_required'
  | 'mfa_token_invalid'
  | 'invalid_code'
  | 'password_reset_required'
  | 'missing_token'
  | 'token_invalid'
  | 'token_expired'
  | 'token_revoked'
  | 'reauthentication_required'
  | 'refresh_token_invalid'
  | 'refresh_token_reused'
  | 'forbidden'
  | 'invalid_current_password'
  | 'cross_site'
  | 'not_found'
  | 'method_not_allowed'
  | 'request_timeout'
  | 'username_taken'
  | 'already_enrolled'
  | 'invalid_token'
  | 'last_admin'
  | 'key_pending'
  | 'key_known'
  | 'invalid_client'
  | 'invalid_scope'
  | 'unsupported_grant_type'
  | 'cursor_expired'
  | 'payload_too_large'
  | 'unsupported_media_type'
  | 'expectation_failed'
  | 'weak_password'
  | 'rate_limited'
  | 'headers_too_large'
  | 'internal_error'
  | 'overloaded'
  | 'unavailable'
  | 'revocation_unknown'

export interface OutcomeOptions {
  /** Shown to the client in place of the code's usual sentence. Never a value that was sent. */
  detail?: string
  /** Written to the log only: what a client must not learn. */
  reason?: string
  /** When it is worth another try. */
  retryAfterSeconds?: number
  /** How long ago who asks may have proved who they are. */
  maxAgeSeconds?: number
  /** How strong that proof must be: an `acr`. */
  acr?: string
  /** What else the client is told, as members of the problem (RFC 9457 §3.2). Never logged. */
  members?: Readonly<Record<string, unknown>>
  cause?: unknown
}

/** An answer, not a bug: it has no stack, which takes microseconds to capture and which nobody would read. */
export class Outcome extends Error {
  override readonly name = 'Outcome'
  readonly code: OutcomeCode
  readonly detail: string | undefined
  readonly reason: string | undefined
  readonly retryAfterSeconds: number | undefined
  readonly maxAgeSeconds: number | undefined
  readonly acr: string | undefined
  readonly members: Readonly<Record<string, unknown>> | undefined

  constructor(
    code: OutcomeCode,
    { detail, reason, retryAfterSeconds, maxAgeSeconds, acr, members, cause }: OutcomeOptions = {},
  ) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(reason ?? detail ?? code, { cause })
    Error.stackTraceLimit = stackTraceLimit
    this.code = code
    this.detail = detail
    this.reason = reason
    this.retryAfterSeconds = retryAfterSeconds
    this.maxAgeSeconds = maxAgeSeconds
    this.acr = acr
    this.members = members
  }
}
