/** Services that ask for themselves: their accounts, and how a request says which one it comes from. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { ambiguous, authorizationOf } from '../bearer/authorization-header.ts'
import { type Client, type Clients, createClients } from '../clients/clients.ts'
import { createGrants, type Grants } from '../clients/grants.ts'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'
import { parseBasicCredentials } from './basic-credentials.ts'

declare module 'fastify' {
  interface FastifyInstance {
    clients: Clients & Grants
    /**
     * For preHandler: who asks, by `client_secret_basic` or `client_secret_post` (RFC 6749 §2.3.1).
     *
     * @throws Outcome `invalid_client`, or `invalid_request` for what is said twice
     */
    authenticateClient(request: FastifyRequest): Promise<void>
    /** The same, and what it must be allowed. @throws Outcome `forbidden` too */
    demandClient(scope: string): (request: FastifyRequest) => Promise<void>
  }
  interface FastifyRequest {
    /** Behind either of them. */
    client: Client
  }
}

export interface ClientsOptions {
  config: Pick<Config, 'clientSecretOverlapSeconds'>
}

/** The fields of a form by which a client may say who it is. */
interface Identification {
  client_id?: string
  client_secret?: string
}

export default fp(
  async function clients(app: FastifyInstance, { config }: ClientsOptions) {
    const { clock, audit, accessTokens } = app
    const { db } = app.database
    const { revoke } = app.revocation
    const overlapSeconds = config.clientSecretOverlapSeconds
    const accounts = createClients({ db, clock, audit, revoke, overlapSeconds })
    app.decorate('clients', { ...accounts, ...createGrants({ clock, audit, revoke, accessTokens }) })
    app.decorateRequest('client')

    app.decorate('authenticateClient', async (request) => {
      const { id, secret } = identify(request)
      request.client = await accounts.authenticate(id, secret)
    })
    app.decorate('demandClient', (scope) => async (request) => {
      await app.authenticateClient(request)
      if (!request.client.scopes.includes(scope)) throw new Outcome('forbidden')
    })
  },
  { name: 'clients', dependencies: ['clock', 'audit', 'database', 'revocation', 'tokens'] },
)

function identify({ raw, body }: FastifyRequest): { id: string; secret: string } {
  const { client_id, client_secret } = (body ?? {}) as Identification
  const authorization = authorizationOf(raw.rawHeaders)
  if (authorization === ambiguous) throw new Outcome('invalid_request')
  const credentials = authorization === undefined ? undefined : parseBasicCredentials(authorization)
  if (!credentials) {
    if (client_id === undefined || client_secret === undefined) throw new Outcome('invalid_client')
    return { id: client_id, secret: client_secret }
  }
  const [id, secret] = [decode(credentials.username), decode(credentials.password)]
  // RFC 6749 §2.3: one way in each request. The id may be repeated, if it is the same.
  if (client_secret !== undefined || (client_id !== undefined && client_id !== id))
    throw new Outcome('invalid_request')
  return { id, secret }
}

/** Both are form-encoded before they are Basic. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    throw new Outcome('invalid_request')
  }
}
