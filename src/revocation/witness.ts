/**
 * Whether an instance that cannot read the record may believe an index that does not refuse. While nobody can read it, nothing
 * is acknowledged, and it may. While others can, it may as long as the index has kept what they wrote there. Redis tells both:
 * the epoch is a random value that is lost with all the rest, and beside it stands when somebody last read the record.
 */
import { randomUUID } from 'node:crypto'
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
  redis: Pick<RedisClient, 'pipeline' | 'set'>
  prefix: string
  tail: Pick<Tail, 'lastLook'>
  /** How old a look may be for a tail to be fresh. What is acknowledged was committed at least so long before the last look. */
  freshMs: number
}

const lifeSeconds = 86_400
/** After this time every instance that reaches Redis has told when it last read the record: to connect anew, to tell, to hear. */
const settlingMs = 1_000

export function createWitness({ redis, prefix, tail, freshMs }: WitnessOptions): Witness {
  const epochKey = `${prefix}:epoch`
  const seenKey = `${prefix}:seen`
  /** What was heard last, and when. */
  let heard: { epoch: string | null; at: number } | undefined
  /** The epoch of what was written to the index since this instance last read the record. */
  let kept: string | null = null
  /** The last loss of an epoch. */
  let loss: { epoch: string | null; at: number } | undefined
  /** When somebody last read the record, by Postgres's clock. */
  let lastSeen = Number.NEGATIVE_INFINITY

  function notice(epoch: string | null): void {
    if (loss?.epoch === epoch) return
    if (loss?.epoch === null) loss.epoch = epoch
    else loss = { epoch, at: performance.now() }
  }

  return {
    epochKey,

    async beat() {
      const results = await redis
        .pipeline()
        .set(epochKey, randomUUID(), 'EX', lifeSeconds, 'NX')
        .expire(epochKey, lifeSeconds)
        .mget(epochKey, seenKey)
        .exec()
      // One that takes no writes was not told what was taken back since.
      for (const [error] of results ?? []) if (error) throw error
      const [epoch = null, seen = null] = (results?.at(-1)?.[1] ?? []) as (string | null)[]

      const { serverTime, sentAt } = tail.lastLook()
      // Whatever was recorded before a look is in the tail. The rest was written to an epoch that began before that look.
      if (sentAt === Number.NEGATIVE_INFINITY) kept = epoch
      else if (heard && sentAt > heard.at) kept = heard.epoch
      heard = { epoch, at: performance.now() }
      notice(epoch)
      const told = seen === null ? Number.NEGATIVE_INFINITY : Number(seen)
      lastSeen = Math.max(lastSeen, told, serverTime)
      // Also by whom the record cannot reach any more: Redis may have lost what was told before.
      if (lastSeen > told) await redis.set(seenKey, lastSeen, 'EX', lifeSeconds)
    },

    isReliable(epoch) {
      if (epoch !== null && epoch === kept) return true
      notice(epoch)
      const isBehind = lastSeen - tail.lastLook().serverTime >= freshMs
      return !isBehind && loss !== undefined && performance.now() - loss.at > settlingMs
    },
  }
}
