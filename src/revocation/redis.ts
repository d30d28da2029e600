import { Cluster, type CommonRedisOptions, Redis } from 'ioredis'

export type RedisClient = Redis | Cluster

type ClientOptions = Omit<CommonRedisOptions, 'replyMapping'>

export interface RedisOptions {
  /** One server; the nodes of a Cluster, with commas between them; or `sentinel://host:port,host:port/<name of the master>`. */
  url: string
  /** The longest that a command may take before it fails. */
  deadlineMs: number
  onError(error: Error): void
}

/**
 * A Redis that answers at once or not at all: no queue while the link is down, no resending, and a link on which nothing
 * comes back is dropped and made anew. Only masters are asked.
 */
export function connectRedis({ url, deadlineMs, onError }: RedisOptions): RedisClient {
  const redis = createClient(url, {
    enableAutoPipelining: false,
    commandTimeout: deadlineMs,
    socketTimeout: 1_000,
    connectTimeout: 1_000,
    maxLoadingRetryTime: 200,
    connectionName: 'latchkey',
  })
  redis.on('error', onError)
  return redis
}

const retryDelayMs = (attempt: number) => Math.min(50 * attempt, 200)

function createClient(url: string, options: ClientOptions): RedisClient {
  const nodes = url.split(/,(?=rediss?:\/\/)/)
  if (nodes.length > 1) return createClusterClient(nodes, options)
  const single: ClientOptions = {
    ...options,
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: retryDelayMs,
  }
  return url.startsWith('sentinel:') ? createSentinelClient(url, single) : new Redis(url, single)
}

function createClusterClient(nodes: string[], options: ClientOptions): Cluster {
  const { protocol, username, password } = new URL(nodes[0] as string)
  return new Cluster(nodes, {
    lazyConnect: true,
    enableOfflineQueue: false,
    // A redirection or two is how a Cluster works; more of them take longer than a command may.
    maxRedirections: 3,
    retryDelayOnFailover: 20,
    retryDelayOnClusterDown: 20,
    retryDelayOnTryAgain: 20,
    clusterRetryStrategy: retryDelayMs,
    slotsRefreshInterval: 1_000,
    redisOptions: {
      ...options,
      ...credentials(username, password),
      ...(protocol === 'rediss:' && { tls: {} }),
    },
  })
}

function createSentinelClient(url: string, options: ClientOptions): Redis {
  const [, user = '', secret = '', hosts = '', name = ''] =
    /^sentinel:\/\/(?:([^@:/]*):?([^@/]*)@)?([^@/]+)\/(.+)$/.exec(url) ?? []
  return new Redis({
    ...options,
    ...credentials(user, secret),
    name,
    sentinels: hosts.split(',').map((host) => {
      const { hostname, port } = new URL(`redis://${host}`)
      return { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 26_379) }
    }),
    sentinelCommandTimeout: 1_000,
    sentinelRetryStrategy: retryDelayMs,
  })
}

/** As they stand in a URL. */
const credentials = (username: string, password: string) => ({
  ...(username && { username: decodeURIComponent(username) }),
  ...(password && { password: decodeURIComponent(password) }),
})
