import type { FastifyBaseLogger } from 'fastify'
import type { StreamState } from './answer.ts'
import { Capacity } from './capacity.ts'
import type { Clock } from './clock.ts'
import { Epochs, streamIdOfEpoch, type Cursor } from './cursor.ts'
import { RegistryFullError, ShuttingDownError, TooManyClientsError, TooManyStreamsError } from './errors.ts'
import { EventStream, type StreamHost } from './event-stream.ts'
import { Heartbeat } from './heartbeat.ts'
import { logSafely } from './log-safely.ts'
import type { Entry } from './replay.ts'
import type { ClientSettings, RegistrySettings, StreamCall } from './settings.ts'
import { Shutdown, type ShutdownTarget } from './shutdown.ts'
import { SignalWatch } from './signal-watch.ts'
import { isReached, RunContext, type Found, type StartRequest, type StreamSource } from './stream-source.ts'
import { createCounters, type Counters, type RegistryStats } from './stats.ts'
import { Subscriber, type SubscriberHost } from './subscriber.ts'
import { Turn } from './turn.ts'

/** Whoever wants to know when the clients of a stream come and go. */
export interface ClientsObserver {
  onClientsChanged(stream: EventStream): void
}

/** The streams of one scope. */
export class Registry implements StreamSource, StreamHost, SubscriberHost, ShutdownTarget {
  readonly clock: Clock
  readonly turn: Turn
  readonly heartbeat: Heartbeat
  readonly signals: SignalWatch = new SignalWatch()
  readonly counters: Counters = createCounters()
  readonly epochs: Epochs = new Epochs()
  readonly abortTimeoutMs: number
  observer: ClientsObserver | undefined

  readonly #settings: RegistrySettings
  readonly #log: FastifyBaseLogger
  readonly #streams = new Map<string, EventStream>()
  readonly #capacity = new Capacity()
  // Removed, but a client still reads or a generator has not let go.
  readonly #departing = new Set<EventStream>()
  // Whose producer waits for memory that others hold.
  readonly #starved = new Set<EventStream>()
  readonly #subscribers = new Set<Subscriber>()
  readonly #runningOf = new Map<string | undefined, number>()
  readonly #shutdown: Shutdown
  #running = 0
  #producers = 0
  #replicas = 0
  #runningReplicas = 0
  #clients = 0
  #heldBytes = 0
  #heldEvents = 0
  #isEvicting = false

  constructor(settings: RegistrySettings, clock: Clock, log: FastifyBaseLogger) {
    this.#settings = settings
    this.#log = log
    this.clock = clock
    this.turn = new Turn(clock)
    this.heartbeat = new Heartbeat(clock)
    this.abortTimeoutMs = settings.abortTimeoutMs
    this.#shutdown = new Shutdown(this, settings)
  }

  get size(): number {
    return this.#streams.size
  }

  get isShuttingDown(): boolean {
    return this.#shutdown.hasBegun
  }

  /** How long a client that is sent away must stay away at least, in milliseconds; 0 while the registry is open. */
  get returnAfterMs(): number {
    return this.#shutdown.returnAfterMs
  }

  /** Streams that are found. */
  get streams(): Iterable<EventStream> {
    return this.#streams.values()
  }

  /** The streams that are found, and those that are not any more but have not ended. */
  allStreams(): EventStream[] {
    return [...this.#streams.values(), ...this.#departing]
  }

  get subscribers(): ReadonlySet<Subscriber> {
    return this.#subscribers
  }

  /** Streams that have not finished. */
  get running(): number {
    return this.#running
  }

  /** Streams whose generator has not let go. */
  get producers(): number {
    return this.#producers
  }

  // ── find and start ───────────────────────────────────────────────────────────────────────────────────────────────────

  find(streamId: string, owner: string | undefined): EventStream | undefined {
    return this.#streams.get(keyOf(streamId, owner))
  }

  peek(streamId: string, owner: string | undefined): StreamState | undefined {
    return this.find(streamId, owner)
  }

  /** An unnamed stream: its cursor leads to it, inside its owner's namespace and on the route that made it. */
  findByCursor(cursor: Cursor, owner: string | undefined, route: string): EventStream | undefined {
    if (cursor.kind !== 'position' && cursor.kind !== 'terminal') return undefined
    const stream = this.find(streamIdOfEpoch(cursor.epoch), owner)
    return isReached(stream, cursor.epoch, route) ? stream : undefined
  }

  /**
   * The stream of this name, started now if there is none. One synchronous step, so that two first requests share a run.
   *
   * @throws FST_ERR_RSSE_SHUTTING_DOWN, FST_ERR_RSSE_REGISTRY_FULL, FST_ERR_RSSE_TOO_MANY_STREAMS, and what the handler
   *   throws; then nothing was started and nothing evicted
   */
  findOrStart(request: StartRequest): Found {
    const { handler, call, owner, log } = request
    const existing = call.streamId === undefined ? undefined : this.find(call.streamId, owner)
    if (existing !== undefined) return { stream: existing, isNew: false }
    this.assertMayStart(owner)
    const stream = this.#create(request)
    const context = new RunContext(stream, log)
    stream.prepare((signal) => handler(signal, context), call.encoding, call.signal, log)
    // The handler is somebody else's code: meanwhile it may have started this very stream, or filled the registry.
    const key = keyOf(stream.streamId, owner)
    const first = this.#streams.get(key)
    if (first !== undefined) {
      stream.discard()
      return { stream: first, isNew: false }
    }
    const evicted = this.#makeRoom(stream)
    this.#insert(key, stream)
    this.#abortEvicted(evicted)
    return { stream, isNew: true }
  }

  #insert(key: string, stream: EventStream): void {
    const { owner } = stream
    this.#streams.set(key, stream)
    this.#runningOf.set(owner, (this.#runningOf.get(owner) ?? 0) + 1)
    this.#running += 1
    this.#producers += 1
    this.counters.started += 1
    this.#capacity.place(stream)
    stream.start()
  }

  #create(request: StartRequest): EventStream {
    const { call, owner, route, epoch = this.createEpoch(call), startedAt = this.clock.now() } = request
    const streamId = call.streamId ?? streamIdOfEpoch(epoch)
    return new EventStream({ streamId, owner, epoch, route, startedAt }, call.stream, this)
  }

  createEpoch({ streamId }: StreamCall): string {
    return streamId === undefined ? this.epochs.createSecretEpoch() : this.epochs.createEpoch()
  }

  /** @throws FST_ERR_RSSE_SHUTTING_DOWN, FST_ERR_RSSE_REGISTRY_FULL, FST_ERR_RSSE_TOO_MANY_STREAMS */
  assertMayStart(owner: string | undefined): void {
    if (this.isShuttingDown) throw new ShuttingDownError()
    const { whenFull, maxStreamsPerOwner, maxStreams } = this.#settings
    if ((this.#runningOf.get(owner) ?? 0) >= maxStreamsPerOwner) throw new TooManyStreamsError(maxStreamsPerOwner)
    if (whenFull === 'evict') return
    if (this.size >= maxStreams && this.#capacity.nextFinished() === undefined)
      throw new RegistryFullError(`maxActiveStreams (${maxStreams}) are running`)
    if (this.#isOverBudget(0) && this.#isOverBudget(-this.#capacity.finishedBytes))
      throw new RegistryFullError('running streams hold maxTotalBufferBytes')
  }

  // Takes out whoever gives way to the newcomer; those that run are still to be aborted, which calls code of others.
  #makeRoom(newcomer: EventStream): EventStream[] {
    try {
      this.assertMayStart(newcomer.owner)
    } catch (error) {
      newcomer.discard()
      throw error
    }
    const mayAbort = this.#settings.whenFull === 'evict'
    const evicted: EventStream[] = []
    while (this.size >= this.#settings.maxStreams || this.#isOverBudget(0)) {
      const stream = this.#nextFinished() ?? (mayAbort ? this.#capacity.nextRunning() : undefined)
      if (stream === undefined) break
      this.#evict(stream)
      if (stream.isHome && !stream.isFinished) evicted.push(stream)
    }
    return evicted
  }

  /**
   * Takes in a stream that runs elsewhere. Only other replicas and finished streams that the store has give way to it.
   *
   * @throws FST_ERR_RSSE_SHUTTING_DOWN, FST_ERR_RSSE_REGISTRY_FULL
   */
  addReplica(stream: EventStream): void {
    if (this.isShuttingDown) throw new ShuttingDownError()
    while (this.size >= this.#settings.maxStreams || this.#isOverBudget(0)) {
      const oldest = this.#capacity.nextFinished(isStored)
      if (oldest === undefined) throw new RegistryFullError(`all of the ${this.size} streams here are needed`)
      this.#evict(oldest)
    }
    this.#streams.set(keyOf(stream.streamId, stream.owner), stream)
    this.#replicas += 1
    this.#runningReplicas += 1
    this.#capacity.place(stream)
    stream.start()
  }

  // An abort listener may start streams, which may evict, and so on: only the first round runs within the call.
  #abortEvicted(streams: EventStream[]): void {
    if (streams.length === 0) return
    const abort = (): void => {
      for (const stream of streams) stream.abort('evicted', 'Stream evicted')
    }
    if (this.#isEvicting) return this.turn.later({ run: abort })
    this.#isEvicting = true
    try {
      abort()
    } finally {
      this.#isEvicting = false
    }
  }

  /**
   * Attaches a response to a stream.
   *
   * @throws FST_ERR_RSSE_TOO_MANY_CLIENTS, FST_ERR_RSSE_REGISTRY_FULL
   */
  attach(stream: EventStream, entry: Entry, settings: ClientSettings): Subscriber {
    this.assertMayAttach(stream)
    const subscriber = new Subscriber(stream, entry, settings, this)
    this.#subscribers.add(subscriber)
    this.counters.attached += 1
    return subscriber
  }

  /** @throws FST_ERR_RSSE_TOO_MANY_CLIENTS, FST_ERR_RSSE_REGISTRY_FULL */
  assertMayAttach({ clients, isHome, isRemoved }: EventStream): void {
    const { maxClientsPerStream } = this.#settings
    if (clients >= maxClientsPerStream) throw new TooManyClientsError(maxClientsPerStream)
    // A replica that had to give way as soon as it was there: it is empty, and nothing fills it any more.
    if (!isHome && isRemoved) throw new RegistryFullError('there is no room for a replica')
  }

  // ── remove ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #evict(stream: EventStream): void {
    this.counters.removedForCapacity += 1
    this.#remove(stream)
  }

  /** The store has something else under this name, or nothing: clients come back for what is there now. */
  drop(stream: EventStream): void {
    stream.fence()
    stream.readers.dismiss()
    this.#remove(stream)
  }

  // By identity, never "whatever has this name now": a stream is removed once, and only it leads to its key.
  #remove(stream: EventStream): void {
    if (stream.isRemoved) return
    this.#streams.delete(keyOf(stream.streamId, stream.owner))
    this.#capacity.forget(stream)
    if (!stream.isHome && !stream.isFinished) this.#runningReplicas -= 1
    this.#departing.add(stream)
    stream.onRemoved()
    this.#forgetIfDone(stream)
  }

  /** Removes finished streams until so many further bytes fit; `false` where they do not fit all the same. */
  makeRoom(bytes: number): boolean {
    while (this.#isOverBudget(bytes)) {
      const stream = this.#nextFinished()
      if (stream === undefined) break
      this.#evict(stream)
    }
    return this.#heldBytes + bytes <= this.#settings.maxTotalBytes
  }

  // What the store does not have would be lost.
  #nextFinished(): EventStream | undefined {
    return this.#capacity.nextFinished(isStored) ?? this.#capacity.nextFinished()
  }

  // What a removed stream still holds comes free by itself: removing more streams for it would empty the registry.
  #isOverBudget(bytes: number): boolean {
    let excess = this.#heldBytes + bytes - this.#settings.maxTotalBytes
    if (excess <= 0) return false
    for (const stream of this.#departing) excess -= stream.log.heldBytes
    return excess > 0
  }

  /** Forgets everything. All streams have finished. */
  clear(): void {
    for (const stream of this.#streams.values()) this.#remove(stream)
  }

  /** Stops every running stream; returns how many. */
  abortAll(reason: string): number {
    let aborted = 0
    for (const stream of this.allStreams()) {
      if (stream.isFinished || !stream.isHome) continue
      stream.abort('aborted', reason)
      aborted += 1
    }
    return aborted
  }

  /** Drains, aborts and sends everybody away. Idempotent. */
  close(): Promise<void> {
    return this.#shutdown.close()
  }

  // ── what streams and subscribers report ──────────────────────────────────────────────────────────────────────────────

  onHeld(deltaBytes: number, deltaEvents: number): void {
    this.#heldBytes += deltaBytes
    this.#heldEvents += deltaEvents
    if (deltaBytes < 0) this.#wakeStarved()
  }

  #wakeStarved(): void {
    if (this.#starved.size === 0) return
    const starved = [...this.#starved]
    this.#starved.clear()
    for (const stream of starved) stream.pumpAtEndOfTurn()
  }

  onStarved(stream: EventStream): void {
    this.#starved.add(stream)
  }

  onAppended(): void {
    this.counters.events += 1
  }

  onClientsChanged(stream: EventStream, change: 1 | 0 | -1): void {
    this.#clients += change
    if (stream.isRemoved) this.#forgetIfDone(stream)
    else this.#capacity.place(stream)
    this.observer?.onClientsChanged(stream)
  }

  onFinished(stream: EventStream): void {
    this.#starved.delete(stream)
    if (!stream.isRemoved) this.#capacity.place(stream)
    // It may give way to them now.
    this.#wakeStarved()
    if (!stream.isHome) {
      if (!stream.isRemoved) this.#runningReplicas -= 1
      return
    }
    this.#running -= 1
    const running = (this.#runningOf.get(stream.owner) as number) - 1
    if (running === 0) this.#runningOf.delete(stream.owner)
    else this.#runningOf.set(stream.owner, running)
    if (stream.outcome !== 'evicted') this.#countOutcome(stream)
    this.#shutdown.onProgress()
  }

  onReleased(stream: EventStream): void {
    if (stream.isRemoved) this.#forgetIfDone(stream)
    if (!stream.isHome) return
    this.#producers -= 1
    if (stream.outcome === 'evicted') this.#countOutcome(stream)
    this.#shutdown.onProgress()
  }

  #countOutcome({ outcome }: EventStream): void {
    if (outcome !== undefined) this.counters[outcome] += 1
  }

  #forgetIfDone(stream: EventStream): void {
    if (stream.readers.isRead || stream.isHeld || !this.#departing.delete(stream)) return
    if (!stream.isHome) this.#replicas -= 1
  }

  onExpired(stream: EventStream): void {
    if (stream.isHome) this.counters.expired += 1
    this.#remove(stream)
  }

  onOpened(isResumed: boolean, gaps: number, replayedEvents: number): void {
    if (isResumed) this.counters.resumed += 1
    this.counters.gaps += gaps
    this.counters.replayedEvents += replayedEvents
  }

  onLeft({ streamId }: EventStream): void {
    logSafely(this.#log, 'debug', { streamId }, 'client left')
  }

  onStalled(): void {
    this.counters.stalledClients += 1
  }

  onClosed(subscriber: Subscriber): void {
    this.#subscribers.delete(subscriber)
    this.#shutdown.onProgress()
  }

  stats(): RegistryStats {
    const { started, completed, failed, aborted, evicted, lost } = this.counters
    return {
      running: started - completed - failed - aborted - evicted - lost,
      finished: this.#capacity.finished - this.#runningReplicas,
      replicas: this.#replicas,
      clients: this.#clients,
      bufferedEvents: this.#heldEvents,
      bufferedBytes: this.#heldBytes,
      ...this.counters
    }
  }
}

// With a store: whether it has everything of a finished stream. Without one there is nothing to wait for.
function isStored({ readers }: EventStream): boolean {
  return readers.mirror === undefined
}

// A streamId has no space, so this is injective whatever an owner is made of.
export function keyOf(streamId: string, owner: string | undefined): string {
  return owner === undefined ? streamId : `${streamId} ${owner}`
}
