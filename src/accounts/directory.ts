/** The accounts, as admins look them up. */
import { and, arrayContains, asc, eq, gt, ilike, like, or } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { fold } from './usernames.ts'
import { type Account, accountOf, type User } from './users.ts'

/** What an account tells an admin. */
export interface ManagedAccount extends Account {
  status: User['status']
}

/** Which accounts are listed: all of these must hold. */
export interface AccountFilter {
  /** What their names or e-mail addresses begin with, in any case. */
  query?: string
  role?: string
  status?: User['status']
}

export interface Directory {
  /** In the order of their names, a page at a time. `cursor` is the `next_cursor` of the page before. */
  listUsers(
    filter: AccountFilter,
    cursor?: string,
  ): Promise<{ users: ManagedAccount[]; next_cursor?: string }>
  /** @throws Outcome `not_found` */
  findUser(id: string): Promise<ManagedAccount>
}

const pageSize = 100

export const managedAccountOf = (user: User): ManagedAccount => ({ ...accountOf(user), status: user.status })

const beginsWith = (text: string) => `${text.replace(/[\\%_]/g, '\\$&')}%`

export const createDirectory = ({ db }: { db: Database }): Directory => ({
  async listUsers({ query, role, status }, cursor) {
    const page = await db
      .select()
      .from(users)
      .where(
        and(
          cursor === undefined ? undefined : gt(users.username, cursor),
          query === undefined
            ? undefined
            : or(like(users.username, beginsWith(fold(query))), ilike(users.email, beginsWith(query))),
          role === undefined ? undefined : arrayContains(users.roles, [role]),
          status === undefined ? undefined : eq(users.status, status),
        ),
      )
      .orderBy(asc(users.username))
      .limit(pageSize)
    const last = page.length === pageSize ? page.at(-1) : undefined
    return { users: page.map(managedAccountOf), ...(last && { next_cursor: last.username }) }
  },

  async findUser(id) {
    const [user] = await db.select().from(users).where(eq(users.id, id))
    if (!user) throw new Outcome('not_found')
    return managedAccountOf(user)
  },
})
