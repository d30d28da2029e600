import { eq } from 'drizzle-orm'
import type { Origin } from '../audit/events.ts'
import type { Database } from '../db/connect.ts'
import { users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'

/** Who does something to somebody else's account, and where the request came from, if it was one. */
export interface Actor {
  /** The `sub` of an admin, or `cli`. */
  by: string
  /** The generation of the admin's account, as their token says. */
  ver?: number
  origin?: Origin
}

/** @throws Outcome `token_revoked` if their account lost its rights, or more, while what they asked for was under way */
export async function assertActor(tx: Database, { by, ver }: Actor): Promise<void> {
  if (ver === undefined) return
  const [admin] = await tx.select({ generation: users.generation }).from(users).where(eq(users.id, by))
  if (admin?.generation !== ver) throw new Outcome('token_revoked')
}
