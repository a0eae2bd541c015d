import type { Clock, Timer } from '../../src/clock.ts'

interface ManualTimer {
  readonly callback: () => void
  readonly dueAt: number
}

/** A clock that moves only when a test says so. */
export class ManualClock implements Clock {
  #now = 1_000_000
  // In the order of creation: of two timers that are due at the same time, the older one fires first.
  readonly #timers = new Set<ManualTimer>()

  /** How many timers are armed. */
  get pending(): number {
    return this.#timers.size
  }

  /** How long until the next timer fires, `undefined` if none is armed. */
  get nextIn(): number | undefined {
    const timer = this.#earliest()
    return timer && timer.dueAt - this.#now
  }

  now(): number {
    return this.#now
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const timer = { callback, dueAt: this.#now + delayMs }
    this.#timers.add(timer)
    return timer
  }

  clearTimer(timer: Timer): void {
    this.#timers.delete(timer as ManualTimer)
  }

  /** Moves on by `ms` and fires what is due on the way, in order, each at its own time. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (let timer = this.#earliest(); timer && timer.dueAt <= end; timer = this.#earliest()) {
      this.#timers.delete(timer)
      this.#now = Math.max(this.#now, timer.dueAt)
      timer.callback()
    }
    this.#now = end
  }

  #earliest(): ManualTimer | undefined {
    let earliest: ManualTimer | undefined
    for (const timer of this.#timers) {
      if (earliest === undefined || timer.dueAt < earliest.dueAt) earliest = timer
    }
    return earliest
  }
}
