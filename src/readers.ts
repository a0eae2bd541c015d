import type { EventLog, LogSlice } from './event-log.ts'
import { Pace, type ClientReader, type MirrorReader } from './pace.ts'
import type { StreamSettings } from './settings.ts'

/** Who reads a stream. */
export class Readers {
  readonly pace: Pace
  readonly #log: EventLog
  readonly #readers = new Set<ClientReader>()
  // The slice that was read last: all that stand at one position in one turn are given the same.
  #slice: LogSlice | undefined
  #sliceOffset = 0
  #sliceMaxBytes = 0

  constructor(settings: StreamSettings, log: EventLog) {
    this.#log = log
    this.pace = new Pace(settings, log, this.#readers)
  }

  /** Clients; the mirror is none. */
  get size(): number {
    return this.#readers.size
  }

  get mirror(): MirrorReader | undefined {
    return this.pace.mirror
  }

  set mirror(mirror: MirrorReader | undefined) {
    this.pace.mirror = mirror
  }

  /** Whether there are clients, here or on other instances. */
  get hasClients(): boolean {
    return this.size > 0 || this.mirror?.hasClients === true
  }

  /** Whether anybody still wants the log. */
  get isRead(): boolean {
    return this.size > 0 || this.mirror !== undefined
  }

  add(reader: ClientReader): void {
    this.#readers.add(reader)
    this.pace.onAttached()
  }

  /** `false` where it is gone already. */
  delete(reader: ClientReader): boolean {
    if (!this.#readers.delete(reader)) return false
    this.pace.onDetached(reader)
    return true
  }

  pump(): void {
    for (const reader of this.#readers) reader.pump()
    this.mirror?.pump()
  }

  /** Sends every client away, so that it comes back. */
  dismiss(): void {
    for (const reader of this.#readers) reader.dismiss()
  }

  /** The last event that the slowest or the fastest client has; undefined without clients. */
  sequenceOf(which: 'fastest' | 'slowest'): number | undefined {
    const further = which === 'fastest' ? Math.max : Math.min
    let found: number | undefined
    for (const { sequence } of this.#readers) found = further(sequence, found ?? sequence)
    return found
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
    let heldFrom = this.mirror?.heldFrom ?? Infinity
    for (const reader of this.#readers) heldFrom = Math.min(heldFrom, reader.heldFrom)
    return heldFrom
  }
}
