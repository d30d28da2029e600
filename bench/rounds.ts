/** Measures that take turns, so that whatever else the machine does reaches all of them, and what may be said of the figures. */

/** Whoever is first in one round is last in the next. @returns what each measured, round by round */
export async function takeTurns<Name extends string, Figures>(
  rounds: number,
  measures: Readonly<Record<Name, () => Promise<Figures>>>,
): Promise<Record<Name, Figures[]>> {
  const names = Object.keys(measures) as Name[]
  const figures = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, Figures[]>
  for (let round = 0; round < rounds; round++)
    for (const name of round % 2 ? names.toReversed() : names) figures[name].push(await measures[name]())
  return figures
}

/** The middle, and what a tenth of the rounds was below or above. */
export interface Spread {
  median: number
  low: number
  high: number
}

export function spreadOf(numbers: readonly number[]): Spread {
  const ascending = numbers.toSorted((a, b) => a - b)
  const at = (part: number) => ascending[Math.round(part * (ascending.length - 1))] as number
  return { median: at(0.5), low: at(0.1), high: at(0.9) }
}

/** One figure of every round. */
export const numbers = <Figure extends string>(
  rounds: readonly Readonly<Record<Figure, number>>[] = [],
  figure: Figure,
): number[] => rounds.map((round) => round[figure])

export const median = <Figure extends string>(
  rounds: readonly Readonly<Record<Figure, number>>[] | undefined,
  figure: Figure,
): number => spreadOf(numbers(rounds, figure)).median

/** Of what was measured in the same round. */
export const ratioOf = (above: readonly number[], below: readonly number[]): Spread =>
  spreadOf(above.map((figure, round) => figure / (below[round] as number)))

export const showSpread = ({ median, low, high }: Spread, digits = 2): string =>
  `${median.toFixed(digits)} (${low.toFixed(digits)}–${high.toFixed(digits)})`
