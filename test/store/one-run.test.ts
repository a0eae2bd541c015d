import t from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startInstances, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { RedisProxy } from '../helpers/redis-proxy.ts'
import { APPEND, CREATE } from '../../src/store/scripts.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertWhole, ResumingClient } from '../helpers/resuming-client.ts'

const ROUNDS = 100

async function runsOf(instances: readonly Instance[], name: string): Promise<number> {
  const all = await Promise.all(instances.map((instance) => instance.ask('runs', name)))
  return all.reduce((sum, { runs }) => sum + runs, 0)
}

if (hasRedis(t)) {
  t.test('instances that get the first requests of one name at the same moment call one handler', async (t) => {
    const instances = await startInstances(t, await RedisServer.start(t), 3)
    const runsAt = new Map<Instance, number>()
    for (let round = 0; round < ROUNDS; round++) {
      const name = `r${round}`
      for (const instance of instances) {
        await instance.ask('append', name, 3)
        await instance.ask('finish', name)
      }
      const clients = instances.flatMap(({ port }) => [
        new ResumingClient(t, () => port, `/named/${name}`),
        new ResumingClient(t, () => port, `/named/${name}`)
      ])
      await Promise.all(clients.map((client) => client.waitForEnd()))
      if (clients.some((client) => client.data.join() !== '1,2,3')) assertWhole(t, clients[0] as ResumingClient, 3)
      for (const instance of instances) {
        const { runs } = await instance.ask('runs', name)
        runsAt.set(instance, (runsAt.get(instance) ?? 0) + runs)
      }
      const runs = await runsOf(instances, name)
      if (runs !== 1) t.fail(`${runs} runs of ${name}`)
    }
    t.equal(
      [...runsAt.values()].reduce((sum, runs) => sum + runs, 0),
      ROUNDS
    )
    t.comment(`runs at each: ${[...runsAt.values()].join(', ')}`)
  })

  t.test('start() on two instances at the same moment starts one run', async (t) => {
    const instances = await startTwo(t, await RedisServer.start(t))
    for (let round = 0; round < ROUNDS; round++) {
      const infos = await Promise.all(instances.map((instance) => instance.ask('start', `r${round}`)))
      t.same(new Set(infos.map(({ home }) => home)), new Set([true, false]))
    }
    const stats = await Promise.all(instances.map((instance) => instance.ask('stats')))
    t.equal(
      stats.reduce((sum, { started }) => sum + started, 0),
      ROUNDS
    )
  })

  for (const fault of ['cut', 'lost', { lateMs: LEASE_MS / 2 }] as const) {
    const what = typeof fault === 'string' ? fault : 'late'
    t.test(`the answer to the creation of a stream is ${what}: the next request runs it, once`, async (t) => {
      const redis = await RedisServer.start(t)
      const proxy = await RedisProxy.start(t, redis.port)
      const [home, other] = await startTwo(t, redis, { ports: [proxy.port] })
      await home.ask('append', 'a', 3)
      proxy.strike(CREATE, fault)
      const client = new ResumingClient(t, () => home.port, '/named/a')
      await eventually('the answer is struck', () => proxy.struck > 0)
      // It finds that the stream is there, and waits for what its home has not begun to produce.
      const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
      await Promise.all([client.waitForData(3), elsewhere.waitForData(3)])
      t.ok(client.visits.length > 1, 'it was refused, and came back')
      await home.ask('finish', 'a')
      await Promise.all([client.waitForEnd(), elsewhere.waitForEnd()])
      assertWhole(t, client, 3)
      assertWhole(t, elsewhere, 3)
      t.equal(await runsOf([home, other], 'a'), 1)
    })

    t.test(`the answer to an append is ${what}: nothing is missing, nothing comes twice`, async (t) => {
      const redis = await RedisServer.start(t)
      const proxy = await RedisProxy.start(t, redis.port)
      const [home, other] = await startTwo(t, redis, { ports: [proxy.port] })
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 1)
      await atHome.waitForData(1)
      const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
      await untilStored(other, 'a', 1)
      let appended = 1
      for (let strikes = 1; strikes <= 3; strikes++) {
        proxy.strike(APPEND, fault)
        await home.ask('append', 'a', 2)
        await eventually('the answer is struck', () => proxy.struck === strikes)
        // What is sent again has grown meanwhile.
        await home.ask('append', 'a', 3)
        appended += 5
        await untilStored(other, 'a', appended)
      }
      proxy.strike(APPEND, fault)
      await home.ask('finish', 'a')
      await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
      assertWhole(t, atHome, appended)
      assertWhole(t, elsewhere, appended)
      await eventually('its finish is stored', async () => (await other.ask('find', 'a'))?.outcome === 'completed')
      t.equal(proxy.struck, 4)
      t.equal(await runsOf([home, other], 'a'), 1)
      t.match(await home.ask('stats'), { completed: 1, lost: 0 })
    })
  }

  t.test('a life that is being entered while its instance closes is taken back', async (t) => {
    const redis = await RedisServer.start(t)
    const proxy = await RedisProxy.start(t, redis.port)
    const [home, other] = await startTwo(t, redis, { ports: [proxy.port] })
    proxy.strike(CREATE, { lateMs: LEASE_MS / 6 })
    const refused = fetch(`http://127.0.0.1:${home.port}/named/a`, { headers: { accept: 'text/event-stream' } })
    await eventually('the answer is late', () => proxy.struck > 0)
    await home.ask('close')
    await refused.then((response) => response.body?.cancel()).catch(() => {})
    t.equal(await other.ask('find', 'a'), undefined)
    t.equal(home.errors, '')
  })
}
