/** Processes on cores of their own, and the CPU that they take. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** As Linux numbers them. Read here, for whoever has given some of them away has fewer. */
const cores = coresIn(/^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])

export const coreCount = cores.length

/** The servers that are measured share one core, for they work by turns; load and stores have the others. */
export const serverCore = `${cores[0]}`
export const otherCores = cores.slice(1).join()
export const allCores = cores.join()

/** @param list such as 0-3,8 */
function coresIn(list = ''): number[] {
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

/** Ticks in which Linux counts CPU time. */
const ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))

export interface PinnedProcess {
  child: ChildProcess
  /** Microseconds that it and its children have had of a processor so far. */
  cpuMicroseconds(): number
  /** Bytes that it holds in memory, and its children with it. */
  residentBytes(): number
  /** The most that it ever held. */
  peakBytes(): number
  end(): Promise<void>
}

/** @param env all of it */
export function startPinned(
  cores: string,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
): PinnedProcess {
  // It must not outlive the benchmark, however that ends.
  const child = spawn('setpriv', ['--pdeathsig=KILL', 'taskset', '-c', cores, ...command], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const ended = once(child, 'exit')

  return {
    child,
    cpuMicroseconds: () => sumOfFamily(child, cpuMicrosecondsOf),
    residentBytes: () => sumOfFamily(child, (pid) => bytesOf(pid, 'VmRSS')),
    peakBytes: () => sumOfFamily(child, (pid) => bytesOf(pid, 'VmHWM')),
    async end() {
      child.kill('SIGTERM')
      await ended
    },
  }
}

/**
 * The same for a shell script whose children would go on without it, as those of npm do. They are one process group, which
 * gets SIGTERM, at the end or when the benchmark dies, and the end is when the last of them has gone.
 */
export function startPinnedGroup(
  cores: string,
  script: string,
  { cwd, env }: { cwd: string; env: Readonly<Record<string, string>> },
): Pick<PinnedProcess, 'residentBytes' | 'end'> {
  const supervise = `trap 'trap "" TERM; kill -TERM 0' TERM; ${script} & wait`
  const command = ['taskset', '-c', cores, 'sh', '-c', supervise]
  const child = spawn('setpriv', ['--pdeathsig=TERM', ...command], {
    cwd,
    env: { PATH: process.env.PATH, ...env },
    detached: true,
    // A pipe closes when the last that could write to it has ended.
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  child.stdout.resume()
  const closed = once(child, 'close')

  return {
    residentBytes: () => sumOfFamily(child, (pid) => bytesOf(pid, 'VmRSS')),
    async end() {
      child.kill('SIGTERM')
      await closed
    },
  }
}

/** Resolves with the milliseconds until it answered, and was not still unavailable. */
export async function waitFor(url: string): Promise<number> {
  const startedAt = performance.now()
  for (;;) {
    try {
      if ((await fetch(url)).status < 500) return performance.now() - startedAt
    } catch {}
    if (performance.now() - startedAt > 60_000) throw new Error(`${url} does not answer`)
    await sleep(5)
  }
}

const sumOfFamily = ({ pid }: ChildProcess, read: (pid: number) => number): number =>
  familyOf(pid as number).reduce((total, pid) => total + read(pid), 0)

function familyOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return [pid, ...(children ? children.split(' ').flatMap((child) => familyOf(Number(child))) : [])]
}

/** proc(5): user and system time stand twelve and thirteen fields behind the name, which may have spaces in it. */
function cpuMicrosecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return ((Number(fields[11]) + Number(fields[12])) * 1e6) / ticksPerSecond
}

function bytesOf(pid: number, figure: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const [, kilobytes] = new RegExp(`^${figure}:\\s+(\\d+)`, 'm').exec(status) ?? []
  return Number(kilobytes) * 1024
}
