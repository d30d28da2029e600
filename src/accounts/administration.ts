import { asc, eq, gt } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { Revoke } from '../revocation/revoke.ts'
import { stepGeneration } from '../sessions/generation.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { type Account, accountOf, adminRole, isActiveAdmin, type User } from './users.ts'

/** What an account tells an admin. */
export interface ManagedAccount extends Account {
  status: User['status']
}

export interface Administration {
  /** Accounts in the order of their names, a page at a time. `cursor` is the `next_cursor` of the page before. */
  listUsers(cursor?: string): Promise<{ users: ManagedAccount[]; next_cursor?: string }>
  /**
   * Replaces the roles of an account. Its live access tokens are dead when this resolves; its sessions go on, with the new
   * roles from their next refresh.
   *
   * @param by the `sub` of the admin
   * @throws Outcome `not_found`, `last_admin`, and what revoke throws
   */
  setRoles(id: string, roles: readonly string[], by: string, origin: Origin): Promise<ManagedAccount>
}

export interface AdministrationOptions {
  db: Database
  clock: Clock
  accessTokens: Pick<AccessTokens, 'latestExpiry'>
  revoke: Revoke
  audit: Audit
}

const pageSize = 100

const managedAccountOf = (user: User): ManagedAccount => ({ ...accountOf(user), status: user.status })

export function createAdministration(options: AdministrationOptions): Administration {
  const { db, clock, accessTokens, revoke, audit } = options

  return {
    async listUsers(cursor) {
      const page = await db
        .select()
        .from(users)
        .where(cursor === undefined ? undefined : gt(users.username, cursor))
        .orderBy(asc(users.username))
        .limit(pageSize)
      const last = page.length === pageSize ? page.at(-1) : undefined
      return { users: page.map(managedAccountOf), ...(last && { next_cursor: last.username }) }
    },

    async setRoles(id, roles, by, origin) {
      let account = undefined as User | undefined
      let isChanged = false
      await revoke({
        // Whether there is anything to revoke turns out under the locks.
        entries: [],
        reason: 'roles_changed',
        origin,
        async within(tx) {
          const admins = roles.includes(adminRole) ? undefined : await lockAdmins(tx)
          const [user] = await tx.select().from(users).where(eq(users.id, id)).for('update')
          if (!user) throw new Outcome('not_found')
          // By the stored id: the one that was asked for may be written in upper case.
          if (admins?.length === 1 && admins[0]?.id === user.id) throw new Outcome('last_admin')
          account = { ...user, roles: [...roles].sort() }
          isChanged = account.roles.join() !== [...user.roles].sort().join()
          if (!isChanged) return []
          await tx.update(users).set({ roles: account.roles }).where(eq(users.id, id))
          const now = new Date(clock.now())
          const latestExpiry = accessTokens.latestExpiry(inSeconds(clock))
          return [await stepGeneration(tx, { user, survivors: 'all', latestExpiry, now })]
        },
      })
      const managed = managedAccountOf(account as User)
      if (isChanged)
        audit.record({ event: 'account.roles_changed', sub: managed.id, roles: managed.roles, by }, origin)
      return managed
    },
  }
}

/** All of them, always in one order: two may be about to take the role from each other. */
const lockAdmins = (tx: Database): Promise<User[]> =>
  tx.select().from(users).where(isActiveAdmin).orderBy(asc(users.id)).for('update')
