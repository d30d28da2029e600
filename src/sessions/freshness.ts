import { type Clock, inSeconds } from '../db/clock.ts'
import { Outcome } from '../outcomes.ts'

/**
 * Some things take more than a live session: that its owner has proved who they are a short while ago (RFC 9470).
 *
 * @throws Outcome `reauthentication_required`
 */
export type AssertFresh = (holder: { auth_time: number }) => void

export interface FreshnessOptions {
  clock: Clock
  /** How long a proof is fresh. */
  freshSeconds: number
}

export function createFreshness({ clock, freshSeconds }: FreshnessOptions): AssertFresh {
  return function assertFresh({ auth_time }) {
    if (inSeconds(clock) - auth_time > freshSeconds)
      throw new Outcome('reauthentication_required', { maxAgeSeconds: freshSeconds })
  }
}
