import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { test } from 'tap'
import type { RedisClient } from '../../src/store/redis.ts'
import type { News } from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { address, frame, life, open } from '../helpers/redis-store.ts'
import { untilAnswered } from '../helpers/until-answered.ts'

const clients: Record<string, (port: number) => RedisClient> = {
  ioredis: (port) => new Redis({ sentinels: [{ host: '127.0.0.1', port }], name: 'main', lazyConnect: true }),
  iovalkey: (port) => new Valkey({ sentinels: [{ host: '127.0.0.1', port }], name: 'main', lazyConnect: true })
}

test('a Sentinel leads to the server that took over', async (t) => {
  if (!hasRedis(t)) return
  const primary = await RedisServer.start(t)
  const replica = await RedisServer.start(t, ['--replicaof', '127.0.0.1', String(primary.port)])
  const sentinel = await RedisServer.startSentinel(t, primary)
  const stores = await Promise.all(
    Object.entries(clients).map(async ([library, client]) => {
      const { store, calls } = await open(t, client(sentinel.port), { prefix: library })
      await store.create(address, life)
      await store.append(address, frame(1))
      const told: (News | undefined)[] = []
      store.follow(address, (news) => told.push(news))
      return { library, store, calls, told }
    })
  )
  while (!(await replica.command('INFO', 'replication')).includes('master_link_status:up')) await delay(20)
  while (!(await sentinel.command('SENTINEL', 'REPLICAS', 'main')).includes(String(replica.port))) await delay(20)
  await primary.replicated()
  await primary.stop()

  for (const { library, store, calls, told } of stores) {
    t.test(library, async (t) => {
      t.match(await untilAnswered(() => store.append(address, frame(2))), { lastSequence: 2 })
      t.ok(calls.includes('return'), 'the host is told')
      await eventually('it is followed again', () => told.filter((news) => news === undefined).length > 1)
      await untilAnswered(() => store.append(address, frame(3)))
      await eventually('news come', () => told.at(-1)?.lastSequence === 3)
    })
  }
})
