import { StringDecoder } from 'node:string_decoder'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { LogSlice } from '../../src/event-log.ts'
import type { Transport } from '../../src/transport.ts'

/** How a response ended: cleanly, cut after what was written, or cut at once. */
export type TransportEnd = 'end' | 'truncated' | 'destroyed'

/** A transport without a socket: a test decides what its client takes, and when. */
export class FakeTransport implements Transport {
  /** The events that the client has read, control events included. */
  readonly events: EventSourceMessage[] = []
  readonly comments: string[] = []
  readonly retries: number[] = []
  /** The size of every write, in order. */
  readonly writes: number[] = []
  /** What the client has read. */
  text = ''
  outcome: TransportEnd | undefined
  /** Whether the client takes what comes at once. */
  isReading = true
  /** Above so many waiting bytes `write` says that it is enough. */
  highWaterMark = 16_384
  maxSliceBytes = 65_536
  onDrain: () => void = () => {}
  /** The response is through: everything was taken after its end, or nobody can receive anything any more. */
  onClose: () => void = () => {}

  readonly #decoder = new StringDecoder('utf8')
  readonly #parser = createParser({
    onEvent: (event) => this.events.push(event),
    onRetry: (ms) => this.retries.push(ms),
    onComment: (comment) => this.comments.push(comment)
  })
  #waiting: Buffer[] = []
  #waitingBytes = 0
  #needsDrain = false
  #isHeld = false
  #isDestroyed = false

  get waitingBytes(): number {
    return this.#waitingBytes
  }

  get isDestroyed(): boolean {
    return this.#isDestroyed
  }

  /** The data of the events of the generator that the client has read. */
  get data(): string[] {
    return this.events.filter(({ event }) => event?.startsWith('stream-') !== true).map(({ data }) => data)
  }

  /** The names of the control events that the client has read. */
  get control(): string[] {
    return this.events.flatMap(({ event }) => (event?.startsWith('stream-') === true ? [event] : []))
  }

  /** The JSON of the last control event of this name. */
  controlData(name: string): Record<string, unknown> | undefined {
    const found = this.events.findLast(({ event }) => event === name)
    return found && (JSON.parse(found.data) as Record<string, unknown>)
  }

  /** What a browser would send: the id of the last complete block that has one. */
  get lastEventId(): string | undefined {
    const blocks = this.text.split('\n\n').slice(0, -1)
    return blocks.flatMap((block) => /^id: ?(.*)$/m.exec(block)?.[1] ?? []).at(-1)
  }

  hold(): void {
    this.#isHeld = true
  }

  flush(): void {
    this.#isHeld = false
    // A socket drains when its write is done, which is never on the stack of the write.
    if (this.isReading) queueMicrotask(() => this.take())
  }

  write(text: string): boolean {
    return this.#push(Buffer.from(text))
  }

  writeSlice(slice: LogSlice): boolean {
    return this.#push(slice.bytes)
  }

  #push(bytes: Buffer): boolean {
    if (this.outcome !== undefined) throw new Error(`Something was written after ${this.outcome}`)
    if (this.#isDestroyed) return false
    this.writes.push(bytes.length)
    this.#waiting.push(bytes)
    this.#waitingBytes += bytes.length
    if (this.isReading && !this.#isHeld) this.#receive(Infinity)
    const hasRoom = this.#waitingBytes < this.highWaterMark
    if (!hasRoom) this.#needsDrain = true
    return hasRoom
  }

  /** The client takes so many of the waiting bytes. */
  take(bytes: number = Infinity): void {
    this.#receive(bytes)
    if (this.#waitingBytes > 0) return
    if (this.#needsDrain && this.outcome === undefined) {
      this.#needsDrain = false
      this.onDrain()
    }
    this.#closeIfThrough()
  }

  /** From here on the client takes everything at once. */
  resume(): void {
    this.isReading = true
    this.take()
  }

  #receive(maxBytes: number): void {
    let left = maxBytes
    while (left > 0) {
      const [first] = this.#waiting
      if (first === undefined) return
      const taken = first.subarray(0, left)
      if (taken.length === first.length) this.#waiting.shift()
      else this.#waiting[0] = first.subarray(taken.length)
      this.#waitingBytes -= taken.length
      left -= taken.length
      const text = this.#decoder.write(taken)
      this.text += text
      this.#parser.feed(text)
    }
  }

  end(text: string): void {
    this.flush()
    if (text !== '') this.#push(Buffer.from(text))
    this.#setEnd('end')
    this.#closeIfThrough()
  }

  truncate(): void {
    this.flush()
    this.#setEnd('truncated')
    this.#closeIfThrough()
  }

  destroy(): void {
    this.#setEnd('destroyed')
    this.drop()
  }

  /** The connection is gone, and what waited with it. */
  drop(): void {
    this.#isDestroyed = true
    this.#waiting = []
    this.#waitingBytes = 0
    queueMicrotask(() => this.onClose())
  }

  #setEnd(end: TransportEnd): void {
    // Destroying is how a response that does not get through its end is given up.
    if (this.outcome !== undefined && end !== 'destroyed')
      throw new Error(`The response ends twice: ${this.outcome}, ${end}`)
    this.outcome ??= end
  }

  // Never on the stack of whoever ends it: no socket closes there.
  #closeIfThrough(): void {
    if (this.outcome !== undefined && this.#waitingBytes === 0) queueMicrotask(() => this.onClose())
  }

  close(): void {
    this.onDrain = () => {}
  }
}
