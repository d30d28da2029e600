/** What a mail has in it for its reader to prove that they read it: single-use, and stored as a hash. */
import { and, count, eq, gt } from 'drizzle-orm'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { mailTokens } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'

export type MailToken = Pick<typeof mailTokens.$inferSelect, 'userId' | 'purpose' | 'email'>

export interface MailTokens {
  /** @returns undefined where as many wait already as anybody needs: nobody's mailbox is to be filled */
  issue(tx: Database, token: MailToken): Promise<string | undefined>
  /** @throws Outcome `invalid_token` */
  find(db: Database, token: string, purpose: MailToken['purpose']): Promise<MailToken>
  /** Uses it up, and all others of its account. @throws Outcome `invalid_token` */
  take(tx: Database, token: string, purpose: MailToken['purpose']): Promise<MailToken>
}

const lifetimeMs = { verify: 86_400_000, reset: 3_600_000 }
const mostAtOnce = 3

export function createMailTokens({ clock }: { clock: Clock }): MailTokens {
  const isGood = (token: string, purpose: MailToken['purpose']) =>
    and(
      eq(mailTokens.hash, hashOpaqueToken(token)),
      eq(mailTokens.purpose, purpose),
      gt(mailTokens.expiresAt, new Date(clock.now())),
    )

  return {
    async issue(tx, { userId, purpose, email }) {
      const now = clock.now()
      const [waiting] = await tx
        .select({ count: count() })
        .from(mailTokens)
        .where(
          and(
            eq(mailTokens.userId, userId),
            eq(mailTokens.purpose, purpose),
            gt(mailTokens.expiresAt, new Date(now)),
          ),
        )
      if ((waiting?.count ?? 0) >= mostAtOnce) return undefined
      const token = generateOpaqueToken()
      const expiresAt = new Date(now + lifetimeMs[purpose])
      await tx.insert(mailTokens).values({ hash: hashOpaqueToken(token), userId, purpose, email, expiresAt })
      return token
    },

    async find(db, token, purpose) {
      const [found] = await db.select().from(mailTokens).where(isGood(token, purpose))
      if (!found) throw new Outcome('invalid_token')
      return found
    },

    async take(tx, token, purpose) {
      const [taken] = await tx.delete(mailTokens).where(isGood(token, purpose)).returning()
      if (!taken) throw new Outcome('invalid_token')
      await tx.delete(mailTokens).where(eq(mailTokens.userId, taken.userId))
      return taken
    },
  }
}
