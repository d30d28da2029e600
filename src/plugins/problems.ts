/**
 * The one place where failures become replies: whatever is thrown, wherever, leaves as `application/problem+json`
 * (RFC 9457) with a code of the closed list. Nobody else builds an error reply.
 */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { bearerChallenge, type ChallengeError } from '../bearer/challenge.ts'
import { databaseError, isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome, type OutcomeCode } from '../outcomes.ts'

interface Presentation {
  status: number
  detail: string
  challenge?: ChallengeError
}

const presentations: Record<OutcomeCode, Presentation> = {
  invalid_request: { status: 400, detail: 'The request is not as it should be.' },
  malformed_authorization: {
    status: 400,
    detail: 'Send one Authorization header with one token: Bearer <token>.',
    challenge: 'invalid_request',
  },
  invalid_credentials: { status: 401, detail: 'No account has this username and this password.' },
  missing_token: { status: 401, detail: 'This needs an access token: Authorization: Bearer <token>.' },
  token_invalid: { status: 401, detail: 'This access token is not valid here.', challenge: 'invalid_token' },
  token_expired: {
    status: 401,
    detail: 'This access token has expired: refresh it.',
    challenge: 'invalid_token',
  },
  token_revoked: {
    status: 401,
    detail: 'This access token was taken back: try one refresh, then log in again.',
    challenge: 'invalid_token',
  },
  not_found: { status: 404, detail: 'There is nothing here.' },
  method_not_allowed: {
    status: 405,
    detail: 'This resource does not have that method; Allow names those it has.',
  },
  request_timeout: { status: 408, detail: 'The request did not arrive in time.' },
  username_taken: { status: 409, detail: 'Somebody has this username already.' },
  payload_too_large: { status: 413, detail: 'A body has at most 16 kB.' },
  unsupported_media_type: { status: 415, detail: 'Bodies are sent as application/json.' },
  expectation_failed: { status: 417, detail: 'The only expectation met here is 100-continue.' },
  weak_password: { status: 422, detail: 'This password is too easy to guess.' },
  headers_too_large: { status: 431, detail: 'The headers together have at most 16 kB.' },
  internal_error: { status: 500, detail: 'Something went wrong here. The log knows more, by request_id.' },
  overloaded: { status: 503, detail: 'Too many people are logging in at once: try again in a moment.' },
  unavailable: { status: 503, detail: 'Something this needs cannot be reached: try again in a moment.' },
  revocation_unknown: {
    status: 503,
    detail: 'Whether this token was taken back cannot be told now: try again in a moment.',
  },
}

const mediaType = 'application/problem+json'
const retryAfterSeconds = 1

/** What Fastify and Node call their own failures. Any other 4xx of theirs is an invalid request. */
const foreignCodes: Record<string, OutcomeCode> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}

export interface ProblemsOptions {
  nextRequestId(): string
}

export default fp(
  async function problems(app: FastifyInstance, { nextRequestId }: ProblemsOptions) {
    app.setErrorHandler(replyWithProblem)
    app.setNotFoundHandler(() => {
      throw new Outcome('not_found')
    })
    // Node answers an unknown expectation by itself, in no format at all.
    app.server.on('checkExpectation', (_request, response) => {
      const { status, headers, body } = bareReply(new Outcome('expectation_failed'), nextRequestId())
      response.writeHead(status, headers).end(body)
    })
  },
  { name: 'problems' },
)

/** For Fastify, which also calls it where it fails before there is a route. */
export function replyWithProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const outcome = outcomeOf(error)
  const { status, challenge } = presentations[outcome.code]
  const { code, reason } = outcome
  if (status >= 500)
    request.log.error({ code, reason, err: databaseError(outcome.cause ?? error) }, 'request failed')
  else
    request.log.info(
      { code, reason, status, method: request.method, route: request.routeOptions.url },
      'request refused',
    )

  if (status === 401 || challenge) reply.header('www-authenticate', bearerChallenge(challenge))
  if (status === 503) reply.header('retry-after', String(retryAfterSeconds))
  reply.code(status).type(mediaType).header('cache-control', 'no-store').send(problemOf(outcome, request.id))
}

/** For Node, where what came is not a request: it has a socket, and Fastify knows nothing of it. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket, requestId: string): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return
  const outcome = new Outcome(foreignCodes[error.code ?? ''] ?? 'invalid_request')
  const { status, headers, body } = bareReply(outcome, requestId)
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
  socket.end([`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, ...lines, '', body].join('\r\n'))
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof Outcome) return error
  if (isDatabaseUnavailable(error)) return new Outcome('unavailable', { cause: error })
  const { code, validation, statusCode = 500, message } = error as Partial<FastifyError>
  if (validation) return new Outcome('invalid_request', { detail: `${message}.` })
  const known = foreignCodes[code ?? '']
  if (known) return new Outcome(known)
  if (statusCode >= 400 && statusCode < 500)
    return new Outcome('invalid_request', { reason: code ?? 'client error' })
  return new Outcome('internal_error', { cause: error })
}

function problemOf({ code, detail }: Outcome, requestId: string): string {
  const { status, detail: usual } = presentations[code]
  return JSON.stringify({
    type: 'about:blank',
    title: STATUS_CODES[status],
    status,
    detail: detail ?? usual,
    code,
    request_id: requestId,
  })
}

function bareReply(outcome: Outcome, requestId: string) {
  const body = problemOf(outcome, requestId)
  const headers = {
    'Content-Type': mediaType,
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
  }
  return { status: presentations[outcome.code].status, headers, body }
}
