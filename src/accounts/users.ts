import { and, arrayContains, eq, sql } from 'drizzle-orm'
import type { Database } from '../db/connect.ts'
import { prepare } from '../db/prepared.ts'
import { users } from '../db/tables.ts'
import { canonicalUsername } from './usernames.ts'

export type User = typeof users.$inferSelect

/** What an account tells about itself. */
export interface Account {
  id: string
  username: string
  email?: string
  roles: string[]
  created_at: string
}

export const accountOf = ({ id, username, email, roles, createdAt }: User): Account => ({
  id,
  username,
  ...(email !== null && { email }),
  roles,
  created_at: createdAt.toISOString(),
})

/** The role that administers the others. */
export const adminRole = 'admin'

export const isActiveAdmin = and(arrayContains(users.roles, [adminRole]), eq(users.status, 'active'))

/** An account as a login sees it. */
export type LoginUser = Pick<User, 'id' | 'passwordHash' | 'roles' | 'generation' | 'status'>

const loginUser = sql`select id, password_hash as "passwordHash", roles, generation, status from ${users}`
const selectUserByName = prepare<{ username: string }, LoginUser>(
  sql`${loginUser} where ${eq(users.username, sql.placeholder('username'))}`,
)
const selectUserForUpdate = prepare<{ id: string }, LoginUser>(
  sql`${loginUser} where ${eq(users.id, sql.placeholder('id'))} for update`,
)

/** By any spelling of the name. */
export async function findUserByName(db: Database, username: string): Promise<LoginUser | undefined> {
  const canonical = canonicalUsername(username)
  if (canonical === undefined) return undefined
  const [user] = await selectUserByName(db, { username: canonical })
  return user
}

/** As it is now, and stays until the transaction ends. */
export async function lockUser(tx: Database, id: string): Promise<LoginUser | undefined> {
  const [user] = await selectUserForUpdate(tx, { id })
  return user
}

export async function findAccount(db: Database, id: string): Promise<Account | undefined> {
  const [user] = await db.select().from(users).where(eq(users.id, id))
  return user && accountOf(user)
}
