/**
 * One clock for all instances: the local one, corrected by Postgres's. Whatever decides how long something lives asks
 * it, so that two machines that disagree about the time still agree about a token.
 */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Takes a reading of Postgres's clock, made somewhere between two readings of the local one (all in milliseconds). */
  correct(serverTime: number, sentAt: number, receivedAt: number): void
}

export function createServerClock(): Clock {
  let offset = 0
  return {
    now: () => Date.now() + offset,
    correct(serverTime, sentAt, receivedAt) {
      offset = serverTime - (sentAt + receivedAt) / 2
    },
  }
}

/** NumericDate (RFC 7519 §2): whole seconds since the epoch. */
export const inSeconds = (clock: Pick<Clock, 'now'>): number => Math.floor(clock.now() / 1000)
