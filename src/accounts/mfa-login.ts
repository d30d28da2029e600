/** The second half of a login, where the password is not enough. */
import { and, eq, gt } from 'drizzle-orm'
import type { Audit, LoginFailure, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { mfaChallenges, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { SessionTokens } from '../sessions/session-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import type { Admission, ProvenUser } from './admission.ts'
import type { Guess } from './guesses.ts'
import type { MailedCodes } from './mailed-codes.ts'
import { byPasswordAnd } from './proofs.ts'
import type { SecondFactors } from './second-factors.ts'

/** @throws Outcome `mfa_required` if this account has a second factor, with what the second half takes */
export type Challenge = (
  user: ProvenUser & { hasTotp: boolean; hasVerifiedEmail: boolean },
  login: { remember: boolean; guess: Guess; origin: Origin },
) => Promise<void>

/**
 * @throws Outcome `mfa_token_invalid` if that login is over, `invalid_code`, `rate_limited`, `password_reset_required`, and what revoke
 *   throws when older sessions must end
 */
export type CompleteLogin = (
  request: { mfa_token: string; code: string },
  origin: Origin,
) => Promise<SessionTokens>

export interface MfaLoginOptions {
  db: Database
  clock: Clock
  factors: Pick<SecondFactors, 'use' | 'judge'>
  /** Undefined where codes by mail are no second factor. */
  mailedCodes: MailedCodes | undefined
  admission: Admission
  audit: Audit
}

const challengeMs = 300_000

export function createMfaLogin(options: MfaLoginOptions): {
  challenge: Challenge
  completeLogin: CompleteLogin
} {
  const { db, clock, factors, mailedCodes, admission, audit } = options

  async function challenge(
    user: Parameters<Challenge>[0],
    { remember, guess, origin }: Parameters<Challenge>[1],
  ): Promise<void> {
    const byMail = mailedCodes !== undefined && !user.hasTotp && user.hasVerifiedEmail
    if (!user.hasTotp && !byMail) return
    const methods = byMail ? ['mail'] : ['totp', 'recovery_code']
    const mfa_token = generateOpaqueToken()
    const hash = hashOpaqueToken(mfa_token)
    const expiresAt = new Date(clock.now() + challengeMs)
    const isChallenged = await durably(db, async (tx) => {
      const { id: userId, generation } = user
      const [owner] = await tx
        .select({ id: users.id })
        .from(users)
        .where(and(eq(users.id, userId), eq(users.generation, generation)))
        .for('key share')
      if (!owner) return false
      await tx.insert(mfaChallenges).values({ hash, userId, generation, remember, expiresAt })
      if (byMail) await mailedCodes.send(tx, hash, expiresAt)
      return true
    })
    // Gone, or changed: admission sees it too.
    if (!isChallenged) return
    await guess.wasRight()
    audit.record({ event: 'login.challenged', sub: user.id, methods }, origin)
    throw new Outcome('mfa_required', { members: { mfa_token, methods } })
  }

  /** The account of a challenge that is open, if it is still what it was when it was challenged. */
  async function findChallenged(hash: Buffer) {
    const [found] = await db
      .select({ user: users, challenge: mfaChallenges })
      .from(mfaChallenges)
      .innerJoin(
        users,
        and(
          eq(users.id, mfaChallenges.userId),
          eq(users.generation, mfaChallenges.generation),
          eq(users.status, 'active'),
        ),
      )
      .where(and(eq(mfaChallenges.hash, hash), gt(mfaChallenges.expiresAt, new Date(clock.now()))))
    return found
  }

  async function completeLogin(
    { mfa_token, code }: Parameters<CompleteLogin>[0],
    origin: Origin,
  ): Promise<SessionTokens> {
    const hash = hashOpaqueToken(mfa_token)
    const found = await findChallenged(hash)
    if (!found) throw refused('mfa_token_invalid', 'challenge_over', origin)
    const { user, challenge } = found
    let isOver = false
    const method = await factors.judge(user, code, origin, () =>
      durably(db, async (tx) => {
        // Of those who complete it at once, the first one with a good code does, and no code of the others is used up.
        const [open] = await tx.select().from(mfaChallenges).where(eq(mfaChallenges.hash, hash)).for('update')
        isOver = !open
        if (!open) return undefined
        const method = open.mailedCode
          ? mailedCodes?.isRight(open.mailedCode, code)
          : await factors.use(tx, user.id, code)
        if (method) await tx.delete(mfaChallenges).where(eq(mfaChallenges.hash, hash))
        return method
      }),
    )
    if (!method)
      throw isOver
        ? refused('mfa_token_invalid', 'challenge_over', origin, user.id)
        : refused('invalid_code', 'wrong_code', origin, user.id)
    const { remember } = challenge
    const tokens = await admission.admit(user, { ...byPasswordAnd[method], remember }, origin)
    if (!tokens) throw refused('mfa_token_invalid', 'challenge_over', origin, user.id)
    return tokens
  }

  function refused(
    code: 'mfa_token_invalid' | 'invalid_code',
    reason: LoginFailure,
    origin: Origin,
    sub?: string,
  ): Outcome {
    audit.record({ event: 'login.failed', reason, ...(sub !== undefined && { sub }) }, origin)
    return new Outcome(code)
  }

  return { challenge, completeLogin }
}
