/**
 * A set of UUIDs, each with a number of its own kind and an expiry, in 20 bytes a slot: a million revocations must fit in
 * every instance, and a Map of strings would take five times as much. Open addressing over typed arrays; an id is its own
 * hash, for latchkey's ids are random, and so is an id with a small number folded in.
 */
const words = 5
/** Each grows by itself: nobody waits while all is copied, and old and new are never in memory at once but for one part. */
const parts = 64 // a power of two
const smallest = 8
const maxLoad = 0.7
/** Leaves room to grow: at this load, a million ids take 44 MB. */
const loadAfterGrowth = 0.45

export interface IdTable {
  /** Adds an id, or lengthens its life; never shortens it. `expiresAt` is in seconds since the epoch. */
  add(id: string, version: number, expiresAt: number): void
  has(id: string, version: number): boolean
  /** The same for an id that writeId wrote at `at`. */
  hasWritten(ids: Uint32Array, at: number): boolean
  readonly size: number
}

/** How many words an id takes. */
export const idWords = 4

/** Writes an id as it is looked up, for who looks it up many times. */
export function writeId(id: string, version: number, into: Uint32Array, at: number): void {
  parse(id, into, at)
  into[at + 3] = (into[at + 3] as number) ^ version
}

interface Part {
  /** Four words of an id, and its expiry; 0 marks a free slot. */
  cells: Uint32Array
  slots: number
  used: number
}

/** @param now seconds since the epoch: what has expired is dropped when there is no room left */
export function createIdTable(now: () => number): IdTable {
  const table: Part[] = Array.from({ length: parts }, () => emptyPart(smallest))
  /** The one that is looked for or added. */
  const entry = new Uint32Array(words)

  const placeOf = (ids: Uint32Array, at: number): number => (ids[at] as number) & (parts - 1)

  function hasWritten(ids: Uint32Array, at: number): boolean {
    const part = table[placeOf(ids, at)] as Part
    return part.cells[locate(part, ids, at) + 4] !== 0
  }

  function regrown({ cells }: Part): Part {
    const today = now()
    let live = 0
    for (let at = 0; at < cells.length; at += words) if ((cells[at + 4] as number) > today) live++
    const part = emptyPart(Math.max(smallest, Math.ceil((live + 1) / loadAfterGrowth)))
    for (let at = 0; at < cells.length; at += words)
      if ((cells[at + 4] as number) > today) put(part, cells, at)
    return part
  }

  return {
    add(id, version, expiresAt) {
      writeId(id, version, entry, 0)
      // 32 bits reach the year 2106.
      entry[4] = Math.min(0xffff_ffff, Math.max(1, Math.ceil(expiresAt)))
      const place = placeOf(entry, 0)
      let part = table[place] as Part
      if (part.used + 1 > part.slots * maxLoad) part = table[place] = regrown(part)
      put(part, entry, 0)
    },
    has(id, version) {
      writeId(id, version, entry, 0)
      return hasWritten(entry, 0)
    },
    hasWritten,
    get size() {
      return table.reduce((size, { used }) => size + used, 0)
    },
  }
}

const emptyPart = (slots: number): Part => ({ cells: new Uint32Array(slots * words), slots, used: 0 })

/** By hand: 128 bits through strings and `parseInt` take five times as long. */
function parse(id: string, into: Uint32Array, from: number): void {
  for (let at = 0, digit = 0; digit < 32; at++) {
    const code = id.charCodeAt(at)
    if (code === 0x2d) continue
    // Of 0-9, a-f and A-F. Eight digits push out whatever the word was.
    const value = (code & 0xf) + (code >> 6) * 9
    const word = from + (digit >> 3)
    into[word] = ((into[word] as number) << 4) | value
    digit++
  }
}

/** Where the id that stands in `ids` from `from` on is, or where it would be put. */
function locate({ cells, slots }: Part, ids: Uint32Array, from: number): number {
  // The word as a share of all that it could be, for `%` is slow on numbers that need 32 bits.
  const home = Math.floor((ids[from + 3] as number) * 2 ** -32 * slots)
  for (let at = home * words; ; at = at + words < cells.length ? at + words : 0) {
    if (cells[at + 4] === 0) return at
    if (
      cells[at] === ids[from] &&
      cells[at + 1] === ids[from + 1] &&
      cells[at + 2] === ids[from + 2] &&
      cells[at + 3] === ids[from + 3]
    ) {
      return at
    }
  }
}

function put(part: Part, entries: Uint32Array, from: number): void {
  const { cells } = part
  const at = locate(part, entries, from)
  if (cells[at + 4] === 0) part.used++
  for (let i = 0; i < 4; i++) cells[at + i] = entries[from + i] as number
  cells[at + 4] = Math.max(cells[at + 4] as number, entries[from + 4] as number)
}
