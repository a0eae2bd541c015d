import { INDEX_BYTES, MAX_TEXT_BYTES, Segment } from './log-segment.ts'

/** A contiguous part of a log, ready to be written. */
export interface LogSlice {
  readonly bytes: Buffer
  /** Byte offset in the stream of the first byte after this slice. */
  readonly endOffset: number
  /** The last event that ends at or before `endOffset`. */
  readonly lastSequence: number
  /** `bytes` as one HTTP/1.1 chunk, made by the first client that wants it and shared by the others. */
  chunk: Buffer | undefined
  /** Whether a first client has written it. */
  isShared: boolean
}

/** A contiguous run of events: their bytes on the wire, and how many each has. */
export interface Batch {
  readonly firstSequence: number
  readonly frames: Buffer
  readonly lengths: readonly number[]
}

const FIRST_SEGMENT_BYTES = 512
// As large as the largest slice: a slow socket that holds on to a slice of a segment holds the whole of it.
const MAX_SEGMENT_BYTES = 64 * 1024

/**
 * The retained frames of one stream: a window that grows at the end and is trimmed at the front, event by event, while
 * memory is given back segment by segment. No I/O, no clock, no limits of its own: its owner trims.
 *
 * Positions are byte offsets from the beginning of the stream. They stay true whatever is trimmed or compacted.
 */
export class EventLog {
  readonly #maxSegmentBytes: number
  // In order, contiguous. Those before #firstIndex lie before the window; they are held because somebody still has
  // slices of them (see release()).
  #segments: Segment[] = []
  #firstIndex = 0
  #firstSequence = 1
  #startOffset = 0
  #lastSequence = 0
  #endOffset = 0
  #heldBytes = 0

  constructor(maxBytes: number) {
    this.#maxSegmentBytes = Math.min(MAX_SEGMENT_BYTES, Math.max(1, Math.floor(maxBytes / 8)))
  }

  /** The oldest retained event; `lastSequence + 1` where none is. */
  get firstSequence(): number {
    return this.#firstSequence
  }

  get lastSequence(): number {
    return this.#lastSequence
  }

  get startOffset(): number {
    return this.#startOffset
  }

  get endOffset(): number {
    return this.#endOffset
  }

  get events(): number {
    return this.#lastSequence - this.#firstSequence + 1
  }

  /** Retained bytes on the wire. */
  get wireBytes(): number {
    return this.#endOffset - this.#startOffset
  }

  /** Memory that is really held: whole segments, with those before the window that are not released yet. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** The memory that appending a frame of `bytes` takes beyond `heldBytes`. */
  growthFor(bytes: number): number {
    const last = this.#lastSegment
    if (last?.fits(bytes) === true) return 0
    return last !== undefined && this.#canGrow(last, bytes) ? last.capacity : this.#nextCapacity(bytes)
  }

  // Not one that a hole follows.
  get #lastSegment(): Segment | undefined {
    const last = this.#segments.at(-1)
    return last?.endOffset === this.#endOffset ? last : undefined
  }

  #nextCapacity(bytes: number): number {
    const doubled = Math.min(Math.max(this.#heldBytes, FIRST_SEGMENT_BYTES), this.#maxSegmentBytes)
    return Math.max(doubled, bytes + INDEX_BYTES)
  }

  // To twice its capacity.
  #canGrow(segment: Segment, bytes: number): boolean {
    const capacity = 2 * segment.capacity
    if (!segment.isResizable || capacity > Math.min(this.#maxSegmentBytes, MAX_TEXT_BYTES)) return false
    return segment.neededBytes + bytes + INDEX_BYTES <= capacity
  }

  /** Appends the next event. A text must be `bytes` long as UTF-8. */
  append(frame: string | Buffer, bytes: number): void {
    const segment = this.#segmentFor(bytes)
    if (this.events === 0) this.#firstIndex = this.#segments.length - 1
    segment.append(frame, bytes)
    this.#lastSequence += 1
    this.#endOffset += bytes
  }

  #segmentFor(bytes: number): Segment {
    const last = this.#lastSegment
    if (last?.fits(bytes) === true) return last
    if (last !== undefined && this.#canGrow(last, bytes)) {
      this.#heldBytes += last.capacity
      last.resize(2 * last.capacity)
      return last
    }
    this.#segments.at(-1)?.encode()
    const next = new Segment(this.#nextCapacity(bytes), this.#endOffset, this.#lastSequence + 1)
    this.#segments.push(next)
    this.#heldBytes += next.capacity
    return next
  }

  /** Moves the front of the window until at most so many bytes and events are retained. */
  trim(maxBytes: number, maxEvents: number): void {
    while (this.wireBytes > maxBytes || this.events > maxEvents) this.#trimEvent()
  }

  /** Moves the front of the window past the oldest segment that has retained events; `false` where none is. */
  trimSegment(): boolean {
    if (this.events === 0) return false
    const segment = this.#segments[this.#firstIndex] as Segment
    this.#firstSequence = segment.lastSequence + 1
    this.#startOffset = segment.endOffset
    this.#firstIndex += 1
    return true
  }

  /** Moves the front of the window to `sequence`. */
  trimTo(sequence: number): void {
    while (this.#firstSequence < sequence && this.events > 0) this.#trimEvent()
  }

  /** Goes on after `sequence`, with a hole: whoever stands before it has fallen out of the window. */
  skipTo(sequence: number): void {
    while (this.trimSegment());
    this.#lastSequence = sequence
    this.#firstSequence = sequence + 1
    // One byte that was never there, so that no position before the hole is one after it.
    this.#endOffset += 1
    this.#startOffset = this.#endOffset
  }

  #trimEvent(): void {
    const segment = this.#segments[this.#firstIndex] as Segment
    if (segment.lastSequence === this.#firstSequence) {
      this.trimSegment()
      return
    }
    this.#startOffset = segment.startOffset + segment.endOf(this.#firstSequence - segment.firstSequence)
    this.#firstSequence += 1
  }

  /** Whether segments lie before the window that only a `release()` gives back. */
  get hasTrimmedSegments(): boolean {
    return this.#firstIndex > 0
  }

  /**
   * Gives back the memory of segments that lie wholly before the window and before `heldFrom`, the first byte that
   * somebody may still be writing.
   */
  release(heldFrom: number): void {
    let released = 0
    while (released < this.#firstIndex && (this.#segments[released] as Segment).endOffset <= heldFrom) {
      this.#heldBytes -= (this.#segments[released] as Segment).capacity
      released += 1
    }
    if (released === 0) return
    this.#segments.splice(0, released)
    this.#firstIndex -= released
  }

  /** Gives back everything. The window is empty from then on. */
  clear(): void {
    this.#segments = []
    this.#firstIndex = 0
    this.#firstSequence = this.#lastSequence + 1
    this.#startOffset = this.#endOffset
    this.#heldBytes = 0
  }

  /** Gives back the memory that was allocated ahead. Meant for a log that will not grow any more. */
  compact(): void {
    if (this.#firstIndex > 0 || this.events === 0) return
    const [first] = this.#segments as [Segment]
    const needed = this.wireBytes + this.events * INDEX_BYTES
    if (this.#segments.length === 1 && first.isResizable) this.#fit(first)
    else if (needed <= this.#maxSegmentBytes) this.#mergeInto(needed, 0)
    else this.#shrinkLast()
  }

  #fit(segment: Segment): void {
    this.#heldBytes += segment.neededBytes - segment.capacity
    segment.resize(segment.neededBytes)
    segment.encode()
  }

  #shrinkLast(): void {
    const last = this.#segments.at(-1) as Segment
    this.#mergeInto(last.neededBytes, this.#segments.length - 1)
  }

  // Replaces the segments from `index` on by one of `capacity`, with what the window retains of them.
  #mergeInto(capacity: number, index: number): void {
    const sources = this.#segments.slice(index)
    const [first] = sources as [Segment]
    const skipped = Math.max(0, this.#firstSequence - first.firstSequence)
    const start = skipped === 0 ? first.startOffset : first.startOffset + first.endOf(skipped - 1)
    const merged = new Segment(capacity, start, first.firstSequence + skipped)
    sources.forEach((source, i) => {
      source.copyTo(merged, i === 0 ? skipped : 0)
      this.#heldBytes -= source.capacity
    })
    this.#heldBytes += capacity
    // A new array, since one that has grown keeps room for more.
    this.#segments = [...this.#segments.slice(0, index), merged]
  }

  /** Where the event after `sequence` begins. `sequence` must be in `firstSequence - 1 … lastSequence`. */
  offsetAfter(sequence: number): number {
    if (sequence === this.#lastSequence) return this.#endOffset
    if (sequence < this.#firstSequence) return this.#startOffset
    const segment = this.#find((candidate) => candidate.lastSequence >= sequence)
    return segment.startOffset + segment.endOf(sequence - segment.firstSequence)
  }

  /**
   * The retained bytes from `offset` on, at most `maxBytes` of them and none beyond a segment. It ends with an event
   * wherever that is possible: only a single event larger than `maxBytes` is cut. `offset` must be inside the window.
   */
  read(offset: number, maxBytes: number): LogSlice {
    const last = this.#segments.at(-1) as Segment
    const segment = offset >= last.startOffset ? last : this.#find((candidate) => candidate.endOffset > offset)
    const from = offset - segment.startOffset
    let end = segment.usedBytes
    let events = segment.events
    if (end - from > maxBytes) {
      events = segment.eventsUntil(from + maxBytes)
      const boundary = events === 0 ? 0 : segment.endOf(events - 1)
      end = boundary > from ? boundary : from + maxBytes
    }
    return {
      bytes: segment.encode().subarray(from, end),
      endOffset: segment.startOffset + end,
      lastSequence: segment.firstSequence + events - 1,
      chunk: undefined,
      isShared: false
    }
  }

  /** The events that follow `sequence`, at most `maxBytes` of them but one at least, none beyond a segment. */
  batchAfter(sequence: number, maxBytes: number): Batch | undefined {
    if (sequence >= this.#lastSequence) return undefined
    const segment = this.#find((candidate) => candidate.lastSequence > sequence)
    const first = sequence + 1 - segment.firstSequence
    const from = first === 0 ? 0 : segment.endOf(first - 1)
    const end = Math.max(first + 1, segment.eventsUntil(from + maxBytes))
    const lengths: number[] = []
    for (let event = first, start = from; event < end; event++) {
      const stop = segment.endOf(event)
      lengths.push(stop - start)
      start = stop
    }
    return { firstSequence: sequence + 1, frames: segment.encode().subarray(from, segment.endOf(end - 1)), lengths }
  }

  // Binary search: the first segment for which `isAtOrAfter` holds.
  #find(isAtOrAfter: (segment: Segment) => boolean): Segment {
    let low = this.#firstIndex
    let high = this.#segments.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if (isAtOrAfter(this.#segments[middle] as Segment)) high = middle
      else low = middle + 1
    }
    return this.#segments[low] as Segment
  }
}
