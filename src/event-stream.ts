import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from './clock.ts'
import type { ClientError } from './errors.ts'
import { EventLog, type Batch, type LogSlice } from './event-log.ts'
import type { Feeder } from './feeder.ts'
import {
  streamEndFrame,
  streamErrorFrame,
  streamLostFrame,
  type Encoding,
  type Finish,
  type StreamOutcome
} from './frame.ts'
import { Lifetime, type Mortal } from './lifetime.ts'
import { LogWriter, type MemoryBudget } from './log-writer.ts'
import type { ClientReader } from './pace.ts'
import type { Frame, Start } from './producer.ts'
import { Readers } from './readers.ts'
import { endOf, type ReplayWindow } from './replay.ts'
import { Run, type RunHost, type RunTarget } from './run.ts'
import type { StreamSettings } from './settings.ts'
import type { QueueLinks } from './stream-queue.ts'
import type { Task } from './turn.ts'

/** What the streams of a registry share with it. */
export interface StreamHost extends MemoryBudget, RunHost {
  readonly clock: Clock
  readonly abortTimeoutMs: number
  onAppended(): void
  /** Its producer waits for memory that other streams hold. */
  onStarved(stream: EventStream): void
  /** A client has come (1) or left (-1), or the mirror is through (0). */
  onClientsChanged(stream: EventStream, change: 1 | 0 | -1): void
  onFinished(stream: EventStream): void
  onReleased(stream: EventStream): void
  onExpired(stream: EventStream): void
}

/** Where a stream came from that runs on another instance. */
export interface Origin {
  /** Oldest event that is to be had. */
  readonly firstSequence: number
}

/** What names a stream, fixed from its start. */
export interface StreamIdentity {
  readonly streamId: string
  readonly owner: string | undefined
  readonly epoch: string
  /** Of an unnamed stream: the route that made it, the only one that finds it by cursor. */
  readonly route: string | undefined
  /** Milliseconds since the Unix epoch. */
  readonly startedAt: number
}

const ABORTED: ClientError = { code: 'STREAM_ABORTED', message: 'The stream was aborted' }
const EVICTED: ClientError = { code: 'STREAM_EVICTED', message: 'The stream was evicted' }
const LOST: ClientError = { code: 'STREAM_LOST', message: 'The server that produced this stream is gone' }

/**
 * One run of a generator and its retained events, detached from any request. Where the generator runs it is a home, on
 * other instances a replica.
 */
export class EventStream implements Mortal, RunTarget, Task {
  readonly streamId: string
  readonly owner: string | undefined
  readonly epoch: string
  readonly route: string | undefined
  readonly startedAt: number
  /** Whether its generator runs, or ran, in this process. */
  readonly isHome: boolean
  readonly settings: StreamSettings
  readonly log: EventLog
  /** Who reads it: clients, and the mirror. */
  readonly readers: Readers
  /** Its place among the streams that give way; belongs to the registry. */
  readonly links: QueueLinks<EventStream> = { queue: undefined, previous: undefined, next: undefined }

  readonly #host: StreamHost
  readonly #writer: LogWriter
  readonly #lifetime: Lifetime
  // Of a home: from the call of the handler until its generator has let go.
  #feeder: Feeder | undefined

  #finishOf: Finish | undefined
  #isCut = false
  #isRemoved = false
  #isLoading = false
  #hadClients = false
  #attached = 0

  #isFlushQueued = false

  /** With an `origin` it is a replica. */
  constructor(identity: StreamIdentity, settings: StreamSettings, host: StreamHost, origin?: Origin) {
    this.streamId = identity.streamId
    this.owner = identity.owner
    this.epoch = identity.epoch
    this.route = identity.route
    this.settings = settings
    this.#host = host
    this.log = new EventLog(settings.maxBytes)
    this.readers = new Readers(settings, this.log)
    this.#lifetime = new Lifetime(this, host.clock, host.abortTimeoutMs)
    this.#writer = new LogWriter(this.log, this.readers, settings, host)
    this.startedAt = identity.startedAt
    this.isHome = origin === undefined
    if (origin !== undefined) this.log.skipTo(origin.firstSequence - 1)
  }

  /** How it finished; undefined while it runs. */
  get finish(): Finish | undefined {
    return this.#finishOf
  }

  get outcome(): StreamOutcome | undefined {
    return this.#finishOf?.outcome
  }

  get finishedAt(): number | undefined {
    return this.#finishOf?.finishedAt
  }

  get isFinished(): boolean {
    return this.#finishOf !== undefined
  }

  /** Finished by a shutdown: its clients are not told that it is over, they shall come back. */
  get isCut(): boolean {
    return this.#isCut
  }

  /** Not found any more; clients that still read get the rest. */
  get isRemoved(): boolean {
    return this.#isRemoved
  }

  /** Of a replica that is being filled for whoever asked for it: it neither expires nor gives way. */
  get isLoading(): boolean {
    return this.#isLoading
  }

  /** Whether its generator has not let go yet. */
  get isHeld(): boolean {
    return this.#feeder !== undefined && !this.#feeder.isReleased
  }

  get clients(): number {
    return this.readers.size
  }

  get hasClients(): boolean {
    return this.readers.hasClients
  }

  get hadClients(): boolean {
    return this.#hadClients
  }

  /** `stream-error` as it is sent, where the stream did not complete. */
  get errorFrame(): string | undefined {
    if (this.#finishOf?.error === undefined) return undefined
    const { outcome, error } = this.#finishOf
    return outcome === 'lost' ? streamLostFrame(error) : streamErrorFrame(error, this.epoch, this.nextSequence)
  }

  /** `stream-end` as it is sent; only of a finished stream. */
  get endFrame(): string {
    return streamEndFrame(this.outcome as StreamOutcome, this.epoch)
  }

  get window(): ReplayWindow {
    const { firstSequence, lastSequence } = this.log
    const { isFinished, isLost, hasError } = endOf(this.#finishOf)
    return { epoch: this.epoch, firstSequence, lastSequence, isFinished: isFinished && !this.#isCut, isLost, hasError }
  }

  // ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Calls the handler; rethrows what it throws synchronously, and nothing was started then. */
  prepare(start: Start, encoding: Encoding, signal: AbortSignal | undefined, logger: FastifyBaseLogger): void {
    const run = new Run(this, encoding, signal, logger, this.#host)
    run.call(start)
    this.#feeder = run
  }

  /** Has it filled from elsewhere; until `onLoaded()` it is not there for anybody. */
  follow(follower: Feeder): void {
    this.#feeder = follower
    this.#isLoading = true
  }

  onLoaded(): void {
    this.#isLoading = false
    this.#lifetime.update()
  }

  /** Begins to pull. The registry knows the stream by now. */
  start(): void {
    this.#lifetime.update()
    this.#feeder?.begin()
  }

  /** Gives back what `prepare` made, where the handler itself has started the stream of this name. */
  discard(): void {
    const feeder = this.#feeder
    this.#feeder = undefined
    feeder?.abort(abortReason('Another run of this stream was started first'))
  }

  // ── producer side ────────────────────────────────────────────────────────────────────────────────────────────────────

  get nextSequence(): number {
    return this.log.lastSequence + 1
  }

  get maxEventBytes(): number {
    return this.settings.maxEventBytes
  }

  tryAppend(frame: Frame): boolean {
    if (!this.#writer.tryAppend(frame)) {
      if (this.#writer.isStarved) this.#host.onStarved(this)
      this.readers.mirror?.onAwaited()
      return false
    }
    this.#host.onAppended()
    this.#onLogChanged()
    return true
  }

  /** Takes over what another instance produced; what is there already is passed over. */
  appendBatch(batch: Batch): void {
    this.#writer.appendBatch(batch)
    // It may have been what gave way to its own events.
    if (this.#isRemoved) this.#writer.clearIfUnread()
    this.#onLogChanged()
  }

  /** The home retains nothing before `sequence` any more. */
  trimTo(sequence: number): void {
    this.#writer.trimTo(sequence)
    this.#onLogChanged()
  }

  #onLogChanged(): void {
    if (this.readers.isRead || this.log.hasTrimmedSegments) this.pumpAtEndOfTurn()
  }

  onCompleted(): void {
    this.#finish('completed')
  }

  onFailed(error: ClientError): void {
    this.#finish('failed', error)
  }

  /** It finished elsewhere. */
  onFinished({ outcome, error, finishedAt }: Finish): void {
    this.#finish(outcome, outcome === 'lost' ? LOST : error, finishedAt)
  }

  onSignal(reason: unknown): void {
    this.abort('aborted', 'Aborted by its signal', reason)
  }

  onReleased(): void {
    if (this.#feeder === undefined) return
    this.#feeder = undefined
    this.#host.onReleased(this)
    this.#lifetime.onReleased()
  }

  /** Stops a running stream. Its clients are told at once; the generator may take `abortTimeout` to close. */
  abort(outcome: 'aborted' | 'evicted', reason: string, cause?: unknown): void {
    if (this.isFinished) return
    this.#finish(outcome, outcome === 'evicted' ? EVICTED : ABORTED)
    this.#feeder?.abort(abortReason(reason, cause))
  }

  /** Stops a running stream without a word to its clients: the shutdown tells them to come back. */
  cut(reason: string): void {
    this.#cut('aborted', reason)
  }

  /** The store gave the name to another life, or counts this one as lost. */
  fence(): void {
    this.#cut('lost', 'The stream was taken from this process')
  }

  #cut(outcome: 'aborted' | 'lost', reason: string): void {
    if (this.isFinished) return
    this.#isCut = true
    this.#finish(outcome)
    this.#feeder?.abort(abortReason(reason))
  }

  // The one way out of running.
  #finish(outcome: StreamOutcome, error?: ClientError, finishedAt: number = this.#host.clock.now()): void {
    if (this.isFinished) return
    this.#finishOf = { outcome, error, finishedAt }
    this.#writer.settle()
    // An eviction may have to wait for its abort, and the generator appends until then.
    if (this.#isRemoved) this.#writer.clearIfUnread()
    this.#host.onFinished(this)
    if (this.readers.isRead) this.pumpAtEndOfTurn()
    this.#lifetime.update()
    this.#feeder?.finish(this.#summary(outcome))
  }

  // Never a payload, a cursor or an epoch: it goes into a log.
  #summary(outcome: StreamOutcome): object {
    return {
      streamId: this.streamId,
      outcome,
      events: this.log.lastSequence,
      bytes: this.log.endOffset,
      durationMs: Math.round((this.finishedAt as number) - this.startedAt),
      clients: this.#attached
    }
  }

  // ── reader side ──────────────────────────────────────────────────────────────────────────────────────────────────────

  attach(reader: ClientReader): void {
    this.readers.add(reader)
    this.#hadClients = true
    this.#attached += 1
    this.#host.onClientsChanged(this, 1)
    this.#lifetime.update()
  }

  /** Idempotent, for whoever notices first that a client has left. */
  detach(reader: ClientReader): void {
    if (!this.readers.delete(reader)) return
    this.#onReaderLeft(-1)
    this.#lifetime.update()
    this.onAdvanced()
  }

  #onReaderLeft(change: 0 | -1): void {
    if (this.#isRemoved) this.#giveBack()
    this.#host.onClientsChanged(this, change)
  }

  // Removed: what nobody reads is not kept, and not followed any more.
  #giveBack(): void {
    this.#writer.clearIfUnread()
    if (!this.isHome && !this.readers.isRead) this.#feeder?.letGo()
  }

  /** The store has all of it, or never will. */
  detachMirror(): void {
    this.readers.mirror = undefined
    this.#onReaderLeft(0)
  }

  /** The clients that it has on other instances have come, or are gone. */
  onRemoteClientsChanged(): void {
    this.#hadClients = true
    this.#lifetime.update()
  }

  /** The slice of the log that begins at `offset`, for this turn. */
  read(offset: number, maxBytes: number): LogSlice {
    this.pumpAtEndOfTurn()
    return this.readers.read(offset, maxBytes)
  }

  /** A reader moved on: the producer may have room, and memory may come free. */
  onAdvanced(): void {
    if (this.#feeder?.isWaiting === true || this.log.hasTrimmedSegments) this.pumpAtEndOfTurn()
  }

  /** Brings every reader what there is by the end of this turn. */
  pumpAtEndOfTurn(): void {
    if (this.#isFlushQueued) return
    this.#isFlushQueued = true
    this.#host.turn.atEnd(this)
  }

  /** Brings every reader what is new, then lets the producer go on. */
  run(): void {
    const { isFinished } = this
    this.readers.pump()
    this.#isFlushQueued = false
    // What a reader does with its bytes may finish the stream, and those before it have to be told.
    if (this.isFinished !== isFinished) this.pumpAtEndOfTurn()
    this.readers.forgetSlice()
    this.#writer.release()
    this.#feeder?.resume()
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The registry does not know the stream any more. */
  onRemoved(): void {
    this.#isRemoved = true
    this.#giveBack()
    this.#lifetime.update()
  }

  /** Nobody came back in time; with a mirror that is only known once the store has been asked. */
  abortOrphan(): void {
    const { mirror } = this.readers
    const abort = (): void => this.abort('aborted', 'No client came back in time')
    if (mirror === undefined) return abort()
    const attached = this.#attached
    mirror.lookForClients(() => {
      // Since then somebody was here, and the time of those who left counts from then.
      if (this.#attached !== attached) return
      if (this.hasClients) this.#lifetime.update()
      else abort()
    })
  }

  expire(): void {
    this.#host.onExpired(this)
  }

  letGo(): void {
    this.#feeder?.letGo()
  }
}

function abortReason(message: string, cause?: unknown): DOMException {
  return new DOMException(message, cause === undefined ? { name: 'AbortError' } : { name: 'AbortError', cause })
}
