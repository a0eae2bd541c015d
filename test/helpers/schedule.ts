import assert from 'node:assert/strict'
import { setImmediate as nextImmediate } from 'node:timers/promises'
import { parseCursor } from '../../src/cursor.ts'
import { isRefusal } from '../../src/errors.ts'
import type { EventStream } from '../../src/event-stream.ts'
import { Registry } from '../../src/registry.ts'
import { resolveAttachCall, resolvePluginOptions, resolveStreamCall } from '../../src/settings.ts'
import { FakeTransport } from './fake-transport.ts'
import { Feed } from './feed.ts'
import { ManualClock } from './manual-clock.ts'
import { createRecordingLog } from './recording-log.ts'
import {
  LIMITS,
  ModelClient,
  ModelStream,
  type Backpressure,
  type Came,
  type Outcome,
  type Position
} from './stream-model.ts'

/** What holds for one schedule. */
export interface ScheduleSettings {
  readonly backpressure: Backpressure
  readonly whenFull: 'evict' | 'reject'
  readonly bufferTTL: number
  readonly orphanTimeout: number
  readonly maxStreamsPerOwner: number
  /** `false`: logs push each other out of `maxTotalBufferBytes`; needs a `bufferTTL`, or nothing would be pushed. */
  readonly hasAmpleMemory: boolean
}

/** One step. `key` names a stream, `client` one of those that are, or were, there; both are taken modulo what exists. */
export type Command =
  | { readonly do: 'start'; readonly key: number; readonly isDeaf: boolean; readonly isAborted: boolean }
  | {
      readonly do: 'open'
      readonly key: number
      readonly isDeaf: boolean
      readonly isLive: boolean
      readonly reads: boolean
    }
  | { readonly do: 'resume'; readonly client: number; readonly reads: boolean }
  | { readonly do: 'drop'; readonly client: number }
  | { readonly do: 'stall'; readonly client: number }
  | { readonly do: 'drain'; readonly client: number }
  | { readonly do: 'take'; readonly client: number; readonly bytes: number }
  | { readonly do: 'yield'; readonly key: number; readonly sizes: readonly number[] }
  | { readonly do: 'finish' | 'fail'; readonly key: number }
  | { readonly do: 'abort'; readonly key: number; readonly by: 'call' | 'signal' }
  | { readonly do: 'abortAll' }
  | { readonly do: 'advance'; readonly ms: number }

const SCARCE_BYTES = 4_000
const HIGH_WATER_MARK = 64
// Bytes that a socket seemed to have room for are missed at the next look, and looked after four times per stallTimeout.
const LATEST_CUT_MS = LIMITS.stallTimeout * 2.25
const MAX_SLICE_BYTES = 65_536

export const OWNERS = [undefined, 'alice', 'bob'] as const
const NAMES = ['a', 'b'] as const
export const KEYS: number = OWNERS.length * NAMES.length

/** Notes the order in which streams finish and clients come and go: of what happens at one moment, only it can tell. */
class ObservedRegistry extends Registry {
  readonly #order = new Map<EventStream, number>()
  readonly #finishes = new Map<EventStream, number>()
  #count = 0

  override onClientsChanged(stream: EventStream, change: 1 | 0 | -1): void {
    this.#order.set(stream, this.#count++)
    super.onClientsChanged(stream, change)
  }

  override onFinished(stream: EventStream): void {
    this.#finishes.set(stream, this.#count++)
    super.onFinished(stream)
  }

  noteStart(stream: EventStream): void {
    this.#order.set(stream, this.#count++)
  }

  changedAt(stream: EventStream): number {
    return this.#order.get(stream) as number
  }

  finishedAt(stream: EventStream): number {
    return this.#finishes.get(stream) as number
  }
}

/** A registry and its model, which are led through the same steps and compared after each. */
export class Schedule {
  readonly #settings: ScheduleSettings
  readonly #plugin: ReturnType<typeof resolvePluginOptions>
  readonly #clock = new ManualClock()
  readonly #registry: ObservedRegistry
  readonly #log = createRecordingLog().log

  // Streams that are found, and all that have not quite ended.
  readonly #found = new Map<string, ModelStream>()
  readonly #streams = new Set<ModelStream>()
  readonly #controllers = new Map<ModelStream, AbortController>()
  // Responses that are not through, and where clients that left could go on.
  readonly #clients: ModelClient[] = []
  readonly #left: { readonly key: string; readonly cursor: string | undefined }[] = []
  readonly #counters = {
    started: 0,
    completed: 0,
    failed: 0,
    aborted: 0,
    evicted: 0,
    expired: 0,
    removedForCapacity: 0,
    events: 0,
    attached: 0,
    resumed: 0,
    gaps: 0
  }
  #values = 0

  constructor(settings: ScheduleSettings) {
    this.#settings = settings
    const { hasAmpleMemory, ...options } = settings
    this.#plugin = resolvePluginOptions({
      ...LIMITS,
      ...options,
      maxTotalBufferBytes: hasAmpleMemory ? 1_048_576 : SCARCE_BYTES
    })
    this.#registry = new ObservedRegistry(this.#plugin.registry, this.#clock, this.#log)
  }

  async run(command: Command): Promise<void> {
    if (command.do === 'advance') await this.#advance(command.ms)
    else {
      this.#act(command)
      await this.#settle()
    }
  }

  // ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #act(command: Exclude<Command, { do: 'advance' }>): void {
    switch (command.do) {
      case 'start':
        this.#start(keyOf(command.key), command.isDeaf, command.isAborted)
        return
      case 'open': {
        const key = keyOf(command.key)
        const existing = this.#found.get(key)
        const from = command.isLive ? 'live' : 'start'
        const stream = existing ?? this.#start(key, command.isDeaf, false)
        const arrival = existing === undefined ? 'started' : 'attached'
        if (stream !== undefined) this.#attach(stream, { cursor: undefined, from, arrival }, command.reads)
        return
      }
      case 'resume':
        return this.#resume(command.client, command.reads)
      case 'abortAll':
        return this.#abortAll()
      case 'yield':
      case 'finish':
      case 'fail':
      case 'abort': {
        const stream = this.#found.get(keyOf(command.key))
        if (stream !== undefined && !stream.isFinished) this.#lead(stream, command)
        return
      }
      default: {
        const client = this.#clients[command.client % Math.max(1, this.#clients.length)]
        if (client !== undefined) this.#moveClient(client, command)
      }
    }
  }

  #lead(stream: ModelStream, command: Extract<Command, { do: 'yield' | 'finish' | 'fail' | 'abort' }>): void {
    if (command.do === 'abort') {
      if (command.by === 'call') stream.real.abort('aborted', 'stop')
      else this.#controllers.get(stream)?.abort()
      return this.#finish(stream, 'aborted')
    }
    // A generator that was told how to end takes no more values.
    if (stream.ending !== undefined) return
    if (command.do === 'yield') {
      const values = command.sizes.map((size) => `${this.#values++}`.padEnd(size, '.'))
      stream.pushed.push(...values)
      stream.feed.push(...values)
    } else if (command.do === 'finish') {
      stream.ending = 'completed'
      stream.feed.end()
    } else {
      stream.ending = 'failed'
      stream.feed.fail(new Error('failed as it was told to'))
    }
  }

  #moveClient(client: ModelClient, command: Extract<Command, { do: 'drop' | 'stall' | 'drain' | 'take' }>): void {
    const { transport } = client
    if (command.do === 'drop') {
      client.isDropped = true
      transport.drop()
    } else if (command.do === 'stall') transport.isReading = false
    else if (command.do === 'drain') transport.resume()
    else transport.take(command.bytes)
  }

  #resume(index: number, reads: boolean): void {
    const left = this.#left[index % Math.max(1, this.#left.length)]
    // Who has the end gets a 204 without any look-up.
    if (left === undefined || left.cursor?.endsWith('.end') === true) return
    const { key, cursor } = left
    const existing = this.#found.get(key)
    if (existing !== undefined) return this.#attach(existing, { cursor, from: 'start', arrival: 'attached' }, reads)
    const arrival = cursor === undefined ? 'started' : 'restarted'
    const stream = this.#start(key, false, false)
    if (stream !== undefined) this.#attach(stream, { cursor, from: 'start', arrival }, reads)
  }

  #abortAll(): void {
    const running = [...this.#streams].filter(({ isFinished }) => !isFinished)
    assert.equal(this.#registry.abortAll('stop'), running.length)
    for (const stream of running) this.#finish(stream, 'aborted')
  }

  #start(key: string, isDeaf: boolean, isAborted: boolean): ModelStream | undefined {
    const [streamId, owner] = JSON.parse(key) as [string, string | undefined]
    const feed = new Feed({ ignoresSignal: isDeaf })
    const controller = new AbortController()
    if (isAborted) controller.abort()
    const options = { streamId, owner: owner ?? undefined, signal: controller.signal }
    const call = resolveStreamCall(options, this.#plugin)
    const request = { handler: feed.handler, call, owner: call.owner, route: undefined, log: this.#log }
    const existing = this.#found.get(key)
    const order = this.#givingWay()
    const refusal = existing === undefined ? this.#refusal(call.owner) : undefined
    let real: EventStream
    try {
      real = this.#registry.findOrStart(request).stream
    } catch (error) {
      if (!isRefusal(error)) throw error
      // What logs hold in all is not modelled: with scarce memory a registry may be full before its streams are counted.
      const mayBeOverBudget = !this.#settings.hasAmpleMemory && this.#settings.whenFull === 'reject'
      if (refusal === undefined && mayBeOverBudget) {
        assert.equal((error as { code?: string }).code, 'FST_ERR_RSSE_REGISTRY_FULL')
        assert.ok(!order.some(({ isFinished }) => isFinished), 'a finished stream gives way first')
      } else assert.equal((error as { code?: string }).code, refusal)
      return undefined
    }
    if (existing !== undefined) {
      assert.equal(real, existing.real, 'a name leads to its stream')
      assert.equal(feed.runs, 0, 'one run')
      return existing
    }
    assert.equal(refusal, undefined, 'a refusal')
    this.#registry.noteStart(real)
    this.#evictFor(order)
    const stream = new ModelStream(key, call.owner, real, feed, isDeaf)
    this.#found.set(key, stream)
    this.#streams.add(stream)
    this.#controllers.set(stream, controller)
    this.#counters.started += 1
    if (isAborted) this.#finish(stream, 'aborted')
    else this.#setDeadline(stream)
    return stream
  }

  #refusal(owner: string | undefined): string | undefined {
    const { whenFull, maxStreamsPerOwner } = this.#settings
    const running = [...this.#streams].filter((stream) => stream.owner === owner && !stream.isFinished)
    if (running.length >= maxStreamsPerOwner) return 'FST_ERR_RSSE_TOO_MANY_STREAMS'
    const isFull = this.#found.size >= LIMITS.maxActiveStreams
    const hasFinished = [...this.#found.values()].some(({ isFinished }) => isFinished)
    return isFull && whenFull === 'reject' && !hasFinished ? 'FST_ERR_RSSE_REGISTRY_FULL' : undefined
  }

  /** The streams that are found, in the order in which they give way (§5, Capacity). */
  #givingWay(): ModelStream[] {
    const rank = (stream: ModelStream): number => (stream.isFinished ? 0 : 2) + (stream.clients.size > 0 ? 1 : 0)
    const since = ({ isFinished, real }: ModelStream): number =>
      isFinished ? this.#registry.finishedAt(real) : this.#registry.changedAt(real)
    return [...this.#found.values()].toSorted((a, b) => rank(a) - rank(b) || since(a) - since(b))
  }

  // With ample memory exactly those that have to go; with scarce memory maybe more, but in their order.
  #evictFor(order: readonly ModelStream[]): void {
    const needed = Math.max(0, this.#found.size - LIMITS.maxActiveStreams + 1)
    const evicted = order.filter(({ real }) => real.isRemoved)
    if (this.#settings.hasAmpleMemory) assert.equal(evicted.length, needed, 'no more give way than have to')
    else assert.ok(evicted.length >= needed)
    assert.deepEqual(evicted.map(label), order.slice(0, evicted.length).map(label), 'they give way in their order')
    for (const stream of evicted) this.#evict(stream)
  }

  #evict(stream: ModelStream): void {
    this.#counters.removedForCapacity += 1
    this.#remove(stream)
    if (!stream.isFinished) this.#finish(stream, 'evicted')
  }

  #attach(stream: ModelStream, came: Came, reads: boolean): void {
    const { client, from } = resolveAttachCall({ from: came.from }, this.#plugin)
    const entry = { arrival: came.arrival, cursor: parseCursor(came.cursor), from }
    if (stream.clients.size >= LIMITS.maxClientsPerStream) {
      assert.throws(() => this.#registry.attach(stream.real, entry, client), { code: 'FST_ERR_RSSE_TOO_MANY_CLIENTS' })
      return
    }
    const subscriber = this.#registry.attach(stream.real, entry, client)
    const transport = new FakeTransport()
    transport.isReading = reads
    transport.highWaterMark = HIGH_WATER_MARK
    transport.onDrain = subscriber.onDrain
    transport.onClose = subscriber.leave
    const attached = new ModelClient(stream, subscriber, transport, came, this.#clock.now())
    this.#clients.push(attached)
    stream.clients.add(attached)
    stream.hadClient = true
    this.#counters.attached += 1
    if (attached.gap !== undefined) this.#counters.gaps += 1
    else if (came.arrival === 'attached' && came.cursor !== undefined) this.#counters.resumed += 1
    this.#setDeadline(stream)
    subscriber.open(transport)
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  // From timer to timer: what each of them sets off comes to its end before the next one fires.
  async #advance(ms: number): Promise<void> {
    const end = this.#clock.now() + ms
    while (this.#clock.now() < end) {
      this.#clock.advance(Math.min(end - this.#clock.now(), Math.max(1, this.#clock.nextIn ?? Infinity)))
      await this.#settle()
    }
  }

  #runDeadlines(): void {
    for (const stream of this.#streams) {
      const { deadline } = stream
      if (deadline === undefined || deadline.at > this.#clock.now()) continue
      stream.deadline = undefined
      if (deadline.kind === 'orphan') this.#finish(stream, 'aborted')
      else if (deadline.kind === 'letGo') this.#release(stream)
      else this.#expire(stream)
    }
  }

  #setDeadline(stream: ModelStream): void {
    const { bufferTTL, orphanTimeout } = this.#settings
    const now = this.#clock.now()
    // An abort runs to its end, whoever comes and goes meanwhile.
    if (stream.isFinished && stream.isHeld) return
    stream.deadline = undefined
    if (stream.clients.size > 0 || stream.isRemoved) return
    if (stream.isFinished) {
      if (bufferTTL === 0) this.#expire(stream)
      else stream.deadline = { kind: 'expire', at: now + bufferTTL }
    } else if (orphanTimeout === 0) {
      if (stream.hadClient) this.#finish(stream, 'aborted')
    } else if (orphanTimeout !== Infinity) stream.deadline = { kind: 'orphan', at: now + orphanTimeout }
  }

  // ── what becomes of a stream ─────────────────────────────────────────────────────────────────────────────────────────

  #finish(stream: ModelStream, outcome: Outcome): void {
    stream.outcome = outcome
    if (outcome !== 'evicted') this.#counters[outcome] += 1
    // A generator that stands at a `yield` can be closed, deaf or not; one that was never made needs not.
    const isStuck = stream.isDeaf && stream.feed.runs > 0 && stream.appended === stream.pushed.length
    const endsItself = outcome === 'completed' || outcome === 'failed'
    if (isStuck && !endsItself) stream.deadline = { kind: 'letGo', at: this.#clock.now() + LIMITS.abortTimeout }
    else this.#release(stream)
  }

  #release(stream: ModelStream): void {
    stream.isHeld = false
    if (stream.outcome === 'evicted') this.#counters.evicted += 1
    this.#setDeadline(stream)
  }

  #expire(stream: ModelStream): void {
    this.#counters.expired += 1
    this.#remove(stream)
  }

  #remove(stream: ModelStream): void {
    stream.isRemoved = true
    if (stream.deadline?.kind !== 'letGo') stream.deadline = undefined
    this.#found.delete(stream.key)
  }

  // ── comparison ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async #settle(): Promise<void> {
    let last = -1
    for (let unchanged = 0; unchanged < 2;) {
      await nextImmediate()
      const activity = this.#activity()
      unchanged = activity === last ? unchanged + 1 : 0
      last = activity
    }
    this.#runDeadlines()
    this.#follow()
    this.#check()
  }

  // Grows with everything that happens.
  #activity(): number {
    let activity = this.#registry.counters.events - this.#registry.producers * 1_000_003
    for (const { transport, subscriber } of this.#clients) {
      activity += transport.writes.length + (subscriber.isClosed ? 1_009 : 0) + (transport.outcome ? 10_007 : 0)
    }
    return activity
  }

  /** Takes over what only happens in its own time: appends, ends, cuts. Each is checked for its right to happen. */
  #follow(): void {
    for (const stream of this.#streams) this.#followAppends(stream)
    for (const stream of this.#streams) {
      const { ending, isFinished, appended, pushed } = stream
      if (ending !== undefined && !isFinished && appended === pushed.length) this.#finish(stream, ending)
    }
    const left = new Map<ModelStream, Position[]>()
    for (const client of this.#clients) this.#followClient(client, left)
    this.#followEvictions(left)
    for (const stream of this.#streams) {
      if (stream.isRemoved && stream.clients.size === 0 && !stream.isHeld) this.#streams.delete(stream)
    }
  }

  // Appends remove finished streams where memory is scarce, in their order: only one whose client left just now may have
  // been passed over.
  #followEvictions(left: ReadonlyMap<ModelStream, unknown>): void {
    const finished = this.#givingWay().filter(({ isFinished }) => isFinished)
    for (const stream of this.#found.values()) {
      if (stream.real.isRemoved) assert.ok(stream.isFinished, 'bytes never abort anything')
    }
    const last = finished.findLastIndex(({ real }) => real.isRemoved)
    for (const stream of finished.slice(0, last + 1)) {
      assert.ok(!this.#settings.hasAmpleMemory, 'nobody gives way for memory that is ample')
      if (stream.real.isRemoved) this.#evict(stream)
      else assert.ok(left.has(stream), `${label(stream)} gives way before one that has`)
    }
  }

  #followAppends(stream: ModelStream): void {
    const { log } = stream.real
    if (log.lastSequence > stream.appended) {
      this.#counters.events += log.lastSequence - stream.appended
      stream.appendUpTo(log.lastSequence)
      const { backpressure } = this.#settings
      const hasLost = [...stream.clients].some(
        ({ isDropped, transport }) => isDropped || transport.outcome !== undefined
      )
      if (backpressure !== 'none' && stream.clients.size > 0 && !hasLost) stream.assertWithinReadAhead(backpressure)
    }
    // Under a budget of memory a stream may have to trim more than its own limits ask for.
    if (!this.#settings.hasAmpleMemory && !stream.isRemoved) {
      assert.ok(log.firstSequence >= stream.first)
      stream.first = log.firstSequence
    }
  }

  #followClient(client: ModelClient, left: Map<ModelStream, Position[]>): void {
    const { stream, transport, subscriber } = client
    const now = this.#clock.now()
    const { length } = transport.text
    // Nothing waits in a transport that was destroyed, but nothing was taken either.
    const isWaiting = transport.waitingBytes > 0 || transport.isDestroyed
    if (length > client.receivedLength || !client.isWaiting || !isWaiting) client.progressAt = now
    client.receivedLength = length
    client.isWaiting = isWaiting
    if (client.isOpen && (transport.outcome !== undefined || client.isDropped)) {
      this.#checkEnd(client)
      client.isOpen = false
      stream.clients.delete(client)
      const { sequence, offset } = subscriber
      const positions = [...(left.get(stream) ?? []), { sequence, offset }]
      left.set(stream, positions)
      stream.lastStood = stream.clients.size === 0 ? positions : undefined
      this.#setDeadline(stream)
    }
    client.check()
  }

  #checkEnd({ stream, transport, subscriber, isDropped, progressAt }: ModelClient): void {
    if (isDropped) return
    if (transport.outcome === 'truncated') {
      assert.notEqual(this.#settings.backpressure, 'slowest', 'slowest loses nobody')
      assert.ok(subscriber.sequence + 1 < stream.real.log.firstSequence, 'it fell out of the log')
    } else if (transport.outcome === 'destroyed') {
      const stalledFor = this.#clock.now() - progressAt
      assert.ok(stalledFor >= LIMITS.stallTimeout, `it was cut off after ${stalledFor} ms without a byte`)
    }
  }

  #check(): void {
    this.#checkClients()
    for (const stream of this.#streams) this.#checkStream(stream)
    this.#checkRegistry()
  }

  #checkClients(): void {
    for (let index = this.#clients.length - 1; index >= 0; index--) {
      const client = this.#clients[index] as ModelClient
      const { stream, transport, subscriber } = client
      assert.ok(transport.waitingBytes <= HIGH_WATER_MARK + MAX_SLICE_BYTES, 'one slice waits, not a queue')
      const withoutByte = this.#clock.now() - client.progressAt
      assert.ok(withoutByte <= LATEST_CUT_MS || client.isDropped || transport.isDestroyed, 'a stall is cut off')
      if (client.isOpen && transport.isReading) {
        assert.ok(client.hasAll, 'a client that reads has everything')
        assert.ok(!stream.isFinished, 'and the end of what has ended')
      }
      if (transport.outcome === 'end' && transport.waitingBytes === 0 && !transport.isDestroyed) {
        assert.ok(client.hasEnd, 'a clean end is the whole')
      }
      if (transport.outcome === 'truncated') assert.ok(!client.hasEnd, 'a cut is not the end')
      if (subscriber.isClosed) {
        this.#clients.splice(index, 1)
        this.#left.push({ key: stream.key, cursor: client.lastEventId })
        if (this.#left.length > 8) this.#left.shift()
      }
    }
  }

  #checkStream(stream: ModelStream): void {
    const { real, feed, outcome, clients } = stream
    const { log } = real
    assert.equal(real.outcome, outcome, 'outcome')
    assert.equal(real.clients, clients.size, 'clients')
    assert.equal(real.isRemoved, stream.isRemoved, 'removed')
    assert.equal(real.isHeld, stream.isHeld, 'held')
    assert.equal(log.lastSequence, stream.appended)
    assert.ok(feed.runs <= 1, 'one run')
    if (log.heldBytes > 0) assert.equal(log.firstSequence, stream.first, 'the window begins where it has to')
    assert.ok(log.events <= LIMITS.bufferSize && log.wireBytes <= LIMITS.bufferBytes, 'the log is within its limits')
    if (outcome !== undefined || stream.pushed.length === stream.appended) return
    const mayWaitForMemory = !this.#settings.hasAmpleMemory && this.#settings.backpressure === 'slowest'
    assert.ok(stream.mustWait(this.#settings.backpressure) || mayWaitForMemory, 'a producer waits only where it has to')
  }

  #checkRegistry(): void {
    const registry = this.#registry
    const found = [...registry.streams]
    assert.ok(registry.size <= LIMITS.maxActiveStreams)
    assert.equal(registry.size, this.#found.size, 'streams that are found')
    for (const stream of this.#found.values()) {
      const [streamId] = JSON.parse(stream.key) as [string]
      assert.equal(registry.find(streamId, stream.owner), stream.real, 'each by its name')
    }
    const all = registry.allStreams()
    assert.deepEqual(new Set(all), new Set([...this.#streams].map(({ real }) => real)), 'nothing refers to any other')

    const { running, finished, clients, bufferedEvents, bufferedBytes, ...counters } = registry.stats()
    for (const [name, count] of Object.entries(this.#counters)) {
      assert.equal(counters[name as keyof typeof counters], count, name)
    }
    const { started, completed, failed, aborted, evicted } = counters
    assert.equal(started, running + completed + failed + aborted + evicted)
    assert.equal(finished, found.filter(({ isFinished }) => isFinished).length)
    assert.equal(
      clients,
      [...this.#streams].reduce((sum, stream) => sum + stream.clients.size, 0)
    )
    assert.equal(
      bufferedEvents,
      all.reduce((sum, { log }) => sum + log.events, 0)
    )
    assert.equal(
      bufferedBytes,
      all.reduce((sum, { log }) => sum + log.heldBytes, 0),
      'the byte account is a recount'
    )

    const timers = [...this.#streams].filter(({ deadline }) => deadline !== undefined).length
    assert.equal(this.#clock.pending, timers + (registry.heartbeat.size > 0 ? 1 : 0), 'one timer per stream')
  }

  // ── the end of every schedule ────────────────────────────────────────────────────────────────────────────────────────

  /** Closes the registry, whatever it is doing; everybody is told the truth and nothing is left. */
  async close(): Promise<void> {
    const registry = this.#registry
    const open = this.#clients.filter(({ isOpen }) => isOpen)
    const wasReading = new Set(open.filter(({ transport }) => transport.isReading))
    let isClosed = false
    const closing = registry.close().then(() => (isClosed = true))
    const deadline = this.#clock.now() + LIMITS.abortTimeout + 1_000
    for (let turns = 0; !isClosed; turns++) {
      for (let i = 0; i < 4; i++) await nextImmediate()
      if (isClosed) break
      assert.ok(this.#clock.now() < deadline, 'close() is bounded')
      this.#clock.advance(Math.max(1, this.#clock.nextIn ?? 1))
    }
    await closing
    await nextImmediate()
    for (const stream of this.#streams) stream.outcome ??= 'aborted'
    for (const client of this.#clients) {
      client.check()
      const { transport, subscriber } = client
      assert.ok(subscriber.isClosed)
      if (!open.includes(client)) continue
      assert.ok(transport.outcome !== undefined)
      if (!wasReading.has(client)) continue
      assert.equal(transport.outcome, 'truncated', 'a client of a running stream shall come back')
      assert.ok(client.hasAll, 'with everything that there was')
      assert.ok(!transport.control.includes('stream-error') && !client.hasEnd)
    }
    assert.equal(registry.size + registry.allStreams().length + registry.subscribers.size, 0)
    assert.equal(registry.producers + registry.heartbeat.size + this.#clock.pending, 0)
    assert.equal(registry.stats().bufferedBytes, 0)
    for (const { feed, isDeaf } of this.#streams)
      assert.ok(isDeaf || feed.closed === feed.runs, 'every finally has run')
  }
}

function keyOf(index: number): string {
  const owner = OWNERS[Math.floor(index / NAMES.length) % OWNERS.length]
  const name = NAMES[index % NAMES.length]
  return JSON.stringify(owner === undefined ? [name] : [name, owner])
}

function label({ key, real }: ModelStream): string {
  return `${key} ${real.epoch}`
}
