/** HTTP Basic (RFC 7617) as another way to write the body of a login: credentials in the header become that body. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { ambiguous, authorizationOf } from '../bearer/authorization-header.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** For preValidation. */
    acceptBasicCredentials(request: FastifyRequest): Promise<void>
  }
}

export default fp(
  async function basicCredentials(app: FastifyInstance) {
    app.decorate('acceptBasicCredentials', async (request: FastifyRequest) => {
      const authorization = authorizationOf(request.raw.rawHeaders)
      if (authorization === ambiguous) throw malformed('Send one Authorization header.')
      const credentials = parseBasicCredentials(authorization ?? '')
      if (!credentials) return
      if (request.body !== undefined)
        throw malformed('Send credentials in the header or in the body, not in both.')
      request.body = credentials
    })
  },
  { name: 'basic-credentials' },
)

interface Credentials {
  username: string
  password: string
}

/**
 * @param authorization the value of the header
 * @returns undefined for another scheme
 * @throws Outcome `invalid_request`
 */
export function parseBasicCredentials(authorization: string): Credentials | undefined {
  const [scheme, credentials, ...more] = authorization.split(/ +/)
  if (scheme?.toLowerCase() !== 'basic') return undefined
  if (credentials === undefined || more.length > 0) throw malformed()
  return parse(credentials)
}

function parse(credentials: string): Credentials {
  const bytes = Buffer.from(credentials, 'base64')
  // Node skips what is not base64; a header that was mangled on its way must not become another password.
  if (bytes.toString('base64').replace(/=+$/, '') !== credentials.replace(/=+$/, '')) throw malformed()
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw malformed()
  }
  const colon = text.indexOf(':')
  if (colon < 0 || text.includes('\0')) throw malformed()
  return { username: text.slice(0, colon), password: text.slice(colon + 1) }
}

const malformed = (detail = 'Basic credentials are base64 of username:password in UTF-8.') =>
  new Outcome('invalid_request', { detail })
