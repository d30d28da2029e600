import { isIP } from 'node:net'
import { normalizeIP } from '@fastify/rate-limit'

/** A proxy may write a port behind the address. */
const forwarded = /^\[?([\da-f.:]+?)\]?(:\d+)?$/i

/**
 * What counts as one client. An IPv6 client has a whole /64, and an IPv4 address may be written as IPv6. Whoever is at no address,
 * as a connection that is gone or one from a proxy that writes something else, is one client.
 */
export function networkOf({ ip = '' }: { ip?: string }): string {
  const address = isIP(ip) ? ip : (forwarded.exec(ip)?.[1] ?? '')
  return isIP(address) ? normalizeIP(address) : ''
}
