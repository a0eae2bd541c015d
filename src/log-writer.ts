import type { Batch, EventLog } from './event-log.ts'
import type { Frame } from './producer.ts'
import type { Readers } from './readers.ts'
import type { StreamSettings } from './settings.ts'

/** Whoever keeps the account of all logs. */
export interface MemoryBudget {
  /** Makes room for so many further bytes; `false` where they do not fit all the same. */
  makeRoom(bytes: number): boolean
  onHeld(deltaBytes: number, deltaEvents: number): void
}

/** The one way to change the log of a stream: within its own limits, and those of the memory of all logs. */
export class LogWriter {
  readonly #log: EventLog
  readonly #readers: Readers
  readonly #settings: StreamSettings
  readonly #budget: MemoryBudget
  // What the budget knows of log.heldBytes and log.events.
  #accountedBytes = 0
  #accountedEvents = 0
  #isStarved = false

  constructor(log: EventLog, readers: Readers, settings: StreamSettings, budget: MemoryBudget) {
    this.#log = log
    this.#readers = readers
    this.#settings = settings
    this.#budget = budget
  }

  /** Whether the frame that was refused last waits for memory, and not for a client of its own. */
  get isStarved(): boolean {
    return this.#isStarved
  }

  /** Appends a frame of the producer; `false` where it has to wait for its clients, or for memory. */
  tryAppend({ text, bytes }: Frame): boolean {
    this.#isStarved = false
    if (this.#readers.pace.isTooFarAhead(bytes)) return false
    this.#isStarved = !this.#makeRoomFor(bytes)
    if (this.#isStarved) return false
    this.#log.append(text, bytes)
    this.#log.trim(this.#settings.maxBytes, this.#settings.maxEvents)
    this.#onChanged()
    return true
  }

  /** Appends what another instance produced; what is there already is passed over. */
  appendBatch({ firstSequence, frames, lengths }: Batch): void {
    const log = this.#log
    let sequence = firstSequence
    let from = 0
    for (const bytes of lengths) {
      if (sequence > log.lastSequence) {
        if (sequence > log.lastSequence + 1) log.skipTo(sequence - 1)
        this.#makeRoomFor(bytes)
        log.append(frames.subarray(from, from + bytes), bytes)
      }
      sequence += 1
      from += bytes
    }
    this.#onChanged()
  }

  /** Retains nothing before `sequence` any more. */
  trimTo(sequence: number): void {
    this.#log.trimTo(sequence)
    this.#onChanged()
  }

  #onChanged(): void {
    this.#readers.forgetSlice()
    this.#account()
  }

  // Others give way first, then the history of this log. `false` where what would have to go is promised to a client.
  #makeRoomFor(bytes: number): boolean {
    if (this.#fits(bytes)) return true
    if (this.#readers.pace.isPromisedAll) return false
    while (this.#log.trimSegment()) {
      this.release()
      if (this.#fits(bytes)) return true
    }
    // Nothing is left to give: the newest event is always retained.
    return true
  }

  #fits(bytes: number): boolean {
    const growth = this.#log.growthFor(bytes)
    return growth === 0 || this.#budget.makeRoom(growth)
  }

  /** Gives back what was allocated ahead: nothing is appended any more. */
  settle(): void {
    this.#readers.forgetSlice()
    this.#log.compact()
    this.#account()
  }

  /** Gives back what was trimmed and no socket wants any more. */
  release(): void {
    if (this.#log.hasTrimmedSegments) this.#log.release(this.#readers.heldFrom)
    this.#account()
  }

  /** Gives back everything, unless somebody still reads. */
  clearIfUnread(): void {
    if (this.#readers.isRead) return
    this.#readers.forgetSlice()
    this.#log.clear()
    this.#account()
  }

  #account(): void {
    const { heldBytes, events } = this.#log
    if (heldBytes === this.#accountedBytes && events === this.#accountedEvents) return
    this.#budget.onHeld(heldBytes - this.#accountedBytes, events - this.#accountedEvents)
    this.#accountedBytes = heldBytes
    this.#accountedEvents = events
  }
}
