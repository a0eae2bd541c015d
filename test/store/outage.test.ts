import t from 'tap'
import { setTimeout as delay } from 'node:timers/promises'
import { eventually } from '../helpers/eventually.ts'
import { LEASE_MS, startTwo, untilStored, type Instance } from '../helpers/instances.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertWhole, ResumingClient } from '../helpers/resuming-client.ts'
import { openSse } from '../helpers/sse-client.ts'

const OUTAGE_MS = 1.5 * LEASE_MS

interface Outage {
  readonly name: string
  readonly settings?: readonly string[]
  /** Whether it is still read, so that what can be found there is found. */
  readonly isReadable?: boolean
  begin(redis: RedisServer): unknown
  end(redis: RedisServer): unknown
}

const OUTAGES: readonly Outage[] = [
  { name: 'stopped', begin: (redis) => redis.stop(), end: (redis) => redis.start() },
  {
    name: 'stopped, and it keeps what it had,',
    settings: ['--appendonly', 'yes', '--appendfsync', 'always'],
    begin: (redis) => redis.stop(),
    end: (redis) => redis.start()
  },
  { name: 'hung', begin: (redis) => redis.hang(), end: (redis) => redis.goOn() },
  {
    name: 'so slow that nothing is answered in time',
    begin: (redis) => redis.command('CLIENT', 'PAUSE', String(2 * OUTAGE_MS), 'ALL'),
    // Nothing ends a pause, since everything waits for it.
    end: (redis) => redis.command('PING')
  },
  {
    name: 'full',
    settings: ['--maxmemory', '0', '--maxmemory-policy', 'noeviction'],
    isReadable: true,
    begin: (redis) => redis.command('CONFIG', 'SET', 'maxmemory', '1'),
    end: (redis) => redis.command('CONFIG', 'SET', 'maxmemory', '0')
  },
  {
    name: 'read-only',
    isReadable: true,
    begin: (redis) => redis.command('REPLICAOF', '127.0.0.1', '1'),
    end: (redis) => redis.command('REPLICAOF', 'NO', 'ONE')
  }
]

function linesOf(instance: Instance): { began: number; ended: number } {
  return {
    began: instance.log.with('the store does not answer; it is tried again until it does').length,
    ended: instance.log.with('the store answers again').length
  }
}

if (hasRedis(t)) {
  for (const outage of OUTAGES) {
    t.test(`the store is ${outage.name} for longer than a lease`, async (t) => {
      const redis = await RedisServer.start(t, outage.settings)
      const [home, other] = await startTwo(t, redis)
      const atHome = new ResumingClient(t, () => home.port, '/named/a')
      await home.ask('append', 'a', 5)
      await atHome.waitForData(5)
      const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
      await elsewhere.waitForData(5)
      await home.ask('start', 'idle')
      await untilStored(other, 'a', 5)

      await outage.begin(redis)
      await home.ask('append', 'a', 3)
      await atHome.waitForData(8)
      await eventually('the home has noticed', () => linesOf(home).began === 1)
      // A request that needs the store is refused, in the way of an event source and in that of everybody else.
      const refused = await openSse(t, other.port, '/named/new')
      t.equal(await refused.waitForEnd(), 'truncated')
      t.equal(refused.status, 200)
      t.equal(refused.retries.length, 1)
      t.same(refused.events, [])
      const told = await openSse(t, other.port, '/named/new', { headers: { accept: '*/*' } })
      t.match(await told.json(), {
        code: 'FST_ERR_RSSE_STORE_UNAVAILABLE',
        statusCode: 503,
        message: /^The store did not answer. Come back in a moment.$/
      })
      t.match(told.headers['retry-after'], /^\d+$/)
      t.same(await other.ask('runs', 'new'), { runs: 0, closed: 0 })
      await delay(OUTAGE_MS)
      await home.ask('append', 'a', 2)
      await atHome.waitForData(10)
      await outage.end(redis)

      await elsewhere.waitForData(10)
      await home.ask('finish', 'a')
      await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
      assertWhole(t, atHome, 10)
      assertWhole(t, elsewhere, 10)
      await untilStored(other, 'a', 10)
      t.match(await other.ask('find', 'idle'), { state: 'running' }, 'a healthy stream is not declared lost')
      await delay(LEASE_MS)
      for (const instance of [home, other]) {
        await eventually('the end of the outage is noticed', () => linesOf(instance).ended === 1)
        t.same(linesOf(instance), { began: 1, ended: 1 })
        t.equal(instance.errors, '')
      }
      t.match(await other.ask('find', 'idle'), { state: 'running' })
      t.same(await home.ask('runs', 'a'), { runs: 1, closed: 1 })
      t.same(await other.ask('runs', 'a'), { runs: 0, closed: 0 })
    })
  }

  t.test('instances that come up before their store share streams as soon as it is there', async (t) => {
    const redis = await RedisServer.start(t)
    await redis.stop()
    const [home, other] = await startTwo(t, redis)
    for (const { log } of [home, other]) await eventually('there is a warning', () => log.complaints.length === 1)
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await eventually('it is sent away', () => atHome.visits.length > 1)
    t.same(atHome.events, [])
    await redis.start()
    await home.ask('append', 'a', 3)
    await atHome.waitForData(3)
    const elsewhere = new ResumingClient(t, () => other.port, '/named/a')
    await elsewhere.waitForData(3)
    await home.ask('finish', 'a')
    await Promise.all([atHome.waitForEnd(), elsewhere.waitForEnd()])
    assertWhole(t, atHome, 3)
    assertWhole(t, elsewhere, 3)
    t.same(await home.ask('runs', 'a'), { runs: 1, closed: 1 })
  })

  t.test('a stream that began and ended in an outage is found by others afterwards', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    const atHome = new ResumingClient(t, () => home.port, '/named/a')
    await home.ask('append', 'a', 1)
    await atHome.waitForData(1)
    redis.hang()
    await home.ask('append', 'a', 4)
    await home.ask('finish', 'a')
    await atHome.waitForEnd()
    await delay(OUTAGE_MS)
    redis.goOn()
    await untilStored(other, 'a', 5)
    const late = new ResumingClient(t, () => other.port, '/attach/a')
    await late.waitForEnd()
    assertWhole(t, atHome, 5)
    assertWhole(t, late, 5)
  })

  t.test('after an outage longer than the lease none of many healthy streams is declared lost', async (t) => {
    const redis = await RedisServer.start(t)
    const [home, other] = await startTwo(t, redis)
    const names = Array.from({ length: 50 }, (_, index) => `s${index}`)
    const clients: ResumingClient[] = []
    for (const name of names) {
      await home.ask('start', name)
      await home.ask('append', name, 1)
      clients.push(new ResumingClient(t, () => other.port, `/attach/${name}`))
    }
    await Promise.all(clients.map((client) => client.waitForData(1)))
    for (let outages = 0; outages < 3; outages++) {
      redis.hang()
      await delay(OUTAGE_MS)
      redis.goOn()
      await delay(LEASE_MS / 2)
    }
    for (const name of names) {
      await home.ask('append', name, 1)
      await home.ask('finish', name)
    }
    await Promise.all(clients.map((client) => client.waitForEnd()))
    for (const client of clients) assertWhole(t, client, 2)
  })
}
