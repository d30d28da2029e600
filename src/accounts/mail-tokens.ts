/** What a mail has in it for its reader to prove that they read it: single-use, and stored as a hash. */
import { and, eq, gt } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { mailTokens, users } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import type { User } from './users.ts'

type Purpose = (typeof mailTokens.$inferSelect)['purpose']

export interface MailTokens {
  /** @param user as it was when it was asked for. Of several addresses, the last one that was asked for can be verified */
  issue(user: Pick<User, 'id' | 'generation'>, purpose: Purpose, email: string): Promise<string>
  /** @returns whose it is, and where it was sent. @throws Outcome `invalid_token` */
  find(token: string, purpose: Purpose, origin: Origin): Promise<{ user: User; email: string }>
  /** Locks the account, and uses the token up with all others that it has. @throws Outcome `invalid_token` */
  take(tx: Database, token: string, purpose: Purpose, origin: Origin): Promise<{ user: User; email: string }>
}

export interface MailTokensOptions {
  db: Database
  clock: Clock
  audit: Audit
}

const lifetimeMs = { verify: 86_400_000, reset: 3_600_000 }

export function createMailTokens({ db, clock, audit }: MailTokensOptions): MailTokens {
  async function read(db: Database, token: string, purpose: Purpose) {
    const [found] = await db
      .select({ user: users, email: mailTokens.email })
      .from(mailTokens)
      // A new password, a ban or a logout everywhere ends what was asked for before.
      .innerJoin(
        users,
        and(
          eq(users.id, mailTokens.userId),
          eq(users.generation, mailTokens.generation),
          eq(users.status, 'active'),
          // The account may have got another address while this was on its way.
          purpose === 'reset' ? eq(users.email, mailTokens.email) : undefined,
        ),
      )
      .where(
        and(
          eq(mailTokens.hash, hashOpaqueToken(token)),
          eq(mailTokens.purpose, purpose),
          gt(mailTokens.expiresAt, new Date(clock.now())),
        ),
      )
    return found
  }

  function refused(purpose: Purpose, origin: Origin): Outcome {
    audit.record({ event: 'mail_token.refused', purpose }, origin)
    return new Outcome('invalid_token')
  }

  return {
    async issue({ id: userId, generation }, purpose, email) {
      const token = generateOpaqueToken()
      const expiresAt = new Date(clock.now() + lifetimeMs[purpose])
      await durably(db, async (tx) => {
        if (purpose === 'verify')
          await tx
            .delete(mailTokens)
            .where(and(eq(mailTokens.userId, userId), eq(mailTokens.purpose, purpose)))
        const hash = hashOpaqueToken(token)
        await tx.insert(mailTokens).values({ hash, userId, purpose, generation, email, expiresAt })
      })
      return token
    },

    async find(token, purpose, origin) {
      const found = await read(db, token, purpose)
      if (!found) throw refused(purpose, origin)
      return found
    },

    async take(tx, token, purpose, origin) {
      const found = await read(tx, token, purpose)
      if (!found) throw refused(purpose, origin)
      const { id } = found.user
      await tx.select({ id: users.id }).from(users).where(eq(users.id, id)).for('no key update')
      // In a statement of its own: the lock may have been waited for.
      const locked = await read(tx, token, purpose)
      if (!locked) throw refused(purpose, origin)
      await tx.delete(mailTokens).where(eq(mailTokens.userId, id))
      return locked
    },
  }
}
