import type { Clock } from '../../src/clock.ts'
import { StoreUnavailableError } from '../../src/errors.ts'
import type {
  Append,
  AppendAnswer,
  Batch,
  CreateAnswer,
  Finish,
  News,
  NewLife,
  Page,
  Sign,
  StoreHost,
  StoredStream,
  StreamAddress,
  StreamStore
} from '../../src/store/store.ts'

type Listener = (news: News | undefined) => void

interface LeftSign {
  readonly position: number
  readonly leftAt: number
}

interface Life extends NewLife {
  readonly home: string
  beat: number
  beatAt: number
  firstSequence: number
  lastSequence: number
  isStopped: boolean
  finish: Finish | undefined
  batches: Batch[]
  readonly signs: Map<string, LeftSign>
  expiresAt: number
}

/** What the stores of several instances share, in the memory of the test. */
export class MemoryServer {
  readonly #clock: Clock
  readonly #lives = new Map<string, Life>()
  readonly #listeners = new Map<string, Set<Listener>>()
  readonly #stores = new Map<string, MemoryStore>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The store of one more instance. */
  connect(leaseMs: number, pollMs: number = leaseMs / 3): MemoryStore {
    const store = new MemoryStore(this, this.#clock, `instance-${this.#stores.size}`, leaseMs, pollMs)
    this.#stores.set(store.instance, store)
    return store
  }

  storeOf(instance: string): MemoryStore | undefined {
    return this.#stores.get(instance)
  }

  find(address: StreamAddress): Life | undefined {
    const life = this.#lives.get(keyOf(address))
    return life !== undefined && life.expiresAt > this.#clock.now() ? life : undefined
  }

  put(address: StreamAddress, life: Life): void {
    this.#lives.set(keyOf(address), life)
  }

  delete(address: StreamAddress): void {
    this.#lives.delete(keyOf(address))
  }

  listenersOf(address: StreamAddress): Set<Listener> {
    const listeners = this.#listeners.get(keyOf(address)) ?? new Set()
    this.#listeners.set(keyOf(address), listeners)
    return listeners
  }
}

/** What a store is asked. */
export interface StoreCall {
  readonly name: 'create' | 'discard' | 'append' | 'read' | 'stop' | 'reap'
  readonly address: StreamAddress
  readonly append?: Append
  readonly sign?: Sign | undefined
}

/** The answer of a store that gives none: for `onCall` and `onAnswer`. */
export function refuse(): never {
  throw new StoreUnavailableError({ cause: 'the test says so' })
}

/** A store that a test makes fail. */
export class MemoryStore implements StreamStore {
  readonly leaseMs: number
  readonly pollMs: number
  readonly instance: string
  failedAt: number = -Infinity
  /** Called before whatever is asked takes place: it may take its time, and what it throws is the answer. */
  onCall: (call: StoreCall) => void | Promise<void> = () => {}
  /** The same, after it has taken place. */
  onAnswer: (call: StoreCall) => void | Promise<void> = () => {}
  /** Whether it tells of what is news now. */
  hasNews: () => boolean = () => true
  host: StoreHost | undefined
  readonly #server: MemoryServer
  readonly #clock: Clock
  #isDown = false
  #isClosed = false

  constructor(server: MemoryServer, clock: Clock, instance: string, leaseMs: number, pollMs: number) {
    this.#server = server
    this.#clock = clock
    this.instance = instance
    this.leaseMs = leaseMs
    this.pollMs = pollMs
  }

  goDown(): void {
    this.#isDown = true
  }

  comeBack(): void {
    this.#isDown = false
    this.host?.onReturn()
  }

  async open(host: StoreHost): Promise<void> {
    this.host = host
  }

  create(address: StreamAddress, life: NewLife, replaces = ''): Promise<CreateAnswer> {
    return this.#ask({ name: 'create', address }, () => this.#create(address, life, replaces))
  }

  discard(address: StreamAddress, epoch: string): Promise<void> {
    return this.#ask({ name: 'discard', address }, () => this.#discard(address, epoch))
  }

  append(address: StreamAddress, append: Append): Promise<AppendAnswer> {
    return this.#ask({ name: 'append', address, append }, () => this.#append(address, append))
  }

  read(address: StreamAddress, after: number, maxBytes: number, sign?: Sign): Promise<Page | undefined> {
    return this.#ask({ name: 'read', address, sign }, () => this.#read(address, after, maxBytes, sign))
  }

  stop(address: StreamAddress): Promise<boolean> {
    return this.#ask({ name: 'stop', address }, () => this.#stop(address))
  }

  reap(address: StreamAddress, epoch: string, beat: number): Promise<boolean> {
    return this.#ask({ name: 'reap', address }, () => this.#reap(address, epoch, beat))
  }

  follow(address: StreamAddress, listener: Listener): () => void {
    const listeners = this.#server.listenersOf(address)
    const heard: Listener = (news) => {
      if (listeners.has(heard) && this.hasNews()) listener(news)
    }
    listeners.add(heard)
    queueMicrotask(() => heard(undefined))
    return () => listeners.delete(heard)
  }

  async close(): Promise<void> {
    this.#isClosed = true
  }

  async #ask<Answer>(call: StoreCall, act: () => Answer): Promise<Answer> {
    if (this.#isClosed) throw new StoreUnavailableError({ cause: 'it was closed' })
    try {
      await this.onCall(call)
      this.#assertUp()
      const answer = act()
      await this.onAnswer(call)
      this.#assertUp()
      return answer
    } catch (error) {
      this.failedAt = this.#clock.now()
      throw error
    }
  }

  #assertUp(): void {
    if (this.#isDown) throw new StoreUnavailableError({ cause: 'it is down' })
  }

  #create(address: StreamAddress, life: NewLife, replaces: string): CreateAnswer {
    const there = this.#server.find(address)
    const isReplaced = there?.finish?.outcome === 'lost' && there.epoch === replaces
    if (there !== undefined && !isReplaced) return { kind: 'there', stream: this.#stateOf(there) }
    const now = this.#clock.now()
    this.#server.put(address, {
      ...life,
      startedAt: Math.floor(life.startedAt),
      home: this.instance,
      beat: 0,
      beatAt: now,
      firstSequence: 1,
      lastSequence: 0,
      isStopped: false,
      finish: undefined,
      batches: [],
      signs: new Map(),
      expiresAt: now + life.ttlMs
    })
    return { kind: 'made' }
  }

  #discard(address: StreamAddress, epoch: string): void {
    const life = this.#server.find(address)
    if (life?.epoch === epoch && life.home === this.instance) this.#server.delete(address)
  }

  #append(address: StreamAddress, append: Append): AppendAnswer {
    const life = this.#server.find(address)
    if (life === undefined) return { kind: 'missing' }
    const { batch, finish, keep, ttlMs } = append
    if (life.epoch !== append.epoch || life.home !== this.instance) return { kind: 'fenced' }
    if (life.finish !== undefined) {
      return life.finish.outcome === finish?.outcome ? this.#stored(life) : { kind: 'fenced' }
    }
    const follows = (batch === undefined ? append.lastSequence : batch.firstSequence - 1) === life.lastSequence
    const isGap = batch?.firstSequence === keep && keep - 1 > life.lastSequence
    if (!follows && !isGap) return { kind: 'apart', lastSequence: life.lastSequence }
    if (batch !== undefined) life.batches.push({ ...batch, frames: Buffer.from(batch.frames) })
    life.batches = life.batches.filter(({ firstSequence, lengths }) => firstSequence + lengths.length > keep)
    life.firstSequence = keep
    life.lastSequence = append.lastSequence
    life.beat += 1
    life.beatAt = this.#clock.now()
    life.finish = finish
    life.expiresAt = this.#clock.now() + ttlMs
    if (batch !== undefined || finish !== undefined) this.#publish(address, life, batch)
    return this.#stored(life)
  }

  #read(address: StreamAddress, after: number, maxBytes: number, sign: Sign | undefined): Page | undefined {
    const life = this.#server.find(address)
    if (life === undefined) return undefined
    if (sign !== undefined && (sign.epoch === undefined || sign.epoch === life.epoch)) {
      life.signs.set(this.instance, { position: sign.position, leftAt: this.#clock.now() })
      this.#keep(life)
    }
    const batches: Batch[] = []
    let bytes = 0
    for (const batch of life.batches) {
      if (batch.firstSequence + batch.lengths.length - 1 <= after) continue
      if (maxBytes === 0 || (bytes > 0 && bytes + batch.frames.length > maxBytes)) break
      bytes += batch.frames.length
      batches.push(batch)
    }
    return { stream: this.#stateOf(life), batches }
  }

  #stop(address: StreamAddress): boolean {
    const life = this.#server.find(address)
    if (life === undefined || life.finish !== undefined) return false
    life.isStopped = true
    this.#keep(life)
    const home = this.#server.storeOf(life.home)
    if (home?.hasNews() === true) queueMicrotask(() => home.host?.onStop(address, life.epoch))
    return true
  }

  #reap(address: StreamAddress, epoch: string, beat: number): boolean {
    const life = this.#server.find(address)
    if (life === undefined || life.epoch !== epoch || life.beat !== beat) return false
    if (life.finish !== undefined) return life.finish.outcome === 'lost'
    life.finish = { outcome: 'lost', error: undefined, finishedAt: this.#clock.now() }
    this.#keep(life)
    this.#publish(address, life, undefined)
    return true
  }

  #keep(life: Life): void {
    life.expiresAt = this.#clock.now() + life.ttlMs
  }

  #publish(
    address: StreamAddress,
    { epoch, firstSequence, lastSequence, finish }: Life,
    batch: Batch | undefined
  ): void {
    const news = { epoch, keep: firstSequence, lastSequence, batch, finish }
    const small = batch !== undefined && batch.frames.length > 8_192 ? { ...news, batch: undefined } : news
    queueMicrotask(() => {
      for (const listener of this.#server.listenersOf(address)) listener(small)
    })
  }

  #stored(life: Life): AppendAnswer {
    const since = this.#clock.now() - this.leaseMs
    const positions = [...life.signs]
      .filter(([instance, { leftAt }]) => instance !== life.home && leftAt >= since)
      .map(([, { position }]) => position)
    const further = life.pace?.by === 'fastest' ? Math.max : Math.min
    return {
      kind: 'stored',
      lastSequence: life.lastSequence,
      isStopped: life.isStopped && life.finish === undefined,
      pacing: positions.length === 0 ? undefined : further(...positions)
    }
  }

  #stateOf(life: Life): StoredStream {
    const { epoch, route, home, beat, firstSequence, lastSequence, ttlMs, startedAt, pace, finish } = life
    const isStopped = life.isStopped && finish === undefined
    const beatAgeMs = Math.max(0, this.#clock.now() - life.beatAt)
    return {
      epoch,
      route,
      home,
      beat,
      beatAgeMs,
      firstSequence,
      lastSequence,
      ttlMs,
      startedAt,
      pace,
      isStopped,
      finish
    }
  }
}

function keyOf({ streamId, owner }: StreamAddress): string {
  return JSON.stringify([owner ?? null, streamId])
}
