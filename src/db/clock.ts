/**
 * One clock for all instances: the local one, corrected by Postgres's. Whatever decides how long something lives asks
 * it, so that two machines that disagree about the time still agree about a token.
 */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Takes a reading of Postgres's clock that has just arrived, after a round trip of so many milliseconds. */
  correct(serverTime: number, roundTripMs: number): void
}

export function createServerClock(local: () => number = Date.now): Clock {
  let offset = 0
  return {
    now: () => local() + offset,
    correct(serverTime, roundTripMs) {
      offset = serverTime + roundTripMs / 2 - local()
    },
  }
}

/** NumericDate (RFC 7519 §2): whole seconds since the epoch. */
export const inSeconds = (clock: Pick<Clock, 'now'>): number => Math.floor(clock.now() / 1000)
