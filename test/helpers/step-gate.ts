import { EventEmitter, once } from 'node:events'

/** Lets a generator go on step by step: a test decides how many events exist, instead of sleeping. */
export class StepGate {
  readonly #released = new EventEmitter()
  #allowed = 0
  #taken = 0

  /** How many steps have passed. */
  get taken(): number {
    return this.#taken
  }

  /** Lets `count` further steps pass. */
  release(count: number): void {
    this.#allowed += count
    this.#released.emit('release')
  }

  /** Resolves when a step is allowed; rejects when `signal` aborts. */
  async pass(signal: AbortSignal): Promise<void> {
    while (this.#taken >= this.#allowed) await once(this.#released, 'release', { signal })
    this.#taken++
  }
}
