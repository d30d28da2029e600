import { type Clock, inSeconds } from '../db/clock.ts'
import { Outcome } from '../outcomes.ts'

/**
 * Some things take more than a live session: that its owner has proved who they are a short while ago (RFC 9470), or by a second
 * factor too.
 *
 * @param acr how strong the proof must be
 * @throws Outcome `reauthentication_required`
 */
export type AssertFresh = (holder: { auth_time: number; acr?: string }, acr?: 'aal2') => void

export interface FreshnessOptions {
  clock: Clock
  /** How long a proof is fresh. */
  freshSeconds: number
}

export function createFreshness({ clock, freshSeconds }: FreshnessOptions): AssertFresh {
  return function assertFresh(holder, acr) {
    if (inSeconds(clock) - holder.auth_time > freshSeconds || (acr !== undefined && holder.acr !== acr))
      throw new Outcome('reauthentication_required', {
        maxAgeSeconds: freshSeconds,
        ...(acr !== undefined && { acr }),
      })
  }
}
