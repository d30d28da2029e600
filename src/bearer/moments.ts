/** When something happened, on the clock that never jumps and on the one that also runs while the machine is suspended. */
export interface Moment {
  steady: number
  wall: number
}

export const rightNow = (): Moment => ({ steady: performance.now(), wall: Date.now() })

/** So many milliseconds after another one. */
export const after = ({ steady, wall }: Moment, ms: number): Moment => ({
  steady: steady + ms,
  wall: wall + ms,
})

/** In milliseconds; the greater age, where the two differ. */
export const ageOf = (then: Moment): number =>
  Math.max(performance.now() - then.steady, Date.now() - then.wall)
