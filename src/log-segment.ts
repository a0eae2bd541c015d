/** What the index of a segment takes for each event. */
export const INDEX_BYTES: number = 4

/** Text takes more memory than its bytes, and putting large texts together costs more than it saves. */
export const MAX_TEXT_BYTES: number = 4_096

/**
 * A contiguous part of a log in one buffer. Frames fill it from the front; their end offsets fill it from the back, four
 * bytes each, so that a short stream costs one allocation. Nothing in it is ever overwritten, so a slice that was handed to
 * a socket stays valid for as long as the socket wants it.
 *
 * Frames stay text until somebody wants their bytes: many are encoded at once for less than one by one. And until then
 * there is no buffer, so that the capacity can still change: a stream that is over before it is read gets the one that
 * fits.
 */
export class Segment {
  readonly startOffset: number
  readonly firstSequence: number
  usedBytes: number = 0
  events: number = 0
  #capacity: number
  #buffer: Buffer | undefined
  // Where each frame ends, as long as there is no buffer.
  #ends: number[] = []
  // The newest frames, those that are not in the buffer yet, and how many bytes are.
  #text = ''
  #encodedBytes = 0

  constructor(capacity: number, startOffset: number, firstSequence: number) {
    this.#capacity = capacity
    this.startOffset = startOffset
    this.firstSequence = firstSequence
  }

  get capacity(): number {
    return this.#capacity
  }

  get endOffset(): number {
    return this.startOffset + this.usedBytes
  }

  get lastSequence(): number {
    return this.firstSequence + this.events - 1
  }

  /** The bytes that its frames and their index need. */
  get neededBytes(): number {
    return this.usedBytes + this.events * INDEX_BYTES
  }

  fits(bytes: number): boolean {
    return this.neededBytes + bytes + INDEX_BYTES <= this.#capacity
  }

  get isResizable(): boolean {
    return this.#buffer === undefined
  }

  resize(capacity: number): void {
    this.#capacity = capacity
  }

  append(frame: string | Buffer, bytes: number): void {
    if (typeof frame === 'string') this.#text += frame
    else {
      frame.copy(this.encode(), this.usedBytes)
      this.#encodedBytes += bytes
    }
    this.usedBytes += bytes
    this.events += 1
    if (this.#buffer === undefined) this.#ends.push(this.usedBytes)
    else setEndIn(this.#buffer, this.events - 1, this.usedBytes)
    if (this.usedBytes - this.#encodedBytes >= MAX_TEXT_BYTES) this.encode()
  }

  /** All of its frames as bytes, followed by room for more. */
  encode(): Buffer {
    const buffer = (this.#buffer ??= this.#allocate())
    if (this.#text === '') return buffer
    buffer.write(this.#text, this.#encodedBytes)
    this.#text = ''
    this.#encodedBytes = this.usedBytes
    return buffer
  }

  #allocate(): Buffer {
    const buffer = Buffer.allocUnsafeSlow(this.#capacity)
    this.#ends.forEach((end, event) => setEndIn(buffer, event, end))
    this.#ends = []
    return buffer
  }

  /** Copies the frames from `event` on (0 is the first) to the end of another segment that has the room. */
  copyTo(target: Segment, event: number): void {
    const from = event === 0 ? 0 : this.endOf(event - 1)
    const shift = target.usedBytes - from
    const buffer = target.encode()
    this.encode().copy(buffer, target.usedBytes, from, this.usedBytes)
    for (let i = event; i < this.events; i++) setEndIn(buffer, target.events + i - event, this.endOf(i) + shift)
    target.events += this.events - event
    target.usedBytes = this.usedBytes + shift
    target.#encodedBytes = target.usedBytes
  }

  /** Where the frame of `event` (0 is the first) ends, relative to the segment. */
  endOf(event: number): number {
    return endIn(this.encode(), event)
  }

  /** How many frames end at or before `end`, relative to the segment. */
  eventsUntil(end: number): number {
    if (end >= this.usedBytes) return this.events
    let low = 0
    let high = this.events
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.endOf(middle) <= end) low = middle + 1
      else high = middle
    }
    return low
  }
}

function endIn(buffer: Buffer, event: number): number {
  return buffer.readUInt32LE(buffer.length - (event + 1) * INDEX_BYTES)
}

function setEndIn(buffer: Buffer, event: number, end: number): void {
  buffer.writeUInt32LE(end, buffer.length - (event + 1) * INDEX_BYTES)
}
