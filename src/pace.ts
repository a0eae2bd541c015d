import type { EventLog } from './event-log.ts'
import type { StreamSettings } from './settings.ts'

/** How far somebody has read. */
export interface Position {
  /** The next byte it wants. */
  readonly offset: number
  /** The last event it was given whole. */
  readonly sequence: number
}

/** Who reads a stream: a position in its log. */
export interface Reader extends Position {
  /** The first byte it was given that may still wait for its socket. */
  readonly heldFrom: number
  /** There may be something new. */
  pump(): void
}

/** A reader at the other end of which is a client. */
export interface ClientReader extends Reader {
  /** Ends the response so that the client comes back, now. */
  dismiss(): void
}

/** A reader that is no client: it copies the log to a store. */
export interface MirrorReader extends Reader {
  /** Whether the producer waits for it, whoever paces otherwise. */
  readonly isPacing: boolean
  /** Where the client of other instances stands that paces the stream, as far as is known here. */
  readonly others: Position | undefined
  /** Whether the stream has clients on other instances, as far as is known here. */
  readonly hasClients: boolean
  /** Calls back once that is known for sure. */
  lookForClients(onKnown: () => void): void
  /** The producer has to wait. */
  onAwaited(): void
}

// A quarter of the log is read ahead of the client that paces; the rest is history behind it, so that what was handed to
// its socket but not received is still there when it comes back.
export const READ_AHEAD_SHARE = 4

/** How far ahead of its clients the producer of one stream may run. */
export class Pace {
  mirror: MirrorReader | undefined
  readonly #settings: StreamSettings
  readonly #log: EventLog
  readonly #readers: ReadonlySet<Reader>
  // At or behind where the pacing client stands. Positions only grow, so this is looked up again only when it is too far
  // behind to decide; undefined where nobody paces, or after a change that could have moved it back.
  #offset: number | undefined
  #sequence = 0
  // Where the last client stood when it left, if there was one.
  #lastStood: Position | undefined

  constructor(settings: StreamSettings, log: EventLog, readers: ReadonlySet<Reader>) {
    this.#settings = settings
    this.#log = log
    this.#readers = readers
  }

  onAttached(): void {
    this.#offset = undefined
  }

  onDetached({ offset, sequence }: Reader): void {
    this.#offset = undefined
    this.#lastStood = this.#readers.size === 0 ? { offset, sequence } : undefined
  }

  /** The client of other instances that paces the stream has moved, or is another one. */
  onOthersMoved(): void {
    this.#offset = undefined
  }

  /** Whether a frame of `bytes` has to wait before it is appended. */
  isTooFarAhead(bytes: number): boolean {
    const { backpressure } = this.#settings
    if (backpressure === 'none') return false
    if (this.mirror?.isPacing === true && this.#exceeds(bytes, this.mirror)) return true
    if (!this.#isAttached) {
      if (backpressure === 'fastest') return false
      return this.#lastStood === undefined ? this.#isFull(bytes) : this.#exceeds(bytes, this.#lastStood)
    }
    if (this.#offset !== undefined && !this.#exceeds(bytes, { offset: this.#offset, sequence: this.#sequence }))
      return false
    const reader = this.#findPacing(backpressure)
    this.#offset = reader.offset
    this.#sequence = reader.sequence
    return this.#exceeds(bytes, reader)
  }

  /** Whether something is retained that must not be trimmed before a client has read it. */
  get isPromisedAll(): boolean {
    if (this.#settings.backpressure !== 'slowest') return false
    const { endOffset } = this.#log
    if (this.mirror?.isPacing === true && this.mirror.offset < endOffset) return true
    const reader = this.#isAttached ? this.#findPacing('slowest') : this.#lastStood
    return endOffset > (reader?.offset ?? 0)
  }

  get #isAttached(): boolean {
    return this.#readers.size > 0 || this.mirror?.others !== undefined
  }

  #isFull(bytes: number): boolean {
    const { maxBytes, maxEvents } = this.#settings
    return this.#log.wireBytes + bytes > maxBytes || this.#log.events + 1 > maxEvents
  }

  // Whoever has read everything takes any event, however large; otherwise only what fits into the read-ahead.
  #exceeds(bytes: number, { offset, sequence }: Position): boolean {
    const { maxBytes, maxEvents } = this.#settings
    const ahead = this.#log.endOffset - offset
    if (ahead === 0) return false
    return (
      ahead + bytes > maxBytes / READ_AHEAD_SHARE ||
      this.#log.lastSequence - sequence + 1 > maxEvents / READ_AHEAD_SHARE
    )
  }

  // Whoever it is for, somebody is attached.
  #findPacing(backpressure: 'fastest' | 'slowest'): Position {
    const others = this.mirror?.others
    const positions: Iterable<Position> = others === undefined ? this.#readers : [...this.#readers, others]
    let pacing: Position | undefined
    for (const position of positions) {
      if (pacing === undefined) pacing = position
      else if (backpressure === 'fastest' ? position.offset > pacing.offset : position.offset < pacing.offset)
        pacing = position
    }
    return pacing as Position
  }
}
