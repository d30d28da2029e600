import { Cluster, Command, type CommonRedisOptions, Redis } from 'ioredis'
import type { RedisAddress } from '../redis-address.ts'

export type RedisClient = Redis | Cluster

type ClientOptions = Omit<CommonRedisOptions, 'replyMapping'>

export interface RedisOptions {
  address: RedisAddress
  /** The longest that a command may take before it fails. */
  deadlineMs: number
  onError(error: Error): void
}

/**
 * A Redis that answers at once or not at all: no queue while the link is down, no resending, and a link on which nothing
 * comes back is dropped and made anew. Only masters are asked.
 */
export function connectRedis({ address, deadlineMs, onError }: RedisOptions): RedisClient {
  const redis = createClient(address, {
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

/**
 * MGET. What a method of ioredis is called with, it copies one by one before it looks at it: of a hundred keys that takes longer
 * than to write them. So the command gets them once it is made.
 */
export async function getMany(
  redis: Pick<RedisClient, 'sendCommand'>,
  keys: string[],
): Promise<(string | null)[]> {
  const command = new Command('mget', [], { replyEncoding: 'utf8' })
  command.args = keys
  return (await redis.sendCommand(command)) as (string | null)[]
}

const retryDelayMs = (attempt: number) => Math.min(50 * attempt, 200)

function createClient(address: RedisAddress, options: ClientOptions): RedisClient {
  if ('nodes' in address) return createClusterClient(address, options)
  const single: ClientOptions = {
    ...options,
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: retryDelayMs,
  }
  return 'url' in address ? new Redis(address.url, single) : createSentinelClient(address, single)
}

function createClusterClient(
  { nodes, tls, credentials }: Extract<RedisAddress, { nodes: unknown }>,
  options: ClientOptions,
): Cluster {
  return new Cluster([...nodes], {
    lazyConnect: true,
    enableOfflineQueue: false,
    // A redirection or two is how a Cluster works; more of them take longer than a command may.
    maxRedirections: 3,
    retryDelayOnFailover: 20,
    retryDelayOnClusterDown: 20,
    retryDelayOnTryAgain: 20,
    clusterRetryStrategy: retryDelayMs,
    slotsRefreshInterval: 1_000,
    redisOptions: { ...options, ...credentials, ...(tls && { tls: {} }) },
  })
}

function createSentinelClient(
  { sentinels, name, credentials }: Extract<RedisAddress, { sentinels: unknown }>,
  options: ClientOptions,
): Redis {
  return new Redis({
    ...options,
    ...credentials,
    name,
    sentinels: sentinels.map((sentinel) => ({ ...sentinel })),
    sentinelCommandTimeout: 1_000,
    sentinelRetryStrategy: retryDelayMs,
  })
}
