/** The guard of every route that needs an access token: routes registered inside its scope are guarded. */
import { promisify } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { authorizationOf, presentedToken } from '../bearer/authorization-header.ts'
import {
  type AccessToken,
  hasScope,
  isExpired,
  isFromTheFuture,
  isOfPerson,
  type PersonClaims,
} from '../bearer/claims.ts'
import type { Config } from '../config.ts'
import { inSeconds } from '../db/clock.ts'
import { Outcome, type OutcomeCode } from '../outcomes.ts'
import type { InspectedToken } from './token-inspection.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Guards every route of the scope it is called on: lets through live tokens of people only, by the Bearer table of the README. */
    demandAccessToken(this: FastifyInstance): void
    /** The same for one request, where it depends on the request. */
    authenticate(request: FastifyRequest): Promise<void>
    /** Lets through whoever's live token was granted this scope, or the one of the request. @throws Outcome as demandAccessToken */
    demandScope(this: FastifyInstance, scope: string | ScopeOf): void
    /** The same for one request. */
    authenticateForScope(request: FastifyRequest, scope: string): Promise<void>
    /**
     * For a token that somebody who is known asks about: whether it is live, whosever it is.
     *
     * @throws Outcome as a guard would
     */
    examineToken(request: FastifyRequest, token: string): Promise<AccessToken>
    /** For what ends a session: a token that was ours is enough, expired or revoked. */
    recognise(request: FastifyRequest): Promise<void>
  }
  interface FastifyRequest {
    /** Behind a guard: the token that was let through. */
    accessToken: AccessToken<PersonClaims>
    /** Behind one that demands a scope, whosever it is. */
    scopedToken: AccessToken
  }
}

type ScopeOf = (request: FastifyRequest) => string
type Done = (refusal?: Error) => void
/** Says what is against a token that is live, or hands it on. */
type Admit = (request: FastifyRequest, token: InspectedToken) => Outcome | undefined

const tooEarly = () => new Outcome('token_invalid', { reason: 'issued in the future' })

const refusals: OutcomeCode[] = [
  'malformed_authorization',
  'missing_token',
  'token_invalid',
  'token_expired',
  'token_revoked',
  'revocation_unknown',
  'rate_limited',
  'forbidden',
]

export interface AuthenticationOptions {
  config: Pick<Config, 'clockToleranceSeconds'>
}

export default fp(
  async function authentication(app: FastifyInstance, { config }: AuthenticationOptions) {
    const { clock, inspectToken, recallToken, forgeryBudget } = app
    const { check } = app.revocation

    // Without a guard there is no token, and reading one throws rather than answering for nobody.
    app.decorateRequest('accessToken')
    app.decorateRequest('scopedToken')

    function recall({ raw }: FastifyRequest): InspectedToken | undefined {
      const authorization = authorizationOf(raw.rawHeaders)
      return typeof authorization === 'string' ? recallToken(authorization) : undefined
    }

    /** Whoever sends it is nobody yet, so what does not verify is counted. */
    async function inspect(request: FastifyRequest): Promise<InspectedToken> {
      const presented = presentedToken(request.raw.rawHeaders)
      if ('failure' in presented) throw new Outcome(presented.failure)
      // Remembered as it is usually spaced: no other way to write it takes more memory, or another signature check.
      const usual = `Bearer ${presented.token}`
      const known = recallToken(usual)
      if (known) return known
      await forgeryBudget.assertLeft(request)
      try {
        return await inspectToken(request, presented.token, usual)
      } catch (error) {
        // What names no key of ours has cost no signature check.
        const wasChecked = request.verifiedWith !== undefined
        if (wasChecked && error instanceof Outcome && error.code === 'token_invalid')
          await forgeryBudget.spend(request)
        throw error
      }
    }

    const isEarly = ({ claims }: InspectedToken, now: number) =>
      isFromTheFuture(claims, now, config.clockToleranceSeconds)

    /** Whether it is live, now. */
    function judge(token: InspectedToken, done: Done): void {
      const now = inSeconds(clock)
      if (isEarly(token, now)) done(tooEarly())
      else if (isExpired(token.claims, now, config.clockToleranceSeconds)) done(new Outcome('token_expired'))
      else
        check(token, (verdict) => {
          if (verdict === 'live') done()
          else done(new Outcome(verdict === 'revoked' ? 'token_revoked' : 'revocation_unknown'))
        })
    }
    const judged = promisify(judge)

    app.decorate('examineToken', async (request, token) => {
      const inspected = recallToken(token) ?? (await inspectToken(request, token, token))
      await judged(inspected)
      return inspected
    })

    app.decorate('recognise', async (request) => {
      const token = recall(request) ?? (await inspect(request))
      if (isEarly(token, inSeconds(clock))) throw tooEarly()
      const refusal = admitPerson(request, token)
      if (refusal) throw refusal
    })

    /** Lets live tokens through that `admit` has nothing against. */
    function createGuard(admit: Admit) {
      const conclude = (request: FastifyRequest, token: InspectedToken, done: Done) =>
        judge(token, (refusal) => done(refusal ?? admit(request, token)))

      return function guard(request: FastifyRequest, done: Done): void {
        const known = recall(request)
        if (known) conclude(request, known, done)
        // Refusals of one tick leave together, as verdicts do (revocation/check).
        else
          inspect(request).then(
            (token) => conclude(request, token, done),
            (refusal: Error) => setImmediate(done, refusal),
          )
      }
    }

    function guardScope(scope: FastifyInstance, guard: ReturnType<typeof createGuard>): void {
      scope.addHook('onRequest', (request, _reply, done) => guard(request, done))
      // A body may be held back until the token that came before it has been revoked.
      scope.addHook('preHandler', (request, _reply, done) => {
        if (announcesBody(request)) guard(request, done)
        else done()
      })
      scope.describeRoutes({ security: [{ bearerAuth: [] }], failures: refusals })
    }

    const guardPersons = createGuard(admitPerson)
    app.decorate('authenticate', promisify(guardPersons))
    app.decorate('demandAccessToken', function () {
      guardScope(this, guardPersons)
    })
    app.decorate('authenticateForScope', (request, scope) => promisify(createGuard(admitTo(scope)))(request))
    app.decorate('demandScope', function (scope) {
      guardScope(this, createGuard(admitTo(scope)))
    })
  },
  { name: 'authentication', dependencies: ['clock', 'limits', 'openapi', 'revocation', 'token-inspection'] },
)

/** Whether it was waited for (RFC 9112 §6). */
const announcesBody = ({ headers }: FastifyRequest): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0

function admitPerson(request: FastifyRequest, token: InspectedToken): Outcome | undefined {
  if (!isOfPerson(token.claims)) return new Outcome('forbidden')
  request.accessToken = token as AccessToken<PersonClaims>
  return undefined
}

function admitTo(scope: string | ScopeOf): Admit {
  return (request, token) => {
    const demanded = typeof scope === 'string' ? scope : scope(request)
    if (!hasScope(token.claims, demanded)) return new Outcome('forbidden')
    request.scopedToken = token
    return undefined
  }
}
