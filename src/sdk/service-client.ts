/** What a verifier asks the service for, as the client that it is. */
export interface ServiceClient {
  /** An access token with this scope. @throws NotLetIn, and Error where the service does not answer */
  getToken(scope: string, signal: AbortSignal): Promise<string>
  /** Whether a token is active. @throws Error where the service does not say */
  introspect(token: string): Promise<boolean>
}

/** The service does not take this client, or its scope: no waiting mends that. */
export class NotLetIn extends Error {}

export interface ServiceClientOptions {
  /** The URL of a path. */
  at(path: string): string
  clientId: string
  clientSecret: string
  deadlineMs: number
}

export function createServiceClient({
  at,
  clientId,
  clientSecret,
  deadlineMs,
}: ServiceClientOptions): ServiceClient {
  // RFC 6749 §2.3.1: form-encoded before they are Basic.
  const credentials = [clientId, clientSecret].map(encodeURIComponent).join(':')
  const authorization = `Basic ${Buffer.from(credentials).toString('base64')}`

  async function ask(
    path: string,
    form: Record<string, string>,
    signal?: AbortSignal,
  ): Promise<Record<string, unknown>> {
    const deadline = AbortSignal.timeout(deadlineMs)
    const response = await fetch(at(path), {
      method: 'POST',
      headers: { authorization },
      body: new URLSearchParams(form),
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    })
    if (response.status !== 200) {
      const SomeError = [400, 401, 403].includes(response.status) ? NotLetIn : Error
      throw new SomeError(`${path} answered ${response.status} ${await response.text()}`)
    }
    return (await response.json()) as Record<string, unknown>
  }

  return {
    async getToken(scope, signal) {
      const { access_token } = await ask('/oauth2/token', { grant_type: 'client_credentials', scope }, signal)
      return access_token as string
    },
    introspect: async (token) => (await ask('/oauth2/introspect', { token })).active === true,
  }
}
