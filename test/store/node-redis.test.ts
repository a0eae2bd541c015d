import { createClient } from 'redis'
import { test } from 'tap'
import { redisStore } from '../../src/store/redis.ts'
import { hasRedis, PROGRAMS, RedisServer } from '../helpers/redis-server.ts'
import { testStoreContract } from './contract.ts'

for (const program of PROGRAMS) {
  test(`node-redis and ${program}`, async (t) => {
    const server = await RedisServer.start(t, [], program)
    testStoreContract(t, (_t, lease) =>
      redisStore(createClient({ url: `redis://127.0.0.1:${server.port}` }), { lease })
    )
  })
}

test('there is a server to test with', async (t) => {
  hasRedis(t)
})
