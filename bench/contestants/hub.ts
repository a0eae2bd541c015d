import type { Writable } from 'node:stream'

/** What a keep-alive comment looks like where the contestant leaves it to its user. */
export const HEARTBEAT = ':\n\n'

/** Bytes that Node lets a socket queue before `write` says no, the pace of every hand-written broadcast. */
const HIGH_WATER_MARK = 16_384

/** Waits until the writable takes more, or will never. */
export function drained(writable: Writable): Promise<void> {
  return new Promise((resolve) => {
    if (!writable.writableNeedDrain) return resolve()
    const settle = (): void => {
      writable.off('drain', settle)
      writable.off('close', settle)
      resolve()
    }
    writable.on('drain', settle)
    writable.on('close', settle)
  })
}

/**
 * The back pressure of a broadcast through a library that has none: without it a flat-out producer would fill the
 * memory, and the process would be measured while it swaps.
 */
export class Gate {
  #bytes = 0

  /** Resolves when every response has taken what was sent so far; at once until the socket's limit is reached. */
  async passed(bytes: number, responses: () => Iterable<Writable>): Promise<void> {
    this.#bytes += bytes
    if (this.#bytes < HIGH_WATER_MARK) return
    this.#bytes = 0
    await new Promise((resolve) => setImmediate(resolve))
    await Promise.all(Array.from(responses(), drained))
  }
}
