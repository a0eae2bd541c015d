import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from './clock.ts'
import type { ClientError } from './errors.ts'
import { EventLog, type LogSlice } from './event-log.ts'
import { streamEndFrame, streamErrorFrame, type Encoding, type StreamOutcome } from './frame.ts'
import { LogMemory, type MemoryBudget } from './log-memory.ts'
import type { Reader } from './pace.ts'
import type { Frame, Start } from './producer.ts'
import { Readers } from './readers.ts'
import type { ReplayWindow } from './replay.ts'
import { Run, type RunHost, type RunTarget } from './run.ts'
import type { StreamSettings } from './settings.ts'
import type { QueueLinks } from './stream-queue.ts'
import type { Task } from './turn.ts'

/** What the streams of a registry share with it. */
export interface StreamHost extends MemoryBudget, RunHost {
  readonly clock: Clock
  readonly abortTimeoutMs: number
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

const ABORTED: ClientError = { code: 'STREAM_ABORTED', message: 'The stream was aborted' }
const EVICTED: ClientError = { code: 'STREAM_EVICTED', message: 'The stream was evicted' }

/** One run of a generator and its retained events, detached from any request. */
export class EventStream implements RunTarget, Task {
  readonly streamId: string
  readonly owner: string | undefined
  readonly epoch: string
  readonly route: string | undefined
  readonly startedAt: number
  readonly log: EventLog
  /** Its place among the streams that give way; belongs to the registry. */
  readonly links: QueueLinks<EventStream> = { queue: undefined, previous: undefined, next: undefined }

  readonly #settings: StreamSettings
  readonly #host: StreamHost
  readonly #readers: Readers
  readonly #memory: LogMemory
  // From the call of the handler until its generator has let go.
  #run: Run | undefined

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
  #isFlushQueued = false

  constructor(identity: StreamIdentity, settings: StreamSettings, host: StreamHost) {
    this.streamId = identity.streamId
    this.owner = identity.owner
    this.epoch = identity.epoch
    this.route = identity.route
    this.#settings = settings
    this.#host = host
    this.log = new EventLog(settings.maxBytes)
    this.#readers = new Readers(settings, this.log)
    this.#memory = new LogMemory(this.log, this.#readers, host)
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
  get isHeld(): boolean {
    return this.#run !== undefined && !this.#run.isReleased
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

  /** Calls the handler; rethrows what it throws synchronously, and nothing was started then. */
  prepare(start: Start, encoding: Encoding, signal: AbortSignal | undefined, logger: FastifyBaseLogger): void {
    const run = new Run(this, encoding, signal, logger, this.#host)
    run.call(start)
    this.#run = run
  }

  /** Begins to pull. The registry knows the stream by now. */
  start(): void {
    this.#rearm()
    this.#run?.begin()
  }

  /** Gives back what `prepare` made, where the handler itself has started the stream of this name. */
  discard(): void {
    const run = this.#run
    this.#run = undefined
    run?.abort(abortReason('Another run of this stream was started first'))
  }

  // ── producer side ────────────────────────────────────────────────────────────────────────────────────────────────────

  get nextSequence(): number {
    return this.log.lastSequence + 1
  }

  get maxEventBytes(): number {
    return this.#settings.maxEventBytes
  }

  tryAppend({ text, bytes }: Frame): boolean {
    const { log } = this
    if (this.#readers.pace.isTooFarAhead(bytes) || !this.#memory.makeRoomFor(bytes)) return false
    log.append(text, bytes)
    log.trim(this.#settings.maxBytes, this.#settings.maxEvents)
    this.#readers.forgetSlice()
    this.#host.onAppended()
    this.#memory.account()
    if (this.#readers.size > 0 || log.hasTrimmedSegments) this.pumpAtEndOfTurn()
    return true
  }

  onCompleted(): void {
    this.#finish('completed')
  }

  onFailed(error: ClientError): void {
    this.#finish('failed', error)
  }

  onSignal(reason: unknown): void {
    this.abort('aborted', 'Aborted by its signal', reason)
  }

  onReleased(): void {
    if (this.#run === undefined) return
    this.#run = undefined
    this.#host.onReleased(this)
    if (this.#isClosing) this.#rearm()
  }

  /** Stops a running stream. Its clients are told at once; the generator may take `abortTimeout` to close. */
  abort(outcome: 'aborted' | 'evicted', reason: string, cause?: unknown): void {
    if (this.#outcome !== undefined) return
    this.#finish(outcome, outcome === 'evicted' ? EVICTED : ABORTED)
    this.#run?.abort(abortReason(reason, cause))
  }

  /** Stops a running stream without a word to its clients: the shutdown tells them to come back. */
  cut(reason: string): void {
    if (this.#outcome !== undefined) return
    this.#isCut = true
    this.#finish('aborted')
    this.#run?.abort(abortReason(reason))
  }

  // The one way out of running.
  #finish(outcome: StreamOutcome, error?: ClientError): void {
    if (this.#outcome !== undefined) return
    this.#outcome = outcome
    this.#finishedAt = this.#host.clock.now()
    if (error !== undefined) this.#errorFrame = streamErrorFrame(error, this.epoch, this.log.lastSequence + 1)
    this.#readers.forgetSlice()
    this.#settleMemory()
    this.#host.onFinished(this)
    if (this.#readers.size > 0) this.pumpAtEndOfTurn()
    this.#rearm()
    this.#run?.finish(this.#summary(outcome))
  }

  #settleMemory(): void {
    this.log.compact()
    this.#memory.account()
    // An eviction may have to wait for its abort, and the generator appends until then.
    if (this.#isRemoved) this.#memory.clearIfUnread()
  }

  // Never a payload, a cursor or an epoch: it goes into a log.
  #summary(outcome: StreamOutcome): object {
    return {
      streamId: this.streamId,
      outcome,
      events: this.log.lastSequence,
      bytes: this.log.endOffset,
      durationMs: Math.round((this.#finishedAt as number) - this.startedAt),
      clients: this.#attached
    }
  }

  // ── reader side ──────────────────────────────────────────────────────────────────────────────────────────────────────

  attach(reader: Reader): void {
    this.#readers.add(reader)
    this.#hadReader = true
    this.#attached += 1
    this.#host.onClientsChanged(this)
    this.#rearm()
  }

  /** Idempotent, for whoever notices first that a client has left. */
  detach(reader: Reader): void {
    if (!this.#readers.delete(reader)) return
    if (this.#isRemoved) this.#memory.clearIfUnread()
    this.#host.onClientsChanged(this)
    this.#rearm()
    this.onAdvanced()
  }

  /** The slice of the log that begins at `offset`, for this turn. */
  read(offset: number, maxBytes: number): LogSlice {
    this.pumpAtEndOfTurn()
    return this.#readers.read(offset, maxBytes)
  }

  /** A reader moved on: the producer may have room, and memory may come free. */
  onAdvanced(): void {
    if (this.#run?.isWaiting === true || this.log.hasTrimmedSegments) this.pumpAtEndOfTurn()
  }

  /** Brings every reader what there is by the end of this turn. */
  pumpAtEndOfTurn(): void {
    if (this.#isFlushQueued) return
    this.#isFlushQueued = true
    this.#host.turn.atEnd(this)
  }

  /** Brings every reader what is new, then lets the producer go on. */
  run(): void {
    this.#readers.pump()
    this.#isFlushQueued = false
    this.#readers.forgetSlice()
    this.#memory.release()
    this.#run?.resume()
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The registry does not know the stream any more. */
  onRemoved(): void {
    this.#isRemoved = true
    this.#memory.clearIfUnread()
    this.#rearm()
  }

  // Decides which timer the state asks for. An abort timer runs to its end, whoever comes and goes meanwhile.
  #rearm(): void {
    if (this.#outcome === undefined) {
      if (!this.#isRemoved) this.#armOrphanTimer()
    } else if (!this.isHeld) this.#armTtlTimer()
    else if (!this.#isClosing) {
      this.#isClosing = true
      this.#arm(this.#host.abortTimeoutMs, () => this.letGo())
    }
  }

  #armOrphanTimer(): void {
    this.#disarm()
    const { orphanTimeoutMs } = this.#settings
    if (this.#readers.size > 0 || orphanTimeoutMs === Infinity) return
    if (orphanTimeoutMs > 0) this.#arm(orphanTimeoutMs, () => this.#abortOrphan())
    else if (this.#hadReader) this.#abortOrphan()
  }

  #armTtlTimer(): void {
    this.#disarm()
    if (this.#readers.size > 0 || this.#isRemoved) return
    if (this.#settings.ttlMs > 0) this.#arm(this.#settings.ttlMs, () => this.#host.onExpired(this))
    else this.#host.onExpired(this)
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

  #abortOrphan(): void {
    this.abort('aborted', 'No client came back in time')
  }

  /** Lets go of a generator that was told to close and has not. */
  letGo(): void {
    this.#run?.letGo()
  }
}

function abortReason(message: string, cause?: unknown): DOMException {
  return new DOMException(message, cause === undefined ? { name: 'AbortError' } : { name: 'AbortError', cause })
}
