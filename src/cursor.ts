import { hash, randomFillSync } from 'node:crypto'

/**
 * What a client says it has: the event id it received last.
 *
 * - `none`: it says nothing.
 * - `position`: everything up to `sequence` of the stream of this epoch.
 * - `terminal`: a whole stream, its end included.
 * - `malformed`: it says something that is no event id.
 */
export type Cursor =
  | { readonly kind: 'none' }
  | { readonly kind: 'position'; readonly epoch: string; readonly sequence: number }
  | { readonly kind: 'terminal'; readonly epoch: string }
  | { readonly kind: 'malformed' }

const NONE: Cursor = { kind: 'none' }
const MALFORMED: Cursor = { kind: 'malformed' }

const MAX_CURSOR_BYTES = 128

// No leading zeros and at most 15 digits: every event id has one spelling, and a sequence is always a safe integer.
const EVENT_ID = /^([A-Za-z0-9_-]+)\.(?:(0|[1-9][0-9]{0,14})|end)$/

/**
 * Reads a `Last-Event-ID`, from the header or from wherever the application keeps it. Never throws: a repeated header, a
 * value of another type, or anything that this plugin did not write is `malformed`; `undefined` and `''` are `none`.
 */
export function parseCursor(value: unknown): Cursor {
  if (value === undefined || value === '') return NONE
  if (typeof value !== 'string' || value.length > MAX_CURSOR_BYTES) return MALFORMED
  const match = EVENT_ID.exec(value)
  if (match === null) return MALFORMED
  const epoch = match[1] as string
  const sequence = match[2]
  return sequence === undefined ? { kind: 'terminal', epoch } : { kind: 'position', epoch, sequence: Number(sequence) }
}

/** Makes the epochs of a registry. */
export class Epochs {
  // Random bytes are fetched from the operating system many at a time: one by one they would be the dearest part of a
  // short stream. No byte is used twice.
  readonly #random = Buffer.alloc(RANDOM_POOL_BYTES)
  #used = RANDOM_POOL_BYTES

  /** The tag of one life of a named stream: enough to tell two lives apart. */
  createEpoch(): string {
    return this.#take(6)
  }

  /** The tag of an unnamed stream. It is the capability to resume it, hence 128 random bits. */
  createSecretEpoch(): string {
    return this.#take(16)
  }

  #take(bytes: number): string {
    if (this.#used + bytes > RANDOM_POOL_BYTES) {
      randomFillSync(this.#random)
      this.#used = 0
    }
    this.#used += bytes
    return this.#random.toString('base64url', this.#used - bytes, this.#used)
  }
}

const RANDOM_POOL_BYTES = 4_096

/**
 * The public id of an unnamed stream: a cursor leads to it without a second index, and it does not reveal the epoch.
 */
export function streamIdOfEpoch(epoch: string): string {
  return hash('sha256', epoch, 'buffer').toString('base64url', 0, 16)
}
