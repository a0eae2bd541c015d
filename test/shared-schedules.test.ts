import { test } from 'tap'
import { parseCursor } from '../src/cursor.ts'
import { StoreUnavailableError } from '../src/errors.ts'
import type { FakeClient } from './helpers/create-registry.ts'
import { Feed } from './helpers/feed.ts'
import { refuse } from './helpers/memory-store.ts'
import { numbersFrom } from './helpers/numbers.ts'
import { createRandom, SEED, type Random } from './helpers/random.ts'
import { createSharedSystem, LEASE_MS, POLL_MS, type Instance } from './helpers/shared-system.ts'

// More of them: SHARED_SCHEDULES=10000. Each has a seed of its own, which a failure prints; that one alone: SEED=<seed>.
const SCHEDULES = Number(process.env['SHARED_SCHEDULES'] ?? (process.env['SEED'] === undefined ? 15 : 1))
const INSTANCES = 3
const FAULTS = 5

/** A stream that yields the numbers from 1 on. */
class Stream {
  readonly streamId: string
  readonly feed: Feed = new Feed()
  isEnded = false
  count = 0

  constructor(streamId: string) {
    this.streamId = streamId
  }

  push(count: number, bytes: number): void {
    this.feed.push(...numbersFrom(this.count + 1, this.count + count).map((number) => number.padEnd(bytes)))
    this.count += count
  }

  end(): void {
    this.isEnded = true
    this.feed.end()
  }
}

/** A client that comes back, to any instance, until it is told that there is nothing more to come. */
class Client {
  readonly stream: Stream
  readonly data: string[] = []
  readonly told: string[] = []
  readonly #next: () => Instance
  #instance: Instance
  #visit: FakeClient | undefined
  #lastEventId: string | undefined
  #isComing = false

  constructor(stream: Stream, next: () => Instance) {
    this.stream = stream
    this.#next = next
    this.#instance = next()
  }

  get isWhole(): boolean {
    return this.data.join() === numbersFrom(1, this.stream.count).join() && this.told.join() === 'stream-end'
  }

  drop(): void {
    this.#visit?.drop()
    this.#leave()
  }

  /** Comes back if it is not there. */
  look(): void {
    if (this.#visit?.transport.outcome !== undefined) this.#leave()
    if (this.#visit !== undefined || this.#isComing || this.told.includes('stream-end')) return
    this.#isComing = true
    void this.#come().finally(() => (this.#isComing = false))
  }

  // One that is refused comes to the same instance: what was entered for it there has no home elsewhere.
  async #come(): Promise<void> {
    const { streams, start, attach } = this.#instance
    const { streamId, feed } = this.stream
    const cursor = parseCursor(this.#lastEventId)
    try {
      const stream =
        cursor.kind === 'none' ? await start(feed, streamId) : await streams.find(streamId, undefined, cursor)
      if (stream === undefined) this.told.push('not found')
      else this.#visit = attach(stream, { lastEventId: this.#lastEventId })
    } catch (error) {
      if (!(error instanceof StoreUnavailableError)) throw error
    }
  }

  #leave(): void {
    if (this.#visit === undefined) return
    const { transport } = this.#visit
    this.data.push(...transport.data.map((data) => data.trimEnd()))
    this.told.push(...transport.control.filter((event) => event !== 'stream-start'))
    this.#lastEventId = transport.lastEventId ?? this.#lastEventId
    this.#visit = undefined
    this.#instance = this.#next()
  }
}

interface Fault {
  readonly maxMs: number
  begin(stores: readonly Instance['store'][]): void
}

// No event stays out of the store for a lease: whoever has one that it lacks is made to start over by then.
function faultsOf(random: Random, clock: { setTimer(callback: () => void, delayMs: number): unknown }) {
  const slowly = (): Promise<void> =>
    new Promise((resolve) => void clock.setTimer(resolve, 1 + random.below(LEASE_MS / 4)))
  return {
    'the store is down': { maxMs: 2 * LEASE_MS, begin: (stores) => stores.forEach((store) => store.goDown()) },
    'one has no store': { maxMs: LEASE_MS / 3, begin: (stores) => random.pick(stores).goDown() },
    'it is full': {
      maxMs: LEASE_MS / 2,
      begin: (stores) =>
        stores.forEach((store) => {
          store.onCall = ({ name, append }) => {
            if (name === 'create' || append?.batch !== undefined) refuse()
          }
        })
    },
    'answers are lost': {
      maxMs: LEASE_MS / 2,
      begin: (stores) =>
        stores.forEach((store) => {
          store.onAnswer = () => {
            if (random.below(3) === 0) refuse()
          }
        })
    },
    'it is slow': {
      maxMs: LEASE_MS / 2,
      begin: (stores) =>
        stores.forEach((store) => {
          if (random.below(2) === 0) store.onCall = slowly
          else store.onAnswer = slowly
        })
    }
  } satisfies Record<string, Fault>
}

function heal({ store }: Instance): void {
  store.onCall = () => {}
  store.onAnswer = () => {}
  store.comeBack()
}

test('whatever becomes of the store, and wherever clients go, each gets every event once', async (t) => {
  for (let seed = SEED; seed < SEED + SCHEDULES; seed++) {
    const random = createRandom(seed)
    const { clock, connect, pass } = createSharedSystem(t)
    const instances: Instance[] = []
    for (let count = 0; count < INSTANCES; count++) instances.push(await connect())
    for (const { store } of instances) store.hasNews = () => random.below(4) > 0
    const streams: Stream[] = []
    const clients: Client[] = []
    const follow = (stream: Stream): unknown => clients.push(new Client(stream, () => random.pick(instances)))
    const look = (): void => clients.forEach((client) => client.look())
    const step = (): void => {
      if (random.below(20) === 0 || streams.length === 0) {
        const stream = new Stream(`stream-${streams.length}`)
        streams.push(stream)
        follow(stream)
        follow(stream)
      }
      if (random.below(20) === 0) follow(random.pick(streams))
      look()
      const stream = random.pick(streams)
      if (!stream.isEnded && random.below(2) === 0) stream.push(1 + random.below(4), random.pick([0, 0, 0, 20_000]))
      if (!stream.isEnded && random.below(30) === 0) stream.end()
      if (random.below(8) === 0) random.pick(clients).drop()
    }
    const faults = Object.entries(faultsOf(random, clock))
    const history: string[] = []
    for (let count = 0; count < FAULTS; count++) {
      const [name, fault] = random.pick(faults)
      const [beforeMs, duringMs] = [random.below(POLL_MS), random.below(fault.maxMs)]
      history.push(`${beforeMs} ms, ${name} for ${duringMs} ms`)
      await pass(beforeMs, step)
      fault.begin(instances.map(({ store }) => store))
      await pass(duringMs, step)
      for (const instance of instances) {
        heal(instance)
        await pass(random.below(LEASE_MS / 8), step)
      }
      // What it kept away gets there.
      await pass(2 * POLL_MS, step)
    }
    for (const stream of streams) stream.end()
    await pass(2 * LEASE_MS, look)
    const wrong = clients.filter(({ isWhole }) => !isWhole)
    const runs = streams.map(({ feed }) => feed.runs)
    if (wrong.length === 0 && runs.every((count) => count === 1)) continue
    for (const line of history) t.comment(line)
    for (const { stream, data, told } of wrong) {
      t.comment(`${stream.streamId} of ${stream.count}: ${data.join()} / ${told.join()}`)
    }
    t.fail(`SEED=${seed}: ${wrong.length} of ${clients.length} clients got something else; runs: ${runs.join()}`)
    return
  }
  t.pass(`${SCHEDULES} schedules from seed ${SEED} on`)
})
