import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { startTwo, type Instance } from '../helpers/instances.ts'
import { RedisProxy } from '../helpers/redis-proxy.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertUndisturbed, ResumingClient } from '../helpers/resuming-client.ts'

async function watched(t: Test, home: Instance, other: Instance): Promise<ResumingClient[]> {
  const atHome = new ResumingClient(t, () => home.port, '/named/a')
  await home.ask('append', 'a', 1)
  await atHome.waitForData(1)
  const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
  await elsewhere.waitForData(1)
  return [atHome, elsewhere]
}

if (hasRedis(t)) {
  t.test(
    'the connections that subscribe are killed again and again in the middle of a stream: nothing is missing',
    async (t) => {
      const redis = await RedisServer.start(t)
      const [home, other] = await startTwo(t, redis)
      const clients = await watched(t, home, other)
      for (let round = 0; round < 20; round++) {
        const killed = redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
        await home.ask('append', 'a', 5)
        await killed
        await delay(round * 5)
      }
      const killed = redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await home.ask('finish', 'a')
      await killed
      await Promise.all(clients.map((client) => client.waitForEnd()))
      for (const client of clients) assertUndisturbed(t, client, 101)
      t.equal(other.errors, '')
    }
  )

  t.test('an instance whose connection to subscribe with is always cut off has everything by its polls', async (t) => {
    const redis = await RedisServer.start(t)
    const proxy = await RedisProxy.start(t, redis.port)
    const pollInterval = 400
    const [home, other] = await startTwo(t, redis, { ports: [redis.port, proxy.port], store: { pollInterval } })
    const clients = await watched(t, home, other)
    const [, elsewhere] = clients as [ResumingClient, ResumingClient]
    proxy.refusesSubscriptions = true
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await eventually('it is cut off', () => proxy.refused > 0)
    const delays: number[] = []
    for (let count = 2; count <= 11; count++) {
      const from = performance.now()
      await home.ask('append', 'a', 1)
      await elsewhere.waitForData(count)
      delays.push(Math.round(performance.now() - from))
    }
    t.comment(`delays: ${delays.join(', ')} ms`)
    // The longest interval is 1.5 × pollInterval; the rest is what a busy machine takes.
    t.ok(Math.max(...delays) < 1.5 * pollInterval + 500)
    t.ok(delays.reduce((sum, ms) => sum + ms, 0) / delays.length < pollInterval + 100)
    await home.ask('finish', 'a')
    await Promise.all(clients.map((client) => client.waitForEnd()))
    for (const client of clients) assertUndisturbed(t, client, 11)
    t.equal(other.log.with('the store does not answer; it is tried again until it does').length, 1)
  })

  t.test('a permission to subscribe that is taken away later costs nothing but time', async (t) => {
    const redis = await RedisServer.start(t)
    const rules = ['SETUSER', 'app', 'on', '>secret', '+@all', '~{rsse:*', '&*']
    t.equal(await redis.command('ACL', ...rules), '+OK\r\n')
    const [home, other] = await startTwo(t, redis, { username: 'app' })
    const clients = await watched(t, home, other)
    // It publishes, and may not listen any more.
    await redis.command('ACL', 'SETUSER', 'app', '-subscribe')
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    for (let round = 0; round < 10; round++) {
      await home.ask('append', 'a', 3)
      await delay(50)
    }
    await home.ask('finish', 'a')
    await Promise.all(clients.map((client) => client.waitForEnd()))
    for (const client of clients) assertUndisturbed(t, client, 31)
    // A stop finds its way as well, with the next beat.
    await home.ask('start', 'b')
    t.equal(await other.ask('abort', 'b'), true)
    await eventually('it is stopped', async () => (await home.ask('runs', 'b')).closed === 1)
    for (const instance of [home, other]) t.equal(instance.errors, '')
  })
}
