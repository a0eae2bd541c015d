import type { StreamAddress } from './store/store.ts'

// In a long outage every request leaves one. What is forgotten is lost after a lease, like that of a dead home.
const MAX_LIVES = 10_000

/** Lives that this instance has entered in the store, or may have, and whose handler it has not called. */
export class UnrunLives {
  // With their address where they shall not stay.
  readonly #lives = new Map<string, StreamAddress | undefined>()

  add(epoch: string): void {
    this.#lives.set(epoch, undefined)
    if (this.#lives.size > MAX_LIVES) this.#lives.delete(this.#lives.keys().next().value as string)
  }

  /** Nobody wants it to run any more. */
  disown(epoch: string, address: StreamAddress): void {
    if (this.#lives.has(epoch)) this.#lives.set(epoch, address)
  }

  /** Those that are to be taken back. */
  disowned(): [epoch: string, address: StreamAddress][] {
    return [...this.#lives].filter((life): life is [string, StreamAddress] => life[1] !== undefined)
  }

  delete(epoch: string): void {
    this.#lives.delete(epoch)
  }

  has(epoch: string): boolean {
    return this.#lives.has(epoch)
  }
}
