/** A temporary folder to build in, and processes that work in it. Neither outlives this process, whatever ends it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, realpathSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

export interface Workshop {
  readonly folder: string
  start(command: readonly string[], options: StartOptions): Program
  /** Kills what still runs, and removes the folder. */
  close(): Promise<void>
}

export interface StartOptions {
  cwd: string
  /** All of its environment. */
  env: Record<string, string>
  /** Whoever it is to run as, if not ourselves. */
  owner?: { uid: number; gid: number } | undefined
}

export interface Program {
  /** To this process alone, not to those that it started. */
  signal(signal: NodeJS.Signals): void
  endsWithin(seconds: number): Promise<Ending>
  /** The last it wrote. */
  said(): string
}

export interface Ending {
  code: number | null
  signal: NodeJS.Signals | null
  /** It ended before what it had started; that is then killed. */
  leftOthersRunning: boolean
}

export function createWorkshop(): Workshop {
  // As the kernel will name it, to be compared with.
  const folder = mkdtempSync(join(realpathSync(tmpdir()), 'latchkey-image-'))
  const guard = createGuard(
    'cat > /dev/null; for pause in 0.1 0.3 1 3; do rm -rf "$1" && break; sleep $pause; done',
    folder,
  )
  // For whoever the service is to run as.
  chmodSync(folder, 0o755)
  const running = new Set<Program>()
  return {
    folder,
    start(command, options) {
      const program = startProgram(command, options, () => running.delete(program))
      running.add(program)
      return program
    },
    async close() {
      await Promise.all([...running].map((program) => program.endsWithin(0)))
      guard.ref()
      ;(guard.stdin as Socket).end()
      await once(guard, 'exit')
    },
  }
}

/** @throws Error if a module that a stage does not have could be found above it all the same */
export function assertAlone(folder: string): void {
  for (let above = dirname(folder); ; above = dirname(above)) {
    if (existsSync(join(above, 'node_modules')))
      throw new Error(`${above} has node_modules, which would help out`)
    if (above === dirname(above)) return
  }
}

function startProgram(
  [program = '', ...args]: readonly string[],
  options: StartOptions,
  onEnd: () => void,
): Program {
  const { owner, ...where } = options
  // Detached: it leads a group, by which all that it starts can be reached.
  const child = spawn(program, args, {
    ...where,
    ...owner,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-4000)
    })
  }
  const end = new Promise<Ending>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => resolve({ code, signal, leftOthersRunning: killGroup(child.pid) }))
  })
  end.then(onEnd, onEnd) // a program that cannot be started is reported to whoever asks how it ended
  if (child.pid) {
    const guard = createGuard('read -r line || kill -KILL -- "-$1"', `${child.pid}`)
    child.once('exit', () => (guard.stdin as Socket).end('\n'))
  }
  return {
    signal: (signal) => void child.kill(signal),
    async endsWithin(seconds) {
      const impatience = setTimeout(() => killGroup(child.pid), seconds * 1000)
      return await end.finally(() => clearTimeout(impatience))
    },
    said: () => output,
  }
}

/** @returns whether there was anybody left */
function killGroup(leader: number | undefined): boolean {
  try {
    return leader !== undefined && process.kill(-leader, 'SIGKILL')
  } catch {
    return false
  }
}

/** A shell that acts when its input closes, which the kernel sees to however this process ends. */
function createGuard(script: string, argument: string) {
  const guard = spawn('sh', ['-c', script, 'sh', argument], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  guard.stdin.on('error', () => {})
  guard.unref()
  ;(guard.stdin as Socket).unref()
  return guard
}
