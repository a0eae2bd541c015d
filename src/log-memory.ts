import type { EventLog } from './event-log.ts'
import type { Readers } from './readers.ts'

/** Whoever keeps the account of all logs. */
export interface MemoryBudget {
  /** Makes room for so many further bytes; `false` where they do not fit all the same. */
  makeRoom(bytes: number): boolean
  onHeld(deltaBytes: number, deltaEvents: number): void
}

/** What one log holds of the memory of its registry. */
export class LogMemory {
  readonly #log: EventLog
  readonly #readers: Readers
  readonly #budget: MemoryBudget
  // What the budget knows of log.heldBytes and log.events.
  #accountedBytes = 0
  #accountedEvents = 0

  constructor(log: EventLog, readers: Readers, budget: MemoryBudget) {
    this.#log = log
    this.#readers = readers
    this.#budget = budget
  }

  /**
   * Makes room for a frame: others give way first, then the history of this log. `false` where what would have to go is
   * promised to a client; the producer waits then.
   */
  makeRoomFor(bytes: number): boolean {
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

  /** Gives back what was trimmed and no socket wants any more. */
  release(): void {
    if (this.#log.hasTrimmedSegments) this.#log.release(this.#readers.heldFrom)
    this.account()
  }

  /** Gives back everything, unless somebody still reads. */
  clearIfUnread(): void {
    if (this.#readers.isRead) return
    this.#readers.forgetSlice()
    this.#log.clear()
    this.account()
  }

  account(): void {
    const { heldBytes, events } = this.#log
    if (heldBytes === this.#accountedBytes && events === this.#accountedEvents) return
    this.#budget.onHeld(heldBytes - this.#accountedBytes, events - this.#accountedEvents)
    this.#accountedBytes = heldBytes
    this.#accountedEvents = events
  }
}
