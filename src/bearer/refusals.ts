/** How whoever guards a route says no: the Bearer table of the README. What each means for the client stands there too. */
import { bearerChallenge, type ChallengeError } from './challenge.ts'

interface Refusal {
  status: number
  detail: string
  /** The `error` of its challenge, where one is sent that has one. */
  challenge?: ChallengeError
}

export const refusals = {
  missing_token: { status: 401, detail: 'This needs an access token: Authorization: Bearer <token>.' },
  malformed_authorization: {
    status: 400,
    detail: 'Send one Authorization header with one token: Bearer <token>.',
    challenge: 'invalid_request',
  },
  token_invalid: { status: 401, detail: 'This access token is not valid here.', challenge: 'invalid_token' },
  token_expired: {
    status: 401,
    detail: 'This access token has expired: refresh it.',
    challenge: 'invalid_token',
  },
  token_revoked: {
    status: 401,
    detail: 'This access token has been revoked: try one refresh, then log in again.',
    challenge: 'invalid_token',
  },
  reauthentication_required: {
    status: 401,
    detail: 'This needs a recent login: prove who you are once more, by POST /reauthenticate.',
    challenge: 'insufficient_user_authentication',
  },
  forbidden: {
    status: 403,
    detail: 'This access token is not of somebody who may do that.',
    challenge: 'insufficient_scope',
  },
  revocation_unknown: {
    status: 503,
    detail: 'Whether this token has been revoked cannot be determined now: try again in a moment.',
  },
} as const satisfies Record<string, Refusal>

export type RefusalCode = keyof typeof refusals

interface RefusalDetails {
  /** When it is worth another try. */
  retryAfterSeconds?: number | undefined
  maxAgeSeconds?: number | undefined
  acr?: string | undefined
}

/** What goes with a status: why credentials were refused (RFC 6750 §3), or when it is worth another try. */
export function refusalHeaders(
  status: number,
  challenge: ChallengeError | undefined,
  { retryAfterSeconds = 1, ...proof }: RefusalDetails = {},
): Record<string, string> {
  return {
    ...((status === 401 || challenge) && { 'WWW-Authenticate': bearerChallenge(challenge, proof) }),
    ...((status === 503 || status === 429) && { 'Retry-After': String(retryAfterSeconds) }),
  }
}
