import type { Stores } from './contestants.ts'
import type { Spread } from './rounds.ts'

/** What a chapter of the benchmark tells. */
export interface Table {
  title: string
  /** What was measured and how, and what it is meant to be. */
  about: string
  columns: readonly string[]
  rows: readonly (readonly string[])[]
  chart?: Chart
}

/** Shares of one, a bar each, in groups. */
export interface Chart {
  /** Of the SVG beside the report, without its ending. */
  file: string
  title: string
  groups: readonly string[]
  bars: readonly { name: string; shares: readonly Spread[] }[]
}

export interface BenchOptions {
  /** Fewer and shorter rounds: enough to see what has broken, and for no figure that one would quote. */
  quick: boolean
  /** Servers of their own, which end with the benchmark. */
  startStores(): Promise<Stores>
}

export type Chapter = (options: BenchOptions) => Promise<Table[]>

export function toMarkdown({ title, about, columns, rows, chart }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  const rule = columns.map((_, at) => (at === 0 ? '---' : '---:'))
  const table = [columns, rule, ...rows].map(line).join('\n')
  const picture = chart ? `![${chart.title}](${chart.file}.svg)\n\n` : ''
  return `## ${title}\n\n${about}\n\n${picture}${table}\n`
}
