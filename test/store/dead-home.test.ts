import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startInstances, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { ResumingClient } from '../helpers/resuming-client.ts'

/** It was told that the producer is gone, in two blocks of which only the second has an id, and that there is no more. */
function assertLost(t: Test, client: ResumingClient, count: number): void {
  t.same(client.data, numbersFrom(1, count))
  t.same(client.told, ['stream-error', 'stream-end'])
  const [error, end] = client.events.slice(-2)
  t.match(JSON.parse(error?.data ?? ''), { code: 'STREAM_LOST' })
  t.equal(error?.id, undefined)
  t.same(JSON.parse(end?.data ?? ''), { outcome: 'lost' })
  t.match(end?.id, /\.end$/)
  t.notOk(client.wasMisled)
}

/** Whatever is in the store goes away by itself. */
async function assertExpires(t: Test, redis: RedisServer): Promise<void> {
  const keys = (await redis.command('KEYS', '*')).split('\r\n').filter((line) => line.startsWith('{'))
  t.ok(keys.length > 0, `${keys.length} keys are there`)
  for (const key of keys) t.not(await redis.command('PTTL', key), ':-1\r\n', `${key} has a TTL`)
}

/** A stream of five events with a client at home and one elsewhere, all of it in the store. */
async function watched(
  t: Test,
  home: Instance,
  other: Instance
): Promise<{ atHome: ResumingClient; elsewhere: ResumingClient }> {
  let isHomeGone = false
  void home.exited.then(() => (isHomeGone = true))
  const atHome = new ResumingClient(t, () => (isHomeGone ? other : home).port, '/named/a')
  await home.ask('append', 'a', 5)
  await atHome.waitForData(5)
  const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
  await elsewhere.waitForData(5)
  await untilStored(other, 'a', 5)
  return { atHome, elsewhere }
}

if (hasRedis(t)) {
  t.test('kill -9 of the home: every client gets what the store has, and is told that the rest is lost', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    const { atHome, elsewhere } = await watched(t, home, other)
    let port = home.port
    const unnamed = new ResumingClient(t, () => port, '/unnamed?feed=u')
    await home.ask('append', 'u', 3)
    await unnamed.waitForData(3)
    await unnamed.cut()
    port = other.port
    await eventually('the unnamed stream is followed elsewhere', () => unnamed.visits.includes(other.port))
    await assertExpires(t, redis)

    await home.kill()
    const from = performance.now()
    await Promise.all([atHome, elsewhere, unnamed].map((client) => client.waitForEnd()))
    t.ok(performance.now() - from < 10 * LEASE_MS, 'they are told soon')
    assertLost(t, atHome, 5)
    assertLost(t, elsewhere, 5)
    assertLost(t, unnamed, 3)

    const late = new ResumingClient(t, () => other.port, '/named/a')
    await late.waitForEnd()
    assertLost(t, late, 5)
    t.same(await other.ask('runs', 'a'), { runs: 0, closed: 0 }, 'nothing is started a second time')
    await assertExpires(t, redis)
    t.equal(other.errors, '')
  })

  t.test('a stream of a dead home that nobody watches is found lost, not running for ever', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t))
    await home.ask('start', 'a')
    await home.ask('append', 'a', 2)
    await untilStored(other, 'a', 2)
    await home.kill()
    await eventually('it is known', async () => (await other.ask('find', 'a'))?.outcome === 'lost')
    const client = new ResumingClient(t, () => other.port, '/attach/a')
    await client.waitForEnd()
    assertLost(t, client, 2)
  })

  t.test('after the death of a home a request that wants it starts again, once for all that come', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other, third] = (await startInstances(t, redis, 3)) as [Instance, Instance, Instance]
    const { atHome } = await watched(t, home, other)
    await home.kill()
    await atHome.waitForEnd()
    assertLost(t, atHome, 5)
    const cursor = atHome.events.findLast(({ data }) => data === '5')?.id
    for (const instance of [other, third]) {
      await instance.ask('append', 'a', 3)
      await instance.ask('finish', 'a')
    }
    const [first, second, resumed] = [
      new ResumingClient(t, () => other.port, '/restart/a'),
      new ResumingClient(t, () => third.port, '/restart/a'),
      new ResumingClient(t, () => third.port, '/restart/a', cursor)
    ]
    await Promise.all([first, second, resumed].map((client) => client.waitForEnd()))
    for (const client of [first, second, resumed]) {
      t.same(client.data, numbersFrom(1, 3))
      t.same(client.events.at(-1)?.data, '{"outcome":"completed"}')
    }
    t.equal(resumed.told[0], 'stream-gap')
    const runs = await Promise.all([other, third].map((instance) => instance.ask('runs', 'a')))
    t.same(new Set(runs.map(({ runs }) => runs)), new Set([0, 1]), 'one run')
  })

  t.test('a dead home that nobody has watched: a request that wants it starts again at once', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t))
    await home.ask('start', 'a')
    await home.ask('append', 'a', 2)
    await untilStored(other, 'a', 2)
    await home.kill()
    await delay(1.5 * LEASE_MS)
    const client = new ResumingClient(t, () => other.port, '/restart/a')
    await other.ask('append', 'a', 3)
    await client.waitForData(3)
    t.same(await other.ask('runs', 'a'), { runs: 1, closed: 0 })
    t.same(client.told, [])
  })

  for (const [what, stop] of [
    [
      'stopped for longer than its lease',
      async (home: Instance, isLost: () => Promise<void>) => {
        home.freeze()
        await isLost()
        home.thaw()
      }
    ],
    [
      'whose event loop is blocked for longer than its lease',
      async (home: Instance, isLost: () => Promise<void>) => {
        void home.ask('block', 4 * LEASE_MS)
        await isLost()
      }
    ]
  ] as const) {
    t.test(`a home ${what} finds that its stream was taken, and its clients learn it`, async (t) => {
      const [home, other] = await startTwo(t, await RedisServer.start(t))
      const { atHome, elsewhere } = await watched(t, home, other)
      await stop(home, () => elsewhere.waitForEnd())
      assertLost(t, elsewhere, 5)
      t.notOk(atHome.hasEnd)
      await atHome.waitForEnd()
      assertLost(t, atHome, 5)
      t.ok(atHome.visits.length > 1, 'its response was truncated, and it came back')
      await eventually('the generator is closed', async () => (await home.ask('runs', 'a')).closed === 1)
      await home.ask('append', 'a', 1)
      t.match(await other.ask('find', 'a'), { lastSequence: 5, outcome: 'lost' }, 'nothing comes after the end')
      t.match(await home.ask('stats'), { lost: 1, running: 0 })
      t.equal(home.errors, '')
    })
  }
}
