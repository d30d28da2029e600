/** How each outcome looks below /oauth2 (RFC 6749 §5.2): its error, and the words that problem details have for it. */
import { type Static, Type } from 'typebox'
import type { Outcome, OutcomeCode } from '../outcomes.ts'
import { presentations, problemHeadersOf } from './problem-details.ts'

/** The others are `invalid_request`. */
const errors: Partial<Record<OutcomeCode, string>> = {
  invalid_client: 'invalid_client',
  invalid_scope: 'invalid_scope',
  unsupported_grant_type: 'unsupported_grant_type',
  refresh_token_invalid: 'invalid_grant',
  refresh_token_reused: 'invalid_grant',
  forbidden: 'insufficient_scope',
  rate_limited: 'temporarily_unavailable',
  unavailable: 'temporarily_unavailable',
  revocation_unknown: 'temporarily_unavailable',
  internal_error: 'server_error',
}

const descriptions: Partial<Record<OutcomeCode, string>> = {
  forbidden: 'This client may not do that.',
  invalid_request: 'A parameter is missing, is sent twice or in two ways, or is malformed.',
  payload_too_large: 'A form may be at most 16 kB.',
  unsupported_media_type: 'Parameters are sent as application/x-www-form-urlencoded.',
}

export const OauthError = Type.Object(
  {
    error: Type.String({ enum: ['invalid_request', ...new Set(Object.values(errors))] }),
    error_description: Type.String({ description: 'For people. Its wording may change.' }),
  },
  { description: 'A failure (RFC 6749 §5.2).' },
)

export const oauthErrorOf = ({ code }: Outcome): Static<typeof OauthError> => ({
  error: errors[code] ?? 'invalid_request',
  error_description: descriptions[code] ?? presentations[code].detail,
})

/** A grant that is not (any more) is a 400; all else has the status that it has everywhere. */
export const oauthStatusOf = ({ code }: Pick<Outcome, 'code'>): number =>
  errors[code] === 'invalid_grant' ? 400 : presentations[code].status

export function oauthErrorHeadersOf(outcome: Outcome): Record<string, string> {
  const { 'WWW-Authenticate': _bearer, ...headers } = problemHeadersOf(outcome)
  return {
    ...headers,
    ...(oauthStatusOf(outcome) === 401 && {
      'WWW-Authenticate': 'Basic realm="latchkey", charset="UTF-8"',
    }),
  }
}
