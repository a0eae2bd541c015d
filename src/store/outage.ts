import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../clock.ts'
import { StoreInvalidError } from '../errors.ts'
import { logSafely } from '../log-safely.ts'

/**
 * Tells the log that the store does not do its work: a warning when that begins, one line when it is over, and in between
 * an error where somebody has to change something first. It is over when nothing has failed for `quietMs`, since a store in trouble often answers this and refuses that.
 */
export class Outage {
  readonly #clock: Clock
  readonly #log: FastifyBaseLogger
  readonly #quietMs: number
  #began: number | undefined
  #lastFailure = 0
  #isHopeless = false

  constructor(clock: Clock, log: FastifyBaseLogger, quietMs: number) {
    this.#clock = clock
    this.#log = log
    this.#quietMs = quietMs
  }

  onFailure(error: Error): void {
    this.#lastFailure = this.#clock.now()
    if (this.#began === undefined) {
      this.#began = this.#lastFailure
      logSafely(this.#log, 'warn', {}, 'the store does not answer; it is tried again until it does', error)
    }
    if (this.#isHopeless || !(error instanceof StoreInvalidError)) return
    this.#isHopeless = true
    logSafely(this.#log, 'error', {}, 'the store will not do as it is', error)
  }

  onAnswer(): void {
    if (this.#began === undefined || this.#clock.now() - this.#lastFailure < this.#quietMs) return
    const outageMs = Math.round(this.#lastFailure - this.#began)
    this.#began = undefined
    this.#isHopeless = false
    logSafely(this.#log, 'info', { outageMs }, 'the store answers again')
  }
}
