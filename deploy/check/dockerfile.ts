/** Reads as much of a Dockerfile's language as ours needs. Whatever else stands there is an error, never skipped. */

export interface Stage {
  name: string | undefined
  /** An image, or an earlier stage. */
  base: string
  steps: Step[]
}

export type Step =
  | { kind: 'arg'; name: string; value: string | undefined }
  | { kind: 'env'; values: Record<string, string> }
  | { kind: 'workdir'; path: string }
  | { kind: 'copy'; from: string | undefined; sources: string[]; target: string }
  | { kind: 'run'; script: string }
  | { kind: 'user'; name: string }
  | { kind: 'expose'; port: number }
  | { kind: 'healthcheck'; check: HealthCheck }
  | { kind: 'cmd'; command: Command }

export type Command = [program: string, ...args: string[]]

export interface HealthCheck {
  command: Command
  timeoutSeconds: number
  startPeriodSeconds: number
}

/** @throws Error with the first instruction that is not understood */
export function parseDockerfile(text: string): Stage[] {
  if (/^#\s*(syntax|escape|check)\s*=/i.test(text))
    throw new Error('Dockerfile: directives are not understood')
  const stages: Stage[] = []
  for (const line of instructions(text)) {
    const [, name = '', rest = ''] = /^(\w+)\s+(.+)$/.exec(line) ?? []
    if (name === 'FROM') {
      const [, base, stage] = match(line, rest, /^([^\s$-]\S*?)(?: AS (\w+))?$/)
      stages.push({ base: base as string, name: stage, steps: [] })
      continue
    }
    const read = readers[name]
    const stage = stages.at(-1)
    if (!read || !stage) throw notUnderstood(line)
    stage.steps.push(read(rest, line))
  }
  if (stages.length === 0) throw new Error('Dockerfile: no stage')
  return stages
}

/** Without comments, each on one line. */
function instructions(text: string): string[] {
  const lines = text.split('\n').filter((line) => !/^\s*(#|$)/.test(line))
  return lines
    .join('\n')
    .replace(/\\\n\s*/g, '')
    .split('\n')
    .map((line) => line.trim())
}

const readers: Record<string, (rest: string, line: string) => Step> = {
  ARG(rest, line) {
    const [, name, value] = match(line, rest, /^(\w+)(?:=([^\s$"']*))?$/)
    return { kind: 'arg', name: name as string, value }
  },
  ENV(rest, line) {
    match(line, rest, /^(\w+=[^\s$"'\\]+ ?)+$/)
    const pairs = rest.split(' ').map((pair): [string, string] => pair.split(/=(.*)/) as [string, string])
    return { kind: 'env', values: Object.fromEntries(pairs) }
  },
  WORKDIR(rest, line) {
    match(line, rest, /^\/[\w./-]+$/)
    return { kind: 'workdir', path: rest }
  },
  COPY(rest, line) {
    const [, from, paths] = match(line, rest, /^(?:--from=(\w+) )?([\w@./-]+(?: [\w@./-]+)+)$/)
    const sources = (paths as string).split(' ')
    const target = sources.pop() as string
    if (sources.some((source) => source.startsWith('-'))) throw notUnderstood(line)
    if (sources.length > 1 && !target.endsWith('/')) throw new Error(`Dockerfile: needs a folder: ${line}`)
    return { kind: 'copy', from, sources, target }
  },
  RUN(rest, line) {
    if (/^(--|\[)|<</.test(rest)) throw notUnderstood(line)
    return { kind: 'run', script: rest }
  },
  USER(rest, line) {
    match(line, rest, /^\w+$/)
    return { kind: 'user', name: rest }
  },
  EXPOSE(rest, line) {
    match(line, rest, /^\d+$/)
    return { kind: 'expose', port: Number(rest) }
  },
  HEALTHCHECK(rest, line) {
    const [, flags, command] = match(line, rest, /^((?:--[a-z-]+=\d+s? )*)CMD (.+)$/)
    const seconds = Object.fromEntries((flags as string).split(' ').map((flag) => flag.split('=')))
    const known = ['--interval', '--timeout', '--start-period', '--retries', '']
    if (Object.keys(seconds).some((flag) => !known.includes(flag))) throw notUnderstood(line)
    const of = (flag: string, fallback: number) => Number.parseInt(seconds[flag] ?? `${fallback}`, 10)
    return {
      kind: 'healthcheck',
      check: {
        command: execForm(line, command as string),
        timeoutSeconds: of('--timeout', 30),
        startPeriodSeconds: of('--start-period', 0),
      },
    }
  },
  CMD: (rest, line) => ({ kind: 'cmd', command: execForm(line, rest) }),
}

/** `["program", "argument"]`. A command for the shell would put the shell before the program when a signal comes. */
function execForm(line: string, text: string): Command {
  let command: unknown
  try {
    command = JSON.parse(text)
  } catch {
    throw new Error(`Dockerfile: not a list of strings, so a shell would run it: ${line}`)
  }
  if (!Array.isArray(command) || !command.length || command.some((word) => typeof word !== 'string'))
    throw notUnderstood(line)
  return command as Command
}

function match(line: string, text: string, pattern: RegExp): RegExpExecArray {
  const found = pattern.exec(text)
  if (!found) throw notUnderstood(line)
  return found
}

const notUnderstood = (line: string) => new Error(`Dockerfile: not understood: ${line}`)
