import type { FastifyBaseLogger } from 'fastify'
import { describeError, EventTooLargeError, type ClientError } from './errors.ts'
import type { Feeder } from './feeder.ts'
import { encodeValue, idLine, type Encoding } from './frame.ts'
import { logSafely } from './log-safely.ts'
import { Producer, type Frame, type ProducerSink, type Start } from './producer.ts'
import type { SignalWatch } from './signal-watch.ts'
import type { Turn } from './turn.ts'

/** What a run fills. */
export interface RunTarget {
  readonly streamId: string
  readonly epoch: string
  readonly nextSequence: number
  readonly maxEventBytes: number
  tryAppend(frame: Frame): boolean
  onCompleted(): void
  onFailed(error: ClientError): void
  /** The signal of the user fired. */
  onSignal(reason: unknown): void
  /** The generator has let go, or was let go. */
  onReleased(): void
}

/** What runs share. */
export interface RunHost {
  readonly turn: Turn
  readonly signals: SignalWatch
}

/**
 * One run of a handler: its generator, and all that a stream holds for no longer than that lives (signal, `map` and
 * `serialize`, the logger of the request).
 */
export class Run implements Feeder, ProducerSink {
  readonly #target: RunTarget
  readonly #producer: Producer
  readonly #encoding: Encoding
  readonly #signal: AbortSignal | undefined
  readonly #signals: SignalWatch
  readonly #logger: FastifyBaseLogger

  constructor(
    target: RunTarget,
    encoding: Encoding,
    signal: AbortSignal | undefined,
    logger: FastifyBaseLogger,
    { turn, signals }: RunHost
  ) {
    this.#target = target
    this.#encoding = encoding
    this.#signal = signal
    this.#logger = logger
    this.#signals = signals
    this.#producer = new Producer(this, turn)
  }

  /** Whether a frame waits for room. */
  get isWaiting(): boolean {
    return this.#producer.isWaiting
  }

  /** Whether the generator has let go. */
  get isReleased(): boolean {
    return this.#producer.isReleased
  }

  /** Calls the handler, unless its signal is aborted already. Rethrows what it throws synchronously. */
  call(start: Start): void {
    if (this.#signal?.aborted !== true) this.#producer.call(start)
  }

  /** Begins to pull, or reports the signal that is aborted already. */
  begin(): void {
    const signal = this.#signal
    if (signal?.aborted === true) return this.#onSignal()
    if (signal !== undefined) this.#signals.watch(signal, this.#onSignal)
    this.#producer.pull()
  }

  resume(): void {
    this.#producer.resume()
  }

  /** The stream has finished; only the generator may still have to close. */
  finish(line: object): void {
    if (this.#signal !== undefined) this.#signals.unwatch(this.#signal, this.#onSignal)
    logSafely(this.#logger, 'info', line, 'stream finished')
  }

  abort(reason: DOMException): void {
    this.#producer.abort(reason)
  }

  /** Lets go of a generator that was told to close and has not. */
  letGo(): void {
    if (this.isReleased) return
    const { streamId } = this.#target
    logSafely(this.#logger, 'warn', { streamId }, 'the generator did not close within abortTimeout and was let go')
    this.#producer.release()
  }

  #onSignal = (): void => this.#target.onSignal(this.#signal?.reason)

  encode(value: unknown): Frame {
    const { epoch, nextSequence, maxEventBytes } = this.#target
    const text = encodeValue(value, this.#encoding) + idLine(epoch, nextSequence)
    const bytes = Buffer.byteLength(text)
    if (bytes > maxEventBytes) throw new EventTooLargeError(bytes, maxEventBytes)
    return { text, bytes }
  }

  tryAppend(frame: Frame): boolean {
    return this.#target.tryAppend(frame)
  }

  onDone(): void {
    this.#target.onCompleted()
  }

  onFailed(error: unknown): void {
    logSafely(this.#logger, 'error', { streamId: this.#target.streamId }, 'stream failed', error)
    this.#target.onFailed(describeError(error))
  }

  onCloseFailed(error: unknown): void {
    const { streamId } = this.#target
    logSafely(this.#logger, 'warn', { streamId }, 'the generator threw while it was closed', error)
  }

  onReleased(): void {
    this.#target.onReleased()
  }
}
