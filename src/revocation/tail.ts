/**
 * The tail: every unexpired entry of the record, in this process's memory. It is loaded before the first request and
 * then follows the record. What it knows it refuses whatever happens elsewhere; that it knows everything may only be
 * relied on while it is fresh.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { ageOf, type Moment, rightNow } from '../bearer/moments.ts'
import { createRevokedTokens, type RevokedTokens } from '../bearer/revoked-tokens.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { beginning, findEntriesFrom, findHead, type Position, readLiveEntries } from './record.ts'

export interface Tail extends RevokedTokens {
  /** Loads the record. Until it has, nothing is fresh. */
  load(): Promise<void>
  /** Follows the record until stopped. Resolves after the first look, which also sets the clock right. */
  follow(): Promise<void>
  stop(): void
  /** Whether all that was committed more than `freshMs` ago is here. */
  isFresh(): boolean
  /** Tells, after at most `patienceMs`, whether the tail is fresh: by the look under way, or by a new one. */
  catchUp(): Promise<boolean>
  /** Looks once more, and tells whether the record answered. */
  lookAgain(): Promise<boolean>
  /** How long ago the last look that succeeded was sent. */
  ageMs(): number
  /** When that was, on this process's clock that never jumps and on Postgres's. */
  lastLook(): { sentAt: number; serverTime: number }
}

export interface TailOptions {
  db: Database
  clock: Clock
  /** Between two looks. */
  intervalMs: number
  /** How old a look may be for the tail to be fresh; Infinity where nobody else can write. */
  freshMs: number
  /** Told when the record stops answering and when it answers again. */
  onChange(state: 'following' | 'lost', error?: unknown): void
}

/** Rows at a time: of a look, and of the load. */
const pageSize = 2_000
/** How long a check waits for a look, counted from when that look was sent. */
const patienceMs = 150

/** A tail that is empty and not fresh until it is loaded. */
export function createTail({ db, clock, intervalMs, freshMs, onChange }: TailOptions): Tail {
  const revoked = createRevokedTokens(() => inSeconds(clock))
  let position: Position = beginning
  let lastSuccess: (Moment & { serverTime: number }) | undefined
  let lastSent: Moment | undefined
  let inFlight: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let following = false
  let lost = false

  async function load(): Promise<void> {
    const sent = { ...rightNow(), serverTime: clock.now() }
    // First: whatever is committed during the load is found from here on.
    const head = await findHead(db)
    await readLiveEntries(db, pageSize, revoked.add)
    position = head
    lastSuccess = sent
  }

  async function advance(): Promise<void> {
    for (;;) {
      const sent = rightNow()
      const { serverTime, entries } = await findEntriesFrom(db, position.seq, pageSize)
      const roundTripMs = performance.now() - sent.steady
      // A slow answer tells the time badly.
      if (roundTripMs < freshMs) clock.correct(serverTime, roundTripMs)
      const [known] = entries
      // Another history than the one followed so far: keep what is known, and read the new one from its start.
      if (position.seq > 0 && (known?.seq !== position.seq || known.nonce !== position.nonce))
        return await load()
      revoked.add(entries)
      position = entries.at(-1) ?? position
      if (entries.length < pageSize) {
        lastSuccess = { ...sent, serverTime }
        return
      }
    }
  }

  /** One look at a time. Never fails: a look that does leaves the tail to grow stale. */
  function look(): Promise<void> {
    if (inFlight !== undefined) return inFlight
    const sent = rightNow()
    lastSent = sent
    inFlight = advance()
      .then(
        () => {
          if (lost) onChange('following')
          lost = false
        },
        (error: unknown) => {
          if (!lost) onChange('lost', error)
          lost = true
        },
      )
      .finally(() => {
        inFlight = undefined
      })
    return inFlight
  }

  function schedule(): void {
    if (!following) return
    const wait = lastSent ? intervalMs - ageOf(lastSent) : intervalMs
    timer = setTimeout(() => void look().then(schedule), Math.max(0, wait))
  }

  const ageMs = () => (lastSuccess ? ageOf(lastSuccess) : Number.POSITIVE_INFINITY)
  const isFresh = () => ageMs() < freshMs

  return {
    add: revoked.add,
    prepare: revoked.prepare,
    has: revoked.has,
    refuses: revoked.refuses,
    get size() {
      return revoked.size
    },
    load,
    ageMs,
    lastLook: () => ({
      sentAt: lastSuccess?.steady ?? Number.NEGATIVE_INFINITY,
      serverTime: lastSuccess?.serverTime ?? Number.NEGATIVE_INFINITY,
    }),
    isFresh,
    async follow() {
      following = true
      await look()
      schedule()
    },
    stop() {
      following = false
      clearTimeout(timer)
    },
    async catchUp() {
      if (isFresh()) return true
      // While the record does not answer, the follower asks for it, not every request anew.
      if (inFlight === undefined && lastSent && ageOf(lastSent) < intervalMs) return false
      const looked = look()
      const left = patienceMs - ageOf(lastSent as Moment)
      if (left > 0) await Promise.race([looked, delay(left)])
      return isFresh()
    },
    async lookAgain() {
      const asked = performance.now()
      await inFlight
      await look()
      return lastSuccess !== undefined && lastSuccess.steady >= asked
    },
  }
}
