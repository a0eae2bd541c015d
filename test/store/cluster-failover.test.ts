import { test } from 'tap'
import { redisStore } from '../../src/store/redis.ts'
import { eventually } from '../helpers/eventually.ts'
import { RedisCluster } from '../helpers/redis-cluster.ts'
import { hasRedis } from '../helpers/redis-server.ts'
import { clusterLibraries, frame, life, open } from '../helpers/redis-store.ts'
import { untilAnswered } from '../helpers/until-answered.ts'
import { testStoreContract } from './contract.ts'

test('a replica that takes over', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t, 1)
  const streams = Array.from({ length: 12 }, (_, index) => ({ streamId: `stream-${index}`, owner: undefined }))
  const opened = await Promise.all(
    clusterLibraries.map(async ([library, createClient]) => {
      const [home, other] = await Promise.all(
        ['home', 'other'].map(
          async () => (await open(t, createClient(cluster.ports), { prefix: library, lease: 6_000 })).store
        )
      )
      if (home === undefined || other === undefined) throw new Error('there are two')
      const told = streams.map((): number[] => [])
      for (const [index, address] of streams.entries()) {
        await untilAnswered(() => home.create(address, life))
        await untilAnswered(() => home.append(address, frame(1)))
        other.follow(address, (news) => told[index]?.push(news?.lastSequence ?? 0))
      }
      return { library, home, other, told }
    })
  )
  await cluster.masters[0]?.replicated()
  await cluster.masters[0]?.stop()

  for (const { library, home, other, told } of opened) {
    t.test(`${library} finds it`, async (t) => {
      for (const [index, address] of streams.entries()) {
        // Stored now, or by an attempt whose answer was lost.
        t.match(await untilAnswered(() => home.append(address, frame(2))), { lastSequence: 2 })
        t.match(await untilAnswered(() => other.read(address, 0, 1_000)), { stream: { lastSequence: 2 } })
        // Nodes that have just lost one of them may lose messages too.
        let sequence = 3
        await eventually('news come', async () => {
          await untilAnswered(() => home.append(address, frame(sequence++)))
          return Number(told[index]?.at(-1)) >= 3
        })
      }
    })
  }

  for (const [library, createClient] of clusterLibraries) {
    t.test(`${library} starts with a node missing`, async (t) => {
      testStoreContract(t, (_t, lease) => redisStore(createClient(cluster.ports), { lease, prefix: library }))
    })
  }
})
