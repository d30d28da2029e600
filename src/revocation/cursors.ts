/** Where somebody is in reading the record: behind a row, or amid the live set as it was at a row. */
import { beginning, type Position } from './record.ts'

export type Cursor = Position | { head: Position; after: number }

/** `<seq>.<nonce>`, or `<seq>.<nonce>~<seq>` with how far the live set has been read; 0 has no nonce. */
const grammar =
  /^(?:0|([1-9]\d{0,14})\.([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}))(?:~(0|[1-9]\d{0,14}))?$/

const formatPosition = ({ seq, nonce }: Position): string => (nonce === null ? '0' : `${seq}.${nonce}`)

export const formatCursor = (cursor: Cursor): string =>
  'head' in cursor ? `${formatPosition(cursor.head)}~${cursor.after}` : formatPosition(cursor)

/** @returns undefined for what formatCursor does not write */
export function parseCursor(text: string): Cursor | undefined {
  const match = grammar.exec(text)
  if (!match) return undefined
  const [, seq, nonce = null, after] = match
  const head = nonce === null ? beginning : { seq: Number(seq), nonce }
  return after === undefined ? head : { head, after: Number(after) }
}
