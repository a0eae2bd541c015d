import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from './clock.ts'
import { describeError, EventTooLargeError, type ClientError } from './errors.ts'
import { EventLog, type LogSlice } from './event-log.ts'
import { encodeValue, idLine, streamEndFrame, streamErrorFrame, type Encoding, type StreamOutcome } from './frame.ts'
import { logSafely } from './log-safely.ts'
import { Pace, type Reader } from './pace.ts'
import { Producer, type Frame, type ProducerSink, type Start } from './producer.ts'
import type { ReplayWindow } from './replay.ts'
import type { StreamSettings } from './settings.ts'
import type { QueueLinks } from './stream-queue.ts'
import type { Task, Turn } from './turn.ts'

/** What the streams of a registry share with it. */
export interface StreamHost {
  readonly clock: Clock
  readonly turn: Turn
  readonly abortTimeoutMs: number
  /** Makes room for so many further bytes of memory by removing finished streams; `false` where that is not enough. */
  makeRoom(bytes: number, keep: EventStream): boolean
  onHeldBytes(deltaBytes: number): void
  onAppended(): void
  onClientsChanged(stream: EventStream): void
  onFinished(stream: EventStream): void
  onReleased(stream: EventStream): void
  onExpired(stream: EventStream): void
}

/** What names a stream, fixed from its start. */
export interface StreamIdentity {
  readonly streamId: string
  readonly owner: string | undefined
  readonly epoch: string
  /** Of an unnamed stream: the route that made it, the only one that finds it by cursor. */
  readonly route: string | undefined
}

/** The most bytes that one write hands to a socket. */
export const MAX_SLICE_BYTES = 65_536

const ABORTED: ClientError = { code: 'STREAM_ABORTED', message: 'The stream was aborted' }
const EVICTED: ClientError = { code: 'STREAM_EVICTED', message: 'The stream was evicted' }

/** One run of a generator and its retained events, detached from any request. */
export class EventStream implements ProducerSink, Task {
  readonly streamId: string
  readonly owner: string | undefined
  readonly epoch: string
  readonly route: string | undefined
  readonly startedAt: number
  readonly log: EventLog
  /** Its place among the streams that give way; belongs to the registry. */
  readonly links: QueueLinks = { queue: undefined, previous: undefined, next: undefined }

  readonly #settings: StreamSettings
  readonly #host: StreamHost
  readonly #readers = new Set<Reader>()
  readonly #pace: Pace
  // Everything of the producer's side is dropped at the finish, or as soon as the generator has let go of us.
  #producer: Producer | undefined
  #encoding: Encoding | undefined
  #logger: FastifyBaseLogger | undefined
  #signal: AbortSignal | undefined

  #outcome: StreamOutcome | undefined
  #finishedAt: number | undefined
  #errorFrame: string | undefined
  #isCut = false
  // Aborted, and the generator has not closed yet.
  #isClosing = false
  #isRemoved = false
  #hadReader = false
  #attached = 0

  // At most one is pending: orphan timer while running without clients, abort timer while an aborted generator closes,
  // TTL timer once finished without clients. Only #arm and #disarm touch it.
  #timer: Timer | undefined
  // What the registry knows of log.heldBytes.
  #accountedBytes = 0
  #isFlushQueued = false
  // The slice that was read last: all clients at one position are given the same.
  #lastRead: LogSlice | undefined
  #lastReadFrom = -1

  constructor(identity: StreamIdentity, settings: StreamSettings, host: StreamHost) {
    this.streamId = identity.streamId
    this.owner = identity.owner
    this.epoch = identity.epoch
    this.route = identity.route
    this.#settings = settings
    this.#host = host
    this.log = new EventLog(settings.maxBytes)
    this.#pace = new Pace(settings, this.log, this.#readers)
    this.startedAt = host.clock.now()
  }

  get outcome(): StreamOutcome | undefined {
    return this.#outcome
  }

  get finishedAt(): number | undefined {
    return this.#finishedAt
  }

  get isFinished(): boolean {
    return this.#outcome !== undefined
  }

  /** Finished by a shutdown: its clients are not told that it is over, they shall come back. */
  get isCut(): boolean {
    return this.#isCut
  }

  /** Not found any more; clients that still read get the rest. */
  get isRemoved(): boolean {
    return this.#isRemoved
  }

  /** Whether its generator has not let go yet. */
  get hasProducer(): boolean {
    return this.#producer !== undefined
  }

  get clients(): number {
    return this.#readers.size
  }

  /** `stream-error` as it is sent, where the stream did not complete. */
  get errorFrame(): string | undefined {
    return this.#errorFrame
  }

  /** `stream-end` as it is sent; only of a finished stream. */
  get endFrame(): string {
    return streamEndFrame(this.#outcome as StreamOutcome, this.epoch)
  }

  get window(): ReplayWindow {
    return {
      epoch: this.epoch,
      firstSequence: this.log.firstSequence,
      lastSequence: this.log.lastSequence,
      isFinished: this.isFinished && !this.#isCut,
      hasError: this.#errorFrame !== undefined
    }
  }

  // ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Calls the handler; rethrows what it throws synchronously, and nothing was started then. With a signal that is aborted
   * already it is not called.
   */
  prepare(start: Start, signal: AbortSignal | undefined): void {
    this.#signal = signal
    if (signal?.aborted === true) return
    const producer = new Producer(this, this.#host.turn)
    producer.call(start)
    this.#producer = producer
  }

  /** Begins to pull, or finishes at once where its signal is aborted. The registry knows the stream by now. */
  start(encoding: Encoding, logger: FastifyBaseLogger): void {
    this.#encoding = encoding
    this.#logger = logger
    this.#signal?.addEventListener('abort', this.#onSignal)
    if (this.#signal?.aborted === true) return this.#onSignal()
    this.#rearm()
    this.#producer?.pull()
  }

  /** Gives back what `prepare` made, where the handler itself has started the stream of this name. */
  discard(): void {
    const producer = this.#producer
    this.#producer = undefined
    producer?.abort(abortReason('Another run of this stream was started first'))
    producer?.release()
  }

  #onSignal = (): void => {
    this.abort('aborted', 'Aborted by its signal', this.#signal?.reason)
  }

  // ── producer side ────────────────────────────────────────────────────────────────────────────────────────────────────

  encode(value: unknown): Frame {
    const text = encodeValue(value, this.#encoding as Encoding) + idLine(this.epoch, this.log.lastSequence + 1)
    const bytes = Buffer.byteLength(text)
    const { maxEventBytes } = this.#settings
    if (bytes > maxEventBytes) throw new EventTooLargeError(bytes, maxEventBytes)
    return { text, bytes }
  }

  tryAppend({ text, bytes }: Frame): boolean {
    const { log } = this
    if (this.#pace.isTooFarAhead(bytes) || !this.#hasMemoryFor(bytes)) return false
    log.append(text, bytes)
    log.trim(this.#settings.maxBytes, this.#settings.maxEvents)
    this.#lastRead = undefined
    this.#host.onAppended()
    this.#account()
    if (this.#readers.size > 0 || log.hasTrimmedSegments) this.#queueFlush()
    return true
  }

  // Finished streams give way first, then the own history; with a client that was promised everything, the producer waits.
  #hasMemoryFor(bytes: number): boolean {
    const { log } = this
    if (this.#fitsInMemory(bytes)) return true
    if (this.#pace.isPromisedAll) return false
    while (log.trimSegment()) {
      this.#release()
      if (this.#fitsInMemory(bytes)) return true
    }
    return true
  }

  #fitsInMemory(bytes: number): boolean {
    const growth = this.log.growthFor(bytes)
    return growth === 0 || this.#host.makeRoom(growth, this)
  }

  onDone(): void {
    this.#finish('completed')
  }

  onFailed(error: unknown): void {
    logSafely(this.#logger, 'error', error, { streamId: this.streamId }, 'stream failed')
    this.#finish('failed', describeError(error))
  }

  onCloseFailed(error: unknown): void {
    logSafely(this.#logger, 'warn', error, { streamId: this.streamId }, 'the generator threw while it was closed')
  }

  onReleased(): void {
    if (this.#producer === undefined) return
    this.#producer = undefined
    this.#host.onReleased(this)
    if (this.#outcome === undefined) return
    this.#logger = undefined
    this.#rearm()
  }

  /** Stops a running stream. Its clients are told at once; the generator may take `abortTimeout` to close. */
  abort(outcome: 'aborted' | 'evicted', reason: string, cause?: unknown): void {
    if (this.#outcome !== undefined) return
    const producer = this.#producer
    this.#finish(outcome, outcome === 'evicted' ? EVICTED : ABORTED)
    producer?.abort(abortReason(reason, cause))
  }

  /** Stops a running stream without a word to its clients: the shutdown tells them to come back. */
  cut(reason: string): void {
    if (this.#outcome !== undefined) return
    const producer = this.#producer
    this.#isCut = true
    this.#finish('aborted')
    producer?.abort(abortReason(reason))
  }

  // The one way out of running.
  #finish(outcome: StreamOutcome, error?: ClientError): void {
    if (this.#outcome !== undefined) return
    this.#outcome = outcome
    this.#finishedAt = this.#host.clock.now()
    if (error !== undefined) this.#errorFrame = streamErrorFrame(error, this.epoch, this.log.lastSequence + 1)
    this.#signal?.removeEventListener('abort', this.#onSignal)
    this.#signal = undefined
    this.#encoding = undefined
    this.#lastRead = undefined
    this.log.compact()
    this.#account()
    this.#logFinish(outcome)
    if (this.#producer === undefined) this.#logger = undefined
    this.#host.onFinished(this)
    if (this.#readers.size > 0) this.#queueFlush()
    this.#rearm()
  }

  #logFinish(outcome: StreamOutcome): void {
    const line = {
      streamId: this.streamId,
      outcome,
      events: this.log.lastSequence,
      bytes: this.log.endOffset,
      durationMs: Math.round((this.#finishedAt as number) - this.startedAt),
      clients: this.#attached
    }
    this.#logger?.info(line, 'stream finished')
  }

  // ── reader side ──────────────────────────────────────────────────────────────────────────────────────────────────────

  attach(reader: Reader): void {
    this.#readers.add(reader)
    this.#hadReader = true
    this.#attached += 1
    this.#pace.onAttached()
    this.#host.onClientsChanged(this)
    this.#rearm()
  }

  /** Idempotent, for whoever notices first that a client has left. */
  detach(reader: Reader): void {
    if (!this.#readers.delete(reader)) return
    this.#pace.onDetached(reader)
    if (this.#isRemoved) this.#clearIfUnread()
    this.#host.onClientsChanged(this)
    this.#rearm()
    this.onAdvanced()
  }

  /** The slice of the log that begins at `offset`. */
  read(offset: number): LogSlice {
    if (this.#lastRead === undefined || this.#lastReadFrom !== offset) {
      this.#lastRead = this.log.read(offset, MAX_SLICE_BYTES)
      this.#lastReadFrom = offset
    }
    return this.#lastRead
  }

  /** A reader moved on: the producer may have room, and memory may come free. */
  onAdvanced(): void {
    if (this.#producer?.isWaiting === true || this.log.hasTrimmedSegments) this.#queueFlush()
  }

  #queueFlush(): void {
    if (this.#isFlushQueued) return
    this.#isFlushQueued = true
    this.#host.turn.atEnd(this)
  }

  /** Brings every reader what is new, then lets the producer go on. */
  run(): void {
    this.#isFlushQueued = false
    for (const reader of this.#readers) reader.pump()
    if (this.log.hasTrimmedSegments) this.#release()
    this.#producer?.resume()
  }

  // ── memory and time ──────────────────────────────────────────────────────────────────────────────────────────────────

  #release(): void {
    let heldFrom = Infinity
    for (const reader of this.#readers) heldFrom = Math.min(heldFrom, reader.heldFrom)
    this.log.release(heldFrom)
    this.#account()
  }

  #account(): void {
    const { heldBytes } = this.log
    if (heldBytes === this.#accountedBytes) return
    this.#host.onHeldBytes(heldBytes - this.#accountedBytes)
    this.#accountedBytes = heldBytes
  }

  #clearIfUnread(): void {
    if (this.#readers.size > 0) return
    this.#lastRead = undefined
    this.log.clear()
    this.#account()
  }

  /** The registry does not know the stream any more. */
  onRemoved(): void {
    this.#isRemoved = true
    this.#clearIfUnread()
    this.#rearm()
  }

  // Decides which timer the state asks for. An abort timer runs to its end, whoever comes and goes meanwhile.
  #rearm(): void {
    if (this.#outcome === undefined) {
      if (!this.#isRemoved) this.#armOrphanTimer()
    } else if (this.#producer === undefined) this.#armTtlTimer()
    else if (!this.#isClosing) {
      this.#isClosing = true
      this.#arm(this.#host.abortTimeoutMs, this.#onAbortTimeout)
    }
  }

  #armOrphanTimer(): void {
    this.#disarm()
    const { orphanTimeoutMs } = this.#settings
    if (this.#readers.size > 0 || orphanTimeoutMs === Infinity) return
    if (orphanTimeoutMs > 0) this.#arm(orphanTimeoutMs, this.#onOrphaned)
    else if (this.#hadReader) this.#onOrphaned()
  }

  #armTtlTimer(): void {
    this.#disarm()
    if (this.#readers.size > 0 || this.#isRemoved) return
    if (this.#settings.ttlMs > 0) this.#arm(this.#settings.ttlMs, this.#onExpired)
    else this.#onExpired()
  }

  #arm(delayMs: number, callback: () => void): void {
    this.#disarm()
    this.#timer = this.#host.clock.setTimer(callback, delayMs)
  }

  #disarm(): void {
    if (this.#timer === undefined) return
    this.#host.clock.clearTimer(this.#timer)
    this.#timer = undefined
  }

  #onOrphaned = (): void => this.abort('aborted', 'No client came back in time')

  #onExpired = (): void => this.#host.onExpired(this)

  #onAbortTimeout = (): void => this.letGo()

  /** Lets go of a generator that has been told to close and has not. */
  letGo(): void {
    if (this.#producer === undefined) return
    this.#logger?.warn({ streamId: this.streamId }, 'the generator did not close within abortTimeout and was let go')
    this.#producer.release()
  }
}

function abortReason(message: string, cause?: unknown): DOMException {
  return new DOMException(message, cause === undefined ? { name: 'AbortError' } : { name: 'AbortError', cause })
}
