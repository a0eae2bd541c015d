import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { startInstances, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { ResumingClient } from '../helpers/resuming-client.ts'
import { sendSse, type SseEvent } from '../helpers/sse-client.ts'

const LONG_LEASE_MS = 15_000

async function finished(t: Test, home: Instance, other: Instance): Promise<Record<string, SseEvent[]>> {
  await home.ask('append', 'a', 4)
  await home.ask('finish', 'a')
  await home.ask('append', 'b', 2)
  await home.ask('fail', 'b')
  await home.ask('append', 'u', 3)
  await home.ask('finish', 'u')
  const seen: Record<string, SseEvent[]> = {}
  for (const path of ['/named/a', '/named/b', '/unnamed?feed=u']) {
    const client = new ResumingClient(t, () => home.port, path)
    await client.waitForEnd()
    seen[path] = client.events
  }
  for (const [start] of Object.values(seen)) {
    const { streamId } = JSON.parse(start?.data ?? '') as { streamId: string }
    await eventually('it is stored', async () => (await other.ask('find', streamId))?.state === 'finished')
  }
  return seen
}

/** A client on each instance, both with three events of the stream `a`; both come back to the other instance. */
async function readOnBoth(t: Test, home: Instance, other: Instance): Promise<[ResumingClient, ResumingClient]> {
  let port = home.port
  const atHome = new ResumingClient(t, () => port, '/named/a')
  await home.ask('append', 'a', 3)
  await atHome.waitForData(3)
  const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
  await elsewhere.waitForData(3)
  port = other.port
  return [atHome, elsewhere]
}

if (hasRedis(t)) {
  for (const [what, end] of Object.entries({
    closed: (home: Instance) => home.ask('close'),
    killed: (home: Instance) => home.kill()
  })) {
    t.test(`finished streams survive their process, which is ${what}, to the byte`, async (t) => {
      const [home, other] = await startTwo(t, await RedisServer.start(t))
      const seen = await finished(t, home, other)
      await end(home)
      await home.exited
      for (const path of ['/named/a', '/named/b']) {
        const client = new ResumingClient(t, () => other.port, path)
        await client.waitForEnd()
        t.same(client.events, seen[path])
      }
      // Of an unnamed stream a cursor is all that anybody has.
      for (const [path, events] of Object.entries(seen)) {
        const start = events[0]?.event === 'stream-start' ? 1 : 0
        for (const [index, { id }] of events.entries()) {
          if (id?.endsWith('.end') !== false) continue
          const client = new ResumingClient(t, () => other.port, path, id)
          await client.waitForEnd()
          t.same(client.events, events.slice(Math.max(start, index + 1)), `${path} after event ${index}`)
        }
      }
      t.match(await other.ask('find', 'b'), { state: 'finished', outcome: 'failed', lastSequence: 2, home: false })
      t.same(await other.ask('runs', 'a'), { runs: 0, closed: 0 })
    })
  }

  t.test('the clients of a process that shuts down in the middle are told at once, not after a lease', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t), { store: { lease: LONG_LEASE_MS } })
    const [atHome, elsewhere] = await readOnBoth(t, home, other)
    const from = performance.now()
    await home.ask('close')
    t.equal(await home.exited, 0)
    await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
    t.ok(performance.now() - from < LONG_LEASE_MS / 2)
    for (const client of [atHome, elsewhere]) {
      t.same(client.data, numbersFrom(1, 3))
      t.same(client.told, ['stream-error', 'stream-end'])
      t.equal(client.events.at(-1)?.data, '{"outcome":"lost"}')
      t.notOk(client.wasMisled)
    }
  })

  t.test('a process that drains its streams loses nothing', async (t) => {
    const options = { plugin: { drainTimeout: 5_000 } }
    const [home, other] = await startTwo(t, await RedisServer.start(t), options)
    const [atHome, elsewhere] = await readOnBoth(t, home, other)
    const closed = home.ask('close')
    await home.ask('append', 'a', 3)
    await home.ask('finish', 'a')
    await closed
    await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
    const late = new ResumingClient(t, () => other.port, '/attach/a')
    await late.waitForEnd()
    for (const client of [atHome, elsewhere, late]) {
      t.same(client.data, numbersFrom(1, 6))
      t.same(client.told, ['stream-end'])
    }
  })

  t.test('a stop reaches the producer from any instance, and its clients on all of them', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other, third] = (await startInstances(t, redis, 3)) as [Instance, Instance, Instance]
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 2)
    await atHome.waitForData(2)
    const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
    await elsewhere.waitForData(2)
    t.equal(await third.ask('abort', 'a'), true)
    await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
    for (const client of [atHome, elsewhere]) {
      t.same(client.data, numbersFrom(1, 2))
      t.same(client.told, ['stream-error', 'stream-end'])
      t.match(client.events.at(-2)?.data, 'STREAM_ABORTED')
      t.match(client.events.at(-2)?.id, /\.3$/)
      t.equal(client.events.at(-1)?.data, '{"outcome":"aborted"}')
    }
    t.same(await home.ask('runs', 'a'), { runs: 1, closed: 1 })
    await eventually('it is stored', async () => (await third.ask('find', 'a'))?.outcome === 'aborted')
    t.equal(await third.ask('abort', 'a'), false, 'it does not run any more')
    t.equal(await third.ask('abort', 'unknown'), false)
    t.match(await third.ask('stats'), { replicas: 0, aborted: 0 })

    // Without an answer nothing is known of a stream elsewhere, and one at home is stopped all the same.
    await home.ask('start', 'b')
    redis.hang()
    await t.rejects(third.ask('abort', 'b'), { code: 'FST_ERR_RSSE_STORE_UNAVAILABLE' })
    t.equal(await home.ask('abort', 'b'), true)
    await eventually('it is closed', async () => (await home.ask('runs', 'b')).closed === 1)
    redis.goOn()
  })

  t.test('a stream is found from any instance, and nothing is copied for it', async (t) => {
    const [home, other] = await startTwo(t, await RedisServer.start(t))
    t.equal(await other.ask('find', 'a'), undefined)
    const client = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 2)
    await client.waitForData(2)
    await untilStored(other, 'a', 2)
    const known = { streamId: 'a', state: 'running', firstSequence: 1, lastSequence: 2, bufferedEvents: 2 } as const
    t.match(await home.ask('find', 'a'), { ...known, home: true, clients: 1 })
    t.match(await other.ask('find', 'a'), { ...known, home: false, clients: 0 })
    t.equal(await other.ask('get', 'a'), undefined, 'it is not here')
    await home.ask('finish', 'a')
    await client.waitForEnd()
    await eventually('the end is stored', async () => (await other.ask('find', 'a'))?.state === 'finished')
    const [here, there] = [await home.ask('find', 'a'), await other.ask('find', 'a')]
    t.match(there, { ...known, state: 'finished', outcome: 'completed', home: false })
    t.equal(there?.finishedAt, here?.finishedAt)
    t.equal(there?.startedAt, here?.startedAt)
    t.match(await other.ask('stats'), { replicas: 0, finished: 0 })
  })

  t.test('an instance has two connections of its own, whatever it does', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    const clients: ResumingClient[] = []
    for (let number = 0; number < 20; number++) {
      await home.ask('start', `s${number}`)
      await home.ask('append', `s${number}`, 1)
      for (const { port } of [home, other]) clients.push(new ResumingClient(t, () => port, `/attach/s${number}`))
    }
    await Promise.all(clients.map((client) => client.waitForData(1)))
    // Theirs, that of the user, and the one that asks.
    t.equal(await redis.connections(), 2 * (2 + 1) + 1)
    await redis.command('CLIENT', 'KILL', 'SKIPME', 'yes')
    await home.ask('append', 's0', 1)
    await clients[1]?.waitForData(2)
    await eventually('they are there again', async () => (await redis.connections()) === 7)
    await home.ask('close')
    await home.exited
    await eventually('its connections are closed', async () => (await redis.connections()) === 4)
  })

  t.test(
    'a thousand clients that land at once on an instance that knows nothing cost three reads at most',
    async (t) => {
      const redis = await RedisServer.start(t)
      // Without beats and polls meanwhile.
      const options = { store: { lease: 300_000, pollInterval: 100_000 } }
      const [home, warm, fresh] = (await startInstances(t, redis, 3, options)) as [Instance, Instance, Instance]
      await home.ask('start', 'a')
      await home.ask('append', 'a', 100)
      const early = new ResumingClient(t, () => warm.port, '/attach/a')
      await early.waitForData(100)
      await redis.command('CONFIG', 'RESETSTAT')
      const clients = Array.from({ length: 1_000 }, () => sendSse(t, fresh.port, '/attach/a'))
      await Promise.all(clients.map((client) => client.waitForData(100)))
      t.ok(clients.every(({ data }) => data.join() === numbersFrom(1, 100).join()))
      const info = await redis.command('INFO', 'commandstats')
      const scripts = Array.from(info.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g), ([, calls]) => Number(calls))
      const reads = scripts.reduce((sum, calls) => sum + calls, 0)
      t.ok(reads <= 3, `${reads} reads`)
      t.match(await fresh.ask('stats'), { replicas: 1, clients: 1_000 })
    }
  )
}
