/**
 * A set of UUIDs, each with a number of its own kind and an expiry, in 20 bytes a slot: a million revocations must fit in
 * every instance, and a Map of strings would take five times as much. Open addressing over one typed array; an id is
 * its own hash, for latchkey's ids are random, and so is an id with a small number folded in.
 */
const words = 5
const maxLoad = 0.7
const smallest = 1024

export interface IdTable {
  /** Adds an id, or lengthens its life; never shortens it. `expiresAt` is in seconds since the epoch. */
  add(id: string, version: number, expiresAt: number): void
  has(id: string, version: number): boolean
  readonly size: number
}

/** @param now seconds since the epoch: what has expired is dropped when the table grows */
export function createIdTable(now: () => number): IdTable {
  let slots = smallest
  let cells = new Uint32Array(slots * words)
  let size = 0
  const key = new Uint32Array(4)

  function parse(id: string, version: number): void {
    key[0] = Number.parseInt(id.slice(0, 8), 16)
    key[1] = Number.parseInt(id.slice(9, 13) + id.slice(14, 18), 16)
    key[2] = Number.parseInt(id.slice(19, 23) + id.slice(24, 28), 16)
    key[3] = Number.parseInt(id.slice(28, 36), 16) ^ version
  }

  /** Where `key` is, or where it would be put. An expiry of 0 marks a free slot. */
  function locate(): number {
    for (let slot = (key[3] as number) % slots; ; slot = (slot + 1) % slots) {
      const at = slot * words
      if (cells[at + 4] === 0) return at
      if (
        cells[at] === key[0] &&
        cells[at + 1] === key[1] &&
        cells[at + 2] === key[2] &&
        cells[at + 3] === key[3]
      ) {
        return at
      }
    }
  }

  function put(expiresAt: number): void {
    const at = locate()
    if (cells[at + 4] === 0) {
      cells.set(key, at)
      size++
    }
    cells[at + 4] = Math.max(cells[at + 4] as number, expiresAt)
  }

  function rebuild(): void {
    const old = cells
    const today = now()
    let live = 0
    for (let at = 4; at < old.length; at += words) if ((old[at] as number) > today) live++
    slots = smallest
    // Leaves room to grow before the next rebuild.
    while (live + 1 > slots * maxLoad * 0.6) slots *= 2
    cells = new Uint32Array(slots * words)
    size = 0
    for (let at = 0; at < old.length; at += words) {
      if ((old[at + 4] as number) <= today) continue
      key.set(old.subarray(at, at + 4))
      put(old[at + 4] as number)
    }
  }

  return {
    add(id, version, expiresAt) {
      if (size + 1 > slots * maxLoad) rebuild()
      parse(id, version)
      // 32 bits reach the year 2106; 0 marks a free slot.
      put(Math.min(0xffff_ffff, Math.max(1, Math.ceil(expiresAt))))
    },
    has(id, version) {
      parse(id, version)
      return cells[locate() + 4] !== 0
    },
    get size() {
      return size
    },
  }
}
