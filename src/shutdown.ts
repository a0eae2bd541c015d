import type { Clock, Timer } from './clock.ts'
import type { EventStream } from './event-stream.ts'
import type { RegistrySettings } from './settings.ts'
import type { Subscriber } from './subscriber.ts'

/** What a shutdown ends. */
export interface ShutdownTarget {
  readonly clock: Clock
  readonly subscribers: ReadonlySet<Subscriber>
  /** Streams that have not finished. */
  readonly running: number
  /** Streams whose generator has not let go. */
  readonly producers: number
  allStreams(): EventStream[]
  /** Forgets everything. */
  clear(): void
}

/** How long clients have to take what they are sent at the end of a shutdown, in milliseconds. */
export const FLUSH_TIMEOUT_MS = 1_000

// A client that comes back while the port is still ours, or nobody's, was sent away for nothing.
const RETURN_MARGIN_MS = 1_000

/** The longest that `close()` takes, in milliseconds. */
export function shutdownBudgetMs(settings: RegistrySettings): number {
  return settings.drainTimeoutMs + settings.abortTimeoutMs + FLUSH_TIMEOUT_MS
}

/** Ends a registry within a bound: drain, abort, send the clients away, destroy who does not go, forget. */
export class Shutdown {
  readonly #registry: ShutdownTarget
  readonly #settings: RegistrySettings
  #closing: Promise<void> | undefined
  #deadline = 0
  // What the current phase waits for.
  #check: (() => void) | undefined

  constructor(registry: ShutdownTarget, settings: RegistrySettings) {
    this.#registry = registry
    this.#settings = settings
  }

  get hasBegun(): boolean {
    return this.#closing !== undefined
  }

  get returnAfterMs(): number {
    if (this.#closing === undefined) return 0
    return Math.max(0, this.#deadline - this.#registry.clock.now()) + RETURN_MARGIN_MS
  }

  close(): Promise<void> {
    if (this.#closing !== undefined) return this.#closing
    this.#endWithin(shutdownBudgetMs(this.#settings))
    this.#closing = this.#run()
    return this.#closing
  }

  /** Something finished, was released or left. */
  onProgress(): void {
    this.#check?.()
  }

  async #run(): Promise<void> {
    const registry = this.#registry
    const { drainTimeoutMs, abortTimeoutMs } = this.#settings
    await this.#waitUntil(() => registry.running === 0, drainTimeoutMs)
    this.#endWithin(abortTimeoutMs + FLUSH_TIMEOUT_MS)
    for (const stream of registry.allStreams()) stream.cut('Server shutdown')
    await this.#waitUntil(() => registry.producers === 0, abortTimeoutMs)
    this.#endWithin(FLUSH_TIMEOUT_MS)
    for (const stream of registry.allStreams()) stream.letGo()
    for (const subscriber of registry.subscribers) subscriber.sendAway(this.returnAfterMs)
    await this.#waitUntil(() => registry.subscribers.size === 0, FLUSH_TIMEOUT_MS)
    for (const subscriber of registry.subscribers) subscriber.destroy()
    registry.clear()
  }

  // What a phase did not need is not waited for by those who are sent away after it.
  #endWithin(budgetMs: number): void {
    this.#deadline = this.#registry.clock.now() + budgetMs
  }

  #waitUntil(isDone: () => boolean, timeoutMs: number): Promise<void> {
    if (timeoutMs === 0 || isDone()) return Promise.resolve()
    return new Promise((resolve) => {
      const finish = (): void => {
        this.#registry.clock.clearTimer(timer)
        this.#check = undefined
        resolve()
      }
      const timer: Timer = this.#registry.clock.setTimer(finish, timeoutMs, true)
      this.#check = () => {
        if (isDone()) finish()
      }
    })
  }
}
