import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { ResumingClient } from '../helpers/resuming-client.ts'

const KIB = 1_024

/** A home that has delivered seven events of which the store, which takes no more, has five. */
async function aheadOfItsStore(t: Test): Promise<{
  redis: RedisServer
  home: Instance
  other: Instance
  client: ResumingClient
  move: () => void
}> {
  const redis = await RedisServer.start(t)
  const [home, other] = await startTwo(t, redis)
  let port = home.port
  const client = new ResumingClient(t, () => port, '/named/a')
  await home.ask('append', 'a', 5)
  await client.waitForData(5)
  await untilStored(other, 'a', 5)
  await redis.command('CONFIG', 'SET', 'maxmemory', '1')
  await home.ask('append', 'a', 2)
  await client.waitForData(7)
  return { redis, home, other, client, move: () => (port = other.port) }
}

if (hasRedis(t)) {
  t.test('a client that has more than the store waits for the store, and gets nothing twice', async (t) => {
    const { redis, home, other, client, move } = await aheadOfItsStore(t)
    move()
    await client.cut()
    await eventually('it has come to the other instance', () => client.visits.at(-1) === other.port)
    await delay(LEASE_MS / 4)
    await redis.command('CONFIG', 'SET', 'maxmemory', '0')
    await home.ask('append', 'a', 3)
    await client.waitForData(10)
    await home.ask('finish', 'a')
    await client.waitForEnd()
    t.same(client.data, numbersFrom(1, 10))
    t.same(client.told, ['stream-end'])
    t.equal(client.visits.length, 2)
  })

  t.test('a client that has more than the store of a stream that is lost is told that alone', async (t) => {
    const { redis, home, client, move } = await aheadOfItsStore(t)
    move()
    await home.kill()
    await redis.command('CONFIG', 'SET', 'maxmemory', '0')
    await client.waitForEnd()
    t.same(client.data, numbersFrom(1, 7))
    t.same(client.told, ['stream-error', 'stream-end'], 'no gap: it missed nothing that anybody has')
    t.equal(client.events.at(-1)?.data, '{"outcome":"lost"}')
  })

  t.test('clients that come at once while the store does not answer are all sent away to come back', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 5)
    await atHome.waitForData(5)
    await untilStored(other, 'a', 5)
    const cursor = atHome.events.find(({ data }) => data === '3')?.id
    redis.hang()
    const clients = Array.from({ length: 5 }, () => new ResumingClient(t, () => other.port, '/named/a', cursor))
    await eventually('all have been sent away', () => clients.every(({ visits }) => visits.length > 1))
    for (const client of clients) t.same(client.events, [], 'and told nothing else: it would be for good')
    redis.goOn()
    await Promise.all(clients.map((client) => client.waitForData(2)))
    await home.ask('finish', 'a')
    await Promise.all(clients.map((client) => client.waitForEnd()))
    for (const client of clients) {
      t.same(client.data, ['4', '5'])
      t.same(client.told, ['stream-end'])
    }
  })

  t.test(
    'a stream that outgrows its log in an outage stays within it, and those elsewhere are told what they missed',
    async (t) => {
      const bufferBytes = 512 * KIB
      const redis = await RedisServer.start(t)
      const [home, other] = await startTwo(t, redis, { plugin: { bufferBytes } })
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 5)
      await atHome.waitForData(5)
      const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
      await elsewhere.waitForData(5)
      await untilStored(other, 'a', 5)
      redis.hang()
      await home.ask('append', 'a', 5_000, 2 * KIB)
      // It waits for the store, and after a lease it does not any more.
      await atHome.waitForData(5_005)
      const held = (await home.ask('get', 'a'))?.bufferedBytes ?? Infinity
      t.ok(held < 2 * bufferBytes, `${held} bytes are held`)
      redis.goOn()
      await home.ask('append', 'a', 5)
      await home.ask('finish', 'a')
      await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
      t.same(atHome.data, numbersFrom(1, 5_010))
      t.same(elsewhere.told, ['stream-gap', 'stream-end'])
      const gap = JSON.parse(elsewhere.events.find(({ event }) => event === 'stream-gap')?.data ?? '') as {
        reason: string
        missed: number
        resumesAt: number
      }
      t.equal(gap.reason, 'trimmed')
      t.equal(elsewhere.data.length + gap.missed, 5_010)
      t.same(elsewhere.data, [...numbersFrom(1, gap.resumesAt - gap.missed - 1), ...numbersFrom(gap.resumesAt, 5_010)])
    }
  )

  t.test('a home that stops for less than its lease, again and again, loses nothing', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t), { store: { lease: 3 * LEASE_MS } })
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 1)
    await atHome.waitForData(1)
    const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
    for (let round = 0; round < 5; round++) {
      const appended = home.ask('append', 'a', 20)
      home.freeze()
      await delay(LEASE_MS / 2)
      home.thaw()
      await appended
      other.freeze()
      await delay(LEASE_MS / 2)
      other.thaw()
    }
    await home.ask('finish', 'a')
    await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
    for (const client of [atHome, elsewhere]) {
      t.same(client.data, numbersFrom(1, 101))
      t.same(client.told, ['stream-end'])
      t.equal(client.visits.length, 1)
    }
  })
}
