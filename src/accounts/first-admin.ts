import type { Audit } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import type { Register } from './registration.ts'
import { adminRole, isActiveAdmin } from './users.ts'

export interface FirstAdminOptions {
  db: Database
  register: Register
  audit: Audit
  username: string
  password: string
}

/**
 * Makes the first admin of an installation that has none; does nothing ever after. Of many instances that start together
 * with the same name, one makes it. An account that exists is never promoted: whoever came first may have registered that name.
 *
 * @throws Error with one clear line
 */
export async function ensureFirstAdmin(options: FirstAdminOptions): Promise<void> {
  const { db, register, audit, username, password } = options
  if (await hasAdmin(db)) return
  try {
    const { id } = await register({ username, password, roles: [adminRole] })
    audit.record({ event: 'account.first_admin', sub: id })
  } catch (error) {
    if (!(error instanceof Outcome)) throw error
    if (error.code === 'username_taken' && (await hasAdmin(db))) return
    const why = error.code === 'username_taken' ? 'somebody has registered that name' : error.message
    throw new Error(`there is no admin, and BOOTSTRAP_ADMIN_USERNAME cannot become one: ${why}`)
  }
}

async function hasAdmin(db: Database): Promise<boolean> {
  const [admin] = await db.select({ id: users.id }).from(users).where(isActiveAdmin).limit(1)
  return admin !== undefined
}
