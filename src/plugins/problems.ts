/**
 * The one place where failures become replies: whatever is thrown, wherever, leaves as `application/problem+json`
 * (RFC 9457) with a code of the closed list. Nobody else builds an error reply.
 */
import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome, type OutcomeCode } from '../outcomes.ts'
import {
  problemHeadersOf,
  problemMediaType,
  problemOf,
  type Reader,
  readerOf,
  statusOf,
} from './problem-details.ts'

/** What Fastify and Node call their own failures. Any other 4xx of theirs is an invalid request. */
const foreignCodes: Record<string, OutcomeCode> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}

export default fp(
  async function problems(app: FastifyInstance) {
    app.setErrorHandler(replyWithProblem)
    app.setNotFoundHandler(() => {
      throw new Outcome('not_found')
    })
    // What Node answers by itself, in no format at all: no host (RFC 9112 §3.2), a tunnel, an unknown expectation.
    app.addHook('onRequest', ({ raw }, _reply, done) => {
      if (raw.headers.host === undefined && raw.httpVersion !== '1.0') done(new Outcome('invalid_request'))
      else done()
    })
    // Node drops what comes behind the 2,000th header, and with it a second Authorization.
    app.server.maxHeadersCount = 0
    app.server.on('connect', (_request, socket) => answerClientError(new Error('CONNECT'), socket as Socket))
    app.server.on('checkExpectation', ({ url = '' }, response) => {
      const { status, headers, body } = bareReply(new Outcome('expectation_failed'), readerOf(url))
      response.writeHead(status, headers).end(body)
    })
  },
  { name: 'problems' },
)

/** For Fastify, which also calls it where it fails before there is a route. */
export function replyWithProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const reader = readerOf(request.routeOptions.url ?? request.url)
  const outcome = reportOutcome(error, request, ({ code }) => statusOf(code, reader))
  reply
    .code(statusOf(outcome.code, reader))
    .headers(problemHeadersOf(outcome, reader))
    .type(problemMediaType)
    .header('cache-control', 'no-store')
    .send(JSON.stringify(problemOf(outcome, request.id, reader)))
}

/** Logs how a request failed. @returns the outcome that an error is */
export function reportOutcome(
  error: unknown,
  { id: reqId, method, routeOptions, server }: FastifyRequest,
  toStatus: (outcome: Outcome) => number,
): Outcome {
  const outcome = outcomeOf(error)
  const { code, reason } = outcome
  const status = toStatus(outcome)
  const refusal = { reqId, code, reason, status, method, route: routeOptions.url }
  if (status >= 500) server.log.error({ ...refusal, err: outcome.cause ?? error }, 'request failed')
  else server.log.info(refusal, 'request refused')
  return outcome
}

/** For Node, where what came is not a request: it has a socket, and Fastify knows nothing of it. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return
  const outcome = new Outcome(foreignCodes[error.code ?? ''] ?? 'invalid_request')
  const { status, headers, body } = bareReply(outcome)
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
  socket.write([`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, ...lines, '', body].join('\r\n'))
  // Ending it would wait for the other side to do the same.
  socket.destroySoon()
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof Outcome) return error
  const { code, validation, statusCode = 500, message } = error as Partial<FastifyError>
  if (validation) return new Outcome('invalid_request', { detail: `${message}.` })
  const known = foreignCodes[code ?? '']
  if (known) return new Outcome(known)
  if (statusCode >= 400 && statusCode < 500)
    return new Outcome('invalid_request', { reason: code ?? 'client error' })
  // After the client's faults: a client that hangs up is an ECONNRESET too.
  if (isDatabaseUnavailable(error)) return new Outcome('unavailable', { cause: error })
  return new Outcome('internal_error', { cause: error })
}

function bareReply(outcome: Outcome, reader: Reader = 'client') {
  const body = JSON.stringify(problemOf(outcome, randomUUID(), reader))
  const headers = {
    'Content-Type': problemMediaType,
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
  }
  return { status: statusOf(outcome.code, reader), headers, body }
}
