import type { Clock, Timer } from '../clock.ts'

interface Waiting {
  readonly dueAt: number
  readonly reject: (reason: Error) => void
}

/** Bounds calls that may all take the same time. There can be one for each event, so they share one timer. */
export class Deadlines {
  readonly #clock: Clock
  readonly #timeoutMs: number
  // In the order in which they are due.
  readonly #waiting = new Set<Waiting>()
  #timer: Timer | undefined

  constructor(clock: Clock, timeoutMs: number) {
    this.#clock = clock
    this.#timeoutMs = timeoutMs
  }

  /** Settles as `run` does, or rejects when its time is up. */
  within<T>(run: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const waiting = { dueAt: this.#clock.now() + this.#timeoutMs, reject }
      this.#waiting.add(waiting)
      this.#timer ??= this.#clock.setTimer(this.#onTimer, this.#timeoutMs)
      const isInTime = (): boolean => this.#waiting.delete(waiting)
      run().then(
        (value) => isInTime() && resolve(value),
        (reason: unknown) => isInTime() && reject(reason)
      )
    })
  }

  /** Whoever waits keeps its deadline; without anybody no timer stays behind. */
  close(): void {
    if (this.#waiting.size > 0 || this.#timer === undefined) return
    this.#clock.clearTimer(this.#timer)
    this.#timer = undefined
  }

  readonly #onTimer = (): void => {
    this.#timer = undefined
    const now = this.#clock.now()
    for (const waiting of this.#waiting) {
      if (waiting.dueAt > now) {
        this.#timer = this.#clock.setTimer(this.#onTimer, Math.ceil(waiting.dueAt - now))
        return
      }
      this.#waiting.delete(waiting)
      waiting.reject(new Error(`no answer within ${this.#timeoutMs} ms`))
    }
  }
}
