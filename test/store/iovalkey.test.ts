import { Redis } from 'iovalkey'
import { test } from 'tap'
import { redisStore } from '../../src/store/redis.ts'
import { hasRedis, PROGRAMS, RedisServer } from '../helpers/redis-server.ts'
import { testStoreContract } from './contract.ts'

for (const program of PROGRAMS) {
  test(`iovalkey and ${program}`, async (t) => {
    const server = await RedisServer.start(t, [], program)
    testStoreContract(t, (_t, lease) => redisStore(new Redis(server.port, { lazyConnect: true }), { lease }))
  })
}

test('there is a server to test with', async (t) => {
  hasRedis(t)
})
