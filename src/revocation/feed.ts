/**
 * The feed: the record for others, who refuse by themselves what was taken back. Each reader holds its own place and takes what
 * comes after it; the service keeps nothing for it, so a slow reader costs nothing but its time. Those who have all there is
 * share one look at the record.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Database } from '../db/connect.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome } from '../outcomes.ts'
import { type Cursor, formatCursor, parseCursor } from './cursors.ts'
import { findEntriesFrom, findHead, findLiveEntries, type Position, type RecordedEntry } from './record.ts'

export interface FeedPage {
  entries: readonly (RecordedEntry & { cursor: string })[]
  /** Of what comes after this page. */
  cursor: string
  /** Whether there was nothing after it when it was read. */
  isLast: boolean
}

export interface Feed {
  /**
   * @param cursor where to go on; without one, with the live set: all that is refused now. Its last page leads to what was
   *   committed since its first
   * @throws Outcome `cursor_expired` where the record does not hold that place (any more), `invalid_request` for what is no cursor
   */
  read(cursor: string | undefined): Promise<FeedPage>
  /** The same, and then on and on until stopped. While the record does not answer, its pages are empty, and none is the last. */
  follow(cursor: string | undefined): Promise<AsyncIterable<FeedPage>>
  stop(): void
}

export interface FeedOptions {
  db: Database
  /** For the looks, which must not stand in line behind all that is read by who begins. */
  tailDb: Database
}

/** Between two looks, while somebody follows. */
const lookMs = 40
const pageSize = 500
/** As many as any who keep up may have missed. */
const maxRecent = 2_000

export function createFeed({ db, tailDb }: FeedOptions): Feed {
  /** The newest entries, without a gap between them. */
  let recent: readonly RecordedEntry[] = []
  let looking: Promise<void> | undefined
  let stopped = false

  const pageOf = (
    entries: readonly RecordedEntry[],
    cursorBehind: (entry: RecordedEntry) => Cursor,
    rest: { cursor: Cursor; isLast: boolean },
  ): FeedPage => ({
    entries: entries.map((entry) => ({ ...entry, cursor: formatCursor(cursorBehind(entry)) })),
    cursor: formatCursor(rest.cursor),
    isLast: rest.isLast,
  })

  async function readLiveSet(head: Position, after: number): Promise<FeedPage> {
    const entries = await findLiveEntries(db, { after, until: head.seq, limit: pageSize })
    const last = entries.at(-1)
    const cursor = last && entries.length === pageSize ? { head, after: last.seq } : head
    // Even its last page has what came meanwhile behind it.
    return pageOf(entries, ({ seq }) => ({ head, after: seq }), { cursor, isLast: false })
  }

  const behind = (position: Position, entries: readonly RecordedEntry[]): FeedPage => {
    const page = entries.slice(0, pageSize)
    const isLast = page.length === entries.length
    return pageOf(page, ({ seq, nonce }) => ({ seq, nonce }), { cursor: page.at(-1) ?? position, isLast })
  }

  async function readBehind(position: Position): Promise<FeedPage> {
    const { entries } = await findEntriesFrom(db, position.seq, pageSize + 2)
    if (position.nonce === null) return behind(position, entries)
    const [known, ...rest] = entries
    // Purged, or of another history, which a backup has put in the place of the one that was read so far.
    if (known?.seq !== position.seq || known.nonce !== position.nonce) throw new Outcome('cursor_expired')
    return behind(position, rest)
  }

  async function read(text: string | undefined): Promise<FeedPage> {
    if (text === undefined) return readLiveSet(await findHead(db), 0)
    const cursor = parseCursor(text)
    if (!cursor) throw new Outcome('invalid_request', { detail: 'This is no cursor.' })
    return 'head' in cursor ? readLiveSet(cursor.head, cursor.after) : readBehind(cursor)
  }

  /** The same by the last look. @returns undefined where only the record can tell */
  function recall(text: string): FeedPage | undefined {
    const cursor = parseCursor(text)
    const [oldest] = recent
    if (!cursor || 'head' in cursor || !oldest) return undefined
    const at = cursor.seq - oldest.seq
    return recent[at]?.nonce === cursor.nonce ? behind(cursor, recent.slice(at + 1)) : undefined
  }

  async function renewRecent(): Promise<void> {
    const { seq, nonce } = recent.at(-1) ?? (await findHead(tailDb))
    const { entries } = await findEntriesFrom(tailDb, seq, maxRecent)
    const isWhole = entries[0]?.nonce === nonce && entries.length < maxRecent
    if (!isWhole) recent = []
    else if (recent.length === 0) recent = entries
    else if (entries.length > 1) recent = [...recent, ...entries.slice(1)].slice(-maxRecent)
  }

  /** One for all who wait. */
  function look(): Promise<void> {
    looking ??= delay(lookMs)
      .then(renewRecent)
      .finally(() => {
        looking = undefined
      })
    return looking
  }

  async function readOn({ cursor, isLast }: FeedPage): Promise<FeedPage> {
    try {
      if (!isLast) return await read(cursor)
      await look()
      return recall(cursor) ?? (await read(cursor))
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error
      await delay(lookMs)
      return { entries: [], cursor, isLast: false }
    }
  }

  async function* readOnFrom(first: FeedPage): AsyncGenerator<FeedPage, void> {
    for (let page = first; !stopped; page = await readOn(page)) yield page
  }

  return {
    read,
    follow: async (cursor) => readOnFrom(await read(cursor)),
    stop() {
      stopped = true
    },
  }
}
