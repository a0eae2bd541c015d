import type { Clock, Timer } from './clock.ts'
import type { StreamSettings } from './settings.ts'

/** What the time that a stream has depends on, and what is done with it when it is over. */
export interface Mortal {
  readonly settings: StreamSettings
  readonly isHome: boolean
  readonly isFinished: boolean
  readonly isRemoved: boolean
  /** Whether it is being filled for somebody who is about to attach. */
  readonly isLoading: boolean
  /** Whether its generator has not let go. */
  readonly isHeld: boolean
  /** Attached responses in this process. */
  readonly clients: number
  /** Whether it has, or had, clients anywhere. */
  readonly hasClients: boolean
  readonly hadClients: boolean
  /** Aborts a running stream that nobody came back to. */
  abortOrphan(): void
  /** Lets go of a generator that was told to close and has not. */
  letGo(): void
  /** Has it removed. */
  expire(): void
}

/**
 * The one timer of a stream: the orphan timer while it runs without clients, the abort timer while an aborted generator
 * closes, the TTL timer once it has finished and has no clients.
 */
export class Lifetime {
  readonly #stream: Mortal
  readonly #clock: Clock
  readonly #abortTimeoutMs: number
  #timer: Timer | undefined
  // Aborted, and the generator has not closed yet.
  #isClosing = false

  constructor(stream: Mortal, clock: Clock, abortTimeoutMs: number) {
    this.#stream = stream
    this.#clock = clock
    this.#abortTimeoutMs = abortTimeoutMs
  }

  /** Decides which timer the state asks for. An abort timer runs to its end, whoever comes and goes meanwhile. */
  update(): void {
    const stream = this.#stream
    if (!stream.isHome) this.#armTtlTimer()
    else if (!stream.isFinished) {
      if (!stream.isRemoved) this.#armOrphanTimer()
    } else if (!stream.isHeld) this.#armTtlTimer()
    else if (!this.#isClosing) {
      this.#isClosing = true
      this.#arm(this.#abortTimeoutMs, () => stream.letGo())
    }
  }

  /** The generator has let go. */
  onReleased(): void {
    if (this.#isClosing) this.update()
  }

  #armOrphanTimer(): void {
    this.#disarm()
    const { orphanTimeoutMs } = this.#stream.settings
    if (this.#stream.hasClients || orphanTimeoutMs === Infinity) return
    if (orphanTimeoutMs > 0) this.#arm(orphanTimeoutMs, () => this.#stream.abortOrphan())
    else if (this.#stream.hadClients) this.#stream.abortOrphan()
  }

  #armTtlTimer(): void {
    this.#disarm()
    if (this.#stream.clients > 0 || this.#stream.isRemoved || this.#stream.isLoading) return
    const { ttlMs } = this.#stream.settings
    if (ttlMs > 0) this.#arm(ttlMs, () => this.#stream.expire())
    else this.#stream.expire()
  }

  #arm(delayMs: number, callback: () => void): void {
    this.#disarm()
    this.#timer = this.#clock.setTimer(callback, delayMs)
  }

  #disarm(): void {
    if (this.#timer === undefined) return
    this.#clock.clearTimer(this.#timer)
    this.#timer = undefined
  }
}
