/** The settings that are more than a number or a word, each with rules of its own. */
import { isIP } from 'node:net'
import type { Settings } from './settings.ts'

/** At most so many in so long; `max` 0 is no limit. */
export interface Limit {
  max: number
  windowSeconds: number
}

const exampleSecret = /change.?me|example|secret|password|nanosecond/i

export const readDatabaseUrl = ({ url, secret }: Settings) =>
  url('DATABASE_URL', secret('DATABASE_URL'), ['postgres:', 'postgresql:'])

/** One server, the nodes of a Cluster with commas between them, or Sentinels and the name that they know the master by. */
export function readRedisUrl({ secret, url, problem }: Settings, name: string): string | undefined {
  const value = secret(name)
  if (value?.startsWith('sentinel:')) {
    const [, hosts = ''] = /^sentinel:\/\/(?:[^@/]*@)?([^@/]+)\/[^/\s]+$/.exec(value) ?? []
    if (hosts.split(',').every((host) => URL.canParse(`redis://${host}`) && host)) return value
    problem(name, 'must be sentinel://host:port,host:port/<name of the master>')
    return undefined
  }
  const nodes = value?.split(/,(?=rediss?:\/\/)/) ?? []
  if (nodes.some((node) => /,[^@]*$|:\/\/([^@]*@)?$|%(?![\da-f]{2})/i.test(node))) {
    problem(name, 'must have a protocol and a host in every node, and % only before two hexadecimal digits')
    return undefined
  }
  return nodes.every((node) => url(name, node, ['redis:', 'rediss:'])) ? value : undefined
}

export const readLimit = ({ integer }: Settings, name: string, usual: Limit): Limit => ({
  max: integer(`${name}_MAX`, { default: usual.max, min: 0, max: 1_000_000_000 }),
  windowSeconds: integer(`${name}_WINDOW_SECONDS`, { default: usual.windowSeconds, min: 1, max: 86_400 }),
})

/** Addresses or networks, but never everybody: whoever is believed can be anyone. */
export function readTrustProxy({ text, problem }: Settings): string[] {
  const proxies =
    text('TRUST_PROXY')
      ?.split(',')
      .map((proxy) => proxy.trim()) ?? []
  if (!proxies.every(isNetwork)) problem('TRUST_PROXY', 'must be addresses or CIDRs with commas between them')
  return proxies
}

function isNetwork(text: string): boolean {
  const [address = '', prefix, ...more] = text.split('/')
  const bits = { 0: 0, 4: 32, 6: 128 }[isIP(address)] ?? 0
  const length = /^[1-9]\d{0,2}$/.test(prefix ?? String(bits)) ? Number(prefix ?? bits) : 0
  return length > 0 && length <= bits && more.length === 0
}

export function readFirstAdmin({
  text,
  secret,
  problem,
}: Settings): { username: string; password: string } | undefined {
  const username = text('BOOTSTRAP_ADMIN_USERNAME')
  const password = secret('BOOTSTRAP_ADMIN_PASSWORD')
  if (username !== undefined && password !== undefined) return { username, password }
  if (username !== undefined)
    problem('BOOTSTRAP_ADMIN_PASSWORD', 'is missing, but BOOTSTRAP_ADMIN_USERNAME is set')
  if (password !== undefined)
    problem('BOOTSTRAP_ADMIN_USERNAME', 'is missing, but BOOTSTRAP_ADMIN_PASSWORD is set')
  return undefined
}

/** A secret with a telling word in it, or of few different characters, was not made by a generator. */
export const isExample = (secret: string) => exampleSecret.test(secret) || new Set(secret).size < 8
