/**
 * The index: one key an entry in Redis, whose existence refuses. It makes a revocation immediate on every instance,
 * and it may lose anything at any time: it is never the record.
 */

import {
  generationSubject,
  type RevocationEntry,
  type RevocationScope,
  type TokenIdentity,
} from '../bearer/revoked-entries.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import { getMany, type RedisClient } from './redis.ts'
import { createWitness, type WitnessOptions } from './witness.ts'

type Done = (dead: boolean | undefined) => void

export interface RevocationIndex {
  /** Writes entries; keys that exist keep the longer life. @throws if Redis did not take all of them */
  write(entries: readonly RevocationEntry[]): Promise<void>
  /** Asks in the next round trip; undefined when the index cannot tell, or cannot be relied on (witness.ts). */
  has(token: TokenIdentity, done: Done): void
  /** Whether this is among what it refuses, as far as it can tell. */
  holds(entry: Pick<RevocationEntry, 'scope' | 'subject'>): Promise<boolean>
  isKnown(): boolean
  /** Resolves when it is clear whether the index answers; keeps looking until stopped. */
  start(): Promise<void>
  stop(): void
}

export interface RedisIndexOptions {
  /** With a command deadline and without an offline queue: an index that is slow is no index. */
  redis: Pick<RedisClient, 'exists' | 'sendCommand' | 'pipeline' | 'set' | 'isCluster'>
  clock: Clock
  tail: WitnessOptions['tail']
  freshMs: number
  /** Told when the index becomes unknown and known again. */
  onChange(state: 'known' | 'unknown', error?: unknown): void
}

const heartbeatMs = 200

/** What one round trip asks. */
interface Batch {
  /** Of each token three: of its jti, its sid and its generation. */
  keys: string[]
  /** The keys that signed them, each once. */
  kids: string[]
  /** Who asked about each token, and the place of its kid. */
  askers: { done: Done; kidAt: number }[]
}
const keysPerToken = 3
const emptyBatch = (): Batch => ({ keys: [], kids: [], askers: [] })

export function createRedisIndex({
  redis,
  clock,
  tail,
  freshMs,
  onChange,
}: RedisIndexOptions): RevocationIndex {
  // In a Cluster, all keys are in the one slot of this tag: one command asks for many.
  const prefix = redis.isCluster ? '{rv}' : 'rv'
  const starts: Record<RevocationScope, string> = {
    token: `${prefix}:j:`,
    session: `${prefix}:s:`,
    generation: `${prefix}:g:`,
    key: `${prefix}:k:`,
  }
  const keyOf = (scope: RevocationScope, subject: string) => starts[scope] + subject
  const witness = createWitness({ redis, prefix, tail, freshMs })

  let known = true
  let heartbeat: NodeJS.Timeout | undefined
  let stopped = false

  // One command is in flight at a time, shared by all who asked before it was sent. Whoever asks while it flies waits for
  // the next one: an answer must be younger than the question.
  let inFlight = false
  let next = emptyBatch()

  function send(): void {
    inFlight = true
    const batch = next
    next = emptyBatch()
    if (!known) {
      answer(batch, undefined)
      return
    }
    getMany(redis, [...batch.keys, ...batch.kids.map((kid) => keyOf('key', kid)), witness.epochKey]).then(
      (found) => answer(batch, found),
      (error: unknown) => {
        lose(error)
        answer(batch, undefined)
      },
    )
  }

  function answer({ keys, askers }: Batch, found: (string | null)[] | undefined): void {
    inFlight = false
    // Before anybody here is answered, so that it is under way meanwhile.
    if (next.askers.length > 0) send()
    const live = found && witness.isReliable(found.pop() ?? null) ? false : undefined
    const exists = (at: number) => found?.[at] != null
    // Hardly ever: what was taken back longer ago than a moment, the tail has refused before.
    const isAnyDead = found?.some((value) => value !== null) ?? false
    let at = 0
    for (const { done, kidAt } of askers) {
      const isDead =
        isAnyDead && (exists(at) || exists(at + 1) || exists(at + 2) || exists(keys.length + kidAt))
      done(isDead || live)
      at += keysPerToken
    }
  }

  /** The first failure makes the index unknown for all; only the heartbeat, never a request, brings it back. */
  function lose(error: unknown): void {
    if (known) onChange('unknown', error)
    known = false
  }

  async function beat(): Promise<void> {
    try {
      await witness.beat()
      if (!known) onChange('known')
      known = true
    } catch (error) {
      lose(error)
    }
  }

  async function keepBeating(): Promise<void> {
    await beat()
    if (!stopped) heartbeat = setTimeout(() => void keepBeating(), heartbeatMs)
  }

  return {
    async write(entries) {
      const pipeline = redis.pipeline()
      for (const { scope, subject, expiresAt } of entries) {
        const key = keyOf(scope, subject)
        const life = Math.max(1, Math.ceil(expiresAt - inSeconds(clock)))
        pipeline.set(key, '', 'EX', life, 'NX').expire(key, life, 'GT')
      }
      try {
        for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error
      } catch (error) {
        // Known again with the next heartbeat that succeeds.
        lose(error)
        throw error
      }
    },

    has({ kid, claims: { jti, sub, sid = sub, ver } }, done) {
      if (!known) {
        done(undefined)
        return
      }
      const { keys, kids, askers } = next
      keys.push(keyOf('token', jti), keyOf('session', sid), keyOf('generation', generationSubject(sub, ver)))
      const kidAt = kids.includes(kid) ? kids.indexOf(kid) : kids.push(kid) - 1
      // The first one; by then, those who ask with it will have asked.
      if (askers.push({ done, kidAt }) === 1 && !inFlight) queueMicrotask(send)
    },

    async holds({ scope, subject }) {
      if (!known) return false
      try {
        return (await redis.exists(keyOf(scope, subject))) > 0
      } catch (error) {
        lose(error)
        return false
      }
    },

    isKnown: () => known,

    start: keepBeating,

    stop() {
      stopped = true
      clearTimeout(heartbeat)
    },
  }
}
