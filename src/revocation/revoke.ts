/**
 * The one way to take something back, for every door. Record and index are written at once; what makes the
 * acknowledgement true is the hold: it leaves only when every tail that still counts as fresh has looked since the
 * commit.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Audit, Origin } from '../audit/events.ts'
import { parseGenerationSubject, type RevocationEntry } from '../bearer/revoked-entries.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import { Outcome } from '../outcomes.ts'
import { record } from './record.ts'
import type { RevocationIndex } from './redis-index.ts'
import type { Tail } from './tail.ts'

export interface Revocation {
  /** What is refused from this moment, even if it cannot be recorded now: whoever asks must have the right to it already. */
  entries: readonly RevocationEntry[]
  /** Whose it is, for the audit. Entries of a generation say so themselves. */
  sub?: string
  reason: string
  origin?: Origin
  /**
   * Writes that belong to the same transaction, such as the end of the session's row. Returns the entries to record in
   * place of `entries`: the row may know of tokens that live longer, or of what else must go; none, where all is recorded
   * already. If it throws an outcome, nothing was revoked but `entries`.
   */
  within?(tx: Database): Promise<readonly RevocationEntry[]>
}

/**
 * Resolves when no instance accepts what was revoked any more.
 *
 * @throws Outcome `unavailable` if the record could not be written: what is in `entries` stays refused here and in the
 *   index, and is recorded as soon as that is possible
 */
export type Revoke = (revocation: Revocation) => Promise<void>

export interface Revoker {
  revoke: Revoke
  /** Tries once more to record what could not be recorded. */
  stop(): Promise<void>
}

export interface RevokerOptions {
  db: Database
  tail: Pick<Tail, 'add' | 'lookAgain'>
  index: Pick<RevocationIndex, 'write'> | undefined
  audit: Audit
  /** False where this process is the only one: then there is nobody to wait for. */
  holds: boolean
  /** Told how long an acknowledgement was held after its commit. */
  onHeld(seconds: number): void
}

/** On top of the time for which a look counts as fresh: timers and clocks are exact to a few milliseconds. */
const holdMarginMs = 10
const retryMs = 500
/** Unrecorded revocations kept for later. None of them was acknowledged, so what does not fit may be dropped. */
const maxUnrecorded = 10_000

const namesOf = (entries: readonly RevocationEntry[]): string[] =>
  entries.map(({ scope, subject }) => `${scope} ${subject}`)

/** What the audit tells of a revocation, whatever becomes of it. */
function about({ sub, reason }: Revocation, entries: readonly RevocationEntry[]) {
  const generation = entries.find(({ scope }) => scope === 'generation')
  const owner = sub ?? (generation && parseGenerationSubject(generation.subject).sub)
  return { ...(owner !== undefined && { sub: owner }), reason }
}

/** Stop it before its database closes. */
export function createRevoker({ db, tail, index, audit, holds, onHeld }: RevokerOptions): Revoker {
  const unrecorded: Revocation[] = []
  let retry: NodeJS.Timeout | undefined
  let recording: Promise<void> | undefined
  let stopped = false

  /** @returns the entries as recorded, and for how long the acknowledgement must be held from now */
  function commit({ entries, reason, within }: Revocation) {
    return durably(db, async (tx) => {
      const recorded = within ? await within(tx) : entries
      const { freshMs } = await record(tx, recorded, reason)
      return { recorded, holdMs: holds ? freshMs + holdMarginMs : 0 }
    })
  }

  /** The index tells of its own failures; an acknowledgement does not rest on it. */
  async function writeIndex(entries: readonly RevocationEntry[]): Promise<void> {
    if (entries.length > 0) await index?.write(entries).catch(() => {})
  }

  async function revoke(revocation: Revocation): Promise<void> {
    const { entries, origin } = revocation
    tail.add(entries)
    const indexing = writeIndex(entries)
    let committed: Awaited<ReturnType<typeof commit>>
    try {
      committed = await commit(revocation)
    } catch (cause) {
      await indexing
      if (!isDatabaseUnavailable(cause)) throw cause
      // What is refused must come to be recorded. What was only asked for is forgotten: its asker knows that it failed.
      if (entries.length > 0) remember(revocation)
      audit.record(
        {
          event: 'revocation.not_recorded',
          ...about(revocation, entries),
          subjects: namesOf(entries),
        },
        origin,
      )
      throw new Outcome('unavailable', { detail: 'The revocation could not be recorded yet.', cause })
    }
    const committedAt = performance.now()
    // As recorded, they may live longer; with nothing recorded anew, they stand in the record already.
    const revoked = committed.recorded.length > 0 ? committed.recorded : entries
    tail.add(revoked)
    // Once more: what was lost before the commit is not missed by those who looked in between (witness.ts).
    const indexingAgain = writeIndex(revoked)
    await Promise.all([indexing, indexingAgain, delay(committed.holdMs)])
    const told = { ...about(revocation, revoked), subjects: namesOf(revoked) }
    // Every tail that still counts as fresh has looked since the commit. Others believe an index that has forgotten nothing, and
    // know by this look that there was something to forget (witness.ts).
    if (holds && !(await tail.lookAgain())) {
      audit.record({ event: 'revocation.unconfirmed', ...told }, origin)
      throw new Outcome('unavailable', {
        detail: 'The revocation is recorded, but not yet known everywhere.',
      })
    }
    if (holds) onHeld((performance.now() - committedAt) / 1000)
    if (revoked.length > 0) audit.record({ event: 'revocation.acknowledged', ...told }, origin)
  }

  function remember(revocation: Revocation): void {
    if (unrecorded.length >= maxUnrecorded) unrecorded.shift()
    unrecorded.push(revocation)
    schedule()
  }

  function schedule(): void {
    if (stopped || unrecorded.length === 0) return
    retry ??= setTimeout(() => {
      recording = recordLate()
    }, retryMs)
  }

  async function recordLate(): Promise<void> {
    for (let next = unrecorded.shift(); next; next = unrecorded.shift()) {
      try {
        const { recorded } = await commit(next)
        tail.add(recorded)
        await writeIndex(recorded)
      } catch (error) {
        if (isDatabaseUnavailable(error)) {
          unrecorded.unshift(next)
          break
        }
        audit.record({ event: 'revocation.dropped', ...about(next, next.entries) }, next.origin)
        continue
      }
      audit.record({ event: 'revocation.recorded_late', ...about(next, next.entries) }, next.origin)
    }
    retry = undefined
    schedule()
  }

  return {
    revoke,
    async stop() {
      stopped = true
      clearTimeout(retry)
      await recording
      await recordLate()
    },
  }
}
