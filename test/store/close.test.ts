import { setTimeout as delay } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { createSystemClock } from '../../src/clock.ts'
import streamPlugin from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startTwo } from '../helpers/instances.ts'
import { MemoryServer } from '../helpers/memory-store.ts'
import { numbers } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { ResumingClient } from '../helpers/resuming-client.ts'
import { StepGate } from '../helpers/step-gate.ts'

// One second each to abort, to flush and for the store; what is left is for a busy machine.
const BOUND_MS = 3_000 + 2_000

const STATES: Readonly<Record<string, (redis: RedisServer) => unknown>> = {
  'is well': () => {},
  hangs: (redis) => redis.hang(),
  'is stopped': (redis) => redis.stop(),
  'refuses writes': (redis) => redis.command('CONFIG', 'SET', 'maxmemory', '1')
}

if (hasRedis(t)) {
  for (const [state, begin] of Object.entries(STATES)) {
    t.test(`while the store ${state} close() is bounded, and the process ends by itself`, async (t) => {
      const redis = await RedisServer.start(t)
      const instances = await startTwo(t, redis)
      const [home, other] = instances
      const clients: ResumingClient[] = []
      for (const name of ['a', 'b', 'c']) {
        const client = new ResumingClient(t, () => home.port, `/named/${name}`)
        await home.ask('append', name, 2)
        await client.waitForData(2)
        const elsewhere = new ResumingClient(t, () => other.port, `/named/${name}`)
        await elsewhere.waitForData(2)
        clients.push(client, elsewhere)
      }
      await begin(redis)
      await home.ask('append', 'a', 1)
      await home.ask('finish', 'b')
      for (const instance of [other, home]) {
        const [tookMs, code] = [await instance.ask('close'), await instance.exited]
        t.ok(tookMs < BOUND_MS, `it took ${tookMs} ms`)
        t.equal(code, 0)
        t.equal(instance.errors, '')
        t.same(instance.log.with('streams could not be closed in order'), [])
        t.same(instance.log.with('streams, responses or generators are left after close'), [])
      }
      redis.goOn()
      for (const client of clients) t.notOk(client.wasMisled)
    })

    if (state === 'is well') continue
    t.test(`an instance that comes up while the store ${state} closes in time`, async (t) => {
      const redis = await RedisServer.start(t)
      await begin(redis)
      const [one, other] = await startTwo(t, redis, { store: { lease: 3 * LEASE_MS } })
      await eventually('there is a warning', () => one.log.complaints.length === 1)
      const client = new ResumingClient(t, () => other.port, '/named/a')
      await other.ask('stats')
      for (const instance of [one, other]) {
        t.ok((await instance.ask('close')) < BOUND_MS)
        t.equal(await instance.exited, 0)
        t.equal(instance.errors, '')
      }
      t.notOk(client.wasMisled)
      redis.goOn()
    })
  }
}

t.test('close() of a server that never listened waits for the store as well', async (t) => {
  const server = new MemoryServer(createSystemClock())
  const store = server.connect(LEASE_MS)
  const fastify = Fastify()
  await fastify.register(streamPlugin, { store })
  await fastify.ready()
  await fastify.sseStreams.start(numbers(1, new StepGate()), { streamId: 'a' })
  store.onCall = async ({ append }) => {
    if (append?.finish !== undefined) await delay(100)
  }
  await fastify.close()
  t.match(server.find({ streamId: 'a', owner: undefined }), { finish: { outcome: 'lost' } })
})
