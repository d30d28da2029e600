/**
 * The OpenAPI document. A route says what is its own: its words, its schemas, and by which codes it can fail. What follows from
 * that, or holds for many routes, is added here by rule, so that nothing is said twice.
 */
import { createRequire } from 'node:module'
import swagger from '@fastify/swagger'
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { Check } from 'typebox/value'
import type { Config } from '../config.ts'
import type { OutcomeCode } from '../outcomes.ts'
import { readerOf } from './problem-details.ts'
import { createProblemResponses } from './problem-responses.ts'

export interface RouteDescription {
  /** As in OpenAPI: any one of these is enough, and `{}` is nobody in particular. */
  security?: FastifySchema['security']
  failures?: readonly OutcomeCode[]
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Says this of every route of the scope it is called on. Whoever puts a guard on a scope says there what it demands. */
    describeRoutes(this: FastifyInstance, description: RouteDescription): void
  }
  interface FastifyContextConfig {
    /** By which codes this route can fail, besides those of its scope and those that any route has. */
    failures?: readonly OutcomeCode[]
  }
}

const failuresOfAll: OutcomeCode[] = ['invalid_request', 'internal_error']
/** Of all that may bring a body, whether or not they look at it. */
const failuresOfBodies: OutcomeCode[] = ['payload_too_large', 'unsupported_media_type']

const description = `\
Issues short-lived access tokens, and can take them back.

Every failure is an \`application/problem+json\` (RFC 9457): decide by its \`code\`. Each operation lists its own.
What is no request to any of them is refused in the same form, by 404 \`not_found\`, 405 \`method_not_allowed\`,
408 \`request_timeout\`, 417 \`expectation_failed\` or 431 \`headers_too_large\`.
`

const tags = [
  { name: 'Accounts', description: 'Who somebody is.' },
  { name: 'Sessions', description: 'How long somebody stays.' },
  { name: 'Administration', description: 'For admins.' },
  { name: 'Tokens', description: 'What an access token is good for, and how others validate it.' },
  { name: 'OAuth', description: 'For services, by the standards.' },
  { name: 'Health', description: 'For whoever watches over the service.' },
]

const securitySchemes = {
  bearerAuth: {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT',
    description: 'An `access_token` of a login.',
  },
  basicAuth: { type: 'http', scheme: 'basic', description: 'Username and password, in UTF-8 (RFC 7617).' },
  sessionCookie: {
    type: 'apiKey',
    in: 'cookie',
    name: '__Host-latchkey',
    description:
      'A refresh token that a browser keeps. Without https, which is for development, its name is `latchkey`.',
  },
  clientBasic: {
    type: 'http',
    scheme: 'basic',
    description: '`client_id` and `client_secret` (RFC 6749 §2.3.1).',
  },
} as const

export interface OpenapiOptions {
  config: Pick<Config, 'issuer'>
}

export default fp(
  async function openapi(app: FastifyInstance, { config }: OpenapiOptions) {
    const { version, license } = createRequire(import.meta.url)('../../package.json')

    app.decorate('describeRoutes', function ({ security, failures = [] }) {
      this.addHook('onRoute', (route) => {
        if (security) route.schema = { ...route.schema, security }
        route.config = { ...route.config, failures: [...failures, ...(route.config?.failures ?? [])] }
      })
    })

    const { responsesOf, components } = createProblemResponses()
    const routes = new Map<string | undefined, RouteOptions>()

    await app.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: { title: 'latchkey', version, license: { name: license, identifier: license }, description },
        servers: [{ url: config.issuer }],
        tags,
        components: { securitySchemes },
      },
      // The issuer may have a path; routes do not.
      stripBasePath: false,
      convertConstToEnum: false,
      transform({ schema = {}, url, route }) {
        routes.set(schema.operationId, route)
        return { schema: hoist({ security: [], ...schema }, components.schemas), url }
      },
      transformObject(document) {
        const { paths, components: given, ...head } = (document as { openapiObject: Document }).openapiObject
        for (const operation of Object.values(paths).flatMap((path) => Object.values(path))) {
          const route = routes.get(operation.operationId) as RouteOptions
          Object.assign(operation.responses, responsesOf(failuresOf(route), formOf(route)))
          if (operation.requestBody) operation.requestBody.required = !mayHaveNoBody(route.schema)
        }
        return { ...head, paths, components: { ...given, ...components } }
      },
    })
  },
  { name: 'openapi' },
)

interface Document {
  components: object
  paths: Record<string, Record<string, Operation>>
}

interface Operation {
  operationId: string
  requestBody?: { required: boolean }
  responses: object
}

/**
 * Moves every schema that has a name to the components, however deep it stands, and leaves a reference behind: with its
 * description, which is also that of a response.
 */
function hoist<T extends object>(schema: T, components: Record<string, object>): T {
  return JSON.parse(JSON.stringify(schema), (_key, value) => {
    if (typeof value?.$id !== 'string') return value
    const { $id, ...named } = value
    components[$id] = named
    return { $ref: `#/components/schemas/${$id}`, description: named.description }
  })
}

function failuresOf({ method, config }: RouteOptions): Set<OutcomeCode> {
  const ofBody = method === 'GET' ? [] : failuresOfBodies
  return new Set([...failuresOfAll, ...ofBody, ...(config?.failures ?? [])])
}

/** In which form a route fails. */
const formOf = ({ url, config }: RouteOptions) =>
  config?.failsAs ?? (readerOf(url) === 'proxy' ? 'proxy' : 'problem')

/** One that may be null may be missing, and so may one that Basic credentials stand in for. */
const mayHaveNoBody = ({ body, security }: FastifySchema = {}): boolean =>
  Check(body as object, null) || security?.some((demand) => 'basicAuth' in demand) === true
