/** wrk, on the cores that the measured server does not have, and what it saw. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

export interface Load {
  url: string
  /** A file with a token a line, sent in rotation. Without it, refresh tokens (accounts.ts) are posted, each once. */
  tokens?: string
  /** Which of them is the first; behind the last of a file comes the first again. */
  from: number
  connections: number
  seconds: number
  /** How long each connection waits between a reply and the next request, in milliseconds on average. */
  pauseMs?: number
}

export interface Seen {
  requests: number
  perSecond: number
  /** Milliseconds. */
  p50: number
  p99: number
  /** Replies of any status but 2xx and 3xx, and requests without a reply. */
  failed: number
}

const pathTo = (file: string) => fileURLToPath(new URL(file, import.meta.url))
const milliseconds: Record<string, number> = { us: 0.001, ms: 1, s: 1000, m: 60_000 }

/** @throws Error if wrk is missing */
export async function load({ url, tokens, from, connections, seconds, pauseMs = 0 }: Load): Promise<Seen> {
  const { stdout } = await promisify(execFile)('wrk', [
    '--threads=1',
    `--connections=${connections}`,
    `--duration=${seconds}s`,
    '--latency',
    '--timeout=10s',
    `--script=${pathTo(tokens === undefined ? 'refresh.lua' : 'rotate.lua')}`,
    url,
    '--',
    ...(tokens === undefined ? [`${from}`] : [tokens, `${from}`, `${pauseMs}`]),
  ])
  const number = (pattern: RegExp) => Number(pattern.exec(stdout)?.[1] ?? 0)
  const time = (percentile: number) => {
    const [, value, unit = ''] = new RegExp(`^ +${percentile}% +([\\d.]+)(\\w+) *$`, 'm').exec(stdout) ?? []
    return Number(value) * (milliseconds[unit] ?? Number.NaN)
  }
  const [, connect = 0, read = 0, write = 0, timeout = 0] =
    /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(stdout)?.map(Number) ?? []
  return {
    requests: number(/(\d+) requests in/),
    perSecond: number(/Requests\/sec: +([\d.]+)/),
    p50: time(50),
    p99: time(99),
    failed: number(/Non-2xx or 3xx responses: (\d+)/) + connect + read + write + timeout,
  }
}
