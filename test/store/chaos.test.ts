import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startInstances, type Instance } from '../helpers/instances.ts'
import { createRandom, SEED } from '../helpers/random.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { assertWhole, ResumingClient } from '../helpers/resuming-client.ts'

const LEASE_MS = 3_000
const DURATION_MS = 10_000
const STREAMS = 9
const CLIENTS_PER_STREAM = 3

if (hasRedis(t)) {
  t.test(
    'faults of every kind, while clients go from one instance to another: each gets every event once',
    async (t) => {
      t.comment(`seed ${SEED}`)
      const random = createRandom(SEED)
      const redis = await RedisServer.start(t)
      const instances = await startInstances(t, redis, 3, { store: { lease: LEASE_MS, pollInterval: 300 } })
      const streams = await Promise.all(
        Array.from({ length: STREAMS }, async (_, index) => {
          const [name, home] = [`s${index}`, instances[index % instances.length] as Instance]
          await home.ask('start', name)
          return { name, home, count: 0 }
        })
      )
      const followed = streams.flatMap((stream) =>
        Array.from({ length: CLIENTS_PER_STREAM }, () => ({
          stream,
          client: new ResumingClient(t, () => random.pick(instances).port, `/named/${stream.name}`)
        }))
      )
      // No event stays out of the store for a lease: whoever has one that it lacks is made to start over by then.
      const faults = [
        () => redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub'),
        () => redis.command('CLIENT', 'KILL', 'TYPE', 'normal'),
        () => redis.command('CLIENT', 'PAUSE', String(1 + random.below(LEASE_MS / 2)), 'WRITE'),
        async () => {
          redis.hang()
          await delay(random.below(1.5 * LEASE_MS))
          redis.goOn()
        },
        async () => {
          const instance = random.pick(instances)
          instance.freeze()
          await delay(random.below(LEASE_MS / 3))
          instance.thaw()
        },
        async () => {
          await redis.command('CONFIG', 'SET', 'maxmemory', '1')
          await delay(random.below(LEASE_MS / 3))
          await redis.command('CONFIG', 'SET', 'maxmemory', '0')
        }
      ]
      let isOver = false
      const produce = async (): Promise<void> => {
        while (!isOver) {
          for (const stream of streams) {
            const count = 1 + random.below(5)
            stream.count += count
            await stream.home.ask('append', stream.name, count, random.below(3) === 0 ? 5_000 : 0)
          }
          await delay(20)
        }
      }
      const bounce = async (): Promise<void> => {
        while (!isOver) {
          await random.pick(followed).client.cut()
          await delay(40)
        }
      }
      const work = [produce(), bounce()]
      for (const from = performance.now(); performance.now() - from < DURATION_MS;) {
        await random.pick(faults)()
        await delay(random.below(400))
      }
      isOver = true
      await Promise.all(work)
      for (const { home, name } of streams) await home.ask('finish', name)
      await Promise.all(followed.map(({ client }) => client.waitForEnd()))
      for (const { stream, client } of followed) assertWhole(t, client, stream.count)
      for (const { home, name } of streams) t.same(await home.ask('runs', name), { runs: 1, closed: 1 })
      for (const instance of instances) {
        t.match(await instance.ask('stats'), { lost: 0 })
        t.equal(instance.errors, '')
      }
    }
  )
}
