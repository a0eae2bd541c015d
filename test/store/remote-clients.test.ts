import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startInstances, startTwo, type Instance } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertUndisturbed, ResumingClient } from '../helpers/resuming-client.ts'

const KIB = 1_024

async function lastOf(instance: Instance, name: string): Promise<number> {
  return (await instance.ask('get', name))?.lastSequence ?? 0
}

/** Resolves once the producer has stood still for a while; where it stands then. */
async function untilItWaits(home: Instance, name: string): Promise<number> {
  for (let before = -1; ; await delay(500)) {
    const last = await lastOf(home, name)
    if (last === before) return last
    before = last
  }
}

if (hasRedis(t)) {
  t.test('a producer that waits for the slowest client waits for one on another instance', async (t) => {
    const count = 12_000
    const plugin = { backpressure: 'slowest', bufferBytes: 512 * KIB } as const
    const [home, other] = await startTwo(t, await RedisServer.start(t), { plugin })
    await home.ask('start', 'a')
    const fast = new ResumingClient(t, () => home.port, '/named/a')
    const alsoFast = new ResumingClient(t, () => other.port, '/named/a')
    const slow = new ResumingClient(t, () => other.port, '/named/a')
    await home.ask('append', 'a', 1)
    await Promise.all([fast, alsoFast, slow].map((client) => client.waitForData(1)))
    slow.pause()
    await home.ask('append', 'a', count - 1, 2 * KIB)
    await home.ask('finish', 'a')
    const waitsAt = await untilItWaits(home, 'a')
    t.ok(waitsAt < count, `it waits at ${waitsAt}`)
    t.ok(fast.data.length <= waitsAt)
    slow.resume()
    await Promise.all([fast, alsoFast, slow].map((client) => client.waitForEnd()))
    for (const client of [fast, alsoFast, slow]) assertUndisturbed(t, client, count)
  })

  for (const backpressure of ['fastest', 'slowest'] as const) {
    t.test(
      `a producer all of whose clients are on another instance waits for the ${backpressure} of them`,
      async (t) => {
        const count = 6_000
        const plugin = { backpressure, bufferBytes: 512 * KIB }
        const [home, other] = await startTwo(t, await RedisServer.start(t), { plugin })
        await home.ask('start', 'a')
        const client = new ResumingClient(t, () => other.port, '/named/a')
        await home.ask('append', 'a', 1)
        await client.waitForData(1)
        client.pause()
        await home.ask('append', 'a', count - 1, 2 * KIB)
        await home.ask('finish', 'a')
        t.ok((await untilItWaits(home, 'a')) < count)
        client.resume()
        await client.waitForEnd()
        assertUndisturbed(t, client, count)
      }
    )
  }

  t.test('a producer that waits for the slowest client goes on when that one leaves for good', async (t) => {
    const count = 12_000
    const plugin = { backpressure: 'slowest', bufferBytes: 512 * KIB } as const
    const [home, other] = await startTwo(t, await RedisServer.start(t), { plugin })
    await home.ask('start', 'a')
    const fast = new ResumingClient(t, () => home.port, '/named/a')
    const slow = new ResumingClient(t, () => other.port, '/named/a')
    await home.ask('append', 'a', 1)
    await Promise.all([fast, slow].map((client) => client.waitForData(1)))
    slow.pause()
    await home.ask('append', 'a', count - 1, 2 * KIB)
    await home.ask('finish', 'a')
    t.ok((await untilItWaits(home, 'a')) < count)
    await slow.leave()
    await fast.waitForEnd()
    assertUndisturbed(t, fast, count)
  })

  t.test('a stream whose only client is on another instance is no orphan, until that one leaves', async (t) => {
    const orphanTimeout = LEASE_MS / 3
    const [home, other] = await startTwo(t, await RedisServer.start(t), { plugin: { orphanTimeout } })
    let port = home.port
    const client = new ResumingClient(t, () => port, '/named/a')
    await home.ask('append', 'a', 1)
    await client.waitForData(1)
    port = other.port
    await client.cut()
    await eventually('it has come to the other instance', async () => (await other.ask('get', 'a'))?.clients === 1)
    for (let look = 0; look < 20; look++) {
      await delay(LEASE_MS / 6)
      await home.ask('append', 'a', 1)
    }
    await client.waitForData(21)
    t.match(await home.ask('get', 'a'), { state: 'running', clients: 0 })
    // Nothing is appended any more: beats alone tell of it.
    await delay(3 * LEASE_MS)
    t.match(await home.ask('get', 'a'), { state: 'running', clients: 0 })
    await client.leave()
    const from = performance.now()
    await eventually('it is aborted', async () => (await home.ask('get', 'a'))?.outcome === 'aborted')
    t.ok(performance.now() - from > orphanTimeout - 50, 'not early')
    t.same(await home.ask('runs', 'a'), { runs: 1, closed: 1 })
  })

  t.test('a client that goes round all instances keeps its stream alive', async (t) => {
    const plugin = { orphanTimeout: LEASE_MS / 3 }
    const instances = await startInstances(t, await RedisServer.start(t), 3, { plugin })
    const [home] = instances as [Instance]
    let visits = 0
    const client = new ResumingClient(t, () => (instances[visits++ % 3] as Instance).port, '/named/a')
    await home.ask('append', 'a', 1)
    await client.waitForData(1)
    for (let count = 2; count <= 31; count++) {
      await home.ask('append', 'a', 1)
      await client.waitForData(count)
      await client.cut()
    }
    await home.ask('finish', 'a')
    await client.waitForEnd()
    t.same(client.data, numbersFrom(1, 31))
    t.same(client.told, ['stream-end'])
    t.ok(client.visits.length > 30)
  })

  t.test('where the last client that leaves ends the stream, that is the last one of all instances', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t), { plugin: { orphanTimeout: 0 } })
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 1)
    await atHome.waitForData(1)
    const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
    await elsewhere.waitForData(1)
    await atHome.leave()
    await delay(2 * LEASE_MS)
    await home.ask('append', 'a', 1)
    await elsewhere.waitForData(2)
    t.match(await home.ask('get', 'a'), { state: 'running', clients: 0 })
    await elsewhere.leave()
    await eventually('it is aborted', async () => (await home.ask('get', 'a'))?.outcome === 'aborted')

    // One that never had a client waits for its first, which may come to any instance.
    await home.ask('start', 'b')
    await delay(2 * LEASE_MS)
    t.match(await home.ask('get', 'b'), { state: 'running' })
    const first = new ResumingClient(t, () => other.port, '/named/b')
    await home.ask('append', 'b', 1)
    await first.waitForData(1)
    await first.leave()
    await eventually('it is aborted', async () => (await home.ask('get', 'b'))?.outcome === 'aborted')
    t.same(await other.ask('runs', 'b'), { runs: 0, closed: 0 })
  })
}
