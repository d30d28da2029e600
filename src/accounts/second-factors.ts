/** The second factor of an account: an authenticator app, and the recovery codes that stand in for it. */
import { and, eq, isNotNull, isNull, lt } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import type { Sealer } from '../db/sealing.ts'
import { mfaChallenges, sessions, totpFactors, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { AssertFresh } from '../sessions/freshness.ts'
import { type Actor, assertActor } from './actors.ts'
import type { Guesses } from './guesses.ts'
import type { Notices } from './notices.ts'
import { assertUnchanged } from './own-password.ts'
import { byPassword, type FactorMethod, type ProvenHolder } from './proofs.ts'
import {
  canonicalCode,
  countRecoveryCodes,
  deleteRecoveryCodes,
  replaceRecoveryCodes,
  useRecoveryCode,
} from './recovery-codes.ts'
import { describeEnrolment, type Enrolment, findTimeStep, generateTotpSecret } from './totp.ts'
import type { User } from './users.ts'

export interface FactorSummary {
  methods: FactorMethod[]
  recovery_codes_left: number
}

/**
 * All that take a holder throw Outcome `reauthentication_required` where their proof is too old, or too weak to change what is there, and
 * `token_revoked` where another password or a ban was faster.
 */
export interface SecondFactors {
  summarize(sub: string): Promise<FactorSummary>
  /** Begins to set up an app, in place of one that was begun before. @throws Outcome `already_enrolled` */
  enrol(holder: ProvenHolder): Promise<Enrolment>
  /** Ends that, by a first code. From now on a login takes one. @returns the recovery codes. @throws Outcome `invalid_code`, and as guessing */
  confirm(holder: ProvenHolder, code: string, origin: Origin): Promise<string[]>
  /** @throws Outcome `not_found` if there is no app */
  renewRecoveryCodes(holder: ProvenHolder, origin: Origin): Promise<string[]>
  remove(holder: ProvenHolder, origin: Origin): Promise<void>
  /** For an admin, of somebody who has lost everything. @throws Outcome `not_found` if there is no account */
  removeOf(sub: string, actor: Actor): Promise<void>
  /** Uses a code up. @returns what it is a code of, or undefined if it is not good (any more) */
  use(tx: Database, sub: string, code: string): Promise<FactorMethod | undefined>
  /** Counts it as a guess, if it can be guessed. @returns what the judgement has found. @throws Outcome as guessing */
  judge<T>(
    user: { username: string },
    code: string,
    origin: Origin,
    judgement: () => Promise<T | undefined>,
  ): Promise<T | undefined>
}

export interface SecondFactorsOptions {
  db: Database
  clock: Clock
  sealer: Sealer
  /** What people know the service by, for their app. */
  serviceName: string
  assertFresh: AssertFresh
  guesses: Pick<Guesses, 'judge'>
  notices: Pick<Notices, 'tell'>
  audit: Audit
}

export function createSecondFactors(options: SecondFactorsOptions): SecondFactors {
  const { db, clock, sealer, serviceName, assertFresh, guesses, notices, audit } = options
  const purposeOf = (sub: string) => `totp ${sub}`

  async function findUser(sub: string): Promise<User> {
    const [user] = await db.select().from(users).where(eq(users.id, sub))
    // Whose access token has outlived it.
    if (!user) throw new Outcome('token_revoked')
    return user
  }

  /** Uses the code of a time step up: of those who show it at once, one has. @returns whether it was good */
  async function useTotp(tx: Database, sub: string, code: string, isConfirmed: boolean): Promise<boolean> {
    const state = isConfirmed ? isNotNull(totpFactors.confirmedAt) : isNull(totpFactors.confirmedAt)
    const theirs = and(eq(totpFactors.userId, sub), state)
    const [factor] = await tx.select().from(totpFactors).where(theirs)
    if (!factor) return false
    const lastStep = findTimeStep(sealer.open(purposeOf(sub), factor.sealedSecret), code, clock.now())
    if (lastStep === undefined) return false
    const confirmedAt = factor.confirmedAt ?? new Date(clock.now())
    const used = await tx
      .update(totpFactors)
      .set({ lastStep, confirmedAt })
      // Another enrolment may have begun, with another secret.
      .where(
        and(theirs, lt(totpFactors.lastStep, lastStep), eq(totpFactors.sealedSecret, factor.sealedSecret)),
      )
      .returning({ userId: totpFactors.userId })
    return used.length > 0
  }

  /** @returns whether there was one that counted */
  async function clear(tx: Database, user: User): Promise<boolean> {
    const { id: sub } = user
    await deleteRecoveryCodes(tx, sub)
    // From their next refresh, its sessions say what is left of their proof.
    await tx
      .update(sessions)
      .set({ amr: [...byPassword.amr], acr: byPassword.acr })
      .where(and(eq(sessions.userId, sub), eq(sessions.acr, 'aal2')))
    const gone = await tx
      .delete(totpFactors)
      .where(eq(totpFactors.userId, sub))
      .returning({ confirmedAt: totpFactors.confirmedAt })
    const counted = gone.some(({ confirmedAt }) => confirmedAt !== null)
    if (counted) await notices.tell(tx, user, 'factor_removed')
    return counted
  }

  return {
    async summarize(sub) {
      const [factor] = await db
        .select({ userId: totpFactors.userId })
        .from(totpFactors)
        .where(and(eq(totpFactors.userId, sub), isNotNull(totpFactors.confirmedAt)))
      const left = await countRecoveryCodes(db, sub)
      return {
        methods: [...(factor ? (['totp'] as const) : []), ...(left > 0 ? (['recovery_code'] as const) : [])],
        recovery_codes_left: left,
      }
    },

    async enrol(holder) {
      assertFresh(holder)
      const { sub } = holder
      const secret = generateTotpSecret()
      const factor = { userId: sub, sealedSecret: sealer.seal(purposeOf(sub), secret) }
      const username = await durably(db, async (tx) => {
        const { username } = await assertUnchanged(tx, holder)
        const begun = await tx
          .insert(totpFactors)
          .values(factor)
          .onConflictDoUpdate({
            target: totpFactors.userId,
            set: factor,
            setWhere: isNull(totpFactors.confirmedAt),
          })
          .returning({ userId: totpFactors.userId })
        if (begun.length === 0) throw new Outcome('already_enrolled')
        return username
      })
      return await describeEnrolment(secret, { issuer: serviceName, username })
    },

    async confirm(holder, code, origin) {
      assertFresh(holder)
      const { sub, sid } = holder
      const { username } = await findUser(sub)
      const codes = await guesses.judge(username, 'code', origin, () =>
        durably(db, async (tx) => {
          const user = await assertUnchanged(tx, holder)
          if (!(await useTotp(tx, sub, canonicalCode(code), false))) return undefined
          // What was challenged before takes less than a login takes now.
          await tx.delete(mfaChallenges).where(eq(mfaChallenges.userId, sub))
          await notices.tell(tx, user, 'factor_enrolled')
          return await replaceRecoveryCodes(tx, sub)
        }),
      )
      if (!codes) {
        audit.record({ event: 'factor.refused', sub, sid }, origin)
        throw new Outcome('invalid_code')
      }
      audit.record({ event: 'factor.enrolled', sub, sid }, origin)
      return codes
    },

    async renewRecoveryCodes(holder, origin) {
      assertFresh(holder)
      const { sub, sid } = holder
      const codes = await durably(db, async (tx) => {
        await assertUnchanged(tx, holder)
        const [factor] = await tx
          .select()
          .from(totpFactors)
          .where(and(eq(totpFactors.userId, sub), isNotNull(totpFactors.confirmedAt)))
        if (!factor) throw new Outcome('not_found')
        // Whoever logged in before it was set up has not shown it.
        assertFresh(holder, 'aal2')
        return await replaceRecoveryCodes(tx, sub)
      })
      audit.record({ event: 'recovery_codes.renewed', sub, sid }, origin)
      return codes
    },

    async remove(holder, origin) {
      assertFresh(holder)
      const { sub } = holder
      const wasConfirmed = await durably(db, async (tx) => {
        const user = await assertUnchanged(tx, holder)
        const [factor] = await tx.select().from(totpFactors).where(eq(totpFactors.userId, sub))
        if (!factor) throw new Outcome('not_found')
        if (factor.confirmedAt) assertFresh(holder, 'aal2')
        return await clear(tx, user)
      })
      if (wasConfirmed) audit.record({ event: 'factor.removed', sub }, origin)
    },

    async removeOf(sub, actor) {
      const { by, origin } = actor
      const wasConfirmed = await durably(db, async (tx) => {
        await assertActor(tx, actor)
        const [user] = await tx.select().from(users).where(eq(users.id, sub)).for('no key update')
        if (!user) throw new Outcome('not_found')
        return await clear(tx, user)
      })
      if (wasConfirmed) audit.record({ event: 'factor.removed', sub, by }, origin)
    },

    async use(tx, sub, typed) {
      const code = canonicalCode(typed)
      if (isGuessable(code)) return (await useTotp(tx, sub, code, true)) ? 'totp' : undefined
      return (await useRecoveryCode(tx, sub, code)) ? 'recovery_code' : undefined
    },

    judge: ({ username }, code, origin, judgement) =>
      isGuessable(canonicalCode(code)) ? guesses.judge(username, 'code', origin, judgement) : judgement(),
  }
}

/** A recovery code is not: whoever has one is let in, however many others have guessed. */
const isGuessable = (code: string): boolean => /^\d+$/.test(code)
