/**
 * The whole service, in load order. Everything below is registered once, here; which routes need a token can be seen by
 * where they stand.
 */
import { randomUUID } from 'node:crypto'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'
import type { Config } from './config.ts'
import accounts from './plugins/accounts.ts'
import audit from './plugins/audit.ts'
import authentication from './plugins/authentication.ts'
import authorization from './plugins/authorization.ts'
import basicCredentials from './plugins/basic-credentials.ts'
import clients from './plugins/clients.ts'
import clock, { type ClockOptions } from './plugins/clock.ts'
import closing from './plugins/closing.ts'
import cors from './plugins/cors.ts'
import database from './plugins/database.ts'
import jsonBody from './plugins/json-body.ts'
import limits from './plugins/limits.ts'
import { createLog, explainStart, type LogOptions } from './plugins/log.ts'
import mail from './plugins/mail.ts'
import methodNotAllowed from './plugins/method-not-allowed.ts'
import metrics from './plugins/metrics.ts'
import oauth from './plugins/oauth.ts'
import openapi from './plugins/openapi.ts'
import problems, { answerClientError, replyWithProblem } from './plugins/problems.ts'
import purge from './plugins/purge.ts'
import redis from './plugins/redis.ts'
import revocation from './plugins/revocation.ts'
import revocationFeed, { feedScope } from './plugins/revocation-feed.ts'
import sessionCookie, { type SessionCookieOptions } from './plugins/session-cookie.ts'
import sessions from './plugins/sessions.ts'
import tokenInspection from './plugins/token-inspection.ts'
import tokenStatus from './plugins/token-status.ts'
import tokens from './plugins/tokens.ts'
import { adminAuditRoute } from './routes/admin-audit.ts'
import { adminClientsRoutes } from './routes/admin-clients.ts'
import { adminKeysRoutes } from './routes/admin-keys.ts'
import { adminUsersRoutes } from './routes/admin-users.ts'
import { docsRoutes } from './routes/docs.ts'
import { forwardAuthRoutes, forwardAuthScopeRoute } from './routes/forward-auth.ts'
import { healthRoutes } from './routes/health.ts'
import { jwksRoute } from './routes/jwks.ts'
import { loginRoute } from './routes/login.ts'
import { logoutRoute } from './routes/logout.ts'
import { meRoute } from './routes/me.ts'
import { metadataRoute } from './routes/metadata.ts'
import { mfaRoutes } from './routes/mfa.ts'
import { myEmailRoute } from './routes/my-email.ts'
import { myPasswordRoute } from './routes/my-password.ts'
import { oauthIntrospectRoute, oauthRevokeRoute, oauthTokenRoute } from './routes/oauth.ts'
import { protectedRoute } from './routes/protected.ts'
import { reauthenticateRoute } from './routes/reauthenticate.ts'
import { recoveryRoutes } from './routes/recovery.ts'
import { refreshRoute } from './routes/refresh.ts'
import { registerRoute } from './routes/register.ts'
import { revocationsRoute } from './routes/revocations.ts'
import { sessionsRoutes } from './routes/sessions.ts'

export interface AppOptions {
  /** For tests: a clock that can be moved, and a place for the log. */
  clock?: ClockOptions['clock']
  logTo?: LogOptions['logTo']
}

/** @throws Error with one clear line if a store that is needed cannot be used */
export async function buildApp(config: Config, options: AppOptions = {}): Promise<FastifyInstance> {
  const app = Fastify({
    genReqId: createRequestIds(),
    bodyLimit: 16_384,
    // A first start writes a whole database, and waits for the locks of others that start with it.
    pluginTimeout: 0,
    requestTimeout: 10_000,
    trustProxy: config.trustProxy.length > 0 && config.trustProxy,
    http: {
      // plugins/problems refuses it in our own words.
      requireHostHeader: false,
      maxHeaderSize: 16_384,
      headersTimeout: 5_000,
      connectionsCheckingInterval: 1_000,
    },
    // While closing, what still comes on an open connection is answered as ever.
    return503OnClosing: false,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
    frameworkErrors: replyWithProblem,
    clientErrorHandler: answerClientError,
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.log = createLog({ level: config.logLevel, logTo: options.logTo })

  try {
    await app.register(problems)
    await app.register(closing)
    await app.register(methodNotAllowed)
    await app.register(openapi, { config })
    await app.register(cors, { config })
    await app.register(oauth)
    await app.register(jsonBody)
    await app.register(basicCredentials)

    await app.register(clock, { clock: options.clock })
    await app.register(metrics, { config })
    await app.register(database, { config })
    await app.register(audit)
    await app.register(redis, { config })
    await app.register(limits, { config })
    await app.register(revocation, { config })
    await app.register(tokens, { config })
    await app.register(clients, { config })
    await app.register(sessions, { config })
    await app.register(mail, { config })
    await app.register(accounts, { config })
    await app.register(purge, { config })
    await app.register(tokenInspection, { config })
    await app.register(authentication, { config })
    await app.register(authorization, { config })
    await app.register(tokenStatus, { config })
    await app.register(revocationFeed, { config })

    await app.register(healthRoutes)
    await app.register(jwksRoute, { maxAgeSeconds: config.jwksMaxAgeSeconds })
    await app.register(metadataRoute, { issuer: config.issuer, maxAgeSeconds: config.jwksMaxAgeSeconds })
    await app.register(limited, { config })
    await app.register(services, { publicClientId: config.firstPartyClientId })
    await app.register(guarded)
    await app.register(granted)
    await app.register(administration)
    await app.register(docsRoutes)
    app.refuseOtherMethods()
    await app.ready()
    return app
  } catch (error) {
    await app.close()
    throw new Error(explainStart(error), { cause: error })
  }
}

/** Ids that no other process gives, at less than a UUID costs each time. */
function createRequestIds(): () => string {
  const ours = randomUUID().slice(-12)
  let count = 0
  return () => `${ours}-${(++count).toString(36)}`
}

/** Whoever has no token yet, or an old one, is counted, and whoever shows a password or a code once more. */
const limited: FastifyPluginAsync<SessionCookieOptions> = async (scope, { config }) => {
  await scope.register(sessionCookie, { config })
  scope.limitByAddress()
  await scope.register(registerRoute)
  await scope.register(loginRoute)
  await scope.register(refreshRoute)
  await scope.register(logoutRoute)
  await scope.register(recoveryRoutes)
  await scope.register(async (known) => {
    known.demandAccessToken()
    await known.register(reauthenticateRoute)
    await known.register(myPasswordRoute)
    await known.register(myEmailRoute)
    await known.register(mfaRoutes)
  })
}

/** OAuth 2. Whoever asks for a token is counted; who asks about one has proved to be a service. */
const services: FastifyPluginAsync<{ publicClientId: string }> = async (scope, options) => {
  scope.speakOauth()
  await scope.register(oauthIntrospectRoute)
  await scope.register(oauthRevokeRoute)
  await scope.register(async (counted) => {
    counted.limitByAddress()
    await counted.register(oauthTokenRoute, options)
  })
}

/** Every route in here needs a live access token. */
const guarded: FastifyPluginAsync = async (scope) => {
  scope.demandAccessToken()
  await scope.register(protectedRoute)
  await scope.register(meRoute)
  await scope.register(sessionsRoutes)
  await scope.register(forwardAuthRoutes)
}

/** Or one, whosever it is, that was granted what the route is for. */
const granted: FastifyPluginAsync = async (scope) => {
  await scope.register(forwardAuthScopeRoute)
  await scope.register(async (feed) => {
    feed.demandScope(feedScope)
    await feed.register(revocationsRoute)
  })
}

/** And in here, one of an admin. */
const administration: FastifyPluginAsync = async (scope) => {
  scope.demandAccessToken()
  scope.demandRoles({ allOf: ['admin'] })
  await scope.register(adminUsersRoutes)
  await scope.register(adminKeysRoutes)
  await scope.register(adminClientsRoutes)
  await scope.register(adminAuditRoute)
}
