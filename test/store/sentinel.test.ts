import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { test, type Test } from 'tap'
import type { RedisClient } from '../../src/store/redis.ts'
import type { News } from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { address, frame, life, open } from '../helpers/redis-store.ts'
import { SilentServer } from '../helpers/silent-server.ts'
import { untilAnswered } from '../helpers/until-answered.ts'

const clients: Record<string, (ports: number[], failoverDetector?: boolean) => RedisClient> = {
  ioredis: (ports, failoverDetector = false) => new Redis({ ...sentinels(ports), failoverDetector }),
  iovalkey: (ports, failoverDetector = false) => new Valkey({ ...sentinels(ports), failoverDetector })
}

function sentinels(ports: number[]): { sentinels: { host: string; port: number }[]; name: string; lazyConnect: true } {
  return { sentinels: ports.map((port) => ({ host: '127.0.0.1', port })), name: 'main', lazyConnect: true }
}

test('a Sentinel leads to the server that took over', async (t) => {
  if (!hasRedis(t)) return
  const primary = await RedisServer.start(t)
  const replica = await RedisServer.start(t, ['--replicaof', '127.0.0.1', String(primary.port)])
  const sentinel = await RedisServer.startSentinel(t, primary)
  const stores = await Promise.all(
    Object.entries(clients).map(async ([library, client]) => {
      const { store, calls } = await open(t, client([sentinel.port]), { prefix: library })
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

// A second for each of two Sentinels, and for the server, on a machine that is busy.
const lease = 9_000

for (const [manner, silence] of [
  ['accepts and does not answer', async () => {}],
  ['does not accept', takeAllPlaces]
] as const) {
  test(`a Sentinel that ${manner} leaves time for the next one`, async (t) => {
    if (!hasRedis(t)) return
    const primary = await RedisServer.start(t)
    const [hung, well] = [await RedisServer.startSentinel(t, primary), await RedisServer.startSentinel(t, primary)]
    hung.hang()
    await silence(t, hung.port)
    t.jobs = 2
    for (const [library, client] of Object.entries(clients)) {
      t.test(library, async (t) => {
        const { store } = await open(t, client([hung.port, well.port]), { prefix: library, lease })
        await store.create(address, life)
        const told: (News | undefined)[] = []
        store.follow(address, (news) => told.push(news))
        await eventually('it is followed', () => told.length > 0)
        t.match(await store.append(address, frame(1)), { lastSequence: 1 })
        await eventually('news come', () => told.at(-1)?.lastSequence === 1)
      })
    }
  })
}

for (const [library, client] of Object.entries(clients)) {
  test(`${library}: no connection to a silent Sentinel outlives the store`, async (t) => {
    const silent = await SilentServer.start(t)
    const { store } = await open(t, client([silent.port]))
    await eventually('it is asked more than once', () => silent.accepted > 1)
    await store.close(0)
    await t.resolves(eventually('all are closed', () => silent.sockets.size === 0))
  })

  test(`${library}: no Sentinel is listened to`, async (t) => {
    if (!hasRedis(t)) return
    const [sentinel, silent] = [
      await RedisServer.startSentinel(t, await RedisServer.start(t)),
      await SilentServer.start(t)
    ]
    const { store } = await open(t, client([sentinel.port, silent.port], true), { lease: 30_000 })
    await store.create(address, life)
    t.equal(silent.accepted, 0)
  })
}

/** Fills the queue of a server that hangs: nobody gets a connection any more, and nobody is told. */
async function takeAllPlaces(t: Test, port: number): Promise<void> {
  for (let isTaken = true; isTaken;) {
    const socket = connect(port, '127.0.0.1').on('error', () => {})
    t.teardown(() => socket.destroy())
    isTaken = await Promise.race([once(socket, 'connect').then(() => true), delay(300, false)])
  }
}
