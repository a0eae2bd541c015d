// In a long outage every request leaves one. What is forgotten is lost after a lease, like that of a dead home.
const MAX_LIVES = 10_000

/** Lives that this instance has entered in the store, or may have, and whose handler it has not called. */
export class UnrunLives {
  readonly #epochs = new Set<string>()

  add(epoch: string): void {
    this.#epochs.add(epoch)
    if (this.#epochs.size > MAX_LIVES) this.#epochs.delete(this.#epochs.values().next().value as string)
  }

  delete(epoch: string): void {
    this.#epochs.delete(epoch)
  }

  has(epoch: string): boolean {
    return this.#epochs.has(epoch)
  }
}
