/** Where Redis is, and the one place that knows how a setting spells it. Plain data: it stands in the frozen settings. */

/** As they are, not as a URL spells them. */
export interface RedisCredentials {
  username?: string
  password?: string
}

export interface SentinelNode {
  host: string
  port: number
}

/** One server, the nodes of a Cluster, or Sentinels and the name that they know the master by. */
export type RedisAddress =
  | { url: string }
  /** The first node tells for all of them whether there is TLS, and who logs in. */
  | { nodes: readonly string[]; tls: boolean; credentials: RedisCredentials }
  | { sentinels: readonly SentinelNode[]; name: string; credentials: RedisCredentials }

const sentinelPort = 26_379

/**
 * `redis://…` or `rediss://…`; several of these with commas between them; or
 * `sentinel://user:password@host:port,host:port/<name of the master>`. A protocol in capitals is none: ioredis would take
 * REDISS for a connection without TLS.
 */
export function parseRedisAddress(text: string): RedisAddress | undefined {
  if (!isDecodable(text)) return undefined
  return text.startsWith('sentinel:') ? parseSentinels(text) : parseNodes(text)
}

function parseNodes(text: string): RedisAddress | undefined {
  const nodes = text.split(/,(?=rediss?:\/\/)/)
  const [first, ...others] = nodes.map(parseNode)
  if (first === undefined || others.includes(undefined)) return undefined
  if (others.length === 0) return { url: text }
  const { protocol, username, password } = first
  return { nodes, tls: protocol === 'rediss:', credentials: credentialsOf(username, password) }
}

function parseNode(text: string): URL | undefined {
  // A comma behind the credentials is the start of a node without a protocol.
  if (!/^rediss?:\/\//.test(text) || /,[^@]*$/.test(text) || !URL.canParse(text)) return undefined
  const url = new URL(text)
  return url.hostname === '' ? undefined : url
}

function parseSentinels(text: string): RedisAddress | undefined {
  const [, username = '', password = '', hosts = '', name = ''] =
    /^sentinel:\/\/(?:([^@:/]*):?([^@/]*)@)?([^@/]+)\/([^/\s]+)$/.exec(text) ?? []
  const nodes = hosts.split(',').map((host) => parseNode(`redis://${host}`))
  if (!nodes.every((node) => node !== undefined)) return undefined
  return {
    sentinels: nodes.map(({ hostname, port }) => ({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || sentinelPort),
    })),
    name,
    credentials: credentialsOf(username, password),
  }
}

const credentialsOf = (username: string, password: string): RedisCredentials => ({
  ...(username && { username: decodeURIComponent(username) }),
  ...(password && { password: decodeURIComponent(password) }),
})

/** If the whole is, so is each part of it. */
function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}
