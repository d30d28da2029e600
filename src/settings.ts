/** Reads settings from the environment and keeps count of all that is wrong with them, never with a value in it. */
import { readFileSync } from 'node:fs'

export type Environment = Readonly<Record<string, string | undefined>>

/** Every problem of the environment, a line each. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`the settings are wrong:\n${problems.map((problem) => `  ${problem}`).join('\n')}`)
    this.problems = problems
  }
}

export interface Settings {
  /** An empty setting is an absent one. */
  text(name: string): string | undefined
  integer(name: string, range: { default: number; min: number; max: number }): number
  oneOf<T extends string>(name: string, fallback: T, allowed: readonly T[]): T
  /** A value that may stand in a file instead (`NAME_FILE`), as orchestrators mount secrets. */
  secret(name: string): string | undefined
  /** The value, if it is a URL of one of these protocols. */
  url(name: string, value: string | undefined, protocols: readonly string[]): string | undefined
  problem(name: string, what: string): void
  /** @throws ConfigError with all problems so far */
  assertSound(): void
}

export function readSettings(env: Environment): Settings {
  const problems: string[] = []
  const problem = (name: string, what: string) => void problems.push(`${name} ${what}`)
  const text = (name: string) => env[name] || undefined

  return {
    text,
    problem,

    integer(name, { default: fallback, min, max }) {
      const value = text(name)
      if (value === undefined) return fallback
      const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN
      if (number >= min && number <= max) return number
      problem(name, `must be a whole number from ${min} to ${max}`)
      return fallback
    },

    oneOf(name, fallback, allowed) {
      const value = text(name) ?? fallback
      const known = allowed.find((one) => one === value)
      if (known === undefined) problem(name, `must be one of ${allowed.join(', ')}`)
      return known ?? fallback
    },

    secret(name) {
      const file = text(`${name}_FILE`)
      if (file === undefined) return text(name)
      if (text(name) !== undefined) problem(name, `and ${name}_FILE are both set`)
      try {
        return readFileSync(file, 'utf8').trim() || undefined
      } catch {
        problem(`${name}_FILE`, 'cannot be read')
        return undefined
      }
    },

    url(name, value, protocols) {
      if (value === undefined) return undefined
      if (URL.canParse(value) && protocols.includes(new URL(value).protocol)) return value
      const starts = protocols.map((protocol) => `${protocol}//`)
      problem(name, `must be a URL that starts with ${starts.join(' or ')}`)
      return undefined
    },

    assertSound() {
      if (problems.length > 0) throw new ConfigError(problems)
    },
  }
}
