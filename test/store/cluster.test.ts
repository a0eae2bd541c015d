import { Cluster as IoredisCluster } from 'ioredis'
import { Cluster as IovalkeyCluster } from 'iovalkey'
import { createCluster } from 'redis'
import { test } from 'tap'
import { redisStore, type RedisClient } from '../../src/store/redis.ts'
import { RedisCluster } from '../helpers/redis-cluster.ts'
import { hasRedis } from '../helpers/redis-server.ts'
import { testStoreContract } from './contract.ts'

const HOST = '127.0.0.1'

const clients: Record<string, (ports: readonly number[]) => RedisClient> = {
  ioredis: (ports) =>
    new IoredisCluster(
      ports.map((port) => ({ host: HOST, port })),
      { lazyConnect: true }
    ),
  iovalkey: (ports) =>
    new IovalkeyCluster(
      ports.map((port) => ({ host: HOST, port })),
      { lazyConnect: true }
    ),
  'node-redis': (ports) => createCluster({ rootNodes: ports.map((port) => ({ url: `redis://${HOST}:${port}` })) })
}

test('there is a server to test with', async (t) => {
  hasRedis(t)
})

test('three nodes', { skip: false }, async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of Object.entries(clients)) {
    t.test(library, async (t) => {
      testStoreContract(t, (_t, lease) => redisStore(createClient(cluster.ports), { lease, prefix: library }))
    })
  }
})
