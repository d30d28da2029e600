/** An answer of the Bearer table, in one piece: what a guard throws, and what its client is sent. */
import { STATUS_CODES } from 'node:http'
import { type RefusalCode, refusalHeaders, refusals } from '../bearer/refusals.ts'

export class Refused extends Error {
  override readonly name = 'Refused'
  readonly code: RefusalCode
  readonly statusCode: number
  readonly headers: Record<string, string>

  /** @param acr that is demanded, where it is that which is lacking */
  constructor(code: RefusalCode, { cause, acr }: { cause?: unknown; acr?: string | undefined } = {}) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(refusals[code].detail, { cause })
    Error.stackTraceLimit = stackTraceLimit
    const { status, ...rest } = refusals[code]
    this.code = code
    this.statusCode = status
    this.headers = refusalHeaders(status, 'challenge' in rest ? rest.challenge : undefined, { acr })
  }

  /** The body of the answer, `application/problem+json` (RFC 9457). */
  get problem() {
    const { code, statusCode: status, message: detail } = this
    return { type: 'about:blank', title: STATUS_CODES[status] as string, status, detail, code }
  }
}
