import { EventSource } from 'eventsource'
import t, { type Test } from 'tap'
import { Agent, fetch } from 'undici'
import type { StreamPluginOptions } from '../../src/index.ts'
import type { RedisStoreOptions } from '../../src/store/redis.ts'
import { Balancer } from '../helpers/balancer.ts'
import { eventually } from '../helpers/eventually.ts'
import { Instance, startInstances } from '../helpers/instances.ts'
import { numbersFrom } from '../helpers/numbers.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'

// `CLIENTS=1000 STREAMS=200` are the numbers of a small deployment; by itself the test shares its machine with others.
const CLIENTS = Number(process.env['CLIENTS'] ?? 300)
const STREAMS = Number(process.env['STREAMS'] ?? 60)
// Each of these has a client of its own, besides.
const UNNAMED = 20
const INSTANCES = 3
const STEP = 10

/** An `EventSource` as it comes from npm, until it has closed by itself. */
class Reader {
  readonly name: string
  readonly data: string[] = []
  /** Control events, with what they say of the end. */
  readonly told: string[] = []
  readonly #source: EventSource

  constructor(t: Test, url: string, name: string, dispatcher: Agent) {
    this.name = name
    const path = name.startsWith('unnamed') ? `/unnamed?feed=${name}` : `/named/${name}`
    this.#source = new EventSource(url + path, {
      fetch: (address, init) => fetch(address, { ...init, dispatcher })
    })
    t.teardown(() => this.#source.close())
    this.#source.addEventListener('message', ({ data }) => this.data.push(data as string))
    this.#source.addEventListener('stream-start', () => this.told.push('stream-start'))
    this.#source.addEventListener('stream-error', ({ data }) => {
      this.told.push(`stream-error ${(JSON.parse(data as string) as { code: string }).code}`)
    })
    for (const event of ['stream-gap', 'stream-end']) {
      this.#source.addEventListener(event, ({ data }) => this.told.push(`${event} ${data as string}`))
    }
  }

  get isAttached(): boolean {
    return this.told.length > 0
  }

  /** Whether it got the first `count` events, each once and in order, and was told just that. */
  hasJust(count: number, told: readonly string[]): boolean {
    return this.data.join() === numbersFrom(1, count).join() && this.told.join() === told.join()
  }

  get isClosed(): boolean {
    return this.#source.readyState === EventSource.CLOSED
  }
}

interface DeploymentOptions {
  readonly store: RedisStoreOptions
  readonly plugin: StreamPluginOptions
}

/** Three instances, and clients that read everything through a balancer. */
class Deployment {
  readonly readers: readonly Reader[]
  readonly #t: Test
  readonly #redis: RedisServer
  readonly #options: DeploymentOptions
  readonly #instances: Instance[]
  readonly #balancer: Balancer
  // Which instance runs a stream, by its index.
  readonly #homes = new Map<string, number>()
  readonly #appended: number[] = Array.from({ length: INSTANCES }, () => 0)
  // Names of the streams whose handler was called, once for each call.
  readonly #runs: string[] = []

  private constructor(
    t: Test,
    redis: RedisServer,
    options: DeploymentOptions,
    instances: Instance[],
    balancer: Balancer
  ) {
    this.#t = t
    this.#redis = redis
    this.#options = options
    this.#instances = instances
    this.#balancer = balancer
    // One connection for each request, as browsers have them that belong to different people.
    const agent = new Agent({ pipelining: 0 })
    t.teardown(() => agent.destroy())
    const names = [...Array.from({ length: CLIENTS }, (_, index) => `s${index % STREAMS}`), ...unnamed]
    this.readers = names.map((name) => new Reader(t, balancer.url, name, agent))
  }

  static async start(t: Test, options: DeploymentOptions): Promise<Deployment> {
    const redis = await RedisServer.start(t)
    const instances = await startInstances(t, redis, INSTANCES, options)
    const balancer = await Balancer.start(
      t,
      instances.map(({ port }) => port)
    )
    const deployment = new Deployment(t, redis, options, instances, balancer)
    await eventually('all clients are there', () => deployment.readers.every(({ isAttached }) => isAttached))
    for (const [index, instance] of instances.entries()) {
      for (const name of await instance.ask('allRuns')) deployment.#homes.set(name, index)
    }
    return deployment
  }

  /** What a stream has by now. */
  appendedTo(name: string): number {
    return this.#appended[this.homeOf(name)] as number
  }

  homeOf(name: string): number {
    return this.#homes.get(name) as number
  }

  readersAt(home: number): Reader[] {
    return this.readers.filter(({ name }) => this.homeOf(name) === home)
  }

  /** Every stream goes on, on each of these instances. */
  async append(...indexes: number[]): Promise<void> {
    for (const index of indexes) this.#appended[index] = (this.#appended[index] as number) + STEP
    await Promise.all(indexes.map((index) => this.#at(index).ask('appendAll', STEP)))
  }

  finish(index: number): Promise<void> {
    return this.#at(index).ask('finishAll')
  }

  /** The balancer sends nobody there any more, and the instance closes once its streams have finished. */
  async close(index: number): Promise<void> {
    const leaving = this.#at(index)
    await this.#noteRuns(index)
    this.#balancer.ports = this.#instances.filter((instance) => instance !== leaving).map(({ port }) => port)
    await leaving.ask('close')
    this.#t.equal(await leaving.exited, 0)
    this.#t.equal(leaving.errors, '')
  }

  /** Nobody is told. */
  async kill(index: number): Promise<void> {
    await this.#noteRuns(index)
    await this.#at(index).kill()
  }

  async restart(index: number): Promise<void> {
    const [instance] = await startInstances(this.#t, this.#redis, 1, this.#options)
    this.#instances[index] = instance as Instance
    this.#balancer.ports = this.#instances.map(({ port }) => port)
  }

  async untilAllHaveAll(indexes: number[]): Promise<void> {
    await eventually('all clients have everything', () =>
      indexes.every((index) => this.readersAt(index).every(({ data, name }) => data.length === this.appendedTo(name)))
    )
  }

  async runs(): Promise<string[]> {
    for (let index = 0; index < INSTANCES; index++) await this.#noteRuns(index)
    return this.#runs
  }

  async #noteRuns(index: number): Promise<void> {
    this.#runs.push(...(await this.#at(index).ask('allRuns')))
  }

  #at(index: number): Instance {
    return this.#instances[index] as Instance
  }
}

// For clients that come back, and a machine that does other things as well.
const GRACE_MS = 10_000

const COMPLETED = ['stream-start', 'stream-end {"outcome":"completed"}']
const LOST = ['stream-start', 'stream-error STREAM_LOST', 'stream-end {"outcome":"lost"}']

const unnamed = Array.from({ length: UNNAMED }, (_, index) => `unnamed${index}`)
const names = [...Array.from({ length: STREAMS }, (_, index) => `s${index}`), ...unnamed].toSorted()

if (hasRedis(t)) {
  t.test('each instance is closed and started again: nothing is lost, and nobody notices', async (t) => {
    const deployment = await Deployment.start(t, {
      store: { lease: 6_000, pollInterval: 500 },
      plugin: { drainTimeout: 60_000, retry: 100 }
    })
    for (let index = 0; index < INSTANCES; index++) {
      const running = Array.from({ length: INSTANCES - index }, (_, offset) => index + offset)
      await deployment.append(...running)
      const closed = deployment.close(index)
      await deployment.append(...running)
      await deployment.finish(index)
      await deployment.append(...running.slice(1))
      await closed
      await deployment.append(...running.slice(1))
      await deployment.restart(index)
      await deployment.untilAllHaveAll(running)
    }
    await eventually('all clients have closed', () => deployment.readers.every(({ isClosed }) => isClosed))
    const wrong = deployment.readers.filter((reader) => {
      return !reader.hasJust(deployment.appendedTo(reader.name), COMPLETED)
    })
    t.same(wrong, [], 'each event came once, in order')
    t.same((await deployment.runs()).toSorted(), names, 'each handler ran once')
  })

  t.test('instances are killed: every client gets everything, or is told that it is lost', async (t) => {
    const [lease, pollInterval] = [2_000, 300]
    const deployment = await Deployment.start(t, { store: { lease, pollInterval }, plugin: { retry: 100 } })
    const last = INSTANCES - 1
    for (let index = 0; index < last; index++) {
      const others = Array.from({ length: last - index }, (_, offset) => index + 1 + offset)
      await deployment.append(index, ...others)
      await deployment.kill(index)
      const killedAt = performance.now()
      await deployment.append(...others)
      const readers = deployment.readersAt(index)
      await eventually('all its clients have closed', () => readers.every(({ isClosed }) => isClosed))
      const tookMs = Math.round(performance.now() - killedAt)
      t.comment(`all clients of its streams were told within ${tookMs} ms`)
      t.ok(tookMs < lease + 1.5 * pollInterval + GRACE_MS, `${tookMs} ms`)
      await deployment.restart(index)
      await deployment.untilAllHaveAll(others)
    }
    await deployment.finish(last)
    await eventually('all clients have closed', () => deployment.readers.every(({ isClosed }) => isClosed))

    const wrong = deployment.readers.filter((reader) => {
      const isLost = deployment.homeOf(reader.name) !== last
      return isLost
        ? !reader.hasJust(reader.data.length, LOST)
        : !reader.hasJust(deployment.appendedTo(reader.name), COMPLETED)
    })
    t.same(wrong, [], 'each event came once, in order')
    t.same((await deployment.runs()).toSorted(), names, 'each handler ran once')
  })
}
