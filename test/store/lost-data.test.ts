import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startInstances, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertWhole, ResumingClient } from '../helpers/resuming-client.ts'

async function keysOf(redis: RedisServer, ending: ':m' | ':l'): Promise<string[]> {
  return (await redis.command('KEYS', `*${ending}`)).split('\r\n').filter((line) => line.startsWith('{'))
}

/** Two instances, and so many events of a stream of the first one that are in the store. */
async function stored(t: Test, count: number): Promise<{ redis: RedisServer; home: Instance; other: Instance }> {
  const redis = await RedisServer.start(t)
  const [home, other] = await startTwo(t, redis)
  await home.ask('start', 'a')
  await home.ask('append', 'a', count)
  await untilStored(other, 'a', count)
  return { redis, home, other }
}

const LOSSES: Readonly<Record<string, (redis: RedisServer) => Promise<unknown>>> = {
  'everything is flushed': (redis) => redis.command('FLUSHALL'),
  'it starts again without what it had': async (redis) => {
    await redis.stop()
    await redis.start()
  },
  'the record of a stream is evicted': async (redis) => redis.command('DEL', ...(await keysOf(redis, ':m'))),
  'the log of a stream is evicted': async (redis) => redis.command('DEL', ...(await keysOf(redis, ':l')))
}

if (hasRedis(t)) {
  for (const [loss, lose] of Object.entries(LOSSES)) {
    t.test(`${loss} in the middle of a stream: the home puts its log back, and no client notices`, async (t) => {
      const redis = await RedisServer.start(t)
      const [home, other, third] = (await startInstances(t, redis, 3)) as [Instance, Instance, Instance]
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 5)
      await atHome.waitForData(5)
      const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
      await elsewhere.waitForData(5)
      await lose(redis)
      await home.ask('append', 'a', 5)
      await Promise.all([atHome.waitForData(10), elsewhere.waitForData(10)])
      await untilStored(third, 'a', 10)
      const late = new ResumingClient(t, () => third.port, '/attach/a')
      await late.waitForData(10)
      // Once more, and nothing is appended afterwards.
      await lose(redis)
      await untilStored(third, 'a', 10)
      await home.ask('finish', 'a')
      const clients = [atHome, elsewhere, late]
      await Promise.all(clients.map((client) => client.waitForEnd()))
      for (const client of clients) {
        assertWhole(t, client, 10)
        t.equal(client.visits.length, 1, 'it was not sent away')
      }
      t.same(await home.ask('runs', 'a'), { runs: 1, closed: 1 })
      for (const instance of [home, other, third]) t.equal(instance.errors, '')
    })
  }

  t.test('a store that lost the tail of a stream is brought it again', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    await home.ask('start', 'a')
    for (let appended = 1; appended <= 5; appended++) {
      await home.ask('append', 'a', 1)
      await untilStored(other, 'a', appended)
    }
    // What a fail-over to a replica leaves that had not received the last three appends.
    const [record = ''] = await keysOf(redis, ':m')
    const [log = ''] = await keysOf(redis, ':l')
    await redis.command('XDEL', log, '3-0', '4-0', '5-0')
    const id = await redis.command('XSETID', log, '2-0')
    t.equal(id, '+OK\r\n')
    await redis.command('HSET', record, 'last', '2')
    await home.ask('append', 'a', 1)
    await home.ask('finish', 'a')
    await untilStored(other, 'a', 6)
    const client = new ResumingClient(t, () => other.port, '/attach/a')
    await client.waitForEnd()
    assertWhole(t, client, 6)
  })

  t.test('a stream without a home that the store lost is gone after a lease of patience', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    await home.ask('start', 'a')
    await home.ask('append', 'a', 2)
    const client = new ResumingClient(t, () => other.port, '/attach/a')
    await client.waitForData(2)
    await home.kill()
    const from = performance.now()
    await redis.command('FLUSHALL')
    await client.waitForEnd()
    t.ok(performance.now() - from > LEASE_MS / 2, 'not at once')
    t.same(client.data, numbersFrom(1, 2))
    t.same(client.told, ['stream-gap', 'stream-end'])
    t.equal(client.events.at(-1)?.data, '{"outcome":"lost"}')
  })

  t.test(
    'a client with a cursor that comes before the home has put its log back is told that it is lost',
    async (t) => {
      const redis = await RedisServer.start(t)
      const [home, other] = await startTwo(t, redis)
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 2)
      await atHome.waitForData(2)
      home.freeze()
      await redis.command('FLUSHALL')
      const moved = new ResumingClient(t, () => other.port, '/named/a', atHome.lastEventId)
      await moved.waitForEnd()
      t.same(moved.told, ['stream-gap', 'stream-end'])
      t.equal(moved.events.at(-1)?.data, '{"outcome":"lost"}')
      home.thaw()
      await untilStored(other, 'a', 2)
      await home.ask('finish', 'a')
      await atHome.waitForEnd()
      assertWhole(t, atHome, 2)
      t.same(await other.ask('runs', 'a'), { runs: 0, closed: 0 })
    }
  )

  t.test(
    'a first request that comes before the home has put its log back may start a new life, and the older one is fenced',
    async (t) => {
      const redis = await RedisServer.start(t)
      const [home, other] = await startTwo(t, redis)
      const port = { value: home.port }
      const atHome = new ResumingClient(t, () => port.value, '/named/a')
      await home.ask('append', 'a', 2)
      await atHome.waitForData(2)
      home.freeze()
      await redis.command('FLUSHALL')
      await other.ask('append', 'a', 3)
      const fresh = new ResumingClient(t, () => other.port, '/named/a')
      await fresh.waitForData(3)
      home.thaw()
      port.value = other.port
      await eventually('the older one is stopped', async () => (await home.ask('runs', 'a')).closed === 1)
      await other.ask('finish', 'a')
      await Promise.all([fresh.waitForEnd(), atHome.waitForEnd()])
      assertWhole(t, fresh, 3)
      t.same(atHome.told, ['stream-gap', 'stream-end'], 'it is told that this is another life')
      t.same(atHome.data, [...numbersFrom(1, 2), ...numbersFrom(1, 3)])
      t.match(await home.ask('stats'), { lost: 1 })
    }
  )

  t.test('a record of another format is refused, never misread', async (t) => {
    const { redis, home, other } = await stored(t, 2)
    const [record = ''] = await keysOf(redis, ':m')
    await redis.command('HSET', record, 'format', '2')
    for (const path of ['/named/a', '/attach/a']) {
      const response = await fetch(`http://127.0.0.1:${other.port}${path}`)
      t.equal(response.status, 500)
      t.match(await response.json(), { code: 'FST_ERR_RSSE_STORE_INVALID' })
    }
    await t.rejects(other.ask('find', 'a'), { code: 'FST_ERR_RSSE_STORE_INVALID' })
    await t.rejects(other.ask('abort', 'a'), { code: 'FST_ERR_RSSE_STORE_INVALID' })
    t.same(await other.ask('runs', 'a'), { runs: 0, closed: 0 })
    t.match(await redis.command('HGET', record, 'last'), '2', 'nothing was written')
    // The home goes on for its own clients.
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 2)
    await home.ask('finish', 'a')
    await atHome.waitForEnd()
    assertWhole(t, atHome, 4)
    await eventually('the operator is told', () => home.log.with('stream not shared').length === 1)
  })

  t.test('a home dies, and then the log of its stream is evicted: after a lease the name is free', async (t) => {
    const { redis, home, other } = await stored(t, 3)
    await home.kill()
    await redis.command('DEL', ...(await keysOf(redis, ':l')))
    await other.ask('append', 'a', 2)
    const client = new ResumingClient(t, () => other.port, '/named/a')
    await client.waitForData(2)
    t.same(await other.ask('runs', 'a'), { runs: 1, closed: 0 })
    t.equal(other.errors, '')
  })

  t.test(
    'a stream that ended, and was forgotten, while the store was away is never run again as the same one',
    async (t) => {
      const redis = await RedisServer.start(t)
      const [home, other] = await startTwo(t, redis, { plugin: { bufferTTL: 0 } })
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 3)
      await atHome.waitForData(3)
      await untilStored(other, 'a', 3)
      redis.hang()
      await home.ask('append', 'a', 2)
      await home.ask('finish', 'a')
      await atHome.waitForEnd()
      await eventually('it is forgotten', async () => (await home.ask('get', 'a')) === undefined)
      await delay(1.5 * LEASE_MS)
      redis.goOn()
      const again = new ResumingClient(t, () => home.port, '/named/a')
      await again.waitForEnd()
      t.ok(again.told.includes('stream-error'), 'the store has only a part of it')
      t.equal((await home.ask('runs', 'a')).runs, 1)
      t.equal(home.errors, '')
    }
  )
}
