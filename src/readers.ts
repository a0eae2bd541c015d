import type { EventLog, LogSlice } from './event-log.ts'
import { Pace, type Reader } from './pace.ts'
import type { StreamSettings } from './settings.ts'

/** Who reads a stream. */
export class Readers {
  readonly pace: Pace
  readonly #log: EventLog
  readonly #readers = new Set<Reader>()
  // The slice that was read last: all that stand at one position in one turn are given the same.
  #slice: LogSlice | undefined
  #sliceOffset = 0
  #sliceMaxBytes = 0

  constructor(settings: StreamSettings, log: EventLog) {
    this.#log = log
    this.pace = new Pace(settings, log, this.#readers)
  }

  get size(): number {
    return this.#readers.size
  }

  add(reader: Reader): void {
    this.#readers.add(reader)
    this.pace.onAttached()
  }

  /** `false` where it is gone already. */
  delete(reader: Reader): boolean {
    if (!this.#readers.delete(reader)) return false
    this.pace.onDetached(reader)
    return true
  }

  pump(): void {
    for (const reader of this.#readers) reader.pump()
  }

  /** The slice of the log that begins at `offset`. */
  read(offset: number, maxBytes: number): LogSlice {
    if (this.#slice === undefined || this.#sliceOffset !== offset || this.#sliceMaxBytes !== maxBytes) {
      this.#slice = this.#log.read(offset, maxBytes)
      this.#sliceOffset = offset
      this.#sliceMaxBytes = maxBytes
    }
    return this.#slice
  }

  /** The log has changed, or the turn is over: the slice that was read last must not hold memory any longer. */
  forgetSlice(): void {
    this.#slice = undefined
  }

  /** The first byte that some reader was given and whose socket may still want it. */
  get heldFrom(): number {
    let heldFrom = Infinity
    for (const reader of this.#readers) heldFrom = Math.min(heldFrom, reader.heldFrom)
    return heldFrom
  }
}
