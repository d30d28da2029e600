import { asc, eq } from 'drizzle-orm'
import type { Audit } from '../audit/events.ts'
import { longestLifetimeSeconds } from '../bearer/claims.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { tokenEntry } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import type { Endings } from '../sessions/endings.ts'
import { stepGeneration } from '../sessions/generation.ts'
import type { SessionSummary, Sessions } from '../sessions/sessions.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { type Actor, assertActor } from './actors.ts'
import { type Directory, type ManagedAccount, managedAccountOf } from './directory.ts'
import type { Guesses } from './guesses.ts'
import type { NewAccount, Register } from './registration.ts'
import type { SecondFactors } from './second-factors.ts'
import { adminRole, isActiveAdmin, type User } from './users.ts'

/** What of an account is to end. */
export interface Recall {
  /** One session, in place of all. */
  session_id?: string
  reason?: string
  /** Only tells what would end. */
  dry_run?: boolean
}

/**
 * What an admin does to accounts. Unless it says otherwise, all of these throw Outcome `not_found`, and what revoke throws: when they
 * resolve, no instance accepts what they have ended.
 */
export interface Administration {
  /** @throws Outcome as registration does */
  createUser(account: NewAccount, actor: Actor): Promise<ManagedAccount>
  /**
   * Replaces the roles of an account. Its live access tokens are dead then; its sessions go on, with the new roles from their next
   * refresh.
   *
   * @throws Outcome `last_admin` too
   */
  setRoles(id: string, roles: readonly string[], actor: Actor): Promise<ManagedAccount>
  /** Closes an account and ends all that it was issued, or opens it again. @throws Outcome `last_admin` too */
  setStatus(id: string, status: User['status'], actor: Actor): Promise<ManagedAccount>
  /** Ends all that an account was issued, and leaves nothing of it. @throws Outcome `last_admin` too */
  deleteUser(id: string, actor: Actor): Promise<void>
  /** Ends what an account was issued. @returns the sessions that this ends, or would */
  recall(id: string, recall: Recall, actor: Actor): Promise<SessionSummary[]>
  /** Takes the second factor away from whoever has lost it. Their sessions go on. */
  removeFactors(id: string, actor: Actor): Promise<void>
  /** Ends one access token, whosever it is: nobody keeps which there are. */
  recallToken(jti: string, reason: string | undefined, actor: Actor): Promise<void>
}

export interface AdministrationOptions {
  directory: Pick<Directory, 'findUser'>
  clock: Clock
  accessTokens: Pick<AccessTokens, 'latestExpiry'>
  sessions: Pick<Sessions & Endings, 'list' | 'endOf'>
  register: Register
  factors: Pick<SecondFactors, 'removeOf'>
  guesses: Pick<Guesses, 'forgetAll'>
  revoke: Revoke
  audit: Audit
}

/** What is done to an account that is locked. */
interface Change {
  reason: string
  /** Whether an active admin would be none any more. */
  unseats: boolean
  /** Which of its sessions survive the end of its generation, or undefined if that goes on. */
  survivors(user: User): 'none' | 'all' | undefined
  /** @returns the account as it is then */
  apply(tx: Database, user: User): Promise<User>
}

export function createAdministration(options: AdministrationOptions): Administration {
  const { directory, clock, accessTokens, sessions, register, factors, guesses, revoke, audit } = options

  async function change(id: string, { reason, unseats, survivors, apply }: Change, actor: Actor) {
    const { origin } = actor
    let changed = undefined as Record<'before' | 'user', User> | undefined
    await revoke({
      // Whether there is anything to revoke turns out under the locks.
      entries: [],
      reason,
      ...(origin && { origin }),
      async within(tx) {
        await assertActor(tx, actor)
        const admins = unseats ? await lockAdmins(tx) : undefined
        const [user] = await tx.select().from(users).where(eq(users.id, id)).for('update')
        if (!user) throw new Outcome('not_found')
        // By the stored id: the one that was asked for may be written in upper case.
        if (admins?.length === 1 && admins[0]?.id === user.id) throw new Outcome('last_admin')
        const surviving = survivors(user)
        const now = new Date(clock.now())
        const latestExpiry = accessTokens.latestExpiry(inSeconds(clock))
        const entries = surviving
          ? [await stepGeneration(tx, { user, survivors: surviving, latestExpiry, now })]
          : []
        changed = { before: user, user: await apply(tx, user) }
        return entries
      },
    })
    return changed as NonNullable<typeof changed>
  }

  const update = async (tx: Database, { id }: User, values: Partial<User>): Promise<User> => {
    const [updated] = await tx.update(users).set(values).where(eq(users.id, id)).returning()
    return updated as User
  }

  return {
    createUser: async (account, actor) => managedAccountOf(await register(account, actor.origin, actor)),

    async setRoles(id, roles, actor) {
      const sorted = [...roles].sort()
      const isSame = (user: User) => sorted.join() === [...user.roles].sort().join()
      const { before, user } = await change(
        id,
        {
          reason: 'roles_changed',
          unseats: !roles.includes(adminRole),
          survivors: (user) => (isSame(user) ? undefined : 'all'),
          apply: (tx, user) => update(tx, user, { roles: sorted }),
        },
        actor,
      )
      const { by, origin } = actor
      if (!isSame(before))
        audit.record({ event: 'account.roles_changed', sub: user.id, roles: user.roles, by }, origin)
      return managedAccountOf(user)
    },

    async setStatus(id, status, actor) {
      const isClosing = status === 'disabled'
      let wasKeptOut = false
      const { before, user } = await change(
        id,
        {
          reason: 'account_disabled',
          unseats: isClosing,
          survivors: (user) => (isClosing && user.status === 'active' ? 'none' : undefined),
          async apply(tx, user) {
            // Whom guesses have kept out is let in again.
            if (!isClosing) wasKeptOut = await guesses.forgetAll(tx, user.username)
            return await update(tx, user, { status })
          },
        },
        actor,
      )
      const { by, origin } = actor
      const event = isClosing ? 'account.disabled' : 'account.enabled'
      if (before.status !== status) audit.record({ event, sub: user.id, by }, origin)
      if (wasKeptOut) audit.record({ event: 'guessing.forgiven', sub: user.id, by }, origin)
      return managedAccountOf(user)
    },

    async deleteUser(id, actor) {
      const { user } = await change(
        id,
        {
          reason: 'account_deleted',
          unseats: true,
          survivors: () => 'none',
          async apply(tx, user) {
            await tx.delete(users).where(eq(users.id, user.id))
            await guesses.forgetAll(tx, user.username)
            return user
          },
        },
        actor,
      )
      const { by, origin } = actor
      audit.record({ event: 'account.deleted', sub: user.id, by }, origin)
    },

    async recall(id, { session_id: asked, reason = 'admin', dry_run = false }, actor) {
      const { by, origin } = actor
      const { id: sub } = await directory.findUser(id)
      const session_id = asked?.toLowerCase()
      const live = await sessions.list({ sub, sid: '' })
      const ending = session_id === undefined ? live : live.filter((session) => session.id === session_id)
      if (session_id !== undefined && ending.length === 0) throw new Outcome('not_found')
      if (dry_run) return ending
      if (session_id !== undefined) await sessions.endOf({ sub, sid: session_id }, reason, origin)
      else
        await change(
          id,
          { reason, unseats: false, survivors: () => 'none', apply: async (_tx, user) => user },
          actor,
        )
      audit.record(
        { event: 'account.recalled', sub, sids: ending.map((session) => session.id), reason, by },
        origin,
      )
      return ending
    },

    removeFactors: (id, actor) => factors.removeOf(id, actor),

    async recallToken(jti, reason = 'admin', { by, origin }) {
      const exp = inSeconds(clock) + longestLifetimeSeconds
      // As it was issued: the index knows it in no other spelling.
      await revoke({ entries: [tokenEntry(jti.toLowerCase(), exp)], reason, ...(origin && { origin }) })
      audit.record({ event: 'token.recalled', jti, reason, by }, origin)
    },
  }
}

/** All of them, always in one order: two may be about to take the role from each other. */
const lockAdmins = (tx: Database): Promise<User[]> =>
  tx.select().from(users).where(isActiveAdmin).orderBy(asc(users.id)).for('update')
