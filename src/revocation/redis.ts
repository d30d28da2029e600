import { Redis } from 'ioredis'

export interface RedisOptions {
  url: string
  /** The longest that a command may take before it fails. */
  deadlineMs: number
  onError(error: Error): void
}

/**
 * A Redis that answers at once or not at all: no queue while the link is down, no resending, and a link on which nothing
 * comes back is dropped and made anew.
 */
export function connectRedis({ url, deadlineMs, onError }: RedisOptions): Redis {
  const redis = new Redis(url, {
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableAutoPipelining: false,
    commandTimeout: deadlineMs,
    socketTimeout: 1_000,
    connectTimeout: 1_000,
    retryStrategy: (attempt) => Math.min(50 * attempt, 500),
    connectionName: 'latchkey',
  })
  redis.on('error', onError)
  return redis
}
