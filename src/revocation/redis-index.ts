/**
 * The index: one key an entry in Redis, whose existence refuses. It makes a revocation immediate on every instance,
 * and it may lose anything at any time: it is never the record.
 */
import { type Clock, inSeconds } from '../db/clock.ts'
import { type RevocationEntry, type RevocationScope, subjectsOf, type TokenIdentity } from './entries.ts'
import type { RedisClient } from './redis.ts'
import { createWitness, type WitnessOptions } from './witness.ts'

export interface RevocationIndex {
  /** Writes entries; keys that exist keep the longer life. @throws if Redis did not take all of them */
  write(entries: readonly RevocationEntry[]): Promise<void>
  /** The keys whose existence refuses a token. */
  prepare(token: TokenIdentity): readonly string[]
  /** Asks in the next round trip; undefined when the index cannot tell, or cannot be relied on (witness.ts). */
  has(keys: readonly string[], done: (dead: boolean | undefined) => void): void
  /** Whether this is among what it refuses, as far as it can tell. */
  holds(entry: Pick<RevocationEntry, 'scope' | 'subject'>): Promise<boolean>
  isKnown(): boolean
  /** Resolves when it is clear whether the index answers; keeps looking until stopped. */
  start(): Promise<void>
  stop(): void
}

export interface RedisIndexOptions {
  /** With a command deadline and without an offline queue: an index that is slow is no index. */
  redis: Pick<RedisClient, 'exists' | 'mget' | 'pipeline' | 'set' | 'isCluster'>
  clock: Clock
  tail: WitnessOptions['tail']
  freshMs: number
  /** Told when the index becomes unknown and known again. */
  onChange(state: 'known' | 'unknown', error?: unknown): void
}

const heartbeatMs = 200
const letters: Record<RevocationScope, string> = { token: 'j', session: 's', generation: 'g', key: 'k' }
const scopes = Object.keys(letters) as RevocationScope[]

export function createRedisIndex({
  redis,
  clock,
  tail,
  freshMs,
  onChange,
}: RedisIndexOptions): RevocationIndex {
  // In a Cluster, all keys are in the one slot of this tag: one command asks for many.
  const prefix = redis.isCluster ? '{rv}' : 'rv'
  const keyOf = (scope: RevocationScope, subject: string) => `${prefix}:${letters[scope]}:${subject}`
  const witness = createWitness({ redis, prefix, tail, freshMs })

  let known = true
  let heartbeat: NodeJS.Timeout | undefined
  let stopped = false

  // One command is in flight at a time, shared by all who asked before it was sent. Whoever asks while it flies waits for
  // the next one: an answer must be younger than the question.
  let inFlight = false
  let keys: string[] = []
  let waiting: ((dead: boolean | undefined) => void)[] = []

  function send(): void {
    const [asked, askers] = [keys, waiting]
    keys = []
    waiting = []
    if (!known) {
      answer(askers)
      return
    }
    asked.push(witness.epochKey)
    redis.mget(asked).then(
      (found) => answer(askers, found),
      (error: unknown) => {
        lose(error)
        answer(askers)
      },
    )
  }

  function answer(askers: typeof waiting, found?: (string | null)[]): void {
    inFlight = false
    schedule()
    const live = found && witness.isReliable(found.at(-1) ?? null) ? false : undefined
    for (let i = 0; i < askers.length; i++) {
      const at = i * scopes.length
      askers[i]?.(found && scopes.some((_, k) => found[at + k] !== null) ? true : live)
    }
  }

  function schedule(): void {
    if (inFlight || keys.length === 0) return
    inFlight = true
    setImmediate(send)
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

    prepare(token) {
      const subjects = subjectsOf(token)
      return scopes.map((scope) => keyOf(scope, subjects[scope]))
    },

    has(wanted, done) {
      if (!known) {
        done(undefined)
        return
      }
      for (const key of wanted) keys.push(key)
      waiting.push(done)
      schedule()
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
