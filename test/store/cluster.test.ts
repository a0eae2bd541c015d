import { Cluster as IoredisCluster } from 'ioredis'
import { Cluster as IovalkeyCluster } from 'iovalkey'
import { createCluster } from 'redis'
import { test, type Test } from 'tap'
import { redisStore, type RedisClient } from '../../src/store/redis.ts'
import type { Append, StreamStore } from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { RedisCluster } from '../helpers/redis-cluster.ts'
import { createRecordingLog } from '../helpers/recording-log.ts'
import { hasRedis } from '../helpers/redis-server.ts'
import { untilAnswered } from '../helpers/until-answered.ts'
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

test('three nodes', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of Object.entries(clients)) {
    t.test(library, async (t) => {
      testStoreContract(t, (_t, lease) => redisStore(createClient(cluster.ports), { lease, prefix: library }))
    })
  }
})

test('a replica that takes over', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t, 1)
  const streams = Array.from({ length: 12 }, (_, index) => ({ streamId: `stream-${index}`, owner: undefined }))
  const open = async (t: Test, library: string): Promise<StreamStore> => {
    const client = clients[library]?.(cluster.ports)
    if (client === undefined) throw new Error('no such library')
    const store = redisStore(client, { lease: 1_500, pollInterval: 100, prefix: library })
    t.teardown(() => store.close(0))
    await store.open({ log: createRecordingLog().log, onStop: () => {}, onReturn: () => {} })
    return store
  }
  const opened = await Promise.all(
    Object.keys(clients).map(async (library) => {
      const [home, other] = [await open(t, library), await open(t, library)]
      const told = streams.map((): number[] => [])
      for (const [index, address] of streams.entries()) {
        await home.create(address, { epoch: 'life-1', route: undefined, ttlMs: 60_000, startedAt: 0 })
        await home.append(address, frame(1))
        other.follow(address, (news) => told[index]?.push(news?.lastSequence ?? 0))
      }
      return { library, home, other, told }
    })
  )
  await cluster.masters[0]?.command('WAIT', '1', '1000')
  await cluster.masters[0]?.stop()

  for (const { library, home, other, told } of opened) {
    t.test(`${library} finds it`, async (t) => {
      for (const [index, address] of streams.entries()) {
        t.match(await untilAnswered(() => home.append(address, frame(2))), { kind: 'stored', lastSequence: 2 })
        t.match(await untilAnswered(() => other.read(address, 0, 1_000)), { stream: { lastSequence: 2 } })
        await untilAnswered(() => home.append(address, frame(3)))
        await eventually('it is told', () => told[index]?.at(-1) === 3)
      }
    })
  }

  for (const [library, createClient] of Object.entries(clients)) {
    t.test(`${library} starts with a node missing`, async (t) => {
      testStoreContract(t, (_t, lease) => redisStore(createClient(cluster.ports), { lease, prefix: library }))
    })
  }
})

function frame(sequence: number): Append {
  const batch = { firstSequence: sequence, frames: Buffer.from('x'), lengths: [1] }
  return { epoch: 'life-1', ttlMs: 60_000, batch, lastSequence: sequence, keep: 1, finish: undefined }
}
