import assert from 'node:assert/strict'
import type { EventStream } from '../../src/event-stream.ts'
import type { Feed } from './feed.ts'
import type { FakeTransport } from './fake-transport.ts'
import type { Subscriber } from '../../src/subscriber.ts'

/** The limits that the model and the registry under test agree on; small, so that every one of them is met often. */
export const LIMITS = {
  maxActiveStreams: 4,
  maxClientsPerStream: 3,
  bufferSize: 12,
  bufferBytes: 1_200,
  abortTimeout: 100,
  stallTimeout: 300,
  heartbeatInterval: 200
} as const

export type Backpressure = 'fastest' | 'slowest' | 'none'
export type Outcome = 'completed' | 'failed' | 'aborted' | 'evicted'

const READ_AHEAD_EVENTS = LIMITS.bufferSize / 4
const READ_AHEAD_BYTES = LIMITS.bufferBytes / 4

/** Where somebody stands in a stream: the last event it was given, and the byte after it. */
export interface Position {
  readonly sequence: number
  readonly offset: number
}

/** What is to become of a stream when its time is up. */
export interface Deadline {
  readonly kind: 'orphan' | 'letGo' | 'expire'
  readonly at: number
}

/** What DESIGN.md says of one stream. */
export class ModelStream {
  readonly key: string
  readonly owner: string | undefined
  readonly real: EventStream
  readonly feed: Feed
  readonly isDeaf: boolean
  /** Everything that the generator was given to yield, in order. */
  readonly pushed: string[] = []
  /** How the generator will end once all of that is taken. */
  ending: 'completed' | 'failed' | undefined
  appended = 0
  /** The oldest retained event. */
  first = 1
  outcome: Outcome | undefined
  isHeld = true
  isRemoved = false
  readonly clients: Set<ModelClient> = new Set()
  hadClient = false
  /** Where the last client stood when it left; of several that left at one moment any may have been the last. */
  lastStood: readonly Position[] | undefined
  deadline: Deadline | undefined

  // Byte after each event; the first is 0.
  readonly #offsets: number[] = [0]

  constructor(key: string, owner: string | undefined, real: EventStream, feed: Feed, isDeaf: boolean) {
    this.key = key
    this.owner = owner
    this.real = real
    this.feed = feed
    this.isDeaf = isDeaf
  }

  get isFinished(): boolean {
    return this.outcome !== undefined
  }

  /** How many bytes the event of this sequence has on the wire. */
  frameBytes(sequence: number): number {
    return Buffer.byteLength(`data: ${this.pushed[sequence - 1]}\nid: ${this.real.epoch}.${sequence}\n\n`)
  }

  offsetAfter(sequence: number): number {
    for (let next = this.#offsets.length; next <= sequence; next++) {
      this.#offsets.push((this.#offsets[next - 1] as number) + this.frameBytes(next))
    }
    return this.#offsets[sequence] as number
  }

  get endOffset(): number {
    return this.offsetAfter(this.appended)
  }

  get wireBytes(): number {
    return this.endOffset - this.offsetAfter(this.first - 1)
  }

  /** The generator has been taken on to here; the log keeps what its limits allow. */
  appendUpTo(sequence: number): void {
    assert.ok(sequence >= this.appended && sequence <= this.pushed.length, 'it appends what was yielded, once')
    this.appended = sequence
    while (this.appended - this.first + 1 > LIMITS.bufferSize || this.wireBytes > LIMITS.bufferBytes) this.first += 1
  }

  /** Whether a client at `position` keeps the next event from being appended. */
  #exceeds({ sequence, offset }: Position): boolean {
    const ahead = this.endOffset - offset
    if (ahead === 0) return false
    const next = this.appended + 1
    return ahead + this.frameBytes(next) > READ_AHEAD_BYTES || next - sequence > READ_AHEAD_EVENTS
  }

  /** Whether the generator rightly waits with the next event (§6, and the row `backpressure` of §3). */
  mustWait(backpressure: Backpressure): boolean {
    if (backpressure === 'none') return false
    if (this.clients.size > 0) return this.#exceeds(this.pacing(backpressure))
    if (backpressure === 'fastest') return false
    if (this.lastStood !== undefined) return this.lastStood.some((position) => this.#exceeds(position))
    const isFull = this.wireBytes + this.frameBytes(this.appended + 1) > LIMITS.bufferBytes
    return isFull || this.appended - this.first + 2 > LIMITS.bufferSize
  }

  /** The position of the client that paces the producer; there must be one. */
  pacing(backpressure: 'fastest' | 'slowest'): Position {
    const positions = [...this.clients].map(({ subscriber }) => subscriber as Position)
    const sign = backpressure === 'fastest' ? -1 : 1
    return positions.reduce((best, one) => (sign * (one.offset - best.offset) < 0 ? one : best))
  }

  /** What was just appended was within the read-ahead, or followed everything that the pacing client was given. */
  assertWithinReadAhead(backpressure: 'fastest' | 'slowest'): void {
    const { offset, sequence } = this.pacing(backpressure)
    const last = this.frameBytes(this.appended)
    assert.ok(this.endOffset - offset <= Math.max(READ_AHEAD_BYTES, last), 'bytes of read-ahead')
    assert.ok(this.appended - sequence <= READ_AHEAD_EVENTS, 'events of read-ahead')
  }
}

/** How a client came: with nothing, live, or with an event id; and whether its request started the stream. */
export interface Came {
  readonly cursor: string | undefined
  readonly from: 'start' | 'live'
  readonly arrival: 'attached' | 'started' | 'restarted'
}

/** What DESIGN.md says of one response. */
export class ModelClient {
  readonly stream: ModelStream
  readonly subscriber: Subscriber
  readonly transport: FakeTransport
  readonly cursor: string | undefined
  readonly gap:
    | { readonly reason: string; readonly missed: number | null; readonly resumesAt: number | null }
    | undefined
  isOpen = true
  isDropped = false
  /** When the transport last took a byte, or had none that waited. */
  progressAt: number
  isWaiting = false
  receivedLength = 0

  // What has to come before the first event of the generator.
  readonly #opening: { readonly event: string; readonly data: unknown }[] = []
  #next: number
  #hasError = false
  #hasEnd = false
  #checked = 0
  #lastEventId: string | undefined

  constructor(stream: ModelStream, subscriber: Subscriber, transport: FakeTransport, came: Came, now: number) {
    this.stream = stream
    this.subscriber = subscriber
    this.transport = transport
    this.cursor = came.cursor
    this.progressAt = now
    const { after, gap, hasError } = resolve(stream, came)
    this.#next = after + 1
    this.#hasError = hasError
    this.gap = came.arrival === 'restarted' ? LOST : gap
    if (came.arrival === 'restarted') this.#opening.push({ event: 'stream-gap', data: LOST })
    if (came.arrival !== 'attached' || came.cursor === undefined) {
      this.#opening.push({ event: 'stream-start', data: { streamId: stream.real.streamId } })
    }
    if (gap !== undefined) this.#opening.push({ event: 'stream-gap', data: gap })
  }

  get lastEventId(): string | undefined {
    return this.#lastEventId ?? this.cursor
  }

  /** Every event that has come since the last look is the one that had to come. */
  check(): void {
    const { events } = this.transport
    const { real, pushed } = this.stream
    for (; this.#checked < events.length; this.#checked++) {
      const event = events[this.#checked] as (typeof events)[0]
      assert.ok(!this.#hasEnd, 'nothing comes after the end')
      const opening = this.#opening.shift()
      if (opening !== undefined) {
        assert.equal(event.event, opening.event)
        assert.deepEqual(JSON.parse(event.data), opening.data)
      } else if (event.event === 'stream-error') {
        this.#assertAllGiven('the error')
        assert.ok(!this.#hasError, 'the error comes once')
        assert.notEqual(this.stream.outcome, 'completed')
        assert.equal(event.id, `${real.epoch}.${this.#next}`)
        this.#hasError = true
      } else if (event.event === 'stream-end') {
        this.#assertAllGiven('the end')
        assert.deepEqual(JSON.parse(event.data), { outcome: this.stream.outcome })
        assert.equal(event.id, `${real.epoch}.end`)
        assert.equal(this.#hasError, this.stream.outcome !== 'completed', 'the error comes before the end')
        this.#hasEnd = true
      } else {
        assert.equal(event.id, `${real.epoch}.${this.#next}`, 'a contiguous run')
        assert.equal(event.data, pushed[this.#next - 1])
        this.#next += 1
      }
      if (event.id !== undefined) this.#lastEventId = event.id
    }
  }

  #assertAllGiven(what: string): void {
    assert.ok(this.stream.isFinished, `${what} comes of a finished stream`)
    assert.equal(this.#next, this.stream.appended + 1, `${what} comes after every event`)
  }

  get hasAll(): boolean {
    return this.#next === this.stream.appended + 1
  }

  get hasEnd(): boolean {
    return this.#hasEnd
  }
}

const LOST = { reason: 'lost', missed: null, resumesAt: null }

// Table 4.4, from the stream's side.
function resolve(
  { real, first, appended, outcome }: ModelStream,
  { cursor, from, arrival }: Came
): { after: number; gap: ModelClient['gap']; hasError: boolean } {
  const isPlain = arrival !== 'attached' || cursor === undefined
  if (isPlain && from === 'live' && arrival === 'attached') return { after: appended, gap: undefined, hasError: false }
  let has = 0
  if (!isPlain) {
    const [epoch, sequence] = cursor.split('.') as [string, string]
    const hasError = outcome !== undefined && outcome !== 'completed' && Number(sequence) === appended + 1
    if (epoch === real.epoch && hasError) return { after: appended, gap: undefined, hasError }
    if (epoch !== real.epoch || Number(sequence) > appended) {
      return { after: first - 1, gap: { reason: 'reset', missed: null, resumesAt: first }, hasError: false }
    }
    has = Number(sequence)
  }
  if (has >= first - 1) return { after: has, gap: undefined, hasError: false }
  return { after: first - 1, gap: { reason: 'trimmed', missed: first - 1 - has, resumesAt: first }, hasError: false }
}
