import type { FastifyBaseLogger } from 'fastify'
import type { StreamState } from './answer.ts'
import type { Clock, Timer } from './clock.ts'
import { streamIdOfEpoch, type Cursor } from './cursor.ts'
import { ShuttingDownError } from './errors.ts'
import { EventStream } from './event-stream.ts'
import { PAGE_BYTES } from './follower.ts'
import { READ_AHEAD_SHARE } from './pace.ts'
import { Homes } from './homes.ts'
import { keyOf, type ClientsObserver, type Registry } from './registry.ts'
import { endOf } from './replay.ts'
import { Replicas } from './replicas.ts'
import type { StreamSettings } from './settings.ts'
import { settledWithin } from './settled-within.ts'
import { StoreAccess } from './store-access.ts'
import { UnrunLives } from './unrun-lives.ts'
import { isReached, type Found, type Sought, type StartRequest, type StreamSource } from './stream-source.ts'
import type { NewLife, Page, StoredPace, StoredStream, StoreHost, StreamAddress, StreamStore } from './store/store.ts'

const NO_CURSOR: Cursor = { kind: 'none' }

/** How long a store may take at the end of a shutdown, in milliseconds. */
export const STORE_CLOSE_TIMEOUT_MS = 1_000

/** The streams that this instance shares with others through a store. */
export class SharedStreams implements StreamSource, ClientsObserver, StoreHost {
  readonly log: FastifyBaseLogger
  readonly #registry: Registry
  readonly #clock: Clock
  readonly #store: StreamStore
  readonly #access: StoreAccess
  readonly #homes: Homes
  readonly #replicas: Replicas
  // One question per name is under way at a time, whoever asks.
  readonly #asking = new Map<string, Promise<unknown>>()
  readonly #fetching = new Map<string, Promise<Sought>>()
  // Taken back, or about to be.
  readonly #discarding = new Set<Promise<void>>()
  readonly #unrun = new UnrunLives()
  // When a finished copy was last known to be what the store has.
  readonly #checkedAt = new WeakMap<EventStream, number>()
  // Finished: replays come and go in no time and pace nobody, so that one sign a round does for all of them.
  readonly #visited = new Set<EventStream>()
  #pollTimer: Timer | undefined
  #beatTimer: Timer | undefined
  #signTimer: Timer | undefined
  #isClosed = false

  constructor(store: StreamStore, registry: Registry, settings: StreamSettings, clock: Clock, log: FastifyBaseLogger) {
    this.#store = store
    this.#registry = registry
    this.#clock = clock
    this.log = log
    this.#access = new StoreAccess(store, clock)
    this.#homes = new Homes(registry, this.#access, clock, log)
    this.#replicas = new Replicas(registry, this.#access, clock, settings)
    registry.observer = this
  }

  async open(): Promise<void> {
    await this.#store.open(this)
    if (this.#isClosed) return
    this.#poll()
    this.#beat()
    this.#signAll()
  }

  // ── find and start ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** The stream of this name: from here, or a replica of what the store has. */
  find(streamId: string, owner: string | undefined, cursor: Cursor): Sought | Promise<Sought> {
    const address = { streamId, owner }
    return this.#findHere(address, cursor) ?? this.#findInStore(address, cursor)
  }

  /** What there is of this name, here or elsewhere; makes no replica. */
  peek(streamId: string, owner: string | undefined): StreamState | Promise<StreamState | undefined> {
    const address = { streamId, owner }
    const here = this.#findHere(address, NO_CURSOR)
    return here ?? this.look(address).then((stored) => stored && stateOf(stored))
  }

  async findByCursor(cursor: Cursor, owner: string | undefined, route: string): Promise<Sought> {
    if (cursor.kind !== 'position' && cursor.kind !== 'terminal') return undefined
    const stream = await this.find(streamIdOfEpoch(cursor.epoch), owner, cursor)
    return isReached(stream, cursor.epoch, route) ? stream : undefined
  }

  /** The stream of this name, started here if there is none anywhere; one whose process died counts as none where wanted. */
  async findOrStart(request: StartRequest, replacesLost: boolean): Promise<Found> {
    const epoch = this.#registry.createEpoch(request.call)
    const address = { streamId: request.call.streamId ?? streamIdOfEpoch(epoch), owner: request.owner }
    for (;;) {
      const here = this.#findHere(address, NO_CURSOR)
      if (here !== undefined && !(replacesLost && here.outcome === 'lost')) return { stream: here, isNew: false }
      const found = await this.#once(address, () => this.#start({ ...request, epoch }, address, replacesLost))
      if (found !== undefined) return found
    }
  }

  /** The same for whoever is not served from it: what runs elsewhere is looked at, and makes no replica. */
  async start(request: StartRequest): Promise<EventStream | StoredStream> {
    const { owner, call } = request
    if (call.streamId !== undefined) {
      const address = { streamId: call.streamId, owner }
      const there = this.#findHere(address, NO_CURSOR) ?? (await this.look(address))
      if (there instanceof EventStream) return there
      if (there !== undefined && !this.#isUnrun(there)) return there
    }
    const { stream } = await this.findOrStart(request, false)
    return stream
  }

  /** What the store knows of a stream; makes no replica. */
  async look(address: StreamAddress): Promise<StoredStream | undefined> {
    const page = await this.#access.read(address, Number.MAX_SAFE_INTEGER, 0)
    if (page === undefined || !this.#access.isDead(page.stream)) return page?.stream
    await this.#access.reap(address, page.stream.epoch, page.stream.beat)
    return (await this.#access.read(address, Number.MAX_SAFE_INTEGER, 0))?.stream
  }

  /** Has the home of a stream stop it. */
  stop(address: StreamAddress): Promise<boolean> {
    return this.#access.stop(address)
  }

  // What can be served without a question. A finished copy may have been replaced by a new life that began elsewhere.
  #findHere(address: StreamAddress, cursor: Cursor): EventStream | undefined {
    const stream = this.#registry.find(address.streamId, address.owner)
    if (stream === undefined || isAhead(stream, cursor) || this.#asking.has(keyOf(address.streamId, address.owner)))
      return undefined
    const isLive = !stream.isFinished || this.#homes.has(stream)
    return isLive || this.#clock.now() - (this.#checkedAt.get(stream) ?? 0) < this.#store.pollMs ? stream : undefined
  }

  async #findInStore(address: StreamAddress, cursor: Cursor): Promise<Sought> {
    const until = this.#clock.now() + this.#access.leaseMs
    for (;;) {
      const stream = await (this.#fetching.get(keyOf(address.streamId, address.owner)) ?? this.#fetchInTurn(address))
      if (stream === undefined || !isAhead(stream, cursor)) return stream
      await this.#replicas.waitFor(stream, cursor.kind === 'position' ? cursor.sequence : Infinity, until)
      // One that nobody reads is let go meanwhile.
      if (!stream.isRemoved) return stream
    }
  }

  // Whoever looks meanwhile is told the same, also that there was no answer: "not found" would be for good.
  #fetchInTurn(address: StreamAddress): Promise<Sought> {
    const key = keyOf(address.streamId, address.owner)
    const fetch = async (): Promise<Sought> => {
      for (;;) {
        const fetched = await this.#once(address, async () => ({ stream: await this.#fetch(address) }))
        if (fetched !== undefined) return fetched.stream
        const here = this.#registry.find(address.streamId, address.owner)
        if (here !== undefined) return here
      }
    }
    const fetching = fetch().finally(() => this.#fetching.delete(key))
    this.#fetching.set(key, fetching)
    return fetching
  }

  // Undefined where somebody else is asking about this name: what comes of it has to be looked at first.
  async #once<T>(address: StreamAddress, ask: () => Promise<T>): Promise<T | undefined> {
    const key = keyOf(address.streamId, address.owner)
    const asking = this.#asking.get(key)
    if (asking !== undefined) {
      try {
        await asking
      } catch (error) {
        // What does not answer one does not answer the next.
        if (this.#access.isOutage(error)) throw error
      }
      return undefined
    }
    const asked = ask()
    this.#asking.set(key, asked)
    try {
      return await asked
    } finally {
      this.#asking.delete(key)
    }
  }

  // Undefined where things have changed meanwhile, and have to be looked at again.
  async #start(request: StartRequest, address: StreamAddress, replacesLost: boolean): Promise<Found | undefined> {
    const isWanted = (stream: EventStream): boolean => !(replacesLost && stream.outcome === 'lost')
    if (this.#registry.find(address.streamId, address.owner) !== undefined) {
      const stream = await this.#fetch(address)
      if (stream !== undefined && isWanted(stream)) return { stream, isNew: false }
    }
    try {
      this.#registry.assertMayStart(address.owner)
    } catch (error) {
      // What there is elsewhere is attached to all the same.
      const stream = request.call.streamId === undefined ? undefined : await this.#fetch(address)
      if (stream === undefined || !isWanted(stream)) throw error
      return { stream, isNew: false }
    }
    const life = this.#lifeOf(request)
    this.#unrun.add(life.epoch)
    let answer = await this.#access.create(address, life)
    if (answer.kind === 'there' && replacesLost && answer.stream.finish?.outcome === 'lost') {
      answer = await this.#access.create(address, life, answer.stream.epoch)
    }
    if (answer.kind === 'made') return this.#run(request, address, life)
    const { stream } = answer
    if (stream.epoch !== life.epoch) this.#unrun.delete(life.epoch)
    if (this.#isUnrun(stream)) {
      const { epoch, startedAt } = stream
      return this.#run(request, address, { ...life, epoch, startedAt })
    }
    const found = await this.#fetch(address)
    if (found !== undefined && isWanted(found)) return { stream: found, isNew: false }
    // The store may have a record whose log it has lost: its home puts it back, or it is free after a lease.
    await this.#pause()
    return undefined
  }

  // Where the handler throws, or there is no room any more, it is as if nothing had been asked.
  async #run(request: StartRequest, address: StreamAddress, life: NewLife): Promise<Found> {
    try {
      if (this.#registry.isShuttingDown) throw new ShuttingDownError()
      const old = this.#registry.find(address.streamId, address.owner)
      if (old?.isFinished === true) this.#registry.drop(old)
      const { epoch, startedAt } = life
      const found = this.#registry.findOrStart({ ...request, epoch, startedAt })
      if (found.isNew) {
        this.#unrun.delete(epoch)
        this.#homes.add(found.stream, life)
      } else this.#discard(address, life)
      return found
    } catch (error) {
      this.#discard(address, life)
      throw error
    }
  }

  // Where no answer comes, the life stays in the store without a beat: it is ours at the next request, or lost after a lease.
  #discard(address: StreamAddress, { epoch }: NewLife): void {
    this.#unrun.disown(epoch, address)
    this.#takeBack(epoch, address)
  }

  #takeBack(epoch: string, address: StreamAddress): void {
    const discarding = this.#access
      .discard(address, epoch)
      .then(
        () => this.#unrun.delete(epoch),
        () => {}
      )
      .finally(() => this.#discarding.delete(discarding))
    this.#discarding.add(discarding)
  }

  // The store takes this instance for the home of a stream that never ran.
  #isUnrun({ home, finish, epoch }: StoredStream): boolean {
    return home === this.#access.instance && finish === undefined && this.#unrun.has(epoch)
  }

  async #pause(): Promise<void> {
    await new Promise<void>((resolve) => this.#clock.setTimer(resolve, PAUSE_MS, true))
  }

  #lifeOf({ call, route, epoch }: StartRequest): NewLife {
    const ttlMs = Math.max(call.stream.ttlMs, 4 * this.#access.leaseMs)
    return { epoch: epoch as string, route, ttlMs, startedAt: Math.floor(this.#clock.now()), pace: paceOf(call.stream) }
  }

  // What is here stays where the store does not answer, and goes where the store has something else.
  async #fetch(address: StreamAddress): Promise<Sought> {
    const here = this.#registry.find(address.streamId, address.owner)
    let page: Page | undefined
    try {
      page = await this.#read(address, here)
    } catch (error) {
      if (here === undefined || here.isRemoved) throw error
      return here
    }
    if (here !== undefined) {
      // What runs is put back where the store has lost it; a replica has the patience to wait for that.
      const isStill = page === undefined ? !here.isFinished : page.stream.epoch === here.epoch
      if (!here.isRemoved && (this.#homes.has(here) || isStill)) {
        this.#checkedAt.set(here, this.#clock.now())
        if (page !== undefined) await this.#replicas.update(here, page)
        if (!here.isRemoved) return here
      }
      this.#registry.drop(here)
      // What was read begins where this one ended.
      page = await this.#read(address)
    }
    if (page === undefined) return undefined
    const stream = await this.#replicas.add(address, page)
    if (stream.isRemoved) return this.#fetch(address)
    this.#checkedAt.set(stream, this.#clock.now())
    return stream
  }

  // Whoever has nothing yet reads for a client that is about to attach: its sign is left on the way.
  #read(address: StreamAddress, here?: EventStream): Promise<Page | undefined> {
    return here === undefined
      ? this.#access.read(address, 0, PAGE_BYTES, { epoch: undefined, position: 0 })
      : this.#access.read(address, here.log.lastSequence, PAGE_BYTES)
  }

  // ── what the store and the clients report ────────────────────────────────────────────────────────────────────────────

  onStop(address: StreamAddress, epoch: string): void {
    this.#homes.stop(address, epoch)
  }

  onReturn(): void {
    this.#homes.retry()
    this.#signClients()
    this.#replicas.poll()
  }

  onClientsChanged(stream: EventStream): void {
    if (stream.clients > 1) return
    if (stream.isFinished) this.#visited.add(stream)
    else if (!this.#replicas.isSigned(stream)) this.#sign(stream)
  }

  #sign(stream: EventStream): void {
    if (!this.#isClosed && !this.#homes.has(stream)) this.#replicas.sign(stream)
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #poll(): void {
    this.#replicas.poll()
    this.#pollTimer = this.#clock.setTimer(() => this.#poll(), this.#store.pollMs * (0.5 + Math.random()))
  }

  // Rounds are short, so that no home is silent for much longer than a quarter of a lease, whenever it spoke last.
  #beat(): void {
    this.#homes.beat(this.#access.leaseMs / 4)
    for (const stream of this.#visited) this.#sign(stream)
    this.#visited.clear()
    this.#beatTimer = this.#clock.setTimer(() => this.#beat(), this.#access.leaseMs / 12)
  }

  #signAll(): void {
    this.#signClients()
    this.#signTimer = this.#clock.setTimer(() => this.#signAll(), this.#access.leaseMs / 3)
  }

  // Those of streams that are not found any more, too.
  #signClients(): void {
    for (const stream of this.#registry.allStreams()) if (stream.clients > 0) this.#sign(stream)
  }

  /** Brings the store what it does not have yet, and lets go of it; takes at most about `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const timer of [this.#pollTimer, this.#beatTimer, this.#signTimer]) {
      if (timer !== undefined) this.#clock.clearTimer(timer)
    }
    const until = this.#clock.now() + timeoutMs
    this.#replicas.close()
    await this.#homes.close(timeoutMs)
    // A life that is being entered for nobody is taken back.
    await settledWithin(this.#asking.values(), until - this.#clock.now(), this.#clock)
    await this.#takeBackUntil(until)
    await this.#store.close(Math.max(0, until - this.#clock.now()))
  }

  async #takeBackUntil(until: number): Promise<void> {
    for (;;) {
      await settledWithin(this.#discarding, until - this.#clock.now(), this.#clock)
      const disowned = this.#unrun.disowned()
      if (disowned.length === 0 || this.#clock.now() + PAUSE_MS >= until) return
      await this.#pause()
      for (const [epoch, address] of disowned) this.#takeBack(epoch, address)
    }
  }
}

// How long until a record that cannot be read is looked at again, or one that shall not stay is taken back again.
const PAUSE_MS = 50

// What clients elsewhere move on by before they tell: half of what is read ahead of them.
const SIGN_SHARE = 2 * READ_AHEAD_SHARE

function paceOf({ backpressure, maxEvents, maxBytes }: StreamSettings): StoredPace | undefined {
  if (backpressure === 'none') return undefined
  const [events, bytes] = [Math.ceil(maxEvents / SIGN_SHARE), Math.ceil(maxBytes / SIGN_SHARE)]
  return { by: backpressure, events, bytes }
}

function stateOf({ epoch, firstSequence, lastSequence, finish }: StoredStream): StreamState {
  const window = { epoch, firstSequence, lastSequence, ...endOf(finish) }
  return { outcome: finish?.outcome, isFinished: window.isFinished, window }
}

// Whether the client has seen more of this replica than there is, or its end.
function isAhead(stream: EventStream, cursor: Cursor): boolean {
  if (cursor.kind !== 'position' && cursor.kind !== 'terminal') return false
  if (cursor.epoch !== stream.epoch || stream.isHome || stream.isFinished) return false
  return cursor.kind === 'terminal' || cursor.sequence > stream.log.lastSequence
}
