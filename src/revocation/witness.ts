/**
 * Whether an instance that cannot read the record may believe an index that does not refuse. While nobody can read it, nothing
 * is acknowledged, and it may. While others can, it may as long as the index has kept what they wrote there. Redis tells both:
 * the epoch is a random value that is lost with all the rest, and beside it stands when somebody last read the record.
 */
import { randomUUID } from 'node:crypto'
import type { Clock } from '../db/clock.ts'
import type { RedisClient } from './redis.ts'
import type { Tail } from './tail.ts'

export interface Witness {
  /** The key of the epoch, to be read with every question. */
  readonly epochKey: string
  /** Tells the other instances, and hears from them. @throws if Redis does not answer, or takes no writes */
  beat(): Promise<void>
  /** Whether an index of this epoch has kept all that this instance may have missed. */
  isReliable(epoch: string | null): boolean
}

export interface WitnessOptions {
  redis: Pick<RedisClient, 'pipeline'>
  prefix: string
  clock: Clock
  tail: Pick<Tail, 'isFresh' | 'lastLook'>
  /** How old a look may be for a tail to be fresh. What is acknowledged was committed at least so long before the last look. */
  freshMs: number
}

const lifeSeconds = 86_400
/** After this time every instance that reaches both Redis and the record has told so: to connect anew, to tell, to hear. */
const settlingMs = 600

export function createWitness({ redis, prefix, clock, tail, freshMs }: WitnessOptions): Witness {
  const epochKey = `${prefix}:epoch`
  const seenKey = `${prefix}:seen`
  /** What was heard last, and when it was asked. */
  let heard: { epoch: string | null; askedAt: number; quietMs: number } | undefined
  /** The epoch of what was written to the index since this instance last read the record. */
  let kept: string | null = null
  /** The last loss of an epoch. */
  let loss: { epoch: string | null; at: number; wasQuiet: boolean } | undefined
  /** When somebody last read the record, by Postgres's clock. */
  let lastSeen = Number.NEGATIVE_INFINITY

  function notice(epoch: string | null): void {
    if (loss?.epoch === epoch) return
    const at = performance.now()
    // Nobody had read the record for long when this instance last heard of them, which was just now: nobody will.
    const wasQuiet = heard !== undefined && at - heard.askedAt < settlingMs && heard.quietMs > settlingMs
    if (loss?.epoch === null) loss.epoch = epoch
    else loss = { epoch, at, wasQuiet }
  }

  return {
    epochKey,

    async beat() {
      const askedAt = performance.now()
      const pipeline = redis
        .pipeline()
        .set(epochKey, randomUUID(), 'EX', lifeSeconds, 'NX')
        .expire(epochKey, lifeSeconds)
      const { serverTime, sentAt } = tail.lastLook()
      if (tail.isFresh()) pipeline.set(seenKey, serverTime, 'EX', lifeSeconds)
      const results = (await pipeline.mget(epochKey, seenKey).exec()) ?? []
      // One that takes no writes was not told what was taken back since.
      for (const [error] of results) if (error) throw error
      const [epoch = null, seen = null] = (results.at(-1)?.[1] ?? []) as (string | null)[]

      // Whatever was recorded before a look is in the tail. The rest was written to an epoch that began before that look.
      if (sentAt === Number.NEGATIVE_INFINITY) kept = epoch
      else if (heard && sentAt > heard.askedAt) kept = heard.epoch
      lastSeen = Math.max(lastSeen, Number(seen ?? lastSeen))
      heard = { epoch, askedAt, quietMs: clock.now() - lastSeen }
      notice(epoch)
    },

    isReliable(epoch) {
      if (epoch !== null && epoch === kept) return true
      notice(epoch)
      const isBehind = lastSeen - tail.lastLook().serverTime >= freshMs
      return !isBehind && loss !== undefined && (loss.wasQuiet || performance.now() - loss.at > settlingMs)
    },
  }
}
