import { randomBytes } from 'node:crypto'
import { createSystemClock } from '../clock.ts'
import { inspectValue, StoreInvalidError } from '../errors.ts'
import type { ConnectionMaker } from './connection.ts'
import { ioredisMaker, isIoredis } from './ioredis.ts'
import { isNodeRedis, nodeRedisMaker } from './node-redis.ts'
import { RedisStore } from './redis-store.ts'
import { resolveRedisOptions, type RedisStoreOptions } from './redis-options.ts'
import type { StreamStore } from './store.ts'

export type { RedisStoreOptions } from './redis-options.ts'
export type { StreamStore } from './store.ts'

/** A client of one of the supported libraries, told by what it can do. */
export type RedisClient =
  // ioredis and iovalkey.
  | { callBuffer(...args: never[]): unknown; duplicate(...args: never[]): unknown; readonly isCluster: boolean }
  // node-redis.
  | {
      sendCommand(...args: never[]): unknown
      duplicate(...args: never[]): unknown
      withTypeMapping(...args: never[]): unknown
    }

/**
 * A store in Redis 7 or newer, or Valkey 7.2 or newer, for the option `store` of the plugin.
 *
 * `client` is an ioredis or iovalkey client (`@fastify/redis` gives one) for a single server, Sentinel or a Cluster, or a
 * node-redis client of version 5 or newer, for a single server or a cluster. It is only looked at: the store makes two
 * connections like it, with settings of its own, and closes them itself.
 *
 * A store serves one registration of the plugin.
 *
 * @throws FST_ERR_RSSE_STORE_INVALID for anything else
 * @throws FST_ERR_RSSE_OPTION_INVALID for an option that is unknown or out of its range
 */
export function redisStore(client: RedisClient, options?: RedisStoreOptions): StreamStore {
  const maker = makerOf(client)
  const instance = randomBytes(12).toString('base64url')
  return new RedisStore(maker, resolveRedisOptions(options), instance, createSystemClock())
}

function makerOf(client: unknown): ConnectionMaker {
  if (typeof client === 'object' && client !== null) {
    if (isIoredis(client)) return ioredisMaker(client)
    if (isNodeRedis(client)) return nodeRedisMaker(client)
  }
  throw new StoreInvalidError(
    `received ${inspectValue(client)} as its client. Give a client or a Cluster of ioredis or iovalkey, or what createClient() or createCluster() of node-redis 5 or newer returned.`
  )
}
