/** The record: the Postgres table that makes a revocation certain. Everything else in this folder only makes it fast. */
import { randomUUID } from 'node:crypto'
import { and, asc, desc, eq, gt, gte, lte, sql } from 'drizzle-orm'
import type { RevocationEntry } from '../bearer/revoked-entries.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { revocationHead, revocations } from '../db/tables.ts'

/** A place in the record: rows are numbered without gaps in the order of their commits, and each has a random nonce. */
export interface Position {
  seq: number
  nonce: string | null
}

export interface RecordedEntry extends RevocationEntry, Position {
  recordedAt: Date
}

export const beginning: Position = { seq: 0, nonce: null }

/**
 * Writes entries as the last step of a transaction. The head row stays locked until the commit, which is what makes
 * `seq` gapless and its order the order of commits: a reader that asks for `seq > last` misses nothing.
 *
 * @returns the longest time, in milliseconds, that any instance may go without looking
 */
export async function record(
  tx: Database,
  entries: readonly RevocationEntry[],
  reason: string,
): Promise<{ freshMs: number }> {
  const [head] = await tx
    .update(revocationHead)
    .set({ seq: sql`${revocationHead.seq} + ${entries.length}` })
    .returning()
  if (!head) throw new Error('the revocation head is missing: the schema is damaged')
  if (entries.length > 0) {
    await tx.insert(revocations).values(
      entries.map(({ scope, subject, expiresAt }, i) => ({
        seq: head.seq - entries.length + 1 + i,
        nonce: randomUUID(),
        scope,
        subject,
        expiresAt: new Date(expiresAt * 1000),
        reason,
      })),
    )
  }
  return { freshMs: head.freshMs }
}

/** Lets every writer know how long this instance's tail may go without looking. Never lowered. */
export async function announceFreshness(db: Database, freshMs: number): Promise<void> {
  await durably(db, async (tx) => {
    await tx
      .update(revocationHead)
      .set({ freshMs: sql`greatest(${revocationHead.freshMs}, ${freshMs}::int)` })
  })
}

/** The newest row's place. */
export async function findHead(db: Database): Promise<Position> {
  const [head] = await db
    .select({ seq: revocations.seq, nonce: revocations.nonce })
    .from(revocations)
    .orderBy(desc(revocations.seq))
    .limit(1)
  return head ?? beginning
}

/** Whether an entry stands in the record for this reason. */
export async function isRecordedFor(
  db: Database,
  { scope, subject }: Pick<RevocationEntry, 'scope' | 'subject'>,
  reason: string,
): Promise<boolean> {
  const [found] = await db
    .select({ seq: revocations.seq })
    .from(revocations)
    .where(
      and(eq(revocations.scope, scope), eq(revocations.subject, subject), eq(revocations.reason, reason)),
    )
    .limit(1)
  return found !== undefined
}

/**
 * Hands on every unexpired entry, a page at a time. One walk through a cursor, by the index on their ends: it costs what
 * there is to load, whatever has expired and whatever the planner believes. Raw, for mapping a million rows takes seconds.
 */
export async function readLiveEntries(
  db: Database,
  pageSize: number,
  onPage: (entries: readonly RevocationEntry[]) => void,
): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.execute(sql`
      declare live_entries no scroll cursor for
      select scope, subject, date_part('epoch', expires_at) as "expiresAt"
      from revocations where expires_at > now() order by expires_at`)
    const page = sql.raw(`fetch ${pageSize} from live_entries`)
    const fetchPage = async () => ((await tx.execute(page)) as unknown as { rows: RevocationEntry[] }).rows
    for (let entries = await fetchPage(); entries.length > 0; ) {
      // Postgres goes ahead while this page is taken in.
      const next = fetchPage()
      onPage(entries)
      entries = await next
    }
  })
}

const columns = {
  seq: revocations.seq,
  nonce: revocations.nonce,
  scope: revocations.scope,
  subject: revocations.subject,
  expiresAt: sql`extract(epoch from ${revocations.expiresAt})`.mapWith(Number),
  recordedAt: revocations.recordedAt,
}

/** A page of the unexpired entries, in their order: those behind one place and not behind another. */
export const findLiveEntries = (
  db: Database,
  { after, until, limit }: { after: number; until: number; limit: number },
): Promise<RecordedEntry[]> =>
  db
    .select(columns)
    .from(revocations)
    .where(
      and(
        gt(revocations.seq, after),
        lte(revocations.seq, until),
        gt(revocations.expiresAt, sql`clock_timestamp()`),
      ),
    )
    .orderBy(asc(revocations.seq))
    .limit(limit)

/**
 * The row at a place and those that came after it, with Postgres's clock in milliseconds. If the first entry is not the
 * one known to be there, the history is another one: a backup was restored.
 */
export async function findEntriesFrom(
  db: Database,
  seq: number,
  limit: number,
): Promise<{ serverTime: number; entries: RecordedEntry[] }> {
  const rows = await db
    .select({ serverTime: sql`extract(epoch from clock_timestamp()) * 1000`.mapWith(Number), ...columns })
    // One row even where there is no entry: the time is wanted all the same.
    .from(sql`(values (1)) as one`)
    .leftJoin(revocations, gte(revocations.seq, seq))
    .orderBy(asc(revocations.seq))
    .limit(limit)
  const [first] = rows
  if (!first) throw new Error('Postgres answered without a row')
  return {
    serverTime: first.serverTime,
    entries: rows.filter((row): row is RecordedEntry & { serverTime: number } => row.seq !== null),
  }
}
