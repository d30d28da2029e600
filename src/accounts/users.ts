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
  email_verified?: boolean
  roles: string[]
  created_at: string
}

export const accountOf = ({ id, username, email, emailVerifiedAt, roles, createdAt }: User): Account => ({
  id,
  username,
  ...(email !== null && { email, email_verified: emailVerifiedAt !== null }),
  roles,
  created_at: createdAt.toISOString(),
})

/** The role that administers the others. */
export const adminRole = 'admin'

export const isActiveAdmin = and(arrayContains(users.roles, [adminRole]), eq(users.status, 'active'))

/** An account as a login sees it. */
export type LoginUser = Pick<User, 'id' | 'passwordHash' | 'generation' | 'status'> & {
  hasTotp: boolean
  hasVerifiedEmail: boolean
}

const selectUserByName = prepare<{ username: string }, LoginUser>(
  sql`select id, password_hash as "passwordHash", generation, status,
      exists (select from totp_factors where user_id = id and confirmed_at is not null) as "hasTotp",
      email_verified_at is not null as "hasVerifiedEmail"
    from ${users}
    where ${eq(users.username, sql.placeholder('username'))}`,
  'user_by_name',
)

/** By any spelling of the name. */
export async function findUserByName(db: Database, username: string): Promise<LoginUser | undefined> {
  const canonical = canonicalUsername(username)
  if (canonical === undefined) return undefined
  const [user] = await selectUserByName(db, { username: canonical })
  return user
}

export async function findAccount(db: Database, id: string): Promise<Account | undefined> {
  const [user] = await db.select().from(users).where(eq(users.id, id))
  return user && accountOf(user)
}
