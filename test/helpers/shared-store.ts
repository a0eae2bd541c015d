import type { Test } from 'tap'
import { redisStore, type RedisStoreOptions, type StreamStore } from '../../src/store/redis.ts'

/**
 * `run-again.ts` runs tests of HTTP once more, with several instances that share the server at this port. By itself a test
 * has one instance and no store.
 */
const redisPort = Number(process.env['RSSE_TEST_REDIS_PORT'] ?? 0)

/** How many instances a test has. */
export const INSTANCES: number = redisPort === 0 ? 1 : 2

/** Options of a test that says nothing of several instances, with the reason. */
export function oneInstance(reason: string): { readonly skip: string | false } {
  return { skip: INSTANCES > 1 && reason }
}

/** Options of a test that means nothing on one instance. */
export const severalInstances: { readonly skip: string | false } = {
  skip: INSTANCES === 1 && 'runs with several instances'
}

let apps = 0

/** A store for each instance of one test, apart from those of all other tests. */
export async function createStores(t: Test, options: RedisStoreOptions = {}): Promise<StreamStore[]> {
  const { Redis } = await import('ioredis')
  // Only a template: it never connects.
  const client = new Redis({ host: '127.0.0.1', port: redisPort, lazyConnect: true })
  t.teardown(() => client.disconnect())
  const prefix = `${process.pid}-${apps++}`
  return Array.from({ length: INSTANCES }, () => redisStore(client, { prefix, ...options }))
}
