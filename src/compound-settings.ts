/** The settings that are more than a number or a word, each with rules of its own. */
import { isIP } from 'node:net'
import { join } from 'node:path'
import { isRole } from './bearer/roles.ts'
import { parseRedisAddress, type RedisAddress } from './redis-address.ts'
import type { Settings } from './settings.ts'

/** At most so many in so long; `max` 0 is no limit. */
export interface Limit {
  max: number
  windowSeconds: number
}

const exampleSecret = /change.?me|example|secret|password|nanosecond/i

export const readDatabaseUrl = ({ url, secret }: Settings) =>
  url('DATABASE_URL', secret('DATABASE_URL'), ['postgres:', 'postgresql:'])

export function readRedisAddress({ secret, problem }: Settings, name: string): RedisAddress | undefined {
  const value = secret(name)
  if (value === undefined) return undefined
  const address = parseRedisAddress(value)
  if (address === undefined) problem(name, howToSpell(value))
  return address
}

/** What the setting seems meant to be decides what is told. */
function howToSpell(redis: string): string {
  if (redis.startsWith('sentinel:'))
    return 'must be sentinel://host:port,host:port/<name of the master>, with % only before two hexadecimal digits'
  if (/^rediss?:\/\//.test(redis))
    return 'must have a protocol and a host in every node, and % only before two hexadecimal digits'
  return 'must be a URL that starts with redis:// or rediss://'
}

export const readLimit = ({ integer }: Settings, name: string, usual: Limit): Limit => ({
  max: integer(`${name}_MAX`, { default: usual.max, min: 0, max: 1_000_000_000 }),
  windowSeconds: integer(`${name}_WINDOW_SECONDS`, { default: usual.windowSeconds, min: 1, max: 86_400 }),
})

function readList(
  { text, problem }: Settings,
  name: string,
  isGood: (item: string) => boolean,
  what: string,
): string[] {
  const items =
    text(name)
      ?.split(',')
      .map((item) => item.trim()) ?? []
  if (!items.every(isGood)) problem(name, `must be ${what}`)
  return items
}

/** Addresses or networks, but never everybody: whoever is believed can be anyone. */
export const readTrustProxy = (settings: Settings): string[] =>
  readList(settings, 'TRUST_PROXY', isNetwork, 'addresses or CIDRs with commas between them')

/** Each as a browser writes it in its Origin header: what is nearly one would never match, or match too much. */
export const readCorsOrigins = (settings: Settings): string[] =>
  readList(
    settings,
    'CORS_ORIGINS',
    isOrigin,
    'origins with commas between them, such as https://app.example.org',
  )

const isOrigin = (text: string) =>
  /^https?:[^*]+$/.test(text) && URL.canParse(text) && new URL(text).origin === text

function isNetwork(text: string): boolean {
  const [address = '', prefix, ...more] = text.split('/')
  const bits = { 0: 0, 4: 32, 6: 128 }[isIP(address)] ?? 0
  const length = /^[1-9]\d{0,2}$/.test(prefix ?? String(bits)) ? Number(prefix ?? bits) : 0
  return length > 0 && length <= bits && more.length === 0
}

export const readRoles = (settings: Settings, name: string): string[] =>
  readList(settings, name, isRole, 'roles with commas between them')

/** A mail server, or a folder for development. */
export type MailTarget = { smtpUrl: string } | { outboxFolder: string }

/** In production nothing is left in a folder: whoever reads a mail there can take an account over. */
export function readMail(
  { url, secret, text, problem }: Settings,
  { production, dataFolder }: { production: boolean; dataFolder: string },
): { target: MailTarget; from: string } | undefined {
  const smtpUrl = url('SMTP_URL', secret('SMTP_URL'), ['smtp:', 'smtps:'])
  const from = text('MAIL_FROM')
  if (smtpUrl !== undefined && from === undefined)
    problem('MAIL_FROM', 'is missing, but SMTP_URL is set: an address, or Name <address>')
  if (smtpUrl !== undefined) return { target: { smtpUrl }, from: from ?? '' }
  if (production) return undefined
  return { target: { outboxFolder: join(dataFolder, 'outbox') }, from: from ?? 'latchkey@localhost' }
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
