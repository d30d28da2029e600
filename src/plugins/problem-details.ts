/** How each outcome looks from outside: its status, its challenge and its words (RFC 9457). */
import { STATUS_CODES } from 'node:http'
import { type Static, Type } from 'typebox'
import type { ChallengeError } from '../bearer/challenge.ts'
import { refusalHeaders, refusals } from '../bearer/refusals.ts'
import type { Outcome, OutcomeCode } from '../outcomes.ts'

export const problemMediaType = 'application/problem+json'

interface Presentation {
  status: number
  detail: string
  challenge?: ChallengeError
}

export const presentations: Record<OutcomeCode, Presentation> = {
  ...refusals,
  invalid_request: { status: 400, detail: 'The request is invalid.' },
  invalid_credentials: { status: 401, detail: 'No account has this username and this password.' },
  mfa_required: {
    status: 403,
    detail: 'This account has a second factor: show a code of it too.',
  },
  mfa_token_invalid: { status: 401, detail: 'This login is over: begin anew, with the password.' },
  invalid_code: { status: 403, detail: 'This code is wrong, too old, or used.' },
  password_reset_required: {
    status: 403,
    detail: 'This account was guessed at too often: choose another password, by POST /password/forgot.',
  },
  refresh_token_invalid: { status: 401, detail: 'This refresh token is not valid (any more): log in again.' },
  refresh_token_reused: {
    status: 401,
    detail: 'This refresh token was used before, so its session has been ended: log in again.',
  },
  cross_site: {
    status: 403,
    detail: 'This came from a page that may not use the cookie: its origin must be in CORS_ORIGINS.',
  },
  invalid_current_password: { status: 403, detail: 'This is not the password of this account.' },
  not_found: { status: 404, detail: 'There is nothing here.' },
  method_not_allowed: {
    status: 405,
    detail: 'This resource does not have that method; Allow names those it has.',
  },
  request_timeout: { status: 408, detail: 'The request did not arrive in time.' },
  username_taken: { status: 409, detail: 'Somebody has this username already.' },
  already_enrolled: {
    status: 409,
    detail: 'This account has an authenticator app: remove it before you set up another.',
  },
  invalid_token: {
    status: 400,
    detail: 'This link is wrong, too old, or used: ask for another one.',
  },
  last_admin: { status: 409, detail: 'Somebody must be an admin: make another one first.' },
  key_pending: {
    status: 409,
    detail: 'A key waits to be the next already: it signs from its `active_from` on.',
  },
  key_known: { status: 409, detail: 'This key is here, or was removed.' },
  invalid_client: { status: 401, detail: 'No client has this id and this secret.' },
  invalid_scope: { status: 400, detail: 'This client may not have all of these scopes.' },
  unsupported_grant_type: { status: 400, detail: 'The grants are client_credentials and refresh_token.' },
  cursor_expired: {
    status: 410,
    detail: 'The record does not reach back to this cursor: read the live set, without one.',
  },
  payload_too_large: { status: 413, detail: 'A body may be at most 16 kB.' },
  unsupported_media_type: { status: 415, detail: 'Bodies are sent as application/json.' },
  expectation_failed: { status: 417, detail: 'The only expectation met here is 100-continue.' },
  weak_password: { status: 422, detail: 'This password is too easy to guess.' },
  rate_limited: { status: 429, detail: 'Too many requests: try again later.' },
  headers_too_large: { status: 431, detail: 'The headers together may be at most 16 kB.' },
  internal_error: { status: 500, detail: 'Something went wrong here. The log knows more, by request_id.' },
  overloaded: { status: 503, detail: 'Too many passwords are being checked at once: try again in a moment.' },
  unavailable: { status: 503, detail: 'Something this needs cannot be reached: try again in a moment.' },
}

/** What a problem of some codes has besides the usual, for the document. */
export const exampleMembers: Partial<Record<OutcomeCode, Record<string, unknown>>> = {
  mfa_required: {
    mfa_token: 'kPX2iuGx9nCdkQAeT3ULqyzUKwXnDFGWfHOHJ8M7xgo',
    methods: ['totp', 'recovery_code'],
  },
}

/** Who reads the answer: whoever asked, or a proxy, which passes it on to a client of its own. */
export type Reader = 'client' | 'proxy'

/** @param url of a route, or of a request that has none */
export const readerOf = (url: string): Reader => (/^\/forward-auth(?![^/?#])/.test(url) ? 'proxy' : 'client')

/**
 * A proxy that asks passes on 401 and 403, and 503 if it was told how; nginx takes anything else for a fault of its own and
 * answers 500. So to a proxy a client's fault is 401 if other credentials mend it, else 403; and what time mends is 503. That
 * is also what a used up budget of forgeries is: for all that is known the token is a good one, and 401 would log people out.
 */
export function statusOf(code: OutcomeCode, reader: Reader): number {
  const { status } = presentations[code]
  if (reader === 'client' || status === 401) return status
  if (code === 'malformed_authorization') return 401
  return status === 429 || status >= 500 ? 503 : 403
}

export const Problem = Type.Object(
  {
    type: Type.Literal('about:blank'),
    title: Type.String({ description: 'The name of the status.' }),
    status: Type.Integer(),
    detail: Type.String({ description: 'For people. Its wording may change.' }),
    code: Type.Unsafe<OutcomeCode>(
      Type.String({ enum: Object.keys(presentations), description: 'For programs: decide by this one.' }),
    ),
    request_id: Type.String({ description: 'What the log knows this request by.' }),
    mfa_token: Type.Optional(
      Type.String({ description: 'Of a `mfa_required` of POST /login: what POST /login/mfa takes.' }),
    ),
    methods: Type.Optional(
      Type.Array(Type.String({ enum: ['totp', 'recovery_code', 'mail'] }), {
        description: 'Of any `mfa_required`: whose code will do.',
      }),
    ),
  },
  { description: 'A failure (RFC 9457).' },
)

export function problemOf(
  { code, detail, members }: Outcome,
  requestId: string,
  reader: Reader = 'client',
): Static<typeof Problem> {
  const { detail: usual } = presentations[code]
  const status = statusOf(code, reader)
  return {
    type: 'about:blank',
    title: STATUS_CODES[status] as string,
    status,
    detail: detail ?? usual,
    code,
    request_id: requestId,
    ...members,
  }
}

export function problemHeadersOf(outcome: Outcome, reader: Reader = 'client'): Record<string, string> {
  const { code } = outcome
  return refusalHeaders(statusOf(code, reader), presentations[code].challenge, outcome)
}
